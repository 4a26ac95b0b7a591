"""What a Celery application had before it ran processes, it has afterwards: schedule, remote control, Flower."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import re
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from stbass._process.context import ProcessContext
from stbass._values.endpoint import Placement
from stbass.backends.celery import CeleryBackend, install, make_app
from stbass.placement import PLACED_PAR
from stbass.testing import RedisServer, Worker
from stbass.testing._guarded import GuardedProcess, SubprocessError
from stbass.testing.redis_server import free_port
from tests.integration.conftest import APP as WORKER
from tests.support.agents import Give
from tests.support.backends import registry_of
from tests.support.puppets import Puppet, Puppeteer
from tests.support.waiting import until

APP = "tests.support.shop_app"


def _env(server: RedisServer) -> dict[str, str]:
    return {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url}


@pytest.fixture(scope="module")
def worker(server: RedisServer) -> Iterator[Worker]:
    """A worker of the shop on the asyncio pool."""
    with Worker(APP, "shop", env=_env(server), concurrency=4) as made:
        yield made


def _shop(server: RedisServer, ours: bool) -> Celery:
    app = Celery("shop", broker=server.url, backend=server.url, set_as_current=False)
    return install(app) if ours else app


async def test_its_schedule_is_kept(server: RedisServer, tmp_path: Path) -> None:
    arguments = ["-B", "-s", str(tmp_path / "schedule")]
    with Worker(APP, "shop", env=_env(server), args=arguments):
        await until(lambda: int(str(server.command("GET", "shop:ticks") or 0)) >= 3)


# kombu's own transport, in a caller without stbass, takes up to a second to be rid of the call before.
@pytest.mark.parametrize(("ours", "timeout"), [(True, 0.3), (False, 1.0)], ids=["ours", "stock"])
def test_every_ping_is_answered(server: RedisServer, worker: Worker, ours: bool, timeout: float) -> None:
    app = _shop(server, ours)
    while not app.control.ping(timeout=timeout):
        """It says that it is ready a moment before it hears."""
    answers, longest = [], 0.0
    for turn in range(20 if ours else 6):
        started = time.monotonic()
        if turn % 2:
            answered = app.control.inspect(timeout=timeout).ping() == {worker.name: {"ok": "pong"}}
        else:
            answered = app.control.ping(timeout=timeout) == [{worker.name: {"ok": "pong"}}]
        longest = max(longest, time.monotonic() - started)
        answers.append(answered)
    assert all(answers), answers
    # What the caller has given it, and not what the wait for messages happens to take.
    assert longest < timeout + 0.5


def _shown(server: RedisServer) -> str:
    """The server's URL as kombu shows it, with or without a password."""
    return server.url.replace("redis://", "redis://:**@")


def _get(port: int, path: str) -> tuple[int, str]:
    # A loopback URL of our own.
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return answer.status, answer.read().decode()


@pytest.mark.parametrize("by", ["-A", "--broker"])
async def test_flower_shows_the_queues(server: RedisServer, worker: Worker, by: str) -> None:
    port = free_port()
    how = ["-A", APP] if by == "-A" else [f"--broker={server.url}"]
    server.command("RPUSH", "waits", "x", "y")
    command = [sys.executable, "-m", "celery", *how, "flower", "--address=127.0.0.1", f"--port={port}"]
    env = {**os.environ, **_env(server), "FLOWER_UNAUTHENTICATED_API": "1"}
    with_flower = GuardedProcess(command, name="flower", env=env)
    try:
        with_flower.wait_for_log("Connected to redis://", 30)

        def workers() -> dict[str, Any]:
            found: dict[str, Any] = json.loads(_get(port, "/api/workers?refresh=1")[1])
            return found

        known = await until(workers)
        assert known[worker.name]["stats"]["broker"]["transport"] == "redis"
        lengths = json.loads(_get(port, "/api/queues/length")[1])
        assert {queue["name"] for queue in lengths["active_queues"]} >= {"shop"}
        status, page = _get(port, "/broker")
        assert status == 200
        assert _shown(server) in page
        assert "stbass.backends" not in with_flower.log
    finally:
        with_flower.kill()


