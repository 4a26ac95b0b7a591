"""Processes on one event loop: what is sent, who ends when, what a failure does."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
import pytest

from stbass.dataflow import (
    AsyncioConnector,
    Component,
    ConnectorSpec,
    IOController,
    LocalProcess,
    Status,
    component,
)
from stbass.dataflow.state import DictStateBackend
from stbass.errors import (
    ChannelTypeError,
    CopyError,
    DataflowError,
    InvalidProcessError,
    IOClosedError,
    JobFinishedError,
    NotInitialisedError,
    ProcessCancelled,
)
from tests.support.dataflow import Add, Count, Endless, Fail, Forever, Join, Keep, local, wire


def only(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one exception in a group."""
    (error,) = group.exceptions
    return error


# What goes through -------------------------------------------------------------------------------


async def test_values_go_through_in_order() -> None:
    # given a chain of three
    sink = Keep(name="sink")
    process = local([Count(200, name="a"), Add(1, name="b"), sink], ("a.y", "b.x"), ("b.y", "sink.x"))
    # when it runs
    async with asyncio.timeout(5), process:
        assert (process.status, sink.status) == (Status.INIT, Status.INIT)
        await process.run()
        # then every value arrived once, in order
        assert sink.got == list(range(1, 201))
        assert process.status is Status.COMPLETED
        assert {one.status for one in process.components.values()} == {Status.COMPLETED}


async def test_what_is_set_in_the_step_that_closes_is_delivered() -> None:
    sink = Keep(name="sink")
    process = local([Count(1, name="a"), sink], ("a.y", "sink.x"))
    async with asyncio.timeout(5), process:
        await process.run()
    assert sink.got == [0]


async def test_an_output_that_was_not_set_is_not_sent_again() -> None:
    class Odd(Component):
        io = IOController(inputs=["x"], outputs=["y"])
        x: int

        async def step(self) -> None:
            if self.x % 2:
                self.y = self.x

    sink = Keep(name="sink")
    process = local([Count(7, name="a"), Odd(name="odd"), sink], ("a.y", "odd.x"), ("odd.y", "sink.x"))
    async with asyncio.timeout(5), process:
        await process.run()
    assert sink.got == [1, 3, 5]


async def test_a_mutable_value_is_sent_as_it_is_now_and_each_receiver_has_its_own() -> None:
    class Grow(Component):
        io = IOController(outputs=["y"])

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.list: list[int] = []

        async def step(self) -> None:
            self.list.append(len(self.list))
            self.y = self.list
            if len(self.list) == 3:
                await self.io.close()

    one, two = Keep(name="one"), Keep(name="two")
    process = local([Grow(name="a"), one, two], ("a.y", "one.x"), ("a.y", "two.x"))
    async with asyncio.timeout(5), process:
        await process.run()
    assert one.got == two.got == [[0], [0, 1], [0, 1, 2]]
    assert all(first is not second for first, second in zip(one.got, two.got, strict=True))


async def test_a_connector_hands_over_by_reference_if_told_to() -> None:
    value = {"large": [1, 2, 3]}

    class Give(Component):
        io = IOController(outputs=["y"])

        async def step(self) -> None:
            self.y = value
            await self.io.close()

    sink = Keep(name="sink")
    process = LocalProcess([Give(name="a"), sink], [wire("a.y", "sink.x", copy=False)])
    async with asyncio.timeout(5), process:
        await process.run()
    assert sink.got[0] is value


async def test_what_cannot_be_copied_is_an_error_with_a_remedy() -> None:
    class Give(Component):
        io = IOController(outputs=["y"])

        async def step(self) -> None:
            self.y = (number for number in range(3))

    process = local([Give(name="a"), Keep(name="sink")], ("a.y", "sink.x"))
    async with asyncio.timeout(5), process:
        with pytest.raises(ExceptionGroup) as caught:
            await process.run()
    error = only(caught.value)
    assert isinstance(error, CopyError)
    assert "'a'" in str(error)
    assert "'y'" in str(error)
    assert "copy=False" in str(error)


async def test_arrays_go_through() -> None:
    class Arrays(Component):
        io = IOController(outputs={"y": np.ndarray})

        async def step(self) -> None:
            self.y = np.arange(5)
            await self.io.close()

    sink = Keep(name="sink")
    process = local([Arrays(name="a"), sink], ("a.y", "sink.x"))
    async with asyncio.timeout(5), process:
        await process.run()
    assert np.array_equal(sink.got[0], np.arange(5))


