"""A process of a workflow: its configuration, what it gives back, how it is tried again and how its time ends."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from pathlib import Path
from typing import Any

import numpy
import pytest

from stbass.workflow import (
    BaseProcess,
    ProcessConfig,
    ProcessId,
    ProcessMetadata,
    ProcessResult,
    ProcessState,
    ProcessType,
    RetryStrategy,
    Workflow,
    WorkflowPoolManager,
)
from tests.support.nodes import FailsFirst, Give, Node, Recorded, Unpicklable

KINDS = list(ProcessType)


# What it is ---------------------------------------------------------------------------------------


def test_an_id_is_a_name_and_perhaps_an_index() -> None:
    assert str(ProcessId("fetch")) == "fetch"
    assert str(ProcessId("fetch", 0)) == "fetch_0"
    assert ProcessId("fetch", 3) == ("fetch", 3)


def test_a_configuration_has_defaults() -> None:
    one, two = ProcessConfig(), ProcessConfig("async")  # type: ignore[arg-type]
    assert (one.process_type, one.timeout, one.retry_strategy) == (ProcessType.ASYNC, None, None)
    assert (one.fail_fast, one.validation_rules) == (True, None)
    assert str(one.process_id) != str(two.process_id)
    strategy = RetryStrategy()
    assert (strategy.max_retries, strategy.delay_seconds, strategy.backoff_factor) == (3, 1.0, 2.0)
    assert [strategy.delay_for(retry) for retry in range(3)] == [1.0, 2.0, 4.0]


def test_a_new_process_waits() -> None:
    config = ProcessConfig(process_id=ProcessId("fetch", 1))
    process = _Plain(config)
    assert process.config is config
    assert process.metadata == ProcessMetadata(ProcessId("fetch", 1), ProcessState.WAITING)
    assert (process.metadata.retries, process.metadata.progress, process.metadata.result) == (0, 0.0, None)


class _Plain(BaseProcess):
    pass


def test_the_base_class_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        BaseProcess(ProcessConfig())
    with pytest.raises(NotImplementedError, match="must implement process"):
        _Plain(ProcessConfig()).process(None)


async def test_one_without_code_fails_when_it_is_run() -> None:
    result = await _Plain(ProcessConfig()).run()
    assert (result.success, result.error_type) == (False, "NotImplementedError")


def test_register_to_gives_back_the_process() -> None:
    workflow = Workflow()
    first = Give("first")
    assert first.register_to(workflow) is first
    second = Give("second").register_to(workflow, dependencies=["first"], required=False)
    node = workflow.nodes["second"]
    assert (node.process, node.depends_on, node.required) == (second, ("first",), False)
    assert workflow.nodes["first"].required


async def test_set_workflow_says_whose_pools_it_uses() -> None:
    # given two processes for threads, and a workflow with one thread
    workflow = Workflow(max_threads=1)
    nodes = Node("one", ProcessType.THREAD), Node("other", ProcessType.THREAD)
    for node in nodes:
        node.set_workflow(workflow)
    # when they run at once
    results = await asyncio.gather(*(node.run() for node in nodes))
    # then it is the same thread
    assert len({result.data["thread"] for result in results}) == 1


# Results of others --------------------------------------------------------------------------------


def test_the_data_of_a_result_is_found_by_any_kind_of_id() -> None:
    given = {"fetch_1": ProcessResult(True, "page")}
    for key in ("fetch_1", ProcessId("fetch", 1), Give("fetch_1")):
        assert BaseProcess.get_process_result(given, key) == "page"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "Required process fetch not found in input data"),
        ({"other": ProcessResult(True)}, "there are: other"),
        (None, "Required process fetch not found in input data"),
        (
            {"fetch": ProcessResult(False, error="gone", error_type="OSError")},
            "did not complete successfully: OSError: gone",
        ),
        ({"fetch": "page"}, "Expected ProcessResult for fetch, got <class 'str'>"),
    ],
)
def test_a_result_that_is_not_to_be_had_is_a_value_error(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BaseProcess.get_process_result(given, "fetch")


# Running it by itself -----------------------------------------------------------------------------


async def test_the_state_is_running_while_it_runs() -> None:
    seen: list[Any] = []

    class Looks(BaseProcess):
        async def execute(self, input_data: Any) -> None:
            seen.append((self.metadata.state, self.metadata.start_time, self.metadata.result))

    await Looks(ProcessConfig()).run()
    [(state, start, result)] = seen
    assert (state, result) == (ProcessState.RUNNING, None)
    assert start is not None


async def test_execute_may_be_overridden_and_give_back_plain_data_or_a_result() -> None:
    class Plain(BaseProcess):
        async def execute(self, input_data: Any) -> Any:
            return input_data * 2

    class Packed(BaseProcess):
        async def execute(self, input_data: Any) -> ProcessResult:
            return ProcessResult(True, input_data * 3)

    class Refuses(BaseProcess):
        async def execute(self, input_data: Any) -> ProcessResult:
            return ProcessResult(False, error="no", error_type="Refusal")

    for kind in (ProcessType.ASYNC, ProcessType.THREAD):
        config = ProcessConfig(kind)
        assert (await Plain(config).run(2)).data == 4
        assert (await Packed(config).run(2)).data == 6
        refused = await Refuses(config).run(2)
        assert not refused.success
        assert "Refusal: no" in (refused.error or "")


async def test_process_may_be_a_coroutine_function_too() -> None:
    class Async(BaseProcess):
        async def process(self, input_data: Any) -> Any:
            await asyncio.sleep(0)
            return input_data + 1

    for kind in (ProcessType.ASYNC, ProcessType.THREAD):
        assert (await Async(ProcessConfig(kind, timeout=5)).run(1)).data == 2


async def test_an_override_can_call_the_one_it_overrides() -> None:
    threads: list[str] = []

    class Around(BaseProcess):
        def process(self, input_data: Any) -> Any:
            threads.append(threading.current_thread().name)
            return input_data + 1

        async def execute(self, input_data: Any) -> Any:
            threads.append(threading.current_thread().name)
            result = await super().execute(input_data)
            return result.data * 10

    assert (await Around(ProcessConfig(ProcessType.THREAD)).run(1)).data == 20
    assert threads[0] == threads[1] != threading.current_thread().name


async def test_one_that_runs_another_leaves_it_its_own_place() -> None:
    class Outer(BaseProcess):
        async def execute(self, input_data: Any) -> Any:
            return (await Node("inner", ProcessType.THREAD).execute(None)).data

    assert (await Outer(ProcessConfig()).run()).data["thread"] != threading.current_thread().name


async def test_by_itself_it_leaves_no_pool_behind() -> None:
    manager = WorkflowPoolManager.get_instance()
    results = await asyncio.gather(*[Node(f"node{n}", ProcessType.THREAD).run({}) for n in range(5)])
    assert all(result.success for result in results)
    assert manager.open_pools == []


async def test_cancelling_run_cancels_the_process() -> None:
    started = asyncio.Event()

    class Starts(BaseProcess):
        async def execute(self, input_data: Any) -> None:
            started.set()
            await asyncio.Future()

    process = Starts(ProcessConfig())
    running = asyncio.create_task(process.run())
    async with asyncio.timeout(5):
        await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert process.metadata.state is ProcessState.FAILED
    assert "Cancelled" in (process.metadata.last_error or "")


async def test_one_that_raises_cancelled_error_itself_has_failed() -> None:
    class Quits(BaseProcess):
        async def execute(self, input_data: Any) -> Any:
            raise asyncio.CancelledError

    result = await Quits(ProcessConfig()).run()
    assert (result.success, result.error_type) == (False, "ProcessCancelled")


async def test_one_that_cannot_be_pickled_fails_with_the_reason() -> None:
    result = await Unpicklable("locked").run()
    assert result.error_type == "NotTransportable"
    assert "locked" in (result.error or "")
    assert "lock" in (result.error or "")


# Time ---------------------------------------------------------------------------------------------


async def test_a_thread_that_is_abandoned_is_counted_until_it_ends() -> None:
    go_on = threading.Event()

    class Stuck(BaseProcess):
        def process(self, input_data: Any) -> None:
            go_on.wait()

    manager = WorkflowPoolManager.get_instance()
    before = manager.abandoned_threads
    threads = set(threading.enumerate())
    await Stuck(ProcessConfig(ProcessType.THREAD, timeout=0.1)).run()
    assert manager.abandoned_threads == before + 1
    abandoned = set(threading.enumerate()) - threads
    go_on.set()
    for thread in abandoned:
        await asyncio.to_thread(thread.join, 5)
    assert manager.abandoned_threads == before


async def test_abandoned_threads_take_nobodys_place() -> None:
    go_on = threading.Event()

    class Stuck(BaseProcess):
        def process(self, input_data: Any) -> None:
            go_on.wait()

    with contextlib.ExitStack() as stack:
        stack.callback(go_on.set)
        workflow = Workflow(max_threads=1)
        for n in range(8):
            Stuck(ProcessConfig(ProcessType.THREAD, f"stuck{n}", timeout=0.05)).register_to(workflow, required=False)
        Give("last", 1, ProcessType.THREAD).register_to(workflow, [f"stuck{n}" for n in range(8)])
        async with asyncio.timeout(10):
            results = await workflow.execute()
        assert results["last"].data == 1


# Trying again -------------------------------------------------------------------------------------


async def test_after_the_last_retry_it_has_failed(tmp_path: Path) -> None:
    process = FailsFirst("flaky", str(tmp_path / "tries"), 10, 2)
    result = await process.run()
    assert (result.success, result.error) == (False, "try 3")
    assert process.metadata.retries == 2


async def test_between_attempts_its_state_is_retrying_for_as_long_as_the_backoff() -> None:
    class Flaky(BaseProcess):
        started: list[float]

        def process(self, input_data: Any) -> None:
            self.started.append(time.monotonic())
            raise OSError("again")

    process = Flaky(ProcessConfig(retry_strategy=RetryStrategy(2, delay_seconds=0.05, backoff_factor=3.0)))
    process.started = []
    process.metadata = metadata = Recorded(process.config.process_id)
    metadata.seen.clear()
    await process.run()
    first, second, third = process.started
    assert second - first >= 0.05
    assert third - second >= 0.15
    states = [value for name, value in metadata.seen if name == "state"]
    waiting, running, retrying = ProcessState.WAITING, ProcessState.RUNNING, ProcessState.RETRYING
    assert states[0] is waiting
    assert [state for state, _ in itertools.groupby(states[1:])] == [
        *(running, retrying, running, retrying, running),
        ProcessState.FAILED,
    ]
    assert [value for name, value in metadata.seen if name == "retries"][-3:] == [0, 1, 2]


async def test_each_attempt_has_the_whole_timeout() -> None:
    class SlowFirst(BaseProcess):
        tries = 0

        async def execute(self, input_data: Any) -> str:
            self.tries += 1
            await asyncio.sleep(30 if self.tries < 3 else 0)
            return "at last"

    config = ProcessConfig(timeout=0.1, retry_strategy=RetryStrategy(2, 0.0))
    assert (await SlowFirst(config).run()).data == "at last"


# Rules --------------------------------------------------------------------------------------------


def _positive(value: Any) -> bool:
    return bool(value > 0)


@pytest.mark.parametrize(
    ("value", "message"),
    [(-1, "does not fulfil the validation rule _positive"), ("text", "rule _positive raised TypeError")],
)
async def test_input_that_breaks_a_rule_is_a_failure_that_is_not_tried_again(value: Any, message: str) -> None:
    calls: list[Any] = []

    class Counts(BaseProcess):
        def process(self, input_data: Any) -> None:
            calls.append(input_data)

    config = ProcessConfig(validation_rules=[_positive], retry_strategy=RetryStrategy(3, 0.0))
    process = Counts(config)
    result = await process.run(value)
    assert (result.success, result.error_type, calls) == (False, "ValidationFailed", [])
    assert message in (result.error or "")
    assert process.metadata.retries == 0
    assert (await process.run(1)).success


@pytest.mark.parametrize(
    ("verdict", "says"),
    [
        ([1, 0], "raised ValueError: The truth value of an array"),
        ([1], "raised TypeError: it gave a numpy.ndarray, and not whether all or any of it are true"),
    ],
)
async def test_a_rule_that_gives_an_array_is_a_failure_of_its_node(verdict: list[int], says: str) -> None:
    def rule(value: Any) -> Any:
        return numpy.array(verdict) > 0

    flow = Workflow()
    Give("bad", 1, validation_rules=[rule], fail_fast=False).register_to(flow)
    Give("fine", 2).register_to(flow)
    results = await flow.execute()
    assert (results["bad"].error_type, results["fine"].data) == ("ValidationFailed", 2)
    assert says in (results["bad"].error or "")


async def test_a_rule_that_gives_back_nothing_is_fulfilled() -> None:
    assert (await Give("give", 1, validation_rules=[lambda value: None]).run()).success


# Progress -----------------------------------------------------------------------------------------


def test_progress_is_a_fraction() -> None:
    process = Give("give")
    for done, total, fraction in ((0.25, None, 0.25), (3, 4, 0.75), (9, 4, 1.0), (-1, 4, 0.0), (1, 0, 0.0)):
        process.report_progress(done, total)
        assert process.metadata.progress == fraction
