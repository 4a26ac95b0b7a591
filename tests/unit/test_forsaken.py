"""A channel whose other end will never come again: whoever waits at it is told who ended, and how; nobody else is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from stbass import (
    ALT,
    PAR,
    PAR_FOR,
    PLACED_PAR,
    SEQ,
    SEQ_FOR,
    TIMER,
    Chan,
    Collector,
    Distributor,
    FailurePolicy,
    Guard,
    Placement,
    Process,
)
from stbass.errors import ChannelClosedError, DeadlineExceeded, ProcessCancelled
from stbass.process import ProcessContext

COLLECT = FailurePolicy.COLLECT
GONE = "channel 'c' is closed: its other end will never come again: process "
FAILED = f"{GONE}'bad' failed (ValueError: boom)"


class Send(Process):
    """Send so many values on ``c``."""

    def __init__(self, count: int = 1) -> None:
        self.count = count

    async def run(self, ctx: ProcessContext) -> int:
        for number in range(self.count):
            await ctx.send("c", number)
        return self.count


class Receive(Process):
    """Receive so many values on ``c``."""

    def __init__(self, count: int = 1) -> None:
        self.count = count

    async def run(self, ctx: ProcessContext) -> list[int]:
        return [await ctx.recv("c") for _ in range(self.count)]


@Process
async def bad(ctx: ProcessContext) -> None:
    await ctx.send("c", 0)
    raise ValueError("boom")


@Process
async def bad_at_once(ctx: ProcessContext) -> None:
    raise ValueError("boom")


@Process
async def loop(ctx: ProcessContext) -> list[int]:
    return [value async for value in ctx.get_channel("c")]


@Process
async def choose(ctx: ProcessContext) -> None:
    while True:
        await ALT(Guard(ctx.get_channel("c")))


@Process
def block(ctx: ProcessContext) -> None:
    while True:
        ctx.recv("c")


@Process
async def idle(ctx: ProcessContext) -> str:
    return "idle"


@Process
async def send_late(ctx: ProcessContext) -> None:
    for _ in range(50):
        await asyncio.sleep(0)
    await ctx.send("c", 5)


def _of(process: Any, channel: Chan[Any]) -> Any:
    return process.with_channels(c=channel)


def _each(process: Any) -> Callable[[int, ProcessContext], Any]:
    return lambda index, ctx: process


async def _outcome(composition: Any) -> list[Any]:
    async with asyncio.timeout(30):
        result = await composition.run()
    return [one.value if one.is_ok else one.failure.error for one in result.results]


@pytest.mark.parametrize("capacity", [0, 3])
@pytest.mark.parametrize("reader", [Receive(2), loop, choose, block], ids=["recv", "loop", "alt", "sync"])
@pytest.mark.parametrize("writer", [bad, bad_at_once.with_name("bad")], ids=["later", "at once"])
async def test_a_reader_hears_of_a_writer_that_failed(writer: Any, reader: Any, capacity: int) -> None:
    channel: Chan[int] = Chan(int, name="c", capacity=capacity)
    boom, error = await _outcome(PAR(_of(writer, channel), _of(reader, channel), on_failure=COLLECT))
    assert str(boom) == "boom"
    assert isinstance(error, ChannelClosedError)
    assert (str(error), error.channel_name, error.failed) == (FAILED, "c", True)
    # and the channel is as good as before
    assert not channel.closed
    assert await _outcome(PAR(_of(Send(), channel), _of(Receive(), channel))) == [1, [0]]


async def test_one_that_ended_well_is_named_too_and_ends_a_loop() -> None:
    channel: Chan[int] = Chan(int, name="c")
    _, error = await _outcome(PAR(_of(Send(2), channel), _of(Receive(3), channel)))
    assert (str(error), error.failed) == (f"{GONE}'Send' has ended", False)
    assert await _outcome(PAR(_of(Send(2), channel), _of(loop, channel))) == [2, [0, 1]]
    error, _ = await _outcome(PAR(_of(Send(3), channel), _of(Receive(2), channel)))
    assert str(error) == f"{GONE}'Receive' has ended"


Make = Callable[[Chan[int]], Any]


@pytest.mark.parametrize(
    ("make", "ended"),
    [
        (lambda c: PAR(_of(Send(), c), SEQ(_of(Receive(), c), _of(Receive(), c))), "'Send'"),
        (lambda c: PAR(SEQ(_of(Send(), c), _of(Send(), c), idle), _of(Receive(3), c)), "'Send'"),
        (lambda c: PAR_FOR(2, lambda index, ctx: _of((Send(), Receive(2))[index], c)), "'Send[0]'"),
        (lambda c: PAR(*(PAR_FOR(1, _each(_of(one, c))) for one in (Send(), Receive(2)))), "'Send[0]'"),
        (lambda c: PAR(SEQ_FOR(3, lambda index, ctx: _of(Send(), c)), _of(Receive(4), c)), "'Send[2]'"),
        (lambda c: PAR(_of(Send(), c), SEQ_FOR(2, lambda index, ctx: _of(Receive(), c))), "'Send'"),
        (lambda c: PLACED_PAR((_of(Send(), c), Placement()), _of(Receive(2), c)), "'Send'"),
        (lambda c: PAR(Send(), Receive(2)).with_channels(c=c), "'Send'"),
        (lambda c: SEQ(PAR(PAR(SEQ(_of(Send(), c))), SEQ(PAR(_of(Receive(2), c))))), "'Send'"),
    ],
    ids=[
        "stages",
        "stages that send",
        "replicas",
        "apart",
        "replicated stages",
        "to stages",
        "placed",
        "bound",
        "deep",
    ],
)
async def test_at_any_depth(make: Make, ended: str) -> None:
    async with asyncio.timeout(30):
        result = await make(Chan(int, name="c")).run()
    [error] = [failure.error for failure in result.failures]
    while isinstance(error, BaseExceptionGroup):
        [error] = error.exceptions
    assert str(error) == f"{GONE}{ended} has ended"


async def test_stages_that_come_later_still_have_it() -> None:
    channel: Chan[int] = Chan(int, name="c")
    talk = PAR(_of(Send(), channel), _of(Receive(), channel))
    assert await _outcome(PAR(SEQ(*[_of(Send(), channel)] * 3), SEQ(*[_of(Receive(), channel)] * 3))) == [1, [0]]
    assert await _outcome(SEQ(talk, talk)) == [[1, [0]], [1, [0]]]
    # also after one of them was told
    short = PAR(_of(Send(), channel), _of(Receive(2), channel))
    error, after = await _outcome(SEQ(short, talk, on_failure=COLLECT))
    assert str(error.exceptions[0]) == f"{GONE}'Send' has ended"
    assert after == [1, [0]]


async def test_one_that_may_be_tried_again_has_not_ended() -> None:
    channel: Chan[int] = Chan(int, name="c")

    @Process
    async def second_time(ctx: ProcessContext) -> None:
        attempts.append(ctx.attempt)
        if len(attempts) < 2:
            raise ValueError("not yet")
        await ctx.send("c", 7)

    for inner in (_of(second_time, channel), PAR(_of(second_time, channel)), SEQ(_of(second_time, channel))):
        attempts: list[int] = []
        retry = FailurePolicy.retry(2, base_delay=0.01)
        _, got = await _outcome(PAR(inner, _of(Receive(), channel), on_failure=retry))
        assert got == [7]
    # until it has had its attempts
    collect = PAR(PAR(_of(bad, channel), on_failure=FailurePolicy.retry(2, base_delay=0.01)), _of(loop, channel))
    result = await collect.run()
    assert isinstance(result.results[1].failure.error, ProcessCancelled)


@pytest.mark.parametrize(
    "make",
    [
        lambda c: SEQ(_of(Receive(), c), _of(Receive(), c)),
        lambda c: PAR(_of(Receive(), c), _of(Receive(), c), limit=1),
        lambda c: PAR(Receive(2), idle).with_channels(c=c),
        lambda c: PAR(*(_of(one, c) for one in (Receive(2), idle, idle.with_name("third")))),
        lambda c: PAR(Receive(2).with_channels(c=c), idle),
        lambda c: SEQ(PAR(_of(Receive(2), c))),
    ],
    ids=["stages", "one at a time", "bound to all", "given to all", "alone", "nested"],
)
async def test_the_caller_may_have_the_other_end(make: Make) -> None:
    channel: Chan[int] = Chan(int, name="c")
    running = asyncio.ensure_future(make(channel).run())
    async with asyncio.timeout(30):
        await channel.send(1)
        for _ in range(20):
            await asyncio.sleep(0)
        await channel.send(2)
        assert (await running).is_ok


async def test_another_composition_may_have_the_other_end() -> None:
    channel: Chan[int] = Chan(int, name="c")
    running = asyncio.ensure_future(PAR(_of(Send(), channel), _of(Receive(2), channel)).run())
    beside = asyncio.ensure_future(PAR(_of(send_late, channel)).run())
    async with asyncio.timeout(30):
        assert (await beside).is_ok
        assert (await running).value[1] == [0, 5]


async def test_a_process_that_runs_others_has_its_channels_until_it_ends() -> None:
    channel: Chan[int] = Chan(int, name="c")

    @Process
    async def conducts(ctx: ProcessContext) -> Any:
        mine: Chan[int] = Chan(int, name="c")
        inner = await PAR(_of(bad, mine), _of(loop, mine), on_failure=COLLECT).run()
        outer = await PAR(Receive().with_channels(c=ctx.get_channel("c"))).run()
        return str(inner.failures[1].error), outer.value

    assert (await _outcome(PAR(_of(conducts, channel), _of(send_late, channel))))[0] == (FAILED, [[5]])


async def test_a_writer_goes_on_while_there_is_room() -> None:
    channel: Chan[int] = Chan(int, name="c", capacity=3)
    assert await _outcome(PAR(_of(Send(4), channel), _of(Receive(), channel))) == [4, [0]]
    assert channel.accepted == (1, 2, 3)
    # and is told when there is none
    other: Chan[int] = Chan(int, name="c", capacity=3)
    error, _ = await _outcome(PAR(_of(Send(5), other), _of(Receive(), other)))
    assert str(error) == f"{GONE}'Receive' has ended"


async def test_halt_and_a_deadline_go_first() -> None:
    channel: Chan[int] = Chan(int, name="c")
    for composition in (PAR(_of(bad, channel), _of(loop, channel)), PAR(SEQ(_of(bad, channel)), _of(loop, channel))):
        assert isinstance((await _outcome(composition))[1], ProcessCancelled)

    @Process
    async def stands(ctx: ProcessContext) -> None:
        await asyncio.get_running_loop().create_future()

    both = await _outcome(PAR(_of(stands, channel), _of(loop, channel), deadline=0.05))
    assert [type(error) for error in both] == [DeadlineExceeded] * 2


async def test_what_distributes_and_collects_passes_on_that_values_may_be_missing() -> None:
    for make in (lambda one, other: Distributor(one, [other]), lambda one, other: Collector([one], other)):
        first, second = Chan(int, name="c"), Chan(int, name="d")
        outcome = await _outcome(PAR(_of(bad, first), make(first, second), _of(loop, second), on_failure=COLLECT))
        assert str(outcome[1]) == FAILED
        assert FAILED in str(outcome[2])
        # one that ended well is the end of them
        first, second = Chan(int, name="c"), Chan(int, name="d")
        assert await _outcome(PAR(_of(Send(2), first), make(first, second), _of(loop, second))) == [2, 2, [0, 1]]


class Merge(Process):
    """Take so many values from ``left`` and ``right``, whichever is ready."""

    def __init__(self, count: int, *, again: bool = True, extra: tuple[Guard, ...] = ()) -> None:
        self.count, self.again, self.extra = count, again, extra

    async def run(self, ctx: ProcessContext) -> list[Any]:
        def made() -> ALT:
            return ALT(Guard(ctx.get_channel("left")), Guard(ctx.get_channel("right")), *self.extra)

        kept = made()
        return [await (kept if self.again else made()) for _ in range(self.count)]


@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize("capacity", [0, 3])
async def test_a_choice_goes_on_with_the_channels_whose_other_ends_are_left(again: bool, capacity: int) -> None:
    left, right = (Chan(int, name=name, capacity=capacity) for name in ("left", "right"))
    sending = (Send(1).with_channels(c=left), Send(40).with_channels(c=right))
    merge = Merge(41, again=again).with_channels(left=left, right=right)
    async with asyncio.timeout(30):
        result = await PAR(*sending, merge, on_failure=COLLECT).run()
    assert result.is_ok
    assert sorted(result.value[2]) == sorted([0, *range(40)])


@pytest.mark.parametrize("again", [True, False])
async def test_a_choice_of_which_nobody_is_left_at_any_end_is_told_so(again: bool) -> None:
    left, right = (Chan(int, name=name) for name in ("left", "right"))
    sending = (Send(1).with_channels(c=left), Send(4).with_channels(c=right))
    merge = Merge(6, again=again).with_channels(left=left, right=right)
    async with asyncio.timeout(30):
        result = await PAR(*sending, merge, on_failure=COLLECT).run()
    [failure] = result.failures
    assert isinstance(failure.error, ChannelClosedError)
    assert "its other end will never come again: process 'Send' has ended" in str(failure.error)


@pytest.mark.parametrize("again", [True, False])
async def test_a_choice_with_a_timer_goes_on_with_that(again: bool) -> None:
    left, right = (Chan(int, name=name) for name in ("left", "right"))
    sending = (Send(1).with_channels(c=left), Send(1).with_channels(c=right))
    timer = Guard(TIMER(0.05), handler=lambda: "late")
    merge = Merge(4, again=again, extra=(timer,)).with_channels(left=left, right=right)
    async with asyncio.timeout(30):
        result = await PAR(*sending, merge, on_failure=COLLECT).run()
    assert result.is_ok
    assert result.value[2] == [0, 0, "late", "late"]
