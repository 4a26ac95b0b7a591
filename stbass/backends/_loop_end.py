"""Closes resources that nobody has closed when their event loop ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

__all__ = ["LoopEnd"]


class LoopEnd:
    """Awaits ``close()`` when the last event loop that used a resource ends.

    Before it ends, an event loop closes the asynchronous generators that still run. So one waits on each loop.
    """

    def __init__(self, close: Callable[[], Awaitable[None]]) -> None:
        self._close = close
        self._sentinels: dict[asyncio.AbstractEventLoop, AsyncGenerator[None, None]] = {}

    async def watch(self) -> None:
        """Note that the running event loop uses the resource."""
        loop = asyncio.get_running_loop()
        if loop not in self._sentinels:
            sentinel = self._sentinels[loop] = self._wait(loop)
            await anext(sentinel)

    async def forget(self) -> None:
        """Stop watching all loops: the resource has been closed."""
        sentinels, self._sentinels = self._sentinels, {}
        own = sentinels.pop(asyncio.get_running_loop(), None)
        if own is not None:
            await own.aclose()

    async def _wait(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            if self._sentinels.pop(loop, None) is not None:
                self._forget_dead()
                if not self._sentinels:
                    await self._close()

    def _forget_dead(self) -> None:
        for loop in [loop for loop in self._sentinels if loop.is_closed()]:
            del self._sentinels[loop]
