"""Says who blocks the worker's event loop: while one process does, no other one on it goes on."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

__all__ = ["LoopWatch"]

_log = logging.getLogger(__name__)
_FRAMES = 12


class LoopWatch:
    """Asks an event loop now and then whether it turns, and warns once for each time that it does not.

    Args:
        loop: the event loop, in whose thread this is made.
        name: the name, for people, of what a task of the loop runs.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, name: Callable[[asyncio.Task[Any]], str]) -> None:
        self._loop = loop
        self._name = name
        self._thread = threading.get_ident()
        self._asked_at: float | None = None
        self._told = False

    @property
    def blocked_for(self) -> float:
        """Seconds for which it has not turned, at least; 0 if it has answered the last time."""
        asked_at = self._asked_at
        return 0.0 if not self._told or asked_at is None else time.monotonic() - asked_at

    def look(self) -> None:
        """Look, from another thread."""
        asked_at = self._asked_at
        if asked_at is None:
            self._asked_at = time.monotonic()
            self._loop.call_soon_threadsafe(self._answer)
        elif not self._told:
            task, frame = asyncio.current_task(self._loop), sys._current_frames().get(self._thread)
            if task is None or frame is None or self._asked_at != asked_at:
                return  # it turns again
            self._told = True
            _log.warning(
                "%s has blocked the event loop for %.1f s: nothing else runs on this worker. Make it a sync process"
                " (def), or call what blocks with asyncio.to_thread. It is at:\n%s",
                self._name(task),
                time.monotonic() - asked_at,
                "".join(traceback.format_stack(frame)[-_FRAMES:]),
            )

    def _answer(self) -> None:
        asked_at, self._asked_at = self._asked_at, None
        if self._told and asked_at is not None:
            self._told = False
            _log.warning("the event loop goes on after %.1f s", time.monotonic() - asked_at)
