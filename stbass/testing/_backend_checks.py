"""The checks that every backend passes, by name."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any

from stbass._process.context import Composable, ProcessContext, changed, frame_of
from stbass._values.checks import is_whole
from stbass._values.outcome import ProcessResult
from stbass._values.policy import FailurePolicy
from stbass.channel import Chan
from stbass.errors import ChannelTopologyError, DeadlineExceeded, NotTransportable, ProcessCancelled
from stbass.par import PAR
from stbass.placement import PLACED_PAR
from stbass.process import Process
from stbass.seq import SEQ
from stbass.testing import backend_agents as agents
from stbass.testing._backend_bench import BackendBench, BackendCheck
from stbass.testing._checks import name_of_check, require

__all__ = ["BACKEND_CHECKS"]

BACKEND_CHECKS: dict[str, BackendCheck] = {}

_MANY = 40
_SOON = 1.5
_PATIENCE = 30.0
_SLACK = 10.0
"""How much later than it should a busy machine may answer."""


def _check(function: BackendCheck) -> BackendCheck:
    BACKEND_CHECKS[name_of_check(function)] = function
    return function


async def _run(bench: BackendBench, process: Composable, **context: Any) -> ProcessResult:
    """Execute one process directly on the backend."""
    ctx = ProcessContext(process.name, placement=bench.placement, **context)
    result: object = await bench.backend.execute(process, ctx)
    require(isinstance(result, ProcessResult), f"execute gave {result!r}, which is not a ProcessResult")
    assert isinstance(result, ProcessResult)
    return result


def _value(result: ProcessResult, name: str) -> Any:
    require(result.is_ok, f"{name} failed: {result.failure.detailed if result.is_fail else ''}")
    return result.value


# What it says of itself --------------------------------------------------------------------------


@_check
async def describes_itself(bench: BackendBench) -> None:
    """Name, limit and health are of the right types."""
    backend = bench.backend
    limit: object = backend.concurrency_limit
    name: object = backend.name
    require(isinstance(name, str) and name, f"its name is {name!r}")
    require(
        limit is None or (is_whole(limit) and limit >= 1),
        f"its concurrency_limit is {limit!r}; it must be None or a whole number of at least 1",
    )
    require(backend.deadline_grace >= 0, f"its deadline_grace is {backend.deadline_grace!r}")
    require(await backend.health_check() is True, "health_check() is not True, so the other checks say nothing")


# Results -----------------------------------------------------------------------------------------


@_check
async def values_come_back(bench: BackendBench) -> None:
    """A process's value comes back as it is."""
    for value in (None, 0, True, "é", b"\x00", 1.5, 2**70, [1, [2]], {"a": {"b": [None]}}, ("t", 1), {1, 2}):
        found = _value(await _run(bench, agents.Echo(value)), f"Echo({value!r})")
        require(found == value and type(found) is type(value), f"{value!r} came back as {found!r}")


@_check
async def results_are_timed(bench: BackendBench) -> None:
    """A result says how long the process ran, and which it was."""
    result = await _run(bench, agents.Echo(1).with_name("timed"))
    require(result.elapsed is not None, "elapsed is None")
    require(result.run is not None and result.run.process_name == "timed", f"run is {result.run!r}")


@_check
async def exceptions_are_failures(bench: BackendBench) -> None:
    """What a process raises is a failure, with all that is known of it."""
    ctx = ProcessContext("failing", placement=bench.placement, parent="somebody")
    result = await bench.backend.execute(agents.failing, ctx)
    require(result.is_fail, f"the result is {result!r}")
    failure = result.failure
    require(type(failure.error) is KeyError, f"the error is {failure.error!r}, not the KeyError that was raised")
    require(failure.error.args == ("what is missing",), f"the error's arguments are {failure.error.args!r}")
    require(failure.process_name == "failing", f"process_name is {failure.process_name!r}")
    require(failure.process_id == ctx.process_id, "process_id is not the context's")
    require(failure.parent_process == "somebody", f"parent_process is {failure.parent_process!r}")
    require(failure.placement == bench.placement, f"placement is {failure.placement!r}")
    require(failure.checkpoint == {"step": 2}, f"checkpoint is {failure.checkpoint!r}")
    require("what is missing" in failure.traceback_str, "traceback_str does not show where it was raised")
    require(failure.started_at is not None and failure.elapsed is not None, "started_at is None")


@_check
async def returned_failures_come_back(bench: BackendBench) -> None:
    """A failure that a process returns is its result."""
    result = await _run(bench, agents.refuse)
    require(result.is_fail and type(result.failure.error) is PermissionError, f"the result is {result!r}")
    require(result.failure.process_name == "refuse", f"process_name is {result.failure.process_name!r}")


@_check
async def sync_functions_run(bench: BackendBench) -> None:
    """A sync function runs beside the event loop."""
    require(_value(await _run(bench, agents.sync_thread), "sync_thread") is True, "it ran in the main thread")