async def test_one_output_to_many_inputs_and_many_outputs_to_one_input() -> None:
    sink, other = Keep(name="sink"), Keep(name="other")
    process = local(
        [Count(50, name="a"), Count(50, name="b"), sink, other],
        ("a.y", "sink.x"),
        ("b.y", "sink.x"),
        ("a.y", "other.x"),
    )
    async with asyncio.timeout(5), process:
        await process.run()
    assert other.got == list(range(50))
    assert sorted(sink.got) == sorted([*range(50), *range(50)])


async def test_two_writers_of_one_input_take_turns() -> None:
    # given two producers that never run dry, and a consumer that ends after 1000 values
    class Tagged(Component):
        io = IOController(outputs=["y"])

        async def step(self) -> None:
            self.y = self.name

    class Some(Keep):
        async def step(self) -> None:
            await super().step()
            if len(self.got) == 1000:
                await self.io.close()

    sink = Some(name="sink")
    process = local([Tagged(name="a"), Tagged(name="b"), sink], ("a.y", "sink.x"), ("b.y", "sink.x"))
    async with asyncio.timeout(5), process:
        await process.run()
    # then neither was starved
    assert min(sink.got.count("a"), sink.got.count("b")) > 300


# Backpressure and ends ---------------------------------------------------------------------------


async def test_connectors_are_bounded() -> None:
    # given a consumer that does not come back from its first step
    class Slow(Component):
        io = IOController(inputs=["x"])

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.go = asyncio.Event()

        async def step(self) -> None:
            await self.go.wait()
            await self.io.close()

    class Announcing(Endless):
        async def step(self) -> None:
            await super().step()
            if self.made == 9:
                full.set()

    full = asyncio.Event()
    source, slow = Announcing(name="a"), Slow(name="slow")
    process = LocalProcess([source, slow], [wire("a.y", "slow.x", maxsize=8)])
    async with asyncio.timeout(5), process:
        running = asyncio.ensure_future(process.run())
        await full.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        # then the producer has made those in the connector, the one that was taken, and the one that waits for room
        assert source.made == 1 + 8 + 1
        assert source.status is Status.WAITING
        slow.go.set()
        await running


async def test_close_travels_upstream() -> None:
    # given a join, one of whose inputs ends early, and another producer that would never end
    endless, join = Endless(name="endless"), Join(name="join")
    sink = Keep(name="sink")
    process = local(
        [Count(3, name="a"), endless, Add(0, name="between"), join, sink],
        ("a.y", "join.a"),
        ("endless.y", "between.x"),
        ("between.y", "join.b"),
        ("join.y", "sink.x"),
    )
    async with asyncio.timeout(5), process:
        await process.run()
        assert sink.got == [(0, 0), (1, 1), (2, 2)]
        assert endless.status is Status.COMPLETED


async def test_a_producer_goes_on_for_the_consumer_that_is_left() -> None:
    class First(Keep):
        async def step(self) -> None:
            await super().step()
            await self.io.close()

    first, rest = First(name="first"), Keep(name="rest")
    process = local([Count(300, name="a"), first, rest], ("a.y", "first.x"), ("a.y", "rest.x"))
    async with asyncio.timeout(5), process:
        await process.run()
    assert first.got == [0]
    assert rest.got == list(range(300))


async def test_a_run_in_which_everybody_waits_for_somebody_else_is_an_error() -> None:
    class Never(Component):
        io = IOController(inputs=["x"], outputs=["y"])

        async def step(self) -> None:
            """Sends nothing, so the cycle has no value any more."""

    a, b = Never(name="a", initial_values={"x": [1]}), Add(1, name="b")
    process = local([a, b], ("a.y", "b.x"), ("b.y", "a.x"))
    async with asyncio.timeout(5), process:
        with pytest.raises(ExceptionGroup) as caught:
            await process.run()
    error = only(caught.value)
    assert isinstance(error, DataflowError)
    assert "'a' waits for x" in str(error)
    assert "'b' waits for x" in str(error)


async def test_paths_of_different_rates_that_fill_up_are_an_error_and_not_a_hang() -> None:
    class Rare(Component):
        io = IOController(inputs=["x"], outputs=["y"])
        x: int

        async def step(self) -> None:
            if self.x % 100 == 99:
                self.y = self.x

    process = local(
        [Endless(name="a"), Rare(name="rare"), Join(name="join"), Keep(name="sink")],
        ("a.y", "rare.x"),
        ("a.y", "join.a"),
        ("rare.y", "join.b"),
        ("join.y", "sink.x"),
    )
    async with asyncio.timeout(5), process:
        with pytest.raises(ExceptionGroup, match="components failed") as caught:
            await process.run()
    assert "'a' waits for room at join.a" in str(only(caught.value))
    assert "maxsize" in str(only(caught.value))


