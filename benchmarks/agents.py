"""The processes that the benchmarks send to workers. Each gives back the id of the worker process it ran in."""

from __future__ import annotations

import asyncio
import os

from stbass.process import Process, ProcessContext
from stbass.result import ProcessResult

__all__ = ["Wait", "emit_steadily", "noop"]


@Process
async def noop(ctx: ProcessContext) -> ProcessResult:
    """Do nothing."""
    return ProcessResult.ok(os.getpid())


class Wait(Process):
    """Wait, as a process that calls a model does.

    Args:
        seconds: how long.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    async def run(self, ctx: ProcessContext) -> ProcessResult:
        """Wait."""
        await asyncio.sleep(self.seconds)
        return ProcessResult.ok(os.getpid())


@Process
async def emit_steadily(ctx: ProcessContext, count: int, rate: float) -> int:
    """Emit ``count`` numbers, so many a second."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    for number in range(count):
        rest = begun + number / rate - loop.time()
        if rest > 0:
            await asyncio.sleep(rest)
        await ctx.emit(number)
    return count
