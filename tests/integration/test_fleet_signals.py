"""Celery's signals of tasks are sent for processes, too: in the same order and with the same arguments."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from stbass._process.context import ProcessContext
from stbass.backends.celery import CeleryBackend, make_app
from stbass.backends.celery.settings import EXECUTE
from stbass.errors import DeadlineExceeded, ProcessCancelled
from stbass.testing import RedisServer, Worker
from tests.integration.conftest import APP as WORKER
from tests.support.agents import Give
from tests.support.listening import LOG, Work
from tests.support.waiting import until

APP = "tests.support.listening_app"
RUN = ["task_received", "task_prerun"]


@pytest.fixture(scope="module", params=["asyncio", "prefork"])
def listening(request: pytest.FixtureRequest, server: RedisServer) -> Iterator[Worker]:
    """A worker on each pool, whose application listens."""
    env = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url}
    with Worker(APP, request.param, pool=request.param, env=env, concurrency=2) as worker:
        yield worker


@pytest.fixture
async def backend(server: RedisServer, listening: Worker) -> AsyncIterator[CeleryBackend]:
    """A producer."""
    async with aclosing(CeleryBackend(make_app("tests", server.url), queue=listening.queues[0])) as made:
        yield made


def _told(server: RedisServer, task_id: str) -> list[dict[str, Any]]:
    told = [json.loads(line) for line in server.command("LRANGE", LOG, "0", "-1") or []]
    return [one for one in told if one.get("id") == task_id]


async def _run_both(server: RedisServer, backend: CeleryBackend, text: str) -> tuple[list[Any], list[Any]]:
    """What is told of an ordinary task, and of a process that does the same."""
    app = backend._app
    task = app.send_task("listening.work", kwargs={"text": text} if text else {}, queue=backend.queue)
    ctx = ProcessContext("work")
    await backend.execute(Work(text), ctx)
    found = []
    for task_id in (task.id, ctx.process_id):
        await until(lambda task_id=task_id: _told(server, task_id)[-1:] and _last(server, task_id) == "task_postrun")  # type: ignore[misc]
        found.append(_told(server, task_id))
    return found[0], found[1]


def _last(server: RedisServer, task_id: str) -> str:
    return str(_told(server, task_id)[-1]["signal"])


def _comparable(told: list[dict[str, Any]], **other: Any) -> list[dict[str, Any]]:
    [task_id] = {one["id"] for one in told}
    text = json.dumps(told).replace(task_id, "<id>").replace("listening.work", EXECUTE)
    return [{**one, **{name: value for name, value in other.items() if name in one}} for one in json.loads(text)]


async def test_of_a_success(server: RedisServer, backend: CeleryBackend, listening: Worker) -> None:
    of_task, of_process = await _run_both(server, backend, "")
    assert _comparable(of_process, result="", retval="") == _comparable(of_task, result="", retval="")
    assert [one["signal"] for one in of_process] == [*RUN, "task_success", "task_postrun"]
    assert of_process[-1]["state"] == "SUCCESS"
    value = of_process[-1]["retval"]
    assert of_process[-2]["result"] == value
    # What a receiver sets in the context the process sees; where it has a thread of its own, so does the thread.
    assert value == (["set", 1] if listening.queues == ("asyncio",) else ["nothing", 1])
    assert [one["same"] and one["current"] for one in of_process[1:]] == [True] * 3
    assert "Signal handler" in listening.log
    assert "a receiver that fails" in listening.log


async def test_of_a_failure(server: RedisServer, backend: CeleryBackend, listening: Worker) -> None:
    of_task, of_process = await _run_both(server, backend, "it failed")
    told: dict[str, Any] = {"kwargs": {}}
    if listening.queues == ("prefork",):
        # Between Python processes it is an error with the text of the error.
        told |= {"error": "", "kind": "", "retval": ""}
        assert of_process[-1]["retval"] == "RemoteError: ValueError: it failed"
    assert _comparable(of_process, **told) == _comparable(of_task, **told)
    assert [one["signal"] for one in of_process] == [*RUN, "task_failure", "task_postrun"]
    failure = of_process[2]
    assert (failure["where"], failure["traceback"]) == (True, "traceback")
    assert of_process[-1]["state"] == "FAILURE"


async def test_of_one_that_is_revoked(server: RedisServer, backend: CeleryBackend, listening: Worker) -> None:
    ctx = ProcessContext("revoked")
    running = asyncio.create_task(backend.execute(Work(seconds=600), ctx))
    await until(lambda: len(_told(server, ctx.process_id)) == 2)
    backend._app.control.revoke(ctx.process_id, terminate=True, signal="SIGTERM")
    # Whoever waits for it is told, also if its Python process was ended, and nobody takes it for lost.
    error = (await running).failure.error
    assert isinstance(error, ProcessCancelled)
    assert str(error).startswith("process 'revoked' was ")
    assert not server.command("EXISTS", f"stbass:run:{ctx.process_id}")
    await until(lambda: "task_revoked" in [one["signal"] for one in _told(server, ctx.process_id)])
    [revoked] = [one for one in _told(server, ctx.process_id) if one["signal"] == "task_revoked"]
    assert revoked == {
        "signal": "task_revoked",
        "sender": EXECUTE,
        "id": ctx.process_id,
        "terminated": True,
        "signum": signal.SIGTERM,
        "expired": False,
        "more": ["signal"],
    }
    if listening.queues == ("asyncio",):
        # A process of the operating system that is ended tells nothing more; a process on the event loop does.
        await until(lambda: _last(server, ctx.process_id) == "task_postrun")
        assert _told(server, ctx.process_id)[-1]["state"] == "REVOKED"


async def test_one_that_is_revoked_as_soon_as_it_runs_is_told_to_whoever_waits(
    server: RedisServer, backend: CeleryBackend, listening: Worker
) -> None:
    # Celery itself knows a moment later that it runs; the commands are quick, as a connection for them is there.
    for _ in range(5):
        ctx = ProcessContext("revoked")
        running = asyncio.create_task(backend.execute(Work(seconds=600), ctx))
        async with asyncio.timeout(30):
            while len(_told(server, ctx.process_id)) < 2:  # noqa: ASYNC110 - at once, and not some time later
                await asyncio.sleep(0)
        backend._app.control.revoke(ctx.process_id, terminate=True, signal="SIGTERM")
        async with asyncio.timeout(30):
            assert isinstance((await running).failure.error, ProcessCancelled)


async def test_of_python_processes(server: RedisServer, listening: Worker) -> None:
    ours = listening.queues == ("asyncio",)
    listening.terminate(timeout=30)
    told = [json.loads(line) for line in server.command("LRANGE", LOG, "0", "-1")]
    about = [one for one in told if one.get("name") == listening.name]
    names = [one["signal"] for one in about]
    if ours:
        assert names == ["worker_process_init", "worker_process_shutdown"]
        assert about[-1]["exitcode"] == 0
    else:
        # One for each that runs at once, and for those that were ended.
        assert names.count("worker_process_init") >= names.count("worker_process_shutdown") >= 2
    assert all(one["pid"] for one in about if one["signal"] == "worker_process_shutdown")


async def test_of_one_that_is_handed_back(server: RedisServer) -> None:
    env = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url}
    async with aclosing(CeleryBackend(make_app("tests", server.url), queue="stopped")) as backend:
        ctx = ProcessContext("work")
        with Worker(APP, "stopped", env=env) as worker:
            running = asyncio.create_task(backend.execute(Work(seconds=600), ctx))
            await until(lambda: len(_told(server, ctx.process_id)) == 2)
            worker.send_signal(signal.SIGQUIT)
            await until(lambda: worker.exit_code is not None)
        running.cancel()
        await asyncio.wait([running])
    assert [one["signal"] for one in _told(server, ctx.process_id)] == [*RUN, "task_postrun"]
    assert _told(server, ctx.process_id)[-1]["state"] == "REJECTED"


async def test_celery_s_own_time_limit_is_told_to_whoever_waits(server: RedisServer) -> None:
    env = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url}
    limit = ["--time-limit=1"]
    async with aclosing(CeleryBackend(make_app("tests", server.url), queue="limited")) as backend:
        ctx = ProcessContext("work")
        with Worker(APP, "limited", pool="prefork", env=env, args=limit, concurrency=1):
            result = await backend.execute(Work(seconds=600), ctx)
    assert isinstance(result.failure.error, DeadlineExceeded)
    assert not server.command("EXISTS", f"stbass:run:{ctx.process_id}")


async def test_a_signed_fleet_hears_of_what_celery_ends(server: RedisServer) -> None:
    key = "a key of the fleet"
    env = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url, "TEST_SIGNING_KEY": key}
    app = make_app("tests", server.url, stbass_signing_key=key)
    async with aclosing(CeleryBackend(app, queue="signed")) as backend:
        with Worker(WORKER, "signed", pool="prefork", env=env, concurrency=1) as worker:
            ctx = ProcessContext("running")
            running = asyncio.create_task(backend.execute(Give(1, seconds=600), ctx))
            await until(lambda: server.command("EXISTS", f"stbass:run:{ctx.process_id}") == 1, timeout=30)
            while not app.control.ping([worker.name], timeout=1):
                """It says that it is ready a moment before it hears."""
            app.control.revoke(ctx.process_id, terminate=True)
            assert isinstance((await running).failure.error, ProcessCancelled)
