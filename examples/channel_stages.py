"""The four stages of ``channel_pipeline.py``: a module of their own, so that workers can be told to import it."""

from __future__ import annotations

import os

from stbass import Process
from stbass.process import ProcessContext

TEXTS = ("the sky is blue", "processes talk", "a channel is typed", "nobody polls", "a rendezvous is two who meet")


class Source(Process):
    """Sends texts, one after the other."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds

    async def run(self, ctx: ProcessContext) -> str:
        """Send, and close the channel at the end."""
        for number in range(self.rounds):
            await ctx.send("out", f"{number}: {TEXTS[number % len(TEXTS)]}")
        await ctx.get_channel("out").aclose()
        return here(self.rounds)


@Process
async def split(ctx: ProcessContext) -> str:
    """Texts come in, lists of words go out."""
    count = 0
    async for text in ctx.get_channel("inp"):
        await ctx.send("out", text.split())
        count += 1
    await ctx.get_channel("out").aclose()
    return here(count)


@Process
async def measure(ctx: ProcessContext) -> str:
    """Lists of words come in, the lengths of the longest go out."""
    count = 0
    async for words in ctx.get_channel("inp"):
        await ctx.send("out", {"number": words[0].rstrip(":"), "longest": max(map(len, words))})
        count += 1
    await ctx.get_channel("out").aclose()
    return here(count)


@Process
async def total(ctx: ProcessContext) -> str:
    """What comes in is added up."""
    found = [value["longest"] async for value in ctx.get_channel("inp")]
    return f"{here(len(found))}, {sum(found)} in all"


def here(count: int) -> str:
    """What a stage tells of itself."""
    return f"{count} values in process {os.getpid()}"
