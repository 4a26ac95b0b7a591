"""Small processes for the tests of compositions."""

from __future__ import annotations

import asyncio
from typing import Any

from stbass import Placement, Process
from stbass._process.context import ProcessContext

__all__ = ["Gate", "add_one", "boom", "echo", "forever", "give", "placed"]


def placed(process: Process, placement: Placement) -> Process:
    """A process that does what this one does, placed there."""

    @Process(name=process.name, placement=placement)
    async def there(ctx: ProcessContext) -> Any:
        return await process.run(ctx)

    return there


@Process
async def add_one(ctx: ProcessContext) -> int:
    """Its input and one."""
    return int(await ctx.recv("input")) + 1


@Process
async def echo(ctx: ProcessContext) -> Any:
    """Its input."""
    return await ctx.recv("input")


@Process
async def boom(ctx: ProcessContext) -> None:
    """Fails."""
    raise ValueError("boom")


@Process
async def forever(ctx: ProcessContext) -> None:
    """Does not end by itself."""
    ctx.checkpoint("waiting")
    await asyncio.Event().wait()


class give(Process):
    """Gives a value."""

    def __init__(self, value: Any) -> None:
        self.value = value

    async def run(self, ctx: ProcessContext) -> Any:
        """Give it."""
        return self.value


class Gate:
    """Processes that say when they have started and how they ended, and wait until they are let go."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0
        self.cancelled: list[str] = []
        self.opened = asyncio.Event()
        self._arrived: asyncio.Queue[str] = asyncio.Queue()

    def process(self, name: str = "gated") -> Process:
        """A process that waits here; its value is its name."""

        @Process(name=name)
        async def gated(ctx: ProcessContext) -> str:
            self.running += 1
            self.most = max(self.most, self.running)
            self._arrived.put_nowait(name)
            try:
                await self.opened.wait()
            except asyncio.CancelledError:
                self.cancelled.append(name)
                raise
            finally:
                self.running -= 1
            return name

        return gated

    async def arrival(self) -> str:
        """The name of the next one that has started."""
        return await self._arrived.get()
