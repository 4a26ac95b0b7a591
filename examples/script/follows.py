"""A script that starts a run and follows it: ``python -m examples.script.follows order-7 tides``.

Start a worker first: ``stbass worker -e reports --include examples.web.report``. If this script is killed, the draft is
written to its end. Started again with the same id, the script starts nothing, and tells of it from the beginning.
"""

from __future__ import annotations

import asyncio
import sys

import stbass
from examples.web.report import draft
from stbass import BackendRegistry, Placement
from stbass.app import app
from stbass.backends.celery import CeleryBackend


async def main(run_id: str, topic: str) -> int:
    """Start the run, or find it; print its words as they come, and give the exit code."""
    backend = CeleryBackend(app)
    registry = BackendRegistry(strict=True)
    registry.register("reports", backend)
    run = await stbass.start(
        draft(topic), placement=Placement(endpoint="reports"), registry=registry, deadline=600.0, id=run_id
    )
    print("started" if run.is_new else "found")
    async for event in run.events():
        if event.kind == "output":
            print(event.value, flush=True)
    result = await run.result()
    if result.is_fail:
        print(result.failure.detailed, file=sys.stderr)
    await backend.aclose()
    return 0 if result.is_ok else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))
