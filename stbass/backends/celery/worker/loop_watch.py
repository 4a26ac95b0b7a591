"""Says who blocks the worker's event loop: while one process does, no other one on it goes on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

__all__ = ["BLOCKED_SECONDS", "LoopWatch"]

_log = logging.getLogger(__name__)
BLOCKED_SECONDS = 0.8
"""Without a turn: after these an event loop that is asked counts as blocked."""
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
        self._lock = threading.Lock()
        self._turned = threading.Event()
        self._asked_at: float | None = None
        self._seen: float | None = None
        """The question that the last look put, or found."""
        self._told = False

    @property
    def blocked_for(self) -> float:
        """Seconds for which it has not turned, at least; 0 if it does."""
        asked_at = self._asked_at
        seconds = 0.0 if asked_at is None else time.monotonic() - asked_at
        return seconds if self._told or seconds >= BLOCKED_SECONDS else 0.0

    def blocked(self, patience: float = 0.0) -> str | None:
        """Who blocks it, and for how long; None if it turns. For other threads.

        Args:
            patience: seconds to wait for a turn before it counts as blocked; 0: only what is known is told.
        """
        asked_at = self._ask()
        self._turned.wait(max(0.0, asked_at + patience - time.monotonic()))
        seconds = time.monotonic() - asked_at
        if self._asked_at != asked_at or not (self._told or seconds >= (patience or BLOCKED_SECONDS)):
            return None
        return f"{self._who()} has blocked the event loop for {seconds:.1f} s"

    def look(self) -> None:
        """Look, from another thread, and warn if it has not turned since the last look."""
        asked_at = self._ask()
        seen, self._seen = self._seen, asked_at
        if self._told or seen != asked_at:
            return
        who, frame = self._who(), sys._current_frames().get(self._thread)
        if frame is None or self._asked_at != asked_at:
            return  # it turns again
        self._told = True
        _log.warning(
            "%s has blocked the event loop for %.1f s: nothing else runs on this worker. Make it a sync process"
            " (def), or call what blocks with asyncio.to_thread. It is at:\n%s",
            who,
            time.monotonic() - asked_at,
            "".join(traceback.format_stack(frame)[-_FRAMES:]),
        )

    def _ask(self) -> float:
        """When it was asked the question that it has not answered: now, if there is none."""
        with self._lock:
            if self._asked_at is None:
                self._turned.clear()
                self._asked_at = time.monotonic()
                # One that has ended does not turn.
                with contextlib.suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(self._answer)
            return self._asked_at

    def _who(self) -> str:
        task = asyncio.current_task(self._loop)
        return "what runs outside of processes" if task is None else self._name(task)

    def _answer(self) -> None:
        with self._lock:
            asked_at, self._asked_at = self._asked_at, None
            told, self._told = self._told, False
            self._turned.set()
        if told and asked_at is not None:
            _log.warning("the event loop goes on after %.1f s", time.monotonic() - asked_at)
