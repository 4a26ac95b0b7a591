"""Networks that are broken off at random and gone on with give the same: on one event loop, and in groups."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from stbass.dataflow import Process, Status
from stbass.errors import (
    JobFinishedError,
)
from tests.support import dataflow_graphs, dataflow_here
from tests.support.dataflow import Lasting, checkpoints_of, wire
from tests.support.dataflow_graphs import SHAPES, came_out, make, whole
from tests.support.dataflow_here import HereProcess

pytestmark = pytest.mark.slow

N = 40


def apart(shape: str, n: int, state: Any, maxsize: int = 4, **options: Any) -> HereProcess:
    """A process of that shape, in groups."""
    components, connections = SHAPES[shape](n)
    connectors = [wire(source, target, maxsize=maxsize) for source, target in connections]
    return HereProcess(components, connectors, state=state, **options)


def placed(dice: random.Random, shape: str) -> Mapping[str, str]:
    """Some components together, at random."""
    return {one.name: dice.choice(("g1", "g2", one.name)) for one in SHAPES[shape](1)[0]}


def set_dice(seed: int) -> None:
    """How long everything takes."""
    dataflow_graphs.pauses.seed(seed)
    dataflow_here.network.seed(seed)


@pytest.mark.parametrize("maxsize", [1, 64])
@pytest.mark.parametrize("shape", SHAPES)
async def test_the_same_comes_out_as_on_one_event_loop(shape: str, maxsize: int) -> None:
    expected = await whole(shape, N)
    for seed in range(6):
        dice = random.Random(seed)
        set_dice(seed)
        async with asyncio.timeout(20), apart(shape, N, None, maxsize, placement=placed(dice, shape)) as process:
            await process.run()
            assert came_out(shape, process) == expected, f"seed {seed}"
            assert process.status is Status.COMPLETED
            assert {str(one.status) for one in process.components.values()} == {"completed"}


@pytest.mark.parametrize("maxsize", [1, 64])
@pytest.mark.parametrize("shape", ["chain", "join", "cycle"])  # what comes first is left to chance in the others
async def test_every_step_is_the_same_as_on_one_event_loop(shape: str, maxsize: int) -> None:
    for seed in range(6):
        dice = random.Random(seed)
        set_dice(seed)
        steps = dice.randint(1, 20)
        async with (
            asyncio.timeout(20),
            make(shape, 12, None, maxsize) as here,
            apart(shape, 12, None, maxsize, placement=placed(dice, shape)) as there,
        ):
            for number in range(steps):
                if Status.COMPLETED in (here.status, there.status):
                    break  # who has ended is seen a step earlier or later
                await here.step()
                await there.step()
                assert came_out(shape, there) == came_out(shape, here), f"seed {seed}, step {number}"
            for process in (here, there):
                if process.status is not Status.COMPLETED:
                    await process.run()
            assert came_out(shape, there) == came_out(shape, here), f"seed {seed}, to the end after {steps} steps"


def one_at_a_time(process: Process) -> Callable[[], Awaitable[None]]:
    """Takes a checkpoint; the process itself takes one too when it ends, and they must not meet."""
    turn = asyncio.Lock()
    checkpoints = checkpoints_of(process)
    take = checkpoints.take

    async def in_turn() -> None:
        async with turn:
            await take()

    checkpoints.take = in_turn  # type: ignore[method-assign]
    return in_turn


async def broken_off(shape: str, dice: random.Random, maxsize: int, in_groups: bool) -> tuple[list[Any], int]:
    """What comes out, and how many runs it took, if it is broken off some turns of the loop after a checkpoint."""
    state = Lasting()
    before: Process | None = None
    for runs in itertools.count(1):
        process: Process = (
            apart(shape, N, state, maxsize, checkpoint_every=None, placement=placed(dice, shape))
            if in_groups
            else make(shape, N, state, maxsize, checkpoint_every=None)
        )
        take = one_at_a_time(process)
        try:
            await process.init()
        except JobFinishedError:
            # The one before was broken off when everything was safe already.
            await process.destroy()
            assert before is not None
            return came_out(shape, before), runs - 1
        before = process
        running = asyncio.ensure_future(process.run())
        try:
            for _ in range(dice.randint(1, 2)):
                for _ in range(dice.randint(1, 50)):
                    await asyncio.sleep(0)
                if not running.done() and process.status is Status.RUNNING:
                    taking = asyncio.ensure_future(take())
                    await asyncio.wait((taking, running), return_when=asyncio.FIRST_COMPLETED)
                    taking.cancel()
            for _ in range(dice.randint(0, 30)):
                await asyncio.sleep(0)
            if running.done():
                await running
                return came_out(shape, process), runs
            running.cancel()
            await asyncio.wait((running,))
        finally:
            await process.destroy()
    raise AssertionError


@pytest.mark.parametrize("in_groups", [False, True])
@pytest.mark.parametrize("maxsize", [1, 3, 64])
@pytest.mark.parametrize("shape", SHAPES)
async def test_broken_off_at_random_it_gives_the_same(shape: str, maxsize: int, in_groups: bool) -> None:
    expected = await whole(shape, N)
    assert len(expected) > 8
    most = 0
    for seed in range(8 if in_groups else 12):
        dice = random.Random(f"{shape} {maxsize} {seed}")
        set_dice(seed)
        async with asyncio.timeout(30):
            got, runs = await broken_off(shape, dice, maxsize, in_groups)
        assert got == expected, f"seed {seed}"
        most = max(most, runs)
    assert most > 1 + in_groups  # else nothing was broken off