# Cycles ------------------------------------------------------------------------------------------


class Loop(Component):
    """Counts up round a cycle until 100."""

    io = IOController(inputs=["x"], outputs=["y", "last"])
    x: int

    async def step(self) -> None:
        if self.x >= 100:
            self.last = self.x
            await self.io.close()
        else:
            self.y = self.x


async def test_a_cycle_with_an_initial_value() -> None:
    sink = Keep(name="sink")
    process = local(
        [Loop(name="a", initial_values={"x": [0]}), Add(3, name="b"), sink],
        ("a.y", "b.x"),
        ("b.y", "a.x"),
        ("a.last", "sink.x"),
    )
    async with asyncio.timeout(5), process:
        await process.run()
    assert sink.got == [102]


async def test_a_cycle_with_more_initial_values_than_room() -> None:
    class Pass(Component):
        io = IOController(inputs=["x"], outputs=["y"])
        x: int

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.seen: list[int] = []

        async def step(self) -> None:
            self.seen.append(self.x)
            self.y = self.x
            if len(self.seen) == 30:
                await self.io.close()

    a = Pass(name="a", initial_values={"x": range(10)})
    process = LocalProcess([a], [wire("a.y", "a.x", maxsize=1)])
    async with asyncio.timeout(5), process:
        await process.run()
    assert a.seen == [*range(10)] * 3


async def test_initial_values_come_first() -> None:
    sink = Keep(name="sink", initial_values={"x": [-2, -1]})
    process = local([Count(2, name="a"), sink], ("a.y", "sink.x"))
    async with asyncio.timeout(5), process:
        await process.run()
    assert sink.got == [-2, -1, 0, 1]


# Steps -------------------------------------------------------------------------------------------


async def test_step_step_run() -> None:
    a, sink = Count(5, name="a"), Keep(name="sink")
    process = local([a, Add(0, name="b"), sink], ("a.y", "b.x"), ("b.y", "sink.x"))
    async with asyncio.timeout(5), process:
        await process.step()
        assert sink.got == [0]
        assert process.status is Status.WAITING
        await process.step()
        assert (a.made, sink.got) == (2, [0, 1])
        await process.run()
    assert sink.got == list(range(5))


async def test_a_step_does_not_wait_for_what_is_not_sent() -> None:
    class Every3rd(Component):
        io = IOController(inputs=["x"], outputs=["y"])
        x: int

        async def step(self) -> None:
            if self.x % 3 == 2:
                self.y = self.x

    sink = Keep(name="sink")
    process = local([Count(7, name="a"), Every3rd(name="b"), sink], ("a.y", "b.x"), ("b.y", "sink.x"))
    seen = []
    async with asyncio.timeout(5), process:
        for _ in range(7):
            await process.step()
            seen.append(list(sink.got))
        assert process.status is Status.COMPLETED
    assert seen == [[], [], [2], [2], [2], [2, 5], [2, 5]]


async def test_steps_with_a_full_connector_do_not_wait_for_room() -> None:
    # given a join whose other side sends nothing in the first steps
    class Late(Count):
        async def step(self) -> None:
            self.made += 1
            if self.made > 5:
                self.y = self.made

    a, late, join, sink = Endless(name="a"), Late(9, name="late"), Join(name="join"), Keep(name="sink")
    process = LocalProcess(
        [a, late, join, sink],
        [wire("a.y", "join.a", maxsize=1), wire("late.y", "join.b"), wire("join.y", "sink.x")],
    )
    async with asyncio.timeout(5), process:
        for _ in range(10):
            await process.step()
        # then nothing was lost or made twice
        assert sink.got == [(index, index + 6) for index in range(5)]


async def test_steps_to_the_end() -> None:
    sink = Keep(name="sink")
    process = local([Count(3, name="a"), sink], ("a.y", "sink.x"))
    async with asyncio.timeout(5), process:
        while process.status is not Status.COMPLETED:
            await process.step()
        assert sink.got == [0, 1, 2]
        with pytest.raises(JobFinishedError):
            await process.step()


# Failures ----------------------------------------------------------------------------------------


