"""``stbass top`` on a real fleet: in textual's pilot, in a terminal, and in what a browser is served."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import redis
from celery import Celery
from textual.widgets import DataTable, Input, RichLog, Static

from stbass import PLACED_PAR, FailurePolicy, Placement, start
from stbass.backends.celery import CeleryBackend
from stbass.backends.celery.fleet_status import FleetWatch
from stbass.backends.celery.settings import fleet_of
from stbass.cli.top_view import Top
from stbass.placement import BackendRegistry
from stbass.runs import Run
from stbass.testing import RedisServer
from stbass.testing._guarded import GuardedProcess
from stbass.testing.redis_server import free_port
from tests.integration.conftest import Fleet, workers_on
from tests.support.backends import registry_of
from tests.support.told_agents import broken, forever

ROOT = Path(__file__).parents[2]
HERE, NOWHERE = Placement(endpoint="told"), Placement(endpoint="nowhere")
PATIENCE = 60.0
ODD = "[bold]report[/] 💥 " + "x" * 500


@pytest.fixture(scope="module")
def fleet(server: RedisServer) -> Iterator[Fleet]:
    with workers_on(server, "told", include=["tests.support.told_agents"]) as made:
        yield made


@pytest.fixture
def registry(backend: CeleryBackend) -> BackendRegistry:
    return registry_of(backend)


@pytest.fixture
async def run(registry: BackendRegistry) -> AsyncIterator[Run[None]]:
    """One that is under way."""
    made = await start(forever.with_name(ODD), placement=HERE, registry=registry)
    yield made
    await made.cancel()
    await made.result()


class Looking:
    """Somebody who looks at a screen."""

    def __init__(self, top: Top, press: Callable[..., Awaitable[None]]) -> None:
        self.top = top
        self.press = press

    def table(self, name: str) -> list[list[str]]:
        table = self.top.screen_stack[0].query_one(f"#{name}", DataTable)
        return [[str(cell) for cell in table.get_row_at(row)] for row in range(table.row_count)]

    def text(self, name: str) -> str:
        return str(self.top.screen.query_one(f"#{name}", Static).render())

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():  # noqa: ASYNC110 - the screen is drawn when it is
                await asyncio.sleep(0.05)


@asynccontextmanager
async def looking(app: Celery, size: tuple[int, int] = (140, 40)) -> AsyncIterator[Looking]:
    top = Top(app)
    async with top.run_test(size=size, notifications=True) as pilot:
        yield Looking(top, pilot.press)


async def test_it_shows_what_runs_how_far_it_is_what_waits_and_what_has_failed(
    fleet: Fleet, registry: BackendRegistry, run: Run[None]
) -> None:
    waits = await start(forever, placement=NOWHERE, registry=registry)
    await PLACED_PAR((broken, HERE), registry=registry, on_failure=FailurePolicy.COLLECT).run()
    worker = fleet.workers["told"].name
    async with looking(fleet.app()) as seen:
        await seen.until(lambda: any(row[-1] == "1" for row in seen.table("processes")))
        await seen.until(lambda: len(seen.table("endpoints")) == 2)
        assert [row[:4] for row in seen.table("endpoints")] == [["nowhere", "0", "0", "1"], ["told", "1", "1", "0"]]
        shown = {row[1]: row for row in seen.table("processes")}
        row = shown[f"{run.id[:31]}…"]
        assert [*row[2:4], row[4], row[6], row[7]] == ["runs", "told", worker, "-", "1"]
        assert row[0].startswith("[bold]report[/] 💥 xx")
        assert shown[f"{waits.id[:31]}…"][2] == "queued"
        assert seen.table("failures")[0][1:] == ["broken", "", "told", "ValueError: no such page"]
        assert seen.text("summary").startswith("1 worker, 1 running, 1 queued, ")
    await waits.cancel()


async def test_a_run_is_followed_and_cancelled_if_the_user_is_sure(fleet: Fleet, run: Run[None]) -> None:
    async with looking(fleet.app()) as seen:
        await seen.until(lambda: seen.table("processes"))
        # when it is chosen, and looked at
        await seen.press("enter")
        log = seen.top.screen.query_one(RichLog)
        await seen.until(lambda: any(line.text.endswith(": 1") for line in log.lines))
        assert f"run {run.id}" in seen.text("details")
        # and cancelled: not if the answer is no
        await seen.press("c", "n", "c", "y")
        await seen.until(lambda: any("ProcessCancelled" in line.text for line in log.lines))
        await seen.until(lambda: "it does not run any more" in seen.text("details"))
        await seen.press("escape")
        await seen.until(lambda: not seen.table("processes"))
    assert (await run.status()).state == "ended"


async def test_what_belongs_to_no_run_cannot_be_cancelled_from_there(fleet: Fleet, registry: BackendRegistry) -> None:
    group = asyncio.create_task(PLACED_PAR((forever, HERE), registry=registry).run())
    async with looking(fleet.app()) as seen:
        await seen.until(lambda: seen.table("processes"))
        await seen.press("c")
        await seen.until(lambda: seen.top.screen.query("Toast"))
        assert len(seen.top.screen_stack) == 1
    group.cancel()
    with pytest.raises(asyncio.CancelledError):
        await group


async def test_rows_are_filtered(fleet: Fleet, run: Run[None], registry: BackendRegistry) -> None:
    other = await start(forever.with_name("moons"), placement=HERE, registry=registry)
    async with looking(fleet.app()) as seen:
        await seen.until(lambda: len(seen.table("processes")) == 2)
        await seen.press("slash")
        seen.top.screen.query_one(Input).value = "MOO"
        await seen.until(lambda: [row[0] for row in seen.table("processes")] == ["moons"])
        await seen.press("escape")
        await seen.until(lambda: len(seen.table("processes")) == 2)
    await other.cancel()
    await other.result()


async def test_forty_columns_have_room_for_the_columns_that_matter(fleet: Fleet, run: Run[None]) -> None:
    async with looking(fleet.app(), (40, 20)) as seen:
        await seen.until(lambda: seen.table("processes"))
        [[name, _, progress]] = seen.table("processes")
        assert (len(name), progress) == (16, "1")
        assert seen.table("endpoints")[-1] == ["told", "1", "0"]


@pytest.mark.slow  # beside the fleet of the module it starts another one
async def test_a_server_that_goes_away_is_told_of_and_comes_back() -> None:
    with RedisServer(persistent=True) as server, workers_on(server, "told") as fleet:
        async with looking(fleet.app()) as seen:
            await seen.until(lambda: seen.table("endpoints"))
            server.kill()
            await seen.until(lambda: "look at the fleet" in seen.text("summary"))
            assert seen.table("endpoints")
            server.start()
            await seen.until(lambda: "running" in seen.text("summary"))


async def test_a_look_costs_few_commands(fleet: Fleet, run: Run[None]) -> None:
    asked = redis.Redis.from_url(fleet.server.url)

    def commands() -> int:
        stats: Any = asked.info("stats")
        return int(stats["total_commands_processed"])

    with closing(asked), closing(FleetWatch(fleet_of(fleet.app()).settings, detailed=True)) as watch:
        watch.look()
        before = commands()
        for _ in range(20):
            status = await asyncio.to_thread(watch.look, find=False)
            assert [one.name for answer in status.answers for one in answer.oldest]
        # A worker and an endpoint; the worker itself does something now and then.
        assert (commands() - before) / 20 < 20


# The command -------------------------------------------------------------------------------------


def command(fleet: Fleet, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stbass.cli", "top", *arguments],
        env={**os.environ, **fleet.env},
        cwd=ROOT,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=90,
        check=False,
    )


def test_without_a_terminal_it_says_what_to_do(fleet: Fleet) -> None:
    done = command(fleet)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("stbass: top needs a terminal: `stbass status` shows the same once")
    assert "Traceback" not in done.stderr


def test_in_a_terminal_without_colours(fleet: Fleet, run: Run[None]) -> None:
    ours, theirs = pty.openpty()
    env = {
        **os.environ,
        **fleet.env,
        "TERM": "xterm-256color",
        "COLORTERM": "truecolor",
        "NO_COLOR": "1",
        "COLUMNS": "100",
        "LINES": "30",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "stbass.cli", "top"], stdin=theirs, stdout=theirs, stderr=theirs, env=env, cwd=ROOT
    )
    os.close(theirs)
    try:
        shown = _read_until(ours, b"1 running")
        os.write(ours, b"q")
        shown += _read_until(ours, None)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    # Grey levels only: of each colour that is set red, green and blue are alike.
    colours = re.findall(rb"[34]8;2;(\d+);(\d+);(\d+)", shown)
    assert colours
    assert all(len(set(colour)) == 1 for colour in colours)
    assert b"Traceback" not in shown


def _read_until(terminal: int, wanted: bytes | None) -> bytes:
    shown, until = b"", time.monotonic() + PATIENCE
    while wanted is None or wanted not in shown:
        assert time.monotonic() < until, shown[-2000:]
        if select.select([terminal], [], [], 1.0)[0]:
            try:
                shown += os.read(terminal, 65536)
            except OSError:  # the other side is closed
                return shown
    return shown


@pytest.fixture
def served(fleet: Fleet) -> Iterator[int]:
    port = free_port()
    process = GuardedProcess(
        [sys.executable, "-m", "stbass.cli", "top", "--serve", str(port)],
        name="stbass top",
        env={**os.environ, **fleet.env},
        cwd=ROOT,
    )
    try:
        process.wait_for_log(f"http://127.0.0.1:{port} (Ctrl-C ends it)", 60)
        yield port
    finally:
        process.kill()


async def test_a_browser_is_served_and_pages_of_others_are_not(served: int, run: Run[None]) -> None:
    url = f"http://127.0.0.1:{served}"
    async with aiohttp.ClientSession() as session:

        async def page() -> bool:
            try:
                async with session.get(url) as answer:
                    return "stbass top" in await answer.text()
            except aiohttp.ClientConnectionError:
                return False

        async with asyncio.timeout(PATIENCE):
            while not await page():  # noqa: ASYNC110 - the server cannot wake us
                await asyncio.sleep(0.05)
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await session.ws_connect(f"{url}/ws", origin="http://evil.example")
            assert refused.value.status == 403
            async with session.ws_connect(f"{url}/ws?width=100&height=30", origin=url) as socket:
                shown = b""
                while b"1 running" not in shown:
                    shown += (await socket.receive_bytes()) if shown else await _first_bytes(socket)


async def _first_bytes(socket: aiohttp.ClientWebSocketResponse) -> bytes:
    while (message := await socket.receive()).type is not aiohttp.WSMsgType.BINARY:
        assert message.type is aiohttp.WSMsgType.TEXT
    return bytes(message.data)


def test_a_port_that_is_taken_is_told(fleet: Fleet, served: int) -> None:
    done = command(fleet, "--serve", str(served))
    assert done.returncode == 3
    assert f"--serve {served}: 127.0.0.1: Address already in use; choose another" in done.stderr
