"""Workflows whose nodes run in Python processes of their own, beside those that run in threads and on the loop."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from stbass._engine.registry import BackendRegistry
from stbass._values.endpoint import Placement
from stbass.backends.processes import ProcessPoolBackend
from stbass.workflow import (
    BaseProcess,
    ProcessConfig,
    ProcessResult,
    ProcessState,
    ProcessType,
    Workflow,
    WorkflowError,
    create_workflow,
)
from tests.support.nodes import Blocks, Failing, FailsFirst, Give, GivesLock, Node, Recorded, Steps, Tool, Waits

KINDS = list(ProcessType)


@pytest.mark.parametrize("kind", KINDS)
async def test_run_packs_what_it_gives_back(kind: ProcessType) -> None:
    before = datetime.now(UTC)
    process = Give("give", {"a": 1}, kind)
    result = await process.run(None)
    assert (result.success, result.data) == (True, {"a": 1})
    assert (result.error, result.error_type, result.error_message) == (None, None, None)
    assert result.start_time is not None
    assert result.end_time is not None
    assert before <= result.start_time <= result.end_time
    assert result.execution_time == pytest.approx((result.end_time - result.start_time).total_seconds(), abs=1e-5)
    metadata = process.metadata
    assert (metadata.state, metadata.progress, metadata.result) == (ProcessState.COMPLETED, 1.0, result)
    assert (metadata.start_time, metadata.end_time) == (result.start_time, result.end_time)


@pytest.mark.parametrize("kind", KINDS)
async def test_run_never_raises_for_a_process_that_fails(kind: ProcessType) -> None:
    process = Failing("fails", kind)
    result = await process.run(None)
    assert (result.success, result.data) == (False, None)
    assert (result.error, result.error_type, result.error_message) == ("not there", "LookupError", "not there")
    assert isinstance(result.exception, LookupError)
    assert "nodes.py" in result.traceback
    assert process.metadata.state is ProcessState.FAILED
    assert process.metadata.last_error == "LookupError: not there"


@pytest.mark.parametrize(
    ("kind", "other_thread", "other_process"),
    [
        (ProcessType.ASYNC, False, False),
        (ProcessType.THREAD, True, False),
        (ProcessType.PROCESS, True, True),
    ],
)
async def test_it_runs_where_its_type_says(kind: ProcessType, other_thread: bool, other_process: bool) -> None:
    for process in (Node("sync", kind), Waits("async", 0.0, kind)):
        data = (await process.run({})).data
        assert (data["pid"] != os.getpid()) is other_process
        if not other_process:
            assert (not data["main"]) is other_thread


@pytest.mark.parametrize("kind", KINDS)
async def test_execute_gives_back_a_result_and_runs_where_the_type_says(kind: ProcessType) -> None:
    result = await Node("node", kind).execute({"a": ProcessResult(True, 1)})
    assert isinstance(result, ProcessResult)
    assert result.data["given"] == {"a": 1}
    assert (result.data["pid"] != os.getpid()) is (kind is ProcessType.PROCESS)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_timeout_holds_for_every_kind_and_frees_the_caller(kind: ProcessType, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    process = Blocks("blocks", str(path), 30.0, kind, timeout=4.0 if kind is ProcessType.PROCESS else 0.2)
    ticks = asyncio.create_task(asyncio.sleep(0.05))
    started = time.monotonic()
    result = await process.run()
    assert time.monotonic() - started < 20
    assert ticks.done(), "the event loop was held up"
    assert isinstance(result.exception, TimeoutError)
    assert "blocks" in (result.error or "")
    assert process.metadata.state is ProcessState.FAILED
    if kind is ProcessType.PROCESS:
        assert not psutil.pid_exists(int(path.read_text())), "the Python process lives on"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_timeout_ends_a_coroutine_too(kind: ProcessType) -> None:
    started = time.monotonic()
    result = await Waits("waits", 30.0, kind, timeout=0.2).run()
    assert time.monotonic() - started < 10
    assert isinstance(result.exception, TimeoutError)


@pytest.mark.parametrize("kind", KINDS)
async def test_retries_happen_and_are_counted(kind: ProcessType, tmp_path: Path) -> None:
    process = FailsFirst("flaky", str(tmp_path / "tries"), 2, 3, kind)
    result = await process.run()
    assert (result.success, result.data) == (True, 3)
    assert process.metadata.retries == 2
    assert process.metadata.last_error == "ConnectionError: try 2"
    assert process.metadata.state is ProcessState.COMPLETED


@pytest.mark.parametrize("kind", KINDS)
async def test_progress_is_in_the_metadata_wherever_it_runs(kind: ProcessType) -> None:
    process = Steps("steps", kind)
    process.metadata = metadata = Recorded("steps")
    assert (await process.run()).success
    seen = [value for name, value in metadata.seen if name == "progress"]
    assert [value for value, _ in itertools.groupby(seen)] == [0.0, 0.25, 0.5, 0.75, 1.0]


FAST = Placement(endpoint="fast")


def states(workflow: Workflow) -> dict[str, str]:
    return {name: node.process.metadata.state.value for name, node in workflow.nodes.items()}


@pytest.mark.parametrize("kind", list(ProcessType))
async def test_a_deadline_ends_what_runs_and_what_has_not_started(kind: ProcessType) -> None:
    workflow = create_workflow(Waits("waits", 30.0, kind, fail_fast=False), (Give("after"), ["waits"]))
    async with asyncio.timeout(10):
        results = await workflow.execute(deadline=0.2)
    assert isinstance(results["waits"].exception, TimeoutError)
    assert states(workflow) == {"waits": "failed", "after": "skipped"}
    with pytest.raises(WorkflowError, match="deadline"):
        await create_workflow(Waits("waits", 30.0)).execute(deadline=0.1)


async def test_threads_and_processes_are_bounded_and_shared_by_the_nodes() -> None:
    lock, now, most = threading.Lock(), 0, 0
    together = threading.Barrier(2)

    class Busy(BaseProcess):
        def process(self, input_data: Any) -> int:
            nonlocal now, most
            with lock:
                now += 1
                most = max(most, now)
            together.wait(10)
            with lock:
                now -= 1
            return threading.get_ident()

    workflow = Workflow(max_threads=2, max_processes=1)
    for n in range(8):
        Busy(ProcessConfig(ProcessType.THREAD, f"thread{n}")).register_to(workflow)
    for n in range(4):
        Node(f"process{n}", ProcessType.PROCESS).register_to(workflow)
    results = await workflow.execute()
    assert most == 2
    assert len({results[f"thread{n}"].data for n in range(8)}) == 2
    assert len({results[f"process{n}"].data["pid"] for n in range(4)}) == 1


async def test_a_node_can_be_placed_on_a_pool_of_processes() -> None:
    registry = BackendRegistry()
    async with ProcessPoolBackend(1) as backend:
        registry.register("fast", backend)
        workflow = Workflow(registry=registry)
        Node("there").register_to(workflow, placement=FAST)
        assert (await workflow.execute())["there"].data["pid"] != os.getpid()


async def test_data_that_cannot_be_pickled_is_a_failure_that_says_so() -> None:
    result = (await create_workflow(GivesLock("lock", ProcessType.PROCESS, fail_fast=False)).execute())["lock"]
    assert result.error_type == "NotTransportable"
    assert "lock" in (result.error or "")


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--count", "3"], "SystemExit('3 of them are missing')"),
        (["--count", "x"], "SystemExit(2) (argument --count: invalid int value: 'x')"),
        ([], "SystemExit(2) (the following arguments are required: --count)"),
        (["--help"], "SystemExit(0)"),
    ],
)
async def test_one_that_asks_for_the_end_of_the_program_says_so(args: list[str], told: str) -> None:
    result = await Tool("tool", *args).run(None)
    assert result.error_message == f"process 'tool' raised {told}: a process cannot end its worker"


NOTEBOOK = """
import asyncio
from stbass import PLACED_PAR, BackendRegistry, Placement, Process, tasklist
from stbass.backends.pools import ProcessPoolBackend
from stbass.workflow import BaseProcess, ProcessConfig, ProcessType, Workflow, WorkflowNode
from tests.support.nodes import Give

