"""Processes, which run on workers. Those that are async use the async methods of models."""

from __future__ import annotations

import asyncio

from reports.models import Report
from stbass import Process
from stbass.process import ProcessContext

WORDS = "All about {topic}, word by word, as a model would write it."


@Process
async def title(ctx: ProcessContext, topic: str, *, thinks: float = 0.05) -> str:
    """A title, after so many seconds."""
    await asyncio.sleep(thinks)
    return f"All about {topic}"


@Process
async def write(ctx: ProcessContext, report_id: int) -> str:
    """Write a report. A further attempt goes on where the one before was."""
    report = await Report.objects.aget(pk=report_id)
    words = WORDS.format(topic=report.topic).split()
    written: int = ctx.resumed_from or 0
    for number, word in enumerate(words[written:], written + 1):
        await asyncio.sleep(0.05)
        await ctx.emit(word)
        ctx.checkpoint(number)
    # Once more does no harm: it sets what is set already.
    await Report.objects.filter(pk=report_id).aupdate(text=" ".join(words))
    return f"report {report_id}"


@Process
def length(ctx: ProcessContext, report_id: int) -> int:
    """A sync process, which has a thread of its own, and so the sync methods of models."""
    return len(Report.objects.get(pk=report_id).text.split())
