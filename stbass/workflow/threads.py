"""Code in a thread that may be abandoned."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from stbass.workflow.pools import Counter

__all__ = ["ThreadCall"]


class ThreadCall:
    """A call to be made in a thread, that knows whether it has ended.

    Args:
        function: what to call. If it gives back an awaitable, that is awaited on an event loop of its own.
        abandoned: is one more from :meth:`abandon` until the call has ended.
    """

    def __init__(self, function: Callable[[], Any], abandoned: Counter) -> None:
        self._function = function
        self._abandoned = abandoned
        self._lock = threading.Lock()
        self._waiting: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None
        self._runs = False
        self._left = False

    def __call__(self) -> Any:
        with self._lock:
            if self._left:
                return None
            self._runs = True
        try:
            value = self._function()
            if inspect.isawaitable(value):
                with asyncio.Runner() as runner:
                    return runner.run(self._wait_for(value))
            return value
        finally:
            self._end()

    def _end(self) -> None:
        with self._lock:
            self._runs = False
            if self._left:
                self._abandoned.add(-1)

    async def _wait_for(self, value: Awaitable[Any]) -> Any:
        task = asyncio.current_task()
        assert task is not None
        with self._lock:
            if self._left:
                task.cancel()
            self._waiting = task.get_loop(), task
        try:
            return await value
        finally:
            with self._lock:
                self._waiting = None

    def abandon(self) -> None:
        """Nobody waits for it any more. What can be cancelled in it is."""
        with self._lock:
            self._left = True
            if self._runs:
                self._abandoned.add(1)
            if self._waiting is not None:
                loop, task = self._waiting
                loop.call_soon_threadsafe(task.cancel)
