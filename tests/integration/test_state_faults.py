"""State when something dies: who holds a job, the server, or the connection to it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import redis.asyncio

from stbass.dataflow.state.postgres import PostgresStateBackend
from stbass.dataflow.state.redis import RedisStateBackend
from stbass.dataflow.state.sqlite import SqliteStateBackend
from stbass.errors import JobInUseError, StateError
from stbass.testing import RedisServer
from tests.support.postgres_server import PostgresServer
from tests.support.proxy import Proxy
from tests.support.state_backends import Kind, kind_of

pytestmark = pytest.mark.slow

JOB = "Job_0123456789abcdef"
LEASE = f"stbass:state:{JOB}:lease"


class Holder:
    """Another Python process that holds the job."""

    def __init__(self, kind: Kind, **options: Any) -> None:
        arguments = [kind.name, kind.where, json.dumps({"job_id": JOB, **options})]
        command = [sys.executable, "-m", "tests.support.state_holder", *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self._process.pid

    def answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def tell(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()

    def ask(self, command: str) -> str:
        self.tell(command)
        return self.answer()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        self.kill()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


@contextmanager
def holder(kind: Kind, **options: Any) -> Iterator[Holder]:
    started = Holder(kind, **options)
    try:
        assert started.answer() == "held"
        yield started
    finally:
        started.end()


@asynccontextmanager
async def expiry(url: str) -> AsyncIterator[asyncio.Task[None]]:
    """A task that ends when the lease of the job has run out."""
    client = redis.asyncio.Redis.from_url(url)
    await client.config_set("notify-keyspace-events", "Ex")

    async def wait() -> None:
        async for message in subscription.listen():
            if message["type"] == "message" and message["data"] == LEASE.encode():
                return

    async with client, client.pubsub() as subscription:
        await subscription.subscribe("__keyevent@0__:expired")
        task = asyncio.create_task(wait())
        yield task
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    with RedisServer(persistent=True) as server:
        yield server


# Killed holders ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sqlite", "postgres"])
async def test_the_job_of_a_killed_process_can_be_had_at_once(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    # given
    kind = kind_of(name, request, tmp_path)
    with holder(kind) as other:
        assert other.ask("save 1") == "saved"
        async with kind(job_id=JOB) as state:
            with pytest.raises(JobInUseError, match=f"process {other.pid} "):
                await state.acquire_job()
            # when
            other.kill()
            # then
            await state.acquire_job()
            assert await state.load_checkpoint() == (1, {"part": b"1"})
            await state.save_checkpoint(2, {"part": b"2"})
    if name == "sqlite":
        assert [path.name for path in tmp_path.iterdir()] == ["state.db"]


async def test_the_job_of_a_killed_process_can_be_had_when_its_lease_is_over(redis_url: str) -> None:
    kind = Kind("redis", redis_url)
    with holder(kind, lease=1.0) as other:
        assert other.ask("save 1") == "saved"
        async with kind(job_id=JOB, lease=1.0) as state, expiry(redis_url) as expired:
            with pytest.raises(JobInUseError, match=f"process {other.pid} "):
                await state.acquire_job()
            other.kill()
            async with asyncio.timeout(2.0):
                await expired
            await state.acquire_job()
            assert await state.load_checkpoint() == (1, {"part": b"1"})


@pytest.mark.parametrize("name", ["sqlite", "postgres"])
async def test_a_forked_child_does_not_keep_the_job(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    kind = kind_of(name, request, tmp_path)
    with holder(kind) as other:
        assert other.ask("fork") == "forked"
        other.kill()  # the child still reads our pipe
        async with kind(job_id=JOB) as state:
            await state.acquire_job()
            await state.save_checkpoint(1, {})


async def test_a_process_that_ends_in_an_orderly_way_gives_the_job_up(durable: Kind) -> None:
    with holder(durable) as other:
        other.ask("end")
        async with durable(job_id=JOB) as state:
            await state.acquire_job()


async def test_processes_that_write_at_once(durable: Kind) -> None:
    """Each has a job of its own in one database, and all of them begin with making the tables."""
    jobs = [f"Job_{index:08}" for index in range(4)]
    with ExitStack() as stack:
        others = [Holder(durable, job_id=job) for job in jobs]
        for other in others:
            stack.callback(other.end)
        assert [other.answer() for other in others] == ["held"] * 4
        for n in range(25):
            for other in others:
                other.tell(f"save {n}")
        assert [other.answer() for other in others for _ in range(25)] == ["saved"] * 100
    for job in jobs:
        async with durable(job_id=job) as state:
            assert await state.load_checkpoint() == (24, {"part": b"24"})


# Holders that lost the job -----------------------------------------------------------------------


async def test_a_holder_that_slept_through_its_lease_saves_no_more(redis_url: str) -> None:
    # given one that the operating system has stopped
    kind = Kind("redis", redis_url)
    with holder(kind, lease=0.5) as other:
        assert other.ask("save 1") == "saved"
        async with expiry(redis_url) as expired, kind(job_id=JOB) as state:
            os.kill(other.pid, signal.SIGSTOP)
            async with asyncio.timeout(5):
                await expired
            # when another run takes the job
            await state.acquire_job()
            await state.save_checkpoint(2, {"part": b"new"})
            os.kill(other.pid, signal.SIGCONT)
            # then
            assert other.ask("save 3") == "StateError"
            assert await state.load_checkpoint() == (2, {"part": b"new"})
            # and its renewals do not take the job away
            await state.save_checkpoint(4, {})


async def test_a_holder_that_slept_goes_on_if_nobody_took_the_job(redis_url: str) -> None:
    kind = Kind("redis", redis_url)
    with holder(kind, lease=0.5) as other:
        async with expiry(redis_url) as expired, kind(job_id=JOB) as state:
            os.kill(other.pid, signal.SIGSTOP)
            async with asyncio.timeout(5):
                await expired
            os.kill(other.pid, signal.SIGCONT)
            assert other.ask("save 3") == "saved"
            with pytest.raises(JobInUseError):
                await state.acquire_job()


async def test_a_blocked_event_loop_does_not_lose_the_job(redis_server: RedisServer, redis_url: str) -> None:
    kind = Kind("redis", redis_url)
    async with kind(job_id=JOB, lease=0.3) as state, kind(job_id=JOB) as other:
        await state.acquire_job()
        redis_server.command("BLPOP", "nothing", 1.0)  # on purpose on the event loop: three leases long
        with pytest.raises(JobInUseError):
            await other.acquire_job()
        await state.save_checkpoint(1, {})


def _sessions(url: str) -> int:
    with psycopg.connect(url, autocommit=True) as session:
        ended = session.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE pid != pg_backend_pid() AND backend_type = 'client backend'"
        )
        return len(ended.fetchall())


async def test_a_run_whose_connection_was_ended_goes_on_if_nobody_took_the_job(postgres_url: str) -> None:
    async with (
        PostgresStateBackend(postgres_url, job_id=JOB) as state,
        PostgresStateBackend(postgres_url, job_id=JOB) as other,
    ):
        await state.acquire_job()
        assert _sessions(postgres_url) == 2
        await state.save_checkpoint(1, {"a": b"1"})
        with pytest.raises(JobInUseError):
            await other.acquire_job()
        assert await other.load_checkpoint() == (1, {"a": b"1"})


async def test_a_run_whose_connection_was_ended_saves_no_more_if_another_has_the_job(postgres_url: str) -> None:
    async with (
        PostgresStateBackend(postgres_url, job_id=JOB) as state,
        PostgresStateBackend(postgres_url, job_id=JOB) as other,
    ):
        for _ in range(2):
            await state.acquire_job()
            await state.save_checkpoint(1, {"a": b"1"})
            assert _sessions(postgres_url) == 2
            await other.acquire_job()
            # while the other one has it
            with pytest.raises(StateError, match="another run has it"):
                await state.save_checkpoint(2, {})
            await other.save_checkpoint(3, {"a": b"3"})
            await other.release_job()
            # and when the other one has given it up: it went on without this run
            with pytest.raises(StateError, match="another run has taken it"):
                await state.save_checkpoint(2, {})
            assert await other.load_checkpoint() == (3, {"a": b"3"})
            await state.release_job()


async def test_a_lock_file_that_was_removed_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with SqliteStateBackend(path, job_id=JOB) as state, SqliteStateBackend(path, job_id=JOB) as other:
        await state.acquire_job()
        for file in tmp_path.glob("*.lock"):
            file.unlink()
        await other.acquire_job()
        with pytest.raises(StateError, match="another run has taken it"):
            await state.save_checkpoint(1, {})
        await other.save_checkpoint(2, {})


async def test_a_job_whose_record_was_deleted(durable: Kind, redis_server: RedisServer) -> None:
    async with durable(job_id=JOB) as state:
        await state.acquire_job()
        if durable.name == "redis":
            redis_server.command("DEL", f"stbass:state:{JOB}")
        else:
            durable.statement("DELETE FROM stbass_job WHERE job_id = ?", JOB)
        with pytest.raises(StateError, match="record"):
            await state.save_checkpoint(1, {})
        with pytest.raises(StateError, match="record"):
            await state.upsert_process({"id": "p"})


# Servers and connections -------------------------------------------------------------------------


async def test_redis_killed_and_restarted_with_its_data(own_redis: RedisServer) -> None:
    async with RedisStateBackend(own_redis.url, job_id=JOB, lease=1.0, timeout=1.0) as state:
        await state.acquire_job()
        await state.save_checkpoint(1, {"a": b"1"})
        own_redis.kill()
        with pytest.raises(StateError, match=r"Redis at redis://127.0.0.1:\d+/0 cannot be reached: start the server"):
            await state.save_checkpoint(2, {"a": b"2"})
        own_redis.restart()
        assert await state.load_checkpoint() == (1, {"a": b"1"})
        await state.save_checkpoint(2, {"a": b"2"})
        assert await state.load_checkpoint() == (2, {"a": b"2"})


async def test_redis_restarted_without_its_data(own_redis: RedisServer) -> None:
    async with RedisStateBackend(own_redis.url, job_id=JOB) as state:
        await state.acquire_job()
        own_redis.restart(empty=True)
        with pytest.raises(StateError, match="without its data"):
            await state.save_checkpoint(1, {})


async def test_redis_goes_away_for_good(own_redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    async with RedisStateBackend(own_redis.url, job_id=JOB, lease=0.5) as state:
        await state.acquire_job()
        own_redis.kill()
    assert "was not given up" in caplog.text


async def test_postgres_restarted(own_postgres: PostgresServer) -> None:
    async with PostgresStateBackend(own_postgres.url(), job_id=JOB, timeout=1.0) as state:
        await state.acquire_job()
        await state.save_checkpoint(1, {"a": b"1"})
        own_postgres.restart()
        await state.save_checkpoint(2, {"a": b"2"})
        own_postgres.stop()
        with pytest.raises(StateError, match=r"at 127.0.0.1:\d+ cannot be reached.*start the server") as caught:
            await state.save_checkpoint(3, {})
        assert own_postgres.password not in str(caught.value)
        own_postgres.start()
        assert await state.load_checkpoint() == (2, {"a": b"2"})
        async with PostgresStateBackend(own_postgres.url(), job_id=JOB) as other:
            with pytest.raises(JobInUseError):
                await other.acquire_job()


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("name", ["postgres", "redis"])
async def test_a_connection_that_is_cut_at_any_moment(
    name: str, after: bool, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Whatever is cut off, and whether the server heard it or not: one more attempt does it."""
    kind = kind_of(name, request, tmp_path)
    port = urlsplit(kind.where).port
    assert port is not None
    for direction in ("to server", "to client"):
        async with Proxy(port) as proxy:
            through = Kind(kind.name, kind.where.replace(f":{port}/", f":{proxy.port}/"))
            state = through(job_id=JOB)
            async with state:
                await state.acquire_job()
                await state.upsert_process({"id": "p", "n": 0})
            before = proxy.chunks["to server"], proxy.chunks["to client"]
        chunks = before[0 if direction == "to server" else 1]
        for chunk in range(chunks // 2, chunks + 1):
            async with Proxy(port, cut_at=(direction, chunk), after=after) as proxy:
                through = Kind(kind.name, kind.where.replace(f":{port}/", f":{proxy.port}/"))
                async with asyncio.timeout(20), through(job_id=JOB) as state:
                    await state.acquire_job()
                    await state.upsert_process({"id": "p", "n": chunk})
                    await state.save_checkpoint(chunk, {"a": b"%d" % chunk})
                    assert await state.load_checkpoint() == (chunk, {"a": b"%d" % chunk})
                    assert (await state.get_process("p"))["n"] == chunk


async def test_a_server_that_does_not_answer(own_redis: RedisServer, own_postgres: PostgresServer) -> None:
    async with (
        RedisStateBackend(own_redis.url, timeout=0.5, lease=1.0) as first,
        PostgresStateBackend(own_postgres.url(), timeout=0.5) as second,
    ):
        with psycopg.connect(own_postgres.url()) as connection:
            serving = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            ).fetchall()
        stopped = (own_redis.pid, *(pid for (pid,) in serving), own_postgres.pid)
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(20):
                with pytest.raises(StateError, match=r"did not answer for 0\.5 s"):
                    await first.upsert_process({"id": "p"})
                with pytest.raises(StateError, match=r"did not answer for 0\.5 s"):
                    await second.upsert_process({"id": "p"})
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
        await first.upsert_process({"id": "p"})
        await second.upsert_process({"id": "p"})
