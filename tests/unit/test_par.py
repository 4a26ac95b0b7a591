"""Processes at once, and the engine under every composition."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stbass import PAR, PLACED_PAR, SEQ, Chan, FailurePolicy, Placement, Process, ProcessResult, observe
from stbass._engine.registry import BackendRegistry
from stbass._engine.supervise import Child, supervise
from stbass._process.context import ProcessContext
from stbass.errors import ChannelTopologyError, DeadlineExceeded, ProcessCancelled
from stbass.par import PARResult
from stbass.result import Budget, RetryPolicy
from tests.support.compose import Gate, boom, forever, give

COLLECT = FailurePolicy.COLLECT


def kinds(result: PARResult) -> list[str]:
    """What came of each, by the name of its error."""
    return ["ok" if one.is_ok else type(one.failure.error).__name__ for one in result.results]


# Results -----------------------------------------------------------------------------------------


async def test_all_run_at_once() -> None:
    gate = Gate()
    running = asyncio.ensure_future(PAR(*(gate.process(name) for name in "abc")).run())
    assert [await gate.arrival() for _ in range(3)] == ["a", "b", "c"]
    gate.opened.set()
    result = await running
    assert (result.is_ok, result.value, result.group) == (True, ["a", "b", "c"], None)


async def test_of_very_many_only_some_begin_in_one_turn_of_the_event_loop() -> None:
    turn, began = 0, Counter[int]()

    async def count_turns() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    @Process
    async def note(ctx: ProcessContext) -> None:
        began[turn] += 1

    counting = asyncio.create_task(count_turns())
    result = await PAR(*[note] * 1000).run()
    counting.cancel()
    assert result.is_ok
    assert sum(began.values()) == 1000
    assert max(began.values()) <= 250, began


async def test_of_very_many_as_many_run_at_once_as_the_limit_says() -> None:
    running = peak = 0
    full = asyncio.Event()

    @Process
    async def wait_for_the_others(ctx: ProcessContext) -> None:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        if running == 600:
            full.set()
        await full.wait()
        running -= 1

    result = await asyncio.wait_for(PAR(*[wait_for_the_others] * 2000, limit=600).run(), 30)
    assert (result.is_ok, peak) == (True, 600)


async def test_of_very_many_none_begins_after_one_has_failed() -> None:
    result = await PAR(boom, *[give(1)] * 1000).run()
    assert "was not started" in str(result.results[-1].failure.error)


async def test_very_many_that_are_cancelled_while_they_are_started_leave_nothing() -> None:
    running = asyncio.create_task(PAR(*[forever] * 1000).run())
    for _ in range(3):
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_those_that_others_make_ready_start_also_while_very_many_are_started() -> None:
    owner = ProcessContext("all")
    children = [Child(give(number), ProcessContext(str(number))) for number in range(1600)]
    following = {number: [number + 800] for number in range(800)}
    results = await supervise(
        children, owner, COLLECT, first=range(800), then=lambda index, _: following.get(index, [])
    )
    assert [one.value for one in results] == list(range(1600))


async def test_results_are_in_the_order_of_declaration() -> None:
    first: Chan[int] = Chan(int)

    @Process
    async def last_to_end(ctx: ProcessContext) -> str:
        await first.recv()
        return "declared first"

    @Process
    async def first_to_end(ctx: ProcessContext) -> str:
        await first.send(1)
        return "declared second"

    result = await PAR(last_to_end, first_to_end).run()
    assert result.value == ["declared first", "declared second"]


async def test_collect_keeps_everything() -> None:
    result = await PAR(give(1), boom, give(3), on_failure=COLLECT).run()
    assert (result.is_ok, result.value, kinds(result)) == (False, [1, 3], ["ok", "ValueError", "ok"])
    assert [one.value for one in result.successes] == [1, 3]
    assert [(failure.process_name, failure.parent_process) for failure in result.failures] == [("boom", "PAR")]


async def test_an_empty_par() -> None:
    result = await PAR().run()
    assert (result.is_ok, result.results, result.value) == (True, [], [])


async def test_the_same_process_many_times() -> None:
    assert (await PAR(*[give(1)] * 3).run()).value == [1, 1, 1]


# HALT --------------------------------------------------------------------------------------------


async def test_halt_cancels_the_rest_and_says_why() -> None:
    gate = Gate()
    result = await PAR(gate.process("waits"), boom).run()
    assert kinds(result) == ["ProcessCancelled", "ValueError"]
    error = result.failures[0].error
    assert isinstance(error, ProcessCancelled)
    assert "'waits'" in str(error)
    assert "'boom' failed (ValueError: boom)" in str(error)
    assert error.__dict__["halted_by"] == "boom"
    assert gate.cancelled == ["waits"]


async def test_those_that_never_started_say_so() -> None:
    # The failing one runs first, so that the others are cancelled before their first step.
    result = await PAR(boom, give(1), give(2)).run()
    assert kinds(result) == ["ValueError", "ProcessCancelled", "ProcessCancelled"]
    assert "was not started" in str(result.failures[1].error)
    assert result.failures[1].started_at is None


async def test_an_optional_failure_neither_halts_nor_counts() -> None:
    gate = Gate()
    running = asyncio.ensure_future(PAR(boom.optional(), gate.process("a")).run())
    await gate.arrival()
    gate.opened.set()
    result = await running
    assert (result.is_ok, result.value) == (True, ["a"])
    assert [failure.process_name for failure in result.failures] == ["boom"]


async def test_what_a_process_makes_of_its_cancellation_counts() -> None:
    @Process
    async def finishes(ctx: ProcessContext) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "finished anyway"
        return ""

    @Process
    async def trips(ctx: ProcessContext) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise KeyError("while cleaning up")

    result = await PAR(finishes, trips, boom).run()
    assert kinds(result) == ["ok", "KeyError", "ValueError"]


async def test_a_process_that_cancels_itself_fails() -> None:
    @Process
    async def gives_up(ctx: ProcessContext) -> None:
        raise asyncio.CancelledError

    result = await PAR(gives_up, give(1), on_failure=COLLECT).run()
    assert kinds(result) == ["ProcessCancelled", "ok"]
    assert "though nobody cancelled it" in str(result.failures[0].error)


# The deadline ------------------------------------------------------------------------------------


async def test_the_deadline_cancels_what_has_not_ended() -> None:
    began = time.monotonic()
    result = await PAR(give(1), forever, forever, deadline=0.1).run()
    assert time.monotonic() - began < 20
    assert kinds(result) == ["ok", "DeadlineExceeded", "DeadlineExceeded"]
    for failure in result.failures:
        error = failure.error
        assert isinstance(error, DeadlineExceeded)
        assert isinstance(error, TimeoutError)
        assert "0.1 s" in str(error)
        assert (error.deadline, error.phase, failure.checkpoint) == (0.1, "running", "waiting")
        assert failure.started_at is not None


async def test_an_optional_one_may_miss_the_deadline() -> None:
    result = await PAR(give(1), forever.optional(), deadline=0.05).run()
    assert (result.is_ok, result.value) == (True, [1])


async def test_what_waits_for_its_turn_at_the_deadline_never_runs() -> None:
    gate = Gate()
    result = await PAR(*(gate.process(str(i)) for i in range(5)), limit=2, deadline=0.05).run()
    assert gate.most == 2
    phases = [failure.error.phase for failure in result.failures if isinstance(failure.error, DeadlineExceeded)]
    assert phases == ["running", "running", "queued", "queued", "queued"]


async def test_deadlines_nest_and_the_nearest_counts() -> None:
    seen: list[float | None] = []

    @Process
    async def looks(ctx: ProcessContext) -> None:
        seen.append(ctx.remaining)

    await PAR(SEQ(PAR(looks, deadline=100)), looks, deadline=10).run()
    await PAR(SEQ(PAR(looks, deadline=1)), looks, deadline=10).run()
    assert [round(one, 0) for one in seen if one is not None] in ([10, 10, 10, 1], [10, 10, 1, 10])


async def test_a_deadline_around_a_composition_ends_it_and_is_its_error() -> None:
    result = await PAR(SEQ(give(1), PAR(forever, give(2))), give(3), deadline=1.0).run()
    assert kinds(result) == ["DeadlineExceeded", "ok"]
    cause = result.failures[0].error.__cause__
    assert isinstance(cause, ExceptionGroup)
    # Each level says what was still running in it.
    inner = cause.exceptions[0]
    assert isinstance(inner, DeadlineExceeded)
    assert isinstance(inner.__cause__, ExceptionGroup)
    assert "'forever'" in str(inner.__cause__.exceptions[0])


async def test_a_compositions_own_deadline_is_a_group_outside() -> None:
    result = await PAR(PAR(forever, deadline=0.05), on_failure=COLLECT, deadline=60).run()
    error = result.failures[0].error
    assert isinstance(error, ExceptionGroup)
    assert isinstance(error.exceptions[0], DeadlineExceeded)


async def test_a_context_with_a_deadline_is_kept_too() -> None:
    ctx = ProcessContext("outer", deadline=datetime.now(UTC) + timedelta(seconds=0.05))
    result = await PAR(forever).execute(ctx)
    assert isinstance(result.failure.error, DeadlineExceeded)


async def _deadlines_of_two_at_once(ctx: ProcessContext, nearer: float, later: float) -> list[float | None]:
    """The deadline of ``ctx`` before, in the members of two compositions that run in it at once, and after."""
    seen = [ctx.remaining]
    gate = Gate()

    @Process
    async def look(inner: ProcessContext) -> None:
        await gate.process("look").execute(ProcessContext("gate"))
        seen.append(inner.remaining)

    both = [asyncio.create_task(PAR(look, deadline=each).execute(ctx)) for each in (nearer, later)]
    for _ in both:
        await gate.arrival()
    gate.opened.set()
    assert [(await each).is_ok for each in both] == [True, True]
    return [*seen, ctx.remaining]


@pytest.mark.parametrize("spans", [(300, 3000), (3000, 300)])
async def test_compositions_at_once_in_one_context_leave_no_deadline_there(spans: tuple[float, float]) -> None:
    @Process
    async def outer(ctx: ProcessContext) -> list[float | None]:
        return await _deadlines_of_two_at_once(ctx, *spans)

    inside = (await PAR(outer).run()).value[0]
    for before, first, second, after in (inside, await _deadlines_of_two_at_once(ProcessContext("top"), *spans)):
        assert [before, after] == [None, None]
        assert spans[0] - 100 < (first or 0) <= spans[0]
        assert spans[1] - 100 < (second or 0) <= spans[1]


async def test_what_a_composition_was_given_is_not_for_the_next_one_in_the_same_context() -> None:
    strict = BackendRegistry(strict=True)
    placed = give(1), Placement(endpoint="nowhere")

    @Process
    async def spend(ctx: ProcessContext) -> None:
        ctx.usage(tokens_in=5)

    @Process
    async def outer(ctx: ProcessContext) -> list[str]:
        kinds = []
        limited = PAR(spend, budget=Budget(tokens=1))
        for one in (PLACED_PAR(placed, registry=strict), limited, PLACED_PAR(placed, spend)):
            result = await one.execute(ctx)
            kinds.append("ok" if result.is_ok else str(result.failure.error))
        return kinds

    refused, spent, after = (await PAR(outer).run()).value[0]
    assert "nowhere" in refused
    assert "budget of 1 tokens is used up" in spent
    assert after == "ok"


@pytest.mark.parametrize("deadline", [0, -1, math.nan, math.inf, True, "3", [3]])
def test_a_wrong_deadline_is_refused_when_made(deadline: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="deadline"):
        PAR(give(1), deadline=deadline)


@pytest.mark.parametrize("limit", [0, -1, True, 1.5])
def test_a_wrong_limit_is_refused_when_made(limit: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="limit"):
        PAR(give(1), limit=limit)


# Cancelling --------------------------------------------------------------------------------------


async def test_cancelling_run_cancels_and_awaits_every_child() -> None:
    gate = Gate()
    before = asyncio.all_tasks()
    running = asyncio.ensure_future(PAR(gate.process("a"), SEQ(PAR(gate.process("b"))), gate.process("c")).run())
    for _ in range(3):
        await gate.arrival()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert sorted(gate.cancelled) == ["a", "b", "c"]
    assert asyncio.all_tasks() == before


async def test_cancelling_while_a_halt_is_under_way() -> None:
    cleaning = asyncio.Event()
    cleaned = asyncio.Event()

    @Process
    async def slow_to_end(ctx: ProcessContext) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaning.set()
            await cleaned.wait()

    running = asyncio.ensure_future(PAR(slow_to_end, boom).run())
    async with asyncio.timeout(5):
        await cleaning.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_after_a_cancellation_nothing_is_started() -> None:
    ran: list[str] = []
    started = asyncio.Event()

    @Process
    async def stubborn(ctx: ProcessContext) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    @Process
    async def second(ctx: ProcessContext) -> None:
        ran.append("second")

    running = asyncio.ensure_future(PAR(stubborn, second, limit=1).run())
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ran == []


async def test_a_timeout_around_run_works() -> None:
    gate = Gate()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await PAR(gate.process("a")).run()
    assert gate.cancelled == ["a"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_programs_passes_through(error: type[BaseException]) -> None:
    @Process
    async def ends(ctx: ProcessContext) -> None:
        raise error

    with pytest.raises(error):
        PAR(forever, ends).run_sync()


# Limits ------------------------------------------------------------------------------------------


async def test_limit_bounds_how_many_run() -> None:
    gate = Gate()
    running = asyncio.ensure_future(PAR(*(gate.process(str(i)) for i in range(7)), limit=3).run())
    for _ in range(3):
        await gate.arrival()
    gate.opened.set()
    assert (await running).value == [str(i) for i in range(7)]
    assert gate.most == 3


# Retries -----------------------------------------------------------------------------------------


def flaky(failures: int) -> Process:
    @Process
    async def sometimes(ctx: ProcessContext) -> int:
        if ctx.attempt <= failures:
            raise ValueError(f"attempt {ctx.attempt}")
        return ctx.attempt

    return sometimes


async def test_a_retry_policy_tries_again() -> None:
    result = await PAR(flaky(2), give(0), on_failure=RetryPolicy(3, base_delay=0)).run()
    assert result.value == [3, 0]
    run = result.results[0].run
    assert run is not None
    assert run.attempt == 3


async def test_a_retry_policy_halts_when_it_is_used_up() -> None:
    result = await PAR(flaky(2), forever, on_failure=RetryPolicy(2, base_delay=0)).run()
    assert kinds(result) == ["ValueError", "ProcessCancelled"]
    assert "attempt 2" in str(result.failures[0].error)


async def test_each_attempt_has_an_id_of_its_own() -> None:
    ids: list[str] = []

    @Process
    async def notes(ctx: ProcessContext) -> None:
        ids.append(ctx.process_id)
        raise ValueError

    await PAR(notes, on_failure=RetryPolicy(3, base_delay=0)).run()
    assert len(set(ids)) == 3


# Everything composes -----------------------------------------------------------------------------


async def test_compositions_inside() -> None:
    result = await PAR(SEQ(give(1), PAR(give(2), give(3))), PAR().with_name("none"), give(4)).run()
    assert result.value == [[2, 3], [], 4]


async def test_a_failed_composition_leaves_out_those_that_were_only_cancelled() -> None:
    result = await PAR(PAR(boom, forever).with_name("inner"), on_failure=COLLECT).run()
    error = result.failures[0].error
    assert isinstance(error, ExceptionGroup)
    assert "2 of 2 processes of 'inner' failed" in str(error)
    assert [repr(one) for one in error.exceptions] == ["ValueError('boom')"]


async def test_an_optional_composition() -> None:
    assert (await PAR(PAR(boom).optional(), give(1)).run()).is_ok


async def test_processes_find_their_names_around_them() -> None:
    @Process
    async def parent_of(ctx: ProcessContext) -> str | None:
        return ctx.parent

    result = await PAR(parent_of, SEQ(parent_of).with_name("inner")).with_name("outer").run()
    assert result.value == ["outer", "inner"]


async def test_run_sync_inside_an_event_loop_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match=r"await PAR\(\.\.\.\)\.run"):
        PAR(give(1)).run_sync()


def test_run_sync() -> None:
    assert PAR(give(1), give(2)).run_sync().value == [1, 2]


async def test_async_with() -> None:
    async with PAR(give(1)) as par:
        assert (await par.run()).value == [1]


async def test_two_writers_on_one_channel_are_told() -> None:
    words: Chan[str] = Chan(str, name="words")

    @Process
    async def says(ctx: ProcessContext) -> None:
        await ctx.send("words", ctx.process_name)

    both = [says.with_channels(words=words).with_name(name) for name in "ab"]
    result = await PAR(*both, on_failure=COLLECT, deadline=0.1).run()
    assert sorted(kinds(result)) == ["ChannelTopologyError", "DeadlineExceeded"]
    assert any(isinstance(failure.error, ChannelTopologyError) for failure in result.failures)


async def test_events_of_the_engine() -> None:
    seen: list[observe.Event] = []
    with observe.subscribe(seen.append):
        await PAR(boom, forever).run()
    ends = {event.name: event.result for event in seen if event.kind == "ended"}
    assert set(ends) == {"boom", "forever", "PAR"}
    assert [event.name for event in seen if event.kind == "queued"] == ["boom", "forever"]


async def test_a_result_made_by_hand() -> None:
    assert PARResult([ProcessResult.ok(1)]).value == [1]
    assert PARResult([ProcessResult.ok(1)]) == PARResult([ProcessResult.ok(1)])
    assert (await PAR(give(1)).run()).elapsed is not None


# The engine --------------------------------------------------------------------------------------


async def test_children_can_start_when_others_have_ended() -> None:
    order: list[str] = []

    def child(name: str) -> Child:
        @Process(name=name)
        async def notes(ctx: ProcessContext) -> str:
            order.append(name)
            return name

        return Child(notes, ProcessContext(name))

    after = {0: [2], 1: [], 2: [3], 3: []}
    children = [child(name) for name in "abcd"]
    results = await supervise(
        children, ProcessContext("owner"), COLLECT, first=[0, 1], then=lambda index, result: after[index]
    )
    assert [one.value for one in results] == list("abcd")
    assert order == ["a", "b", "c", "d"]


async def test_a_child_that_nobody_starts_is_a_failure() -> None:
    results = await supervise([Child(give(1), ProcessContext("p"))], ProcessContext("owner"), COLLECT, first=[])
    assert "never started" in str(results[0].failure.error)


TREES: Any = st.recursive(
    st.sampled_from([give(1), give(2), boom, boom.optional()]),
    lambda inner: st.builds(
        lambda kind, children, collect: (PAR if kind else SEQ)(
            *children, on_failure=COLLECT if collect else FailurePolicy.HALT
        ),
        st.booleans(),
        st.lists(inner, max_size=4),
        st.just(True),
    ),
    max_leaves=12,
)


def model(tree: Any, given_value: Any) -> tuple[bool, Any]:
    """Whether it succeeds, and its value, under COLLECT, as a few lines of plain Python have it."""
    if isinstance(tree, give):
        return True, tree.value
    if isinstance(tree, PAR):
        outcomes = [(child.is_optional, *model(child, given_value)) for child in tree.processes]
        return all(ok or optional for optional, ok, _ in outcomes), [value for _, ok, value in outcomes if ok]
    if isinstance(tree, SEQ):
        all_ok, value = True, given_value
        for child in tree.processes:
            ok, value = model(child, value)
            value = value if ok else None
            all_ok = all_ok and (ok or child.is_optional)
        return all_ok, value
    return False, None


@settings(max_examples=60, deadline=None)
@given(TREES)
def test_random_compositions_do_what_plain_python_would(tree: Any) -> None:
    ok, value = model(tree, None)
    result = PAR(tree, on_failure=COLLECT).run_sync().results[0]
    assert result.is_ok is ok
    if ok:
        assert result.value == value
