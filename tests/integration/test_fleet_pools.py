"""The same task under Celery's own pools, and an ordinary task beside it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
from celery.result import AsyncResult

from stbass._process.context import ProcessContext
from stbass._values.endpoint import Placement
from stbass.backends.celery import CeleryBackend, make_app
from stbass.errors import DeadlineExceeded
from stbass.testing import RedisServer, Worker
from tests.integration.conftest import APP
from tests.support.agents import Fail, Give, Mark, Steps, Unregistered, sync_thread, whoami
from tests.support.waiting import until

POOLS = ["asyncio", "prefork", "threads", "solo"]


@pytest.fixture(scope="module", params=POOLS)
def pool(request: pytest.FixtureRequest) -> Iterator[tuple[str, RedisServer, Worker]]:
    """A worker with each of the pools."""
    with RedisServer() as server:
        env = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url}
        with Worker(
            APP, "pool", env=env, pool=request.param, concurrency=2 if request.param != "asyncio" else None
        ) as w:
            yield request.param, server, w


@pytest.fixture
async def backend(pool: tuple[str, RedisServer, Worker]) -> AsyncIterator[CeleryBackend]:
    async with aclosing(CeleryBackend(make_app("tests", broker_url=pool[1].url), queue="pool")) as made:
        yield made


async def test_results_are_right(backend: CeleryBackend, pool: tuple[str, RedisServer, Worker]) -> None:
    ctx = ProcessContext("whoami", placement=Placement(model="m", config={"a": (1, 2)}))
    result = await backend.execute(whoami, ctx)
    assert result.value["placement"] == ctx.placement
    assert result.value["id"] == ctx.process_id
    assert (result.value["pid"] == pool[2].pid) is (pool[0] != "prefork")
    values = await asyncio.gather(
        *(backend.execute(Give((n, {n})), ProcessContext("give")) for n in range(20)),
    )
    assert [value.value for value in values] == [(n, {n}) for n in range(20)]


async def test_foreign_code_sees_the_result(backend: CeleryBackend, pool: tuple[str, RedisServer, Worker]) -> None:
    ctx = ProcessContext("give")
    await backend.execute(Give({"plain": [1, None]}), ctx)
    answer = AsyncResult(ctx.process_id, app=make_app("tests", broker_url=pool[1].url))
    assert await asyncio.to_thread(answer.get, timeout=5) == {"plain": [1, None]}


async def test_failures_are_exact(backend: CeleryBackend) -> None:
    result = await backend.execute(Fail({"at": 1}), ProcessContext("fails"))
    assert isinstance(result.failure.error, Unregistered)
    assert result.failure.error.hint == "look again"
    assert result.failure.checkpoint == {"at": 1}


async def test_sync_processes_run(backend: CeleryBackend) -> None:
    assert (await backend.execute(sync_thread, ProcessContext("sync"))).is_ok


async def test_deadlines_hold(backend: CeleryBackend) -> None:
    ctx = ProcessContext("parent").child("steps", deadline_at=time.monotonic() + 1.5)
    started = time.monotonic()
    result = await backend.execute(Steps(1000, 0.05), ctx)
    assert time.monotonic() - started < 20
    assert isinstance(result.failure.error, DeadlineExceeded)
    assert result.failure.error.phase == "running"
    assert result.failure.checkpoint >= 2


async def test_cancelling_is_heard(backend: CeleryBackend, tmp_path: Path) -> None:
    log = tmp_path / "log"
    running = asyncio.create_task(backend.execute(Mark(str(log)), ProcessContext("mark")))
    await until(log.exists)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await until(lambda: "ended" in log.read_text())
    # The worker lives on.
    assert (await backend.execute(Give(1), ProcessContext("give"))).value == 1


async def test_an_ordinary_task_beside_it_is_left_as_it_is(pool: tuple[str, RedisServer, Worker]) -> None:
    app = make_app("tests", broker_url=pool[1].url)
    answers = [app.send_task("tests.add", (n, 1), queue="pool") for n in range(10)]
    assert [await asyncio.to_thread(answer.get, timeout=10) for answer in answers] == list(range(1, 11))
    where = await asyncio.to_thread(app.send_task("tests.thread", queue="pool").get, timeout=10)
    assert where != "stbass-processes"


async def test_an_ordinary_task_and_a_process_do_not_disturb_each_other(
    backend: CeleryBackend, pool: tuple[str, RedisServer, Worker]
) -> None:
    app = make_app("tests", broker_url=pool[1].url)
    answer = app.send_task("tests.add", (1, 2), queue="pool")
    result = await backend.execute(Give(3), ProcessContext("give"))
    assert (result.value, await asyncio.to_thread(answer.get, timeout=10)) == (3, 3)
    assert os.getpid() != pool[2].pid
