"""Processes that run others, for the tests of placements inside of what was placed."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import stbass
from stbass import ALT, BackendRegistry, Guard, LocalBackend
from stbass._engine.children import registry_of
from stbass._process.context import ProcessContext
from stbass._values.endpoint import Placement
from stbass.backends.celery import CeleryBackend
from stbass.backends.celery.app import make_app
from stbass.placement import PLACED_PAR
from stbass.process import Process

A, B, C = (Placement(endpoint=f"nest-{name}") for name in "abc")


def note(path: str, line: str) -> None:
    """Append a line to a file."""
    with Path(path).open("a") as file:
        file.write(f"{line}\n")


@Process
async def where(ctx: ProcessContext) -> tuple[str | None, int]:
    """The endpoint that it was placed at, and the Python process that runs it."""
    return None if ctx.placement is None else ctx.placement.endpoint, os.getpid()


@Process
async def pid(ctx: ProcessContext) -> int:
    """The Python process that runs it."""
    return os.getpid()


@Process
async def boom(ctx: ProcessContext) -> None:
    """Fail after a checkpoint."""
    ctx.checkpoint("at the bottom")
    raise LookupError("the bottom fell out")


class Waits(Process):
    """Note the start and the end; in between, wait for long."""

    def __init__(self, log: str, seconds: float = 600.0) -> None:
        self.log = log
        self.seconds = seconds

    async def run(self, ctx: ProcessContext) -> str:
        """Wait."""
        note(self.log, f"started {ctx.process_name} {ctx.attempt}")
        ctx.checkpoint(f"{ctx.process_name} waits")
        try:
            await asyncio.sleep(self.seconds)
        finally:
            note(self.log, f"ended {ctx.process_name} {ctx.attempt}")
        return ctx.process_name


class WaitsForFile(Process):
    """Wait until there is a file, and note how it went."""

    def __init__(self, log: str, go: str) -> None:
        self.log = log
        self.go = go

    async def run(self, ctx: ProcessContext) -> str:
        """Wait."""
        note(self.log, "started")
        try:
            while not Path(self.go).exists():  # noqa: ASYNC110 - a file cannot wake us
                await asyncio.sleep(0.02)
        except asyncio.CancelledError:
            note(self.log, "cancelled")
            raise
        note(self.log, "ended")
        return "done"


class Leaves(Process):
    """Send something elsewhere, and fail once there is a file, without waiting for it."""

    def __init__(self, what: Process, endpoint: str, go: str) -> None:
        self.what = what
        self.endpoint = endpoint
        self.go = go

    async def run(self, ctx: ProcessContext) -> None:
        """Fail."""
        left = asyncio.ensure_future(PLACED_PAR((self.what, Placement(endpoint=self.endpoint))).run())
        while not Path(self.go).exists():  # noqa: ASYNC110 - a file cannot wake us
            await asyncio.sleep(0.02)
        raise LookupError(f"{left} is left behind")


class Fails(Process):
    """Fail once there is a file."""

    def __init__(self, go: str) -> None:
        self.go = go

    async def run(self, ctx: ProcessContext) -> None:
        """Fail."""
        while not Path(self.go).exists():  # noqa: ASYNC110 - a file cannot wake us
            await asyncio.sleep(0.02)
        raise LookupError("it failed")


class Descend(Process):
    """Run itself in its own code, at one endpoint after the other, and say where each ran."""

    def __init__(self, endpoints: tuple[str, ...]) -> None:
        self.endpoints = endpoints

    async def run(self, ctx: ProcessContext) -> list[Any]:
        """Go down."""
        found = [(None if ctx.placement is None else ctx.placement.endpoint, ctx.parent, os.getpid())]
        if self.endpoints:
            first, *rest = self.endpoints
            deeper = Descend(tuple(rest))
            [inner] = (await PLACED_PAR((deeper, Placement(endpoint=first))).run()).value
            found += inner
        return found


@Process
async def looks(ctx: ProcessContext) -> Any:
    """Run a composition."""
    return (await PLACED_PAR((where, C), where).run()).is_ok


@Process
async def waits_for_what_it_started(ctx: ProcessContext, how: str) -> bool:
    """Wait in its own code, in one of several ways, for processes at the endpoint at which it runs itself."""
    if how == "several at once":
        results = await asyncio.gather(*(stbass.run(pid, placement=ctx.placement) for _ in range(3)))
        return all(result.is_ok for result in results)
    run = await stbass.start(pid, placement=ctx.placement)
    if how == "events":
        return [event.kind async for event in run.events()][-1] == "ended"
    return (await run.result()).is_ok


@Process
async def waits_for_group(ctx: ProcessContext, named: str) -> int:
    """Wait for the results of the group whose id is in a file, once there is one; how many are well."""
    while not Path(named).exists():  # noqa: ASYNC110 - a file cannot wake us
        await asyncio.sleep(0.02)
    found = await PLACED_PAR.attach(Path(named).read_text(), registry=registry_of(ctx))
    return sum(result.is_ok for result in found.results)


@Process
def descend_in_thread(ctx: ProcessContext) -> Any:
    """Wait, in sync code, for a process at the same endpoint."""
    return PLACED_PAR((where, A)).run_sync().value


class Double(Process):
    """Send on twice what comes."""

    async def run(self, ctx: ProcessContext) -> int:
        """Until its input closes."""
        count = 0
        async for value in ctx.get_channel("source"):
            await ctx.send("sink", value * 2)
            count += 1
        ctx.get_channel("sink").close()
        return count


class Count(Process):
    """Send numbers."""

    def __init__(self, count: int) -> None:
        self.count = count

    async def run(self, ctx: ProcessContext) -> None:
        """Send them."""
        for value in range(self.count):
            await ctx.send("sink", value)
        ctx.get_channel("sink").close()


class Merge(Process):
    """So many numbers from two channels, whichever has one; sorted. Then those who sent them may end."""

    def __init__(self, count: int) -> None:
        self.count = count

    async def run(self, ctx: ProcessContext) -> list[int]:
        """Choose."""
        guards = [Guard(ctx.get_channel(name)) for name in ("left", "right")]
        found = sorted([await ALT(*guards) for _ in range(self.count)])
        for name in ("left end", "right end"):
            ctx.get_channel(name).close()
        return found


class Send(Process):
    """Send the numbers below a count, and wait for the end."""

    def __init__(self, count: int) -> None:
        self.count = count

    async def run(self, ctx: ProcessContext) -> int:
        """Send them."""
        for value in range(self.count):
            await ctx.send("sink", value)
        return self.count + len([one async for one in ctx.get_channel("end")])


class Add(Process):
    """The sum of what comes."""

    async def run(self, ctx: ProcessContext) -> int:
        """Add."""
        return sum([value async for value in ctx.get_channel("source")])


# An application that says where its endpoints are.
registry = BackendRegistry()
registry.register("nest-b", LocalBackend(1))
if url := os.environ.get("STBASS_BROKER_URL"):
    registry.register("nest-*", CeleryBackend(make_app("nested", broker_url=url)))
