"""Deadlines, cancelling and failure on real workers."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from contextlib import aclosing
from pathlib import Path

import pytest
from celery import Celery

from stbass._process.context import ProcessContext
from stbass._values.endpoint import Placement
from stbass.backends.celery import CeleryBackend, make_app
from stbass.errors import (
    BackendUnavailableError,
    DeadlineExceeded,
    NotConsumedError,
    ProcessCancelled,
    WorkerLostError,
)
from stbass.placement import PLACED_PAR, BackendRegistry
from stbass.result import FailurePolicy
from stbass.testing import RedisServer, Worker
from tests.integration.conftest import APP, Fleet
from tests.support.agents import Fail, Give, Mark, Steps, noop
from tests.support.backends import registry_of
from tests.support.waiting import until

ANTHROPIC = Placement(endpoint="anthropic")
LOCAL = Placement(endpoint="local:8080")
COLLECT = FailurePolicy.COLLECT


async def test_the_worker_cancels_at_the_deadline_and_answers_with_the_checkpoint(
    fleet: Fleet, registry: BackendRegistry, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    started = time.monotonic()
    result = await PLACED_PAR(
        (Give("kept"), ANTHROPIC),
        (Steps(100, 0.05), ANTHROPIC),
        (Mark(str(log)), LOCAL),
        on_failure=COLLECT,
        deadline=0.5,
        registry=registry,
    ).run()
    took = time.monotonic() - started
    assert 0.45 < took < 2.5
    kept, steps, mark = result.results
    assert kept.value == "kept"
    error = steps.failure.error
    assert isinstance(error, DeadlineExceeded)
    assert isinstance(error, TimeoutError)
    assert (error.phase, error.worker, error.deadline) == ("running", fleet.workers["anthropic"].name, 0.5)
    assert "0.5 s" in str(error)
    assert steps.failure.checkpoint >= 3
    assert isinstance(mark.failure.error, DeadlineExceeded)
    # It was really cancelled: its finally block ran.
    assert [line.split()[0] for line in log.read_text().splitlines()] == ["started", "ended"]


async def test_a_message_that_waited_past_its_deadline_is_never_started(tmp_path: Path) -> None:
    with RedisServer() as server:
        env = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url}
        app = _app(server)
        backend = CeleryBackend(app, queue="late", grace=0.5)
        log = tmp_path / "log"
        with Worker(APP, "late", env=env, concurrency=1) as worker:
            assert await backend.health_check()
            long = asyncio.create_task(backend.execute(Give("done", seconds=3), ProcessContext("long")))
            await until(lambda: server.command("ZCARD", "stbass:leases"))
            ctx = _timed("waits", 0.4)
            started = time.monotonic()
            result = await backend.execute(Mark(str(log)), ctx)
            assert time.monotonic() - started < 3
            assert not long.done()
            error = result.failure.error
            assert isinstance(error, DeadlineExceeded)
            assert not isinstance(error, NotConsumedError)
            assert error.phase == "queued"
            assert (await long).value == "done"
            # Its message comes to the worker now, and is dropped.
            assert (await backend.execute(noop, ProcessContext("after"))).is_ok
            assert not log.exists()
            assert worker.running
        await backend.aclose()


async def test_who_is_cancelled_in_the_moment_of_its_start_gives_its_place_back() -> None:
    rng = random.Random(3)
    with RedisServer() as server:
        env = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url}
        backend = CeleryBackend(_app(server), queue="brief")
        async with aclosing(backend), asyncio.timeout(100):
            with Worker(APP, "brief", env=env, concurrency=1):
                assert (await backend.execute(noop, ProcessContext("first"))).is_ok
                # Anywhere between its sending and its first steps: about one in fifty in the very moment.
                for _ in range(400):
                    running = asyncio.create_task(backend.execute(Give("late", seconds=90), ProcessContext("late")))
                    await asyncio.sleep(rng.random() * 0.003)
                    running.cancel()
                    await asyncio.wait([running])
                assert (await backend.execute(noop, ProcessContext("last"))).is_ok
                await until(lambda: not server.command("ZCARD", "stbass:leases"))


async def test_no_worker_on_the_queue_is_said_with_the_command_that_starts_one(
    fleet: Fleet, registry: BackendRegistry
) -> None:
    result = await PLACED_PAR(
        (noop, Placement(endpoint="nowhere")), on_failure=COLLECT, deadline=0.3, registry=registry
    ).run()
    error = result.failures[0].error
    assert isinstance(error, NotConsumedError)
    assert error.queue == "nowhere"
    assert "stbass worker -e nowhere" in str(error)
    assert "there are workers for anthropic, local:8080" in str(error)
    assert "did you mean" not in str(error)


NEAR = pytest.mark.parametrize(("wrong", "right"), [("antropic", "anthropic"), ("local:808", "local:8080")])


@NEAR
async def test_a_mistyped_endpoint_is_told_when_its_time_is_over(fleet: Fleet, wrong: str, right: str) -> None:
    async with aclosing(CeleryBackend(fleet.app(), grace=20)) as backend:
        result = await PLACED_PAR(
            (noop, Placement(endpoint=wrong)), on_failure=COLLECT, deadline=0.3, registry=registry_of(backend)
        ).run()
    error = result.failures[0].error
    assert isinstance(error, NotConsumedError)
    assert f"no worker consumes the queue {wrong!r} (did you mean {right!r}?)" in str(error)


@NEAR
async def test_a_mistyped_endpoint_is_told_while_it_waits(
    fleet: Fleet, caplog: pytest.LogCaptureFixture, wrong: str, right: str
) -> None:
    await told_of_a_lonely_queue(
        fleet, caplog, wrong, f"no worker consumes the queue {wrong!r} (did you mean {right!r}?)"
    )


async def test_without_a_deadline_a_queue_without_a_worker_is_warned_of(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    await told_of_a_lonely_queue(fleet, caplog, "nowhere", "no worker consumes the queue 'nowhere'; there are workers")


async def told_of_a_lonely_queue(fleet: Fleet, caplog: pytest.LogCaptureFixture, queue: str, text: str) -> None:
    """Send a process there, and wait until a warning says this."""
    # A Celery worker that ran in this Python process before may have left the root logger at ERROR.
    caplog.set_level(logging.WARNING, logger="stbass")
    warned = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if text in record.getMessage():
                loop.call_soon_threadsafe(warned.set)

    listener = Listener()
    logging.getLogger("stbass").addHandler(listener)
    async with aclosing(CeleryBackend(fleet.app(), queue=queue, grace=0.1)) as backend:
        running = asyncio.create_task(backend.execute(noop, ProcessContext("noop")))
        async with asyncio.timeout(30):
            await warned.wait()
        logging.getLogger("stbass").removeHandler(listener)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_halt_stops_the_rest_within_half_a_second(registry: BackendRegistry, tmp_path: Path) -> None:
    log = tmp_path / "log"
    failing = Fail(seconds=0.3)
    marks = [(Mark(str(log)).with_name(f"m{n}"), ANTHROPIC if n % 2 else LOCAL) for n in range(10)]
    result = await PLACED_PAR((failing, ANTHROPIC), *marks, registry=registry).run()
    failed_at = time.time()
    assert not result.is_ok
    assert all(isinstance(item.failure.error, ProcessCancelled) for item in result.results[1:])
    await until(lambda: log.read_text().count("ended") == 10)
    lines = [line.split() for line in log.read_text().splitlines()]
    assert sum(line[0] == "started" for line in lines) == 10
    assert max(float(line[2]) for line in lines if line[0] == "ended") - failed_at < 0.5


async def test_after_halt_queued_ones_never_start(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with RedisServer() as server:
        env = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url}
        backend = CeleryBackend(_app(server))
        registry = registry_of(backend)
        with Worker(APP, "anthropic", env=env):
            result = await PLACED_PAR(
                (Fail(seconds=0.2), ANTHROPIC), (Mark(str(log)), Placement(endpoint="later")), registry=registry
            ).run()
            assert isinstance(result.results[1].failure.error, ProcessCancelled)
        with Worker(APP, "later", env=env):
            # The queue is in order: when this has run, the other one's turn has been.
            done = await CeleryBackend(_app(server), queue="later").execute(noop, ProcessContext("noop"))
            assert done.is_ok
        assert not log.exists()
        await backend.aclose()


async def test_cancelling_in_the_producer_cancels_on_the_worker(backend: CeleryBackend, tmp_path: Path) -> None:
    log = tmp_path / "log"
    running = asyncio.create_task(backend.execute(Mark(str(log)), ProcessContext("mark", placement=ANTHROPIC)))
    await until(log.exists)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until(lambda: "ended" in log.read_text())


async def test_a_stock_revoke_cancels_the_coroutine(fleet: Fleet, backend: CeleryBackend, tmp_path: Path) -> None:
    log = tmp_path / "log"
    ctx = ProcessContext("mark", placement=ANTHROPIC)
    running = asyncio.create_task(backend.execute(Mark(str(log)), ctx))
    await until(log.exists)
    await asyncio.to_thread(fleet.app().control.revoke, ctx.process_id, terminate=True)
    async with asyncio.timeout(5):
        result = await running
    assert isinstance(result.failure.error, ProcessCancelled)
    assert "ended" in log.read_text()


async def test_a_stock_revoke_of_a_queued_process_is_heard(fleet: Fleet, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with RedisServer() as server:
        env = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url}
        app = _app(server)
        backend = CeleryBackend(app, queue="one", grace=0.2)
        with Worker(APP, "one", env=env, concurrency=1):
            long = asyncio.create_task(backend.execute(Give("done", seconds=1.0), ProcessContext("long")))
            ctx = ProcessContext("mark")
            waiting = asyncio.create_task(backend.execute(Mark(str(log)), ctx))
            await asyncio.sleep(0)
            await until(lambda: server.command("LLEN", "one"))
            async with asyncio.timeout(10):
                await asyncio.to_thread(app.control.revoke, ctx.process_id)
                result = await waiting
            assert isinstance(result.failure.error, ProcessCancelled)
            assert (await long).value == "done"
            assert not log.exists()
        await backend.aclose()


async def test_an_optional_process_does_not_halt(registry: BackendRegistry) -> None:
    result = await PLACED_PAR((Fail().optional(), ANTHROPIC), (Give(3, seconds=0.3), LOCAL), registry=registry).run()
    assert result.is_ok
    assert result.value == [3]
    assert len(result.failures) == 1


async def test_a_worker_that_dies_is_told_at_the_deadline(tmp_path: Path) -> None:
    with RedisServer() as server:
        env = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url}
        backend = CeleryBackend(_app(server), queue="dies", lease=0.5, grace=0.4, on_worker_lost="fail")
        with Worker(APP, "dies", env=env) as worker:
            running = asyncio.create_task(backend.execute(Steps(1000, 0.01), _timed("steps", 8.0)))
            await until(lambda: server.command("ZCARD", "stbass:leases"))
            await asyncio.to_thread(worker.kill)
            async with asyncio.timeout(8):
                result = await running
        error = result.failure.error
        assert isinstance(error, WorkerLostError)
        assert error.worker == worker.name
        await backend.aclose()


async def test_a_lost_worker_s_process_is_run_again_where_it_stopped(tmp_path: Path) -> None:
    with RedisServer() as server:
        env = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url, "TEST_LEASE": "0.5"}
        backend = CeleryBackend(_app(server), queue="dies", lease=0.5)
        with Worker(APP, "dies", env=env) as worker:
            running = asyncio.create_task(backend.execute(Steps(60, 0.05), ProcessContext("steps")))
            await until(lambda: int(_checkpoint(server) or 0) >= 5)
            await asyncio.to_thread(worker.kill)
            with Worker(APP, "dies", env=env) as other:
                async with asyncio.timeout(20):
                    result = await running
        assert result.value["attempt"] == 2
        assert result.value["from"] >= 5
        assert result.run is not None
        assert result.run.worker == other.name
        await backend.aclose()


async def test_redis_that_is_down_is_an_error_within_five_seconds() -> None:
    with RedisServer() as server:
        url = server.url.replace("redis://", "redis://user:secret@")
        backend = CeleryBackend(make_app(broker_url=url))
        server.kill()
        started = time.monotonic()
        with pytest.raises(BackendUnavailableError) as caught:
            await backend.execute(noop, ProcessContext("noop", placement=ANTHROPIC))
        assert time.monotonic() - started < 15
        assert "secret" not in str(caught.value)
        assert str(server.port) in str(caught.value)
        assert not await backend.health_check()
        await backend.aclose()


def _app(server: RedisServer) -> Celery:
    return make_app("tests", broker_url=server.url)


def _checkpoint(server: RedisServer) -> str | None:
    keys = server.command("KEYS", "stbass:run:*")
    names = keys if isinstance(keys, list) else str(keys).split()
    found: str | None = server.command("HGET", names[0], "checkpoint") if names else None
    return found


def _timed(name: str, seconds: float) -> ProcessContext:
    return ProcessContext("parent").child(name, deadline_at=time.monotonic() + seconds)
