"""Long work on an event loop, in pieces."""

from __future__ import annotations

import asyncio
import time

__all__ = ["TimeSlice"]

_SLICE = 0.004
"""Seconds of work after which others on the event loop have their turn."""


class TimeSlice:
    """Lets others on the event loop have their turn, from time to time."""

    __slots__ = ("_since",)

    def __init__(self) -> None:
        self._since = time.perf_counter()

    @property
    def used_up(self) -> bool:
        """Whether the work has gone on for long enough."""
        return time.perf_counter() - self._since > _SLICE

    async def pause(self) -> None:
        """Call it in each round of the work."""
        if self.used_up:
            await asyncio.sleep(0)
            self._since = time.perf_counter()
