"""A list of tasks: strategies, workers, life cycle, failures, retries, deadline, placements."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import io
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from stbass import observe
from stbass._engine.backend import ExecutionBackend
from stbass._engine.local import LocalBackend
from stbass._engine.registry import BackendRegistry, default_registry
from stbass._process.context import Composable, ProcessContext
from stbass._process.sync_threads import shared_threads
from stbass._values.endpoint import Placement
from stbass._values.outcome import ProcessResult
from stbass._values.policy import FailurePolicy, RetryPolicy
from stbass.errors import DeadlineExceeded, NotTransportable, ProcessCancelled
from stbass.process import Process as CoreProcess
from stbass.tasklist import Process, Task
from stbass.tasklist.bar import Bar
from tests.support import tasks
from tests.support.backends import registry_of
from tests.support.task_lists import WAYS, Run

STRATEGIES = ["sequential", "parallel", "hybrid"]
FAST = Placement(endpoint="fast")


@pytest.fixture(params=WAYS)
def run(request: pytest.FixtureRequest) -> Run:
    """Every way to execute a list."""
    way: Run = request.param
    return way


def filled(*functions: Callable[..., Any], strategy: str = "sequential", **options: Any) -> Process:
    process = Process("list", strategy, **options)
    for function in functions:
        process.add_task(function)
    return process


async def later(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


# What it is ---------------------------------------------------------------------------------------


def test_it_is_made_with_a_name_and_defaults() -> None:
    process = Process("report")
    assert (process.name, process.strategy, process.status, process.tasks) == (
        "report",
        "sequential",
        "initialized",
        [],
    )
    assert process.max_workers == min(32, (os.cpu_count() or 1) + 4)
    assert Process("report", "parallel", 3).max_workers == 3
    assert process.results == []


def test_it_has_slots() -> None:
    process = Process("report")
    assert not hasattr(process, "__dict__")
    assert {"name", "strategy", "tasks", "status", "max_workers"} <= set(Process.__slots__)
    with pytest.raises(AttributeError):
        process.stauts = "running"  # type: ignore[attr-defined]


def test_add_step_is_add_task() -> None:
    process = Process("report")
    assert process.add_task(tasks.add, 1, right=2) is None  # type: ignore[func-returns-value]
    assert process.add_step(tasks.add, 3, placement=FAST) is None  # type: ignore[func-returns-value]
    assert process.tasks == [(tasks.add, (1,), {"right": 2}, None), (tasks.add, (3,), {}, FAST)]
    assert len(process) == 2


@CoreProcess
async def agent(ctx: ProcessContext) -> None:
    """A process, and no plain callable."""


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: Process("p", "random"),
            ValueError,
            "unknown strategy 'random'; use one of 'sequential', 'parallel', ",
        ),
        (lambda: Process("p", None), ValueError, "unknown strategy None"),  # type: ignore[arg-type]
        (lambda: Process("p", max_workers=0), ValueError, "max_workers must be at least 1, got 0"),
        (lambda: Process("p", max_workers=-3), ValueError, "max_workers must be at least 1, got -3"),
        (lambda: Process("p", max_workers=1.5), TypeError, "max_workers must be a whole number"),  # type: ignore[arg-type]
        (lambda: Process("p", max_workers=True), TypeError, "max_workers must be a whole number"),
        (lambda: Process(""), ValueError, "cannot be empty"),
        (lambda: Process(7), TypeError, "name is a str, got 7"),  # type: ignore[arg-type]
        (lambda: Process("p", deadline=0), ValueError, "deadline"),
        (lambda: Process("p", on_failure="halt"), TypeError, "on_failure must be FailurePolicy"),  # type: ignore[arg-type]
        (lambda: Process("p", registry={}), TypeError, "registry must be a BackendRegistry"),  # type: ignore[arg-type]
        (lambda: Process("p").add_task(7), TypeError, "a task must be callable, got 7"),  # type: ignore[arg-type]
        (lambda: Process("p").add_step(None), TypeError, "a task must be callable, got None"),  # type: ignore[arg-type]
        (lambda: Process("p").add_task(agent), TypeError, "must be a plain callable"),
        (lambda: Process("p").add_task(print, placement="fast"), TypeError, "placement must be"),  # type: ignore[arg-type]
        (lambda: Process("p").execute(deadline=-1), ValueError, "deadline"),
        (lambda: Process("p").execute(on_failure=3), TypeError, "on_failure"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_right_is_refused_when_it_is_given(
    make: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()


# Strategies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_results_come_in_the_order_added(run: Run, strategy: str) -> None:
    process = Process("sums", strategy)
    for number in range(20):
        if number % 3:
            process.add_task(tasks.add, number, right=0)
        else:
            process.add_task(later, number)
    assert run(process) == list(range(20))
    assert process.status == "completed"
    assert [result.value for result in process.results] == list(range(20))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_empty_list_gives_an_empty_list(run: Run, strategy: str) -> None:
    process = Process("nothing", strategy)
    assert run(process) == []
    assert process.status == "completed"


def test_sequential_tasks_run_one_after_the_other_in_order(run: Run) -> None:
    log: list[str] = []

    async def waits(number: int) -> None:
        log.append(f"begin {number}")
        await asyncio.sleep(0.001)
        log.append(f"end {number}")

    def blocks(number: int) -> None:
        log.append(f"begin {number}")
        time.sleep(0.001)
        log.append(f"end {number}")

    process = Process("line")
    for number in range(6):
        process.add_task(waits if number % 2 else blocks, number)
    run(process)
    assert log == [f"{what} {number}" for number in range(6) for what in ("begin", "end")]


@pytest.mark.parametrize("strategy", ["parallel", "hybrid"])
def test_parallel_tasks_run_at_the_same_time(run: Run, strategy: str) -> None:
    together = threading.Barrier(4)

    def meet() -> None:
        together.wait(5)

    async def meet_async() -> None:
        await asyncio.to_thread(together.wait, 5)

    process = Process("meeting", strategy, max_workers=4)
    if strategy == "hybrid":
        for _ in range(4):
            process.add_task(lambda: None)
    for function in (meet, meet_async, meet, meet_async):
        process.add_task(function)
    run(process)
    assert process.status == "completed"


def test_hybrid_runs_the_first_half_in_order_and_then_the_rest_at_once(run: Run) -> None:
    log: list[int] = []
    together = threading.Barrier(3)

    def note(number: int) -> None:
        if number >= 2:
            together.wait(5)
        log.append(number)

    process = Process("half", "hybrid", max_workers=3)
    for number in range(5):
        process.add_task(note, number)
    run(process)
    assert log[:2] == [0, 1]
    assert sorted(log[2:]) == [2, 3, 4]


@pytest.mark.parametrize("workers", [1, 3])
def test_never_more_tasks_at_once_than_workers(run: Run, workers: int) -> None:
    lock, now, most = threading.Lock(), 0, 0
    together = threading.Barrier(workers)

    def step(change: int) -> None:
        nonlocal now, most
        with lock:
            now += change
            most = max(most, now)

    def blocks() -> None:
        step(1)
        together.wait(10)
        step(-1)

    async def waits() -> None:
        step(1)
        await asyncio.to_thread(together.wait, 10)
        step(-1)

    process = Process("busy", "parallel", max_workers=workers)
    for number in range(12):
        process.add_task(waits if number % 2 else blocks)
    run(process)
    assert most == workers


def test_sync_tasks_run_in_the_calling_thread_one_after_the_other_else_in_others() -> None:
    here = threading.current_thread()
    assert filled(threading.current_thread).execute() == [here]
    assert here not in filled(threading.current_thread, strategy="parallel").execute()
    assert filled(threading.current_thread, lambda: later(1)).execute()[0] is here
    assert here not in asyncio.run(filled(threading.current_thread).execute_async())


def test_the_context_variables_of_the_caller_are_seen_by_tasks(run: Run) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
    variable.set("mine")
    for strategy in STRATEGIES:
        assert run(filled(variable.get, variable.get, strategy=strategy)) == ["mine", "mine"]


async def test_the_event_loop_goes_on_while_sync_tasks_run() -> None:
    let_go = threading.Event()
    process = filled(lambda: let_go.wait(5), strategy="sequential")
    running = asyncio.create_task(process.execute_async())
    await asyncio.sleep(0)
    assert process.status == "running"
    let_go.set()
    assert await running == [True]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_whatever_gives_back_a_coroutine_is_awaited(run: Run, strategy: str) -> None:
    process = Process("odd", strategy)
    process.add_task(lambda: later(1))
    process.add_task(functools.partial(later, 2))
    process.add_task(tasks.Adder(), 2)
    process.add_task(lambda: later(4))
    assert run(process) == [1, 2, 3, 4]


# Life cycle ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_status_says_where_it_stands(run: Run, strategy: str) -> None:
    process = Process("life", strategy)
    seen: list[str] = []
    process.add_task(lambda: seen.append(process.status))
    assert process.status == "initialized"
    run(process)
    assert (seen, process.status) == (["running"], "completed")
    process.add_task(tasks.fail, "gone")
    with pytest.raises(LookupError):
        run(process)
    assert process.status == "failed"
    process.reset()
    assert (process.status, process.results, len(process.tasks)) == ("initialized", [], 2)


def test_it_can_be_executed_again(run: Run) -> None:
    calls: list[int] = []
    process = filled(lambda: calls.append(1))
    run(process)
    run(process)
    assert calls == [1, 1]


def test_while_it_runs_it_is_left_alone(run: Run) -> None:
    process = Process("busy")
    refused: list[str] = []

    def meddle() -> None:
        for action in (process.execute, process.reset, lambda: process.add_task(print)):
            with pytest.raises(RuntimeError, match="while it is running") as caught:
                action()
            refused.append(str(caught.value))

    process.add_task(meddle)
    run(process)
    assert [text.split(" 'busy'")[0] for text in refused] == ["cannot execute", "cannot reset", "cannot add a task to"]


# Failures -----------------------------------------------------------------------------------------


def test_a_sequential_failure_is_raised_and_what_comes_after_is_not_started(run: Run) -> None:
    ran: list[int] = []
    process = Process("line")
    process.add_task(ran.append, 1)
    process.add_task(tasks.fail, "gone")
    process.add_task(ran.append, 2)
    with pytest.raises(LookupError, match="gone"):
        run(process)
    assert (ran, process.status) == ([1], "failed")
    first, second, third = process.results
    assert first.is_ok
    assert (second.failure.process_name, str(second.failure.error)) == ("fail", "gone")
    assert "tasks.py" in second.failure.traceback_str
    assert isinstance(third.failure.error, ProcessCancelled)
    assert "'append' was not started" in str(third.failure.error)


def test_a_failure_in_the_first_half_of_a_hybrid_starts_nothing_of_the_second(run: Run) -> None:
    ran: list[int] = []
    process = Process("half", "hybrid")
    process.add_task(tasks.fail, "gone")
    process.add_task(ran.append, 1)
    with pytest.raises(LookupError):
        run(process)
    assert ran == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_parallel_failure_starts_nothing_more(run: Run, workers: int) -> None:
    ran: list[int] = []

    def note() -> None:
        time.sleep(0.001)
        ran.append(1)

    process = Process("wide", "parallel", max_workers=workers)
    process.add_task(tasks.fail, "gone")
    for _ in range(1000):
        process.add_task(note)
    with pytest.raises(LookupError, match="gone"):
        run(process)
    assert len(ran) < 500
    assert process.status == "failed"
    # One that runs then is left to itself, and may end later.
    assert 0 <= len(ran) - sum(result.is_ok for result in process.results) < workers


def test_at_a_failure_coroutines_are_cancelled_and_threads_left_to_themselves(run: Run) -> None:
    both, let_go, ended = threading.Barrier(3), threading.Event(), []

    async def waits() -> None:
        try:
            await asyncio.to_thread(both.wait, 5)
            await asyncio.Future()
        finally:
            ended.append("coroutine")

    def blocks() -> None:
        both.wait(5)
        let_go.wait(60)

    def fails() -> None:
        both.wait(5)
        raise LookupError("gone")

    process = filled(waits, blocks, fails, strategy="parallel", max_workers=3)
    with pytest.raises(LookupError):
        run(process)
    let_go.set()
    assert ended == ["coroutine"]
    cancelled, left, failed = process.results
    assert "'waits' was cancelled" in str(cancelled.failure.error)
    assert "'blocks' was cancelled" in str(left.failure.error)
    assert failed.is_fail


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_collect_runs_all_and_gives_back_a_result_for_each(run: Run, strategy: str) -> None:
    process = filled(lambda: 1, lambda: tasks.fail("one"), lambda: later(2), strategy=strategy)
    process.add_task(tasks.fail, "two")
    for results in (
        run(process, on_failure=FailurePolicy.COLLECT),
        run(
            filled(*[task.function for task in process.tasks[:3]], strategy=strategy, on_failure=FailurePolicy.COLLECT)
        ),
    ):
        assert all(isinstance(result, ProcessResult) for result in results)
        assert [result.is_ok for result in results[:3]] == [True, False, True]
        assert (results[0].value, str(results[1].failure.error), results[2].value) == (1, "one", 2)
        assert results[0].elapsed is not None
    assert process.status == "completed"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_failing_task_is_tried_again_as_the_policy_says(run: Run, strategy: str) -> None:
    tries: dict[str, int] = {}

    def flaky(name: str, times: int) -> str:
        tries[name] = tries.get(name, 0) + 1
        if tries[name] <= times:
            raise ConnectionError(name)
        return name

    async def flaky_async(name: str, times: int) -> str:
        return flaky(name, times)

    process = Process("flaky", strategy, on_failure=RetryPolicy(3, "constant", 0.0))
    process.add_task(flaky, "one", 2)
    process.add_task(flaky_async, "two", 1)
    process.add_task(flaky, "three", 0)
    assert run(process) == ["one", "two", "three"]
    assert tries == {"one": 3, "two": 2, "three": 1}
    process.add_task(flaky, "four", 99)
    with pytest.raises(ConnectionError, match="four"):
        run(process)
    assert tries["four"] == 3


@pytest.mark.parametrize("policy", [FailurePolicy.HALT, FailurePolicy.COLLECT])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_task_that_exits_ends_the_list_under_every_policy(run: Run, strategy: str, policy: FailurePolicy) -> None:
    def leave() -> None:
        raise SystemExit(3)

    process = filled(leave, leave, strategy=strategy, on_failure=policy, max_workers=1)
    with pytest.raises(SystemExit) as caught:
        run(process)
    assert caught.value.code == 3
    assert process.status == "failed"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_coroutine_that_raises_cancelled_error_itself_is_a_failure(run: Run, strategy: str) -> None:
    async def quits() -> None:
        raise asyncio.CancelledError

    process = filled(quits, strategy=strategy)
    with pytest.raises(ProcessCancelled, match="quits"):
        run(process)
    assert process.status == "failed"


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_cancelling_it_cancels_its_coroutines(strategy: str) -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def waits() -> None:
        started.set()
        try:
            await asyncio.Future()
        finally:
            ended.set()

    process = filled(waits, waits, strategy=strategy)
    running = asyncio.create_task(process.execute_async())
    async with asyncio.timeout(5):
        await started.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert ended.is_set()
    assert process.status == "failed"
    assert all(isinstance(result.failure.error, ProcessCancelled) for result in process.results)


async def test_cancelling_it_leaves_threads_to_themselves() -> None:
    loop, started, let_go = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    ran = []

    def blocks() -> None:
        ran.append(1)
        loop.call_soon_threadsafe(started.set)
        let_go.wait(60)

    before = shared_threads().abandoned.value
    process = filled(blocks, blocks)
    running = asyncio.create_task(process.execute_async())
    async with asyncio.timeout(30):
        await started.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert all(isinstance(result.failure.error, ProcessCancelled) for result in process.results)
    # It is counted as long as it runs; when it ends, nothing more is begun.
    assert shared_threads().abandoned.value == before + 1
    let_go.set()
    async with asyncio.timeout(30):
        while shared_threads().abandoned.value > before:  # noqa: ASYNC110 - the thread cannot wake us
            await asyncio.sleep(0.01)
    assert ran == [1]


# Deadline -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_deadline_frees_the_caller(run: Run, strategy: str) -> None:
    let_go = threading.Event()
    process = Process("late", strategy, max_workers=2, on_failure=FailurePolicy.COLLECT, deadline=0.2)
    process.add_task(lambda: "quick")
    process.add_task(let_go.wait, 30)
    process.add_task(asyncio.sleep, 30)
    process.add_task(let_go.wait, 30)
    started = time.monotonic()
    results = run(process)
    assert time.monotonic() - started < 10
    assert results[0].value == "quick"
    phases = [
        result.failure.error.phase for result in results[1:] if isinstance(result.failure.error, DeadlineExceeded)
    ]
    assert len(phases) == 3
    assert "running" in phases
    let_go.set()
    # What the abandoned thread gives back later changes nothing.
    assert process.results[1].is_fail


def test_under_halt_the_deadline_is_raised(run: Run) -> None:
    process = filled(lambda: later(1), strategy="parallel")
    process.add_task(asyncio.sleep, 30)
    with pytest.raises(DeadlineExceeded, match=r"sleep.*0\.05 s"):
        run(process, deadline=0.05)
    assert process.status == "failed"


def test_a_deadline_that_is_not_reached_changes_nothing(run: Run) -> None:
    assert run(filled(lambda: 1, lambda: later(2)), deadline=30) == [1, 2]


# Placements ---------------------------------------------------------------------------------------


class Elsewhere(ExecutionBackend):
    """Runs processes here, and notes them."""

    def __init__(self, limit: int | None = None) -> None:
        self.seen: list[tuple[str, Placement | None, bool]] = []
        self.cancelled: list[str] = []
        self.refuses = False
        self.now = self.most = 0
        self._limit = limit

    async def execute(self, process: Composable, ctx: ProcessContext) -> ProcessResult:
        self.seen.append((ctx.process_name, ctx.placement, ctx.remaining is not None))
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return await process.execute(ctx)
        except asyncio.CancelledError:
            self.cancelled.append(ctx.process_name)
            raise
        finally:
            self.now -= 1

    def check(self, process: Composable, ctx: ProcessContext) -> None:
        if self.refuses:
            raise NotTransportable(f"{ctx.process_name} cannot go")

    async def open_group(self, group_id: str, members: Any) -> None:
        for process, ctx in members:
            self.check(process, ctx)

    async def health_check(self) -> bool:
        return True

    @property
    def concurrency_limit(self) -> int | None:
        return self._limit

    @property
    def name(self) -> str:
        return "elsewhere"


@pytest.fixture
def elsewhere() -> Elsewhere:
    return Elsewhere()


@pytest.fixture
def registry(elsewhere: Elsewhere) -> BackendRegistry:
    return registry_of(elsewhere, "fast")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_placed_task_runs_on_the_backend_of_its_endpoint(
    run: Run, strategy: str, elsewhere: Elsewhere, registry: BackendRegistry
) -> None:
    process = Process("mixed", strategy, registry=registry)
    process.add_task(tasks.add, 1)
    process.add_task(tasks.add, 2, placement=FAST)
    process.add_step(tasks.where_async, placement=FAST)
    process.add_task(later, 4)
    results = run(process, deadline=30)
    assert (results[0], results[1], results[3]) == (2, 3, 4)
    assert sorted(elsewhere.seen) == [("add", FAST, True), ("where_async", FAST, True)]


def test_workers_bound_only_local_tasks_and_backends_bound_theirs(run: Run) -> None:
    registry, elsewhere = BackendRegistry(), Elsewhere(4)
    registry.register("fast", elsewhere)
    process = Process("wide", "parallel", max_workers=1, registry=registry)
    for _ in range(12):
        process.add_task(tasks.where_async, 0.01, placement=FAST)
    run(process)
    assert elsewhere.most == 4


@pytest.mark.parametrize("strategy", ["parallel", "hybrid"])
def test_a_placed_task_is_cancelled_when_another_fails_and_the_other_way_round(
    run: Run, strategy: str, elsewhere: Elsewhere, registry: BackendRegistry
) -> None:
    process = Process("wide", strategy, registry=registry)
    process.add_task(asyncio.sleep, 60, placement=FAST)
    process.add_task(tasks.fail, "gone")
    if strategy == "hybrid":
        process.tasks[:0] = [Task(later, (1,), {}), Task(later, (2,), {})]
    with pytest.raises(LookupError):
        run(process)
    assert elsewhere.cancelled == ["sleep"]
    other = Process("wide", "parallel", registry=registry)
    other.add_task(asyncio.sleep, 60)
    other.add_task(tasks.fail, "gone", placement=FAST)
    with pytest.raises(LookupError, match="gone"):
        run(other)
    assert "'sleep' was cancelled" in str(other.results[0].failure.error)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_placed_task_that_cannot_go_is_refused_before_anything_runs(
    run: Run, strategy: str, elsewhere: Elsewhere, registry: BackendRegistry
) -> None:
    ran: list[int] = []
    elsewhere.refuses = True
    process = Process("refused", strategy, registry=registry)
    process.add_task(ran.append, 1)
    process.add_task(tasks.add, 1, placement=FAST)
    with pytest.raises(NotTransportable, match="add cannot go"):
        run(process)
    assert (ran, process.status) == ([], "failed")


def test_a_placement_nobody_registered_is_here(run: Run, registry: BackendRegistry) -> None:
    process = Process("here", registry=registry)
    process.add_task(os.getpid, placement=Placement(endpoint="nowhere"))
    assert run(process) == [os.getpid()]


def test_a_list_uses_the_default_registry() -> None:
    default_registry().register("only-here", LocalBackend(name="known"))
    try:
        process = Process("default")
        process.add_task(tasks.add, 1, placement=Placement(endpoint="only-here"))
        assert process.execute() == [2]
    finally:
        default_registry().unregister("only-here")


# Looking ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_task_is_an_event_for_observers_and_nothing_else_is(run: Run, strategy: str) -> None:
    events: list[tuple[str, str, str | None]] = []
    process = filled(lambda: 1, lambda: later(2), strategy=strategy)
    process.add_task(tasks.add, 1)
    with observe.subscribe(lambda event: events.append((event.name, event.kind, event.parent))):
        run(process)
    names = ["<lambda>", "<lambda>", "add"]
    assert sorted(events) == sorted((name, kind, "list") for name in names for kind in ("queued", "started", "ended"))


def test_a_progress_bar_counts_what_has_ended_and_what_has_failed() -> None:
    written = io.StringIO()
    with Bar("report", 3, Console(file=written, force_terminal=True, width=100)) as bar:
        for result in (ProcessResult.ok(1), ProcessResult.fail(LookupError()), ProcessResult.ok(2)):
            bar.on_end(result)
    assert "report" in written.getvalue()
    assert "3/3" in written.getvalue()
    assert "1 failed" in written.getvalue()


def test_a_progress_bar_shows_a_name_as_it_is() -> None:
    written = io.StringIO()
    with Bar("[/red] \x1b[2J\n" + "long " * 100, 1, Console(file=written, force_terminal=True, width=120)) as bar:
        bar.on_end(ProcessResult.ok(1))
    assert "[/red] [2J long" in written.getvalue()
    assert "\x1b[2J" not in written.getvalue()
    assert "1/1" in written.getvalue()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_progress_bar_is_shown_on_request(run: Run, strategy: str, capsys: pytest.CaptureFixture[str]) -> None:
    process = filled(lambda: 1, lambda: later(2), strategy=strategy)
    run(process)
    assert capsys.readouterr().err == ""
    run(process, progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "list" in shown.err
    assert "2/2" in shown.err


def test_its_log_is_structured(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "stbass.tasklist")
    process = filled(lambda: 1)
    run(process)
    process.add_task(tasks.fail, "gone")
    with pytest.raises(LookupError):
        run(process)
    seen = [(r.name, r.process_list, r.strategy, r.status, r.tasks) for r in caplog.records]  # type: ignore[attr-defined]
    assert seen == [
        ("stbass.tasklist.process", "list", "sequential", status, count)
        for status, count in (("running", 1), ("completed", 1), ("running", 2), ("failed", 2))
    ]
    assert [caplog.records[n].elapsed >= 0 for n in (1, 3)] == [True, True]  # type: ignore[attr-defined]


# Size ---------------------------------------------------------------------------------------------


def test_many_tasks_leave_no_thread_behind(run: Run) -> None:
    before = set(threading.enumerate())
    process = Process("many", "parallel", max_workers=4)
    for number in range(5000):
        process.add_task(tasks.add, number)
    assert run(process) == list(range(1, 5001))
    # Threads that are free wait for the next call for a while, these and those of earlier tests.
    assert len(set(threading.enumerate()) - before) <= 4
