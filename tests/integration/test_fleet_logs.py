"""A worker's log: one line for each process that fails, is cancelled or is refused; as JSON if that is asked for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import aclosing

import pytest

from stbass._process.context import ProcessContext
from stbass.backends.celery import CeleryBackend
from stbass.testing import RedisServer, Worker
from tests.integration.conftest import Fleet
from tests.integration.some_agents import greet
from tests.support.agents import Fail, Give, Steps
from tests.support.poison import Raise
from tests.support.waiting import until


@pytest.fixture(scope="module")
def logging_fleet() -> Iterator[Fleet]:
    """Two workers: one that writes text, one that writes JSON."""
    with RedisServer() as server:
        env = {
            "STBASS_BROKER_URL": server.url,
            "STBASS_RESULT_BACKEND": server.url,
            "STBASS_INCLUDE": "tests.support.agents,tests.support.poison,tests.integration.some_agents",
        }
        with (
            Worker("celery_app", "text", env=env) as text,
            Worker("celery_app", "json", env={**env, "STBASS_LOG_FORMAT": "json"}) as lines,
        ):
            yield Fleet(server, {"text": text, "json": lines})


async def _run(fleet: Fleet, queue: str) -> dict[str, str]:
    backend = CeleryBackend(fleet.app(), queue=queue)
    ids = {}
    for name, process in (("fails", Fail(1)), ("poison", Raise("no attribute can be read")), ("good", Give(1))):
        ctx = ProcessContext(name)
        ids[name] = ctx.process_id
        await backend.execute(process, ctx)
    ctx = ProcessContext("cancelled")
    ids["cancelled"] = ctx.process_id
    running = asyncio.create_task(backend.execute(Steps(100, 0.1), ctx))
    await until(lambda: fleet.server.command("EXISTS", f"stbass:run:{ctx.process_id}") == 1)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await until(lambda: ctx.process_id in fleet.workers[queue].log)
    await backend.aclose()
    return ids


async def test_one_line_for_each_failure_and_cancel(logging_fleet: Fleet) -> None:
    ids = await _run(logging_fleet, "text")
    lines = [line for line in logging_fleet.workers["text"].log.splitlines() if "endpoint text" in line]
    for name, how in (("fails", "failed: Unregistered"), ("poison", "failed: NothingIsThere"), ("cancelled", "was")):
        [line] = [line for line in lines if ids[name] in line]
        assert f"process {name} ({ids[name]}, attempt 1, endpoint text) {how}" in line
    assert "Traceback" not in logging_fleet.workers["text"].log


async def test_as_json(logging_fleet: Fleet) -> None:
    ids = await _run(logging_fleet, "json")
    lines = [line for line in logging_fleet.workers["json"].log.splitlines() if line.startswith("{")]
    records = [json.loads(line) for line in lines]
    [record] = [one for one in records if one.get("id") == ids["fails"]]
    assert (record["process"], record["attempt"], record["endpoint"], record["level"]) == ("fails", 1, "json", "ERROR")
    assert (record["run"], record["worker"]) == (ids["fails"], logging_fleet.workers["json"].name)
    assert record["error"].startswith("Unregistered")
    assert [one["level"] for one in records if one.get("id") == ids["cancelled"]] == ["WARNING"]
    assert not [one for one in records if one.get("id") == ids["good"]]


async def test_what_a_process_logs_says_whose_it_is_and_where(logging_fleet: Fleet) -> None:
    worker = logging_fleet.workers["json"]
    async with aclosing(CeleryBackend(logging_fleet.app(), queue="json")) as backend:
        ctx = ProcessContext("greets")
        assert (await backend.execute(greet, ctx)).is_ok
    await until(lambda: ctx.process_id in worker.log)
    [line] = [line for line in worker.log.splitlines() if ctx.process_id in line]
    record = json.loads(line)
    assert (record["message"], record["process"], record["run"]) == ("greeting", "greets", ctx.process_id)
    assert (record["attempt"], record["worker"]) == (1, worker.name)


async def test_of_what_was_cancelled_while_it_was_queued_no_attempt_is_logged_and_its_name_is_text(
    logging_fleet: Fleet,
) -> None:
    # given a process with a hostile name that is cancelled before a worker is there for it
    server = logging_fleet.server
    async with aclosing(CeleryBackend(logging_fleet.app(), queue="later")) as backend:
        ctx = ProcessContext("name\x1b[2J\nof two lines")
        waiting = asyncio.create_task(backend.execute(Give(1), ctx))
        await until(lambda: server.command("LLEN", "later") == 1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    # when one comes, then it says so, in one line
    env = {"STBASS_BROKER_URL": server.url, "STBASS_INCLUDE": "tests.support.agents"}
    with Worker("celery_app", "later", env=env) as worker:
        await until(lambda: ctx.process_id in worker.log)
        [line] = [line for line in worker.log.splitlines() if ctx.process_id in line]
        assert f"process name [2J of two lines ({ctx.process_id}, not started, endpoint later) was cancelled" in line
