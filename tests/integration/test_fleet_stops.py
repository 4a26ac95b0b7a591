"""Workers that are stopped while processes run on them, and another worker is ready."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from contextlib import aclosing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from stbass._values.endpoint import Placement
from stbass.backends.celery import CeleryBackend
from stbass.par import PARResult
from stbass.placement import PLACED_PAR
from stbass.result import FailurePolicy
from stbass.testing import RedisServer, Worker
from tests.integration.conftest import APP, workers_on
from tests.support.agents import UntilTold
from tests.support.backends import registry_of
from tests.support.waiting import until

ANTHROPIC = Placement(endpoint="anthropic")
COUNT = 20
SIGQUIT, SIGINT, SIGTERM = signal.SIGQUIT, signal.SIGINT, signal.SIGTERM


POOLS = {"asyncio": COUNT, "threads": 2, "prefork": 2, "solo": 1, "gevent": 2}
"""Celery's own pools run few at once: how many."""
slow = pytest.mark.slow
without_gevent = pytest.mark.skipif(find_spec("gevent") is None, reason="gevent is not installed")


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("pool", "signals", "env", "code"),
    [
        pytest.param("asyncio", [SIGQUIT], {}, 0, id="SIGQUIT"),
        pytest.param("asyncio", [SIGINT, SIGINT], {}, None, id="SIGINT twice"),
        pytest.param("asyncio", [SIGTERM, SIGQUIT], {}, None, id="SIGTERM, SIGQUIT", marks=slow),
        pytest.param("asyncio", [SIGQUIT, SIGQUIT], {}, None, id="SIGQUIT twice", marks=slow),
        pytest.param("asyncio", [SIGQUIT], {"TEST_SOFT_SHUTDOWN": "0.5"}, 0, id="soft shutdown", marks=slow),
        pytest.param("asyncio", [SIGTERM], {"TEST_GRACE": "0.1"}, 0, id="SIGTERM", marks=slow),
        pytest.param("threads", [SIGQUIT], {}, 0, id="threads, SIGQUIT"),
        pytest.param("threads", [SIGTERM, SIGQUIT], {}, 0, id="threads, SIGTERM, SIGQUIT", marks=slow),
        pytest.param("threads", [SIGINT, SIGINT], {}, None, id="threads, SIGINT twice", marks=slow),
        pytest.param("solo", [SIGQUIT], {}, 0, id="solo, SIGQUIT"),
        pytest.param("solo", [SIGTERM, SIGQUIT], {}, 0, id="solo, SIGTERM, SIGQUIT", marks=slow),
        pytest.param("solo", [SIGINT, SIGINT], {}, None, id="solo, SIGINT twice", marks=slow),
        pytest.param("prefork", [SIGQUIT], {}, 0, id="prefork, SIGQUIT", marks=slow),
        pytest.param("prefork", [SIGTERM, SIGQUIT], {}, 0, id="prefork, SIGTERM, SIGQUIT", marks=slow),
        # As of stock Celery, whose pool of gevent cannot be stopped by a signal.
        pytest.param("gevent", [SIGQUIT], {}, 1, id="gevent, SIGQUIT", marks=[slow, without_gevent]),
        *[
            pytest.param(
                pool, [signal.SIGKILL], {"TEST_LEASE": "2"}, 128 + signal.SIGKILL, marks=marks, id=f"{pool}, SIGKILL"
            )
            for pool, marks in (
                ("threads", slow),
                ("solo", slow),
                ("prefork", slow),
                ("gevent", [slow, without_gevent]),
            )
        ],
    ],
)
async def test_what_runs_on_a_worker_that_is_stopped_goes_to_another_one(
    pool: str, signals: list[signal.Signals], env: dict[str, str], code: int | None, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    let_go = tmp_path / "let_go"
    count = POOLS[pool]
    options: dict[str, Any] = {} if pool == "asyncio" else {"pool": pool, "concurrency": count}
    # Leases are long: what is not handed back comes too late.
    lease, most = (2.0, 2) if signals == [signal.SIGKILL] else (60.0, 1)
    with RedisServer() as server, workers_on(server, "anthropic", env={"TEST_GRACE": "20", **env}, **options) as fleet:
        first = fleet.workers["anthropic"]
        async with aclosing(CeleryBackend(fleet.app(), lease=lease, max_attempts=most)) as backend:
            running = asyncio.create_task(_all_of_them(backend, log, let_go, count))
            await until(lambda: log.exists() and len(log.read_text().splitlines()) == count, timeout=30)
            async with Worker(APP, "anthropic", env=fleet.env, **options):
                for which in signals:
                    said = len(first.log)
                    first.send_signal(which)
                    # The next one comes when this one is being dealt with.
                    await until(lambda said=said: len(first.log) > said or first.exit_code is not None)  # type: ignore[misc]
                await until(lambda: first.exit_code is not None, timeout=30)
                assert code is None or first.exit_code == code
                # when the first worker is gone, the second one runs them all, again from their start
                await until(lambda: len(log.read_text().splitlines()) == 2 * count, timeout=30)
                let_go.touch()
                result = await running
                await until(lambda: server.command("HLEN", "unacked") == 0, timeout=30)
    _each_once_more(result, log, count)


@pytest.mark.timeout(120)
async def test_an_ordinary_task_on_a_worker_that_is_stopped_cold_ends_there_and_runs_once(tmp_path: Path) -> None:
    # given an ordinary task, which runs in a thread, and processes beside it
    log, task_log, let_go = tmp_path / "log", tmp_path / "task", tmp_path / "let_go"
    with RedisServer() as server, workers_on(server, "anthropic") as fleet:
        first, app = fleet.workers["anthropic"], fleet.app()
        async with aclosing(CeleryBackend(app, lease=60.0, max_attempts=1)) as backend:
            running = asyncio.create_task(_all_of_them(backend, log, let_go, COUNT))
            task = app.send_task("tests.until_told", (str(task_log), str(let_go)), queue="anthropic")
            await until(lambda: log.exists() and len(log.read_text().splitlines()) == COUNT, timeout=30)
            await until(task_log.exists, timeout=30)
            async with Worker(APP, "anthropic", env=fleet.env):
                # when the worker is stopped
                first.send_signal(SIGQUIT)
                # then the processes are handed on at once, and the task ends where it is
                await until(lambda: len(log.read_text().splitlines()) == 2 * COUNT, timeout=30)
                let_go.touch()
                result = await running
                await until(lambda: first.exit_code is not None, timeout=30)
                await until(lambda: server.command("HLEN", "unacked") == 0, timeout=30)
                assert await asyncio.to_thread(task.get, timeout=30) == "done"
        # As of Celery's own pool of threads.
        assert first.exit_code == 1
        assert server.command("LLEN", "anthropic") == 0
    assert task_log.read_text() == "started\n"
    _each_once_more(result, log, COUNT)


@pytest.mark.timeout(120)
@slow
@pytest.mark.parametrize("pool", ["asyncio", "threads"])
async def test_a_worker_that_stops_while_redis_is_away_hands_back_when_it_is_there(pool: str, tmp_path: Path) -> None:
    # given processes that may lose no worker, on one that is stopped when there is no server
    log, let_go = tmp_path / "log", tmp_path / "let_go"
    count = POOLS[pool]
    options: dict[str, Any] = {} if pool == "asyncio" else {"pool": pool, "concurrency": count}
    with RedisServer(persistent=True) as server, workers_on(server, "anthropic", **options) as fleet:
        first = fleet.workers["anthropic"]
        async with aclosing(CeleryBackend(fleet.app(), lease=60.0, max_attempts=1)) as backend:
            running = asyncio.create_task(_all_of_them(backend, log, let_go, count))
            await until(lambda: log.exists() and len(log.read_text().splitlines()) == count, timeout=30)
            server.kill()
            first.send_signal(SIGQUIT)
            await until(lambda: "cannot hand back processes" in first.log, timeout=30)
            # when it comes back
            await asyncio.to_thread(server.restart)
            await until(lambda: first.exit_code is not None, timeout=30)
            # then their worker has handed them back, and was not lost
            async with Worker(APP, "anthropic", env=fleet.env, **options):
                await until(lambda: len(log.read_text().splitlines()) == 2 * count, timeout=30)
                let_go.touch()
                result = await running
    _each_once_more(result, log, count)


async def _all_of_them(backend: CeleryBackend, log: Path, let_go: Path, count: int) -> PARResult[int]:
    return await PLACED_PAR(
        *[(UntilTold(str(log), str(let_go)).with_name(f"p{n}"), ANTHROPIC) for n in range(count)],
        registry=registry_of(backend),
        deadline=90.0,
        on_failure=FailurePolicy.COLLECT,
    ).run()


def _each_once_more(result: PARResult[int], log: Path, count: int) -> None:
    assert [item.failure.error for item in result.results if item.is_fail] == []
    assert [item.run.attempt for item in result.results if item.run is not None] == [2] * count
    starts = Counter(line.split()[1] for line in log.read_text().splitlines() if line.startswith("started"))
    ends = Counter(line.split()[1] for line in log.read_text().splitlines() if line.startswith("ended"))
    assert (set(starts.values()), set(ends.values())) == ({2}, {1})
