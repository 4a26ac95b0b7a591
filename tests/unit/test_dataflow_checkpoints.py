"""Checkpoints: what they hold and what they cannot; a job that was broken off gives the same as one that was not."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import deque
from typing import Any

import numpy as np
import pytest

from stbass.dataflow import Component, IOController, Status
from stbass.dataflow.engine.userstate import dump_state, load_state
from stbass.errors import CheckpointError, JobFinishedError, StateError
from tests.support.dataflow import Add, Count, Endless, Keep, Lasting, checkpoints_of, local
from tests.support.dataflow_graphs import came_out, make, whole


async def test_a_slow_step_belongs_to_the_checkpoint_as_a_whole() -> None:
    # given a component in the middle of a step, and others that wait
    began, go = asyncio.Event(), asyncio.Event()

    class Slow(Add):
        async def step(self) -> None:
            if self.x == 3:
                began.set()
                await go.wait()
            await super().step()

    def process(state: Any) -> Any:
        parts = [Count(10, name="a"), Slow(100, name="slow"), Keep(name="sink")]
        return local(parts, ("a.y", "slow.x"), ("slow.y", "sink.x"), state=state, checkpoint_every=None)

    state = Lasting()
    first = process(state)
    async with asyncio.timeout(5):
        await first.init()
        running = asyncio.ensure_future(first.run())
        await began.wait()
        # when a checkpoint is taken
        taking = asyncio.ensure_future(checkpoints_of(first).take())
        for _ in range(5):
            await asyncio.sleep(0)
        # then it waits for the end of the step
        assert not taking.done()
        go.set()
        await taking
        running.cancel()
        await asyncio.wait((running,))
        await first.destroy()
        # and what the step has set is in it, once
        second = process(state)
        async with second:
            await second.run()
            assert second.components["sink"].got == [100 + index for index in range(10)]


async def test_a_finished_job_is_not_run_again() -> None:
    state = Lasting(job_id="Job_12345678")
    async with asyncio.timeout(5), make("chain", 5, state, name="mine") as process:
        await process.run()
    with pytest.raises(JobFinishedError) as caught:
        async with make("chain", 5, state, name="mine"):
            raise AssertionError("it must not come to this")
    assert caught.value.job_id == "Job_12345678"
    # but in the same object, a second block is another job
    async with asyncio.timeout(5), process:
        await process.run()
        assert process.state.job_id != "Job_12345678"


async def test_a_job_goes_on_under_another_name_of_the_process_and_is_over_then() -> None:
    state = Lasting()
    endless = make("chain", 50, state)
    async with asyncio.timeout(5):
        await endless.init()
        await endless.step()
        await checkpoints_of(endless).take()
        await endless.destroy()
        async with make("chain", 50, state) as process:
            await process.run()
            assert came_out("chain", process) == await whole("chain", 50)
        with pytest.raises(JobFinishedError):
            await make("chain", 50, state).init()


async def test_a_checkpoint_of_another_process() -> None:
    state = Lasting()
    process = make("chain", 50, state)
    await process.init()
    await process.step()
    await checkpoints_of(process).take()
    await process.destroy()
    other = make("join", 5, state)
    with pytest.raises(StateError, match="join"):
        await other.init()
    await other.destroy()


async def test_what_cannot_be_saved_is_told_before_the_first_step() -> None:
    class Holding(Keep):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.lock = asyncio.Lock()

    sink = Holding(name="sink")
    process = local([Count(3, name="a"), sink], ("a.y", "sink.x"), state=Lasting())
    async with asyncio.timeout(5), process:
        with pytest.raises(CheckpointError) as caught:
            await process.run()
        assert process.status is Status.FAILED
    assert (caught.value.component, caught.value.field) == ("sink", "lock")
    for remedy in ("transient = ('lock',)", "checkpoint() and restore(state)", "a process whose state does not last"):
        assert remedy in str(caught.value)
    assert sink.got == []


async def test_what_is_transient_is_not_saved() -> None:
    class Holding(Keep):
        transient = ("lock",)

        async def init(self) -> None:
            self.lock = asyncio.Lock()

    process = local([Count(3, name="a"), Holding(name="sink")], ("a.y", "sink.x"), state=Lasting())
    async with asyncio.timeout(5), process:
        await process.run()
    assert process.status is Status.COMPLETED


async def test_a_value_on_its_way_that_cannot_be_saved() -> None:
    class Gives(Component):
        io = IOController(outputs=["y"])

        async def step(self) -> None:
            self.y = object()

    go = asyncio.Event()

    class Waits(Keep):
        transient = ("x",)

        async def step(self) -> None:
            await go.wait()

    process = local([Gives(name="a"), Waits(name="sink")], ("a.y", "sink.x"), state=Lasting(), checkpoint_every=0.01)
    async with asyncio.timeout(5), process:
        with pytest.raises(ExceptionGroup) as caught:
            await process.run()
    (error,) = caught.value.exceptions
    assert isinstance(error, CheckpointError)
    assert (error.component, error.field) == ("sink", "x")
    assert process.status is Status.FAILED


async def test_components_are_told_what_is_safe() -> None:
    told: list[tuple[int, int]] = []

    class Told(Keep):
        async def committed(self, n: int) -> None:
            told.append((n, len(self.got)))

    state = Lasting()
    process = local([Count(3, name="a"), Told(name="sink")], ("a.y", "sink.x"), state=state, checkpoint_every=60)
    async with asyncio.timeout(5), process:
        await process.run()
    # one before the first step, one in the end
    assert told == [(1, 0), (2, 3)]


async def test_a_failure_while_checkpoints_are_taken_leaves_the_last_one() -> None:
    class Breaks(Add):
        async def step(self) -> None:
            await super().step()
            if self.x == 20 and breaking:
                raise OSError("disk full")

    def process() -> Any:
        parts = [Count(40, name="a"), Breaks(0, name="b"), Keep(name="sink")]
        return local(parts, ("a.y", "b.x"), ("b.y", "sink.x"), state=state)

    state, breaking = Lasting(), True
    async with asyncio.timeout(5):
        first = process()
        async with first:
            with pytest.raises(ExceptionGroup):
                await first.run()
        breaking = False
        second = process()
        async with second:
            await second.run()
            assert second.components["sink"].got == list(range(40))


async def test_stopped_with_everything_on_its_way_it_goes_on_there() -> None:
    class Limit(Keep):
        async def step(self) -> None:
            await super().step()
            if len(self.got) == 5 and stopping:
                process.cancel()

    def make_it() -> Any:
        return local([Count(30, name="a"), Limit(name="sink")], ("a.y", "sink.x"), state=state, checkpoint_every=60)

    state, stopping = Lasting(), False
    async with asyncio.timeout(5):
        process = make_it()
        async with process:
            for _ in range(4):
                await process.step()
            await checkpoints_of(process).take()
        process = make_it()
        async with process:
            assert process.components["sink"].got == [0, 1, 2, 3]
            assert process.components["a"].made == 4
            await process.run()
            assert process.components["sink"].got == list(range(30))


async def test_nothing_is_saved_without_a_state_that_lasts() -> None:
    class Holding(Keep):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.lock = asyncio.Lock()

    process = local([Endless(name="a"), Holding(name="sink")], ("a.y", "sink.x"), checkpoint_every=0.001)
    async with asyncio.timeout(5), process:
        await process.step()
        assert await process.state.load_checkpoint() is None


# The user's state --------------------------------------------------------------------------------


def again(value: Any) -> Any:
    """The value after it was saved and restored."""
    return load_state(dump_state("c", {"value": value}))["value"]


@pytest.mark.parametrize("taken", [0, 2, 5])
@pytest.mark.parametrize(
    "make_iterator",
    [
        lambda: iter(range(1, 11, 2)),
        lambda: iter(range(2**65, 2**65 + 5)),
        lambda: iter([1, "two", None, 4.0, (5,)]),
        lambda: iter((1, 2, 3, 4, 5)),
        lambda: iter("abcdé"),
        lambda: iter("abcde"),
        lambda: enumerate(iter([1, 2, 3, 4, 5]), 7),
        lambda: itertools.islice(itertools.count(3, 2), None),
    ],
)
def test_iterators_are_restored_where_they_were(make_iterator: Any, taken: int) -> None:
    one = make_iterator()
    if isinstance(one, itertools.islice):
        one = itertools.count(3, 2)
    list(itertools.islice(one, taken))
    other = again(one)
    assert type(other) is type(one)
    assert list(itertools.islice(other, 7)) == list(itertools.islice(one, 7))


def test_random_generators_and_others() -> None:
    dice = random.Random(3)
    dice.random()
    other = again(dice)
    assert [other.random() for _ in range(5)] == [dice.random() for _ in range(5)]
    for bits in ("PCG64", "MT19937", "Philox", "SFC64", "PCG64DXSM"):
        generator = np.random.Generator(getattr(np.random, bits)(5))
        generator.normal(size=3)
        assert np.array_equal(again(generator).normal(size=4), generator.normal(size=4))
    window = again(deque([1, 2, 3], maxlen=3))
    assert (window, window.maxlen) == (deque([1, 2, 3]), 3)
    assert again(range(3)) == range(3)


def test_what_cannot_be_saved_names_the_attribute() -> None:
    with pytest.raises(CheckpointError, match="'bad'"):
        dump_state("c", {"good": 1, "bad": (number for number in range(3))})
    with pytest.raises(CheckpointError, match="dict"):
        dump_state("c", [1])


async def test_code_is_not_state() -> None:
    class Applies(Keep):
        def __init__(self, function: Any, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.function = function

    one = Applies(lambda value: value, name="a")
    assert one.checkpoint() == {"got": [], "x": None}
