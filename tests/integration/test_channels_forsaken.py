"""A channel on a fleet whose other end will never come again: whoever waits at it is told who ended, and how."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from stbass.backends.celery import CeleryBackend, make_app
from stbass.channel import Chan
from stbass.errors import ChannelClosedError, WorkerLostError
from stbass.placement import PLACED_PAR, BackendRegistry, Placement
from stbass.result import FailurePolicy
from stbass.seq import SEQ
from stbass.testing import RedisServer, Worker
from stbass.transports.redis import RedisTransport
from tests.integration.conftest import APP, Fleet
from tests.support.backends import registry_of
from tests.support.talkers import Die, Fall, Merge, Produce, Take, choose_all, collect, take_all
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(120)

ANTHROPIC = Placement(endpoint="anthropic")
LOCAL = Placement(endpoint="local:8080")
COLLECT = FailurePolicy.COLLECT
GONE = "channel 'numbers' is closed: its other end will never come again: process "
FALLEN = f"{GONE}'Fall' failed (ValueError: it has fallen)"


@pytest.fixture(autouse=True)
async def _nothing_is_left(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    yield
    if "registry" in request.fixturenames:
        fleet: Fleet = request.getfixturevalue("fleet")
        await until(lambda: not [key for key in fleet.keys() if key.startswith("stbass:chan:")], timeout=30)  # noqa: SIM118


@pytest.mark.parametrize("capacity", [0, 4])
@pytest.mark.parametrize("reader", [take_all, choose_all, collect])
@pytest.mark.parametrize(("there", "here"), [(ANTHROPIC, LOCAL), (ANTHROPIC, None), (None, LOCAL)])
async def test_a_writer_that_fails_is_named(
    registry: BackendRegistry, there: Placement | None, here: Placement | None, reader: Any, capacity: int
) -> None:
    numbers: Chan[int] = Chan(int, name="numbers", capacity=capacity)
    writer = Fall(3).with_channels(out=numbers)
    taker = reader.with_channels(inp=numbers)
    async with asyncio.timeout(60):
        result = await PLACED_PAR(
            (writer, there) if there else writer,
            (taker, here) if here else taker,
            registry=registry,
            on_failure=COLLECT,
        ).run()
    fell, waited = result.failures
    assert str(fell.error) == "it has fallen"
    assert isinstance(waited.error, ChannelClosedError)
    assert (str(waited.error), waited.error.failed, waited.error.channel_name) == (FALLEN, True, "numbers")
    # and it is another channel for who uses it afterwards
    assert not numbers.closed


async def test_a_reader_that_ends_is_named_to_the_writer(registry: BackendRegistry) -> None:
    numbers: Chan[int] = Chan(int, name="numbers")
    async with asyncio.timeout(60):
        result = await PLACED_PAR(
            (Produce(9).with_channels(out=numbers), ANTHROPIC),
            (Take(2).with_channels(inp=numbers), LOCAL),
            registry=registry,
        ).run()
    assert [str(one.error) for one in result.failures] == [f"{GONE}'Take' has ended"]


async def test_a_writer_with_room_goes_on_and_one_without_is_told(registry: BackendRegistry) -> None:
    # given a reader that ends after one value
    outcomes = []
    for count in (3, 9):
        numbers: Chan[int] = Chan(int, name="numbers", capacity=4)
        async with asyncio.timeout(60):
            result = await PLACED_PAR(
                (Produce(count, closes=False).with_channels(out=numbers), ANTHROPIC),
                (Take(1).with_channels(inp=numbers), LOCAL),
                registry=registry,
            ).run()
        outcomes.append([str(one.error) for one in result.failures])
    assert outcomes == [[], [f"{GONE}'Take' has ended"]]


def _is_closed(fleet: Fleet, key: str) -> bool:
    """Whether it is the record of a channel that is closed."""
    of_channel = key.startswith("stbass:chan:") and fleet.server.command("TYPE", key) in (b"hash", "hash")
    return of_channel and bool(fleet.server.command("HEXISTS", key, "closed"))


async def test_who_comes_later_is_told_too_and_the_next_phase_talks(fleet: Fleet, backend: CeleryBackend) -> None:
    # given a reader whose turn on its worker comes when the writer has long failed
    numbers: Chan[int] = Chan(int, name="numbers")
    blocking = CeleryBackend(fleet.app(), queue="later")
    registry = registry_of(backend, "anthropic")
    registry.register("later", blocking)
    first = PLACED_PAR(
        (Fall(0).with_channels(out=numbers), ANTHROPIC),
        (take_all.with_channels(inp=numbers), Placement(endpoint="later")),
        on_failure=COLLECT,
    )
    second = PLACED_PAR(
        (Produce(3).with_channels(out=numbers), ANTHROPIC),
        (collect.with_channels(inp=numbers), Placement(endpoint="later")),
    )
    async with asyncio.timeout(90), aclosing(blocking):
        running = asyncio.ensure_future(SEQ(first, second, registry=registry, on_failure=COLLECT).run())
        await until(lambda: any(_is_closed(fleet, key) for key in fleet.keys()))  # noqa: SIM118
        async with Worker(APP, "later", env=fleet.env):
            result = await running
    # then it is told all the same, and what comes after the two can use the channel
    [failure] = result.failures
    assert [str(one) for one in failure.error.exceptions] == ["it has fallen", FALLEN]  # type: ignore[attr-defined]
    assert result.value[1] == [0, 1, 2]


async def test_one_that_was_shared_by_hand_is_left_alone(backend: CeleryBackend) -> None:
    shared: Chan[int] = Chan(int, transport=backend.transport())
    before, described, after = shared.known_outside, shared.share(), shared.known_outside
    assert (before, after) == (False, True)
    assert Chan.open(described, transport=shared.transport).known_outside
    assert Chan(int, transport=RedisTransport("redis://127.0.0.1:1", namespace="shop")).known_outside


@pytest.fixture
def killed() -> Iterator[RedisServer]:
    with RedisServer() as made:
        yield made


@pytest.fixture
async def dying(killed: RedisServer) -> AsyncIterator[CeleryBackend]:
    """A backend for a queue whose workers die."""
    app = make_app("tests", broker_url=killed.url)
    async with aclosing(CeleryBackend(app, queue="dies", lease=0.5, max_attempts=2)) as made:
        yield made


@pytest.mark.parametrize("kills", [1, 2])
async def test_one_whose_worker_is_killed_comes_again_until_it_has_had_its_attempts(
    killed: RedisServer, dying: CeleryBackend, kills: int
) -> None:
    numbers: Chan[int] = Chan(int, name="numbers")
    registry = registry_of(dying, "dies")
    env = {"STBASS_BROKER_URL": killed.url, "STBASS_RESULT_BACKEND": killed.url, "TEST_LEASE": "0.5"}
    async with asyncio.timeout(100):
        # given a reader here, and a writer whose worker dies
        composition = PLACED_PAR(
            (Die(kills).with_channels(out=numbers), Placement(endpoint="dies")),
            Take(kills + 1).with_channels(inp=numbers),
            registry=registry,
            on_failure=COLLECT,
        )
        running = asyncio.ensure_future(composition.run())
        for _ in range(kills):
            async with Worker(APP, "dies", env=env) as worker:
                await until(lambda: worker.exit_code is not None, timeout=60)
        if kills == 1:
            # then the reader waits for the next attempt
            async with Worker(APP, "dies", env=env):
                result = await running
            assert result.value == [None, [1, 2]]
        else:
            # until there is none
            result = await running
            lost, waited = result.failures
            assert isinstance(lost.error, WorkerLostError)
            assert str(waited.error).startswith(f"{GONE}'Die' failed (WorkerLostError: ")


@pytest.mark.parametrize("capacity", [0, 4])
async def test_a_choice_goes_on_with_the_channel_whose_writer_is_left(registry: BackendRegistry, capacity: int) -> None:
    left, right = (Chan(int, name=name, capacity=capacity) for name in ("left", "right"))
    async with asyncio.timeout(60):
        result = await PLACED_PAR(
            (Produce(1, closes=False).with_channels(out=left), ANTHROPIC),
            (Produce(20, closes=False).with_channels(out=right), LOCAL),
            (Merge(21).with_channels(left=left, right=right), LOCAL),
            registry=registry,
            on_failure=COLLECT,
        ).run()
    assert result.is_ok
    assert sorted(result.value[2]) == sorted([0, *range(20)])


async def test_a_choice_of_which_nobody_is_left_at_any_end_is_told_so(registry: BackendRegistry) -> None:
    left, right = (Chan(int, name=name) for name in ("left", "right"))
    async with asyncio.timeout(60):
        result = await PLACED_PAR(
            (Produce(1, closes=False).with_channels(out=left), ANTHROPIC),
            (Produce(4, closes=False).with_channels(out=right), LOCAL),
            (Merge(6).with_channels(left=left, right=right), LOCAL),
            registry=registry,
            on_failure=COLLECT,
        ).run()
    [failure] = result.failures
    assert isinstance(failure.error, ChannelClosedError)
    assert "its other end will never come again: process 'Produce'" in str(failure.error)
