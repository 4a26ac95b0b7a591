"""What ``stbass dev`` has to know of an application, printed as JSON by a Python process of its own.

``python -m stbass.cli.look APP [MODULE…]`` imports the application and the modules that its workers are to include. It
prints an object with an ``error``, or with what it found. A process of its own imports what has changed afresh.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass

from stbass.backends.celery.settings import fleet_of
from stbass.cli.named import load_application
from stbass.cli.worker import known_to
from stbass.errors import StbassError

__all__ = ["Found", "look_at"]


@dataclass(frozen=True)
class Found:
    """What an application is like.

    Args:
        broker: its URL, without a password.
        reads_environment: whether its broker is the one that ``STBASS_BROKER_URL`` names.
        endpoints: those that it names: in its registry, else as its queues.
        processes: those that its workers know, as ``module:name``.
    """

    broker: str
    reads_environment: bool
    endpoints: list[str]
    processes: list[str]


def look_at(app: str, include: list[str]) -> Found:
    """Import the application and the modules.

    Raises:
        StbassError: that is not possible, or it is not one that runs processes.
    """
    application = load_application(app)
    processes = known_to(application, include)
    named = [name for name in fleet_of(application).registry.names if not set(name) & set("*?[")]
    queues = [queue.name if hasattr(queue, "name") else str(queue) for queue in application.conf.task_queues or ()]
    url = application.conf.broker_read_url or application.conf.broker_url
    return Found(
        str(fleet_of(application).settings.broker or application.connection_for_read().as_uri()),
        url == os.environ.get("STBASS_BROKER_URL"),
        named or queues,
        processes,
    )


if __name__ == "__main__":
    _app, *_include = sys.argv[1:]
    try:
        _answer = asdict(look_at(_app, _include))
    except StbassError as _error:
        _answer = {"error": str(_error)}
    # On a line of its own: the application may print what it likes when it is imported.
    sys.stdout.write(f"\n{json.dumps(_answer)}\n")