class Cell(BaseProcess):
    def process(self, data):
        open("started", "w")

class Value:
    pass

@Process
async def decorated(ctx):
    open("started", "w")

class Sub(Process):
    async def run(self, ctx):
        open("started", "w")

def function():
    open("started", "w")

def closure():
    class Inner(Cell):
        pass
    return Inner

def node(make, *args):
    workflow = Workflow()
    workflow.add_node(WorkflowNode(Give("first")))
    workflow.add_node(WorkflowNode(make(*args)))
    return workflow.execute()

def kind(make):
    return make(ProcessConfig(ProcessType.PROCESS, "cell"))

async def tell(name, work):
    try:
        print(name, await work)
    except Exception as error:
        print(name, type(error).__name__, error)

async def main():
    async with ProcessPoolBackend(1) as pool:
        registry = BackendRegistry()
        registry.register("pool", pool)
        there = Placement(endpoint="pool")
        await tell("node", node(kind, Cell))
        await tell("closure", node(kind, closure()))
        await tell("value", node(Give, "value", Value(), ProcessType.PROCESS))
        await tell("function", PLACED_PAR((decorated, there), registry=registry).run())
        await tell("class", PLACED_PAR((Sub(), there), registry=registry).run())
        tasks = tasklist.Process("tasks", registry=registry)
        tasks.add_task(function, placement=there)
        await tell("task", tasks.execute_async())
        await tell("good", node(Give, "good", 1, ProcessType.PROCESS))

asyncio.run(main())
"""


@pytest.mark.parametrize("how", ["notebook", "standard input"])
def test_what_another_python_process_cannot_import_is_refused_before_anything_starts(how: str, tmp_path: Path) -> None:
    # given a program whose classes are in no module: that of a notebook's kernel, or one read from standard input
    run_cell = "import sys, __main__; exec(compile(sys.stdin.read(), '<cell>', 'exec'), __main__.__dict__)"
    done = subprocess.run(
        [sys.executable, *(["-c", run_cell] if how == "notebook" else ["-"])],
        input=NOTEBOOK,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )
    told = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    # then each is refused with what to do, and has not begun
    assert not (tmp_path / "started").exists()
    assert "top level of a module" in told.pop("closure")
    good = told.pop("good")
    assert all(text.startswith("NotTransportable ") for text in told.values()), told
    if how == "notebook":
        names = {"node": "Cell", "value": "Value", "function": "decorated", "class": "Sub", "task": "function"}
        for what, text in told.items():
            assert f": {names[what]} was defined in a notebook or an interactive session" in text
            assert "Put it in a module and import that" in text
        assert "success=True" in good
    else:
        assert all("this program was read from <stdin>. Save it in a file" in text for text in [*told.values(), good])
