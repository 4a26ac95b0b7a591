"""Looking at a program while it runs: what happens to its processes, and a display of it.

``progress()`` shows every process of this Python process; ``subscribe()`` calls a function with each event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stbass._lazy import lazy

if TYPE_CHECKING:
    from stbass.observe.display import progress
    from stbass.observe.events import Event, active, subscribe

__all__ = ["Event", "active", "progress", "subscribe"]

_HOME = {"Event": "events", "active": "events", "progress": "display", "subscribe": "events"}

__getattr__, __dir__ = lazy(__name__, globals(), _HOME)
