"""Processes on a Ray cluster that is really there, with actors that really die."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from stbass import Budget
from stbass.dataflow import (
    AsyncioConnector,
    Component,
    ConnectorSpec,
    LocalProcess,
    RayConnector,
    RayProcess,
    Resource,
    Status,
)
from stbass.dataflow.distributed import ray_actor, ray_cluster
from stbass.dataflow.distributed.groups import Group
from stbass.dataflow.model.components import steps_of
from stbass.dataflow.state import SqliteStateBackend
from stbass.errors import (
    AdmissionError,
    BudgetExceeded,
    JobFinishedError,
    NotTransportable,
    ProcessCancelled,
    WorkerLostError,
)
from tests.os_processes import wait_until_gone
from tests.support import dataflow_ray_job
from tests.support.dataflow import Add, Count, Endless, Keep
from tests.support.dataflow_graphs import SHAPES, came_out
from tests.support.dataflow_log import Log
from tests.support.dataflow_remote import (
    Ahead,
    Behind,
    Given,
    Hungry,
    Oops,
    Raises,
    Sends,
    Sleeps,
    Where,
    Wrong,
    demanding,
    is_satisfied,
    triple,
)
from tests.support.living import Spending

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[str]:
    """A cluster on this machine: its address."""
    ray.init(
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=100 * 2**20,
        _node_ip_address="127.0.0.1",
    )
    try:
        yield ray.get_runtime_context().gcs_address
    finally:
        ray.shutdown()


def on_ray(components: Iterable[Component], *connections: tuple[str, str], maxsize: int = 64, **options: Any) -> Any:
    """A process on Ray, its connections as pairs of text."""
    connectors = [RayConnector(ConnectorSpec(source, target), maxsize=maxsize) for source, target in connections]
    return RayProcess(list(components), connectors, **options)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    """A log for one test."""
    with Log(tmp_path / "log") as made:
        yield made


# What is used ------------------------------------------------------------------------------------


async def test_a_budget_ends_it() -> None:
    connections = (("source.y", "spends.x"), ("spends.y", "sink.x"))
    async with (
        asyncio.timeout(60),
        on_ray(
            [Endless(name="source"), Spending(name="spends"), Keep(name="sink")], *connections, maxsize=2
        ) as process,
    ):
        with pytest.raises(ExceptionGroup) as caught:
            await process.run(budget=Budget(tokens=100))
        assert [type(one) for one in caught.value.exceptions] == [BudgetExceeded]
        assert process.usage.tokens >= 100
    parts = [Count(9, name="source"), Spending(name="spends"), Keep(name="sink")]
    async with asyncio.timeout(60), on_ray(parts, *connections) as process:
        await process.run(budget=Budget(tokens=91))
        assert process.usage.tokens == 90


# What comes out ----------------------------------------------------------------------------------


async def test_the_same_comes_out_as_on_one_event_loop() -> None:
    # given
    shape = "events"
    components, connections = SHAPES[shape](60)
    connectors = [AsyncioConnector(ConnectorSpec(*ends), maxsize=4) for ends in connections]
    async with asyncio.timeout(30), LocalProcess(components, connectors) as process:
        await process.run()
        expected = came_out(shape, process)
    # when
    components, _ = SHAPES[shape](60)
    placement = {"rest": "a", "sink": "c"}
    placement = {name: group for name, group in placement.items() if name in [one.name for one in components]}
    async with asyncio.timeout(30), RayProcess(components, connectors, placement=placement) as there:
        await there.run()
    # then
    assert came_out(shape, there) == expected
    assert len(expected) > 8
    assert {one.status for one in there.components.values()} == {Status.COMPLETED}


@pytest.mark.slow
async def test_steps_and_then_to_the_end() -> None:
    process = on_ray(
        [Count(5, name="a"), Add(10, name="b"), Where(name="w"), Keep(name="sink")],
        ("a.y", "b.x"),
        ("b.y", "w.x"),
        ("w.y", "sink.x"),
        placement={"a": "one", "b": "one"},
    )
    sink: Any = process.components["sink"]
    async with asyncio.timeout(30), process:
        assert str(process.status) == "init"
        await process.step()
        assert (sink.got, process.status) == ([10], Status.WAITING)
        await process.step()
        assert sink.got == [10, 11]
        assert process.components["b"].y == 11
        assert process.components["b"].x == 1
        await process.run()
        assert sink.got == [10, 11, 12, 13, 14]
        assert process.status is Status.COMPLETED
        with pytest.raises(JobFinishedError):
            await process.run()
    pid = process.components["w"].pid
    assert pid != os.getpid()
    assert wait_until_gone(pid)
    # and a second time from the beginning, in new actors
    async with asyncio.timeout(30), process:
        await process.run()
    assert sink.got == [10, 11, 12, 13, 14]
    assert process.components["w"].pid not in (pid, os.getpid())


async def test_what_a_demanding_model_asks_for(tmp_path: Path) -> None:
    components, connections, groups = demanding()
    path = tmp_path / "made"
    components += [
        Ahead(path, name="ahead"),
        Behind(path, 60, name="behind"),
        triple.component(name="triple"),
        Given({"path": Path("x"), "colour": None}, parameters={"own": 1}, name="given"),
        Count(3, name="count"),
        Keep(name="triples"),
    ]
    connections += [("ahead.y", "behind.x"), ("count.y", "triple.x"), ("triple.y", "triples.x")]
    groups |= {"ahead": "one", "triples": "one", "behind": "two", "count": "two", "triple": "two", "given": "one"}
    process = on_ray(
        components, *connections, placement=groups, maxsize=5, parameters={"all": 2, "own": 0}
    )  # fmt: skip
    async with asyncio.timeout(30), process:
        await process.run()
        is_satisfied(process)
    assert process.components["triples"].got == [0, 3, 6]
    assert process.components["given"].given == {"path": Path("x"), "colour": None}
    assert process.components["given"].all_parameters == {"all": 2, "own": 1}
    # nobody was further ahead than two connectors and a step hold
    assert process.components["behind"].taken == 60
    assert 1 < process.components["behind"].most <= 2 * 5 + 2


# How it ends otherwise ---------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_failure_ends_the_others_at_once(log: Log) -> None:
    process = on_ray(
        [Endless(name="a"), Raises(7, log=log.path, name="b"), Sleeps(log.path, name="c")],
        ("a.y", "b.x"),
        ("a.y", "c.x"),
    )
    async with asyncio.timeout(30), process:
        with pytest.raises(ExceptionGroup) as caught:
            await process.run()
        (error,) = caught.value.exceptions
        assert type(error) is Oops
        assert error.code == 7
        assert error.__notes__ == ["component 'b', step 8"]
        assert process.status is Status.FAILED
        assert str(process.components["b"].status) == "failed"
    what = {name: [what for other, what, _ in log.read() if other == name] for name in "bc"}
    assert what["b"] == ["init", "destroy"]
    # The failure may come before the other's step has begun, and then there is nothing to cancel.
    assert what["c"] in (["init", "asleep", "cancelled", "destroy"], ["init", "destroy"])
    assert all(wait_until_gone(int(pid)) for _, _, pid in log.read())


async def test_cancelled_from_outside(log: Log) -> None:
    process = on_ray([Endless(name="a"), Sleeps(log.path, name="b")], ("a.y", "b.x"))
    async with asyncio.timeout(30), process:
        running = asyncio.ensure_future(process.run())
        await log.until("asleep")
        process.cancel()
        with pytest.raises(ProcessCancelled):
            await running
        assert process.status is Status.STOPPED
    assert [what for _, what, _ in log.read()] == ["init", "asleep", "cancelled", "destroy"]


@pytest.mark.parametrize(
    ("source", "kind", "text"),
    [
        (Wrong(name="a"), TypeError, "component 'a', output 'y': expected int, got str"),
        (Sends("stranger", name="a"), NotTransportable, "component 'a', output 'y': a value cannot travel to 'b'"),
    ],
)
async def test_a_value_that_does_not_fit(source: Component, kind: type[Exception], text: str) -> None:
    process = on_ray([source, Keep(name="b")], ("a.y", "b.x"))
    async with asyncio.timeout(30), process:
        with pytest.raises(ExceptionGroup) as caught:
            await process.run()
    (error,) = caught.value.exceptions
    assert isinstance(error, kind)
    assert str(error).startswith(text)


@pytest.mark.slow
def test_without_a_cluster_it_starts_one_and_ends_it() -> None:
    program = """