@pytest.mark.slow
async def test_flower_shows_processes_under_way_and_counts_them_by_what_they_are_in_code(
    server: RedisServer, worker: Worker, puppeteer: Puppeteer
) -> None:
    port = free_port()
    command = [sys.executable, "-m", "celery", "-A", APP, "flower", "--address=127.0.0.1", f"--port={port}"]
    env = {**os.environ, **_env(server), "FLOWER_UNAUTHENTICATED_API": "1"}
    patterns = server.command("PUBSUB", "NUMPAT")
    with_flower = GuardedProcess(command, name="flower", env=env)
    try:
        # given a Flower that hears of events, processes that have ended, each of another name, and one under way
        await until(lambda: server.command("PUBSUB", "NUMPAT") > patterns, timeout=60)
        # It asks for events every few seconds.
        assert _shop(server, True).control.enable_events(reply=True, timeout=30, limit=1)
        async with aclosing(CeleryBackend(make_app("tests", broker_url=server.url))) as backend:
            there, registry = Placement(endpoint="shop"), registry_of(backend)
            many = [(Give(f"sk-ant-{'a' * 40}{n}").with_name(f"name {n}"), there) for n in range(100)]
            assert (await PLACED_PAR(*many, registry=registry).run()).is_ok
            puppet = Puppet(puppeteer.port).with_name("under [b] way")
            group = asyncio.create_task(PLACED_PAR((puppet, there), registry=registry).run())
            hand = await puppeteer.named("under [b] way")

            def under_way() -> list[dict[str, Any]]:
                known: dict[str, dict[str, Any]] = json.loads(_get(port, "/api/tasks")[1])
                return [task for task in known.values() if task["state"] == "STARTED"]

            # then its page and its API say what it is, what it is called, where it was sent
            [task] = await until(under_way, timeout=60)
            assert (task["name"], task["worker"]) == ("tests.support.puppets:Puppet", worker.name)
            assert task["args"] == "(under [b] way @ shop)"
            assert _get(port, "/tasks")[0] == _get(port, f"/task/{hand.process_id}")[0] == 200
            assert "under [b] way @ shop" in _get(port, f"/task/{hand.process_id}")[1]
            # and a hundred names are one line of its metrics for each thing that is counted
            metrics = _get(port, "/metrics")[1]
            assert {*re.findall(r'flower_events_total{task="([^"]*)"', metrics)} >= {"tests.support.agents:Give"}
            assert "name 1" not in metrics
            assert "sk-ant" not in _get(port, "/api/tasks")[1]
            hand.order("return")
            assert (await group).is_ok
    finally:
        with_flower.kill()


def test_the_banner_shows_the_url(server: RedisServer, worker: Worker) -> None:
    assert f"Connected to {_shown(server)}" in worker.log
    assert "backends.celery.transport" not in worker.log


async def test_autoscale_follows_what_there_is_to_do(server: RedisServer) -> None:
    app = make_app("tests", broker_url=server.url)
    with Worker(WORKER, "scaled", env=_env(server), args=["--autoscale=10,2"]) as scaled:
        async with aclosing(CeleryBackend(app, queue="scaled")) as backend:
            placed = [Give(n, seconds=0.5).with_name(f"s{n}") for n in range(10)]
            started = time.monotonic()
            done = await asyncio.gather(*(backend.execute(one, ProcessContext(one.name)) for one in placed))
            took = time.monotonic() - started
        assert all(result.is_ok for result in done)
        stats = app.control.inspect([scaled.name], timeout=20).stats()[scaled.name]
        assert stats["pool"]["max-concurrency"] > 2
        assert stats["autoscaler"]["max"] == 10
        assert took < 2.4, "two at a time take 2.5 s"
        assert scaled.running


async def test_the_pool_grows_and_shrinks_when_told(server: RedisServer) -> None:
    app = make_app("tests", broker_url=server.url)
    with Worker(WORKER, "grown", env=_env(server), concurrency=2) as grown:

        def limit() -> int:
            stats = app.control.inspect([grown.name], timeout=5).stats()
            return stats[grown.name]["pool"]["max-concurrency"] if stats else 0

        assert await until(limit, timeout=60) == 2
        for command, n, reply, then in (
            ("pool_grow", 3, "ok", 5),
            ("pool_shrink", 4, "ok", 1),
            ("pool_shrink", 1, "error", 1),
        ):
            answers = app.control.broadcast(command, arguments={"n": n}, reply=True, destination=[grown.name])
            assert reply in answers[0][grown.name]
            assert limit() == then


