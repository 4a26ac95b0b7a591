"""A thread of one's own for calls that block."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["OneThread"]

R = TypeVar("R")


class OneThread:
    """Makes calls one after another in one thread: what they use (a file, a database connection) needs no lock.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, name)

    async def call(self, function: Callable[..., R], *args: object) -> R:
        """Call it. A call is made to its end, and what it gave is lost, if whoever waits for it is cancelled."""
        return await asyncio.shield(self.begin(function, *args))

    def begin(self, function: Callable[..., R], *args: object) -> asyncio.Future[R]:
        """Call it, and give back what can be awaited."""
        future = asyncio.wrap_future(self._pool.submit(function, *args))
        # If nobody comes to hear of its failure, because the process has ended, then there is nobody to tell.
        future.add_done_callback(_heard)
        return future

    def end(self) -> None:
        """No more calls; the thread ends when those that were made have ended."""
        self._pool.shutdown(wait=False)


def _heard(future: asyncio.Future[R]) -> None:
    if not future.cancelled():
        future.exception()
