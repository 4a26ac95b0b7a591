"""Running processes of others: one that asks for the end of its program ends only itself."""

from __future__ import annotations

import asyncio
from typing import Any

from stbass._process.context import Composable, ProcessContext, failure_of
from stbass._values.outcome import ProcessResult
from stbass._values.texts import plain_text, shortened, text_of, traceback_text
from stbass.errors import ProcessFailed

__all__ = ["execute_contained", "exit_refused", "run_on"]


def exit_refused(error: SystemExit | KeyboardInterrupt, ctx: ProcessContext) -> ProcessResult:
    """The failure of a process that asked for the end of the program that runs it, which runs others too."""
    why = _reason(error)
    raised = text_of(error) + (f" ({why})" if why else "")
    failed = ProcessFailed(f"process {ctx.process_name!r} raised {raised}: a process cannot end its worker")
    failed.__cause__ = error
    return failure_of(failed, ctx, traceback_text(error))


def _reason(error: BaseException) -> str:
    """What ``argparse`` has written on standard error, where nobody looks for it."""
    place = error.__traceback__
    while place is not None:
        frame = place.tb_frame
        if frame.f_code.co_name == "error" and frame.f_globals.get("__name__") == "argparse":
            return shortened(plain_text(frame.f_locals.get("message")), 500)
        place = place.tb_next
    return ""


async def execute_contained(process: Composable, ctx: ProcessContext) -> ProcessResult:
    """:meth:`Composable.execute`, where ``SystemExit`` and ``KeyboardInterrupt`` are failures too."""
    try:
        return await process.execute(ctx)
    except (SystemExit, KeyboardInterrupt) as error:
        return exit_refused(error, ctx)


def run_on(loop: asyncio.AbstractEventLoop, serving: asyncio.Task[Any]) -> None:
    """Run an event loop until ``serving`` has ended, past every process that raises ``SystemExit`` or stops it.

    asyncio lets that (and ``KeyboardInterrupt``) through the loop; who awaits the process makes a failure of it.
    """
    while True:
        try:
            loop.run_until_complete(serving)
            return
        except (SystemExit, KeyboardInterrupt, RuntimeError):
            # The last: a process has stopped the loop, which is not its own.
            if serving.done():
                raise