async def test_options_without_effect_say_so_once(server: RedisServer) -> None:
    options = ["--time-limit=2", "--soft-time-limit=1", "--max-tasks-per-child=2", "--max-memory-per-child=1000"]
    with Worker(WORKER, "optioned", env=_env(server), args=options) as optioned:
        log = optioned.log
    for option in options:
        assert log.count(f"({option.partition('=')[0]}, ") == 1, log


async def test_limits_set_at_run_time_say_so_once(server: RedisServer) -> None:
    app = make_app("tests", broker_url=server.url)
    env = {**_env(server), "TEST_POOL_RESTARTS": "1"}
    with Worker(WORKER, "limited", env=env) as limited:
        while not app.control.ping([limited.name], timeout=1):
            """It says that it is ready a moment before it hears."""
        for _ in range(2):
            restarted = app.control.broadcast("pool_restart", reply=True, destination=[limited.name], timeout=5)
            assert "ok" in restarted[0][limited.name]
        for name in ("stbass.execute", "tests.add"):
            app.control.time_limit(name, soft=1, hard=2, reply=True, destination=[limited.name])
        app.control.rate_limit("stbass.execute", "2/s", reply=True, destination=[limited.name])
        async with aclosing(CeleryBackend(app, queue="limited")) as backend:
            for n in range(3):
                assert (await backend.execute(Give(n), ProcessContext(f"limited-{n}"))).is_ok
        for _ in range(2):
            result = app.send_task("tests.add", (1, 2), queue="limited")
            assert await asyncio.to_thread(result.get, timeout=10) == 3
        log = limited.log
    for words in (
        "pool_restart does nothing",
        "a time limit (",
        "a soft time limit (",
        "rate_limit of stbass.execute does nothing",
    ):
        assert log.count(words) == 1, log


async def test_an_ordinary_task_that_cannot_be_ended_keeps_its_state(server: RedisServer, worker: Worker) -> None:
    app = _shop(server, ours=True)
    result = app.send_task("shop.dawdle", (3.0, "shop:dawdles"), queue="shop")
    await until(lambda: server.command("LLEN", "shop:dawdles") == 1)
    answers = app.control.revoke(result.id, terminate=True, reply=True, destination=[worker.name], timeout=20)
    assert "cannot be ended" in answers[0][worker.name]["error"]
    assert await asyncio.to_thread(result.get, timeout=10) == "done"
    assert result.state == "SUCCESS"
    assert server.command("LLEN", "shop:dawdles") == 2


async def test_a_task_that_is_to_be_ended_while_it_waits_for_a_thread_is_not_lost(
    server: RedisServer, worker: Worker
) -> None:
    app = _shop(server, ours=True)
    results = [app.send_task("shop.dawdle", (1.5, "shop:waits"), queue="shop") for _ in range(5)]
    await until(lambda: server.command("LLEN", "shop:waits") == 4)
    inspected = app.control.inspect([worker.name], timeout=20)
    while not (waiting := (await asyncio.to_thread(inspected.reserved) or {}).get(worker.name)):
        """The fifth has not come yet."""
    app.control.revoke(waiting[0]["id"], terminate=True, reply=True, destination=[worker.name], timeout=0.3)
    for result in results:
        await asyncio.to_thread(result.get, timeout=10, propagate=False)
    ended = sorted(result.state for result in results)
    # Revoked in time, it does not run; too late for that, it runs to its end: its state says which.
    assert ended in (["REVOKED", *["SUCCESS"] * 4], ["SUCCESS"] * 5)
    assert server.command("LLEN", "shop:waits") == 2 * ended.count("SUCCESS")
    assert not await asyncio.to_thread(inspected.reserved) or not inspected.reserved()[worker.name]


