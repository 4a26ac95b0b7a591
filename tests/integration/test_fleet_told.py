"""What a producer hears is so: a checkpoint is kept before it is told, and a result that is stored is told of."""

from __future__ import annotations

import asyncio

import pytest

from stbass import PLACED_PAR, FailurePolicy, Placement, start
from stbass._process.context import ProcessContext
from stbass.backends.celery import CeleryBackend
from stbass.backends.celery.envelope import Envelope, failed_result, seal_result
from stbass.errors import DeadlineExceeded, ProcessCancelled
from stbass.observe import events
from stbass.testing import RedisServer
from tests.integration.conftest import Fleet
from tests.support.agents import Steps, fails_on_the_way
from tests.support.backends import registry_of
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(120)


async def test_a_checkpoint_is_kept_before_it_is_told(server: RedisServer, fleet: Fleet) -> None:
    backend = CeleryBackend(fleet.app(), queue="anthropic")
    heard: list[tuple[str, object]] = []

    def hear(event: events.Event) -> None:
        if event.kind == "checkpoint":
            # A worker that is killed at this very moment must leave it behind.
            kept = server.command("HEXISTS", f"stbass:run:{event.process_id}", "checkpoint")
            heard.append((event.process_id, kept or server.command("EXISTS", f"celery-task-meta-{event.process_id}")))

    try:
        with events.subscribe(hear):
            running = [backend.execute(Steps(3, 0.05), ProcessContext(f"p{number}")) for number in range(40)]
            results = await asyncio.gather(*running)
    finally:
        await backend.aclose()
    assert all(result.is_ok for result in results)
    assert len({process for process, _ in heard}) == 40
    assert [process for process, kept in heard if not kept] == []


async def test_a_result_that_somebody_else_stored_is_told_of(server: RedisServer, fleet: Fleet) -> None:
    backend = CeleryBackend(fleet.app(), queue="anthropic", lease=2.0)
    try:
        ctx = ProcessContext("over it")
        running = asyncio.create_task(backend.execute(Steps(10_000, 0.05), ctx))
        await until(lambda: server.command("KEYS", "stbass:run:*"), timeout=30)
        [record] = server.command("KEYS", "stbass:run:*")
        task_id = str(record).removeprefix("stbass:run:")
        # given somebody who ends the process and says so to nobody, such as another application on the same server
        result = failed_result(ProcessCancelled("by somebody else"), Envelope(task_id, "anthropic", "Steps", 0.0))
        server.command("SET", f"celery-task-meta-{task_id}", seal_result(task_id, result, backend.settings))
        server.command("DEL", record)
        # then the worker that runs it finds that it is not its own any more, and whoever waits hears how it ended
        async with asyncio.timeout(60):
            assert "by somebody else" in str((await running).failure.error)
    finally:
        await backend.aclose()


async def test_a_failure_names_its_worker_and_its_last_progress(fleet: Fleet, backend: CeleryBackend) -> None:
    registry = registry_of(backend, "anthropic")
    placed = (fails_on_the_way, Placement(endpoint="anthropic"))
    late = (Steps(10_000, 0.05), Placement(endpoint="anthropic"))
    result = await PLACED_PAR(placed, late, on_failure=FailurePolicy.COLLECT, deadline=3.0, registry=registry).run()
    failed, overdue = result.failures
    worker = fleet.workers["anthropic"].name
    assert (failed.worker, failed.last_progress) == (worker, "3 of 4 nearly")
    assert f"Worker: {worker}\nLast progress: 3 of 4 nearly\n" in failed.detailed
    assert isinstance(overdue.error, DeadlineExceeded)
    assert overdue.worker == worker
    # Both are of one run, whose id logs and traces have, too.
    assert failed.run is not None
    assert failed.run == overdue.run
    assert f"\nRun: {failed.run}\n" in failed.detailed


async def test_a_failure_says_which_attempt_of_which_run_it_was(backend: CeleryBackend) -> None:
    retry, registry = FailurePolicy.retry(2, base_delay=0.0), registry_of(backend)
    here = Placement(endpoint="anthropic")
    run = await start(fails_on_the_way, placement=here, registry=registry, id="told-1")
    assert "\nRun: told-1" in (await run.result()).failure.detailed
    group = await PLACED_PAR((fails_on_the_way, here), on_failure=retry, registry=registry).run()
    assert group.failures[0].attempt == 2
    assert "Attempt: 2" in group.failures[0].detailed
