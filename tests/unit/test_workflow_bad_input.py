"""What cannot be right is refused with a clear error, before anything has run wherever it can be known."""

from __future__ import annotations

import copy
import itertools
import threading
from collections.abc import Callable
from typing import Any

import pytest

from stbass._engine.registry import BackendRegistry
from stbass._values.endpoint import Placement
from stbass.backends.processes import ProcessPoolBackend
from stbass.errors import NotTransportable
from stbass.workflow import (
    BaseProcess,
    ProcessConfig,
    ProcessId,
    ProcessState,
    ProcessType,
    RetryStrategy,
    Workflow,
    WorkflowError,
    WorkflowNode,
    create_workflow,
)
from tests.support.nodes import Give, Node, Unpicklable

ran: list[str] = []


class Notes(BaseProcess):
    """Notes that it ran."""

    def __init__(self, name: str = "notes", **config: Any) -> None:
        super().__init__(ProcessConfig(process_id=name, **config))

    def process(self, input_data: Any) -> None:
        ran.append(str(self.config.process_id))


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    ran.clear()


def config(**arguments: Any) -> Callable[[], Any]:
    return lambda: ProcessConfig(**arguments)


def retry(*arguments: Any) -> Callable[[], Any]:
    return lambda: RetryStrategy(*arguments)


def node(*arguments: Any) -> Callable[[], Any]:
    return lambda: WorkflowNode(*arguments)


async def _rule(value: Any) -> bool:
    return True


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (config(process_type="fibre"), ValueError, "unknown process_type 'fibre'; use one of ProcessType.ASYNC"),
        (config(process_id=""), ValueError, "process_id cannot be empty"),
        (config(process_id=7), TypeError, "process_id must be a str or a ProcessId, got 7"),
        (config(timeout=0), ValueError, "timeout must be finite and above 0, got 0"),
        (config(timeout=-1.5), ValueError, "above 0, got -1.5"),
        (config(timeout=float("nan")), ValueError, "finite"),
        (config(timeout=float("inf")), ValueError, "finite"),
        (config(timeout="1"), TypeError, "timeout must be a number, got '1'"),
        (config(timeout=True), TypeError, "timeout must be a number"),
        (config(retry_strategy=3), TypeError, "retry_strategy must be a RetryStrategy or None, got 3"),
        (config(fail_fast="yes"), TypeError, "fail_fast must be True or False"),
        (config(validation_rules=len), TypeError, "validation_rules must be a list of callables"),
        (config(validation_rules=["positive"]), TypeError, r"validation_rules\[0\] must be callable, got 'positive'"),
        (config(validation_rules=[_rule]), TypeError, "must not be a coroutine function"),
        (retry(-1), ValueError, "max_retries must be at least 0, got -1"),
        (retry(1.5), TypeError, "max_retries must be a whole number"),
        (retry(1, -0.1), ValueError, "delay_seconds must be finite and at least 0, got -0.1"),
        (retry(1, 1.0, 0), ValueError, "backoff_factor must be finite and above 0, got 0"),
        (retry(1, 1.0, "2"), TypeError, "backoff_factor must be a number"),
        (lambda: Workflow(max_processes=0), ValueError, "max_processes must be at least 1, got 0"),
        (lambda: Workflow(max_threads=-1), ValueError, "max_threads must be at least 1, got -1"),
        (lambda: Workflow(max_threads=True), TypeError, "max_threads must be a whole number"),
        (lambda: Workflow(process_id=""), ValueError, "cannot be empty"),
        (lambda: Workflow(registry={}), TypeError, "registry must be a BackendRegistry"),  # type: ignore[arg-type]
        (node(len), TypeError, "takes a BaseProcess that has a config, got the function len"),
        (node(Notes(), "other"), TypeError, "the dependencies of 'notes' must be a list, got 'other'"),
        (node(Notes(), [3]), TypeError, "a dependency of 'notes' must be a str or a ProcessId, got 3"),
        (node(Notes(), ["notes"]), ValueError, "node 'notes' depends on itself"),
        (node(Notes(), ["a_1", ProcessId("a", 1)]), ValueError, "node 'notes' depends on 'a_1' twice"),
        (node(Notes(), [], "yes"), TypeError, "required must be True or False"),
        (node(Notes(), [], True, "fast"), TypeError, "placement must be a Placement or None, got 'fast'"),
        (lambda: Workflow().add_node(Notes()), TypeError, r"add_node takes a WorkflowNode, .*wrap it"),  # type: ignore[arg-type]
        (lambda: create_workflow(Notes(), Notes()), ValueError, "there is a node 'notes' already"),
        (lambda: create_workflow(len), TypeError, "takes a WorkflowNode"),  # type: ignore[arg-type]
    ],
)
def test_arguments_are_refused_when_they_are_given(
    make: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()


def test_a_process_needs_a_configuration() -> None:
    class Careless(BaseProcess):
        def __init__(self) -> None:
            pass

    class Wrong(BaseProcess):
        def __init__(self) -> None:
            super().__init__({"timeout": 1})  # type: ignore[arg-type]

    with pytest.raises(TypeError, match=r"must call super\(\).__init__\(ProcessConfig"):
        Careless().register_to(Workflow())
    with pytest.raises(TypeError, match=r"Wrong: config must be a ProcessConfig, got a dict"):
        Wrong()


def test_a_node_needs_code() -> None:
    class Empty(BaseProcess):
        pass

    with pytest.raises(TypeError, match="node 'empty': Empty overrides neither process"):
        Empty(ProcessConfig(process_id="empty")).register_to(Workflow())


async def refused(workflow: Workflow, error: type[Exception], message: str, data: Any = None) -> None:
    with pytest.raises(error, match=message):
        await workflow.execute(data)
    assert ran == []
    assert workflow.results == {}


async def test_an_unknown_dependency_is_named_before_anything_runs() -> None:
    workflow = create_workflow(Notes("one"), (Notes("two"), ["one", "thre"]))
    await refused(workflow, ValueError, "node 'two' depends on 'thre', which is no node; there are: one, two")


async def test_a_cycle_is_named_before_anything_runs() -> None:
    workflow = create_workflow(
        Notes("start"), (Notes("one"), ["start", "three"]), (Notes("two"), ["one"]), (Notes("three"), ["two"])
    )
    with pytest.raises(ValueError, match="cycle") as caught:
        await workflow.execute()
    cycle = str(caught.value).partition(": ")[2].partition(" (")[0].split(" -> ")
    assert cycle[0] == cycle[-1]
    assert set(cycle) == {"one", "two", "three"}
    # As it says: each is needed by the next.
    needs = workflow.execution_graph
    assert all(first in needs[second] for first, second in itertools.pairwise(cycle))
    assert ran == []


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ({"nobody": 1}, ValueError, "'nobody', which is no node; there are: one, two"),
        ({"two": 1}, ValueError, "'two', whose input is what it depends on: one"),
        ({3: 1}, TypeError, "a key of initial_data must be a str or a ProcessId, got 3"),
        ([1], TypeError, r"initial_data must map ids of processes to their input, got a list"),
    ],
)
async def test_initial_data_must_be_for_nodes_without_dependencies(
    data: Any, error: type[Exception], message: str
) -> None:
    await refused(create_workflow(Notes("one"), (Notes("two"), ["one"])), error, message, data)


