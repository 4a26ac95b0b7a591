"""A server that lets nobody in for a while: it takes long to load its data, or its password was changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import pytest
import redis

from stbass._process.context import ProcessContext
from stbass._values.endpoint import Placement
from stbass.backends.celery import CeleryBackend, make_app
from stbass.backends.celery.settings import fleet_of
from stbass.backends.celery.sweep import Sweeper
from stbass.errors import BackendUnavailableError, StateLostError
from stbass.par import PARResult
from stbass.placement import PLACED_PAR
from stbass.result import FailurePolicy
from stbass.testing import RedisServer, Worker
from tests.integration.conftest import APP, Fleet, workers_on
from tests.support.agents import UntilTold, noop
from tests.support.backends import registry_of
from tests.support.ends import ends
from tests.support.waiting import until

ANTHROPIC = Placement(endpoint="anthropic")
COUNT = 20


async def _through_it(
    server: RedisServer, fleet: Fleet, folder: Path, begin: Callable[[], object], words: str, end: Callable[[], object]
) -> PARResult[int]:
    """Processes end, and a reader waits, while the server lets nobody in; until the worker says these words of it."""
    log, let_go = folder / "log", folder / "let_go"
    worker = fleet.workers["anthropic"]
    async with (
        aclosing(CeleryBackend(fleet.app(), lease=2.0)) as backend,
        ends(server.url, expected=(StateLostError,)) as (writer, reader),
    ):
        running = asyncio.create_task(
            PLACED_PAR(
                *[(UntilTold(str(log), str(let_go)).with_name(f"p{n}"), ANTHROPIC) for n in range(COUNT)],
                registry=registry_of(backend),
                deadline=100.0,
                on_failure=FailurePolicy.COLLECT,
            ).run()
        )
        receiving = asyncio.create_task(reader.recv())
        await writer.writable()
        await until(lambda: log.exists() and len(log.read_text().splitlines()) == COUNT, timeout=30)
        await asyncio.to_thread(begin)
        let_go.touch()
        sending = asyncio.create_task(writer.send(1))
        await until(lambda: words in worker.log, timeout=30)
        assert not running.done()
        assert not receiving.done()
        await asyncio.to_thread(end)
        async with asyncio.timeout(90):
            await sending
            assert await receiving == 1
            result = await running
    assert worker.running
    assert [line.split()[0] for line in log.read_text().splitlines()].count("ended") == COUNT
    return result


@pytest.mark.timeout(180)
async def test_a_password_that_is_wrong_for_a_while_is_told_and_waited_for(tmp_path: Path) -> None:
    with RedisServer() as server, workers_on(server, "anthropic") as fleet:
        admin = redis.Redis.from_url(server.url, single_connection_client=True)

        def begin() -> None:
            admin.execute_command("ACL", "SETUSER", "default", "resetpass", ">elsewhere")
            admin.execute_command("AUTH", "elsewhere")
            for kind in ("normal", "pubsub"):
                admin.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

        def end() -> None:
            admin.execute_command("ACL", "SETUSER", "default", "nopass")

        words = "does not accept the user name and password that it is given"
        result = await _through_it(server, fleet, tmp_path, begin, words, end)
        admin.close()
    # then nothing was lost, and nothing run again
    assert [item.value for item in result.results] == [1] * COUNT


@pytest.mark.parametrize("locked", ["broker", "results"])
async def test_a_server_that_wants_another_password_is_named_and_so_is_what_is_wrong(
    server: RedisServer, locked: str
) -> None:
    # given two servers, one of which wants a password that nobody here knows
    with RedisServer() as other:
        other.command("CONFIG", "SET", "requirepass", "elsewhere")
        urls = (other.url, server.url) if locked == "broker" else (server.url, other.url)
        app = make_app("tests", broker_url=urls[0], result_backend=urls[1])
        fleet = fleet_of(app)
        async with aclosing(CeleryBackend(app, queue="q")) as backend:
            # then a process that is sent says so, and where
            with pytest.raises(BackendUnavailableError) as caught:
                await asyncio.wait_for(backend.execute(noop, ProcessContext("p")), 60)
            port = other.url.removeprefix("redis://").removesuffix("/0")
            assert f"{port}/0 does not accept the user name and password that it is given" in str(caught.value)
            assert "correct them in its URL" in str(caught.value)
            assert not await backend.health_check()
        # and whoever looks for lost workers does not take the other server for the whole fleet
        sweeper = Sweeper(fleet.settings, fleet.result_prefix, fleet.refusals)
        sweeper.rest()
        for _ in range(2):
            with pytest.raises(redis.AuthenticationError):
                sweeper.sweep()
        sweeper.close()


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_worker_that_is_not_let_in_for_good_ends_with_a_code_that_is_not_0(server: RedisServer) -> None:
    # given a worker that asks its broker once more before it gives up, as Celery's setting has it
    with RedisServer() as broker:
        env = {"STBASS_BROKER_URL": broker.url, "STBASS_RESULT_BACKEND": server.url, "TEST_CONNECTION_TRIES": "1"}
        async with Worker(APP, "anthropic", env=env) as worker:
            # when the broker wants another password from now on
            admin = redis.Redis.from_url(broker.url, single_connection_client=True)
            admin.config_set("requirepass", "elsewhere")
            admin.execute_command("AUTH", "elsewhere")
            for kind in ("normal", "pubsub"):
                admin.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
            admin.close()
            # then the worker says why it ends, and that it has failed
            await until(lambda: worker.exit_code is not None, timeout=60)
            assert worker.exit_code == 1
            assert "Authentication required" in worker.log


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_a_server_that_loads_its_data_for_seconds_is_waited_for(tmp_path: Path) -> None:
    # given a server that needs seconds for its data, and says so after each 2 MiB
    slowly = ("--key-load-delay", "1500", "--rdbcompression", "no")
    with RedisServer(persistent=True, args=slowly) as server, workers_on(server, "anthropic") as fleet:
        server.command("EVAL", "for i = 1, 3000 do redis.call('SET', 'k' .. i, string.rep('x', 3000)) end", 0)
        server.command("BGREWRITEAOF")
        rewriting = ("aof_rewrite_in_progress", "aof_rewrite_scheduled")
        await until(lambda: not any(server.command("INFO", "persistence")[one] for one in rewriting), timeout=30)
        loop = asyncio.get_running_loop()
        restarting: list[asyncio.Future[RedisServer]] = []

        def begin() -> None:
            server.kill()
            loop.call_soon_threadsafe(lambda: restarting.append(loop.run_in_executor(None, server.restart)))

        # when it is killed, and started again
        result = await _through_it(server, fleet, tmp_path, begin, "Redis is loading the dataset", lambda: None)
        await restarting[0]
    assert [item.value for item in result.results] == [1] * COUNT
