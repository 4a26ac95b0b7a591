"""Processes in groups: the same as on one event loop, whatever the network between them does."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from stbass.dataflow import Status
from stbass.dataflow.state import DictStateBackend
from tests.support import dataflow_graphs, dataflow_here
from tests.support.dataflow import wire
from tests.support.dataflow_graphs import SHAPES, came_out, make
from tests.support.dataflow_here import HereProcess


class Lasting(DictStateBackend):
    """Outlives the process that uses it, in this test: as a file would."""

    durable = True


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


async def whole(shape: str, n: int) -> list[Any]:
    """What comes out if nothing happens."""
    async with asyncio.timeout(10), make(shape, n, None) as process:
        await process.run()
        return came_out(shape, process)


@pytest.mark.parametrize("maxsize", [1, 64])
@pytest.mark.parametrize("shape", SHAPES)
async def test_the_same_comes_out_as_on_one_event_loop(shape: str, maxsize: int) -> None:
    expected = await whole(shape, 40)
    for seed in range(10):
        dice = random.Random(seed)
        set_dice(seed)
        async with asyncio.timeout(20), apart(shape, 40, None, maxsize, placement=placed(dice, shape)) as process:
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


def one_at_a_time(process: HereProcess) -> Callable[[], Awaitable[None]]:
    """Takes a checkpoint; the process itself takes one too when it ends, and they must not meet."""
    turn = asyncio.Lock()
    take = process._checkpoints.take

    async def in_turn() -> None:
        async with turn:
            await take()

    process._checkpoints.take = in_turn  # type: ignore[method-assign]
    return in_turn


async def broken_off(shape: str, n: int, dice: random.Random, maxsize: int) -> tuple[list[Any], int]:
    """What comes out, and how many runs it took, if it is broken off some turns of the loop after a checkpoint."""
    state = Lasting()
    for runs in itertools.count(1):
        process = apart(shape, n, state, maxsize, checkpoint_every=None, placement=placed(dice, shape))
        take = one_at_a_time(process)
        await process.init()
        running = asyncio.ensure_future(process.run())
        try:
            for _ in range(dice.randint(1, 2)):
                for _ in range(dice.randint(1, 60)):
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


@pytest.mark.parametrize("maxsize", [1, 3, 64])
@pytest.mark.parametrize("shape", SHAPES)
async def test_broken_off_at_random_it_gives_the_same(shape: str, maxsize: int) -> None:
    n = 40
    expected = await whole(shape, n)
    most = 0
    for seed in range(12):
        dice = random.Random(f"{shape} {maxsize} {seed}")
        set_dice(seed)
        async with asyncio.timeout(30):
            got, runs = await broken_off(shape, n, dice, maxsize)
        assert got == expected, f"seed {seed}"
        most = max(most, runs)
    assert most > 2  # else nothing was broken off
