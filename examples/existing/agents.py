"""What is new in the application: processes, which run on workers beside those of its tasks."""

from __future__ import annotations

import asyncio

from stbass import Process
from stbass.process import ProcessContext


@Process
async def describe(ctx: ProcessContext, item: str) -> str:
    """Ask a model for a description; thousands of these can wait on one worker of the asyncio pool."""
    await asyncio.sleep(0.1)
    return f"a fine {item}"


@Process
async def advert(ctx: ProcessContext, amount: int) -> str:
    """What a chain of tasks hands on is its argument."""
    return f"All of it for {amount} EUR!"
