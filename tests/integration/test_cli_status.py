"""``stbass status``, against real servers and workers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from stbass._values.endpoint import Placement
from stbass.backends.celery import CeleryBackend, make_app
from stbass.backends.celery.fleet_status import FleetWatch
from stbass.backends.celery.settings import fleet_of
from stbass.placement import PLACED_PAR
from stbass.testing import RedisServer, Worker
from tests.integration.conftest import APP
from tests.support.agents import Block
from tests.support.backends import registry_of
from tests.support.puppets import Puppet, Puppeteer
from tests.support.rabbitmq import RabbitMQ
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0


def run(command: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stbass.cli", command, *arguments],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class Operated:
    """A fleet that somebody looks at."""

    def __init__(self, server: RedisServer, broker: str = "") -> None:
        self.server = server
        self.env = {
            "STBASS_BROKER_URL": broker or server.url,
            "STBASS_RESULT_BACKEND": server.url,
            "STBASS_LEASE": "1",
            "TEST_LEASE": "1",
        }
        self.app = make_app("tests", broker_url=broker or server.url, result_backend=server.url, stbass_lease=1.0)
        self.backend = CeleryBackend(self.app, lease=1.0)
        self.stack = ExitStack()

    def worker(self, *endpoints: str, **options: Any) -> Worker:
        env = {**self.env, **options.pop("env", {})}
        return self.stack.enter_context(Worker(APP, *endpoints, env=env, include=["tests.support.puppets"], **options))

    def send(self, endpoint: str, *processes: Any) -> asyncio.Task[Any]:
        there = Placement(endpoint=endpoint)
        group = PLACED_PAR(*[(one, there) for one in processes], registry=registry_of(self.backend), deadline=90.0)
        return asyncio.create_task(group.run())

    async def run(self, command: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(run, command, *arguments, **{**self.env, **environment})

    async def endpoints(self) -> dict[str, Any]:
        done = await self.run("status", "--json")
        assert done.returncode == 0, done.stderr
        return {one.pop("endpoint"): one for one in json.loads(done.stdout)["endpoints"]}

    async def aclose(self) -> None:
        await self.backend.aclose()
        self.stack.close()


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as made:
        yield made


@pytest.fixture
async def fleet(server: RedisServer) -> AsyncIterator[Operated]:
    made = Operated(server)
    yield made
    await made.aclose()


async def test_two_workers_of_one_name_are_told_apart(fleet: Operated, puppeteer: Puppeteer) -> None:
    # given two workers of one name, as `stbass worker` gives them on one host, and a process on one of them
    fleet.worker("busy", name="twin@here")
    idle = fleet.worker("idle", name="twin@here")
    group = fleet.send("busy", Puppet(puppeteer.port))
    await puppeteer.wait_for(1)

    def look() -> dict[str, tuple[int, int]]:
        status = watch.look()
        return {one.endpoint: (one.healthy, one.running) for one in status.endpoints}

    with closing(FleetWatch(fleet_of(fleet.app).settings, detailed=True)) as watch:
        # then what one runs is not said of the other
        await until(lambda: look() == {"busy": (1, 1), "idle": (1, 0)}, timeout=PATIENCE)
        # and when one is stopped, the answer of the other is not taken for its own
        os.kill(idle.pid, signal.SIGSTOP)
        try:
            await until(lambda: look() == {"busy": (1, 1), "idle": (0, 0)}, timeout=PATIENCE)
        finally:
            os.kill(idle.pid, signal.SIGCONT)
    group.cancel()
    await asyncio.gather(group, return_exceptions=True)


async def test_status_shows_what_runs_waits_was_lost_and_refused(fleet: Operated, puppeteer: Puppeteer) -> None:
    # given an endpoint with a limit, and one that nobody consumes
    assert (await fleet.run("status")).stdout == "no worker is there, and nothing waits\n"
    worker, _ = fleet.worker("llm", "free"), fleet.worker("llm")
    assert (await fleet.run("limit", "llm", "--running", "2", "--rate", "100/s")).returncode == 0
    groups = [
        fleet.send("llm", *[Puppet(puppeteer.port)] * 5),
        fleet.send("free", Puppet(puppeteer.port)),
        fleet.send("no[b]o'dy 💥", *[Puppet(puppeteer.port)] * 3),
    ]
    await puppeteer.wait_for(3)
    await until(lambda: fleet.server.command("ZCARD", "stbass:line:llm") == 3, timeout=PATIENCE)
    # then
    found = await fleet.endpoints()
    assert all(0 <= one.pop("oldest") < PATIENCE for one in (found["llm"], found["no[b]o'dy 💥"]))
    idle = {"limit": None, "queued": 0, "limited": 0, "lost": None, "refused": 0}
    assert found == {
        "free": {**idle, "workers": 1, "healthy": 1, "running": 1, "oldest": None},
        "llm": {**idle, "workers": 2, "healthy": 2, "running": 2, "limit": "2, 100/s", "queued": 3, "limited": 3},
        "no[b]o'dy 💥": {**idle, "workers": 0, "healthy": 0, "running": 0, "queued": 3},
    }
    shown = (await fleet.run("status")).stdout.splitlines()
    assert shown[0].split() == ["endpoint", "workers", "running", "queued", "oldest", "lost", "refused"]
    assert shown[2].split()[:6] == ["llm", "2", "2", "/", "2,", "100/s"]
    # when a worker dies, and something is refused
    worker.kill()
    fleet.server.command("LPUSH", "llm", "not a message")
    await until(lambda: fleet.server.command("EXISTS", "stbass:swept:queues", "stbass:refused") == 2, timeout=PATIENCE)
    found = await fleet.endpoints()
    assert found["free"]["lost"] < PATIENCE
    assert found["free"]["workers"] == 0
    assert found["llm"]["refused"] == 1
    shown = (await fleet.run("status")).stdout.splitlines()
    assert shown[-1] == "refused: 1 message"
    for group in groups:
        group.cancel()
    await asyncio.gather(*groups, return_exceptions=True)


NOT_FOR_STATUS = (
    *("amqp", "billiard", "celery.app", "kombu.connection", "rich", "textual", "yaml"),
    *("stbass.backends.celery.producer", "stbass.backends.celery.transport", "stbass.backends.celery.worker.runtime"),
    *("stbass.backends.celery.worker.task", "stbass.dataflow", "stbass.process", "stbass.transports.redis.transport"),
    *("stbass.wire", "stbass.app", "stbass.backends.celery.app", "stbass.backends.celery.kombu_sender"),
)
"""What it took longest for before they were left out: a health check runs it every few seconds."""


def test_status_imports_nothing_of_workers_and_producers(server: RedisServer) -> None:
    for endpoint in ("llm", "free"):
        server.command("LPUSH", endpoint, json.dumps({"headers": {"task": "stbass.execute", "stbass_sent": 1.0}}))
    program = """
