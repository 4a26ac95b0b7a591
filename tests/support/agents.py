"""Processes that the fleet's tests send to real workers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from pathlib import Path
from typing import Any

from stbass.context import ProcessContext
from stbass.process import Process
from stbass.result import ProcessResult


class Unregistered(Exception):
    """An error with more to it than a message."""

    def __init__(self, code: int, *, hint: str) -> None:
        super().__init__(code)
        self.code = code
        self.hint = hint


@Process
async def noop(ctx: ProcessContext) -> None:
    """Nothing."""


@Process
async def whoami(ctx: ProcessContext) -> dict[str, Any]:
    """What the context says, and where it runs."""
    return {
        "name": ctx.process_name,
        "id": ctx.process_id,
        "parent": ctx.parent,
        "placement": ctx.placement,
        "remaining": ctx.remaining,
        "attempt": ctx.attempt,
        "pid": os.getpid(),
        "thread": threading.current_thread().name,
    }


class Give(Process):
    """Give back a value."""

    def __init__(self, value: Any, *, seconds: float = 0.0) -> None:
        self.value = value
        self.seconds = seconds

    async def run(self, ctx: ProcessContext) -> ProcessResult:
        """Wait, then give."""
        await asyncio.sleep(self.seconds)
        return ProcessResult.ok(self.value)


class Fail(Process):
    """Fail after a checkpoint and a while."""

    def __init__(self, checkpoint: Any = None, seconds: float = 0.0) -> None:
        self.point = checkpoint
        self.seconds = seconds

    async def run(self, ctx: ProcessContext) -> ProcessResult:
        """Fail."""
        if self.point is not None:
            ctx.checkpoint(self.point)
        await asyncio.sleep(self.seconds)
        try:
            raise LookupError("the cause")
        except LookupError as cause:
            error = Unregistered(7, hint="look again")
            error.add_note("a note")
            raise error from cause


class Steps(Process):
    """Make a checkpoint after each of many steps; go on where an earlier attempt stopped."""

    def __init__(self, steps: int, seconds: float) -> None:
        self.steps = steps
        self.seconds = seconds

    async def run(self, ctx: ProcessContext) -> dict[str, Any]:
        """Count."""
        first = ctx.resumed_from or 0
        for step in range(first, self.steps):
            await asyncio.sleep(self.seconds)
            ctx.checkpoint(step + 1)
            ctx.progress(step + 1, self.steps, f"step {step + 1}")
        return {"from": first, "to": self.steps, "attempt": ctx.attempt}


class Mark(Process):
    """Write to a file when it starts, and when it is cancelled: what it was told and when."""

    def __init__(self, path: str, seconds: float = 60.0) -> None:
        self.path = path
        self.seconds = seconds

    async def run(self, ctx: ProcessContext) -> str:
        """Wait."""
        _write(self.path, f"started {ctx.process_name}")
        try:
            await asyncio.sleep(self.seconds)
        finally:
            _write(self.path, f"ended {ctx.process_name}")
        return "done"


def _write(path: str, line: str) -> None:
    with Path(path).open("a") as file:
        file.write(f"{line} {time.time()}\n")


@Process
def sync_thread(ctx: ProcessContext) -> str:
    """A sync process: it runs in a thread, and may block."""
    time.sleep(0.2)
    return threading.current_thread().name


@Process
async def unsendable(ctx: ProcessContext) -> Any:
    """A result that cannot travel."""
    return {"lock": [threading.Lock()]}


class Block(Process):
    """Make a checkpoint, then block the event loop: nothing else runs in this worker meanwhile."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def run(self, ctx: ProcessContext) -> int:
        """Block."""
        ctx.checkpoint("before")
        time.sleep(self.seconds)  # noqa: ASYNC251 - that is the point
        return ctx.attempt


class Swallow(Process):
    """Ignore being cancelled, for a while."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def run(self, ctx: ProcessContext) -> str:
        """Wait, whatever happens."""
        end = time.monotonic() + self.seconds
        while (left := end - time.monotonic()) > 0:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(left)
        return "swallowed"


class Stubborn(Process):
    """Fail until the attempt whose number is given."""

    def __init__(self, succeeds_at: int) -> None:
        self.succeeds_at = succeeds_at

    async def run(self, ctx: ProcessContext) -> dict[str, int]:
        """Fail, or say which attempt this is."""
        if ctx.attempt < self.succeeds_at:
            raise ValueError(f"attempt {ctx.attempt}")
        return {"attempt": ctx.attempt}
