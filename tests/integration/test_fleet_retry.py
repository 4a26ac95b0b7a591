"""A retry policy over processes on the fleet."""

from __future__ import annotations

import asyncio

from stbass._values.endpoint import Placement
from stbass.backends.celery import CeleryBackend, make_app
from stbass.placement import PLACED_PAR, BackendRegistry
from stbass.result import FailurePolicy
from stbass.testing import RedisServer, Worker
from tests.integration.conftest import APP, Fleet
from tests.support.agents import Steps, Stubborn
from tests.support.backends import registry_of
from tests.support.waiting import until


async def test_each_attempt_knows_which_it_is(fleet: Fleet, registry: BackendRegistry) -> None:
    result = await PLACED_PAR(
        (Stubborn(3), Placement(endpoint="anthropic")),
        on_failure=FailurePolicy.retry(4, "constant", 0.01),
        registry=registry,
    ).run()
    assert result.value == [{"attempt": 3}]


async def test_what_a_lost_worker_left_is_found_by_the_next_attempt() -> None:
    with RedisServer() as server:
        env = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url, "TEST_LEASE": "0.5"}
        backend = CeleryBackend(make_app("tests", broker_url=server.url), lease=0.5, on_worker_lost="fail")
        registry = registry_of(backend, "dies")
        with Worker(APP, "dies", env=env) as worker:
            composition = PLACED_PAR(
                (Steps(40, 0.05), Placement(endpoint="dies")),
                on_failure=FailurePolicy.retry(2, "constant", 0.01),
                registry=registry,
            )
            running = asyncio.create_task(composition.run())
            await until(lambda: _checkpoint(server) >= 5)
            await asyncio.to_thread(worker.kill)
            with Worker(APP, "dies", env=env):
                async with asyncio.timeout(20):
                    result = await running
        [value] = result.value
        assert value["attempt"] == 2
        assert value["from"] >= 5
        await backend.aclose()


def _checkpoint(server: RedisServer) -> int:
    names = server.command("KEYS", "stbass:run:*")
    return int(server.command("HGET", names[0], "checkpoint") or 0) if names else 0
