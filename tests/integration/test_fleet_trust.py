"""Faults of the broker, of the server and of clocks under which everything is run, and run once."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import random
import time
from collections import Counter
from contextlib import ExitStack, aclosing
from pathlib import Path
from typing import Any

import pytest

from stbass import PAR, PLACED_PAR, SEQ, Chan, LocalBackend, Placement
from stbass.backends.celery import CeleryBackend
from stbass.errors import DeadlineExceeded
from stbass.result import FailurePolicy
from stbass.testing import RedisServer, Worker
from tests.integration.conftest import APP, Fleet
from tests.support.agents import Fail, Give, Mark, noop
from tests.support.backends import registry_of
from tests.support.nested import Add, Count, Double, Merge, Send
from tests.support.waiting import until

THERE = Placement(endpoint="trust")
ELSEWHERE = Placement(endpoint="elsewhere")
CLOCK = str(Path(__file__).parents[1] / "support" / "clock")


def _noted(log: Path) -> Counter[str]:
    """How often a process began, and how often it ended."""
    return Counter(line.split()[0] for line in log.read_text().splitlines()) if log.exists() else Counter()


@pytest.mark.slow
async def test_a_process_that_lasts_longer_than_the_brokers_visibility_timeout_runs_once(
    server: RedisServer, tmp_path: Path
) -> None:
    log, fleet = tmp_path / "log", Fleet(server, {})
    env = {**fleet.env, "TEST_LEASE": "2", "TEST_OPTIONS": json.dumps({"visibility_timeout": 2})}
    async with aclosing(CeleryBackend(fleet.app(), lease=2.0)) as backend:
        # A worker looks every ten seconds for what it may hand out again.
        with Worker(APP, "trust", env=env), Worker(APP, "trust", env=env):
            processes = [(Mark(str(log), seconds=14), THERE) for _ in range(20)]
            result = await PLACED_PAR(*processes, registry=registry_of(backend), deadline=120).run()
    assert result.is_ok
    assert _noted(log) == {"started": 20, "ended": 20}
    assert {one.run.attempt for one in result.results if one.run} == {1}


@pytest.mark.parametrize("count", [150, pytest.param(500, marks=pytest.mark.slow)])
async def test_a_server_that_is_killed_and_comes_back_with_its_data_loses_and_doubles_nothing(
    tmp_path: Path, count: int
) -> None:
    log = tmp_path / "log"
    with RedisServer(persistent=True) as server:
        fleet = Fleet(server, {})
        async with aclosing(CeleryBackend(fleet.app(), lease=5.0)) as backend:
            with Worker(APP, "trust", env={**fleet.env, "TEST_LEASE": "5"}, concurrency=100) as worker:
                processes = [(Mark(str(log), seconds=0.3), THERE) for _ in range(count)]
                running = asyncio.ensure_future(PLACED_PAR(*processes, registry=registry_of(backend)).run())
                await until(lambda: _noted(log)["ended"] >= 50, timeout=60)
                server.kill()
                await asyncio.to_thread(server.restart)
                result = await asyncio.wait_for(running, 120)
                assert worker.running
    assert [one.is_ok for one in result.results] == [True] * count
    assert _noted(log) == {"started": count, "ended": count}


@pytest.mark.slow
@pytest.mark.parametrize("wrong_by", [60, 3600])
async def test_the_clocks_of_workers_may_be_wrong(server: RedisServer, tmp_path: Path, wrong_by: int) -> None:
    log, fleet = tmp_path / "log", Fleet(server, {})
    path = os.pathsep.join([CLOCK, str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    env = {**fleet.env, "TEST_LEASE": "2", "PYTHONPATH": path}
    async with aclosing(CeleryBackend(fleet.app(), lease=2.0, grace=2.0)) as backend:
        registry = registry_of(backend)

        async def run(*processes: Any, deadline: float | None = 60.0) -> Any:
            composition = PLACED_PAR(*processes, on_failure=FailurePolicy.COLLECT, registry=registry, deadline=deadline)
            return (await composition.run()).results

        with ExitStack() as stack:
            # given one worker whose clock is ahead, and one whose clock is behind
            ahead, behind = (
                stack.enter_context(Worker(APP, place.endpoint or "", env={**env, "TEST_CLOCK": str(clock)}))
                for place, clock in ((THERE, wrong_by), (ELSEWHERE, -wrong_by))
            )
            # then they run what is sent to them, and from one to the other
            tree = SEQ(noop, PLACED_PAR((Give(2), ELSEWHERE)))
            assert [one.value for one in await run((Give(1), THERE), (tree, THERE))] == [1, [2]]
            # and deadlines are those of the producer
            for place in (THERE, ELSEWHERE):
                began = time.monotonic()
                [late] = await run((Mark(str(log)), place), deadline=3.0)
                assert 2.5 < time.monotonic() - began < 20
                assert isinstance(late.failure.error, DeadlineExceeded)
                assert late.failure.error.phase == "running"
            # and of a worker that dies everything goes on
            before = _noted(log)["started"]
            running = asyncio.ensure_future(run((Mark(str(log), seconds=2), THERE), deadline=None))
            await until(lambda: _noted(log)["started"] == before + 1, timeout=30)
            ahead.kill()
            await asyncio.to_thread(ahead.start)
            [again] = await asyncio.wait_for(running, 60)
            assert (again.value, again.run.attempt) == ("done", 2)
            assert behind.running


def _random_tree(dice: random.Random, depth: int, fails: list[int]) -> Any:
    """A composition; with as many processes in it that fail as ``fails`` has left."""
    kind = dice.choice(["leaf", "seq", "par", "placed", "talk", "choose"] if depth else ["leaf", "leaf", "talk"])
    inner = functools.partial(_random_tree, dice, depth - 1, fails)
    if kind == "leaf":
        if fails and dice.random() < 0.2:
            return Fail(f"checkpoint {fails.pop()}")
        return Give(dice.randint(0, 99))
    if kind == "seq":
        return SEQ(noop, *(inner() for _ in range(dice.randint(1, 2))))
    if kind == "par":
        return PAR(*(inner() for _ in range(dice.randint(1, 3))))
    if kind == "placed":
        return PLACED_PAR(*((inner(), dice.choice([THERE, ELSEWHERE])) for _ in range(dice.randint(1, 3))))
    left, right = Chan(int, name=new_name(dice)), Chan(int, name=new_name(dice))
    count = dice.randint(1, 4)
    if kind == "talk":
        return PLACED_PAR(
            (Count(count).with_channels(sink=left), dice.choice([THERE, ELSEWHERE])),
            (Double().with_channels(source=left, sink=right), dice.choice([THERE, ELSEWHERE])),
            (Add().with_channels(source=right), dice.choice([THERE, ELSEWHERE])),
        )
    ends = {f"{side} end": Chan(int, name=new_name(dice)) for side in ("left", "right")}
    merge = Merge(count + 2).with_channels(left=left, right=right, **ends)
    return PLACED_PAR(
        (Send(count).with_channels(sink=left, end=ends["left end"]), dice.choice([THERE, ELSEWHERE])),
        (Send(2).with_channels(sink=right, end=ends["right end"]), dice.choice([THERE, ELSEWHERE])),
        (merge, dice.choice([THERE, ELSEWHERE])),
    )


def new_name(dice: random.Random) -> str:
    """Of a channel."""
    return f"channel-{dice.getrandbits(60)}"


def _outcome(result: Any) -> Any:
    """What came of a composition, without what depends on who was quicker."""
    if result.is_ok:
        return result.value
    return {line.partition(":")[0] for failure in result.failures for line in failure.leaves or (failure.summary,)}


@pytest.mark.parametrize("seeds", [10, pytest.param(60, marks=pytest.mark.slow)])
async def test_random_compositions_have_the_same_outcome_here_and_on_a_fleet(server: RedisServer, seeds: int) -> None:
    fleet = Fleet(server, {})
    here: list[Any] = []
    there: list[Any] = []
    async with aclosing(CeleryBackend(fleet.app())) as backend:
        with (
            Worker(APP, "trust", env=fleet.env, include=["tests.support.nested"]),
            Worker(APP, "elsewhere", env=fleet.env, include=["tests.support.nested"]),
        ):
            for seed in range(seeds):
                for registry, outcomes in ((registry_of(LocalBackend()), here), (registry_of(backend), there)):
                    dice = random.Random(seed)
                    fails = [1] if seed % 2 else []
                    tree = PLACED_PAR((_random_tree(dice, 3, fails), THERE), registry=registry, deadline=60.0)
                    outcomes.append((seed, _outcome(await tree.run())))
    assert there == here
    assert {type(outcome) for _, outcome in here} == {list, set}


@pytest.mark.slow
async def test_thousands_that_wait_cost_little_and_the_worker_answers(server: RedisServer) -> None:
    count, fleet = 5000, Fleet(server, {})
    app = fleet.app()
    async with aclosing(CeleryBackend(app)) as backend:
        with Worker(APP, "trust", env=fleet.env, concurrency=count) as worker:
            warm = [(Give(1, seconds=0.0), THERE)] * 200
            assert (await PLACED_PAR(*warm, registry=registry_of(backend)).run()).is_ok
            before = _memory(worker.pid)
            waiting = [(Give(1, seconds=600.0), THERE)] * count
            running = asyncio.ensure_future(PLACED_PAR(*waiting, registry=registry_of(backend)).run())
            await until(lambda: server.command("ZCARD", "stbass:leases") == count, timeout=120)
            assert (_memory(worker.pid) - before) / count < 20 * 1024
            assert await asyncio.to_thread(app.control.ping, timeout=5.0, limit=1)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await until(lambda: server.command("ZCARD", "stbass:leases") == 0, timeout=60)


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_many_through_one_worker_leave_nothing_behind(server: RedisServer) -> None:
    server.command("FLUSHALL")  # what the tests before have left for its time
    batches, count, fleet = 20, 1000, Fleet(server, {})
    async with aclosing(CeleryBackend(fleet.app())) as backend:
        with Worker(APP, "trust", env=fleet.env, concurrency=200) as worker:
            memory, connections = [], []
            for _ in range(batches):
                batch = [(Give(1, seconds=0.0), THERE)] * count
                assert (await PLACED_PAR(*batch, registry=registry_of(backend)).run()).is_ok
                memory.append((_memory(worker.pid), _memory(os.getpid())))
                connections.append(int(server.command("INFO", "clients")["connected_clients"]))
            await until(lambda: server.command("HLEN", "unacked") == 0, timeout=30)
            names = fleet.keys()
            kept = [key for key in names if not key.startswith(("stbass:group:", "stbass:worker:"))]
    assert kept == []
    half = batches // 2
    for side in (0, 1):
        assert memory[-1][side] < 1.1 * memory[half][side]
    assert max(connections[half:]) < max(connections[:half]) + half  # a pool may still grow by one or two


def _memory(pid: int) -> int:
    """Bytes that a Python process has in memory."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024