async def test_a_failure_cancels_the_others_at_once() -> None:
    forever = Forever(name="forever")

    class AfterThat(Fail):
        async def step(self) -> None:
            await forever.began.wait()
            await super().step()

    process = local(
        [Count(20, name="a"), AfterThat(3, name="b"), Keep(name="sink"), forever, Keep(name="other")],
        ("a.y", "b.x"),
        ("b.y", "sink.x"),
        ("forever.y", "other.x"),
    )
    async with asyncio.timeout(5), process:
        with pytest.raises(ExceptionGroup) as caught:
            await process.run()
        assert process.status is Status.FAILED
        assert process.components["b"].status is Status.FAILED
        assert (forever.was_cancelled, forever.destroyed) == (True, False)
        with pytest.raises(DataflowError, match="has failed"):
            await process.run()
    # then the group holds the user's own exception, which says where it was raised
    error = only(caught.value)
    assert type(error) is ValueError
    assert error.__notes__ == ["component 'b', step 3"]
    assert forever.destroyed


async def test_a_failure_in_init_destroys_what_was_begun() -> None:
    ended: list[str] = []

    class Noting(Keep):
        async def destroy(self) -> None:
            ended.append(self.name)

    class Bad(Noting):
        async def init(self) -> None:
            raise OSError("no such thing")

    process = local([Count(1, name="a"), Noting(name="ok"), Bad(name="bad")], ("a.y", "ok.x"), ("a.y", "bad.x"))
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.timeout(5), process:
            raise AssertionError("it must not come to this")
    assert type(only(caught.value)) is OSError
    assert sorted(ended) == ["bad", "ok"]
    assert process.status is Status.FAILED


async def test_validation_comes_before_any_user_code() -> None:
    class Never(Keep):
        async def init(self) -> None:
            raise AssertionError("init was called")

    process = local([Count(1, name="a"), Never(name="b"), Never(name="c")], ("a.nothing", "b.x"), ("a.y", "b.z"))
    with pytest.raises(InvalidProcessError) as caught:
        await process.init()
    text = " ".join(caught.value.findings)
    for part in ("nothing", "z", "'c'"):
        assert part in text


async def test_duplicate_names_are_refused_at_once() -> None:
    with pytest.raises(InvalidProcessError):
        local([Count(1, name="a"), Keep(name="a")], ("a.y", "a.x"))


async def test_types_are_checked_when_sent() -> None:
    class Typed(Component):
        io = IOController(inputs=["x"], outputs={"y": float})
        x: Any

        async def step(self) -> None:
            self.y = self.x

    class Floats(Keep):
        x: float

    # given an int where a float is meant, then a text
    sink = Floats(name="sink")
    process = local(
        [Count(1, name="a"), Typed(name="b", initial_values={"x": [2]}), sink], ("a.y", "b.x"), ("b.y", "sink.x")
    )
    async with asyncio.timeout(5), process:
        await process.run()
    assert [type(value) for value in sink.got] == [float, float]
    process = local(
        [Count(1, name="a"), Typed(name="b", initial_values={"x": ["text"]}), Keep(name="sink")],
        ("a.y", "b.x"),
        ("b.y", "sink.x"),
    )
    async with asyncio.timeout(5), process:
        with pytest.raises(ExceptionGroup) as caught:
            await process.run()
    error = only(caught.value)
    assert isinstance(error, ChannelTypeError)
    assert str(error) == "component 'b', output 'y': expected float, got str"


async def test_the_type_of_the_input_is_checked_too() -> None:
    class Floats(Keep):
        x: float

    class Texts(Component):
        io = IOController(outputs=["y"])

        async def step(self) -> None:
            self.y = "text"

    process = local([Texts(name="a"), Floats(name="sink")], ("a.y", "sink.x"))
    async with asyncio.timeout(5), process:
        with pytest.raises(ExceptionGroup) as caught:
            await process.run()
    assert str(only(caught.value)) == "component 'sink', input 'x': expected float, got str"


# Life --------------------------------------------------------------------------------------------


async def test_before_init() -> None:
    process = local([Count(1, name="a"), Keep(name="sink")], ("a.y", "sink.x"))
    with pytest.raises(NotInitialisedError):
        await process.run()
    with pytest.raises(NotInitialisedError):
        await process.step()
    assert not process.is_initialised


