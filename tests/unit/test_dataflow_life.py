"""The life of a process: whose the state and the job are, what cancels what, what is left when something fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from stbass.dataflow import Component, Event, IOController, LocalProcess, Status
from stbass.dataflow.state import DictStateBackend, StateBackend
from stbass.errors import (
    CheckpointError,
    DataflowError,
    IOClosedError,
    JobFinishedError,
    JobInUseError,
    NotInitialisedError,
    ProcessCancelled,
    StateError,
)
from tests.support.dataflow import Count, Endless, Fail, Forever, Join, Keep, Lasting, Lingers, local, wire

JOB = "Job_abcdefgh"


class Failing(Lasting):
    """A store that can be told to fail."""

    is_full = is_gone = False

    async def _save(self, n: int, parts: Mapping[str, bytes]) -> None:
        if self.is_full:
            raise StateError("the disk is full")
        await super()._save(n, parts)

    async def _set_status(self, process_id: str, status: str) -> bool:
        if self.is_gone:
            raise StateError("the server is gone")
        return await super()._set_status(process_id, status)


async def for_ever() -> None:
    await asyncio.get_running_loop().create_future()


def three(state: StateBackend | None, sink: Component | None = None, **options: Any) -> LocalProcess:
    """0, 1 and 2, and who takes them."""
    return local([Count(3, name="a"), sink or Keep(name="sink")], ("a.y", "sink.x"), state=state, **options)


def got(process: LocalProcess) -> list[Any]:
    sink = process.components["sink"]
    assert isinstance(sink, Keep)
    return sink.got


# Whose the state is ------------------------------------------------------------------------------


async def test_whoever_did_not_get_the_job_does_not_give_it_up() -> None:
    # given two processes with one state object
    state = Lasting(job_id=JOB)
    one, two = three(state), three(state)
    async with asyncio.timeout(5):
        await one.init()
        # when the second does not get the job, and ends
        with pytest.raises(JobInUseError):
            await two.init()
        await two.destroy()
        # then the first still has it
        with pytest.raises(JobInUseError):
            await state.acquire_job()
        await one.run()
        await one.destroy()
    assert got(one) == [0, 1, 2]


async def test_a_shared_state_stays_until_the_last_one_leaves() -> None:
    state = DictStateBackend()
    one, two = three(state), three(state)
    async with asyncio.timeout(5):
        await one.init()
        await two.init()
        await one.run()
        await one.destroy()
        await two.run()
        assert await state.get_process_status(one.id) is Status.COMPLETED
        assert await state.get_process_status(two.id) is Status.COMPLETED
        await two.destroy()
    assert not state.is_initialised


async def test_a_state_that_the_user_connected_stays_connected() -> None:
    async with asyncio.timeout(5), DictStateBackend() as state:
        async with three(state) as process:
            await process.run()
        assert state.is_initialised
        assert await state.get_process_status(process.id) is Status.COMPLETED


async def test_the_job_of_another_process_is_not_changed() -> None:
    # given two processes with one state, the first of which is through
    state = DictStateBackend()
    one, two = three(state), three(state)
    async with asyncio.timeout(5):
        async with two:
            async with one:
                await one.run()
            job = state.job_id
            # when it wants to begin again, with a new job
            with pytest.raises(StateError, match=f"LocalProcess '{two.name}'.* is at work"):
                await one.init()
            # then that of the second is as it was
            assert state.job_id == job
            await two.run()
        async with one:
            assert state.job_id != job
            await one.run()


async def test_connecting_again_does_nothing() -> None:
    state = DictStateBackend()
    process = three(state)
    async with asyncio.timeout(5):
        await process.connect_state()
        await process.connect_state(state)
        assert await state.get_process_status(process.id) is Status.CREATED
        with pytest.raises(DataflowError, match="already"):
            await process.connect_state(DictStateBackend())
        async with process:
            await process.run()
        assert not state.is_initialised
        # then a second run, connected beforehand, has a job of its own as ever
        first = state.job_id
        await process.connect_state()
        async with process:
            await process.run()
            assert state.job_id != first
            assert await state.get_process_status(process.id) is Status.COMPLETED


async def test_connecting_that_fails_can_be_done_again() -> None:
    class Shut(DictStateBackend):
        is_shut = True

        async def _put_process(self, process_id: str, record: Any) -> None:
            if self.is_shut:
                raise StateError("not now")
            await super()._put_process(process_id, record)

    state = Shut()
    process = three(state)
    async with asyncio.timeout(5):
        with pytest.raises(StateError, match="not now"):
            await process.connect_state()
        state.is_shut = False
        async with process:
            await process.run()
    assert not state.is_initialised


async def test_a_job_that_is_over_stays_as_it_is_whoever_asks_for_it() -> None:
    async with asyncio.timeout(5), Lasting(job_id=JOB) as state:
        async with three(state) as process:
            await process.run()
        for _ in range(2):
            refused = three(state)
            with pytest.raises(JobFinishedError):
                await refused.init()
            assert refused.status is Status.CREATED
            assert await state.job_status() is Status.COMPLETED
        # then nobody has it
        await state.acquire_job()


async def test_whoever_waited_for_the_job_looks_again_whether_it_is_over() -> None:
    # given a job that another run completes just before this one gets it
    class Late(Lasting):
        async def acquire_job(self) -> None:
            await super().acquire_job()
            await self.upsert_process({"id": "other"})
            await self.update_process_status("other", Status.COMPLETED)

    process = three(Late(job_id=JOB))
    async with asyncio.timeout(5):
        with pytest.raises(JobFinishedError):
            await process.init()
    assert got(process) == []


async def test_a_component_with_a_state_of_its_own() -> None:
    class Writes(Keep):
        async def destroy(self) -> None:
            assert self.state is not None
            assert await self.state.get_component(self.name)

    own = DictStateBackend()
    sink = Writes(name="sink", state=own)
    async with asyncio.timeout(5), three(DictStateBackend(), sink) as process:
        assert sink.state is own
        assert own.is_initialised
        assert (await own.get_component("sink"))["name"] == "sink"
        assert process.components["a"].state is process.state
        await process.run()
    assert not own.is_initialised


async def test_a_component_whose_own_state_cannot_be_used() -> None:
    class Shut(DictStateBackend):
        async def _open(self) -> None:
            raise StateError("not now")

    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.timeout(5), three(None, Keep(name="sink", state=Shut())):
            raise AssertionError("it must not come to this")
    (error,) = caught.value.exceptions
    assert str(error) == "not now"
    assert error.__notes__ == ["component 'sink', init"]


# Whose the components are ------------------------------------------------------------------------


async def test_a_component_is_at_work_in_one_process() -> None:
    sink = Keep(name="sink")
    one, two = three(None, sink), three(None, sink)
    async with asyncio.timeout(5), one:
        with pytest.raises(DataflowError, match=f"'sink' is at work in <LocalProcess '{one.name}'"):
            await two.init()
        await one.run()
        assert sink.got == [0, 1, 2]
    # then, when the first is done with it, it is as it was made
    async with asyncio.timeout(5), two:
        assert sink.got == []
        await two.run()
    assert sink.got == [0, 1, 2]


# What cancels what -------------------------------------------------------------------------------


async def test_cancel_during_init() -> None:
    began = asyncio.Event()

    class Slow(Keep):
        destroyed = False

        async def init(self) -> None:
            began.set()
            await for_ever()

        async def destroy(self) -> None:
            self.destroyed = True

    sink = Slow(name="sink")
    process = three(None, sink)
    async with asyncio.timeout(5):
        starting = asyncio.ensure_future(process.init())
        await began.wait()
        with pytest.raises(DataflowError, match="busy"):
            await process.init()
        process.cancel()
        with pytest.raises(ProcessCancelled):
            await starting
    assert process.status is Status.STOPPED
    assert not process.is_initialised
    assert sink.destroyed


@pytest.mark.parametrize("begin", ["begin", "end"])
async def test_cancel_while_a_checkpoint_waits(begin: str) -> None:
    # given a component whose state takes for ever: before the first step, or when all have ended
    began = asyncio.Event()

    class Slow(Keep):
        async def checkpoint(self) -> dict[str, Any]:
            if len(self.got) == (0 if begin == "begin" else 3):
                began.set()
                await for_ever()
            return {"got": self.got}

    process = three(Lasting(), Slow(name="sink"))
    async with asyncio.timeout(5), process:
        running = asyncio.ensure_future(process.run())
        await began.wait()
        process.cancel()
        process.cancel()
        with pytest.raises(ProcessCancelled):
            await running
        assert process.status is Status.STOPPED
        assert await process.state.get_process_status(process.id) is Status.STOPPED


async def test_cancelling_the_task_while_a_checkpoint_waits() -> None:
    began = asyncio.Event()

    class Slow(Keep):
        async def checkpoint(self) -> dict[str, Any]:
            began.set()
            await for_ever()
            return {}

    process = three(Lasting(), Slow(name="sink"))
    async with asyncio.timeout(5), process:
        running = asyncio.ensure_future(process.run())
        await began.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert process.status is Status.STOPPED


async def test_destroy_while_it_runs_cancels_it_first() -> None:
    forever = Forever(name="forever")
    process = local([forever, Keep(name="sink")], ("forever.y", "sink.x"))
    async with asyncio.timeout(5):
        await process.init()
        running = asyncio.ensure_future(process.run())
        await forever.began.wait()
        await process.destroy()
        assert running.done()
        with pytest.raises(ProcessCancelled):
            await running
    assert forever.was_cancelled
    assert forever.destroyed


async def test_destroy_that_is_cancelled_leaves_components_that_can_be_used() -> None:
    began = asyncio.Event()

    class Slow(Keep):
        is_slow: ClassVar[bool] = True

        async def destroy(self) -> None:
            if self.is_slow:
                began.set()
                await for_ever()

    process = three(None, Slow(name="sink"))
    async with asyncio.timeout(5):
        await process.init()
        ending = asyncio.ensure_future(process.destroy())
        await began.wait()
        ending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await ending
        assert not process.state.is_initialised
        Slow.is_slow = False
        async with process:
            await process.run()
    assert got(process) == [0, 1, 2]


async def test_stopped_between_two_steps_the_state_is_told() -> None:
    async with asyncio.timeout(5), DictStateBackend() as state:
        async with three(state) as process:
            await process.step()
            process.cancel()
            assert process.status is Status.STOPPED
        assert await state.get_process_status(process.id) is Status.STOPPED


async def test_a_component_that_was_cancelled_before_it_began() -> None:
    endless = Endless(name="a")
    endless.cancel()
    process = local([endless, Keep(name="sink")], ("a.y", "sink.x"))
    async with asyncio.timeout(5), process:
        await process.run()
    assert (endless.made, endless.status) == (0, Status.STOPPED)


# What fails --------------------------------------------------------------------------------------


async def test_init_that_fails_leaves_nothing_behind_and_can_be_done_again() -> None:
    ended: list[str] = []

    class Noting(Keep):
        is_bad: ClassVar[bool] = True

        async def init(self) -> None:
            if self.is_bad:
                raise OSError("no such thing")

        async def destroy(self) -> None:
            ended.append(self.name)
            if self.is_bad:
                raise OSError("and no end")

    state = Lasting(job_id=JOB)
    process = three(state, Noting(name="sink"))
    async with asyncio.timeout(5):
        # when it fails, without `async with`
        with pytest.raises(ExceptionGroup) as caught:
            await process.init()
        # then it was ended, the job is free, and the first error is that of init
        assert [str(error) for error in caught.value.exceptions] == ["no such thing", "and no end"]
        assert ended == ["sink"]
        assert not state.is_initialised
        assert process.status is Status.FAILED
        with pytest.raises(NotInitialisedError):
            await process.run()
        # and it can be done again, in the same job
        Noting.is_bad = False
        async with process:
            assert state.job_id == JOB
            await process.run()
    assert got(process) == [0, 1, 2]


async def test_what_components_raise_is_told_even_if_the_state_is_gone_too() -> None:
    state = Failing()

    class Breaks(Fail):
        async def step(self) -> None:
            state.is_gone = True
            await super().step()

    parts = [Count(3, name="a"), Breaks(2, name="b"), Keep(name="sink")]
    process = local(parts, ("a.y", "b.x"), ("b.y", "sink.x"), state=state)
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.timeout(5), process:
            await process.run()
    assert [type(error) for error in caught.value.exceptions] == [ValueError]
    assert "the server is gone" in caught.value.__notes__[0]
    assert process.status is Status.FAILED


async def test_a_disk_that_is_full_in_the_middle_ends_the_run_and_the_job_goes_on_later() -> None:
    state = Failing(job_id=JOB)

    class Numbers(Endless):
        limit = 0

        async def step(self) -> None:
            await super().step()
            if self.made == 10:
                state.is_full = not self.limit
            if self.made == self.limit:
                await self.io.close()
            await asyncio.sleep(0)

    def make() -> LocalProcess:
        parts = [Numbers(name="a"), Keep(name="sink")]
        return local(parts, ("a.y", "sink.x"), state=state, checkpoint_every=0.001)

    first = make()
    with pytest.raises(ExceptionGroup, match="a checkpoint could not be taken") as caught:
        async with asyncio.timeout(5), first:
            await first.run()
    assert [str(error) for error in caught.value.exceptions] == ["the disk is full"]
    assert first.status is Status.FAILED
    # when there is room again
    state.is_full, Numbers.limit = False, 5000
    second = make()
    async with asyncio.timeout(5), second:
        await second.run()
    assert got(second) == list(range(5000))


async def test_a_failure_in_committed_fails_the_run_and_the_job_goes_on_later() -> None:
    class Bad(Keep):
        is_bad: ClassVar[bool] = True

        def committed(self, n: int) -> None:
            if n > 1 and self.is_bad:
                raise OSError("not now")

    state = Lasting(job_id=JOB)
    process = three(state, Bad(name="sink"))
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.timeout(5), process:
            await process.run()
    (error,) = caught.value.exceptions
    assert error.__notes__ == ["component 'sink', committed(2)"]
    assert process.status is Status.FAILED
    Bad.is_bad = False
    second = three(state, Bad(name="sink"))
    async with asyncio.timeout(5), second:
        await second.run()
    assert got(second) == [0, 1, 2]


@pytest.mark.parametrize("what", ["committed(1)", "at the end of the run"])
async def test_a_component_that_does_not_end_when_it_is_told_is_cancelled_with_its_process(what: str) -> None:
    sink = Lingers(name="sink")
    process = three(Lasting() if what == "committed(1)" else DictStateBackend(), sink)
    async with asyncio.timeout(30), process:
        running = asyncio.ensure_future(process.run())
        await sink.is_told.wait()
        process.cancel()
        with pytest.raises(ProcessCancelled):
            await running
        assert process.status is Status.STOPPED


async def test_what_cannot_be_saved_is_told_before_the_first_step_also_without_checkpoints_in_between() -> None:
    class Holding(Keep):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.lock = asyncio.Lock()

    process = three(Lasting(), Holding(name="sink"), checkpoint_every=None)
    async with asyncio.timeout(5), process:
        with pytest.raises(CheckpointError, match="state does not last"):
            await process.run()
    assert got(process) == []
    # then the remedy that it names is one
    process = three(DictStateBackend(), Holding(name="sink"), checkpoint_every=None)
    async with asyncio.timeout(5), process:
        await process.run()
    assert got(process) == [0, 1, 2]


async def test_a_mistake_in_a_step_is_not_taken_for_the_end_by_a_run_of_ones_own() -> None:
    class Late(Component):
        io = IOController(outputs=["y"], output_events=[Event])

        async def step(self) -> None:
            self.y = 1
            await self.io.close()
            self.io.queue_event(Event(source=self.name))

        async def run(self) -> None:
            await super().run()

    process = local([Late(name="a"), Keep(name="sink")], ("a.y", "sink.x"))
    async with asyncio.timeout(5), process:
        with pytest.raises(ExceptionGroup) as caught:
            await process.run()
    assert [type(error) for error in caught.value.exceptions] == [IOClosedError]


async def test_a_job_of_a_process_with_other_connectors() -> None:
    class Silent(Component):
        io = IOController(inputs=["x"], outputs=["y"])

        async def step(self) -> None:
            """Sends nothing."""

    def make(*wires: tuple[str, str]) -> LocalProcess:
        parts = [Count(30, name="a"), Silent(name="b"), Join(name="join"), Keep(name="sink")]
        connectors = [wire(*one, maxsize=1) for one in (*wires, ("a.y", "b.x"), ("join.y", "sink.x"))]
        return LocalProcess(parts, connectors, state=state, checkpoint_every=0.000001)

    # given a job with values that wait for room
    state = Lasting(job_id=JOB)
    async with asyncio.timeout(5):
        async with make(("a.y", "join.a"), ("b.y", "join.b")) as process:
            for _ in range(4):
                await process.step()
        # when it is to go on with another process
        other = make(("b.y", "join.a"), ("a.y", "join.b"))
        with pytest.raises(StateError, match=r"over 'a\.y\.\.join\.a', which is no connector"):
            await other.init()
        # then it is free for the right one
        async with make(("a.y", "join.a"), ("b.y", "join.b")) as process:
            await process.step()


class Sticks(Count):
    """Cannot be ended in order."""

    async def destroy(self) -> None:
        raise OSError("connection already closed")


async def test_a_destroy_that_fails_does_not_hide_why_the_model_failed() -> None:
    source, bad = Sticks(9, name="a"), Fail(2, name="b")
    with pytest.raises(ExceptionGroup) as caught:
        async with local([source, bad], ("a.y", "b.x")) as process:
            await process.run()
    assert [type(error) for error in caught.value.exceptions] == [ValueError, OSError]
    assert caught.value.exceptions[1].__notes__ == ["component 'a', destroy"]


async def test_nor_why_what_its_user_did_failed() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with local([Sticks(9, name="a"), Keep(name="b")], ("a.y", "b.x")):
            raise KeyError("mine")
    assert [type(error) for error in caught.value.exceptions] == [KeyError, OSError]


async def test_nor_why_it_could_not_be_initialised() -> None:
    class Cannot(Keep):
        async def init(self) -> None:
            raise KeyError("no")

    with pytest.raises(ExceptionGroup) as caught:
        async with local([Sticks(9, name="a"), Cannot(name="b")], ("a.y", "b.x")):
            raise AssertionError("not reached")
    assert [type(error) for error in caught.value.exceptions] == [KeyError, OSError]


class Scales(Component):
    """Multiplies by what it is given; counts, and keeps a list, in attributes of its own."""

    io = IOController(inputs=["x"], outputs=["y"])
    x: int
    y: int

    def __init__(self, factor: int, fails: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.factor, self.fails = factor, fails
        self.count = 0
        self.seen: list[int] = []

    async def step(self) -> None:
        """Multiply."""
        if self.fails and self.count == 3:
            raise ValueError("a wrong argument")
        self.count += 1
        self.seen.append(self.x)
        self.y = self.factor * self.x


async def test_a_job_that_goes_on_takes_the_arguments_of_the_new_program() -> None:
    state = Lasting(job_id=JOB)

    def job(factor: int, fails: bool) -> LocalProcess:
        components = [Count(6, name="a"), Scales(factor, fails, name="b"), Keep(name="sink")]
        return local(components, ("a.y", "b.x"), ("b.y", "sink.x"), name="job", state=state, checkpoint_every=1e-6)

    with pytest.raises(ExceptionGroup, match="components failed"):
        async with asyncio.timeout(30), job(10, fails=True) as process:
            for _ in range(3):
                await process.step()
            await process.run()
    async with asyncio.timeout(30), job(100, fails=False) as process:
        await process.run()
        scales = process.components["b"]
    assert isinstance(scales, Scales)
    # what the steps changed was kept, and what they did not change is the new program's
    assert (scales.count, scales.seen) == (6, [0, 1, 2, 3, 4, 5])
    assert got(process) == [0, 10, 20, 300, 400, 500]


async def test_long_sync_steps_let_others_have_the_event_loop_between_any_two() -> None:
    class Slow(Component):
        io = IOController()
        steps = 0

        def step(self) -> None:  # type: ignore[override]
            self.steps += 1
            time.sleep(0.1)

    slow = Slow(name="slow")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.15), LocalProcess([slow], []) as process:
            await process.run()
    # Without that there are 64 before a deadline is looked at.
    assert slow.steps <= 4
