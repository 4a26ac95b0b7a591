"""Workflows whose nodes sit on real workers."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path

import pytest

from stbass._engine.registry import BackendRegistry
from stbass._values.endpoint import Placement
from stbass.errors import DeadlineExceeded, NotTransportable
from stbass.workflow import ProcessConfig, ProcessResult, ProcessState, ProcessType, Workflow, WorkflowError
from tests.integration.conftest import Fleet
from tests.support.nodes import Configured, Failing, FailsFirst, Give, GivesLock, Node, Steps, Waits, Who
from tests.support.nodes_elsewhere import Stranger

ANTHROPIC = Placement(model="opus", endpoint="anthropic")
LOCAL = Placement(endpoint="local:8080")
INCLUDE = ["tests.support.nodes"]


@pytest.fixture
def workflow(registry: BackendRegistry) -> Workflow:
    return Workflow(process_id="flow", registry=registry)


async def test_each_node_runs_where_it_is_placed_with_the_results_it_needs(fleet: Fleet, workflow: Workflow) -> None:
    Give("start", {"page": (1, 2)}).register_to(workflow)
    Node("one").register_to(workflow, ["start"], placement=ANTHROPIC)
    Who("two").register_to(workflow, ["start", "one"], placement=LOCAL)
    Node("end", ProcessType.THREAD).register_to(workflow, ["two"])
    results = await workflow.execute(deadline=20)
    one, two, end = (results[name].data for name in ("one", "two", "end"))
    assert (one["pid"], two["pid"]) == (fleet.workers["anthropic"].pid, fleet.workers["local:8080"].pid)
    assert one["given"] == {"start": {"page": (1, 2)}}
    # A sync process holds up no event loop there.
    assert one["thread"] != "stbass-processes"
    assert (two["given"], two["name"], two["parent"], two["placement"]) == (["one", "start"], "two", "flow", LOCAL)
    assert 15 < two["remaining"] <= 20
    assert end["pid"] == os.getpid()


async def test_a_failure_there_is_one_here(workflow: Workflow) -> None:
    failing = Failing("fails").register_to(workflow, placement=ANTHROPIC)
    Give("after").register_to(workflow, ["fails"])
    with pytest.raises(WorkflowError, match="LookupError: not there") as caught:
        await workflow.execute()
    result = caught.value.results["fails"]
    assert (result.error_type, result.error) == ("LookupError", "not there")
    assert isinstance(result.exception, LookupError)
    assert "nodes.py" in result.traceback
    assert failing.metadata.state is ProcessState.FAILED


async def test_retries_are_sent_again_and_counted(workflow: Workflow, tmp_path: Path, fleet: Fleet) -> None:
    path = tmp_path / "tries"
    flaky = FailsFirst("flaky", str(path), 2, 3).register_to(workflow, placement=ANTHROPIC)
    assert (await workflow.execute())["flaky"].data == 3
    assert flaky.metadata.retries == 2
    assert {int(pid) for pid in path.read_text().split()} == {fleet.workers["anthropic"].pid}


async def test_a_timeout_is_a_deadline_there(workflow: Workflow, fleet: Fleet) -> None:
    Waits("waits", 60.0, timeout=0.4).register_to(workflow, placement=ANTHROPIC, required=False)
    started = time.monotonic()
    result = (await workflow.execute())["waits"]
    assert time.monotonic() - started < 20
    error = result.exception
    assert isinstance(error, DeadlineExceeded)
    assert (error.phase, error.worker) == ("running", fleet.workers["anthropic"].name)


async def test_when_another_fails_it_is_cancelled_there(workflow: Workflow, fleet: Fleet) -> None:
    waits = Waits("waits", 60.0).register_to(workflow, placement=ANTHROPIC)
    Waits("short", 0.5).register_to(workflow)
    Failing("fails").register_to(workflow, ["short"])
    async with asyncio.timeout(10):
        with pytest.raises(WorkflowError, match="'fails' failed"):
            await workflow.execute()
    assert waits.metadata.state is ProcessState.FAILED
    assert workflow.results["waits"].error_type == "ProcessCancelled"
    # The worker is free again.
    probe = Workflow(registry=workflow.registry)
    Give("probe", 1).register_to(probe, placement=ANTHROPIC)
    assert (await probe.execute(deadline=5))["probe"].data == 1


async def test_progress_there_is_seen_here(workflow: Workflow) -> None:
    process = Steps("steps").register_to(workflow, placement=ANTHROPIC)
    seen: list[float] = []

    class Watched(type(process.metadata)):  # type: ignore[misc]
        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, value)
            if name == "progress":
                seen.append(float(str(value)))

    process.metadata = Watched("steps")
    await workflow.execute()
    assert [value for value in seen if 0 < value < 1] == [0.25, 0.5, 0.75]
    assert process.metadata.progress == 1.0


async def test_a_process_that_cannot_travel_is_refused_before_anything_runs(workflow: Workflow) -> None:
    first = Give("first").register_to(workflow)

    class Local(Node):
        pass

    Local("local").register_to(workflow, ["first"], placement=ANTHROPIC)
    with pytest.raises(NotTransportable, match=r"'local'.*defined in a function"):
        await workflow.execute()
    locked = Workflow(registry=workflow.registry)
    Give("first").register_to(locked)
    Give("locked", threading.Lock()).register_to(locked, ["first"], placement=ANTHROPIC)
    with pytest.raises(NotTransportable, match=r"locked|lock"):
        await locked.execute()
    assert first.metadata.state is ProcessState.WAITING


async def test_input_and_output_that_cannot_travel_are_failures_that_say_so(workflow: Workflow) -> None:
    GivesLock("lock").register_to(workflow)
    Node("takes", fail_fast=False).register_to(workflow, ["lock"], placement=ANTHROPIC)
    GivesLock("gives", fail_fast=False).register_to(workflow, placement=ANTHROPIC)
    results = await workflow.execute()
    for name in ("takes", "gives"):
        assert results[name].error_type == "NotTransportable"
        assert "lock" in (results[name].error or "")


async def test_rules_are_followed_here_and_stay_here(workflow: Workflow) -> None:
    looked: list[object] = []
    config = ProcessConfig(process_id="ruled", validation_rules=[looked.append])
    Configured(config).register_to(workflow, placement=ANTHROPIC)
    results = await workflow.execute({"ruled": 5})
    assert looked == [5]
    assert results["ruled"].data == (5, None)


async def test_a_worker_refuses_processes_of_modules_it_was_not_told_to_include(workflow: Workflow) -> None:
    Stranger("stranger", fail_fast=False).register_to(workflow, placement=ANTHROPIC)
    result = (await workflow.execute())["stranger"]
    assert isinstance(result, ProcessResult)
    assert result.error_type == "ProcessRefused"
    for words in ("tests.support.nodes_elsewhere", "include", "anthropic"):
        assert words in (result.error or "")


async def test_a_resumed_workflow_sends_only_the_rest(workflow: Workflow, tmp_path: Path) -> None:
    path = tmp_path / "tries"
    FailsFirst("once", str(path), 0, 0).register_to(workflow, placement=ANTHROPIC)
    Failing("fails").register_to(workflow, ["once"], required=False, placement=LOCAL)
    await workflow.execute()
    workflow.resume(workflow.to_json())
    await workflow.execute()
    assert len(path.read_text().split()) == 1


async def test_a_hundred_nodes_on_two_endpoints(workflow: Workflow) -> None:
    for layer in range(5):
        for place in range(20):
            needs = [f"{layer - 1}.{(place + step) % 20}" for step in range(3)] if layer else []
            node = Give(f"{layer}.{place}", layer)
            node.register_to(workflow, needs, placement=ANTHROPIC if place % 2 else LOCAL)
    async with asyncio.timeout(30):
        results = await workflow.execute()
    assert [result.data for result in results.values()] == [layer for layer in range(5) for _ in range(20)]
