"""A workflow: order, input, what a failure does to the others, pools, placements, deadline, pictures."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from stbass import observe
from stbass._engine.backend import ExecutionBackend
from stbass._engine.local import LocalBackend
from stbass._engine.registry import BackendRegistry
from stbass._process.context import Composable, ProcessContext
from stbass._values.endpoint import Placement
from stbass._values.outcome import ProcessResult as CoreResult
from stbass.workflow import (
    BaseProcess,
    ProcessConfig,
    ProcessId,
    ProcessResult,
    ProcessState,
    ProcessType,
    Workflow,
    WorkflowError,
    WorkflowNode,
    WorkflowPoolManager,
    create_workflow,
)
from tests.support.backends import registry_of
from tests.support.nodes import Add, Blocks, Failing, Give, Node, Waits, Who

FAST = Placement(endpoint="fast")


def states(workflow: Workflow) -> dict[str, str]:
    return {name: node.process.metadata.state.value for name, node in workflow.nodes.items()}


class Called(BaseProcess):
    """Calls something of the test's, with its id and its input."""

    def __init__(self, name: str, call: Any, **config: Any) -> None:
        super().__init__(ProcessConfig(process_id=name, **config))
        self.call = call

    async def execute(self, input_data: Any) -> Any:
        value = self.call(str(self.config.process_id), input_data)
        return await value if asyncio.iscoroutine(value) else value


# Order and input ----------------------------------------------------------------------------------


async def test_every_node_has_a_result_in_the_order_added() -> None:
    workflow = Workflow()
    last = Add("last")
    workflow.add_node(WorkflowNode(last, ["left", ProcessId("right", 1)]))
    left = Add("left").register_to(workflow, dependencies=["first"])
    Add("right_1").register_to(workflow, dependencies=["first"])
    first = Add("first").register_to(workflow)
    results = await workflow.execute()
    assert {name: result.data for name, result in results.items()} == {"last": 5, "left": 2, "right_1": 2, "first": 1}
    assert list(results) == ["last", "left", "right_1", "first"]
    assert workflow.results == results
    assert workflow.execution_graph == {
        "last": {"left", "right_1"},
        "left": {"first"},
        "right_1": {"first"},
        "first": set(),
    }
    assert left.metadata.result is results["left"]
    assert first.metadata.state is ProcessState.COMPLETED


async def test_dependencies_are_names_ids_or_processes() -> None:
    one, two, three = Give("one", 1), Give("two_2", 2), Give("three", 3)
    workflow = create_workflow(one, two, three, (Add("sum"), ["one", ProcessId("two", 2), three]))
    assert (await workflow.execute())["sum"].data == 7


async def test_the_input_is_the_results_by_id_or_the_initial_data() -> None:
    given: dict[str, Any] = {}

    def note(name: str, input_data: Any) -> str:
        given[name] = input_data
        return name.upper()

    root, bare, child = (Called(name, note) for name in ("root", "bare", "child"))
    workflow = create_workflow(root, bare, (child, [root, bare]))
    results = await workflow.execute({root: {"url": "x"}})
    assert given == {"root": {"url": "x"}, "bare": None, "child": {"root": results["root"], "bare": results["bare"]}}
    assert child.get_process_result(given["child"], root) == "ROOT"


async def test_a_node_starts_as_soon_as_its_own_dependencies_are_done() -> None:
    late = asyncio.Event()

    async def wait_for_late(name: str, input_data: Any) -> None:
        await late.wait()

    def let_go(name: str, input_data: Any) -> None:
        late.set()

    # In waves, `second` would wait for `slow`, which waits for `second`.
    workflow = create_workflow(Give("quick"), Called("slow", wait_for_late), (Called("second", let_go), ["quick"]))
    async with asyncio.timeout(5):
        results = await workflow.execute()
    assert all(result.success for result in results.values())


async def test_independent_nodes_run_at_once() -> None:
    together = asyncio.Barrier(3)

    async def meet(name: str, input_data: Any) -> None:
        await together.wait()

    async with asyncio.timeout(5):
        await create_workflow(*[Called(f"node{n}", meet) for n in range(3)]).execute()


async def test_an_empty_workflow_has_no_results() -> None:
    workflow = Workflow()
    assert await workflow.execute() == {}
    assert workflow.progress == 1.0


async def test_it_can_run_again() -> None:
    calls: list[str] = []
    first = Called("first", lambda name, _: calls.append(name))
    workflow = create_workflow(first, (Called("second", lambda name, _: calls.append(name)), [first]))
    await workflow.execute()
    assert first.metadata.result is not None
    await workflow.execute()
    assert calls == ["first", "second"] * 2


