"""Task lists on real workers."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from stbass._engine.registry import BackendRegistry
from stbass._values.endpoint import Placement
from stbass._values.policy import FailurePolicy
from stbass.backends.celery import CeleryBackend
from stbass.errors import ConfigurationError, DeadlineExceeded, NotTransportable, ProcessCancelled, ProcessRefused
from stbass.tasklist import Process
from tests.integration.conftest import Fleet
from tests.support import tasks, tasks_listed
from tests.support.backends import registry_of
from tests.support.waiting import until

ANTHROPIC = Placement(endpoint="anthropic")
LOCAL = Placement(endpoint="local:8080")
STRATEGIES = ["sequential", "parallel", "hybrid"]
INCLUDE = ["tests.support.tasks", "tests.support.tasks_listed"]
FUNCTIONS = ["tests.support.tasks"]


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_the_same_list_runs_on_the_fleet(fleet: Fleet, registry: BackendRegistry, strategy: str) -> None:
    process = Process("mixed", strategy, registry=registry)
    process.add_task(tasks.where)
    process.add_task(tasks.where, placement=ANTHROPIC)
    process.add_step(tasks.where_async, placement=LOCAL)
    process.add_task(tasks.add, 1, right=5, placement=LOCAL)
    here, anthropic, local, total = await process.execute_async(deadline=20)
    assert here[0] == os.getpid()
    assert anthropic[0] == fleet.workers["anthropic"].pid
    assert local[0] == fleet.workers["local:8080"].pid
    assert total == 6
    # A sync function holds up no event loop there; a coroutine function runs on it.
    assert anthropic[1] != "stbass-processes"
    assert local[1] == "stbass-processes"
    assert [result.run.worker for result in process.results[1:3] if result.run] == [
        fleet.workers["anthropic"].name,
        fleet.workers["local:8080"].name,
    ]


def test_it_needs_no_event_loop(fleet: Fleet) -> None:
    registry = registry_of(CeleryBackend(fleet.app()))
    process = Process("sync", "parallel", registry=registry)
    for number in range(50):
        process.add_task(tasks.add, number, placement=ANTHROPIC)
    assert process.execute() == list(range(1, 51))
    assert process.execute() == list(range(1, 51))


async def test_a_failure_there_is_raised_here_and_halts_the_rest(registry: BackendRegistry, tmp_path: Path) -> None:
    path = tmp_path / "log"
    process = Process("halted", "parallel", registry=registry)
    process.add_task(tasks.mark, str(path), 60.0, placement=LOCAL)
    process.add_task(_fail_when, path)
    process.add_task(asyncio.sleep, 60)
    async with asyncio.timeout(20):
        with pytest.raises(LookupError, match="now"):
            await process.execute_async()
    marked, failed, slept = process.results
    assert isinstance(marked.failure.error, ProcessCancelled)
    assert isinstance(slept.failure.error, ProcessCancelled)
    assert failed.is_fail
    # It was really cancelled there: its finally block ran.
    await until(lambda: path.read_text().split() == ["began", "ended"])


async def _fail_when(path: Path) -> None:
    await until(path.exists)
    raise LookupError("now")


async def test_an_exception_there_is_the_same_exception_here(registry: BackendRegistry) -> None:
    process = Process("failing", registry=registry)
    process.add_task(tasks.fail, "gone", placement=ANTHROPIC)
    process.add_task(tasks.add, 1, placement=ANTHROPIC)
    with pytest.raises(LookupError, match="gone"):
        await process.execute_async()
    failed, unstarted = process.results
    assert "tasks.py" in failed.failure.traceback_str
    assert failed.failure.placement == ANTHROPIC
    assert isinstance(unstarted.failure.error, ProcessCancelled)


async def test_a_deadline_holds_there(registry: BackendRegistry, fleet: Fleet, tmp_path: Path) -> None:
    path = tmp_path / "log"
    process = Process("late", "parallel", registry=registry, on_failure=FailurePolicy.COLLECT)
    process.add_task(tasks.mark, str(path), 60.0, placement=ANTHROPIC)
    process.add_task(tasks.add, 1, placement=LOCAL)
    started = time.monotonic()
    late, kept = await process.execute_async(deadline=0.5)
    assert time.monotonic() - started < 20
    assert kept.value == 2
    error = late.failure.error
    assert isinstance(error, DeadlineExceeded)
    assert (error.phase, error.worker) == ("running", fleet.workers["anthropic"].name)
    assert path.read_text().split() == ["began", "ended"]


async def test_cancelling_the_list_cancels_there(registry: BackendRegistry, tmp_path: Path) -> None:
    path = tmp_path / "log"
    process = Process("cancelled", registry=registry)
    process.add_task(tasks.mark, str(path), 60.0, placement=ANTHROPIC)
    running = asyncio.create_task(process.execute_async())
    await until(path.exists)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until(lambda: path.read_text().split() == ["began", "ended"])


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_what_cannot_travel_is_refused_before_anything_runs(registry: BackendRegistry, strategy: str) -> None:
    ran: list[int] = []
    process = Process("refused", strategy, registry=registry)
    process.add_task(ran.append, 1)
    process.add_task(lambda: 1, placement=ANTHROPIC)
    with pytest.raises(NotTransportable, match=r"lambda.*write it with def"):
        await process.execute_async()
    nowhere = Process("nowhere", strategy, registry=registry)
    nowhere.add_task(ran.append, 1)
    nowhere.add_task(tasks.add, 1, placement=Placement(model="opus"))
    registry.register("opus", registry.get(ANTHROPIC))
    with pytest.raises(ConfigurationError, match="no endpoint"):
        await nowhere.execute_async()
    assert ran == []


async def test_to_include_a_module_does_not_let_its_functions_be_called(
    registry: BackendRegistry, fleet: Fleet
) -> None:
    process = Process("refused", "parallel", registry=registry, on_failure=FailurePolicy.COLLECT)
    process.add_task(tasks_listed.listed, placement=ANTHROPIC)
    process.add_task(tasks.add, 1, placement=ANTHROPIC)
    refused, kept = await process.execute_async()
    assert kept.value == 2
    error = refused.failure.error
    assert isinstance(error, ProcessRefused)
    for words in (
        "tests.support.tasks_listed",
        "stbass_functions (STBASS_FUNCTIONS)",
        "anthropic",
        fleet.workers["anthropic"].name,
    ):
        assert words in str(error)


async def test_many_tasks_are_one_group_on_the_fleet(registry: BackendRegistry) -> None:
    process = Process("many", "parallel", max_workers=1, registry=registry)
    for number in range(300):
        process.add_task(tasks.add, number, placement=ANTHROPIC if number % 2 else LOCAL)
    async with asyncio.timeout(20):
        assert await process.execute_async() == list(range(1, 301))
