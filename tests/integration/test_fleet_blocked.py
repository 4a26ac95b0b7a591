"""An event loop of a worker that is blocked, and answers that come too late."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path

import pytest

from stbass._process.context import ProcessContext
from stbass.backends.celery import CeleryBackend, make_app
from stbass.testing import RedisServer, Worker
from tests.integration.conftest import APP
from tests.support.agents import HoldUp, Steps, UntilTold
from tests.support.proxy import Proxy
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize("attempts", [pytest.param(3, marks=pytest.mark.slow), 1])
async def test_a_claim_that_is_older_than_its_lease_is_not_started(tmp_path: Path, attempts: int) -> None:
    log, told = tmp_path / "log", tmp_path / "told"
    claimed, let_go = asyncio.Event(), asyncio.Event()

    async def hold(chunk: bytes) -> None:
        if b"$2\r\ngo\r\n" in chunk:
            claimed.set()
            await let_go.wait()

    with RedisServer() as server:
        app = make_app("tests", broker_url=server.url)
        async with (
            aclosing(CeleryBackend(app, queue="q", lease=0.5)) as backend,
            Proxy(server.port, before=hold) as proxy,
        ):
            env = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": proxy.url, "TEST_LEASE": "0.5"}
            async with Worker(APP, "q", env=env) as slow:
                # given a worker that has claimed a process, and does not know it yet
                run = backend.execute(UntilTold(str(log), str(told)), ProcessContext("once"))
                running = asyncio.create_task(run)
                await claimed.wait()
                await asyncio.to_thread(app.control.cancel_consumer, "q", destination=[slow.name], reply=True)
                # when another one takes it, because the lease is over
                async with Worker(APP, "q", env={**env, "STBASS_RESULT_BACKEND": server.url}):
                    await until(lambda: log.exists() and log.read_text())
                    let_go.set()
                    # then the first one does not start it
                    await until(lambda: "claimed and not started in time" in slow.log)
                    told.touch()
                    result = await running
                    assert result.value == 2
                    await until(lambda: server.command("HLEN", "unacked") == 0)
                    assert len(log.read_text().splitlines()) == 2


async def test_a_claim_that_nobody_else_has_is_made_again_and_costs_no_attempt(tmp_path: Path) -> None:
    claims = 0
    let_go = asyncio.Event()

    async def hold(chunk: bytes) -> None:
        nonlocal claims
        if b"$2\r\ngo\r\n" in chunk:
            claims += 1
            if claims == 1:
                # More than two thirds of the lease: it stands, but not for long.
                asyncio.get_running_loop().call_later(4.5, let_go.set)
                await let_go.wait()

    with RedisServer() as server:
        app = make_app("tests", broker_url=server.url)
        async with (
            aclosing(CeleryBackend(app, queue="q", lease=6.0, max_attempts=1)) as backend,
            Proxy(server.port, before=hold) as proxy,
            Worker(APP, "q", env={"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": proxy.url}),
        ):
            result = await backend.execute(Steps(1, 0.0), ProcessContext("once"))
    assert (result.is_ok, claims) == (True, 2)


async def test_whoever_blocks_the_event_loop_is_named_once_and_keeps_its_lease(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer() as server:
        app = make_app("tests", broker_url=server.url)
        env = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url, "TEST_LEASE": "0.5"}
        async with aclosing(CeleryBackend(app, queue="q", lease=0.5)) as backend, Worker(APP, "q", env=env) as worker:
            for number in (1, 2):
                let_go = tmp_path / f"let_go{number}"
                ctx = ProcessContext(f"blocks{number}")
                running = asyncio.create_task(backend.execute(HoldUp(str(let_go)), ctx))
                await until(lambda number=number: f"process 'blocks{number}'" in worker.log)  # type: ignore[misc]
                # Others look for lost workers meanwhile, and a worker that is blocked can be asked.
                stats = await asyncio.to_thread(app.control.inspect([worker.name], timeout=5).stats)
                assert stats[worker.name]["pool"]["blocked-seconds"] > 0
                await _is_told(backend, worker, f"process 'blocks{number}' ({ctx.process_id})", caplog)
                let_go.touch()
                assert (await running).value == 1
                await until(lambda number=number: worker.log.count("the event loop goes on after") == number)  # type: ignore[misc]
            stats = await asyncio.to_thread(app.control.inspect([worker.name], timeout=5).stats)
            assert stats[worker.name]["pool"]["blocked-seconds"] == 0
            assert await backend.health_check()
            assert await asyncio.to_thread(app.control.inspect([worker.name], timeout=5).ping) == {
                worker.name: {"ok": "pong"}
            }
        warnings = [line for line in worker.log.splitlines() if "has blocked the event loop for" in line]
        assert [f"process 'blocks{number}'" in line for number, line in enumerate(warnings, 1)] == [True, True]
        assert "asyncio.to_thread" in warnings[0]
        # and where it is
        assert "in _blocks_until" in worker.log


async def _is_told(backend: CeleryBackend, worker: Worker, who: str, caplog: pytest.LogCaptureFixture) -> None:
    """By a health check, a ping from a program, and one from the command line."""
    caplog.clear()
    assert not await backend.health_check()
    [told] = [record.message for record in caplog.records if "runs nothing" in record.message]
    assert told.startswith(f"worker {worker.name} runs nothing: {who} has blocked the event loop for ")
    answers = await asyncio.to_thread(backend._app.control.inspect([worker.name], timeout=5).ping)
    assert answers[worker.name]["error"].startswith(f"{who} has blocked the event loop for ")
    command = [sys.executable, "-m", "celery", f"--broker={backend.settings.backend.url}", "inspect"]
    command += ["-t", "5", "-d", worker.name, "ping"]
    shown = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
    assert f"{who} has blocked the event loop for " in shown.stdout, shown


async def test_a_block_is_told_before_anybody_has_looked_for_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Leases are so long that the worker itself would not notice within this test.
    with RedisServer() as server:
        env = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url, "TEST_LEASE": "600"}
        app = make_app("tests", broker_url=server.url)
        async with aclosing(CeleryBackend(app, queue="q", lease=600.0)) as backend, Worker(APP, "q", env=env) as worker:
            assert await backend.health_check()
            let_go = tmp_path / "let_go"
            ctx = ProcessContext("blocks")
            running = asyncio.create_task(backend.execute(HoldUp(str(let_go)), ctx))
            await until(lambda: server.command("EXISTS", f"stbass:run:{ctx.process_id}") == 1)
            # A moment passes between its claim and its run.
            while await backend.health_check():
                """It has not begun to block."""
            who = f"process 'blocks' ({ctx.process_id})"
            assert any(f"{worker.name} runs nothing: {who}" in record.message for record in caplog.records)
            let_go.touch()
            assert (await running).value == 1
            assert await until_healthy(backend)


async def until_healthy(backend: CeleryBackend) -> bool:
    """Whether it is, within half a minute."""
    async with asyncio.timeout(30):
        while not await backend.health_check():
            """It goes on in a moment."""
    return True
