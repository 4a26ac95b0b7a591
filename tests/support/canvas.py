"""Processes of a canvas."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

import redis

from stbass import PAR, PLACED_PAR, Placement, Process
from stbass.process import ProcessContext


@Process
async def double(ctx: ProcessContext, number: int) -> int:
    return 2 * number


@Process
async def pair(ctx: ProcessContext, number: int) -> tuple[int, int]:
    return number, number + 1


@Process
async def kind_of(ctx: ProcessContext, value: Any) -> list[str]:
    return [type(value).__name__, repr(value)]


@Process
async def two(ctx: ProcessContext, left: int, right: int) -> int:
    return left + right


@Process
async def fails(ctx: ProcessContext) -> None:
    raise KeyError("lost")


@Process(placement=Placement("opus", "canvas"))
async def where(ctx: ProcessContext) -> str:
    return f"{ctx.placement.summary if ctx.placement else None}"


@Process
async def spread(ctx: ProcessContext, number: int) -> list[int]:
    """Places processes in the queue that it runs in itself."""
    here = Placement(endpoint="canvas")
    return (await PLACED_PAR(*((double(number + more), here) for more in range(3))).run()).value


@Process
async def dies_once(ctx: ProcessContext, path: str) -> Any:
    """The first worker that runs it is killed, after a checkpoint."""
    if ctx.resumed_from is None:
        ctx.checkpoint("half")
        await asyncio.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    return [ctx.attempt, ctx.resumed_from]


@Process
def noted(ctx: ProcessContext, key: str) -> None:
    redis.Redis.from_url(os.environ["STBASS_BROKER_URL"]).incr(key)


@Process
def slow(ctx: ProcessContext, number: int) -> int:
    """Notes how many of it run at once."""
    client = redis.Redis.from_url(os.environ["STBASS_BROKER_URL"])
    most = client.incr("canvas:running")
    if most > int(client.get("canvas:most") or 0):
        client.set("canvas:most", most)
    time.sleep(0.3)
    client.decr("canvas:running")
    return number


both = PAR(double(1), double(2))
