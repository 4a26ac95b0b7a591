"""A report that is written word by word, and waits for its reader's yes. Runs on the workers."""

from __future__ import annotations

import asyncio

from stbass import SEQ, Chan, Process
from stbass.process import ProcessContext

WORDS = "A report on {topic}. It is written word by word, as a model would write it, and every reader sees all of it."
PAUSE = 0.05
"""Seconds for a word."""


@Process
async def draft(ctx: ProcessContext, topic: str) -> str:
    """Write it; a further attempt goes on where the one before was, so that no word comes twice."""
    words = WORDS.format(topic=topic).split()
    written: int = ctx.resumed_from or 0
    for number, word in enumerate(words[written:], written + 1):
        await asyncio.sleep(PAUSE)
        await ctx.emit(word)
        ctx.checkpoint(number)
        ctx.progress(number, len(words))
    return " ".join(words)


@Process
async def publish(ctx: ProcessContext, text: str) -> str:
    """Publish it, if its reader says yes."""
    approved: bool = await ctx.recv("approval")
    return text if approved else "It was not published."


def a_report(topic: str) -> SEQ:
    """Both."""
    return SEQ(draft(topic), publish.with_channels(approval=Chan(bool))).with_name("report")