@_check
async def context_arrives(bench: BackendBench) -> None:
    """A process knows its name, id, parent, placement and deadline."""
    ctx = ProcessContext("me", placement=bench.placement, parent="somebody")
    frame_of(ctx).limit(time.monotonic() + 60.0)
    found = _value(await bench.backend.execute(agents.context_of.with_name("me"), ctx), "context_of")
    for name in ("process_name", "process_id", "parent", "placement", "attempt"):
        require(found[name] == getattr(ctx, name), f"ctx.{name} was {found[name]!r}, not {getattr(ctx, name)!r}")
    require(found["remaining"] is not None and 0 < found["remaining"] <= 60, f"ctx.remaining was {found['remaining']}")


# Compositions ------------------------------------------------------------------------------------


@_check
async def compositions_run(bench: BackendBench) -> None:
    """A composition runs there like a process, at any depth."""
    tree = SEQ(agents.Echo(1), PAR(agents.increment, SEQ(agents.increment, agents.increment)))
    require(_value(await _run(bench, tree), "a composition") == [2, 3], "a wrong value came back")
    failed = await _run(bench, PAR(agents.Echo(1), agents.failing, on_failure=FailurePolicy.COLLECT))
    require(failed.is_fail, f"the result is {failed!r}")
    error = failed.failure.error
    require(isinstance(error, ExceptionGroup), f"the error is {error!r}, not an ExceptionGroup")
    assert isinstance(error, ExceptionGroup)
    require([type(one) for one in error.exceptions] == [KeyError], f"its exceptions are {error.exceptions!r}")


@_check
async def stages_pass_values_on(bench: BackendBench) -> None:
    """Stages of a sequence that run there find their input, and pass on what they send."""
    stages = (agents.Echo(1), agents.increment, agents.several, agents.sum_of_three)
    result = await SEQ(*(_placed(bench, stage) for stage in stages), registry=bench.registry).run()
    require(result.is_ok, f"it failed: {[failure.detailed for failure in result.failures]}")
    require(result.value == 2 + 3 + 4, f"the value is {result.value!r}")
    require([one.value for one in result.results] == [1, 2, 4, 9], f"the results are {result.results!r}")


def _placed(bench: BackendBench, process: Process) -> Process:
    return changed(process, placement=bench.placement)


@_check
async def many_at_once(bench: BackendBench) -> None:
    """Many processes give their results in order."""
    pairs = [bench.pair(agents.Echo(index)) for index in range(_MANY)]
    result = await PLACED_PAR(*pairs, registry=bench.registry).run()
    require(result.is_ok, f"some failed: {[failure.summary for failure in result.failures]}")
    require(result.value == list(range(_MANY)), f"the values are {result.value}")


@_check
async def optional_failures_halt_nobody(bench: BackendBench) -> None:
    """An optional process that fails leaves the others running and the whole in order."""
    held = bench.held("other")
    running = asyncio.ensure_future(
        PLACED_PAR(bench.pair(agents.failing.optional()), bench.pair(held), registry=bench.registry).run()
    )
    visitor = await bench.arrival()
    visitor.let_go()
    result = await running
    require(result.is_ok, f"the result is {result!r}")
    require([failure.process_name for failure in result.failures] == ["failing"], f"failures: {result.failures}")


@_check
async def limit_is_kept(bench: BackendBench) -> None:
    """Never more processes than ``concurrency_limit`` run at once."""
    limit = bench.backend.concurrency_limit
    if limit is None or limit > _MANY:
        return
    count = limit + 3
    held = [bench.pair(bench.held(str(index))) for index in range(count)]
    running = asyncio.ensure_future(PLACED_PAR(*held, registry=bench.registry).run())
    inside = [await bench.arrival() for _ in range(limit)]
    # Whoever comes next can come only when one of them has been let go.
    for _ in range(count - limit):
        require(bench.nobody_called, f"more than {limit} run at once")
        inside.pop(0).let_go()
        inside.append(await bench.arrival())
    require(bench.nobody_called, f"more than {limit} run at once")
    for visitor in inside:
        visitor.let_go()
    result = await running
    require(result.is_ok, f"some failed: {[failure.summary for failure in result.failures]}")


@_check
async def composition_inside_its_own_limit(bench: BackendBench) -> None:
    """A composition on the backend can place its processes there too, however low the limit is."""
    inner = PLACED_PAR(bench.pair(agents.Echo(1)), bench.pair(agents.Echo(2)))
    limit = bench.backend.concurrency_limit
    count = 2 if limit is None or limit > _MANY else limit + 1
    result = await PLACED_PAR(*[bench.pair(inner)] * count, registry=bench.registry).run()
    require(result.value == [[1, 2]] * count, f"the result is {result!r}")


@_check
async def processes_that_run_others_inside_the_limit(bench: BackendBench) -> None:
    """A process on the backend can run a composition in its own code, which is placed there too."""
    limit = bench.backend.concurrency_limit
    count = 2 if limit is None or limit > _MANY else limit + 1
    for agent, wanted in ((agents.runs_two, [True, 1, 3]), (agents.runs_two_in_thread, [1, 2])):
        pairs = [bench.pair(agent)] * count
        result = await PLACED_PAR(*pairs, registry=bench.registry, deadline=_PATIENCE).run()
        require(result.value == [wanted] * count, f"the result of {agent.name} is {result!r}")


