"""Looking at a program while it runs: what happens to its processes, and a display of it.

``progress()`` shows every process of this Python process; ``subscribe()`` calls a function with each event;
``instrument()`` tells OpenTelemetry of each process, here and on workers.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stbass._lazy import lazy
from stbass.errors import MissingDependencyError

if TYPE_CHECKING:
    from stbass.observe.display import progress
    from stbass.observe.events import Event, active, subscribe
    from stbass.observe.telemetry import instrument, uninstrument

__all__ = ["Event", "active", "instrument", "progress", "subscribe", "uninstrument"]


def _telemetry(name: str) -> Any:
    try:
        return getattr(importlib.import_module("stbass.observe.telemetry"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "opentelemetry":
            raise
        raise MissingDependencyError(
            f"stbass.observe.{name} needs OpenTelemetry: pip install 'stbass-celery[observe]'"
        ) from error


_HOME: dict[str, str | Callable[[], Any]] = {
    "Event": "events",
    "active": "events",
    "instrument": lambda: _telemetry("instrument"),
    "progress": "display",
    "subscribe": "events",
    "uninstrument": lambda: _telemetry("uninstrument"),
}

__getattr__, __dir__ = lazy(__name__, globals(), _HOME)
