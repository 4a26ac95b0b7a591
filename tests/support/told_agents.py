"""Processes that tell of themselves, for those who follow runs."""

from __future__ import annotations

import asyncio

from stbass.process import Process, ProcessContext


@Process
async def telling(ctx: ProcessContext) -> str:
    """Emits, says how far it is, and leaves a checkpoint."""
    await ctx.emit("a first word")
    ctx.progress(1, 2, "pages")
    ctx.checkpoint({"page": 1})
    return "all of it"


@Process
async def broken(ctx: ProcessContext) -> None:
    """Fails."""
    raise ValueError("no such page")


@Process
async def says_late(ctx: ProcessContext) -> None:
    """Sends a value on ``out``, and not at once."""
    await asyncio.sleep(0.2)
    await ctx.send("out", 1)


@Process
async def hears(ctx: ProcessContext) -> int:
    """What comes on ``inp``."""
    value: int = await ctx.recv("inp")
    return value


@Process
async def forever(ctx: ProcessContext) -> None:
    """Says that it runs, and never ends."""
    ctx.progress(1)
    await asyncio.Event().wait()