async def test_the_whole_of_it_is_an_event_for_observers() -> None:
    events: list[tuple[str, str, str | None]] = []
    workflow = create_workflow(Give("one"), (Failing("two", fail_fast=False), ["one"]), process_id="flow")
    Give("three").register_to(workflow, ["two"])
    with observe.subscribe(lambda event: events.append((event.kind, event.name, event.parent))):
        await workflow.execute()
    assert events == [
        ("started", "flow", None),
        *[("queued", name, "flow") for name in ("one", "two", "three")],
        *[(kind, name, "flow") for name in ("one", "two") for kind in ("started", "ended")],
        ("ended", "three", "flow"),
        ("ended", "flow", None),
    ]


@pytest.mark.parametrize("config", [{}, {"timeout": 5.0}, {"kind": ProcessType.THREAD}])
async def test_a_node_is_one_process_for_observers(config: dict[str, Any]) -> None:
    events: list[observe.Event] = []
    with observe.subscribe(events.append):
        await create_workflow(Give("one", 1, **config)).execute()
    node = [event for event in events if event.name == "one"]
    assert [event.kind for event in node] == ["queued", "started", "ended"]
    assert len({event.process_id for event in node}) == 1


# Failures -----------------------------------------------------------------------------------------


async def test_a_required_node_that_fails_cancels_the_rest_and_raises() -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def wait(name: str, input_data: Any) -> None:
        started.set()
        try:
            await asyncio.Future()
        finally:
            ended.set()

    async def fail(name: str, input_data: Any) -> None:
        await started.wait()
        raise LookupError("not there")

    running = Called("running", wait)
    workflow = create_workflow(
        Give("done", 1),
        running,
        (Called("fails", fail), ["done"]),
        (Give("after"), ["fails"]),
        (Give("far"), [running]),
    )
    workflow.process_id = "flow"
    async with asyncio.timeout(5):
        with pytest.raises(
            WorkflowError, match=r"workflow 'flow': node 'fails' failed: LookupError: not there"
        ) as caught:
            await workflow.execute()
    assert ended.is_set()
    error = caught.value
    assert error.failed == "fails"
    assert isinstance(error.__cause__, LookupError)
    assert {name: result.success for name, result in error.results.items()} == {
        "done": True,
        "running": False,
        "fails": False,
        "after": False,
        "far": False,
    }
    assert error.results["done"].data == 1
    assert workflow.results == error.results
    assert states(workflow) == {
        "done": "completed",
        "running": "failed",
        "fails": "failed",
        "after": "skipped",
        "far": "skipped",
    }
    assert error.results["running"].error_type == "ProcessCancelled"
    assert "'fails' failed" in (error.results["running"].error or "")


async def test_without_fail_fast_only_its_dependants_are_skipped() -> None:
    workflow = create_workflow(
        Failing("fails", fail_fast=False),
        (Give("after"), ["fails"]),
        (Give("far"), ["after"]),
        Give("other", 1),
        (Give("beside", 2), ["other"]),
    )
    results = await workflow.execute()
    assert states(workflow) == {
        "fails": "failed",
        "after": "skipped",
        "far": "skipped",
        "other": "completed",
        "beside": "completed",
    }
    assert (results["after"].error_type, results["far"].error_type) == ("ProcessSkipped", "ProcessSkipped")
    assert "depends on 'fails'" in (results["after"].error or "")
    assert "depends on 'after'" in (results["far"].error or "")
    assert (results["after"].start_time, results["after"].execution_time) == (None, 0.0)


async def test_what_depends_on_an_optional_node_that_failed_runs_without_it() -> None:
    given: list[Any] = []
    workflow = Workflow()
    Failing("maybe").register_to(workflow, required=False)
    Give("sure", 1).register_to(workflow)
    after = Called("after", lambda _, input_data: given.append(input_data))
    after.register_to(workflow, ["maybe", "sure"])
    results = await workflow.execute()
    assert states(workflow) == {"maybe": "failed", "sure": "completed", "after": "completed"}
    assert given == [{"sure": results["sure"]}]
    with pytest.raises(ValueError, match="maybe not found"):
        after.get_process_result(given[0], "maybe")


async def test_an_optional_node_that_was_skipped_is_left_out_too() -> None:
    workflow = Workflow()
    Failing("fails", fail_fast=False).register_to(workflow)
    Give("maybe").register_to(workflow, ["fails"], required=False)
    Node("after").register_to(workflow, ["maybe"])
    results = await workflow.execute()
    assert states(workflow) == {"fails": "failed", "maybe": "skipped", "after": "completed"}
    assert results["after"].data["given"] == {}


