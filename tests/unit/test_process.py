"""Processes, and what they are given when they run."""

from __future__ import annotations

import asyncio
import copy
import functools
import pickle
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from stbass import ALT, PAR, SEQ, TIMER, Chan, Guard, Placement, Process, ProcessResult, observe
from stbass._process.context import ProcessContext
from stbass.errors import ChannelTopologyError, NotTransportable
from stbass.process import FunctionProcess, known_processes, reference_of
from stbass.timer import TimerExpired


@Process
async def agent(ctx: ProcessContext) -> ProcessResult:
    """Answers."""
    return ProcessResult.ok("result")


@Process
def sync_agent(ctx: ProcessContext) -> str:
    return threading.current_thread().name


class Researcher(Process):
    # Does not call super().__init__().
    def __init__(self, topic: str) -> None:
        self.topic = topic

    async def run(self, ctx: ProcessContext) -> ProcessResult:
        return ProcessResult.ok({"topic": self.topic})


def context(name: str = "p", **options: Any) -> ProcessContext:
    return ProcessContext(name, **options)


# Making processes --------------------------------------------------------------------------------


def test_the_functions_name_is_the_processs_name() -> None:
    assert agent.name == "agent"
    assert agent.__doc__ == "Answers."


def test_decorator_arguments() -> None:
    opus = Placement(model="opus")

    @Process(name="custom", placement=opus)
    async def other(ctx: ProcessContext) -> None: ...

    assert other.name == "custom"
    assert other.placement == opus
    assert agent.placement is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Process(3), "use @Process"),  # type: ignore[call-overload]
        (lambda: Process(nonsense=1), "nonsense"),  # type: ignore[call-overload]
        (lambda: Process(Researcher), "not on"),  # type: ignore[arg-type]
        (lambda: Process(agent), "not on"),  # type: ignore[arg-type]
        (lambda: Process(name="")(lambda ctx: None), "empty"),
        (lambda: Process(name=3)(lambda ctx: None), "str"),  # type: ignore[call-overload]
        (lambda: Process(placement="opus")(lambda ctx: None), "Placement"),  # type: ignore[call-overload]
        (lambda: Process(name="x")(3), "function"),  # type: ignore[call-overload]
    ],
)
def test_the_decorator_refuses_what_it_cannot_use(make: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def test_a_subclass_is_named_after_its_class() -> None:
    assert Researcher("csp").name == "Researcher"


def test_a_subclass_without_init_takes_no_arguments() -> None:
    class Plain(Process):
        async def run(self, ctx: ProcessContext) -> None: ...

    with pytest.raises(TypeError, match="no __init__"):
        Plain(1)  # type: ignore[call-overload]


def test_a_process_is_not_called() -> None:
    with pytest.raises(TypeError, match="not called"):
        agent(context())  # type: ignore[call-arg]


async def test_a_subclass_must_have_run() -> None:
    class Empty(Process): ...

    result = await Empty().execute(context())
    assert isinstance(result.failure.error, NotImplementedError)


def test_process_id_is_fresh_at_each_access() -> None:
    ids = {agent.process_id for _ in range(1000)}
    assert len(ids) == 1000
    assert {uuid.UUID(one).version for one in ids} == {4}


def test_copies_compose_and_leave_the_original_alone() -> None:
    channel: Chan[int] = Chan(int)
    made = agent.with_name("other").optional().with_channels(a=channel).with_channels(b=channel)
    assert (made.name, made.is_optional, set(made.bound_channels)) == ("other", True, {"a", "b"})
    assert (agent.name, agent.is_optional, dict(agent.bound_channels)) == ("agent", False, {})
    research = Researcher("x").optional().with_name("y")
    assert (research.topic, research.is_optional, research.name) == ("x", True, "y")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda: agent.with_name(""), ValueError),
        (lambda: agent.with_name(3), TypeError),  # type: ignore[arg-type]
        (lambda: agent.with_channels(a=3), TypeError),  # type: ignore[arg-type]
    ],
)
def test_copies_refuse_nonsense(change: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        change()


def test_processes_of_a_module_are_known_by_reference() -> None:
    assert known_processes()[f"{__name__}:agent"] is agent
    assert known_processes()[reference_of(Researcher)] is Researcher


def test_a_function_process_is_pickled_by_reference() -> None:
    changed = agent.with_name("other").optional()
    found = pickle.loads(pickle.dumps(changed))
    assert isinstance(found, FunctionProcess)
    assert isinstance(agent, FunctionProcess)
    assert (found.name, found.is_optional, found.function) == ("other", True, agent.function)
    assert pickle.loads(pickle.dumps(Researcher("x"))).topic == "x"


def test_a_local_function_process_is_copied_but_not_pickled() -> None:
    @Process
    async def local(ctx: ProcessContext) -> None: ...

    assert isinstance(copy.deepcopy(local), FunctionProcess)
    assert copy.copy(local).name == "local"
    with pytest.raises(NotTransportable, match="top level of a module"):
        pickle.dumps(local)


# Running -----------------------------------------------------------------------------------------


async def test_execute_gives_the_result_with_its_times() -> None:
    before = datetime.now(UTC)
    ctx = context("me", parent="somebody", placement=Placement(model="m"))
    result = await agent.execute(ctx)
    assert result == ProcessResult.ok("result")
    assert result.elapsed is not None
    assert timedelta() <= result.elapsed < timedelta(seconds=5)
    run = result.run
    assert run is not None
    assert (run.process_name, run.process_id, run.placement) == ("me", ctx.process_id, Placement(model="m"))
    assert run.started_at is not None
    assert run.ended_at is not None
    assert before - timedelta(seconds=1) <= run.started_at <= run.ended_at


async def test_a_plain_value_is_a_success() -> None:
    @Process
    async def plain(ctx: ProcessContext) -> list[int]:
        return [1]

    assert (await plain.execute(context())).value == [1]


async def test_a_sync_function_runs_in_a_thread() -> None:
    assert (await sync_agent.execute(context())).value != threading.current_thread().name


async def test_partial_and_callable_objects_are_functions_too() -> None:
    async def add(first: int, ctx: ProcessContext) -> int:
        return first + 1

    class Callable:
        async def __call__(self, ctx: ProcessContext) -> str:
            return ctx.process_name

    assert (await Process(functools.partial(add, 1)).execute(context())).value == 2
    assert (await Process(Callable()).execute(context("x"))).value == "x"
    # A plain function may also give back something to await.
    assert (await Process(lambda ctx: add(2, ctx)).execute(context())).value == 3


async def test_an_exception_is_a_failure_with_all_that_is_known() -> None:
    channel: Chan[int] = Chan(int, name="c")

    @Process
    async def broken(ctx: ProcessContext) -> None:
        ctx.checkpoint("one")
        ctx.checkpoint({"two": 2})
        raise ValueError("no good")

    ctx = context("broken", parent="PAR", placement=Placement(endpoint="e"))
    result = await broken.with_channels(c=channel).execute(ctx)
    failure = result.failure
    assert result.is_fail
    assert repr(failure.error) == "ValueError('no good')"
    assert (failure.process_name, failure.process_id, failure.parent_process) == ("broken", ctx.process_id, "PAR")
    assert failure.placement == Placement(endpoint="e")
    assert failure.checkpoint == {"two": 2}
    assert failure.channel_state["c"]["sent"] == 0
    assert "broken" in failure.traceback_str
    assert "no good" in failure.traceback_str
    assert failure.elapsed is not None
    assert result.elapsed is not None
    with pytest.raises(ValueError, match="no good"):
        _ = result.value


async def test_a_returned_failure_is_completed() -> None:
    @Process
    async def refuses(ctx: ProcessContext) -> ProcessResult:
        ctx.checkpoint("here")
        return ProcessResult.fail(PermissionError("no"))

    ctx = context("refuses", parent="p")
    failure = (await refuses.execute(ctx)).failure
    assert (failure.process_name, failure.process_id) == ("refuses", ctx.process_id)
    assert (failure.checkpoint, failure.parent_process) == ("here", "p")
    assert failure.started_at is not None


async def test_a_failure_that_names_its_process_is_left_alone() -> None:
    inner = ProcessResult.fail(ValueError(), process_name="elsewhere", checkpoint=1)

    @Process
    async def passes_on(ctx: ProcessContext) -> ProcessResult:
        return inner

    assert (await passes_on.execute(context())).failure is inner.failure


@pytest.mark.parametrize("error", [asyncio.CancelledError, KeyboardInterrupt, SystemExit])
async def test_what_ends_programs_passes_through(error: type[BaseException]) -> None:
    @Process
    async def ends(ctx: ProcessContext) -> None:
        raise error

    with pytest.raises(error):
        await ends.execute(context())


# Contexts ----------------------------------------------------------------------------------------


def test_a_context_has_an_id_of_its_own() -> None:
    one, other = context(), context()
    assert one.process_id == one.process_id != other.process_id
    assert context(process_id="given").process_id == "given"


def test_ids_are_the_same_for_threads_that_ask_at_once() -> None:
    ctx = context()
    found: list[str] = []
    start = threading.Barrier(8)

    def ask() -> None:
        start.wait()
        found.append(ctx.process_id)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1


def test_repr_shows_what_is_public() -> None:
    shown = repr(context("me", process_id="1"))
    assert "process_name='me'" in shown
    assert "_sink" not in shown


@pytest.mark.parametrize("zone", [UTC, None])
def test_deadlines_with_and_without_a_zone(zone: Any) -> None:
    ctx = context(deadline=datetime.now(zone) + timedelta(seconds=60))
    assert ctx.remaining is not None
    assert 59 < ctx.remaining <= 60
    assert context(deadline=datetime.now(zone) - timedelta(seconds=60)).remaining == 0
    assert context().remaining is None


def test_a_child_has_the_nearest_deadline() -> None:
    parent = context(deadline=datetime.now(UTC) + timedelta(seconds=10))
    now = time.monotonic()
    for deadline_at, remaining in ((None, 10), (now + 5, 5), (now + 15, 10)):
        assert parent.child("c", deadline_at=deadline_at).remaining == pytest.approx(remaining, abs=0.5)
    child = parent.child("c")
    assert child.deadline is not None
    assert child.deadline.tzinfo is not None
    assert child.parent == parent.process_name


async def test_channels_by_name() -> None:
    numbers: Chan[int] = Chan(int, name="numbers")
    ctx = context("me", channels={"numbers": numbers})
    assert ctx.get_channel("numbers") is numbers
    with pytest.raises(KeyError, match=r"no channel 'words'.*numbers"):
        ctx.get_channel("words")
    receiving = asyncio.ensure_future(numbers.recv())
    await ctx.send("numbers", 3)
    assert await receiving == 3
    with pytest.raises(KeyError):
        await ctx.send("words", 1)


async def test_a_process_holds_its_ends_until_it_ends() -> None:
    numbers: Chan[int] = Chan(int, name="numbers")

    @Process
    async def writer(ctx: ProcessContext) -> None:
        await ctx.send("numbers", 1)
        await ctx.send("numbers", 2)

    writing = asyncio.ensure_future(writer.with_channels(numbers=numbers).execute(context("writer")))
    async with asyncio.timeout(5):
        await numbers.readable()
        intruder = context("intruder", channels={"numbers": numbers})
        with pytest.raises(ChannelTopologyError):
            await intruder.send("numbers", 9)
        assert [await numbers.recv(), await numbers.recv()] == [1, 2]
        assert (await writing).is_ok
    assert not numbers.writer_attached


async def test_events_tell_what_happens() -> None:
    seen: list[observe.Event] = []

    @Process
    async def talks(ctx: ProcessContext) -> int:
        ctx.checkpoint("c")
        ctx.progress(1, 2, "half")
        return 5

    with observe.subscribe(seen.append):
        await talks.execute(context("talks"))
    assert [event.kind for event in seen] == ["started", "checkpoint", "progress", "ended"]
    assert (seen[2].done, seen[2].total, seen[2].note) == (1, 2, "half")
    assert seen[3].result is not None
    assert seen[3].result.value == 5


async def test_an_expired_timer_tells_the_last_checkpoint_of_its_process() -> None:
    @Process
    async def waits(ctx: ProcessContext) -> Any:
        ctx.checkpoint("before")
        return await ALT(Guard(TIMER(0.001)))

    @Process
    async def waits_too(ctx: ProcessContext) -> Any:
        return await ALT(Guard(TIMER(0.001)))

    result = await SEQ(waits, waits_too).run()
    first, second = (one.value for one in result.results)
    assert isinstance(first, TimerExpired)
    assert first.last_checkpoint == "before"
    # What an earlier stage has saved is not a later one's.
    assert second.last_checkpoint is None


async def test_bound_channels_arrive_in_every_composition() -> None:
    words: Chan[str] = Chan(str, name="words")

    @Process
    async def says(ctx: ProcessContext) -> None:
        await ctx.send("words", "hello")

    @Process
    async def hears(ctx: ProcessContext) -> Any:
        return await ctx.recv("words")

    plain = says, hears
    says, hears = says.with_channels(words=words), hears.with_channels(words=words)
    async with asyncio.timeout(5):
        assert (await PAR(says, hears).run()).value == [None, "hello"]
        assert (await PAR(SEQ(says), SEQ(hears)).run()).value == [None, "hello"]
    # And those of a composition are its processes' too.
    async with asyncio.timeout(5):
        assert (await PAR(*plain).with_channels(words=words).run()).value == [None, "hello"]