# The end -----------------------------------------------------------------------------------------


@_check
async def cancellation_arrives(bench: BackendBench) -> None:
    """Cancelling ``execute`` cancels the process, and the backend goes on."""
    running = asyncio.ensure_future(_run(bench, bench.held("cancelled one")))
    visitor = await bench.arrival()
    running.cancel()
    await _cancelled(running)
    require(await visitor.last_words() == "cancelled", "the process was not cancelled")
    require(_value(await _run(bench, agents.Echo(1)), "Echo") == 1, "nothing runs after a cancellation")


async def _cancelled(running: asyncio.Future[ProcessResult]) -> None:
    try:
        result = await running
    except asyncio.CancelledError:
        return
    raise AssertionError(f"execute was cancelled and gave {result!r}, instead of raising CancelledError")


@_check
async def halt_cancels(bench: BackendBench) -> None:
    """A failure halts the others, which say so."""
    held = bench.held("halted one")
    barrier = asyncio.Event()

    @Process
    async def fails_when_told(ctx: ProcessContext) -> None:
        await barrier.wait()
        raise ValueError("enough")

    running = asyncio.ensure_future(PLACED_PAR(bench.pair(held), fails_when_told, registry=bench.registry).run())
    visitor = await bench.arrival()
    barrier.set()
    result = await running
    require(await visitor.last_words() == "cancelled", "the process was not cancelled")
    error = result.results[0].failure.error
    require(isinstance(error, ProcessCancelled), f"its error is {error!r}, not ProcessCancelled")
    require("fails_when_told" in str(error), f"its error does not say who failed: {error}")


@_check
async def deadline_ends_it(bench: BackendBench) -> None:
    """What has not ended at the deadline is cancelled, and fails with its last checkpoint; what has ended is kept."""
    grace = bench.backend.deadline_grace
    pairs = (bench.pair(agents.Echo(1)), bench.pair(bench.held("late one")))
    # Once, so that what the backend has to start first is there, for as many at once.
    warm = PLACED_PAR(*[bench.pair(agents.Echo(0)) for _ in pairs], registry=bench.registry)
    require((await warm.run()).is_ok, "Echo failed")
    begun = time.monotonic()
    result = await PLACED_PAR(*pairs, on_failure=FailurePolicy.COLLECT, deadline=_SOON, registry=bench.registry).run()
    taken = time.monotonic() - begun
    require(taken <= _SOON + grace + _SLACK, f"it took {taken:.2f} s with a deadline of {_SOON} s")
    require(result.results[0].is_ok, f"the other one did not end well: {result.results[0]!r}")
    failure = result.results[1].failure
    require(isinstance(failure.error, DeadlineExceeded), f"its error is {failure.error!r}, not DeadlineExceeded")
    require(failure.checkpoint == "late one waits", f"its checkpoint is {failure.checkpoint!r}")
    visitor = await bench.arrival()
    require(await visitor.last_words() in ("cancelled", ""), "the process was not ended")


@_check
async def own_cancellation_is_a_failure(bench: BackendBench) -> None:
    """A process that raises CancelledError of its own accord fails, and cancels nobody."""
    result = await PLACED_PAR(
        bench.pair(agents.give_up),
        bench.pair(agents.Echo(1)),
        on_failure=FailurePolicy.COLLECT,
        registry=bench.registry,
    ).run()
    error = result.results[0].failure.error
    require(isinstance(error, ProcessCancelled), f"its error is {error!r}, not ProcessCancelled")
    require(result.results[1].is_ok, f"the other one did not end well: {result.results[1]!r}")


# What cannot go ----------------------------------------------------------------------------------


@_check
async def refuses_before_anything_starts(bench: BackendBench) -> None:
    """A process that the backend cannot take is refused before any other has started; else it runs."""

    @Process
    async def local(ctx: ProcessContext) -> str:
        return "here"

    composition = PLACED_PAR(bench.pair(agents.Echo(1)), bench.pair(local), registry=bench.registry)
    result = await _or_refused(composition.run())
    require(result is None or result.value == [1, "here"], f"the result is {result!r}")


@_check
async def channels_reach_there(bench: BackendBench) -> None:
    """A process there talks to one here; or is refused before any has started."""
    words: Chan[str] = Chan(str, name="words")
    composition = PLACED_PAR(
        bench.pair(agents.say_hello.with_channels(words=words)),
        agents.take_word.with_channels(words=words),
        registry=bench.registry,
    )
    result = await _or_refused(composition.run())
    require(result is None or result.value == [None, "hello"], f"the result is {result!r}")


async def _or_refused(running: Awaitable[Any]) -> Any:
    """The result, or None if it was refused the right way."""
    try:
        return await running
    except (NotTransportable, ChannelTopologyError) as error:
        require(len(str(error)) > 20, f"the refusal does not say why: {error}")
        return None
