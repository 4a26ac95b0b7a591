"""What the soak's workers run. Each process notes its starts and ends in a file, which outlives whatever is killed."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from stbass._process.context import ProcessContext
from stbass.process import Process

LOG_VARIABLE = "SOAK_LOG"


@dataclass(frozen=True, slots=True)
class Noted:
    """A line of the file: that a process started or ended, which attempt it was, where and when."""

    what: str
    process: str
    attempt: int
    pid: int
    at: float


def read_log(path: Path) -> list[Noted]:
    """All that was noted."""
    parts = (line.split() for line in path.read_text().splitlines())
    return [Noted(what, process, int(attempt), int(pid), float(at)) for what, process, attempt, pid, at in parts]


@cache
def _log() -> int:
    return os.open(os.environ[LOG_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def _note(what: str, ctx: ProcessContext) -> None:
    # One write, which the kernel keeps whole: also if this is killed right afterwards.
    os.write(_log(), f"{what} {ctx.process_name} {ctx.attempt} {os.getpid()} {time.time():.6f}\n".encode())


class Job(Process):
    """Go a few steps, with a checkpoint after each, and go on where an earlier attempt stopped."""

    def __init__(self, steps: int, seconds: float) -> None:
        self.steps = steps
        self.seconds = seconds

    async def run(self, ctx: ProcessContext) -> dict[str, Any]:
        """Go them."""
        _note("start", ctx)
        first = ctx.resumed_from or 0
        for step in range(first, self.steps):
            await asyncio.sleep(self.seconds / self.steps)
            ctx.checkpoint(step + 1)
        _note("end", ctx)
        return {"name": ctx.process_name, "attempt": ctx.attempt, "resumed": first}


class Relay(Process):
    """Hand on what comes on ``inp`` to ``out``, one higher."""

    async def run(self, ctx: ProcessContext) -> int:
        """Hand on."""
        _note("start", ctx)
        out = ctx.get_channel("out")
        async for value in ctx.get_channel("inp"):
            await out.send(value + 1)
        await out.aclose()
        _note("end", ctx)
        return ctx.attempt