async def test_cancelling_execute_cancels_all_and_says_where_each_stands() -> None:
    started = asyncio.Event()

    async def wait(name: str, input_data: Any) -> None:
        started.set()
        await asyncio.Future()

    workflow = create_workflow(Give("done", 1), (Called("waits", wait), ["done"]), (Give("after"), ["waits"]))
    running = asyncio.create_task(workflow.execute())
    async with asyncio.timeout(5):
        await started.wait()
        assert workflow.results.keys() == {"done"}
        assert 0.3 < workflow.progress < 0.4
        with pytest.raises(RuntimeError, match="while it is running"):
            await workflow.execute()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert states(workflow) == {"done": "completed", "waits": "failed", "after": "skipped"}
    assert workflow.results["done"].data == 1
    assert WorkflowPoolManager.get_instance().open_pools == []


# Pools --------------------------------------------------------------------------------------------


async def test_the_pools_are_there_while_it_runs_and_gone_when_it_ends() -> None:
    manager = WorkflowPoolManager.get_instance()
    assert WorkflowPoolManager.get_instance() is manager
    seen: list[Any] = []

    class Looks(BaseProcess):
        def process(self, input_data: Any) -> None:
            pools = manager.get_or_create_pools("flow")
            seen.append((manager.open_pools, pools[ProcessType.THREAD].concurrency_limit))
            with pytest.raises(KeyError):
                pools[ProcessType.ASYNC]

    workflow = Workflow(max_threads=3, process_id="flow")
    assert workflow.pool_manager is manager
    Looks(ProcessConfig(ProcessType.THREAD)).register_to(workflow)
    await workflow.execute()
    assert seen == [(["flow"], 3)]
    assert manager.open_pools == []


async def test_a_process_run_by_itself_uses_the_pools_of_its_workflow() -> None:
    seen: list[list[str]] = []

    class Looks(BaseProcess):
        def process(self, input_data: Any) -> None:
            seen.append(WorkflowPoolManager.get_instance().open_pools)

    workflow = Workflow(process_id=ProcessId("flow", 2))
    process = Looks(ProcessConfig(ProcessType.THREAD)).register_to(workflow)
    await process.run()
    assert seen == [["flow_2"]]
    assert WorkflowPoolManager.get_instance().open_pools == []


async def test_pools_can_be_made_and_closed_by_hand() -> None:
    manager = WorkflowPoolManager.get_instance()
    pools = manager.get_or_create_pools("by hand", max_threads=1)
    assert manager.get_or_create_pools("by hand") is pools
    await manager.close_pools("by hand")
    await manager.close_pools("by hand")
    assert manager.open_pools == []


# Placements ---------------------------------------------------------------------------------------


