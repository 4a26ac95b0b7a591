"""What a Celery application had before it ran processes, it has afterwards: schedule, remote control, Flower."""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from stbass.backends.celery import install
from stbass.testing import RedisServer, Worker
from stbass.testing._guarded import GuardedProcess
from stbass.testing.redis_server import free_port
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


def test_the_banner_shows_the_url(server: RedisServer, worker: Worker) -> None:
    assert f"Connected to {_shown(server)}" in worker.log
    assert "backends.celery.transport" not in worker.log
