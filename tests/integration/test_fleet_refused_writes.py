"""A server that answers, and refuses what it is asked for some seconds: it is waited out, and nothing runs twice."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from stbass._values.endpoint import Placement
from stbass.backends.celery import CeleryBackend
from stbass.placement import PLACED_PAR, BackendRegistry
from stbass.result import FailurePolicy
from stbass.testing import RedisServer, Worker
from tests.integration.conftest import APP, Fleet
from tests.support.agents import Mark, Steps, noop
from tests.support.refusals import REFUSALS
from tests.support.waiting import until

LEASE = 2.0
SECONDS = 3.0
"""For so long the server refuses: longer than a lease."""


QUICK = ("OOM",)


@pytest.fixture
def refusing(tmp_path: Path) -> Iterator[Fleet]:
    """A fleet with two workers that will be busy and one that is idle, and a server that is to be harmed."""
    folder = tmp_path / "data"
    folder.mkdir()
    with RedisServer(data_dir=folder) as server:
        env = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url, "TEST_LEASE": str(LEASE)}
        with (
            Worker(APP, "q", env=env, concurrency=30) as one,
            Worker(APP, "q", env=env, concurrency=30) as two,
            Worker(APP, "idle", env=env) as idle,
        ):
            yield Fleet(server, {"one": one, "two": two, "idle": idle})


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in REFUSALS]
)
async def test_a_server_that_refuses_for_some_seconds_is_waited_out(refusing: Fleet, tmp_path: Path, name: str) -> None:
    # given 50 processes that run on two workers
    fault, log = REFUSALS[name], tmp_path / "log"
    backend = CeleryBackend(refusing.app(stbass_lease=LEASE), lease=LEASE)
    registry = BackendRegistry()
    registry.register("*", backend)
    place = Placement(endpoint="q")
    processes = [*(Mark(str(log), seconds=2) for _ in range(25)), *(Steps(8, 0.25) for _ in range(25))]
    running = asyncio.create_task(
        PLACED_PAR(
            *((process, place) for process in processes), on_failure=FailurePolicy.COLLECT, registry=registry
        ).run()
    )
    await until(lambda: log.exists() and len(log.read_text().splitlines()) == 25)
    # when the server refuses for longer than a lease, and one more is sent meanwhile
    with redis.Redis.from_url(refusing.server.url) as client:
        fault.begin(client, tmp_path / "data")
        late = asyncio.create_task(
            PLACED_PAR((noop, Placement(endpoint="idle")), on_failure=FailurePolicy.COLLECT, registry=registry).run()
        )
        await asyncio.sleep(SECONDS)  # this is how long it refuses
        fault.end(client, tmp_path / "data")
        # then all end, none was run twice, and nobody has ended who should not
        async with asyncio.timeout(20):
            outcome, more = await running, await late
    assert [result.is_ok for result in (*outcome.results, *more.results)] == [True] * 51
    assert Counter(result.run.attempt for result in outcome.results if result.run) == {1: 50}
    assert Counter(line.split()[0] for line in log.read_text().splitlines()) == {"started": 25, "ended": 25}
    assert {key: worker.running for key, worker in refusing.workers.items()} == dict.fromkeys(refusing.workers, True)
    async with asyncio.timeout(10):
        after = await PLACED_PAR(
            *((noop, Placement(endpoint=queue)) for queue in ("q", "idle")), registry=registry
        ).run()
    assert len(after.results) == 2
    # and it was told once, and once when it was over
    told = [line for line in refusing.workers["one"].log.splitlines() if "refuses for now" in line]
    over = [line for line in refusing.workers["one"].log.splitlines() if "is well again" in line]
    assert 1 <= len(told) <= 8, told
    assert any(re.search(fault.words, line) for line in told), told
    assert 1 <= len(over) <= 8, over
    for worker in refusing.workers.values():
        assert "Traceback" not in worker.log
        assert worker.log.count("cannot renew the bindings") <= 1
    await backend.aclose()


async def test_a_message_that_comes_again_when_the_server_is_well_waits_for_who_has_it(
    refusing: Fleet, tmp_path: Path
) -> None:
    # given a process whose lease could not be renewed, because the server refuses
    fault, log = REFUSALS["OOM"], tmp_path / "log"
    backend = CeleryBackend(refusing.app(stbass_lease=LEASE), lease=LEASE)
    registry = BackendRegistry()
    registry.register("*", backend)
    process = Mark(str(log), seconds=3 * LEASE)
    running = asyncio.create_task(PLACED_PAR((process, Placement(endpoint="q")), registry=registry).run())
    await until(lambda: log.exists() and log.read_text().count("started") == 1)
    with redis.Redis.from_url(refusing.server.url) as client:
        [unacked] = client.hvals("unacked")
        message = json.dumps(json.loads(unacked)[0])
        fault.begin(client, tmp_path / "data")
        await until(lambda: client.zcount("stbass:leases", "-inf", 1000 * time.time()) == 1)
        # when it is well again, the message is in the queue again, and the other worker is the first to say a word
        [run] = client.keys("stbass:run:*")
        [has_it] = [one for one in refusing.workers.values() if one.name.encode() == client.hget(run, "worker")]
        os.kill(has_it.pid, signal.SIGSTOP)
        try:
            fault.end(client, tmp_path / "data")
            client.lpush("q", message)
            await until(lambda: client.llen("q") == 0)
        finally:
            os.kill(has_it.pid, signal.SIGCONT)
        async with asyncio.timeout(60):
            outcome = await running
    # then it has run once
    assert [result.run.attempt for result in outcome.results if result.run] == [1]
    assert Counter(line.split()[0] for line in log.read_text().splitlines()) == {"started": 1, "ended": 1}
    await backend.aclose()