async def test_a_node_that_cannot_be_pickled_is_named_before_anything_runs() -> None:
    workflow = create_workflow(Notes("one"), (Unpicklable("locked"), ["one"]))
    await refused(workflow, NotTransportable, "node locked .*kind PROCESS.*lock")

    class Local(Node):
        pass

    workflow = create_workflow(Notes("one"), (Local("local", ProcessType.PROCESS), ["one"]))
    await refused(workflow, TypeError, "node local .*Local.*top level of a module")


async def test_input_that_cannot_be_pickled_is_a_failure_that_says_so() -> None:
    workflow = create_workflow(Notes("one"), Node("two", ProcessType.PROCESS, fail_fast=False))
    result = (await workflow.execute({"two": threading.Lock()}))["two"]
    assert result.error_type == "NotTransportable"
    assert "lock" in (result.error or "")


async def test_a_placed_node_that_cannot_go_there_is_refused_before_anything_runs() -> None:
    registry = BackendRegistry()
    async with ProcessPoolBackend(1) as backend:
        registry.register("pool", backend)
        workflow = Workflow(registry=registry)
        Notes("one").register_to(workflow)
        Node("two", retry_strategy=None, validation_rules=None).register_to(workflow)
        there = Give("there", threading.Lock())
        there.register_to(workflow, ["one"], placement=Placement(endpoint="pool"))
        await refused(workflow, NotTransportable, "there.*lock")


async def test_a_copy_of_a_process_cannot_be_placed() -> None:
    workflow = Workflow()
    copy.copy(Give("copied", 1)).register_to(workflow, placement=Placement(endpoint="anywhere"))
    await refused(workflow, NotTransportable, "copied is a copy")


def _positive(value: Any) -> bool:
    return bool(value > 0)


@pytest.mark.parametrize("value", [-1, None])
async def test_initial_data_that_breaks_a_rule_ends_it_before_anything_runs(value: Any) -> None:
    strict = Notes("strict", validation_rules=[_positive])
    workflow = create_workflow(Notes("one"), strict, (Notes("two"), ["one"]))
    with pytest.raises(WorkflowError, match=r"node 'strict' failed: ValidationFailed: .*_positive") as caught:
        await workflow.execute({"strict": value})
    assert ran == []
    assert caught.value.failed == "strict"
    assert strict.metadata.state is ProcessState.FAILED
    assert [caught.value.results[name].success for name in ("one", "strict", "two")] == [False, False, False]
    assert workflow.nodes["one"].process.metadata.state is ProcessState.SKIPPED
    ran.clear()
    assert (await workflow.execute({"strict": 1}))["strict"].success


async def test_where_the_failure_would_not_end_it_the_others_run() -> None:
    looked: list[Any] = []

    def look(value: Any) -> bool:
        looked.append(value)
        return False

    workflow = Workflow()
    Notes("maybe", validation_rules=[look]).register_to(workflow, required=False)
    Notes("one").register_to(workflow)
    results = await workflow.execute({"maybe": 5})
    assert (results["maybe"].error_type, results["one"].success) == ("ValidationFailed", True)
    assert looked == [5]
    assert ran == ["one"]


async def test_input_from_a_dependency_is_looked_at_when_it_is_there() -> None:
    strict = Notes("strict", validation_rules=[lambda given: given["one"].data == 2])
    workflow = create_workflow(Give("one", 1), (strict, ["one"]))
    with pytest.raises(WorkflowError, match=r"strict.*does not fulfil the validation rule"):
        await workflow.execute()
    assert ran == []


async def test_a_deadline_must_be_above_zero() -> None:
    workflow = create_workflow(Notes())
    for deadline, error in ((0, ValueError), (-1.0, ValueError), ("1", TypeError)):
        with pytest.raises(error, match="deadline"):
            await workflow.execute(deadline=deadline)  # type: ignore[arg-type]
    assert ran == []