import asyncio, ray
from stbass.dataflow import AsyncioConnector, ConnectorSpec, RayProcess
from tests.support.dataflow import Count, Keep

async def main():
    sink = Keep(name="sink")
    async with RayProcess([Count(3, name="a"), sink], [AsyncioConnector(ConnectorSpec("a.y", "sink.x"))]) as process:
        assert ray.is_initialized()
        await process.run()
    assert not ray.is_initialized()
    print(sink.got)

asyncio.run(main())
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "[0, 1, 2]\n"), done.stderr


# Room --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_of_one_program_do_not_end_each_other() -> None:
    """At once, and one that outlives the other: the last one leaves the cluster."""
    code = """
import asyncio, ray
from stbass.dataflow import RayConnector, RayProcess, ConnectorSpec
from tests.support.dataflow import Count, Keep

def made(name, n):
    parts = [Count(n, name="count"), Keep(name="keep")]
    wires = [RayConnector(ConnectorSpec(source="count.y", target="keep.x"))]
    return RayProcess(parts, wires, name=name)

async def main():
    first, second = made("first", 3), made("second", 5)
    await asyncio.gather(first.init(), second.init())
    await first.run()
    await first.destroy()
    assert ray.is_initialized()
    await second.run()
    print(second.components["keep"].got)
    await second.destroy()
    assert not ray.is_initialized()

asyncio.run(main())
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.stdout == "[0, 1, 2, 3, 4]\n", done.stderr


@pytest.mark.slow
async def test_too_little_room_is_told_and_none_is_taken() -> None:
    # given: 4 processors; 3 of them are enough for one, and not for two
    process = on_ray(
        [Endless(name="a"), Hungry(name="b"), Hungry(name="c")],
        ("a.y", "b.x"),
        ("b.y", "c.x"),
        admission_timeout=0.5,
    )
    async with asyncio.timeout(20):
        with pytest.raises(AdmissionError) as caught:
            await process.init()
        assert caught.value.needed == {"CPU": 6}
        assert caught.value.free == {"CPU": 4}
        assert "needed CPU: 6; free CPU: 4" in str(caught.value)
        await process.destroy()
        # when: there is enough for one, so nothing has been left taken
        smaller = on_ray([Count(3, name="a"), Hungry(name="b"), Keep(name="c")], ("a.y", "b.x"), ("b.y", "c.x"))
        async with smaller:
            await smaller.run()
    assert smaller.components["c"].got == [0, 1, 2]


# Checkpoints -------------------------------------------------------------------------------------

N = 800


def expected_of_job() -> list[Any]:
    """What the job gives if nothing happens."""

    async def whole() -> list[Any]:
        components, _ = SHAPES["chain"](N)
        numbers, sums, _, sink = components
        ends = [("a.y", "b.x"), ("b.y", "sink.x")]
        connectors = [AsyncioConnector(ConnectorSpec(*one)) for one in ends]
        async with LocalProcess([numbers, sums, sink], connectors) as process:
            await process.run()
            return came_out("chain", process)

    return asyncio.run(whole())


@pytest.mark.slow
def test_a_killed_program_goes_on_where_it_was(cluster: str, tmp_path: Path) -> None:
    # given
    pids = tmp_path / "pids"
    arguments = [cluster, str(tmp_path / "state.db"), "Job_killed00", str(N), str(pids)]
    command = [sys.executable, "-m", "tests.support.dataflow_ray_job", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert [first.stdout.readline() for _ in range(3)] == [f"checkpoint {n}\n" for n in (1, 2, 3)]
        # when
        first.kill()
    # then: its actors die with it
    (init,) = [line.split() for line in pids.read_text().splitlines()]
    assert wait_until_gone(int(init[2]))
    # and another one goes on, from that checkpoint at least
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    *checkpoints, result = done.stdout.splitlines()
    assert int(checkpoints[0].split()[1]) > 3
    assert json.loads(result) == expected_of_job()


@pytest.mark.slow
async def test_a_killed_actor_is_noticed_at_once_and_the_job_goes_on_where_it_was(tmp_path: Path) -> None:
    # given
    pids, safe = tmp_path / "pids", asyncio.Event()

    class Watched(dataflow_ray_job.Printing):
        async def _committed(self, n: int) -> None:
            await super()._committed(n)
            if n == 4:
                safe.set()

    def job() -> dataflow_ray_job.Printing:
        return dataflow_ray_job.make(N, pids, SqliteStateBackend(tmp_path / "state.db", job_id="Job_killed01"), Watched)

    async with asyncio.timeout(60):
        async with job() as process:
            running = asyncio.ensure_future(process.run())
            await safe.wait()
            # when
            os.kill(int(pids.read_text().split()[2]), signal.SIGKILL)
            with pytest.raises(ExceptionGroup) as caught:
                await running
            (error,) = caught.value.exceptions
            assert isinstance(error, WorkerLostError)
            assert "the Ray actor with 'w' died" in str(error)
            assert process.status is Status.FAILED
            assert {name: str(one.status) for name, one in process.components.items()} == {
                "a": "stopped",
                "b": "stopped",
                "w": "failed",
                "sink": "stopped",
            }
        # then
        async with job() as again:
            await again.run()
            assert steps_of(again.components["a"]) == N
            sink: Any = again.components["sink"]
    assert sink.got == await asyncio.to_thread(expected_of_job)


def test_what_a_group_needs_of_a_cluster() -> None:
    parts = [
        Keep(name="a", resources=Resource(cpu="250m", memory="10Mi", resources={"licence": 1})),
        Keep(name="b", resources=Resource(cpu=1, gpu=0.5, resources={"licence": 1})),
        Keep(name="c"),
    ]
    assert ray_cluster.needs_of(Group("g", tuple(parts))) == Resource(
        cpu=1.25, gpu=0.5, memory=10 * 2**20, resources={"licence": 2}
    )


def test_what_is_in_all_of_its_modules_exists() -> None:
    for module in (ray_actor, ray_cluster):
        assert all(hasattr(module, name) for name in module.__all__)
