"""A real Sentinel that makes the replica the master while processes run."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from stbass import PLACED_PAR
from stbass._process.context import ProcessContext
from stbass._values.endpoint import Placement
from stbass._values.policy import FailurePolicy
from stbass.backends.celery import CeleryBackend, make_app
from stbass.placement import BackendRegistry
from stbass.testing import RedisServer, Worker
from stbass.testing.redis_server import find_redis_server, free_port
from tests.integration.conftest import APP
from tests.support.agents import Give
from tests.support.sentinel import answers
from tests.support.waiting import until

pytestmark = pytest.mark.slow

MASTER = {"master_name": "mymaster"}


class Watched:
    """A master and its replica, and the Sentinel that watches them."""

    def __init__(self, master: RedisServer, port: int) -> None:
        self.master = master
        self.url = f"sentinel://127.0.0.1:{port}/0"
        self.sentinel: Any = redis.Redis(port=port, decode_responses=True, protocol=2)


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    async with AsyncExitStack() as stack:
        master = await stack.enter_async_context(RedisServer())
        following = ("--replicaof", f"127.0.0.1 {master.port}", "--repl-diskless-sync-delay", "0")
        replica = await stack.enter_async_context(RedisServer(args=following))
        await until(lambda: "master_link_status:up" in str(_raw_replication(replica)))
        port = free_port()
        config = tmp_path / "sentinel.conf"
        config.write_text(
            f"port {port}\n"
            f"sentinel monitor mymaster 127.0.0.1 {master.port} 1\n"
            "sentinel down-after-milliseconds mymaster 1500\n"
            "sentinel failover-timeout mymaster 5000\n"
        )
        process = await asyncio.create_subprocess_exec(
            str(find_redis_server()), str(config), "--sentinel", stdout=asyncio.subprocess.DEVNULL
        )
        try:
            await until(lambda: answers(port))
            made = Watched(master, port)
            await until(lambda: made.sentinel.execute_command("SENTINEL", "SLAVES", "mymaster"), timeout=30)
            yield made
            made.sentinel.close()
        finally:
            process.kill()
            await process.wait()


def _raw_replication(server: RedisServer) -> str:
    return "".join(f"{name}:{value}\n" for name, value in server.command("INFO", "replication").items())


@pytest.mark.parametrize("how", ["the master is killed", "the master steps back"])
async def test_a_failover_loses_nothing(watched: Watched, how: str) -> None:
    app = make_app(
        "tests",
        broker_url=watched.url,
        result_backend=watched.url,
        broker_transport_options=MASTER,
        result_backend_transport_options=MASTER,
        stbass_lease=2.0,
    )
    backend = CeleryBackend(app, lease=2.0)
    registry = BackendRegistry()
    registry.register("*", backend)
    env = {"STBASS_BROKER_URL": watched.url, "STBASS_RESULT_BACKEND": watched.url, "TEST_MASTER": "mymaster"}
    workers = [Worker(APP, "q", env={**env, "TEST_LEASE": "2"}) for _ in range(2)]
    async with AsyncExitStack() as stack:
        for worker in workers:
            await stack.enter_async_context(worker)
        stack.push_async_callback(backend.aclose)
        place = Placement(endpoint="q")
        placed = [(Give(n, seconds=5.0), place) for n in range(200)]
        composition = PLACED_PAR(*placed, registry=registry, on_failure=FailurePolicy.COLLECT, deadline=60.0)
        running = asyncio.create_task(composition.run())
        await until(lambda: watched.master.command("ZCARD", "stbass:leases") == 200)
        if how == "the master is killed":
            watched.master.kill()
        else:
            watched.sentinel.execute_command("SENTINEL", "FAILOVER", "mymaster")
        results = (await asyncio.wait_for(running, 90)).results
        failed = Counter(repr(result.failure.error) for result in results if not result.is_ok)
        assert (len(results), failed) == (200, Counter())
        assert [result.value for result in results] == list(range(200))
        assert [worker.exit_code for worker in workers] == [None, None]
        # And they go on afterwards.
        async with asyncio.timeout(30):
            alone = CeleryBackend(app, queue="q", lease=2.0)
            again = await asyncio.gather(*(alone.execute(Give(n), ProcessContext("give")) for n in range(20)))
            assert [result.value for result in again] == list(range(20))