async def test_messages_are_taken_one_by_one_where_none_is_to_be_prefetched(server: RedisServer) -> None:
    app = _shop(server, ours=True)
    for _ in range(6):
        app.send_task("shop.dawdle", (600.0, "shop:singly"), queue="singly", ignore_result=True)
    args = ["--disable-prefetch", "--prefetch-multiplier=4"]
    with Worker(APP, "singly", env=_env(server), args=args, concurrency=2) as worker:
        await until(lambda: server.command("LLEN", "shop:singly") == 2, timeout=30)
        while not app.control.ping([worker.name], timeout=1):
            """It has other things to do first."""
        assert server.command("LLEN", "singly") == 4
    server.command("DEL", "singly")


async def test_a_running_process_tells_when_it_started(server: RedisServer) -> None:
    app = make_app("tests", broker_url=server.url)
    with Worker(WORKER, "timed", env=_env(server)) as timed:
        async with aclosing(CeleryBackend(app, queue="timed")) as backend:
            before = time.time()
            ctx = ProcessContext("long")
            running = asyncio.create_task(backend.execute(Give(1, seconds=30.0), ctx))

            def found() -> Any:
                return (app.control.inspect([timed.name], timeout=1).active() or {}).get(timed.name)

            while not (active := await asyncio.to_thread(found)):
                """It has not started yet."""
            assert before - 1 < active[0]["time_start"] < time.time() + 1
            ask = app.control.inspect([timed.name], timeout=20).query_task
            queried = await asyncio.to_thread(ask, ctx.process_id)
            assert queried[timed.name][ctx.process_id][0] == "active"
            running.cancel()
            await asyncio.wait([running])


@pytest.mark.parametrize(
    ("pool", "results"),
    [("asyncio", "sql"), pytest.param("prefork", "sql", marks=pytest.mark.slow), ("asyncio", "none")],
)
async def test_results_of_ordinary_tasks_stay_where_they_are(
    server: RedisServer, tmp_path: Path, pool: str, results: str
) -> None:
    env = {**_env(server), "TEST_RESULTS": f"db+sqlite:///{tmp_path}/results.db" if results == "sql" else ""}
    app = install(Celery("books", broker=server.url, backend=env["TEST_RESULTS"] or None, set_as_current=False))
    app.conf.stbass_result_backend = server.url
    server.command("FLUSHALL")
    with Worker("tests.support.sql_results_app", "books", pool=pool, env=env, concurrency=2):
        if results == "sql":
            task = app.send_task("books.add", (1, 2), queue="books")
            assert await asyncio.to_thread(task.get, timeout=30) == 3
        note = tmp_path / "note"
        app.send_task("books.note", ("hello", str(note)), queue="books")
        await until(note.exists, timeout=30)
        # What processes give is in Redis, and Celery's own handles find it there.
        async with aclosing(CeleryBackend(app, queue="books")) as backend:
            ctx = ProcessContext("give")
            assert (await backend.execute(Give({"a": 1}), ctx)).value == {"a": 1}
            registry = registry_of(backend, "books")
            group = PLACED_PAR(*((Give(n), Placement(endpoint="books")) for n in range(3)), registry=registry)
            outcome = await group.run()
            assert outcome.value == [0, 1, 2]
            for handle in (outcome.group, pickle.loads(pickle.dumps(outcome.group))):
                assert await asyncio.to_thread(handle.get, timeout=30) == [0, 1, 2]
            handle = app.tasks["stbass.execute"].AsyncResult(ctx.process_id)
            assert await asyncio.to_thread(handle.get, timeout=30) == {"a": 1}
    assert {key.partition("-")[0] for key in server.command("KEYS", "celery-task-meta-*")} == {"celery"}
    assert len(server.command("KEYS", "celery-task-meta-*")) == 4


@pytest.mark.parametrize("results", ["db+sqlite:///results.db", ""])
def test_a_worker_that_cannot_keep_results_of_processes_says_what_to_set(server: RedisServer, results: str) -> None:
    env = {**_env(server), "TEST_RESULTS": results, "STBASS_RESULT_BACKEND": ""}
    with pytest.raises(SubprocessError, match="stbass_result_backend"):
        Worker("tests.support.sql_results_app", "books", env=env).start()
