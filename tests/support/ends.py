"""The two ends of a channel over Redis, each over a transport of its own, as in two programs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from stbass.channel import Chan
from stbass.transports.redis import RedisTransport

__all__ = ["ends"]


@asynccontextmanager
async def ends(
    writer_url: str,
    reader_url: str | None = None,
    *,
    capacity: int = 0,
    lease: float = 10.0,
    expected: tuple[type[Exception], ...] = (),
) -> AsyncIterator[tuple[Chan[int], Chan[int]]]:
    """The writer's end and the reader's; ``expected``: errors with which their transports may close."""
    here, there = RedisTransport(writer_url, lease=lease), RedisTransport(reader_url or writer_url, lease=lease)
    writer: Chan[int] = Chan(int, capacity=capacity, transport=here)
    await writer.bound()
    try:
        yield writer, Chan.open(writer.share(), transport=there)
    finally:
        for transport in (here, there):
            with suppress(*expected):
                await transport.aclose()
