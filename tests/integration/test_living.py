"""What agents need to live with, on every backend: retries by kind that go on, what is used, and who logs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from stbass import PAR, PLACED_PAR, SEQ, Budget, FailurePolicy, Placement, Usage
from stbass._process.context import ProcessContext
from stbass.backends.celery import CeleryBackend, make_app
from stbass.backends.pools import ProcessPoolBackend, ThreadBackend
from stbass.dataflow import CeleryProcess, Status
from stbass.errors import BudgetExceeded, RemoteError
from stbass.placement import BackendRegistry, LocalBackend
from stbass.tasklist import Process as TaskList
from stbass.testing import RedisServer, Worker
from stbass.workflow import ProcessType, Workflow, WorkflowError
from tests.integration.conftest import APP, Fleet
from tests.support.agents import hidden_error
from tests.support.backends import registry_of
from tests.support.dataflow import Count, Endless, Keep, wire
from tests.support.living import (
    GoesOn,
    RateLimited,
    Spending,
    Unauthorised,
    Uses,
    UsesUntilItIsLost,
    Using,
    for_ever,
    keep_using,
    logs,
    logs_in_a_thread,
    spends,
    unauthorised,
    use,
    wait_for_ever,
)
from tests.support.waiting import until

INCLUDE = ("tests.support.living", "tests.support.dataflow")
FUNCTIONS = ("tests.support.living",)

THERE = Placement(endpoint="anthropic")
KINDS = ("local", "threads", "processes", "celery")


@pytest.fixture(params=KINDS)
async def everywhere(request: pytest.FixtureRequest, fleet: Fleet) -> AsyncIterator[BackendRegistry]:
    """A registry in which every placement is one kind of backend."""
    if request.param == "local":
        yield registry_of(LocalBackend())
        return
    made: ThreadBackend | ProcessPoolBackend | CeleryBackend
    if request.param == "celery":
        made = CeleryBackend(fleet.app())
    else:
        made = ThreadBackend(2) if request.param == "threads" else ProcessPoolBackend(1)
    async with aclosing(made):
        yield registry_of(made)


async def test_a_kind_that_no_retry_helps_is_tried_once(everywhere: BackendRegistry) -> None:
    policy = FailurePolicy.retry(5, "constant", 0.01, unless=(Unauthorised,))
    result = await PLACED_PAR((unauthorised, THERE), on_failure=policy, registry=everywhere).run()
    [failed] = result.results
    assert isinstance(failed.failure.error, Unauthorised)
    assert failed.failure.checkpoint == 1


@pytest.mark.parametrize("inside", [False, True], ids=["placed", "composition"])
async def test_a_retried_attempt_goes_on_and_waits_as_long_as_it_was_told(
    everywhere: BackendRegistry, inside: bool
) -> None:
    policy = FailurePolicy.retry(5, "constant", 0.01, on=(RateLimited,))
    process = GoesOn(3, {"retry-after-ms": "200"})
    if inside:
        # The policy goes where the composition does.
        composition = PLACED_PAR((PAR(process, on_failure=policy), THERE), registry=everywhere)
    else:
        composition = PLACED_PAR((process, THERE), on_failure=policy, registry=everywhere)
    result = await SEQ(composition).run()
    found = result.value[0][0] if inside else result.value[0]
    assert found == [1, 2, 3]
    elapsed = result.results[0].elapsed
    assert elapsed is not None
    assert elapsed >= timedelta(milliseconds=390)


@pytest.mark.parametrize(
    ("kinds", "attempts"), [({"on": "HiddenError"}, 2), ({"unless": "HiddenError"}, 1), ({"on": LookupError}, 2)]
)
async def test_a_class_that_only_the_worker_knows_is_known_by_its_name(
    registry: BackendRegistry, kinds: dict[str, Any], attempts: int
) -> None:
    policy = FailurePolicy.retry(2, "constant", 0.01, **kinds)
    result = await PLACED_PAR((hidden_error, THERE), on_failure=policy, registry=registry).run()
    [failed] = result.results
    assert isinstance(failed.failure.error, RemoteError)
    assert failed.run is not None
    assert failed.run.attempt == attempts


# What it uses -----------------------------------------------------------------------------------


async def test_what_is_used_elsewhere_is_counted_here(everywhere: BackendRegistry) -> None:
    policy = FailurePolicy.retry(3, "constant", 0.01, on=RateLimited)
    result = await PLACED_PAR(
        (Uses(3), THERE), (PAR(Uses(1), Uses(2)), THERE), (Uses(2, 2), THERE), on_failure=policy, registry=everywhere
    ).run()
    assert [one.usage.tokens for one in result.results] == [30, 30, 40]
    assert result.usage == Usage(60, 40, 1.0, {"opus": Usage(60, 40, 1.0)})
    failing = await PLACED_PAR((Uses(1, 9), THERE), registry=everywhere).run()
    assert failing.failures[0].usage == failing.usage == Usage(6, 4, 0.1, {"opus": Usage(6, 4, 0.1)})


@pytest.mark.parametrize("inside", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["placed", "composition"])
async def test_what_a_lost_worker_had_used_counts_once(server: RedisServer, tmp_path: Path, inside: bool) -> None:
    policy = FailurePolicy.retry(3, "constant", 0.01, on=RateLimited)
    log = tmp_path / "attempts"
    process = UsesUntilItIsLost(str(log))
    # Around what is placed, or in it: then it is the worker that tries again.
    placed = PAR(process, on_failure=policy) if inside else process
    env = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url, "TEST_LEASE": "1"}
    queue = f"lost-{inside}"
    ctx = ProcessContext("top")
    app = make_app("tests", broker_url=server.url, stbass_lease=1.0)
    async with aclosing(CeleryBackend(app, queue=queue, lease=1.0)) as backend, asyncio.timeout(120):
        there = PLACED_PAR((placed, THERE), on_failure=policy, registry=registry_of(backend))
        with Worker(APP, queue, env=env, include=INCLUDE) as first:
            running = asyncio.create_task(there.execute(ctx))
            await until(lambda: ctx.used.tokens == 50, timeout=60)
            first.kill()
        with Worker(APP, queue, env=env, include=INCLUDE):
            result = await running
    assert result.is_ok, result.failure.detailed
    assert ctx.used == result.usage == Usage(64, 96, 0.0, {"opus": Usage(64, 96)})
    # Inside of a composition that was sent anew, the count is that composition's own.
    assert log.read_text().split() == (["1", "1", "2"] if inside else ["1", "2", "3"])


async def test_a_budget_here_ends_what_runs_elsewhere(everywhere: BackendRegistry) -> None:
    async with asyncio.timeout(60):
        result = await PLACED_PAR((spends, THERE), PAR(for_ever), budget=Budget(tokens=50), registry=everywhere).run()
    assert [type(one.failure.error) for one in result.results] == [BudgetExceeded] * 2
    assert result.usage.tokens >= 50


async def test_a_budget_that_went_elsewhere_holds_there(everywhere: BackendRegistry) -> None:
    async with asyncio.timeout(60):
        result = await PLACED_PAR((PAR(spends, budget=Budget(tokens=50)), THERE), registry=everywhere).run()
    [failed] = result.results
    assert isinstance(failed.failure.error, BudgetExceeded)
    assert failed.failure.error.budget == Budget(tokens=50)
    assert result.usage.tokens == 50


# The same in the front ends ------------------------------------------------------------------------


async def test_a_task_list_ends_by_what_its_tasks_use_elsewhere(everywhere: BackendRegistry) -> None:
    tasks = TaskList("spends", "parallel", registry=everywhere, on_failure=FailurePolicy.COLLECT)
    tasks.add_task(keep_using, placement=THERE)
    tasks.add_task(wait_for_ever)
    tasks.add_task(use, 5, placement=THERE)
    async with asyncio.timeout(60):
        spends, waits, _ = await tasks.execute_async(budget=Budget(tokens=50))
    assert [type(one.failure.error) for one in (spends, waits)] == [BudgetExceeded] * 2
    assert tasks.usage.tokens >= 50


async def test_a_workflow_ends_by_what_its_nodes_use_elsewhere(everywhere: BackendRegistry) -> None:
    workflow = Workflow(registry=everywhere)
    Using("early", 5).register_to(workflow, placement=THERE)
    Using("spends", 0).register_to(workflow, ["early"], placement=THERE)
    Using("waits", -1).register_to(workflow)
    async with asyncio.timeout(60):
        with pytest.raises(WorkflowError) as caught:
            await workflow.execute(budget=Budget(tokens=50))
    assert [type(caught.value.results[name].exception) for name in ("spends", "waits")] == [BudgetExceeded] * 2
    assert caught.value.results["early"].data == 5
    assert workflow.usage.tokens >= 50


async def test_a_workflow_counts_what_its_python_processes_use() -> None:
    workflow = Workflow(max_processes=1)
    Using("spends", 0, process_type=ProcessType.PROCESS).register_to(workflow)
    async with asyncio.timeout(60):
        with pytest.raises(WorkflowError, match="is used up"):
            await workflow.execute(budget=Budget(tokens=50))
    assert workflow.usage.tokens >= 50


async def test_a_dataflow_process_ends_by_what_its_components_use_on_a_fleet(backend: CeleryBackend) -> None:
    parts = [Endless(name="source"), Spending(name="spends"), Keep(name="sink")]
    connectors = [wire("source.y", "spends.x", maxsize=4), wire("spends.y", "sink.x", maxsize=4)]
    places = {"source": "one@anthropic", "spends": "one@anthropic", "sink": "local:8080"}
    process = CeleryProcess(parts, connectors, backend=backend, placement=places)
    async with asyncio.timeout(60), process:
        with pytest.raises(ExceptionGroup) as caught:
            await process.run(budget=Budget(tokens=500))
        [spent] = caught.value.exceptions
        assert isinstance(spent, BudgetExceeded)
        assert process.status is Status.FAILED
    told = process.usage.tokens
    assert told >= 500
    # Made again, it runs to its end with what it needs; and then all is counted.
    parts = [Count(30, name="source"), Spending(name="spends"), Keep(name="sink")]
    process = CeleryProcess(parts, connectors, backend=backend, placement=places)
    async with asyncio.timeout(60), process:
        await process.run(budget=Budget(tokens=301))
    assert process.usage.tokens == 300


# Who logs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_a_workers_log_says_which_process_wrote_a_line(fleet: Fleet, log_format: str) -> None:
    env = {**fleet.env, "STBASS_INCLUDE": "tests.support.living", "STBASS_LOG_FORMAT": log_format}
    with Worker("celery_app", f"logs-{log_format}", env=env) as worker:
        async with aclosing(CeleryBackend(fleet.app())) as backend:
            there = Placement(endpoint=f"logs-{log_format}")
            processes = [(one.with_name(f"agent {n}"), there) for n in range(5) for one in (logs, logs_in_a_thread)]
            result = await PLACED_PAR(*processes, registry=registry_of(backend)).run()
        await until(lambda: worker.log.count("line of") == 15)
    lines = [line for line in worker.log.splitlines() if "line of" in line]
    for made in result.results:
        mine = [line for line in lines if f"line of {made.value}" in line]
        assert made.run is not None
        assert mine
        for line in mine:
            if log_format == "text":
                assert f"process={made.run.process_name} id={made.value} attempt=1 endpoint=logs-text run=" in line
            else:
                fields = json.loads(line[line.index("{") :])
                assert (fields["process"], fields["id"]) == (made.run.process_name, made.value)
                assert (fields["attempt"], fields["endpoint"]) == (1, "logs-json")
    assert len({line.partition("run")[2][-38:] for line in lines}) == 1
