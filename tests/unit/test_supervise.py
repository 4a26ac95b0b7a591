"""Random compositions under random failures, deadlines and cancellations: nothing is left behind."""

from __future__ import annotations

import asyncio
import random

import pytest

from stbass import PAR, PLACED_PAR, SEQ, BackendRegistry, FailurePolicy, LocalBackend, Placement, Process, ProcessResult
from stbass._process.context import Composable, ProcessContext

KINDS = ("gives", "sleeps", "fails", "fails late", "cleans up", "ignores", "gives up")
POLICIES = (FailurePolicy.HALT, FailurePolicy.COLLECT, FailurePolicy.retry(2, base_delay=0.001))


class Leaf(Process):
    """Does one of the things that processes do, well or badly."""

    running = 0

    def __init__(self, kind: str, seconds: float) -> None:
        self.kind = kind
        self.seconds = seconds

    async def run(self, ctx: ProcessContext) -> str:
        Leaf.running += 1
        try:
            return await self.act()
        finally:
            Leaf.running -= 1

    async def act(self) -> str:
        if self.kind == "fails":
            raise ValueError(self.kind)
        if self.kind == "gives up":
            raise asyncio.CancelledError
        if self.kind != "gives":
            try:
                await asyncio.sleep(self.seconds)
            except asyncio.CancelledError:
                if self.kind == "ignores":
                    return "ignored it"
                raise
            finally:
                if self.kind == "cleans up":
                    await asyncio.sleep(self.seconds / 10)
        if self.kind == "fails late":
            raise KeyError(self.kind)
        return self.kind


class Meeting(Process):
    """Ends when so many of it are there."""

    def __init__(self, parties: int) -> None:
        self.barrier = asyncio.Barrier(parties)

    async def run(self, ctx: ProcessContext) -> None:
        await self.barrier.wait()


def tree(rng: random.Random, depth: int) -> Composable:
    """A random composition."""
    made: Composable
    if depth == 0 or rng.random() < 0.35:
        made = Leaf(rng.choice(KINDS), rng.random() * 0.03)
    else:
        inner = [tree(rng, depth - 1) for _ in range(rng.randint(0, 4))]
        policy = rng.choice(POLICIES)
        deadline = rng.choice([None, None, rng.uniform(0.001, 0.03)])
        kind = rng.choice([SEQ, PAR, PLACED_PAR])
        if kind is SEQ:
            made = SEQ(*inner, on_failure=policy, deadline=deadline)
        elif kind is PAR:
            made = PAR(*inner, on_failure=policy, deadline=deadline, limit=rng.choice([None, 1, 2]))
        else:
            pairs = [(one, Placement(endpoint=rng.choice("abc"))) for one in inner]
            made = PLACED_PAR(*pairs, on_failure=policy, deadline=deadline)
    if rng.random() < 0.2:
        made = made.optional()
    if rng.random() < 0.3:
        made = PLACED_PAR((made, Placement(endpoint=rng.choice("ab"))))
    return made


@pytest.mark.parametrize("seed", range(60))
async def test_nothing_is_left_behind(seed: int) -> None:
    rng = random.Random(seed)
    registry = BackendRegistry()
    limits = {"a": rng.randint(1, 3), "b": 1}
    for name, limit in limits.items():
        registry.register(name, LocalBackend(limit))
    whole = PAR(tree(rng, 4), tree(rng, 4), registry=registry, deadline=rng.choice([None, 0.05]))
    before = asyncio.all_tasks()
    running = asyncio.ensure_future(whole.run())
    if rng.random() < 0.5:
        asyncio.get_running_loop().call_later(rng.random() * 0.03, running.cancel)
    async with asyncio.timeout(10):
        await asyncio.wait((running,))
    if not running.cancelled():
        assert all(isinstance(one, ProcessResult) for one in running.result().results)
        assert len(running.result().results) == 2
    # Every slot is free again: as many as may run at once on a backend meet there.
    for name, limit in limits.items():
        meeting = Meeting(limit)
        async with asyncio.timeout(5):
            await PLACED_PAR(*[(meeting, Placement(endpoint=name))] * limit, registry=registry).run()
    assert asyncio.all_tasks() == before
    assert Leaf.running == 0