async def test_a_second_run_is_an_error_and_a_second_block_starts_afresh() -> None:
    sink = Keep(name="sink")
    process = local([Count(3, name="a"), sink], ("a.y", "sink.x"))
    async with asyncio.timeout(5), process:
        await process.run()
        first = process.state.job_id
        with pytest.raises(JobFinishedError):
            await process.run()
    async with asyncio.timeout(5), process:
        assert sink.got == []
        await process.run()
        assert process.state.job_id != first
    assert sink.got == [0, 1, 2]


async def test_cancel_from_outside() -> None:
    forever = Forever(name="forever")
    process = local([forever, Keep(name="sink")], ("forever.y", "sink.x"))
    async with asyncio.timeout(5), process:
        running = asyncio.ensure_future(process.run())
        await forever.began.wait()
        process.cancel()
        with pytest.raises(ProcessCancelled):
            await running
        assert (process.status, forever.status) == (Status.STOPPED, Status.STOPPED)
    assert forever.destroyed


async def test_cancelling_the_task_that_runs_it() -> None:
    forever = Forever(name="forever")
    process = local([forever, Keep(name="sink")], ("forever.y", "sink.x"))
    async with asyncio.timeout(5), process:
        running = asyncio.ensure_future(process.run())
        await forever.began.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert process.status is Status.STOPPED
    assert forever.was_cancelled


async def test_a_process_that_never_waits_can_be_cancelled() -> None:
    class Busy(Component):
        io = IOController()

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.made = 0

        def step(self) -> None:  # type: ignore[override]
            self.made += 1

    busy = Busy(name="busy")
    process = local([busy])
    async with asyncio.timeout(5), process:
        asyncio.get_running_loop().call_later(0.01, process.cancel)
        with pytest.raises(ProcessCancelled):
            await process.run()
    assert busy.made > 1


async def test_cancelling_one_component() -> None:
    endless, sink = Endless(name="a"), Keep(name="sink")

    class Stopper(Component):
        io = IOController(inputs=["x"])
        x: int

        async def step(self) -> None:
            if self.x == 10:
                endless.cancel()

    process = local([endless, sink, Stopper(name="stopper")], ("a.y", "sink.x"), ("a.y", "stopper.x"))
    async with asyncio.timeout(5), process:
        await process.run()
        assert endless.status is Status.STOPPED
        assert sink.status is Status.COMPLETED
        assert process.status is Status.COMPLETED
    assert sink.got == list(range(len(sink.got)))


async def test_run_while_it_runs() -> None:
    forever = Forever(name="forever")
    process = local([forever, Keep(name="sink")], ("forever.y", "sink.x"))
    async with asyncio.timeout(5), process:
        running = asyncio.ensure_future(process.run())
        await forever.began.wait()
        with pytest.raises(DataflowError, match="busy"):
            await process.step()
        process.cancel()
        with pytest.raises(ProcessCancelled):
            await running


async def test_destroy_is_called_for_all_and_its_errors_are_told() -> None:
    ended: list[str] = []

    class Bad(Keep):
        async def destroy(self) -> None:
            ended.append(self.name)
            raise OSError("cannot close")

    process = local([Count(1, name="a"), Bad(name="b"), Bad(name="c")], ("a.y", "b.x"), ("a.y", "c.x"))
    await process.init()
    with pytest.raises(ExceptionGroup) as caught:
        await process.destroy()
    assert len(caught.value.exceptions) == 2
    assert sorted(ended) == ["b", "c"]
    assert not process.is_initialised


async def test_status_is_kept_in_the_state() -> None:
    process = local([Count(1, name="a"), Keep(name="sink")], ("a.y", "sink.x"), name="mine")
    async with asyncio.timeout(5), process:
        assert await process.state.get_process_status("mine") is Status.INIT
        await process.run()
        assert await process.state.get_process_status("mine") is Status.COMPLETED
        kept = await process.state.get_process("mine")
    assert set(kept["components"]) == {"a", "sink"}
    assert set(kept["connectors"]) == {"a.y..sink.x"}


# Kinds of components -----------------------------------------------------------------------------


@component(inputs=["x"], outputs=["y"])
def doubled(x: int) -> dict[str, int]:
    return {"y": 2 * x}


@component(inputs={"x": int}, outputs=["y"])
async def only_even(x: int) -> dict[str, int]:
    return {"y": x} if x % 2 == 0 else {}


@component(outputs=["y"])
def wrong() -> dict[str, int]:
    return {"z": 1}


