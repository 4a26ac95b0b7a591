"""Processes that talk over channels, for the tests on real workers."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

from stbass._process.context import ProcessContext
from stbass._values.endpoint import Placement
from stbass.alt import ALT, Guard
from stbass.process import Process
from stbass.timer import TIMER, TimerExpired


class Produce(Process):
    """Send the numbers below a count on ``out``, and close it."""

    def __init__(self, count: int, start: int = 0, closes: bool = True) -> None:
        self.count = count
        self.start = start
        self.closes = closes

    async def run(self, ctx: ProcessContext) -> int:
        """Send."""
        for number in range(self.start, self.start + self.count):
            await ctx.send("out", number)
        if self.closes:
            await ctx.get_channel("out").aclose()
        return os.getpid()


class SendLate(Process):
    """Send a value on ``out`` after so many seconds, and close it."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def run(self, ctx: ProcessContext) -> None:
        """Send."""
        await asyncio.sleep(self.seconds)
        await ctx.send("out", 1)
        await ctx.get_channel("out").aclose()


class Add(Process):
    """Hand on what comes on ``inp``, plus a number, to ``out``."""

    def __init__(self, number: int) -> None:
        self.number = number

    async def run(self, ctx: ProcessContext) -> int:
        """Hand on."""
        count = 0
        async for value in ctx.get_channel("inp"):
            await ctx.send("out", value + self.number)
            count += 1
        await ctx.get_channel("out").aclose()
        return count


@Process
async def collect(ctx: ProcessContext) -> list[Any]:
    """All that comes on ``inp``, until it is closed."""
    return [value async for value in ctx.get_channel("inp")]


class Take(Process):
    """Receive so many values on ``inp``, then wait for ever."""

    def __init__(self, count: int, wait: bool = False) -> None:
        self.count = count
        self.wait = wait

    async def run(self, ctx: ProcessContext) -> list[Any]:
        """Receive."""
        found = [await ctx.recv("inp") for _ in range(self.count)]
        ctx.checkpoint(found)
        if self.wait:
            await asyncio.get_running_loop().create_future()
        return found


class Meet(Process):
    """Choose, again and again, between sending on ``out`` and receiving on ``inp``; tell what happened each time."""

    def __init__(self, rounds: int, name: str, seconds: float = 20.0) -> None:
        self.rounds = rounds
        self.title = name
        self.seconds = seconds

    async def run(self, ctx: ProcessContext) -> list[str]:
        """Choose."""
        out, inp = ctx.get_channel("out"), ctx.get_channel("inp")
        met = []
        for number in range(self.rounds):
            mine = f"{self.title}{number}"
            outcome = await ALT(Guard(out, send=mine), Guard(inp), Guard(TIMER(self.seconds)))
            met.append("time is up" if isinstance(outcome, TimerExpired) else outcome)
        return met


class Tell(Process):
    """Send the numbers below a count on ``out``, with a checkpoint after each; the first that this attempt sent."""

    def __init__(self, count: int) -> None:
        self.count = count

    async def run(self, ctx: ProcessContext) -> int:
        """Send."""
        began = 0 if ctx.resumed_from is None else int(ctx.resumed_from) + 1
        for number in range(began, self.count):
            await ctx.send("out", number)
            ctx.checkpoint(number)
            await asyncio.sleep(0.001 if number < 200 else 0)
        return began


class Shift(Process):
    """A stage: what came from the one before, shifted by a number, and where the stages so far have run.

    With channels ``out`` and ``inp`` it asks somebody beside about the number first.
    """

    def __init__(self, number: int) -> None:
        self.number = number

    async def run(self, ctx: ProcessContext) -> list[int]:
        """Shift."""
        before: list[int] | None = await ctx.recv("input")
        value, *where = before or [0]
        value += self.number
        if "out" in ctx.channels:
            await ctx.send("out", value)
            value = await ctx.recv("inp")
            await ctx.get_channel("out").aclose()
        return [value, *where, os.getpid()]


@Process(placement=Placement(endpoint="anthropic"))
async def shift_by_5(ctx: ProcessContext) -> list[int]:
    """A stage as above."""
    return await Shift(5).run(ctx)


@Process(placement=Placement(endpoint="local:8080"))
async def shift_by_10(ctx: ProcessContext) -> list[int]:
    """A stage as above."""
    return await Shift(10).run(ctx)


@Process(placement=Placement(endpoint="local:8080"))
async def collect_there(ctx: ProcessContext) -> list[Any]:
    """All that comes on ``inp``, until it is closed."""
    return [value async for value in ctx.get_channel("inp")]


@Process(placement=Placement(endpoint="there"))
async def produce_there(ctx: ProcessContext) -> None:
    """Send three numbers on ``out``."""
    await Produce(3).run(ctx)


class Fall(Process):
    """Send the numbers below a count on ``out``, then fail."""

    def __init__(self, count: int) -> None:
        self.count = count

    async def run(self, ctx: ProcessContext) -> None:
        """Send, and fall."""
        for number in range(self.count):
            await ctx.send("out", number)
        raise ValueError("it has fallen")


class Die(Process):
    """Send the number of the attempt on ``out``, and kill the worker in the first attempts."""

    def __init__(self, attempts: int) -> None:
        self.attempts = attempts

    async def run(self, ctx: ProcessContext) -> None:
        """Send, and die."""
        await ctx.send("out", ctx.attempt)
        if ctx.attempt <= self.attempts:
            os.kill(os.getpid(), signal.SIGKILL)


@Process
async def take_all(ctx: ProcessContext) -> None:
    """Receive on ``inp`` for ever."""
    while True:
        ctx.checkpoint(await ctx.recv("inp"))


@Process
async def choose_all(ctx: ProcessContext) -> None:
    """Receive on ``inp`` for ever, by a choice."""
    while True:
        ctx.checkpoint(await ALT(Guard(ctx.get_channel("inp"))))


class Merge(Process):
    """Take so many values from ``left`` and ``right``, whichever is ready."""

    def __init__(self, count: int) -> None:
        self.count = count

    async def run(self, ctx: ProcessContext) -> list[int]:
        """Choose so often."""
        return [await ALT(Guard(ctx.get_channel("left")), Guard(ctx.get_channel("right"))) for _ in range(self.count)]
