"""Processes one after the other."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stbass import ALT, PAR, SEQ, SEQ_FOR, Chan, FailurePolicy, Guard, Process, ProcessResult, observe
from stbass._process.context import ProcessContext
from stbass.errors import ChannelClosedError, DeadlineExceeded, ProcessCancelled
from stbass.seq import SEQResult
from tests.support.compose import Gate, add_one, boom, echo, forever, give


async def test_each_stage_gets_what_the_one_before_passed_on() -> None:
    result = await SEQ(add_one, add_one, add_one).run(1)
    assert (result.is_ok, result.value) == (True, 4)
    assert [one.value for one in result.results] == [2, 3, 4]
    assert result.failures == []
    assert result.elapsed is not None


async def test_an_empty_sequence_gives_back_its_input() -> None:
    result = await SEQ().run("x")
    assert (result.is_ok, result.value, result.results) == (True, "x", [])


async def test_what_is_sent_wins_over_what_is_returned() -> None:
    @Process
    async def sends(ctx: ProcessContext) -> str:
        await ctx.send("output", "sent")
        return "returned"

    result = await SEQ(sends, echo).run()
    assert result.value == "sent"
    assert result.results[0].value == "sent"
    assert (await SEQ(echo, sends).run()).value == "sent"


async def test_several_values_are_passed_on_in_order() -> None:
    @Process
    async def three(ctx: ProcessContext) -> None:
        for value in (1, 2, 3):
            await ctx.send("output", value)

    @Process
    async def collects(ctx: ProcessContext) -> list[int]:
        return [value async for value in ctx.get_channel("input")]

    result = await SEQ(three, collects).run()
    assert result.value == [1, 2, 3]
    assert result.results[0].value == 3


async def test_stage_channels_are_real_channels() -> None:
    @Process
    async def looks(ctx: ProcessContext) -> dict[str, Any]:
        source, sink = ctx.get_channel("input"), ctx.get_channel("output")
        before = source.stats
        value = await ALT(Guard(source))
        await ALT(Guard(sink, send=value + 1))
        with pytest.raises(ChannelClosedError):
            await ctx.recv("input")
        return {"before": before.received, "after": source.stats.received, "chan": isinstance(source, Chan)}

    result = await SEQ(looks).run(1)
    assert result.value == 2


async def test_stage_channels_tell_what_was_done_without_them() -> None:
    @Process
    async def fails(ctx: ProcessContext) -> None:
        assert await ctx.recv("input") == 7
        await ctx.send("output", 8)
        raise ValueError

    state = (await SEQ(fails).run(7)).failures[0].channel_state
    assert (state["input"]["received"], state["output"]["sent"]) == (1, 1)


async def test_input_can_be_received_once() -> None:
    @Process
    async def greedy(ctx: ProcessContext) -> None:
        await ctx.recv("input")
        await ctx.recv("input")

    result = await SEQ(greedy).run(1)
    assert isinstance(result.failures[0].error, ChannelClosedError)


async def test_halt_stops_at_the_failure() -> None:
    result = await SEQ(add_one, boom, add_one).run(1)
    assert not result.is_ok
    assert len(result.results) == 2
    assert [failure.process_name for failure in result.failures] == ["boom"]
    with pytest.raises(ValueError, match="boom"):
        _ = result.value


async def test_collect_goes_on_with_none() -> None:
    result = await SEQ(give(1), boom, echo, on_failure=FailurePolicy.COLLECT).run()
    assert not result.is_ok
    assert [one.is_ok for one in result.results] == [True, False, True]
    assert result.value is None
    last = await SEQ(give(1), boom, on_failure=FailurePolicy.COLLECT).run()
    with pytest.raises(ValueError, match="boom"):
        _ = last.value


async def test_an_optional_failure_stops_nothing() -> None:
    result = await SEQ(give(1), boom.optional(), echo).run()
    assert (result.is_ok, result.value, len(result.failures)) == (True, None, 1)
    assert (await SEQ(give(1), boom.optional()).run()).value is None


async def test_retries_get_the_same_input() -> None:
    seen: list[tuple[int, Any]] = []

    @Process
    async def third_time(ctx: ProcessContext) -> str:
        seen.append((ctx.attempt, await ctx.recv("input")))
        await ctx.send("output", f"attempt {ctx.attempt}")
        if ctx.attempt < 3:
            raise ValueError
        return ""

    result = await SEQ(third_time, echo, on_failure=FailurePolicy.retry(3, base_delay=0)).run("x")
    assert seen == [(1, "x"), (2, "x"), (3, "x")]
    assert result.value == "attempt 3"


async def test_the_deadline_ends_the_stage_that_runs() -> None:
    began = time.monotonic()
    result = await SEQ(give(1), forever, give(2), deadline=0.05).run()
    assert time.monotonic() - began < 20
    assert [one.is_ok for one in result.results] == [True, False]
    failure = result.failures[0]
    assert isinstance(failure.error, DeadlineExceeded)
    assert "0.05 s" in str(failure.error)
    assert (failure.error.phase, failure.checkpoint) == ("running", "waiting")


async def test_after_the_deadline_no_stage_starts() -> None:
    ran: list[str] = []

    @Process
    async def later(ctx: ProcessContext) -> None:
        ran.append("later")

    result = await SEQ(forever, later, deadline=0.5, on_failure=FailurePolicy.COLLECT).run()
    assert ran == []
    errors = [failure.error for failure in result.failures]
    assert [error.phase for error in errors if isinstance(error, DeadlineExceeded)] == ["running", "queued"]


async def test_cancelling_run_cancels_the_stage() -> None:
    gate = Gate()
    running = asyncio.ensure_future(SEQ(gate.process("a"), gate.process("b")).run())
    assert await gate.arrival() == "a"
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert gate.cancelled == ["a"]


async def test_a_stage_that_ignores_its_cancellation_is_the_last() -> None:
    ran: list[str] = []

    @Process
    async def stubborn(ctx: ProcessContext) -> str:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "ignored"
        return ""

    @Process
    async def next_one(ctx: ProcessContext) -> None:
        ran.append("next")

    started = asyncio.Event()
    running = asyncio.ensure_future(SEQ(stubborn, next_one).run())
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ran == []


async def test_a_stage_that_cancels_itself_is_a_failure() -> None:
    @Process
    async def gives_up(ctx: ProcessContext) -> None:
        raise asyncio.CancelledError

    result = await SEQ(gives_up).run()
    assert isinstance(result.failures[0].error, ProcessCancelled)


async def test_compositions_are_stages() -> None:
    inner = SEQ(add_one, PAR(add_one, SEQ(add_one, add_one)))
    result = await SEQ(add_one, inner, echo).run(0)
    assert result.value == [3, 4]


async def test_processes_inside_a_stage_find_its_input() -> None:
    @Process
    async def sends(ctx: ProcessContext) -> str:
        await ctx.send("output", [await ctx.recv("input"), "sent"])
        return "returned"

    assert (await SEQ(give(5), PAR(sends, echo), echo).run()).value == [[5, "sent"], 5]


async def test_a_failing_composition_fails_with_a_group() -> None:
    result = await SEQ(PAR(boom, give(1), on_failure=FailurePolicy.COLLECT)).run()
    error = result.failures[0].error
    assert isinstance(error, ExceptionGroup)
    assert [repr(one) for one in error.exceptions] == ["ValueError('boom')"]
    assert result.failures[0].process_name == "PAR"


async def test_replicated_stages() -> None:
    async def step(index: int, ctx: ProcessContext) -> list[int]:
        return [*(await ctx.recv("input") or []), index]

    result = await SEQ_FOR(3, step).run()
    assert result.value == [0, 1, 2]
    assert (await SEQ_FOR(0, step).run(9)).value == 9


def test_run_sync() -> None:
    assert SEQ(add_one).run_sync(1).value == 2


async def test_run_sync_inside_an_event_loop_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match=r"await SEQ\(\.\.\.\)\.run"):
        SEQ(add_one).run_sync(1)


async def test_async_with() -> None:
    async with SEQ(add_one) as sequence:
        assert (await sequence.run(1)).value == 2


UNCHECKED: Any = SEQ


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: UNCHECKED(3), TypeError, "argument 0 of SEQ"),
        (lambda: UNCHECKED(give(1), give), TypeError, r"argument 1 of SEQ.*make an instance"),
        (lambda: UNCHECKED(lambda ctx: 1), TypeError, "@Process"),
        (lambda: UNCHECKED(on_failure="halt"), TypeError, "on_failure"),
        (lambda: UNCHECKED(deadline=0), ValueError, "deadline"),
        (lambda: UNCHECKED(registry={}), TypeError, "registry"),
    ],
)
def test_wrong_arguments_are_refused_when_made(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


async def test_a_result_can_be_made_by_hand() -> None:
    result = SEQResult([ProcessResult.ok(1)])
    assert (result.is_ok, result.elapsed, result.run) == (True, None, None)


async def test_events_of_the_whole() -> None:
    seen: list[observe.Event] = []
    with observe.subscribe(seen.append):
        await SEQ(give(1)).with_name("whole").run()
    assert [(event.kind, event.name) for event in seen] == [
        ("started", "whole"),
        ("started", "give"),
        ("ended", "give"),
        ("ended", "whole"),
    ]
    assert seen[1].parent == "whole"


@given(st.lists(st.sampled_from(["add", "fail", "optional", "send"]), max_size=12), st.booleans())
def test_sequences_do_what_a_loop_would(kinds: list[str], collect: bool) -> None:
    @Process
    async def add(ctx: ProcessContext) -> int:
        return (await ctx.recv("input") or 0) + 1

    @Process
    async def send(ctx: ProcessContext) -> None:
        await ctx.send("output", (await ctx.recv("input") or 0) * 2)

    stages = {"add": add, "fail": boom, "optional": boom.optional(), "send": send}
    value: int | None = 3
    expected_ok, ran = True, 0
    for kind in kinds:
        ran += 1
        if kind == "add":
            value = (value or 0) + 1
        elif kind == "send":
            value = (value or 0) * 2
        else:
            value = None
            expected_ok = expected_ok and kind == "optional"
            if kind == "fail" and not collect:
                break
    policy = FailurePolicy.COLLECT if collect else FailurePolicy.HALT
    result = SEQ(*(stages[kind] for kind in kinds), on_failure=policy).run_sync(3)
    assert (result.is_ok, len(result.results)) == (expected_ok, ran)
    if not kinds or kinds[ran - 1] != "fail":
        assert result.value == value
