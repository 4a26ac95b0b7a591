"""A script without an event loop, that waits: ``python -m examples.script.waits tides moons``.

Start a worker first: ``stbass worker -e reports --include examples.web.report``.
"""

from __future__ import annotations

import sys

from examples.web.report import draft
from stbass import PLACED_PAR, BackendRegistry, FailurePolicy, Placement
from stbass.app import app
from stbass.backends.celery import CeleryBackend


def main(topics: list[str]) -> int:
    """Have a draft of each written, print them, and give the exit code."""
    registry = BackendRegistry(strict=True)
    registry.register("reports", CeleryBackend(app))
    result = PLACED_PAR(
        *((draft(topic).with_name(topic), Placement(endpoint="reports")) for topic in topics),
        on_failure=FailurePolicy.COLLECT,
        deadline=60.0,
        registry=registry,
    ).run_sync()
    for topic, each in zip(topics, result.results, strict=True):
        print(f"{topic}: {each.value if each.is_ok else each.failure.summary}")
    return 0 if result.is_ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
