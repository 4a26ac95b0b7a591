"""Channels between processes on real workers, and the producer: a program that moves to a fleet without a change."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stbass.backends.celery import CeleryBackend
from stbass.channel import Chan
from stbass.errors import ChannelTopologyError
from stbass.par import PAR
from stbass.placement import PLACED_PAR, BackendRegistry, Placement
from stbass.result import FailurePolicy
from stbass.seq import SEQ
from stbass.topology import ChanArray, Collector, Distributor
from tests.integration.conftest import Fleet
from tests.support.talkers import Add, Meet, Produce, collect

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


async def test_a_placed_process_inside_a_composition_beside_a_local_one(
    fleet: Fleet, registry: BackendRegistry
) -> None:
    # given a local process that uses the channel before the stage that is placed has its turn
    numbers: Chan[int] = Chan(int, capacity=4)
    placed = collect._copy()
    placed._placement = LOCAL

    async with asyncio.timeout(20):
        result = await PAR(
            Produce(20).with_channels(out=numbers),
            SEQ(Produce(0).with_channels(out=Chan(int)), placed.with_channels(inp=numbers)),
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
    registry = BackendRegistry()
    registry.register("local:*", backend)

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        running = group.create_task(
            PLACED_PAR((collect.with_channels(inp=inp), LOCAL), registry=registry, deadline=15).run()
        )
        for number in range(3):
            await inp.send(number)
        await inp.aclose()

    assert running.result().value == [[0, 1, 2]]
    assert channel_keys(fleet) == set()


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


async def test_a_failure_on_a_worker_leaves_nothing_behind(fleet: Fleet, registry: BackendRegistry) -> None:
    numbers: Chan[int] = Chan(int)
    result = await PLACED_PAR(
        (collect.with_channels(inp=numbers), LOCAL),
        (Add(1).with_channels(inp=numbers, out=Chan(int)), ANTHROPIC),
        on_failure=FailurePolicy.COLLECT,
        registry=registry,
        deadline=1.0,
    ).run()

    assert not result.is_ok
    await numbers.aclose()
    assert {type(failure.error).__name__ for failure in result.failures} <= {"ChannelTopologyError", "DeadlineExceeded"}
