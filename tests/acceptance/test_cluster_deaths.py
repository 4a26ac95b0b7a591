"""Two workers on one queue, of which one dies or is told to stop: nothing is lost, and nothing is done twice."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter

import pytest
from pytest_celery import CeleryTestSetup, CeleryTestWorker

from stbass import observe
from stbass._values.endpoint import Placement
from stbass.backends.celery import CeleryBackend
from stbass.placement import PLACED_PAR, BackendRegistry
from stbass.result import FailurePolicy
from tests.acceptance.conftest import ClusterWorker
from tests.support.backends import registry_of
from tests.support.puppets import Hand, Puppet, Puppeteer

pytestmark = pytest.mark.acceptance

ANTHROPIC = Placement(endpoint="anthropic")
LEASE = 2.0
GRACE = 1.0
CAPACITY = 30
MANY = CAPACITY + 10
"""More than one worker takes, and few enough for one to take over what the other one leaves."""


class HastyWorker(ClusterWorker):
    variables = {"TEST_LEASE": str(LEASE), "TEST_GRACE": str(GRACE)}  # noqa: RUF012
    options = ("-c", str(CAPACITY))


@pytest.fixture
def default_worker_container_cls() -> type[ClusterWorker]:
    return HastyWorker


@pytest.fixture
def second_worker_cls() -> type[ClusterWorker]:
    return HastyWorker


@pytest.fixture
def registry(backend: CeleryBackend, celery_setup: CeleryTestSetup) -> BackendRegistry:
    return registry_of(CeleryBackend(celery_setup.app, lease=LEASE))


def _on(worker: CeleryTestWorker) -> int:
    pid: int = worker.container.pid
    return pid


async def _checkpoints(hands: list[Hand]) -> None:
    """Let each make a checkpoint of its own name; back when the producer has heard of all, and so Redis has them."""
    missing = {hand.name for hand in hands}
    heard = asyncio.Event()

    def listen(event: observe.Event) -> None:
        if event.kind == "checkpoint":
            missing.discard(event.name)
            if not missing:
                heard.set()

    with observe.subscribe(listen):
        for hand in hands:
            hand.order("checkpoint", f"checkpoint of {hand.name}")
        await heard.wait()


async def test_of_a_killed_worker_everything_is_done_again_where_it_stopped(
    celery_setup: CeleryTestSetup, registry: BackendRegistry, puppeteer: Puppeteer
) -> None:
    puppets = [(Puppet(puppeteer.port).with_name(f"p{number}"), ANTHROPIC) for number in range(MANY)]
    running = asyncio.create_task(PLACED_PAR(*puppets, registry=registry).run())
    async with asyncio.timeout(45):
        hands = await puppeteer.wait_for(MANY)
        await _checkpoints(hands)
        places = Counter(hand.pid for hand in hands)
        doomed, other = sorted(celery_setup.worker_cluster, key=lambda worker: -places[_on(worker)])
        doomed_pid, other_pid = _on(doomed), _on(other)
        interrupted = [hand for hand in hands if hand.pid == doomed_pid]
        assert len(interrupted) >= MANY / 2

        # A few of them are done before the worker dies, one at the same moment.
        done, rest = interrupted[:3], interrupted[3:]
        for hand in done:
            hand.order("return", 1)
        assert await asyncio.gather(*(hand.ended() for hand in done)) == ["returned"] * 3
        await _stored(celery_setup, done)
        killed_at = time.monotonic()
        doomed.kill()
        assert set(await asyncio.gather(*(hand.ended() for hand in rest))) == {"killed"}
        # The other worker's own are not disturbed, and make room when they end.
        for hand in hands:
            if hand.pid == other_pid:
                hand.order("return", 1)

        again = await puppeteer.wait_for(len(rest), lambda hand: hand.attempt == 2)
        assert time.monotonic() - killed_at < 4 * LEASE
        assert {hand.name for hand in again} == {hand.name for hand in rest}
        for hand in again:
            assert (hand.pid, hand.resumed_from) == (other_pid, f"checkpoint of {hand.name}")
            hand.order("return", 2)
        result = await running

    assert result.is_ok
    redone = {hand.name for hand in rest}
    attempts = {name: 2 if name in redone else 1 for name in _names(puppets)}
    assert result.value == list(attempts.values())
    assert [item.run.attempt for item in result.results if item.run] == list(attempts.values())
    # Each was run once, and those of the killed worker once more.
    assert Counter((hand.name, hand.attempt) for hand in puppeteer.hands) == Counter(
        [*((name, 1) for name in attempts), *((name, 2) for name in redone)]
    )
    _nothing_is_left(celery_setup)


async def test_a_worker_that_is_told_to_stop_ends_what_it_runs_and_takes_nothing_new(
    celery_setup: CeleryTestSetup, registry: BackendRegistry, puppeteer: Puppeteer
) -> None:
    first = [(Puppet(puppeteer.port).with_name(f"first {number}"), ANTHROPIC) for number in range(2 * CAPACITY)]
    second = [(Puppet(puppeteer.port).with_name(f"second {number}"), ANTHROPIC) for number in range(5)]
    leaving, staying = celery_setup.worker_cluster
    leaving_pid, staying_pid = _on(leaving), _on(staying)
    one = asyncio.create_task(PLACED_PAR(*first, registry=registry).run())
    async with asyncio.timeout(45):
        hands = await puppeteer.wait_for(len(first))
        assert Counter(hand.pid for hand in hands) == {leaving_pid: CAPACITY, staying_pid: CAPACITY}
        # Both are full, so these wait.
        two = asyncio.create_task(PLACED_PAR(*second, registry=registry).run())

        leaving.container.kill("SIGTERM")
        await asyncio.to_thread(leaving.wait_for_log, "Warm shutdown", timeout=10)
        # First the one that leaves has room again, then the other one.
        for pid in (leaving_pid, staying_pid):
            released = [hand for hand in hands if hand.pid == pid][: len(second)]
            for hand in released:
                hand.order("return", hand.name)
            assert set(await asyncio.gather(*(hand.ended() for hand in released))) == {"returned"}
            await _stored(celery_setup, released)
        new = await puppeteer.wait_for(len(second), lambda hand: hand.name.startswith("second"))
        assert {hand.pid for hand in new} == {staying_pid}
        assert leaving.container.status == "running"

        for hand in puppeteer.hands:
            hand.order("return", hand.name)
        assert await asyncio.to_thread(leaving.container.wait, 15) == 0
        assert (await one).value == _names(first)
        assert (await two).value == _names(second)
    assert [hand.attempt for hand in puppeteer.hands] == [1] * (len(first) + len(second))
    _nothing_is_left(celery_setup)


@pytest.mark.slow
async def test_processes_that_come_while_a_worker_stops_are_neither_lost_nor_doubled(
    celery_setup: CeleryTestSetup, registry: BackendRegistry, puppeteer: Puppeteer
) -> None:
    puppeteer.on_meeting = lambda hand: hand.order("return", hand.name)
    leaving = celery_setup.worker
    halfway = asyncio.Event()

    async def traffic() -> list[str]:
        values: list[str] = []
        for burst in range(40):
            puppets = [(Puppet(puppeteer.port).with_name(f"{burst}.{n}"), ANTHROPIC) for n in range(5)]
            values += (await PLACED_PAR(*puppets, registry=registry).run()).value
            if burst == 10:
                halfway.set()
        return values

    # Three streams, so that there is always a message on its way.
    async with asyncio.timeout(45):
        streams = [asyncio.create_task(traffic()) for _ in range(3)]
        await halfway.wait()
        leaving.container.kill("SIGTERM")
        assert await asyncio.to_thread(leaving.container.wait, 30) == 0
        for stream in streams:
            assert await stream == [f"{burst}.{n}" for burst in range(40) for n in range(5)]
    assert [hand.attempt for hand in puppeteer.hands] == [1] * 600
    _nothing_is_left(celery_setup)


@pytest.mark.slow
async def test_what_does_not_end_in_time_is_handed_back_at_once(
    celery_setup: CeleryTestSetup, backend: CeleryBackend, puppeteer: Puppeteer
) -> None:
    # A lease that would take too long to lapse.
    registry = registry_of(CeleryBackend(celery_setup.app, lease=3600))
    puppets = [(Puppet(puppeteer.port).with_name(f"p{number}"), ANTHROPIC) for number in range(20)]
    composition = PLACED_PAR(*puppets, on_failure=FailurePolicy.COLLECT, registry=registry)
    running = asyncio.create_task(composition.run())
    async with asyncio.timeout(30):
        hands = await puppeteer.wait_for(len(puppets))
        await _checkpoints(hands)
        places = Counter(hand.pid for hand in hands)
        leaving, staying = sorted(celery_setup.worker_cluster, key=lambda worker: -places[_on(worker)])
        leaving_pid, staying_pid = _on(leaving), _on(staying)
        gone = [hand for hand in hands if hand.pid == leaving_pid]
        leaving.container.kill("SIGTERM")
        assert set(await asyncio.gather(*(hand.ended() for hand in gone))) == {"cancelled"}
        again = await puppeteer.wait_for(len(gone), lambda hand: hand.attempt == 2)
        assert {hand.pid for hand in again} == {staying_pid}
        assert {hand.name: hand.resumed_from for hand in again} == {
            hand.name: f"checkpoint of {hand.name}" for hand in gone
        }
        assert await asyncio.to_thread(leaving.container.wait, 15) == 0
        for hand in [*again, *(hand for hand in hands if hand.pid == staying_pid)]:
            hand.order("return", hand.attempt)
        result = await running
    assert result.value == [2 if name in {hand.name for hand in gone} else 1 for name in _names(puppets)]
    assert len(puppeteer.hands) == len(puppets) + len(gone)
    _nothing_is_left(celery_setup)


def _names(pairs: list[tuple[Puppet, Placement]]) -> list[str]:
    return [puppet.name for puppet, _ in pairs]


async def _stored(celery_setup: CeleryTestSetup, hands: list[Hand]) -> None:
    """Wait until the results of these are stored."""
    for hand in hands:
        await asyncio.to_thread(celery_setup.app.AsyncResult(hand.process_id).get, timeout=5)


def _nothing_is_left(celery_setup: CeleryTestSetup) -> None:
    """Now that all results are here: nothing in Redis would run again."""
    broker, results = celery_setup.broker.container.client, celery_setup.backend.container.client
    assert broker.llen("anthropic") == 0
    # A message that is not acknowledged yet, or never will be by a worker that was killed just then, is dropped when it
    # comes again: it has a result.
    for message, *_ in map(json.loads, broker.hvals("unacked")):
        assert results.exists(f"celery-task-meta-{message['headers']['id']}")
    assert results.zcard("stbass:leases") == 0
    assert results.keys("stbass:run:*") == []
