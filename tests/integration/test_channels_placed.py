"""Channels between processes on real workers, and the producer: a program that moves to a fleet without a change."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Literal

import pytest

from stbass._process.context import ProcessContext
from stbass.backends.celery import CeleryBackend
from stbass.channel import Chan
from stbass.errors import ChannelTopologyError
from stbass.par import PAR
from stbass.placement import PLACED_PAR, BackendRegistry, Placement
from stbass.process import Process
from stbass.result import FailurePolicy
from stbass.seq import SEQ
from stbass.topology import ChanArray, Collector, Distributor
from tests.integration.conftest import Fleet
from tests.support.backends import registry_of
from tests.support.talkers import Add, Meet, Produce, Shift, Take, collect, collect_there, shift_by_5, shift_by_10
from tests.support.waiting import until

ANTHROPIC = Placement(endpoint="anthropic")
LOCAL = Placement(endpoint="local:8080")


def channel_keys(fleet: Fleet) -> set[str]:
    return {key for key in fleet.keys() if key.startswith("stbass:chan:")}  # noqa: SIM118 - a method, not a dict


async def test_a_pipeline_over_two_workers_and_the_producer(fleet: Fleet, registry: BackendRegistry) -> None:
    # given channels in memory
    numbers: Chan[int] = Chan(int, name="numbers")
    more: Chan[int] = Chan(int, name="more")
    sink: Chan[int] = Chan(int, name="sink")

    # when their processes are placed on workers, but for the last
    async with asyncio.timeout(20):
        result = await PLACED_PAR(
            (Produce(50).with_channels(out=numbers), ANTHROPIC),
            (Add(1).with_channels(inp=numbers, out=more), LOCAL),
            (Add(10).with_channels(inp=more, out=sink), ANTHROPIC),
            collect.with_channels(inp=sink),
            registry=registry,
            deadline=15,
        ).run()

    # then every value went through all of them, and nothing of the channels is left
    assert result.failures == []
    assert result.results[3].value == [number + 11 for number in range(50)]
    assert numbers.transport.scheme == sink.transport.scheme == "redis"
    assert channel_keys(fleet) == set()


@pytest.mark.parametrize("runs", [40, pytest.param(2000, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
async def test_a_reader_that_ends_when_it_has_all_values_has_not_lost_its_place(
    fleet: Fleet, registry: BackendRegistry, runs: int
) -> None:
    # given a writer that leaves the channel open, so that the reader still fetches ahead when it ends
    failed: list[str] = []
    for _ in range(runs):
        numbers: Chan[int] = Chan(int, capacity=64)
        result = await PLACED_PAR(
            (Produce(500, closes=False).with_channels(out=numbers), ANTHROPIC),
            (Take(500).with_channels(inp=numbers), LOCAL),
            registry=registry,
            deadline=30,
            on_failure=FailurePolicy.COLLECT,
        ).run()
        failed += [str(failure.error) for failure in result.failures]
        if not result.failures:
            assert result.results[1].value == list(range(500))
    # then nobody says that another has taken its place: there is none
    print(f"{len(failed)} failures in {runs} runs")  # noqa: T201 - for -rP
    assert failed == []
    for key in channel_keys(fleet):  # channels that nobody closes stay for a day
        fleet.server.command("DEL", key)


async def test_a_placed_process_inside_a_composition_beside_a_local_one(
    fleet: Fleet, registry: BackendRegistry
) -> None:
    # given a local process that uses the channel before the stage that is placed has its turn
    numbers: Chan[int] = Chan(int, capacity=4)

    async with asyncio.timeout(20):
        result = await PAR(
            Produce(20).with_channels(out=numbers),
            SEQ(Produce(0).with_channels(out=Chan(int)), collect_there.with_channels(inp=numbers)),
            registry=registry,
            deadline=15,
        ).run()

    assert result.failures == []
    assert result.results[1].value == list(range(20))
    assert channel_keys(fleet) == set()


async def test_channels_of_the_composition_reach_processes_on_workers(registry: BackendRegistry) -> None:
    inp: Chan[int] = Chan(int)
    composition = PLACED_PAR((collect, LOCAL), Produce(3).with_channels(out=inp), registry=registry, deadline=15)

    async with asyncio.timeout(20):
        result = await composition.with_channels(inp=inp).run()

    assert result.failures == []
    assert result.value[0] == [0, 1, 2]


async def test_the_producer_talks_to_a_process_on_a_worker(fleet: Fleet, backend: CeleryBackend) -> None:
    # given a channel that the program itself made where the fleet's channels are
    inp: Chan[int] = Chan(int, transport=backend.transport())
    registry = registry_of(backend, "local:*")

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        running = group.create_task(
            PLACED_PAR((collect.with_channels(inp=inp), LOCAL), registry=registry, deadline=15).run()
        )
        for number in range(3):
            await inp.send(number)
        await inp.aclose()

    assert running.result().value == [[0, 1, 2]]
    assert channel_keys(fleet) == set()


async def test_a_process_that_a_program_hands_to_the_backend_itself_has_its_channels(backend: CeleryBackend) -> None:
    inp: Chan[int] = Chan(int)
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        ctx = ProcessContext("collect", placement=LOCAL)
        running = group.create_task(backend.execute(collect.with_channels(inp=inp), ctx))
        await until(lambda: not inp.link.local, timeout=30)
        for number in range(3):
            await inp.send(number)
        await inp.aclose()
    assert running.result().value == [0, 1, 2]


async def test_a_used_channel_is_refused_with_the_reason(registry: BackendRegistry) -> None:
    channel: Chan[int] = Chan(int, name="old")
    await asyncio.gather(channel.send(1), channel.recv())

    with pytest.raises(ChannelTopologyError, match=r"'old' cannot be moved .* it has carried 1 values"):
        await PLACED_PAR((collect.with_channels(inp=channel), LOCAL), registry=registry).run()


async def test_fan_out_and_fan_in_over_workers(fleet: Fleet, registry: BackendRegistry) -> None:
    source: Chan[int] = Chan(int)
    sink: Chan[int] = Chan(int)
    to, back = ChanArray(int, 3), ChanArray(int, 3)
    workers: list[Any] = [
        (Add(100 * (index + 1)).with_channels(inp=to[index], out=back[index]), ANTHROPIC if index % 2 else LOCAL)
        for index in range(3)
    ]

    async with asyncio.timeout(25):
        result = await PLACED_PAR(
            (Produce(30).with_channels(out=source), LOCAL),
            (Distributor(source, to, strategy="ready_first"), ANTHROPIC),
            *workers,
            (Collector(back, sink), LOCAL),
            collect.with_channels(inp=sink),
            registry=registry,
            deadline=20,
        ).run()

    assert result.failures == []
    assert sorted(value % 100 for value in result.results[-1].value) == list(range(30))
    assert sum(one.value for one in result.results[2:5]) == 30
    assert channel_keys(fleet) == set()


async def test_two_processes_that_choose_against_each_other_always_meet(
    fleet: Fleet, backend: CeleryBackend, registry: BackendRegistry
) -> None:
    # given an input guard here and an output guard there, on both of two channels
    one: Chan[str] = Chan(str)
    two: Chan[str] = Chan(str)

    async with asyncio.timeout(40):
        result = await PLACED_PAR(
            (Meet(50, "a").with_channels(out=one, inp=two), ANTHROPIC),
            (Meet(50, "b").with_channels(out=two, inp=one), LOCAL),
            registry=registry,
            deadline=35,
        ).run()

    # then both tell the same, every time
    assert result.failures == []
    assert result.results[0].value == result.results[1].value
    assert "time is up" not in result.results[0].value
    # and what nobody has closed is gone when the program is
    await backend.aclose()
    assert channel_keys(fleet) == set()


async def test_two_readers_on_two_workers_and_the_error_names_who_was_first(
    fleet: Fleet, backend: CeleryBackend, registry: BackendRegistry
) -> None:
    # given a channel to which a reader on each of two workers is bound
    numbers: Chan[int] = Chan(int, name="numbers")
    result = await PLACED_PAR(
        (collect.with_name("one").with_channels(inp=numbers), LOCAL),
        (collect.with_name("other").with_channels(inp=numbers), ANTHROPIC),
        on_failure=FailurePolicy.COLLECT,
        registry=registry,
        deadline=1.5,
    ).run()

    # then one is refused, and is told of the other, where that runs and since when; which goes on to its deadline
    errors = [failure.error for failure in result.failures]
    [refused] = [error for error in errors if isinstance(error, ChannelTopologyError)]
    said = re.match(
        r"channel 'numbers' already has a reader: .* at \S+:(\d+) \(process '(\w+)'\), since .+ UTC;"
        r" .* at \S+:(\d+) \(process '(\w+)'\) cannot be another",
        str(refused),
    )
    assert said, refused
    assert said[1] != said[3]
    assert {said[2], said[4]} == {"one", "other"}
    assert sorted(type(error).__name__ for error in errors) == ["ChannelTopologyError", "DeadlineExceeded"]

    # and of a channel that nobody has closed nothing is left when the program is over
    await backend.aclose()
    await until(lambda: channel_keys(fleet) == set())


@pytest.mark.parametrize("how", ["cancelled", "fails"])
async def test_a_program_that_does_not_end_well_leaves_nothing_behind(
    fleet: Fleet, backend: CeleryBackend, registry: BackendRegistry, how: str
) -> None:
    # given a pipeline in full swing
    numbers, more, go = Chan[int]("numbers"), Chan[int]("more", capacity=8), Chan[int]("go")

    @Process
    async def watch(ctx: ProcessContext) -> None:
        for _ in range(10):
            await ctx.recv("inp")
        reached.set()
        if how == "fails":
            raise RuntimeError("as planned")
        await ctx.recv("go")

    reached = asyncio.Event()
    program = PLACED_PAR(
        (Produce(100_000).with_channels(out=numbers), ANTHROPIC),
        (Add(1).with_channels(inp=numbers, out=more), LOCAL),
        watch.with_channels(inp=more, go=go),
        registry=registry,
        deadline=30,
    )
    async with asyncio.timeout(25):
        running = asyncio.create_task(program.run())
        await reached.wait()

        # when it is broken off
        if how == "cancelled":
            running.cancel()
            await asyncio.wait((running,))
            assert running.cancelled()
        else:
            result = await running
            assert "as planned" in str(result.failures[0].error)
        await backend.aclose()

        # then its channels are gone
        await until(lambda: channel_keys(fleet) == set())


async def test_stages_on_different_endpoints(fleet: Fleet, registry: BackendRegistry) -> None:
    """Stages of a SEQ run one after the other, each on its worker; one of them talks to a process beside."""
    asked: Chan[int] = Chan(int, name="asked")
    beside: Chan[int] = Chan(int, name="beside")
    stages = shift_by_5, shift_by_10.with_channels(out=asked, inp=beside)
    async with asyncio.timeout(20):
        result = await PAR(
            SEQ(Shift(1), *stages, Shift(100)),
            Add(1000).with_channels(inp=asked, out=beside),
            registry=registry,
            deadline=15,
        ).run()
    assert result.failures == []
    assert result.results[0].value[0] == 1 + 5 + 10 + 1000 + 100
    assert len(set(result.results[0].value[1:])) == 3  # here, and on two workers
    assert channel_keys(fleet) == set()


@pytest.mark.parametrize("strategy", ["round_robin", "broadcast"])
async def test_distributor_and_collector_on_workers(
    fleet: Fleet, registry: BackendRegistry, strategy: Literal["round_robin", "broadcast"]
) -> None:
    source, sink = Chan[int]("source"), Chan[int]("sink", capacity=4)
    ways = ChanArray(int, 2)
    async with asyncio.timeout(20):
        result = await PLACED_PAR(
            Produce(20).with_channels(out=source),
            (Distributor(source, ways, strategy=strategy), LOCAL),
            (Collector(ways, sink), ANTHROPIC),
            (collect.with_channels(inp=sink), LOCAL),
            registry=registry,
            deadline=15,
        ).run()
    assert result.failures == []
    received = result.results[3].value
    if strategy == "broadcast":
        assert sorted(received) == sorted([*range(20), *range(20)])
    else:
        assert sorted(received) == list(range(20))
        for way in (0, 1):
            assert [value for value in received if value % 2 == way] == list(range(way, 20, 2))
    assert [one.value for one in result.results[1:3]] == [20, len(received)]
    assert channel_keys(fleet) == set()
