"""Processes for the tests of pools, at the top level of a module so that they can go to other Python processes."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from stbass import Process
from stbass._process.context import ProcessContext

__all__ = ["Cleans", "blocks", "dies", "fails_oddly", "gives_lock", "hogs", "pid", "reports", "thread_name"]


@Process
async def pid(ctx: ProcessContext) -> int:
    """Which Python process it runs in."""
    return os.getpid()


@Process
async def thread_name(ctx: ProcessContext) -> str:
    """Which thread it runs in."""
    return threading.current_thread().name


@Process
def blocks(ctx: ProcessContext) -> None:
    """A sync function that does not end."""
    ctx.checkpoint("blocking")
    time.sleep(3600)


@Process
async def hogs(ctx: ProcessContext) -> None:
    """Never lets its event loop go on."""
    ctx.checkpoint("hogging")
    while True:
        pass


@Process
async def dies(ctx: ProcessContext) -> None:
    """Its Python process is killed."""
    ctx.checkpoint({"before": "the end"})
    os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.Event().wait()


@Process
async def reports(ctx: ProcessContext) -> str:
    """Says how far it is."""
    ctx.progress(1, 2, "half")
    ctx.checkpoint("c")
    return "done"


class OddError(Exception):
    """Cannot be made again from what it is pickled as."""

    def __init__(self, first: Any, second: Any) -> None:
        super().__init__(first)


@Process
async def fails_oddly(ctx: ProcessContext) -> None:
    """Fails with it."""
    ctx.checkpoint(3)
    raise OddError(1, 2)


@Process
async def gives_lock(ctx: ProcessContext) -> Any:
    """Gives what cannot be pickled."""
    return threading.Lock()


class Cleans(Process):
    """Waits, and leaves a file behind when it is cancelled."""

    def __init__(self, path: str) -> None:
        self.path = path

    async def run(self, ctx: ProcessContext) -> None:
        """Wait."""
        ctx.checkpoint("waiting")
        try:
            await asyncio.Event().wait()
        finally:
            Path(self.path).touch()


@Process
async def saves_a_lock(ctx: ProcessContext) -> None:
    """Its second checkpoint cannot travel."""
    ctx.checkpoint("good")
    ctx.checkpoint(threading.Lock())
