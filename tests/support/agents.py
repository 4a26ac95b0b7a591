"""Processes that the fleet's tests send to real workers."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import gc
import importlib
import os
import sys
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from stbass._process.context import ProcessContext
from stbass._values.endpoint import Placement
from stbass.channel import Chan
from stbass.par import PAR
from stbass.placement import PLACED_PAR
from stbass.process import Process
from stbass.result import FailurePolicy, ProcessResult


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
async def left_in_circles(ctx: ProcessContext) -> int:
    """How many objects only the garbage collector could free, since it last looked."""
    return gc.collect()


@Process
async def fails_on_the_way(ctx: ProcessContext) -> None:
    """Says how far it is, and fails."""
    ctx.progress(3, 4, "nearly")
    raise ValueError("no further")


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


class Colour(enum.Enum):
    """Known at both ends."""

    RED = "red"


@dataclass
class Point:
    """Known at both ends."""

    x: int
    y: int = 0


class Order(BaseModel):
    """Known at both ends."""

    item: str
    count: int = 1


@Process
async def hidden_value(ctx: ProcessContext) -> Any:
    """A value of classes that the producer does not know."""
    there = importlib.import_module("tests.support.only_there")
    return [there.Hidden(7, (1, 2)), there.HiddenColour.RED]


@Process
async def hidden_error(ctx: ProcessContext) -> None:
    """An error of a class that the producer does not know."""
    there = importlib.import_module("tests.support.only_there")
    error: Exception = there.HiddenError("deep", 3)
    error.add_note("a note")
    raise error


class Exit(Process):
    """Try to end the Python process."""

    def __init__(self, *, interrupts: bool = False) -> None:
        self.interrupts = interrupts

    async def run(self, ctx: ProcessContext) -> None:
        """Try it."""
        ctx.checkpoint("last words")
        if self.interrupts:
            raise KeyboardInterrupt
        sys.exit(3)


@Process
def exit_in_thread(ctx: ProcessContext) -> None:
    """Try to end the Python process, from a thread."""
    sys.exit("from a thread")


class Describe(Process):
    """What a value is where the process runs, and the value itself."""

    def __init__(self, value: Any) -> None:
        self.value = value

    async def run(self, ctx: ProcessContext) -> tuple[str, Any]:
        """Say what it is."""
        return f"{type(self.value).__module__}:{type(self.value).__qualname__}", self.value


class Flaky(Process):
    """Fail a few times, which a file counts, then give the number of the attempt."""

    def __init__(self, path: str, failures: int) -> None:
        self.path = path
        self.failures = failures

    async def run(self, ctx: ProcessContext) -> int:
        """Fail or give."""
        _write(self.path, ctx.process_id)
        tries = len(Path(self.path).read_text().splitlines())
        if tries <= self.failures:
            raise ConnectionError(f"try {tries}")
        return tries


@Process
async def unsendable_checkpoint(ctx: ProcessContext) -> None:
    """A checkpoint that can travel, then one that cannot."""
    ctx.checkpoint("good")
    ctx.checkpoint({"lock": [threading.Lock()]})


class Large(Process):
    """A result of a given size, or one that is a failure's."""

    def __init__(self, size: int, *, fails: bool = False) -> None:
        self.size = size
        self.fails = fails

    async def run(self, ctx: ProcessContext) -> str:
        """Make it."""
        ctx.checkpoint("made")
        if self.fails:
            raise ValueError("x" * self.size)
        return "x" * self.size


@Process
async def places(ctx: ProcessContext) -> Any:
    """A placed composition made on a worker, whose registry knows no fleet."""
    inner = PLACED_PAR((whoami, Placement(endpoint="local:8080")), (noop, Placement(model="opus")))
    return (await inner.run()).value


@Process
async def own_deadline(ctx: ProcessContext) -> Any:
    """A composition made on a worker, with a nearer deadline of its own."""
    result = await PAR(whoami, Give(1, seconds=30), on_failure=FailurePolicy.COLLECT, deadline=0.3).run()
    return [item.is_ok for item in result.results], str(result.failures[0].error)


class EndWorker(Process):
    """Note the attempt, checkpoint it, and end the Python process that runs it."""

    def __init__(self, path: str) -> None:
        self.path = path

    async def run(self, ctx: ProcessContext) -> None:
        """End it."""
        _write(self.path, f"{ctx.attempt} {ctx.resumed_from}")
        ctx.checkpoint(ctx.attempt)
        # As long as a checkpoint may take to be in Redis, and more.
        await asyncio.sleep(0.3)
        os._exit(1)


MEETING = 60
_meeting = threading.Barrier(MEETING)


@Process
def meet(ctx: ProcessContext) -> int:
    """Block until so many do so in this Python process."""
    return _meeting.wait(20)


@Process
async def meet_by_hand(ctx: ProcessContext) -> int:
    """The same in a thread of the event loop's own."""
    return await asyncio.to_thread(_meeting.wait, 20)


@Process
def increment(ctx: ProcessContext) -> None:
    """A sync stage: it receives, and sends."""
    ctx.send("output", ctx.recv("input") + 1)


@Process
async def forget(ctx: ProcessContext) -> str:
    """Forget an await."""
    ctx.send("output", 1)
    return "done"


@Process
def block(ctx: ProcessContext) -> None:
    """Note it in the file that the environment names, and block for long."""
    _write(os.environ["TEST_BLOCK_LOG"], ctx.process_name)
    time.sleep(600)


class UntilTold(Process):
    """Note the start, wait until there is a file, and note the end."""

    def __init__(self, log: str, let_go: str) -> None:
        self.log = log
        self.let_go = let_go

    async def run(self, ctx: ProcessContext) -> int:
        """Wait."""
        _write(self.log, f"started {ctx.process_name}")
        while not Path(self.let_go).exists():  # noqa: ASYNC110 - a file cannot wake us
            await asyncio.sleep(0.02)
        _write(self.log, f"ended {ctx.process_name}")
        return ctx.attempt


class HoldUp(Process):
    """Hold up the event loop until there is a file."""

    def __init__(self, let_go: str) -> None:
        self.let_go = let_go

    async def run(self, ctx: ProcessContext) -> int:
        """Hold it up."""
        _blocks_until(self.let_go)
        return ctx.attempt


def _blocks_until(path: str) -> None:
    while not Path(path).exists():
        time.sleep(0.01)


@Process
async def meets_itself(ctx: ProcessContext) -> int:
    """Send a value that it receives itself, once it waits."""
    channel: Chan[int] = Chan(int)
    sending = asyncio.create_task(channel.send(1))
    await channel.readable()
    value = await channel.recv()
    await sending
    return value


class FailsItself(Process):
    """Return a failure of its own, from a time that no drawing can show."""

    async def run(self, ctx: ProcessContext) -> ProcessResult:
        """Return it."""
        far = datetime(9999, 1, 1, tzinfo=UTC)
        return ProcessResult.fail(
            ValueError("far"), process_name=ctx.process_name, process_id="\ud83d" * 2000, failed_at=far
        )
