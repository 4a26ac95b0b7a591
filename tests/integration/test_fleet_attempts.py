"""A process whose worker dies each time: it fails, and does not kill one worker after another."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from stbass._process.context import ProcessContext
from stbass._values.endpoint import Placement
from stbass._values.ids import new_id
from stbass.backends.celery import CeleryBackend, keys, make_app
from stbass.channel import Chan
from stbass.errors import WorkerLostError
from stbass.par import PARResult
from stbass.placement import PLACED_PAR
from stbass.result import FailurePolicy
from stbass.testing import RedisServer, Worker
from tests.integration.conftest import APP
from tests.support.agents import EndWorker, Steps
from tests.support.backends import registry_of
from tests.support.talkers import Produce, collect
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as made:
        yield made


@pytest.fixture
async def attempts(server: RedisServer, request: pytest.FixtureRequest) -> AsyncIterator[CeleryBackend]:
    """A backend with these options, whose processes may run on the workers of :func:`_worker`."""
    options = {"queue": "dies", "lease": 0.5, **getattr(request, "param", {})}
    async with aclosing(CeleryBackend(make_app("tests", broker_url=server.url), **options)) as made:
        yield made


def _worker(server: RedisServer, **options: Any) -> Worker:
    env = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url, "TEST_LEASE": "0.5"}
    return Worker(APP, "dies", env={**env, **options.pop("env", {})}, **options)


@pytest.mark.parametrize(
    ("attempts", "most"),
    [
        pytest.param({}, 3, marks=pytest.mark.slow),
        ({"max_attempts": 2}, 2),
        pytest.param({"max_attempts": 1}, 1, marks=pytest.mark.slow),
        ({"on_worker_lost": "fail", "max_attempts": 5}, 1),
    ],
    indirect=["attempts"],
)
async def test_a_process_that_ends_its_workers_fails_with_its_last_checkpoint(
    server: RedisServer, attempts: CeleryBackend, most: int, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    running = asyncio.create_task(attempts.execute(EndWorker(str(log)), ProcessContext("kills")))
    # when a supervisor starts the worker again each time; after the last death, nobody is left but the producer
    for number in range(most):
        async with _worker(server) as worker:
            await until(lambda: worker.exit_code is not None)
            assert len(log.read_text().splitlines()) == number + 1
    async with asyncio.timeout(10):
        failure = (await running).failure
    # then
    assert isinstance(failure.error, WorkerLostError)
    assert (failure.error.worker, failure.error.attempt) == (worker.name, most)
    assert failure.checkpoint == most
    assert (f"its worker died {most} times: it is likely what kills them" in str(failure.error)) is (most > 1)
    assert [line.rpartition(" ")[0] for line in log.read_text().splitlines()] == [
        f"{n} {n - 1 if n > 1 else None}" for n in range(1, most + 1)
    ]
    # and nothing is left that could kill another one
    assert server.command("ZCARD", "stbass:leases") == 0
    assert server.command("LLEN", "dies") == 0
    async with _worker(server) as last:
        after = await attempts.execute(Steps(1, 0.0), ProcessContext("after"))
        assert after.is_ok
        await until(lambda: server.command("HLEN", "unacked") == 0)
        assert last.running
    assert len(log.read_text().splitlines()) == most


@pytest.mark.slow
@pytest.mark.parametrize("attempts", [{"max_attempts": 2}], indirect=True)
async def test_a_process_that_ends_the_children_of_a_prefork_worker(
    server: RedisServer, attempts: CeleryBackend, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    async with _worker(server, pool="prefork", concurrency=2) as worker:
        async with asyncio.timeout(40):
            failure = (await attempts.execute(EndWorker(str(log)), ProcessContext("kills"))).failure
        assert isinstance(failure.error, WorkerLostError)
        assert failure.checkpoint == 2
        assert "its worker died 2 times" in str(failure.error)
        # The worker itself lives on, and so do its children.
        assert (await attempts.execute(Steps(1, 0.0), ProcessContext("after"))).is_ok
        assert worker.running
    assert len(log.read_text().splitlines()) == 2


@pytest.mark.parametrize("attempts", [{"max_attempts": 1}], indirect=True)
async def test_a_worker_that_stops_is_not_counted(server: RedisServer, attempts: CeleryBackend) -> None:
    async with _worker(server, env={"TEST_GRACE": "0"}) as first:
        running = asyncio.create_task(attempts.execute(Steps(30, 0.05), ProcessContext("steps")))
        await until(lambda: server.command("ZCARD", "stbass:leases"))
        await asyncio.to_thread(first.terminate, 20)
        async with _worker(server), asyncio.timeout(20):
            result = await running
    assert result.value["attempt"] == 2


_calls = itertools.count(1)


def _claim(server: RedisServer, process_id: str, most: int, lease_ms: int = 1) -> list[Any]:
    client = redis.Redis.from_url(server.url)
    packed = msgspec.msgpack.encode([(process_id, lease_ms, 0, "", "dies", most, "", "", 0, 1, next(_calls))])
    answers: Any = client.register_script(keys.CLAIM)(args=["w", "life", "celery-task-meta-", 60, 60, 0, 0, packed])
    client.close()
    answer: list[Any] = answers[1]
    return answer


async def test_whoever_takes_it_decides_at_once(server: RedisServer) -> None:
    # given leases that are over when the answer is here, and who looked for lost workers since has died before it told
    process_id = new_id()
    claims = []
    for _ in range(5):
        claims.append(_claim(server, process_id, 3))
        await until(lambda: _lapsed(server))
        server.command("SET", "stbass:swept", str(round(1000 * time.time())))
    # then the third worker is the last one, however often it is asked for
    assert [(claim[0], claim[1]) for claim in claims] == [
        (b"go", 1),
        (b"go", 2),
        (b"go", 3),
        (b"lost", 3),
        (b"lost", 3),
    ]
    assert [claim[2] for claim in claims[3:]] == [3, 3]
    assert claims[3][4] == b"w"


async def test_nobody_takes_it_while_nobody_has_looked_since(server: RedisServer) -> None:
    process_id, client = new_id(), redis.Redis.from_url(server.url)
    sweep: Any = client.register_script(keys.SWEEP)
    assert _claim(server, process_id, 3)[0] == b"go"
    await until(lambda: _lapsed(server))
    assert _claim(server, process_id, 3)[0] == b"busy"
    # nor when one has only seen that the server is well again
    sweep(args=[0, 0])
    assert _claim(server, process_id, 3)[0] == b"busy"
    sweep(args=[0, 10])
    assert _claim(server, process_id, 3)[:2] == [b"go", 2]
    client.close()


async def test_who_finds_it_and_who_takes_it_count_it_once(server: RedisServer) -> None:
    process_id = new_id()
    client = redis.Redis.from_url(server.url)
    sweep: Any = client.register_script(keys.SWEEP)
    for number in (1, 2):
        assert _claim(server, process_id, 2)[:2] == [b"go", number]
        await until(lambda: _lapsed(server))
        # Twice, the first finder died.
        for _ in range(2):
            [(_, is_last, deaths, _, record)] = sweep(args=[0, 10])[0]
            assert (is_last, deaths, int(record[3])) == (number == 2, number, number)
    assert _claim(server, process_id, 2)[0] == b"lost"
    client.close()


class _Deaths:
    """Workers that claim, and die, without being there: the scripts alone decide."""

    def __init__(self, server: RedisServer) -> None:
        self._client = redis.Redis.from_url(server.url)
        self._claim = self._client.register_script(keys.CLAIM)
        self._find: Any = self._client.register_script(keys.SWEEP)
        self.number = 0

    def run(self, *ids: str) -> list[str]:
        """What a new worker, to which nothing else is given, starts of these."""
        self.life, jobs = f"life-{self.number}", [(one, 10_000, 0, "", "dies", 3, "", "", 0, 1, 1) for one in ids]
        packed = msgspec.msgpack.encode(jobs)
        answers: Any = self._claim(args=["w", self.life, "celery-task-meta-", 60, 60, 0, 0, packed])
        return [one for one, answer in zip(ids, answers[1:-1], strict=True) if answer[0] == b"go"]

    def die(self, ids: list[str]) -> set[str]:
        """That worker dies; which of these processes are not run again."""
        self.number += 1
        self._client.zadd("stbass:leases", dict.fromkeys(ids, 1))
        over = {raw.decode() for raw, is_last, *_ in self._find(args=[0, 1000])[0] if is_last}
        self._client.zrem("stbass:leases", *ids)
        return over

    def blame(self, one: str) -> float:
        """What a process has to its blame."""
        found: Any = self._client.hget(f"stbass:run:{one}", "blame")
        return float(found or 0)

    def close(self) -> None:
        self._client.close()


@pytest.mark.parametrize(("bystanders", "most"), [(0, 3), (1, 4), (9, 5), (50, 6), (400, 8)])
async def test_one_that_kills_is_found_among_many(server: RedisServer, bystanders: int, most: int) -> None:
    """The others are there for as long as workers die: none of them ends meanwhile."""
    deaths = _Deaths(server)
    others = [f"other-{number}" for number in range(bystanders)]
    # when the one that kills is started with as many of the others as may run beside it
    for _ in range(most):
        started = deaths.run("kills", *others)
        assert started[0] == "kills"
        over = deaths.die(started)
        assert over <= {"kills"}
    # then
    assert over == {"kills"}
    assert all(deaths.blame(other) <= 1 for other in others)
    deaths.close()


async def test_two_that_kill_are_both_found(server: RedisServer) -> None:
    deaths = _Deaths(server)
    left = ["kills", "kills too", *(f"other-{number}" for number in range(20))]
    while {"kills", "kills too"} & set(left):
        started = deaths.run(*left)
        assert started
        # Whoever was on a worker that died goes to the end of the queue; others have ended there.
        left = [one for one in left if one not in started]
        if {"kills", "kills too"} & set(started):
            over = deaths.die(started)
            assert over <= {"kills", "kills too"}
            left += [one for one in started if one not in over]
        assert deaths.number <= 12
    deaths.close()


async def test_processes_whose_lease_ends_one_by_one_share_the_death_alike(server: RedisServer) -> None:
    deaths, client = _Deaths(server), redis.Redis.from_url(server.url)
    ids = ["a", "b", "c", "d"]
    deaths.run(*ids)
    for one in ids:
        client.zadd("stbass:leases", {one: 1})
        deaths._find(args=[0, 10])
        client.zrem("stbass:leases", one)
    assert [round(deaths.blame(one), 3) for one in ids] == [0.25] * 4
    client.close()
    deaths.close()


async def _supervise(worker: Worker) -> None:
    """Start it again each time that it has ended."""
    while True:
        await until(lambda: worker.exit_code is not None, timeout=600)
        await asyncio.to_thread(worker.restart)


@asynccontextmanager
async def _supervised(server: RedisServer, number: int, **options: Any) -> AsyncIterator[list[Worker]]:
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(_worker(server, **options)) for _ in range(number)]
        supervisors = [asyncio.create_task(_supervise(worker)) for worker in workers]
        try:
            yield workers
        finally:
            for supervisor in supervisors:
                supervisor.cancel()
            await asyncio.gather(*supervisors, return_exceptions=True)


async def _storm(
    server: RedisServer,
    backend: CeleryBackend,
    count: int,
    kills: int,
    seconds: float,
    *,
    among: int,
    pause: float = 0.25,
    **workers: Any,
) -> PARResult:
    """So many processes, under kills of their workers at random, spread over these seconds."""
    dice = random.Random(7)
    async with _supervised(server, among, **workers) as running:
        everything = PLACED_PAR(
            *((Steps(8, pause), Placement(endpoint="dies")) for _ in range(count)),
            registry=registry_of(backend),
            on_failure=FailurePolicy.COLLECT,
        )
        waiting = asyncio.create_task(everything.run())
        for _ in range(kills):
            await asyncio.sleep(seconds / kills)
            dice.choice(running).send_signal(signal.SIGKILL)
        return await waiting


@pytest.mark.slow
async def test_suspects_that_wait_for_each_other_are_apart_for_no_longer_than_a_lease(
    server: RedisServer, attempts: CeleryBackend
) -> None:
    channel: Chan[int] = Chan(int, transport=attempts.transport())
    talking = [Produce(20).with_channels(out=channel), collect.with_channels(inp=channel)]
    contexts = [ProcessContext("sends"), ProcessContext("receives")]
    for ctx in contexts:
        # given that two workers have died under each
        record: list[str | int] = ["attempt", 2, "swept", 2, "deaths", 2, "blame", 1, "life", "gone"]
        server.command("HSET", f"stbass:run:{ctx.process_id}", *record)
    # when they come to one worker, then neither waits for the other to end
    async with _worker(server, include=["tests.support.talkers"]), asyncio.timeout(60):
        both = (attempts.execute(process, ctx) for process, ctx in zip(talking, contexts, strict=True))
        _, received = await asyncio.gather(*both)
    assert received.value == list(range(20))


async def test_none_is_lost_when_workers_are_killed(server: RedisServer, attempts: CeleryBackend) -> None:
    result = await _storm(server, attempts, 60, 3, 1.0, among=2, pause=0.1, concurrency=40)
    assert [item.failure.error for item in result.results if item.is_fail] == []
    assert {item.value["to"] for item in result.results} == {8}


@pytest.mark.slow
@pytest.mark.timeout(500)
@pytest.mark.parametrize("attempts", [{"lease": 2.0}], indirect=True)
async def test_none_is_lost_in_a_storm_of_kills(server: RedisServer, attempts: CeleryBackend) -> None:
    env = {"TEST_LEASE": "2.0"}
    result = await _storm(server, attempts, 2000, 25, 60.0, among=3, concurrency=100, env=env)
    assert [item.failure.error for item in result.results if item.is_fail] == []
    assert {item.value["to"] for item in result.results} == {8}
    assert max(item.run.attempt for item in result.results if item.run) > 2


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_among_fifty_bystanders_only_the_one_that_kills_fails(
    server: RedisServer, attempts: CeleryBackend, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    async with _supervised(server, 2):
        result = await PLACED_PAR(
            (EndWorker(str(log)), Placement(endpoint="dies")),
            *((Steps(10, 0.2), Placement(endpoint="dies")) for _ in range(50)),
            registry=registry_of(attempts),
            on_failure=FailurePolicy.COLLECT,
        ).run()
    first, *others = result.results
    assert isinstance(first.failure.error, WorkerLostError)
    assert "it is likely what kills them" in str(first.failure.error)
    deaths = len(log.read_text().splitlines())
    # Who runs beside it each time, and has a part in the blame, is chance: six or so, and far from three for each.
    assert 3 <= deaths <= 12
    assert first.failure.checkpoint == deaths
    assert [item.failure.error for item in others if item.is_fail] == []


def _lapsed(server: RedisServer) -> bool:
    client = redis.Redis.from_url(server.url)
    seconds, micros = client.time()
    ends: Any = client.zrange("stbass:leases", 0, -1, withscores=True)
    client.close()
    return all(end < seconds * 1000 + micros // 1000 for _, end in ends)