import sys
from stbass.cli import main
sys.argv = ["stbass", "status"]
try:
    main()
finally:
    print(*sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "STBASS_BROKER_URL": server.url},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    *shown, modules = done.stdout.splitlines()
    assert [line.split()[0] for line in shown] == ["endpoint", "free", "llm"]
    loaded = set(modules.split())
    assert "stbass.cli.status" in loaded
    assert not loaded.intersection(NOT_FOR_STATUS)


@pytest.mark.slow
async def test_an_endpoint_that_is_required_has_a_healthy_worker_or_the_exit_code_is_1(fleet: Operated) -> None:
    lonely = await fleet.run("status", "--require", "llm")
    assert lonely.returncode == 1
    assert lonely.stderr == "stbass: no worker consumes 'llm'; start one: stbass worker -e llm\n"
    worker = fleet.worker("llm")
    assert (await fleet.run("status", "--require", "llm")).returncode == 0
    assert (await fleet.run("status", "--require", "llm", "--require", "other")).returncode == 1
    # when its event loop is blocked
    blocking = fleet.send("llm", Block(60.0))

    async def blocked() -> str:
        done = await fleet.run("status", "--require", "llm", "--json")
        assert json.loads(done.stdout)["ok"] is (done.returncode == 0)
        return done.stderr if done.returncode == 1 else ""

    async with asyncio.timeout(PATIENCE):
        while not (told := await blocked()):
            pass
    assert "no worker of 'llm' is well" in told
    assert "has blocked the event loop" in told
    # when another one is there, which does not
    other = fleet.worker("llm")
    assert (await fleet.run("status", "--require", "llm")).returncode == 0
    # when that stands still
    other.send_signal(signal.SIGSTOP)
    still = await fleet.run("status", "--require", "llm")
    assert still.returncode == 1
    other.send_signal(signal.SIGCONT)
    worker.kill()
    blocking.cancel()
    await asyncio.gather(blocking, return_exceptions=True)


@pytest.mark.slow
async def test_status_of_queues_in_rabbitmq(rabbitmq: RabbitMQ, server: RedisServer, puppeteer: Puppeteer) -> None:
    fleet = Operated(server, rabbitmq.url)
    try:
        fleet.worker("status", concurrency=1)
        group = fleet.send("status", *[Puppet(puppeteer.port)] * 4)
        await puppeteer.wait_for(1)
        async with asyncio.timeout(PATIENCE):
            while (found := await fleet.endpoints())["status"]["queued"] != 3:
                pass
        assert found["status"]["running"] == 1
        group.cancel()
        await asyncio.gather(group, return_exceptions=True)
    finally:
        await fleet.aclose()


def test_without_redis_the_error_says_so_in_one_line() -> None:
    done = run("status", STBASS_BROKER_URL="redis://somebody:secret@127.0.0.1:1/0")
    assert done.returncode == 1
    assert "cannot be reached" in done.stdout + done.stderr
    assert "secret" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_an_application_that_is_not_there() -> None:
    done = run("status", "--app", "no.such.module")
    assert done.returncode == 3
    assert "Traceback" not in done.stderr


def test_a_required_endpoint_has_a_name() -> None:
    assert run("status", "--require", " ").returncode == 3


async def test_what_others_have_named_does_not_reach_the_terminal_as_it_is(fleet: Operated) -> None:
    # given a queue whose name would colour the terminal, and a message in it that asks for a process
    fleet.server.command("LPUSH", "e\x1b[31mvil\n", json.dumps({"headers": {"task": "stbass.execute"}}))
    # then commands show it as text
    for command in ("status", "doctor"):
        shown = (await fleet.run(command)).stdout
        assert "e [31mvil" in shown
        assert "\x1b" not in shown
    assert "e\x1b[31mvil\n" in await fleet.endpoints()
