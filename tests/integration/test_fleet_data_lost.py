"""A Redis that loses its data, all or some of them, while work is on the fleet: told, and never waited for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing

import pytest
from celery import Celery

from stbass._process.context import ProcessContext, frame_of
from stbass._values.endpoint import Placement
from stbass._values.outcome import ProcessResult
from stbass.backends.celery import CeleryBackend, make_app
from stbass.errors import StateLostError
from stbass.placement import PLACED_PAR
from stbass.result import FailurePolicy
from stbass.testing import RedisServer, Worker
from tests.integration.conftest import APP
from tests.support.agents import Give, Mark, Steps
from tests.support.backends import registry_of
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(120)

LEASE = 1.0
Harm = Callable[[RedisServer], object]


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as made:
        yield made


@pytest.fixture
async def app(server: RedisServer) -> AsyncIterator[Celery]:
    app = make_app("tests", broker_url=server.url, stbass_lease=LEASE)
    async with aclosing(CeleryBackend(app)):
        yield app


def _worker(server: RedisServer, lease: float = LEASE, **options: object) -> Worker:
    env = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url, "TEST_LEASE": str(lease)}
    return Worker(APP, "q", env=env, concurrency=1, **options)  # type: ignore[arg-type]


def _delete(*patterns: str) -> Harm:
    def harm(server: RedisServer) -> None:
        server.command("DEL", *(key for pattern in patterns for key in server.command("KEYS", pattern)))

    return harm


def _started(backend: CeleryBackend, name: str, seconds: float, deadline: float | None = None) -> asyncio.Task[object]:
    """A process on the fleet, which gives back its name after these seconds."""
    ctx = ProcessContext(name)
    if deadline is not None:
        frame_of(ctx).limit(time.monotonic() + deadline, deadline)
    return asyncio.create_task(backend.execute(Give(name, seconds=seconds), ctx))


def _is_told(result: ProcessResult) -> bool:
    if result.is_ok:
        return False
    error = result.failure.error
    assert isinstance(error, StateLostError), error
    assert "has lost its data" in str(error)
    assert "noeviction" in str(error)
    return True


async def _serves(backend: CeleryBackend, server: RedisServer, worker: Worker) -> None:
    """The worker goes on: it is there, announced, and runs what is new."""
    async with asyncio.timeout(40):
        assert (await backend.execute(Give(1), ProcessContext("after"))).value == 1
        await until(lambda: server.command("KEYS", "stbass:worker:*"), timeout=30)
        assert await backend.health_check()
        assert [one.worker for one in await backend.workers()] == [worker.name]
    assert worker.running


EMPTIED = [
    pytest.param(lambda server: server.command("FLUSHALL"), id="flushed"),
    pytest.param(lambda server: server.restart(empty=True), id="restarted", marks=pytest.mark.slow),
    pytest.param(_delete("*"), id="deleted"),
]


@pytest.mark.parametrize("harm", EMPTIED)
async def test_all_that_is_in_flight_is_told_that_the_data_are_gone(
    server: RedisServer, app: Celery, harm: Harm
) -> None:
    backend = CeleryBackend(app, queue="q", lease=LEASE)
    async with _worker(server) as worker:
        running = _started(backend, "running", 60)
        await until(lambda: server.command("ZCARD", "stbass:leases"), timeout=30)
        others = [_started(backend, "queued", 0), _started(backend, "timed", 0, deadline=90)]
        group = asyncio.create_task(
            PLACED_PAR(
                *((Give(number, seconds=60), Placement(endpoint="q")) for number in range(3)),
                registry=registry_of(backend),
                on_failure=FailurePolicy.COLLECT,
            ).run()
        )
        [group_key] = await until(lambda: server.command("KEYS", "stbass:group:*"), timeout=30)
        attached = asyncio.create_task(
            PLACED_PAR.attach(group_key.rpartition(":")[2], registry=registry_of(CeleryBackend(app, queue="q")))
        )
        await until(lambda: server.command("LLEN", "q") + server.command("HLEN", "unacked") >= 6, timeout=30)
        # Who attaches has found the group when it listens where its results will be.
        await until(lambda: len(server.command("PUBSUB", "CHANNELS", "celery-task-meta-*")) >= 3, timeout=30)
        # when
        await asyncio.to_thread(harm, server)
        # then
        async with asyncio.timeout(30):
            assert _is_told(await running)  # type: ignore[arg-type]
            results = [await other for other in others]
            results += [*(await group).results, *(await attached).results]
        # What was already at the worker may run all the same, and is right then.
        assert all(_is_told(result) or result.is_ok for result in results)  # type: ignore[arg-type, attr-defined]
        await _serves(backend, server, worker)


@pytest.mark.slow
@pytest.mark.parametrize("lease", [10.0, 300.0])
@pytest.mark.parametrize("harm", EMPTIED)
async def test_it_is_told_within_thirty_seconds_however_long_leases_are(
    server: RedisServer, app: Celery, harm: Harm, lease: float
) -> None:
    backend = CeleryBackend(app, queue="q", lease=lease)
    async with _worker(server, lease=lease) as worker:
        running = _started(backend, "running", 200)
        await until(lambda: server.command("ZCARD", "stbass:leases"), timeout=30)
        queued = [_started(backend, "queued", 200) for _ in range(4)]
        await until(lambda: server.command("LLEN", "q") > 0, timeout=30)
        await asyncio.to_thread(harm, server)
        async with asyncio.timeout(30):
            told = await asyncio.gather(running, *queued[1:])
        assert all(map(_is_told, told))  # type: ignore[arg-type]
        queued[0].cancel()
        await asyncio.gather(queued[0], return_exceptions=True)
        await _serves(backend, server, worker)


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(_delete("stbass:run:*"), id="records", marks=pytest.mark.slow),
        pytest.param(_delete("stbass:leases"), id="leases", marks=pytest.mark.slow),
        pytest.param(_delete("stbass:run:*", "stbass:leases"), id="records and leases"),
        pytest.param(_delete("unacked*"), id="messages that are being worked on"),
        pytest.param(_delete("stbass:since"), id="since", marks=pytest.mark.slow),
        pytest.param(_delete("stbass:worker:*", "stbass:took:*", "_kombu*"), id="what belongs to the worker"),
    ],
)
async def test_a_process_goes_on_when_some_of_its_keys_are_evicted(
    server: RedisServer, app: Celery, harm: Harm
) -> None:
    backend, ctx = CeleryBackend(app, queue="q", lease=LEASE), ProcessContext("steps")
    async with _worker(server) as worker:
        running = asyncio.create_task(backend.execute(Steps(25, 0.1), ctx))
        await until(lambda: server.command("HEXISTS", f"stbass:run:{ctx.process_id}", "checkpoint"), timeout=30)
        queued = _started(backend, "queued", 0)
        harm(server)
        async with asyncio.timeout(30):
            assert (await running).value == {"from": 0, "to": 25, "attempt": 1}
            result = await queued
        assert result.value == "queued"  # type: ignore[attr-defined]
        await _serves(backend, server, worker)


@pytest.mark.slow
async def test_a_record_that_is_written_again_has_the_last_checkpoint(server: RedisServer, app: Celery) -> None:
    backend, ctx = CeleryBackend(app, queue="q", lease=LEASE), ProcessContext("steps")
    record = f"stbass:run:{ctx.process_id}"
    async with _worker(server) as worker:
        running = asyncio.create_task(backend.execute(Steps(12, 0.3), ctx))
        await until(lambda: server.command("HGET", record, "checkpoint") == "2", timeout=30)
        server.command("DEL", record)
        await until(lambda: server.command("HEXISTS", record, "checkpoint"), timeout=30)
        await asyncio.to_thread(worker.wait_for_log, "written again", 30.0)
        await asyncio.to_thread(worker.kill)
        await asyncio.to_thread(worker.restart)
        async with asyncio.timeout(40):
            value = (await running).value
    assert value["attempt"] == 2
    assert value["from"] >= 2


@pytest.mark.parametrize("busy", [pytest.param(False, marks=pytest.mark.slow), True])
async def test_a_queue_that_is_deleted_is_told_to_who_waits_for_what_was_in_it(
    server: RedisServer, app: Celery, busy: bool
) -> None:
    backend = CeleryBackend(app, queue="q", lease=LEASE)
    queued = [_started(backend, "queued", 0, deadline) for deadline in (None, 90)]
    await until(lambda: server.command("LLEN", "q") == 2, timeout=30)
    server.command("DEL", "q")
    # Others put new messages there, which nobody takes.
    others = [_started(backend, "later", 0) for _ in range(5 if busy else 0)]
    async with asyncio.timeout(30):
        assert [_is_told(await one) for one in queued] == [True, True]  # type: ignore[arg-type]
    assert not any(other.done() for other in others)
    async with _worker(server), asyncio.timeout(40):
        assert [(await other).value for other in others] == ["later"] * len(others)  # type: ignore[attr-defined]


async def test_a_dead_workers_message_that_was_evicted_is_told(server: RedisServer, app: Celery) -> None:
    backend = CeleryBackend(app, queue="q", lease=LEASE)
    async with _worker(server) as worker:
        running = _started(backend, "running", 60)
        await until(lambda: server.command("ZCARD", "stbass:leases"), timeout=30)
        await asyncio.to_thread(worker.kill)
        _delete("unacked*")(server)
        async with asyncio.timeout(30):
            assert _is_told(await running)  # type: ignore[arg-type]


async def test_a_deadline_that_was_evicted_is_not_called_over(server: RedisServer, app: Celery) -> None:
    backend = CeleryBackend(app, queue="q", lease=LEASE)
    queued = _started(backend, "queued", 0, deadline=90)
    await until(lambda: server.command("LLEN", "q"), timeout=30)
    _delete("stbass:deadline:*")(server)
    async with _worker(server), asyncio.timeout(40):
        assert _is_told(await queued)  # type: ignore[arg-type]


async def test_at_its_deadline_it_is_told_that_a_process_was_forgotten(server: RedisServer, app: Celery) -> None:
    # With a lease so long that nobody has noticed it before.
    backend = CeleryBackend(app, queue="q", lease=300, grace=5.0)
    queued = _started(backend, "queued", 0, deadline=2.0)
    await until(lambda: server.command("LLEN", "q"), timeout=30)
    server.command("FLUSHALL")
    async with asyncio.timeout(30):
        assert _is_told(await queued)  # type: ignore[arg-type]


async def test_a_producer_without_a_worker_is_told_when_the_server_restarts_empty(
    server: RedisServer, app: Celery
) -> None:
    backend = CeleryBackend(app, queue="q", lease=LEASE)
    queued = _started(backend, "queued", 0)
    await until(lambda: server.command("LLEN", "q"), timeout=30)
    await asyncio.to_thread(lambda: server.restart(empty=True))
    async with asyncio.timeout(30):
        assert _is_told(await queued)  # type: ignore[arg-type]


async def test_what_waits_in_a_queue_for_long_is_not_called_lost(server: RedisServer, app: Celery) -> None:
    # given a queue of another's messages around one that nobody takes for several looks
    backend, looks = CeleryBackend(app, queue="q", lease=0.2), 6
    server.command("LPUSH", "q", *(f"before {number}" for number in range(700)))
    queued = _started(backend, "queued", 0)
    await until(lambda: server.command("LLEN", "q") == 701, timeout=30)
    server.command("LPUSH", "q", *(f"after {number}" for number in range(700)))
    calls = _calls(server)
    await until(lambda: _calls(server) > calls + 3 * looks or queued.done(), timeout=30)
    assert not queued.done()
    queued.cancel()
    await asyncio.gather(queued, return_exceptions=True)


def _calls(server: RedisServer) -> int:
    stats = server.command("INFO", "commandstats")
    return int(stats.get("cmdstat_evalsha", {}).get("calls", 0))


async def test_a_worker_tells_of_what_it_runs_for_a_producer_that_is_gone(
    server: RedisServer, app: Celery, tmp_path: object
) -> None:
    backend, log = CeleryBackend(app, queue="q", lease=LEASE), f"{tmp_path}/log"
    ctx = ProcessContext("mark")
    async with _worker(server) as worker:
        running = asyncio.create_task(backend.execute(Mark(log), ctx))
        await until(lambda: server.command("ZCARD", "stbass:leases"), timeout=30)
        running.cancel()
        server.command("FLUSHALL")
        await asyncio.gather(running, return_exceptions=True)
        await until(lambda: server.command("EXISTS", f"celery-task-meta-{ctx.process_id}"), timeout=30)
        assert "another worker has it" not in worker.log
        await _serves(backend, server, worker)
