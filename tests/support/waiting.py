"""Waiting for what another process does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def until(condition: Callable[[], T], *, timeout: float = 10.0) -> T:
    """Return what ``condition`` gives as soon as that is true. What it looks at (a file, a Redis) cannot wake us.

    Raises:
        TimeoutError: it was not true within ``timeout`` seconds.
    """
    async with asyncio.timeout(timeout):
        while not (found := condition()):  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.01)
    return found
