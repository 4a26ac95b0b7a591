"""Arrays of channels, one to many, many to one."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stbass import PAR, Chan, ChanArray, Collector, Distributor, FailurePolicy, Process, ProcessResult
from stbass._process.context import ProcessContext
from stbass.errors import ChannelTopologyError, ChannelTypeError
from stbass.wire import Admission, Decoder, dumps
from tests.support.shelf import Shelf

STRATEGIES: list[Any] = ["round_robin", "broadcast", "ready_first"]


def writes(channel: Chan[Any], values: list[Any]) -> Process:
    """Sends the values, and closes the channel."""

    @Process(name="writes")
    async def writer(ctx: ProcessContext) -> None:
        for value in values:
            await ctx.send("out", value)
        channel.close()

    return writer.with_channels(out=channel)


def reads(channel: Chan[Any], at_most: int | None = None) -> Process:
    """Receives until the channel is closed, or closes it itself after so many."""

    @Process(name="reads")
    async def reader(ctx: ProcessContext) -> list[Any]:
        found: list[Any] = []
        async for value in ctx.get_channel("in_"):
            found.append(value)
            if len(found) == at_most:
                channel.close()
        return found

    return reader.with_channels(in_=channel)


async def run(*processes: Any) -> list[Any]:
    async with asyncio.timeout(5):
        result = await PAR(*processes).run()
    assert result.is_ok, [failure.detailed for failure in result.failures]
    return result.value


# ChanArray ---------------------------------------------------------------------------------------


def test_an_array_is_a_sequence_of_channels() -> None:
    array = ChanArray(int, 3, name_prefix="out")
    assert (len(array), array.count, array.type_spec) == (3, 3, int)
    assert [channel.name for channel in array] == ["out[0]", "out[1]", "out[2]"]
    assert array[-1] is array.channels[2]
    with pytest.raises(IndexError):
        array[3]


@pytest.mark.parametrize(("count", "error"), [(-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_a_wrong_count_is_refused(count: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        ChanArray(int, count)


# Distributor -------------------------------------------------------------------------------------


async def test_round_robin_takes_turns() -> None:
    source: Chan[int] = Chan(int)
    targets = ChanArray(int, 3)
    distributor = Distributor(source, targets)
    values = await run(writes(source, list(range(7))), distributor, *map(reads, targets))
    assert values == [None, 7, [0, 3, 6], [1, 4], [2, 5]]


async def test_broadcast_gives_each_value_to_all() -> None:
    source: Chan[int] = Chan(int)
    targets = ChanArray(int, 3)
    distributor = Distributor(source, targets, strategy="broadcast")
    values = await run(writes(source, [1, 2]), distributor, *map(reads, targets))
    assert values == [None, 2, [1, 2], [1, 2], [1, 2]]


async def test_ready_first_gives_each_value_to_one_that_is_ready() -> None:
    source: Chan[int] = Chan(int)
    targets = ChanArray(int, 3)
    distributor = Distributor(source, [*targets], strategy="ready_first")
    # The third never receives: it must not get any, nor hold up the others.
    first, second = reads(targets[0]), reads(targets[1])
    values = await run(writes(source, list(range(20))), distributor, first, second)
    assert values[1] == 20
    assert sorted(values[2] + values[3]) == list(range(20))


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_a_target_that_is_closed_is_left_out(strategy: Any) -> None:
    source: Chan[int] = Chan(int)
    targets = ChanArray(int, 2)
    distributor = Distributor(source, targets, strategy=strategy)
    values = await run(writes(source, list(range(10))), distributor, reads(targets[0], at_most=1), reads(targets[1]))
    assert values[1] == 10
    received = Counter(values[2] + values[3])
    if strategy == "broadcast":
        assert values[3] == list(range(10))
    else:
        assert received == Counter(range(10))


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_when_nobody_is_left_the_source_is_closed(strategy: Any) -> None:
    source: Chan[int] = Chan(int, name="source")
    target: Chan[int] = Chan(int)
    distributor = Distributor(source, [target], strategy=strategy)
    async with asyncio.timeout(5):
        result = await PAR(
            writes(source, list(range(10))), distributor, reads(target, at_most=2), on_failure=FailurePolicy.COLLECT
        ).run()
    assert result.results[1].value == 2
    assert result.results[2].value == [0, 1]
    # The writer hears of it, instead of waiting for ever.
    assert [type(failure.error).__name__ for failure in result.failures] == ["ChannelClosedError"]


async def test_an_error_is_a_failure_and_closes_the_targets() -> None:
    source: Chan[Any] = Chan(object)
    target: Chan[int] = Chan(int)
    async with asyncio.timeout(5):
        result = await PAR(
            writes(source, [1, "wrong"]), Distributor(source, [target]), reads(target), on_failure=FailurePolicy.COLLECT
        ).run()
    assert isinstance(result.results[1].failure.error, ChannelTypeError)
    assert result.results[2].value == [1]


async def test_a_second_reader_of_the_source_is_told() -> None:
    source: Chan[int] = Chan(int, name="source")
    one, other = (Distributor(source, ChanArray(int, 1)).with_name(name) for name in ("one", "other"))
    result = await PAR(one, other).run()
    assert isinstance(result.results[1].failure.error, ChannelTopologyError)


# Collector ---------------------------------------------------------------------------------------


async def test_unordered_takes_whatever_comes() -> None:
    sources = ChanArray(int, 3)
    sink: Chan[int] = Chan(int)
    writers = [writes(source, [10 * index, 10 * index + 1]) for index, source in enumerate(sources)]
    values = await run(*writers, Collector(sources, sink), reads(sink))
    assert values[3] == 6
    assert sorted(values[4]) == [0, 1, 10, 11, 20, 21]
    # Each source keeps its order.
    assert all(values[4].index(10 * index) < values[4].index(10 * index + 1) for index in range(3))


async def test_ordered_takes_one_source_after_the_other() -> None:
    sources = ChanArray(int, 3)
    sink: Chan[int] = Chan(int)
    writers = [writes(source, [10 * index, 10 * index + 1]) for index, source in enumerate(sources)]
    values = await run(*reversed(writers), Collector([*sources], sink, ordered=True), reads(sink))
    assert values[4] == [0, 1, 10, 11, 20, 21]


@pytest.mark.parametrize("ordered", [False, True])
async def test_when_the_sink_is_closed_the_sources_are(ordered: bool) -> None:
    sources = ChanArray(int, 2)
    sink: Chan[int] = Chan(int)
    async with asyncio.timeout(5):
        result = await PAR(
            *(writes(source, [1, 2, 3]) for source in sources),
            Collector(sources, sink, ordered=ordered),
            reads(sink, at_most=1),
            on_failure=FailurePolicy.COLLECT,
        ).run()
    assert result.results[2].value == 1
    assert [type(failure.error).__name__ for failure in result.failures] == ["ChannelClosedError"] * 2


async def test_a_wrong_value_fails_the_collector_and_closes_the_sink() -> None:
    source: Chan[Any] = Chan(object)
    sink: Chan[int] = Chan(int)
    async with asyncio.timeout(5):
        result = await PAR(
            writes(source, [1, "wrong"]), Collector([source], sink), reads(sink), on_failure=FailurePolicy.COLLECT
        ).run()
    assert isinstance(result.results[1].failure.error, ChannelTypeError)
    assert result.results[2].value == [1]


# Both --------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(), max_size=30), st.integers(1, 5), st.sampled_from(["round_robin", "ready_first"]))
def test_what_is_spread_and_collected_is_all_there(values: list[int], width: int, strategy: Any) -> None:
    async def spread() -> list[Any]:
        source: Chan[int] = Chan(int)
        sink: Chan[int] = Chan(int)
        middle = ChanArray(int, width)
        return await run(
            writes(source, values),
            Distributor(source, middle, strategy=strategy),
            Collector(middle, sink),
            reads(sink),
        )

    found = asyncio.run(spread())
    assert found[:3] == [None, len(values), len(values)]
    assert Counter(found[3]) == Counter(values)


UNCHECKED: Any = Distributor
UNCHECKED_COLLECTOR: Any = Collector


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda c: UNCHECKED(c, [c], strategy="random"), ValueError, "random"),
        (lambda c: UNCHECKED(c, []), ValueError, "at least one"),
        (lambda c: UNCHECKED(c, c), TypeError, "list"),
        (lambda c: UNCHECKED(3, [c]), TypeError, "source"),
        (lambda c: UNCHECKED_COLLECTOR([], c), ValueError, "at least one"),
        (lambda c: UNCHECKED_COLLECTOR([3], c), TypeError, r"sources\[0\]"),
        (lambda c: UNCHECKED_COLLECTOR([c], 3), TypeError, "sink"),
    ],
)
def test_wrong_arguments_are_refused_when_made(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(Chan(int))


async def test_they_travel_as_kind_and_channels() -> None:
    # Given a distributor and a collector, on channels that can travel
    shelf = Shelf()
    source, sink, *targets = (Chan(int, capacity=2, transport=shelf) for _ in range(4))
    pair = Distributor(source, targets, strategy="broadcast"), Collector(targets, sink, ordered=True)
    # When they have travelled
    again = Decoder(admission=Admission(None), transport=shelf).loads(dumps(pair, processes=True))
    # Then they do what they were made for, on the same channels
    assert [type(one) for one in again] == [Distributor, Collector]
    values = await run(writes(source, [1, 2]), *again, reads(sink))
    assert values == [None, 2, 4, [1, 2, 1, 2]]


async def test_the_result_is_a_process_result() -> None:
    source: Chan[int] = Chan(int)
    source.close()
    target: Chan[int] = Chan(int)
    assert await Distributor(source, [target]).execute(ProcessContext("d")) == ProcessResult.ok(0)
    assert target.closed


async def test_a_distributor_and_a_collector_are_run_by_themselves() -> None:
    source, middle, sink = Chan[int]("source"), Chan[int]("middle"), Chan[int]("sink")

    async def write() -> None:
        for value in range(3):
            await source.send(value)
        source.close()

    async def read() -> list[int]:
        return [value async for value in sink]

    moved, collected, _, values = await asyncio.gather(
        Distributor(source, [middle]).run(), Collector([middle], sink).run(), write(), read()
    )
    assert (moved.value, collected.value, values) == (3, 3, [0, 1, 2])
    assert moved.elapsed is not None


def test_a_distributor_runs_without_an_event_loop() -> None:
    source = Chan[int]("source")
    source.close()
    assert Distributor(source, [Chan(int)]).run_sync().value == 0
