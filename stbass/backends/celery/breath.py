"""Long work on an event loop, in pieces."""

from __future__ import annotations

import asyncio
import time

__all__ = ["Breath"]

_PIECE = 0.004
"""Seconds of work after which others on the event loop have their turn."""


class Breath:
    """Lets others on the event loop have their turn, from time to time."""

    __slots__ = ("_since",)

    def __init__(self) -> None:
        self._since = time.perf_counter()

    @property
    def needed(self) -> bool:
        """Whether the work has gone on for long enough."""
        return time.perf_counter() - self._since > _PIECE

    async def taken(self) -> None:
        """Call it in each round of the work."""
        if self.needed:
            await asyncio.sleep(0)
            self._since = time.perf_counter()
