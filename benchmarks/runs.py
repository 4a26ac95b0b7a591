"""R: runs. From the start to the first event, and what it costs to follow one."""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager
from typing import Any

import stbass
from benchmarks.agents import emit_steadily, noop
from benchmarks.harness import Row, median_alternating
from benchmarks.idle import cost_of
from benchmarks.targets import TARGETS, WORK, Target, at_least, at_most
from stbass import BackendRegistry
from stbass.backends.celery import CeleryBackend, make_app
from stbass.testing import RedisServer, Worker

__all__ = ["r1", "r2"]

STARTS = 200
RATE = 1000
SECONDS = 5
FOLLOWERS = 3

WORK |= {
    "R1": "start of a run to its first event, and to its first event from the worker",
    "R2": "1,000 outputs a second from one process to three followers",
}
TARGETS |= {
    "R1": Target("≤ 5 ms", (at_most(5.0),)),
    "R2 commands": Target("≤ 100 a second", (at_most(100.0),)),
    "R2 worker CPU": Target("≤ 10 %", (at_most(10.0),)),
    "R2 in order": Target("all", (at_least(100.0),)),
}


@contextmanager
def _fleet() -> Iterator[tuple[str, Worker]]:
    with RedisServer() as server:
        environment = {"BENCH_REDIS_URL": server.url, "PYTHONPATH": os.pathsep.join(sys.path)}
        with Worker("benchmarks.worker_app", "stbass", env=environment) as worker:
            yield server.url, worker


async def _registry(stack: AsyncExitStack, url: str) -> BackendRegistry:
    registry = BackendRegistry()
    registry.register("*", await stack.enter_async_context(aclosing(CeleryBackend(make_app(broker_url=url)))))
    return registry


async def _start_often(url: str) -> tuple[float, float]:
    """The medians, in ms, to the first event, and to that which says that it runs."""
    async with AsyncExitStack() as stack:
        registry = await _registry(stack, url)
        times: list[tuple[float, float]] = []
        for _ in range(STARTS):
            begun = time.perf_counter()
            first: float | None = None
            run = await stbass.start(noop, registry=registry)
            async for event in run.events():
                first = first or time.perf_counter() - begun
                if event.kind == "started":
                    times.append((first * 1000, (time.perf_counter() - begun) * 1000))
        return statistics.median(one for one, _ in times), statistics.median(one for _, one in times)


async def _follow(registry: BackendRegistry, run_id: str) -> list[Any]:
    run = await stbass.find(run_id, registry=registry)
    return [event.value async for event in run.events() if event.kind == "output"]


async def _follow_together(url: str, pid: int) -> dict[str, float]:
    async with AsyncExitStack() as stack:
        registries = [await _registry(stack, url) for _ in range(FOLLOWERS)]
        warm = await stbass.start(emit_steadily(10, RATE), registry=registries[0])
        await asyncio.gather(*(_follow(one, warm.id) for one in registries))
        run = await stbass.start(emit_steadily(RATE * SECONDS, RATE), registry=registries[0])
        following = asyncio.gather(*(_follow(one, run.id) for one in registries))
        costs = await cost_of(url, [pid, os.getpid()], SECONDS - 0.5)
        followed = await following
    right = sum(values == list(range(RATE * SECONDS)) for values in followed)
    _, commands = costs[os.getpid()]  # the worker is a child of this program: what it sends is among them
    return {"commands": commands, "cpu": costs[pid][0], "right": right / FOLLOWERS * 100}


def r1() -> list[Row]:
    """Milliseconds from ``start`` to the first event that a follower has, and to the worker's first."""
    with _fleet() as (url, _):
        started: list[float] = []

        def sample() -> float:
            first, second = asyncio.run(_start_often(url))
            started.append(second)
            return first

        measured = median_alternating({"stbass": sample})
    return [
        *(Row("R1", subject, value, "ms", False) for subject, value in measured.items()),
        Row("R1 started", "stbass", statistics.median(started), "ms", False, note="the worker says that it runs"),
    ]


def r2() -> list[Row]:
    """What a thousand outputs a second cost: commands of the worker and of all followers, the worker's processor."""
    taken: list[dict[str, float]] = []
    with _fleet() as (url, worker):

        def sample() -> float:
            taken.append(asyncio.run(_follow_together(url, worker.pid)))
            return taken[-1]["commands"]

        median_alternating({"stbass": sample})
    figures = [("R2 commands", "commands", "a second", False), ("R2 worker CPU", "cpu", "% of a core", False)]
    figures.append(("R2 in order", "right", "% of followers", True))
    return [
        Row(bench, "stbass", statistics.median(one[key] for one in taken), unit, better)
        for bench, key, unit, better in figures
    ]