class Elsewhere(ExecutionBackend):
    """Runs processes here, and notes them."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Placement | None, float | None]] = []
        self.cancelled: list[str] = []

    async def execute(self, process: Composable, ctx: ProcessContext) -> CoreResult:
        self.seen.append((ctx.process_name, ctx.placement, ctx.remaining))
        try:
            return await process.execute(ctx)
        except asyncio.CancelledError:
            self.cancelled.append(ctx.process_name)
            raise

    async def health_check(self) -> bool:
        return True

    @property
    def concurrency_limit(self) -> int | None:
        return None

    @property
    def name(self) -> str:
        return "elsewhere"


@pytest.fixture
def elsewhere() -> Elsewhere:
    return Elsewhere()


@pytest.fixture
def registry(elsewhere: Elsewhere) -> BackendRegistry:
    return registry_of(elsewhere, "fast")


async def test_a_placed_node_runs_on_the_backend_of_its_endpoint(
    elsewhere: Elsewhere, registry: BackendRegistry
) -> None:
    workflow = Workflow(registry=registry)
    Give("here", 1).register_to(workflow)
    Who("there").register_to(workflow, ["here"], placement=FAST)
    result = (await workflow.execute())["there"]
    assert [(name, placement) for name, placement, _ in elsewhere.seen] == [("there", FAST)]
    assert result.data["name"] == "there"
    assert result.data["parent"] == workflow.process_id
    assert result.data["placement"] == FAST
    assert result.data["given"] == ["here"]


async def test_a_sync_process_that_is_placed_holds_up_no_event_loop(registry: BackendRegistry) -> None:
    workflow = Workflow(registry=registry)
    Node("there").register_to(workflow, placement=FAST)
    assert (await workflow.execute())["there"].data["main"] is False


async def test_the_timeout_of_a_placed_node_is_its_deadline_there(
    elsewhere: Elsewhere, registry: BackendRegistry
) -> None:
    workflow = Workflow(registry=registry)
    Waits("there", 30.0, timeout=0.2).register_to(workflow, placement=FAST, required=False)
    result = (await workflow.execute(deadline=20))["there"]
    [(_, _, remaining)] = elsewhere.seen
    assert remaining is not None
    assert 0 < remaining <= 0.2
    assert isinstance(result.exception, TimeoutError)
    assert elsewhere.cancelled == ["there"]


async def test_a_placed_node_is_cancelled_when_another_fails(elsewhere: Elsewhere, registry: BackendRegistry) -> None:
    workflow = Workflow(registry=registry)
    Waits("there", 30.0).register_to(workflow, placement=FAST)
    Failing("fails").register_to(workflow)
    with pytest.raises(WorkflowError, match="fails"):
        await workflow.execute()
    assert elsewhere.cancelled == ["there"]


async def test_a_placement_nobody_registered_is_here(registry: BackendRegistry) -> None:
    workflow = Workflow(registry=registry)
    Node("there").register_to(workflow, placement=Placement(endpoint="nowhere"))
    assert (await workflow.execute())["there"].data["pid"] == os.getpid()


async def test_the_limit_of_a_backend_holds_for_placed_nodes() -> None:
    registry = registry_of(LocalBackend(2), "fast")
    now = most = 0

    async def count(name: str, input_data: Any) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1

    workflow = Workflow(registry=registry)
    for n in range(6):
        Called(f"node{n}", count).register_to(workflow, placement=FAST)
    await workflow.execute()
    assert most == 2


# Pictures -----------------------------------------------------------------------------------------


async def test_a_mermaid_flowchart_has_every_node_edge_and_state() -> None:
    workflow = Workflow()
    Give('say "hi" #1').register_to(workflow)
    Failing("end").register_to(workflow, ['say "hi" #1'], required=False)
    Blocks("blocks", "", 0.0, ProcessType.THREAD).register_to(workflow, ["end"])
    Give("far").register_to(workflow, ["blocks"], placement=Placement(model="opus", endpoint="anthropic"))
    assert workflow.to_mermaid("LR").splitlines() == [
        "flowchart LR",
        '    n0["say #34;hi#34; #35;1"]',
        '    n1(["end"])',
        '    n2["blocks<br/>thread"]',
        '    n3["far<br/>opus @ anthropic"]',
        "    n0 --> n1",
        "    n1 -.-> n2",
        "    n2 --> n3",
    ]
    await workflow.execute()
    text = workflow.to_mermaid()
    assert text.startswith("flowchart TD\n")
    assert "    class n0,n2,n3 completed\n" in text
    assert "    class n1 failed\n" in text


def test_a_dependency_that_is_not_there_yet_is_in_the_picture() -> None:
    workflow = create_workflow((Give("one"), ["later"]), (Give("two"), ["later"]))
    assert workflow.to_mermaid().splitlines()[3:] == ['    n2["later"]', "    n2 --> n0", "    n2 --> n1"]


def test_an_unknown_direction_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="'UP'"):
        Workflow().to_mermaid("UP")


# Making one ---------------------------------------------------------------------------------------


def test_create_workflow_takes_nodes_processes_and_pairs() -> None:
    one = Give("one")
    workflow = create_workflow(
        one, (Give("two"), [one]), WorkflowNode(Give("three"), ["two"], required=False), max_processes=2, max_threads=3
    )
    assert list(workflow.nodes) == ["one", "two", "three"]
    assert (workflow.max_processes, workflow.max_threads) == (2, 3)
    assert not workflow.nodes["three"].required
    assert Workflow().process_id != Workflow().process_id


def test_a_result_is_known_by_what_it_holds() -> None:
    assert ProcessResult(True, 1) == ProcessResult(True, 1)
    assert ProcessResult(True, 1) != ProcessResult(True, 2)


async def test_a_group_that_a_node_raised_names_what_is_in_it() -> None:
    class Gathers(BaseProcess):
        async def execute(self, input_data: Any) -> None:
            raise ExceptionGroup("several", [OSError("one"), ExceptionGroup("inner", [ValueError("two")])])

    process = Gathers(ProcessConfig(process_id="gathers"))
    result = await process.run(None)
    said = "several (2 sub-exceptions): OSError: one (and 1 more)"
    assert (result.error_message, process.metadata.last_error) == (said, f"ExceptionGroup: {said}")
    flow = Workflow()
    Gathers(ProcessConfig(process_id="gathers")).register_to(flow)
    with pytest.raises(WorkflowError, match=r"node 'gathers' failed: ExceptionGroup: several .*: OSError: one \(and 1"):
        await flow.execute()
