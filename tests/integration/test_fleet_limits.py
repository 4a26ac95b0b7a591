"""Limits of endpoints, with real workers: how many run is what the processes themselves tell."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import pytest
import redis
from celery.result import AsyncResult

from stbass._process.context import ProcessContext
from stbass._values.endpoint import Placement
from stbass._values.limits import Limit
from stbass._values.policy import FailurePolicy
from stbass.backends.celery import CeleryBackend, make_app
from stbass.backends.celery.line import LimitState, WaitingLine
from stbass.backends.celery.settings import fleet_of
from stbass.errors import DeadlineExceeded, ProcessCancelled, StateLostError
from stbass.placement import PLACED_PAR
from stbass.testing import RedisServer, Worker
from tests.integration.conftest import APP
from tests.support.agents import Give
from tests.support.backends import registry_of
from tests.support.puppets import Hand, Puppet, Puppeteer
from tests.support.rabbitmq import RabbitMQ
from tests.support.waiting import until

COLLECT = FailurePolicy.COLLECT
LEASE = 1.0
PATIENCE = 30.0


class Limited:
    """A fleet with an endpoint that a test limits, ``llm``, and another one, ``free``."""

    def __init__(
        self,
        server: RedisServer,
        puppeteer: Puppeteer,
        broker: str = "",
        key: str | None = None,
        lease: float = LEASE,
    ) -> None:
        self.server, self.puppeteer, self.broker, self.key = server, puppeteer, broker or server.url, key
        self.lease = lease
        self.app = make_app(
            "tests", broker_url=self.broker, result_backend=server.url, stbass_lease=lease, stbass_signing_key=key
        )
        fleet = fleet_of(self.app)
        self.line = WaitingLine(fleet.settings, fleet.result_prefix, self.app)
        self.backend = CeleryBackend(self.app, lease=lease)
        self.stack = ExitStack()

    async def start(
        self, *queues: str, count: int = 1, env: dict[str, str] | None = None, **options: Any
    ) -> list[Worker]:
        """So many workers of these queues."""
        known = {"STBASS_BROKER_URL": self.broker, "STBASS_RESULT_BACKEND": self.server.url}
        known["TEST_LEASE"] = str(self.lease)
        known |= {"TEST_SIGNING_KEY": self.key} if self.key else {}
        options.setdefault("include", ["tests.support.puppets"])
        made = [Worker(APP, *queues, env={**known, **(env or {})}, **options) for _ in range(count)]
        for worker in made:
            self.stack.callback(worker.kill)
        await asyncio.gather(*(asyncio.to_thread(worker.start) for worker in made))
        return made

    def run(self, count: int, *, first: int = 0, endpoint: str = "llm", **options: Any) -> asyncio.Task[Any]:
        """Puppets with these numbers as names, sent in that order."""
        there = Placement(endpoint=endpoint)
        puppets = [
            (Puppet(self.puppeteer.port).with_name(f"{endpoint}-{number}"), there)
            for number in range(first, first + count)
        ]
        options = {"on_failure": COLLECT, **options}
        return asyncio.create_task(PLACED_PAR(*puppets, registry=registry_of(self.backend), **options).run())

    async def limit(self, text: str | None = None) -> LimitState:
        """Set the limit, or ask for it."""
        limit = None if text is None else Limit() if text == "off" else Limit.parse(text, "limit")
        return await asyncio.to_thread(self.line.limit, "llm", limit)

    async def waiting(self, count: int) -> None:
        """Wait until so many wait in line."""
        async with asyncio.timeout(PATIENCE):
            while (await self.limit()).waiting != count:  # noqa: ASYNC110 - Redis cannot wake us
                await asyncio.sleep(0.01)

    async def begun(self, count: int) -> list[Hand]:
        """Wait until so many have begun, and see that no more have."""
        async with asyncio.timeout(PATIENCE):
            await self.puppeteer.wait_for(count)
        assert len(self.puppeteer.hands) == count
        return self.puppeteer.hands

    def keys(self) -> list[str]:
        """What is kept of places and of the line."""
        found: Any = self.server.command("KEYS", "stbass:*")
        kinds = ("places", "calls", "line", "due", "parked")
        return sorted(name for name in found if name.split(":")[1] in kinds)

    async def aclose(self) -> None:
        await self.backend.aclose()
        self.stack.close()
        self.line.close()


@pytest.fixture(scope="module")
def workers() -> Iterator[RedisServer]:
    """A server with two workers of both endpoints, which no test harms."""
    with RedisServer() as server:
        env = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url, "TEST_LEASE": str(LEASE)}
        one, other = (Worker(APP, "llm", "free", env=env, include=["tests.support.puppets"]) for _ in range(2))
        with one, other:
            yield server


@pytest.fixture
async def shared(workers: RedisServer, puppeteer: Puppeteer) -> AsyncIterator[Limited]:
    """A fleet on which two workers run."""
    workers.command("DEL", "stbass:limits", "stbass:limit:llm")
    made = Limited(workers, puppeteer)
    yield made
    await made.aclose()


@pytest.fixture
async def fleet(server: RedisServer, puppeteer: Puppeteer) -> AsyncIterator[Limited]:
    server.command("FLUSHALL")
    made = Limited(server, puppeteer)
    yield made
    await made.aclose()


async def in_turn(fleet: Limited, count: int, most: int) -> None:
    """See all of them run, never more than so many, each when another one ends, in the order in which they came."""
    for number in range(count):
        hands = await fleet.begun(min(count, number + most))
        hands[number].order("return", number)
        assert await hands[number].ended() == "returned"
    assert [hand.name for hand in fleet.puppeteer.hands] == [f"llm-{number}" for number in range(count)]


@pytest.fixture
async def quiet(server: RedisServer, puppeteer: Puppeteer) -> AsyncIterator[Limited]:
    """A fleet of one worker, which looks for lost ones, and then for who may begin, as seldom as it can: each 5 s."""
    server.command("FLUSHALL")
    made = Limited(server, puppeteer, lease=600.0)
    yield made
    await made.aclose()


@asynccontextmanager
async def nobody_waits_for(fleet: Limited, count: int) -> AsyncIterator[None]:
    """So many are in line or have begun, and their producer, which looks for lost workers too, is gone."""
    group = fleet.run(count)
    await until(
        lambda: fleet.server.command("HLEN", "stbass:parked") + len(fleet.puppeteer.hands) == count, timeout=PATIENCE
    )
    await fleet.backend.aclose()
    # Who waits until somebody looks has to wait for 5 s each time, and far longer than that in all.
    async with asyncio.timeout(2 * PATIENCE):
        yield
    group.cancel()
    await asyncio.gather(group, return_exceptions=True)


def values(result: Any) -> list[Any]:
    return [one.value for one in result.results]


async def test_never_more_than_the_limit_over_two_workers_and_the_first_come_first(shared: Limited) -> None:
    await shared.limit("1")
    group = shared.run(12, deadline=60.0)
    await in_turn(shared, 12, 1)
    assert values(await group) == list(range(12))
    # Nothing is left of it.
    assert shared.keys() == []


async def test_whoever_ends_calls_the_next(quiet: Limited) -> None:
    await quiet.limit("1")
    await quiet.start("llm")
    async with nobody_waits_for(quiet, 25):
        for number in range(25):
            hands = await quiet.begun(number + 1)
            hands[number].order("raise" if number % 5 == 1 else "return")
            assert await hands[number].ended() in ("returned", "raised")


async def test_two_producers_share_a_limit(shared: Limited, puppeteer: Puppeteer) -> None:
    await shared.limit("3")
    other = Limited(shared.server, puppeteer)
    groups = [shared.run(4, deadline=60.0), other.run(4, first=4, deadline=60.0)]
    await shared.waiting(5)
    for number in range(8):
        hands = await shared.begun(min(8, number + 3))
        hands[number].order("return", hands[number].name)
        await hands[number].ended()
    assert [values(await group) for group in groups] == [
        [f"llm-{number}" for number in range(4)],
        [f"llm-{number}" for number in range(4, 8)],
    ]
    await other.aclose()


async def test_what_waits_keeps_no_worker_from_other_endpoints(fleet: Limited) -> None:
    # given a worker that holds no more than two messages
    await fleet.limit("1")
    await fleet.start("llm", "free", concurrency=2)
    group = fleet.run(20, deadline=60.0)
    await fleet.waiting(19)
    # then
    result = await PLACED_PAR(
        *[(Give(number), Placement(endpoint="free")) for number in range(5)], registry=registry_of(fleet.backend)
    ).run()
    assert values(result) == list(range(5))
    group.cancel()


async def test_a_limit_of_nothing_stops_an_endpoint_until_it_is_raised(shared: Limited) -> None:
    await shared.limit("0")
    group = shared.run(3, deadline=60.0)
    await shared.waiting(3)
    assert shared.puppeteer.hands == []
    # when
    await shared.limit("2")
    await in_turn(shared, 3, 2)
    assert values(await group) == [0, 1, 2]


async def test_a_limit_that_is_set_while_processes_run_counts_them(shared: Limited) -> None:
    # given six that run without a limit
    group = shared.run(6, deadline=60.0)
    hands = await shared.begun(6)
    assert await shared.limit("2") == LimitState(Limit(running=2), "command", 6, 0)
    # when more come, they wait until only one of the six is left
    more = shared.run(2, first=6, deadline=60.0)
    await shared.waiting(2)
    for number, hand in enumerate(sorted(hands, key=lambda one: one.name)[:5]):
        await shared.begun(6)
        hand.order("return", number)
        await hand.ended()
    hands = await shared.begun(7)
    # when it is lifted
    await shared.limit("off")
    hands = await shared.begun(8)
    for hand in hands:
        hand.order("return", 0)
    assert (await group).is_ok
    assert (await more).is_ok
    assert (await shared.limit()).running == 0
    assert shared.keys() == []


async def test_the_command_lifts_a_limit_for_what_waits(shared: Limited) -> None:
    await shared.limit("1")
    group = shared.run(3, deadline=60.0)
    await shared.waiting(2)
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "stbass", "limit", "llm", "--off"],
        env={**os.environ, "STBASS_BROKER_URL": shared.broker},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "llm: no limit\n"
    for hand in await shared.begun(3):
        hand.order("return", 0)
    assert (await group).is_ok


async def test_a_limit_is_lowered_below_what_runs_and_raised_again(shared: Limited) -> None:
    await shared.limit("4")
    group = shared.run(10, deadline=60.0)
    hands = await shared.begun(4)
    await shared.limit("1")
    for number in range(3):
        hands[number].order("return", number)
        await hands[number].ended()
        await shared.begun(4)
    hands[3].order("return", 3)
    await shared.begun(5)
    await shared.limit("3")
    await shared.begun(7)
    await shared.limit("off")
    for hand in await shared.begun(10):
        hand.order("return", 0)
    assert (await group).is_ok


async def test_a_lost_worker_gives_its_places_back(fleet: Limited) -> None:
    await fleet.limit("2")
    [first] = await fleet.start("llm")
    group = fleet.run(5, deadline=90.0)
    await fleet.begun(2)
    await fleet.waiting(3)
    # when
    first.kill()
    await fleet.start("llm")
    # then those two run again, as they came first, and then the others
    again = await asyncio.wait_for(fleet.puppeteer.wait_for(2, lambda hand: hand.attempt == 2), PATIENCE)
    assert {hand.name for hand in again} == {"llm-0", "llm-1"}
    for number in range(5):
        hands = await fleet.begun(min(7, 4 + number))
        hands[2 + number].order("return", 0)
        await hands[2 + number].ended()
    assert [hand.name for hand in fleet.puppeteer.hands[4:]] == ["llm-2", "llm-3", "llm-4"]
    assert (await group).is_ok
    assert fleet.keys() == []


@pytest.mark.slow
async def test_a_worker_that_stops_hands_its_places_on(fleet: Limited) -> None:
    await fleet.limit("2")
    [first] = await fleet.start("llm", env={"TEST_GRACE": "0"})
    group = fleet.run(4, deadline=60.0)
    await fleet.begun(2)
    await fleet.waiting(2)
    await fleet.start("llm")
    # when
    await asyncio.to_thread(first.terminate, PATIENCE)
    # then
    again = await asyncio.wait_for(fleet.puppeteer.wait_for(2, lambda hand: hand.attempt == 2), PATIENCE)
    assert {hand.name for hand in again} == {"llm-0", "llm-1"}
    for number in range(4):
        hands = await fleet.begun(min(6, 4 + number))
        hands[2 + number].order("return", 0)
        await hands[2 + number].ended()
    assert (await group).is_ok


@pytest.mark.slow
async def test_the_death_of_the_worker_that_took_what_waits_harms_nothing(fleet: Limited) -> None:
    await fleet.limit("0")
    [first] = await fleet.start("llm")
    group = fleet.run(3, deadline=60.0)
    await fleet.waiting(3)
    first.kill()
    await fleet.limit("3")
    await fleet.start("llm")
    for hand in await fleet.begun(3):
        assert hand.attempt == 1
        hand.order("return", 0)
    assert (await group).is_ok


@pytest.mark.parametrize(
    ("limit", "words"),
    [("1", "1 at once"), ("0", "0 at once"), ("1/h", "1/h"), ("7, 1/h", "1/h"), ("1, 9/s", "1 at once")],
)
async def test_a_deadline_that_passes_in_line_says_which_limit(shared: Limited, limit: str, words: str) -> None:
    await shared.limit("1")
    first = shared.run(1, deadline=90.0)
    [hand] = await shared.begun(1)
    if limit != "1":
        await shared.limit(limit)
    late = shared.run(2, first=1, deadline=90.0) if words == "1/h" else None
    if late is not None:
        await shared.begun(2)
    # when
    [result] = (await shared.run(1, first=5, deadline=1.0)).results
    # then
    error = result.failure.error
    assert isinstance(error, DeadlineExceeded)
    assert error.phase == "queued"
    assert str(error) == (
        "process 'llm-5': its deadline of 1 s passed while it was queued for 'llm':"
        f" the endpoint's limit of {words} was used up"
    )
    # It leaves the line, and is not run when there is room.
    await shared.waiting(1 if late else 0)
    hand.order("return", 0)
    assert (await first).is_ok
    await shared.limit("off")
    if late is not None:
        for one in await shared.begun(3):
            one.order("return", 0)
        await late
    await until(lambda: shared.keys() == [], timeout=PATIENCE)
    assert "llm-5" not in [one.name for one in shared.puppeteer.hands]


async def test_what_is_cancelled_leaves_the_line(shared: Limited) -> None:
    await shared.limit("1")
    group = shared.run(3, deadline=60.0)
    hands = await shared.begun(1)
    other = shared.run(2, first=3, deadline=60.0)
    await shared.waiting(4)
    # when
    group.cancel()
    # then
    assert await hands[0].ended() == "cancelled"
    hands = await shared.begun(2)
    await shared.waiting(1)
    for number in (1, 2):
        hands = await shared.begun(number + 1)
        hands[number].order("return", 0)
    assert (await other).is_ok
    assert {hand.name for hand in hands[1:]} == {"llm-3", "llm-4"}
    await until(lambda: shared.keys() == [], timeout=PATIENCE)


async def test_what_celery_revokes_leaves_the_line(shared: Limited) -> None:
    await shared.limit("1")
    first = shared.run(1, deadline=90.0)
    [hand] = await shared.begun(1)
    ctx = ProcessContext("revoked", placement=Placement(endpoint="llm"))
    revoked = asyncio.create_task(shared.backend.execute(Give(1), ctx))
    await shared.waiting(1)
    last = shared.run(1, first=7, deadline=90.0)
    await shared.waiting(2)
    shared.app.control.revoke(ctx.process_id)
    hand.order("return", 0)
    # It is found revoked when it is its turn, and keeps nobody waiting.
    assert isinstance((await asyncio.wait_for(revoked, PATIENCE)).failure.error, ProcessCancelled)
    hands = await shared.begun(2)
    hands[1].order("return", 0)
    assert (await last).is_ok
    assert (await first).is_ok
    await until(lambda: shared.keys() == [], timeout=PATIENCE)


async def test_what_waits_beyond_its_deadline_is_ended_though_its_producer_is_gone(shared: Limited) -> None:
    await shared.limit("0")
    group = shared.run(1, deadline=1.5)
    await shared.waiting(1)
    [process_id] = shared.server.command("HKEYS", "stbass:parked")
    # when the producer is gone
    await shared.backend.aclose()
    result = AsyncResult(str(process_id), app=shared.app)
    # then
    await until(result.ready, timeout=PATIENCE)
    await until(lambda: shared.keys() == [], timeout=PATIENCE)
    raw = str(shared.server.command("GET", f"celery-task-meta-{process_id}"))
    assert "the endpoint's limit of 0 at once was used up" in raw
    group.cancel()
    await asyncio.gather(group, return_exceptions=True)


async def test_a_rate_is_kept_evenly(shared: Limited) -> None:
    await shared.limit("20/s")
    began = time.monotonic()
    group = shared.run(60, deadline=60.0)
    times: list[float] = []
    for number in range(60):
        await shared.puppeteer.wait_for(number + 1)
        times.append(time.monotonic() - began)
        shared.puppeteer.hands[number].order("return", 0)
    assert (await group).is_ok
    # One at once, for 5 % of 20 are one, and then one each 50 ms.
    assert times[-1] >= 59 / 20 * 0.97
    assert [hand.name for hand in shared.puppeteer.hands] == [f"llm-{number}" for number in range(60)]


async def test_a_rate_calls_the_next_though_nobody_ends(quiet: Limited) -> None:
    await quiet.limit("20/s")
    await quiet.start("llm")
    async with nobody_waits_for(quiet, 25):
        await quiet.puppeteer.wait_for(25)


async def test_a_rate_that_is_set_while_processes_wait_calls_the_next(quiet: Limited) -> None:
    await quiet.limit("0")
    await quiet.start("llm")
    async with nobody_waits_for(quiet, 25):
        await quiet.limit("20/s")
        await quiet.puppeteer.wait_for(25)


async def test_limits_of_both_kinds_hold_together(shared: Limited) -> None:
    await shared.limit("2, 1000/s")
    group = shared.run(8, deadline=60.0)
    await in_turn(shared, 8, 2)
    assert (await group).is_ok


async def test_a_line_and_its_places_outlive_a_restart_of_redis(puppeteer: Puppeteer) -> None:
    with RedisServer(persistent=True) as server:
        fleet = Limited(server, puppeteer)
        try:
            await fleet.limit("2")
            await fleet.start("llm")
            group = fleet.run(6, deadline=90.0)
            await fleet.waiting(4)
            hands = await fleet.begun(2)
            server.kill()
            hands[0].order("return", 0)
            await hands[0].ended()
            await asyncio.to_thread(server.restart)
            hands = await fleet.begun(3)
            for number in range(1, 6):
                hands = await fleet.begun(min(6, number + 2))
                hands[number].order("return", number)
                await hands[number].ended()
            assert values(await group) == list(range(6))
        finally:
            await fleet.aclose()


async def test_what_waits_is_told_that_redis_has_lost_it(fleet: Limited) -> None:
    await fleet.limit("0")
    await fleet.start("llm")
    group = fleet.run(3)
    await fleet.waiting(3)
    fleet.server.command("FLUSHALL")
    result = await asyncio.wait_for(group, PATIENCE)
    assert [type(one.failure.error) for one in result.results] == [StateLostError] * 3


async def test_the_settings_name_limits_that_a_command_changes(fleet: Limited) -> None:
    env = {"TEST_LIMITS": json.dumps({"llm": "1"})}
    [worker] = await fleet.start("llm", env=env)
    assert await fleet.limit() == LimitState(Limit(running=1), "settings", 0, 0)
    group = fleet.run(4, deadline=90.0)
    await fleet.waiting(3)
    await fleet.begun(1)
    # when somebody says otherwise, that holds, also for workers that start later
    await fleet.limit("2")
    await fleet.begun(2)
    await fleet.start("llm", env=env)
    assert await fleet.limit() == LimitState(Limit(running=2), "command", 2, 2)
    for number in range(4):
        hands = await fleet.begun(min(4, number + 2))
        hands[number].order("return", 0)
        await hands[number].ended()
    assert (await group).is_ok
    # when Redis has lost all limits, the one of the settings holds again
    fleet.server.command("FLUSHALL")
    more = fleet.run(2, first=4, deadline=90.0)
    await fleet.waiting(1)
    assert (await fleet.limit()).limit == Limit(running=1)
    for number in (4, 5):
        hands = await fleet.begun(number + 1)
        hands[number].order("return", 0)
    assert (await more).is_ok
    assert worker.running


@pytest.mark.parametrize(
    "pool", ["prefork", *(pytest.param(name, marks=pytest.mark.slow) for name in ("threads", "solo"))]
)
async def test_on_pools_of_celerys_own(fleet: Limited, pool: str) -> None:
    await fleet.limit("1")
    await fleet.start("llm", count=2, pool=pool, concurrency=2)
    group = fleet.run(6, deadline=90.0)
    await fleet.waiting(5)
    for number in range(6):
        hands = await fleet.begun(number + 1)
        hands[number].order("return", number)
        await hands[number].ended()
    assert sorted(values(await group)) == list(range(6))
    assert fleet.keys() == []
    # Nothing is left with the broker, nor comes again.
    await until(lambda: fleet.server.command("HLEN", "unacked") == 0, timeout=PATIENCE)
    assert fleet.server.command("LLEN", "llm") == 0


async def test_queues_in_another_database_than_the_results(server: RedisServer, puppeteer: Puppeteer) -> None:
    server.command("FLUSHALL")
    fleet = Limited(server, puppeteer, broker=server.url.removesuffix("/0").rstrip("/") + "/1")
    try:
        await fleet.limit("1")
        await fleet.start("llm", count=2)
        group = fleet.run(6, deadline=60.0)
        await fleet.waiting(5)
        for number in range(6):
            hands = await fleet.begun(number + 1)
            hands[number].order("return", number)
            await hands[number].ended()
        assert sorted(values(await group)) == list(range(6))
        assert fleet.keys() == []
        more = fleet.run(2, first=6, deadline=60.0)
        await fleet.waiting(1)
        more.cancel()
        await until(lambda: fleet.keys() == [], timeout=PATIENCE)
    finally:
        await fleet.aclose()


@pytest.mark.slow
async def test_queues_in_rabbitmq(rabbitmq: RabbitMQ, server: RedisServer, puppeteer: Puppeteer) -> None:
    server.command("FLUSHALL")
    fleet = Limited(server, puppeteer, broker=rabbitmq.url)
    try:
        await fleet.limit("1")
        await fleet.start("llm", "free", count=2, concurrency=2)
        group = fleet.run(8, deadline=90.0)
        await fleet.waiting(7)
        # None of them is held by a worker: it takes others.
        free = await PLACED_PAR((Give(1), Placement(endpoint="free")), registry=registry_of(fleet.backend)).run()
        assert values(free) == [1]
        for number in range(8):
            hands = await fleet.begun(number + 1)
            hands[number].order("return", number)
            await hands[number].ended()
        assert sorted(values(await group)) == list(range(8))
        assert fleet.keys() == []
    finally:
        await fleet.aclose()


async def test_a_fleet_that_signs(server: RedisServer, puppeteer: Puppeteer) -> None:
    server.command("FLUSHALL")
    fleet = Limited(server, puppeteer, key="a key that is long enough")
    try:
        await fleet.limit("1")
        await fleet.start("llm")
        group = fleet.run(3, deadline=60.0)
        await fleet.waiting(2)
        # Who has no key cancels nothing of what waits.
        for process_id in fleet.server.command("HKEYS", "stbass:parked"):
            fleet.server.command("SET", f"stbass:cancelled:{process_id}", "1")
        await in_turn(fleet, 3, 1)
        assert values(await group) == [0, 1, 2]
    finally:
        await fleet.aclose()


async def test_what_somebody_else_writes_there_holds_up_nobody(shared: Limited) -> None:
    await shared.limit("1")
    group = shared.run(4, deadline=60.0)
    await shared.waiting(3)
    # given one of which something else is kept, one in line of which nothing is, and one that is due and is none
    [_, bad, _] = shared.server.command("ZRANGE", "stbass:line:llm", 0, -1)
    shared.server.command("HSET", "stbass:parked", bad, "garbage", "nobody", b"\x91\xc0")
    shared.server.command("ZADD", "stbass:line:llm", 1, "nothing", 2, "nobody")
    shared.server.command("ZADD", "stbass:due:llm", 1, "nothing", 1, "nobody", 1, bad)
    # then the others run, and who waits for that one is told
    for number in range(3):
        hands = await shared.begun(number + 1)
        hands[number].order("return", number)
        await hands[number].ended()
    results = (await asyncio.wait_for(group, PATIENCE)).results
    assert [one.is_ok for one in results] == [True, True, False, True]
    assert isinstance(results[2].failure.error, StateLostError)
    # A limit that is none, and a key of another kind, limit nothing and end no worker.
    for command in (("HSET", "stbass:limits", "llm", "many"), ("DEL", "stbass:limits"), ("SET", "stbass:limits", "x")):
        shared.server.command(*command)
        [result] = (
            await PLACED_PAR((Give(1), Placement(endpoint="llm")), registry=registry_of(shared.backend)).run()
        ).results
        assert result.value == 1
    shared.server.command("DEL", "stbass:limits")


async def in_a_while(server: RedisServer) -> int:
    """How many commands the server is given in some seconds: by programs, not by scripts."""
    with redis.Redis.from_url(server.url) as client, client.monitor() as monitor:
        until_then = time.monotonic() + 6 * LEASE

        def listen() -> int:
            count = 0
            while time.monotonic() < until_then:
                if monitor.connection.can_read(timeout=0.1):
                    count += monitor.next_command()["client_type"] != "lua"
            return count

        return await asyncio.to_thread(listen)


@pytest.mark.slow
async def test_an_idle_fleet_under_a_limit_says_no_more_than_another(fleet: Limited) -> None:
    await fleet.start("llm", count=2)
    without = await in_a_while(fleet.server)
    # given some that wait, and whose producer has gone
    await fleet.limit("0, 5/s")
    group = fleet.run(2)
    await fleet.waiting(2)
    await fleet.backend.aclose()
    # then the workers say what they said before
    assert await in_a_while(fleet.server) <= without * 1.1 + 2
    group.cancel()
    await asyncio.gather(group, return_exceptions=True)