async def test_functions_as_components() -> None:
    assert doubled(x=2) == {"y": 4}
    sink = Keep(name="sink")
    process = local(
        [Count(4, name="a"), only_even.component(name="even"), doubled.component(name="double"), sink],
        ("a.y", "even.x"),
        ("even.y", "double.x"),
        ("double.y", "sink.x"),
    )
    async with asyncio.timeout(5), process:
        await process.run()
    assert sink.got == [0, 4]


async def test_a_function_that_returns_what_is_no_output() -> None:
    process = local([wrong.component(name="w"), Keep(name="sink")], ("w.y", "sink.x"))
    async with asyncio.timeout(5), process:
        with pytest.raises(ExceptionGroup) as caught:
            await process.run()
    assert "'z'" in str(only(caught.value))


async def test_a_component_with_a_run_of_its_own() -> None:
    class Own(Component):
        io = IOController(inputs=["x"], outputs=["y"])
        x: int

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.rounds = 0

        async def step(self) -> None:
            self.y = self.x + 1

        async def run(self) -> None:
            while True:
                try:
                    await self.step()
                except IOClosedError:
                    return
                self.rounds += 1

    class Passing(Own):
        async def run(self) -> None:
            await Component.run(self)

    own, passing, sink = Own(name="own"), Passing(name="passing"), Keep(name="sink")
    process = local(
        [Count(100, name="a"), own, passing, sink], ("a.y", "own.x"), ("own.y", "passing.x"), ("passing.y", "sink.x")
    )
    async with asyncio.timeout(5), process:
        await process.run()
    assert sink.got == list(range(2, 102))
    assert own.rounds == 100


async def test_parameters_of_the_process_and_of_the_component() -> None:
    sink = Keep(name="sink", parameters={"b": 2})
    process = local([Count(1, name="a"), sink], ("a.y", "sink.x"), parameters={"a": 1, "b": 1})
    async with asyncio.timeout(5), process:
        assert sink.parameters == {"a": 1, "b": 2}
        assert sink.state is process.state


async def test_fields_of_an_instance() -> None:
    class Reader(Component):
        def __init__(self, names: list[str], *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.io = IOController(outputs=names)

        async def step(self) -> None:
            for name in self.io.outputs:
                setattr(self, name, name.upper())
            await self.io.close()

    sink, other = Keep(name="sink"), Reader(["c"], name="other")
    setattr(other, "b", 5)  # noqa: B010 - of another instance that is an output, of this one an attribute like any
    process = local([Reader(["b"], name="r"), other, sink], ("r.b", "sink.x"), ("other.c", "sink.x"))
    async with asyncio.timeout(5), process:
        await process.run()
    assert sorted(sink.got) == ["B", "C"]
    assert vars(other)["b"] == 5


# What it costs -----------------------------------------------------------------------------------


async def test_no_task_is_made_per_value(monkeypatch: pytest.MonkeyPatch) -> None:
    made = 0
    loop = asyncio.get_running_loop()

    def counting(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
        nonlocal made
        made += 1
        return asyncio.Task(work, loop=loop, **options)

    process = local([Count(2000, name="a"), Add(1, name="b"), Keep(name="c")], ("a.y", "b.x"), ("b.y", "c.x"))
    async with asyncio.timeout(20), process:
        loop.set_task_factory(counting)
        started = time.process_time()
        await process.run()
        spent = time.process_time() - started
        loop.set_task_factory(None)
    assert made < 20
    # 6000 component steps; what is usual is 5 µs each, and elsewhere it was 200.
    assert spent < 0.6


async def test_an_asyncio_connector_needs_a_spec() -> None:
    with pytest.raises(TypeError, match="ConnectorSpec"):
        AsyncioConnector("a.y")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"component\.field"):
        ConnectorSpec("a", "b.x")


async def test_between_two_steps_all_are_waiting() -> None:
    a, sink = Count(5, name="a"), Keep(name="sink")
    async with asyncio.timeout(30), local([a, sink], ("a.y", "sink.x")) as process:
        await process.step()
        assert {process.status, a.status, sink.status} == {Status.WAITING}


async def test_a_process_can_be_told_to_a_state() -> None:
    process = local([Count(5, name="a"), Keep(name="sink")], ("a.y", "sink.x"), name="mine")
    async with DictStateBackend() as state:
        await state.upsert_process(process)
        found = await state.get_process("mine")
    assert (found["name"], list(found["components"]), list(found["connectors"])) == (
        "mine",
        ["a", "sink"],
        ["a.y..sink.x"],
    )
