"""Processes that are started as runs, and a program that starts or follows one."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import stbass
from stbass import PLACED_PAR, SEQ, BackendRegistry, Chan, Placement, Process
from stbass._process.context import ProcessContext
from stbass.backends.celery import CeleryBackend, make_app

OTHER = Placement(endpoint="other")


@Process
async def counts(ctx: ProcessContext, end: int, pause: float = 0.0, gate: int = 0) -> int:
    """Emits each number below ``end`` once, whatever becomes of its worker; waits to be let through each gate."""
    first = 0 if ctx.resumed_from is None else ctx.resumed_from + 1
    for number in range(first, end):
        await asyncio.sleep(pause)
        if gate and number and not number % gate:
            await ctx.recv("gate")
        await ctx.emit(number)
        ctx.checkpoint(number)
    return end


@Process
async def notes(ctx: ProcessContext, path: str) -> str:
    """Adds a line to a file: it ran."""
    with open(path, "a") as file:  # noqa: ASYNC230 - a line
        file.write(f"{ctx.process_id}\n")
    return ctx.process_id


@Process
async def asks(ctx: ProcessContext) -> tuple[str, int]:
    """What it receives, and which attempt has received it."""
    await ctx.emit("please")
    return await ctx.recv("answer"), ctx.attempt


@Process
async def waits(ctx: ProcessContext) -> None:
    """For ever."""
    await ctx.emit("here")
    await asyncio.Event().wait()


@Process
async def fails(ctx: ProcessContext) -> None:
    """Fails."""
    raise LookupError("lost it")


def tree() -> SEQ:
    """Something that runs in two places."""
    inner = SEQ(counts(2), counts(1).with_name("last")).with_name("inner")
    return SEQ(counts(3).with_name("first"), PLACED_PAR((inner, OTHER), (counts(1), OTHER))).with_name("report")


def gated(end: int, gate: int) -> Any:
    """``counts``, with the channel of its gates."""
    return counts(end, pause=0.001, gate=gate).with_channels(gate=Chan(int))


def asking() -> Any:
    """``asks``, with its channel."""
    return asks.with_channels(answer=Chan(str))


def registry_at(url: str, **options: Any) -> BackendRegistry:
    """Where everything goes to the queue ``runs``, but what is placed elsewhere."""
    registry = BackendRegistry()
    app = make_app("tests", broker_url=url, task_default_queue="runs")
    registry.register("*", CeleryBackend(app, **options))
    return registry


def _say(what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def main(url: str, what: str, run_id: str, *args: str) -> None:
    """Start or follow a run, and say on standard output what comes of it."""
    registry = registry_at(url, lease=2.0)
    if what != "follow":
        await asyncio.to_thread(sys.stdin.readline)
        work = notes(args[0]) if what == "note" else gated(*map(int, args))
        _say((await stbass.start(work, registry=registry, id=run_id)).is_new)
        if what == "start":
            await asyncio.Event().wait()
        return
    found = await stbass.find(run_id, registry=registry)
    async for event in found.events(args[0] if args else None):
        _say([event.id, event.kind, event.value if event.kind == "output" else None])
