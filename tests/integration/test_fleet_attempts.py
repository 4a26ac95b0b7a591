"""A process whose worker dies each time: it fails, and does not kill one worker after another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from stbass._process.context import ProcessContext
from stbass._values.ids import new_id
from stbass.backends.celery import CeleryBackend, keys, make_app
from stbass.errors import WorkerLostError
from stbass.testing import RedisServer, Worker
from tests.integration.conftest import APP
from tests.support.agents import EndWorker, Steps
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
        ({"max_attempts": 1}, 1),
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


def _claim(server: RedisServer, process_id: str, most: int, lease_ms: int = 1) -> list[Any]:
    client = redis.Redis.from_url(server.url)
    packed = msgspec.msgpack.encode([(process_id, lease_ms, 0, "", "dies", most, "")])
    answers: Any = client.register_script(keys.CLAIM)(args=["w", "celery-task-meta-", 60, packed])
    client.close()
    answer: list[Any] = answers[0]
    return answer


async def test_whoever_takes_it_decides_at_once(server: RedisServer) -> None:
    # given leases that are over when the answer is here, and nobody who looks for lost workers
    process_id = new_id()
    claims = []
    for _ in range(5):
        claims.append(_claim(server, process_id, 3))
        await until(lambda: _lapsed(server))
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


async def test_who_finds_it_and_who_takes_it_count_it_once(server: RedisServer) -> None:
    process_id = new_id()
    client = redis.Redis.from_url(server.url)
    sweep: Any = client.register_script(keys.SWEEP)
    for number in (1, 2):
        assert _claim(server, process_id, 2)[:2] == [b"go", number]
        await until(lambda: _lapsed(server))
        # Twice, the first finder died.
        for _ in range(2):
            [(_, is_last, deaths, record)] = sweep(args=[0, 10])
            assert (is_last, deaths, int(record[3])) == (number == 2, number, number)
    assert _claim(server, process_id, 2)[0] == b"lost"
    client.close()


def _lapsed(server: RedisServer) -> bool:
    client = redis.Redis.from_url(server.url)
    seconds, micros = client.time()
    ends: Any = client.zrange("stbass:leases", 0, -1, withscores=True)
    client.close()
    return all(end < seconds * 1000 + micros // 1000 for _, end in ends)
