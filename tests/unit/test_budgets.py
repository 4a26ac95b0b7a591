"""Budgets of task lists, workflows and dataflow processes: each ends in its own way when one is used up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from stbass import PAR, Budget, FailurePolicy, Process
from stbass._process.context import ProcessContext
from stbass.context import running_context
from stbass.dataflow import LocalProcess, Status
from stbass.dataflow import Process as DataflowProcess
from stbass.errors import BudgetExceeded, JobFinishedError, ProcessSkipped
from stbass.tasklist import Process as TaskList
from stbass.workflow import ProcessType, RetryStrategy, Workflow, WorkflowError
from tests.support.dataflow import Count, Endless, Keep, wire
from tests.support.dataflow_here import HereProcess
from tests.support.living import Spending, Using, UsingInThread, keep_using, use, wait_for_ever
from tests.support.task_lists import WAYS, Run
from tests.support.waiting import until

SPENT = "the budget of 100 tokens is used up"
HUNDRED = Budget(tokens=100)


def test_outside_of_a_process_there_is_no_context() -> None:
    assert running_context() is None


# Task lists -------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", WAYS)
@pytest.mark.parametrize("strategy", ["sequential", "parallel", "hybrid"])
def test_a_list_raises_it_and_starts_no_more(run: Run, strategy: str) -> None:
    tasks = TaskList("spends", strategy, max_workers=1)
    for _ in range(5):
        tasks.add_task(use, 40)
    with pytest.raises(BudgetExceeded, match=SPENT):
        run(tasks, budget=HUNDRED)
    assert [result.is_ok for result in tasks.results] == [True, True, False, False, False]
    assert tasks.usage.tokens == 120
    assert tasks.status == "failed"
    # It is of one execution.
    assert run(tasks, budget=Budget(tokens=201)) == [40] * 5


@pytest.mark.parametrize("run", WAYS)
def test_a_list_cancels_what_runs(run: Run) -> None:
    tasks = TaskList("spends", "parallel", budget=HUNDRED, on_failure=FailurePolicy.COLLECT)
    for task in (keep_using, wait_for_ever, lambda: 5):
        tasks.add_task(task)
    spends, waits, done = run(tasks)
    assert [type(one.failure.error) for one in (spends, waits)] == [BudgetExceeded] * 2
    assert done.value == 5
    assert tasks.usage.tokens == 100


@pytest.mark.parametrize("run", WAYS)
@pytest.mark.parametrize("strategy", ["sequential", "parallel"])
def test_a_task_in_a_thread_is_left_behind(run: Run, strategy: str) -> None:
    let_go = threading.Event()

    def blocks() -> None:
        ctx = running_context()
        assert ctx is not None
        # As a library does that calls back in threads of its own.
        spender = threading.Thread(target=spends, args=(ctx,))
        spender.start()
        let_go.wait(60)

    def spends(ctx: ProcessContext) -> None:
        with pytest.raises(BudgetExceeded):
            ctx.usage(tokens_in=1000)

    try:
        tasks = TaskList("blocks", strategy, max_workers=1, budget=HUNDRED)
        tasks.add_task(blocks)
        tasks.add_task(use, 1)
        with pytest.raises(BudgetExceeded, match=SPENT):
            run(tasks)
        assert not let_go.is_set()
        assert [type(one.failure.error) for one in tasks.results] == [BudgetExceeded] * 2
    finally:
        let_go.set()


@pytest.mark.parametrize("run", WAYS)
def test_a_task_that_ends_all_the_same_is_the_last(run: Run) -> None:
    async def stubborn() -> str:
        with pytest.raises(BudgetExceeded):
            use(100)
        return "done"

    tasks = TaskList("stubborn", budget=HUNDRED, on_failure=FailurePolicy.COLLECT)
    tasks.add_task(stubborn)
    tasks.add_task(use, 1)
    first, second = run(tasks)
    assert first.value == "done"
    assert isinstance(second.failure.error, BudgetExceeded)


def test_a_list_does_not_try_again_after_it() -> None:
    attempts: list[int] = []

    def flaky() -> None:
        attempts.append(1)
        use(60)
        raise ValueError

    tasks = TaskList("flaky", on_failure=FailurePolicy.retry(9, base_delay=0), budget=HUNDRED)
    tasks.add_task(flaky)
    with pytest.raises(BudgetExceeded):
        tasks.execute()
    assert len(attempts) == 2


async def test_a_list_inside_of_a_process_counts_there_and_keeps_to_its_budget() -> None:
    @Process
    async def agent(ctx: ProcessContext) -> None:
        tasks = TaskList("inner", "parallel")
        tasks.add_task(keep_using)
        await tasks.execute_async()

    result = await PAR(agent, budget=HUNDRED).run()
    assert isinstance(result.results[0].failure.error, BudgetExceeded)
    assert result.usage.tokens == 100


# Workflows --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ProcessType.ASYNC, ProcessType.THREAD])
@pytest.mark.parametrize("retry", [None, RetryStrategy(5, 0.0)], ids=["once", "retry"])
async def test_a_workflow_fails_by_it(kind: ProcessType, retry: RetryStrategy | None) -> None:
    workflow = Workflow(process_id="flow")
    Using("early", 5).register_to(workflow)
    Using("spends", 0, process_type=kind, retry_strategy=retry).register_to(workflow, ["early"])
    Using("waits", -1, process_type=kind).register_to(workflow)
    Using("after", 5).register_to(workflow, ["spends"])
    with pytest.raises(WorkflowError, match=SPENT) as caught:
        await workflow.execute(budget=HUNDRED)
    assert isinstance(caught.value.__cause__, BudgetExceeded)
    results = caught.value.results
    assert results["early"].data == 5
    assert [type(results[name].exception) for name in ("spends", "waits")] == [BudgetExceeded] * 2
    assert isinstance(results["after"].exception, ProcessSkipped)
    assert workflow.usage.tokens == 105
    assert workflow.nodes["spends"].process.metadata.retries == 0


async def test_nodes_that_a_workflow_can_do_without_fail_alone() -> None:
    workflow = Workflow()
    Using("spends", 0).register_to(workflow, required=False)
    Using("late", 5).register_to(workflow, ["spends"], required=False)
    results = await workflow.execute(budget=HUNDRED)
    assert [type(one.exception) for one in results.values()] == [BudgetExceeded] * 2
    # Another run has another budget.
    fresh = Workflow()
    Using("early", 99).register_to(fresh)
    for _ in range(2):
        assert (await fresh.execute(budget=HUNDRED))["early"].data == 99
        assert fresh.usage.tokens == 99


@pytest.mark.parametrize("kind", [ProcessType.ASYNC, ProcessType.THREAD])
async def test_sync_nodes_are_counted(kind: ProcessType) -> None:
    workflow = Workflow()
    UsingInThread("one", 60, process_type=kind).register_to(workflow)
    UsingInThread("two", 60, process_type=kind).register_to(workflow, ["one"])
    with pytest.raises(WorkflowError, match=SPENT) as caught:
        await workflow.execute(budget=HUNDRED)
    assert caught.value.failed == "two"


# Dataflow ---------------------------------------------------------------------------------------

KINDS: list[Callable[..., DataflowProcess]] = [LocalProcess, HereProcess]


def chain(kind: Callable[..., DataflowProcess], source: Any) -> DataflowProcess:
    parts = [source, Spending(name="spends"), Keep(name="sink")]
    return kind(parts, [wire(f"{source.name}.y", "spends.x"), wire("spends.y", "sink.x")], name="flow")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_dataflow_process_fails_by_it(kind: Callable[..., DataflowProcess]) -> None:
    async with chain(kind, Endless(name="source")) as process:
        with pytest.raises(ExceptionGroup) as caught:
            await process.run(budget=HUNDRED)
        [spent] = caught.value.exceptions
        assert isinstance(spent, BudgetExceeded)
        assert SPENT in str(spent)
        assert process.status is Status.FAILED
        assert process.usage.tokens == 100
    sink = process.components["sink"]
    assert isinstance(sink, Keep)
    assert len(sink.got) <= 9


@pytest.mark.parametrize("kind", KINDS)
async def test_a_dataflow_process_that_uses_less_runs_to_its_end(kind: Callable[..., DataflowProcess]) -> None:
    process = chain(kind, Count(5, name="source"))
    for _ in range(2):
        async with process:
            await process.run(budget=Budget(tokens=51))
            assert process.usage.tokens == 50
            with pytest.raises(JobFinishedError):
                await process.run(budget=HUNDRED)
    assert process.usage.tokens == 50


async def test_what_was_used_in_steps_before_counts_for_the_budget_of_a_run() -> None:
    async with chain(LocalProcess, Endless(name="source")) as process:
        for _ in range(12):
            await process.step()
        assert process.usage.tokens >= 100
        with pytest.raises(ExceptionGroup) as caught:
            await process.run(budget=HUNDRED)
        assert isinstance(caught.value.exceptions[0], BudgetExceeded)


async def test_a_dataflow_process_inside_of_a_process_counts_there() -> None:
    @Process
    async def agent(ctx: ProcessContext) -> int:
        async with chain(LocalProcess, Count(5, name="source")) as process:
            await process.run()
        return ctx.used.tokens

    result = await PAR(agent).run()
    assert result.value == [50]
    assert result.usage.tokens == 50


async def test_cancelling_stays_cancelling_beside_a_budget() -> None:
    async with chain(LocalProcess, Endless(name="source")) as process:
        running = asyncio.create_task(process.run(budget=Budget(cost=1)))
        await until(lambda: bool(process.usage))
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert process.status is Status.STOPPED


# Bad input --------------------------------------------------------------------------------------


async def test_what_is_no_budget_is_refused() -> None:
    wrong: Any = 100
    with pytest.raises(TypeError, match="budget must be"):
        TaskList("list", budget=wrong)
    with pytest.raises(TypeError, match="budget must be"):
        TaskList("list").execute(budget=wrong)
    with pytest.raises(TypeError, match="budget must be"):
        await Workflow().execute(budget=wrong)
    async with chain(LocalProcess, Count(1, name="source")) as process:
        with pytest.raises(TypeError, match="budget must be"):
            await process.run(budget=wrong)
        await process.run()
