"""A list of tasks: callables, run one after the other, at the same time, or half and half."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from enum import StrEnum
from time import monotonic
from typing import TYPE_CHECKING, Any

from stbass._engine.composition import checked_policy, prepare_owner
from stbass._engine.registry import BackendRegistry, checked_registry
from stbass._process.call import name_of
from stbass._process.context import Composable, checked_name, top_context
from stbass._process.interrupts import called_here, interruptible
from stbass._process.sync_threads import shared_threads
from stbass._values.checks import checked_count, checked_deadline, member_of, refuse_generator
from stbass._values.endpoint import Placement
from stbass._values.outcome import ProcessResult
from stbass._values.policy import FailurePolicy, OnFailure, RetryPolicy
from stbass._values.texts import value_text
from stbass._values.usage import NO_USAGE, Budget, checked_budget
from stbass.tasklist.running import Work
from stbass.tasklist.task import Task, TaskCall

if TYPE_CHECKING:
    from stbass.tasklist.bar import Bar

__all__ = ["Process", "Status", "Strategy"]

_log = logging.getLogger(__name__)


class Strategy(StrEnum):
    """How the tasks of a list are run."""

    SEQUENTIAL = "sequential"
    """One after the other, in the order in which they were added."""
    PARALLEL = "parallel"
    """At the same time."""
    HYBRID = "hybrid"
    """The first half (rounded down) one after the other, then the rest at the same time."""


class Status(StrEnum):
    """The state of a list."""

    INITIALIZED = "initialized"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


def default_workers() -> int:
    """How many workers a list has unless told otherwise."""
    return min(32, (os.cpu_count() or 1) + 4)


class Process:
    """A list of tasks.

    A task is a callable with its arguments. A coroutine function is one too: it runs on the event loop, any other in a
    thread, so parallel tasks must be thread-safe. Tasks that run in order run in the thread that calls :meth:`execute`,
    unless there is a deadline or a budget, or an event loop in that thread: then they run in another one, which can be
    left behind. A task says what it uses with ``stbass.context.running_context().usage(…)``.

    Args:
        name: human-readable identifier.
        strategy: ``"sequential"``, ``"parallel"`` or ``"hybrid"``.
        max_workers: how many tasks may run at the same time; ``min(32, number of CPUs + 4)`` by default. Placed tasks
            do not count: their backend bounds them.
        on_failure: HALT raises the first exception, and starts no more tasks; COLLECT runs all, and gives back a
            :class:`stbass.ProcessResult` for each; a :class:`RetryPolicy` tries the failing task again first.
        deadline: seconds after which tasks that have not ended fail with ``DeadlineExceeded``.
        registry: where placements are looked up; :func:`stbass.placement.default_registry` by default.
        budget: how much each execution may use; then tasks that have not ended fail with ``BudgetExceeded``.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: the strategy is unknown, the name empty, or a number out of range.

    Attributes:
        tasks: what was added, in order.
        status: ``"initialized"``, ``"running"``, ``"completed"`` or ``"failed"``.
        results: what became of each task in the last execution, in order, also after a failure; empty before.
        usage: what the tasks of the last execution have used; nothing before it has ended.
    """

    __slots__ = (
        "_budget",
        "_deadline",
        "_lock",
        "_on_failure",
        "_registry",
        "max_workers",
        "name",
        "results",
        "status",
        "strategy",
        "tasks",
        "usage",
    )

    def __init__(
        self,
        name: str,
        strategy: str = "sequential",
        max_workers: int | None = None,
        *,
        on_failure: OnFailure = FailurePolicy.HALT,
        deadline: float | None = None,
        registry: BackendRegistry | None = None,
        budget: Budget | None = None,
    ) -> None:
        self.name = checked_name(name)
        found = member_of(Strategy, strategy)
        if found is None:
            known = ", ".join(repr(member.value) for member in Strategy)
            raise ValueError(f"unknown strategy {value_text(strategy)}; use one of {known}")
        self.strategy = found
        self.max_workers = default_workers() if max_workers is None else checked_count(max_workers, "max_workers", 1)
        self._on_failure = checked_policy(on_failure)
        self._deadline = checked_deadline(deadline)
        self._registry = checked_registry(registry)
        self._budget = checked_budget(budget)
        self.tasks: list[Task] = []
        self.status = Status.INITIALIZED
        self.results: list[ProcessResult] = []
        self.usage = NO_USAGE
        self._lock = threading.Lock()

    def add_task(
        self, function: Callable[..., Any], /, *args: Any, placement: Placement | None = None, **kwargs: Any
    ) -> None:
        """Append a callable with its arguments.

        Args:
            placement: where to run it, instead of here: the registry's backend for it does, as in ``PLACED_PAR``. On a
                fleet, the function must be a public one at the top level of a module that the worker's ``include``
                names (see ``Call``). An argument of the function that is itself called ``placement``
                has to be bound with :func:`functools.partial`.

        Raises:
            TypeError: it is not callable, or yields, or the placement not a :class:`Placement`.
            RuntimeError: the list is running.
        """
        if not callable(function):
            raise TypeError(f"a task must be callable, got {value_text(function)}")
        refuse_generator(function, f"task {name_of(function)!r}")
        if isinstance(function, Composable):
            raise TypeError(
                f"a task must be a plain callable: {value_text(function)} is a process, which PAR and SEQ run"
            )
        if not isinstance(placement, (Placement, type(None))):
            raise TypeError(f"placement must be a Placement or None, got {value_text(placement)}")
        self._check_idle("add a task to")
        self.tasks.append(Task(function, args, kwargs, placement))

    def add_step(
        self, function: Callable[..., Any], /, *args: Any, placement: Placement | None = None, **kwargs: Any
    ) -> None:
        """Alias for :meth:`add_task`."""
        self.add_task(function, *args, placement=placement, **kwargs)

    def execute(
        self,
        *,
        on_failure: OnFailure | None = None,
        deadline: float | None = None,
        progress: bool = False,
        budget: Budget | None = None,
    ) -> list[Any]:
        """Run all tasks, and give back their results in the order added.

        It needs no event loop. Inside one, it blocks that loop: use :meth:`execute_async` there. Nothing holds up who
        calls it beyond the end of the list: sync tasks that still run at a failure, at the deadline, when the budget is
        used up, or after Ctrl-C are left to themselves, since a thread cannot be stopped.

        Args:
            on_failure, deadline, budget: for this execution, instead of what the constructor was given.
            progress: whether to show a progress bar on standard error.

        Returns:
            What each task gave back; under COLLECT, a :class:`stbass.ProcessResult` for each.

        Raises:
            Exception: the first that a task raised, unless they are collected. Of the tasks that ran meanwhile,
                coroutines and placed ones were cancelled, sync ones left to themselves. What had not started never
                does.
            NotTransportable: a placed task cannot go where it is placed; nothing has run.
            RuntimeError: it is running already.
        """
        with self._execution(on_failure, deadline, progress, budget, here=True) as work:
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                rest = self._begin(work)
                if rest is not None:
                    asyncio.run(rest)
            else:
                with interruptible():
                    called_here(shared_threads().call_waiting, self._begin, work)
        return self._outcome(work)

    async def execute_async(
        self,
        *,
        on_failure: OnFailure | None = None,
        deadline: float | None = None,
        progress: bool = False,
        budget: Budget | None = None,
    ) -> list[Any]:
        """:meth:`execute` on an event loop, which it does not block: sync tasks run in threads.

        Cancelling this cancels coroutines and placed tasks, and leaves sync ones that run to themselves: a thread
        cannot be stopped.
        """
        with self._execution(on_failure, deadline, progress, budget, here=False) as work:
            await self._run(work)
        return self._outcome(work)

    def reset(self) -> None:
        """Back to ``"initialized"``: the tasks stay, their results are forgotten.

        Raises:
            RuntimeError: the list is running.
        """
        self._check_idle("reset")
        self.status = Status.INITIALIZED
        self.results, self.usage = [], NO_USAGE

    def __len__(self) -> int:
        return len(self.tasks)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<Process {self.name!r}: {len(self.tasks)} tasks, {self.strategy}, {self.status}>"

    def _check_idle(self, what: str) -> None:
        if self.status is Status.RUNNING:
            raise RuntimeError(f"cannot {what} {self.name!r} while it is running")

    def _note(self, status: Status, begun: float) -> None:
        """Set the status, and log it."""
        self.status = status
        fields = {"process_list": self.name, "strategy": str(self.strategy), "status": str(status)}
        elapsed = 0.0 if status is Status.RUNNING else monotonic() - begun
        _log.info("%s: %s", self.name, status, extra={**fields, "tasks": len(self.tasks), "elapsed": elapsed})

    @contextmanager
    def _execution(
        self, on_failure: OnFailure | None, deadline: float | None, progress: bool, budget: Budget | None, *, here: bool
    ) -> Iterator[Work]:
        """One execution: the context in which its tasks run. However they end, status and results say how."""
        policy = self._on_failure if on_failure is None else checked_policy(on_failure)
        deadline = self._deadline if deadline is None else checked_deadline(deadline)
        budget = self._budget if budget is None else checked_budget(budget)
        # A sync task in this thread would hold off its end.
        here = here and deadline is None and budget is None
        with self._lock:
            self._check_idle("execute")
            self.status = Status.RUNNING
        begun = monotonic()
        self._note(Status.RUNNING, begun)
        self.results, self.usage = [], NO_USAGE
        owner = top_context(self.name)
        try:
            prepare_owner(owner, self._registry, deadline, budget)
            direct = here or not isinstance(policy, RetryPolicy)
            calls = [TaskCall(task, direct=direct) for task in self.tasks]
            with self._bar(progress) as bar:
                work = Work(
                    calls, owner, policy, self.max_workers, here=here, on_end=None if bar is None else bar.on_end
                )
                try:
                    if self.strategy is not Strategy.PARALLEL:
                        work.check()
                    yield work
                except BaseException as error:
                    self.results = work.close(f"{type(error).__name__} ended the list")
                    raise
                self.results = work.close("another task failed")
        except BaseException:
            self._note(Status.FAILED, begun)
            raise
        finally:
            self.usage = owner.used
        self._note(Status.COMPLETED if self._error(work) is None else Status.FAILED, begun)

    def _bar(self, wanted: bool) -> AbstractContextManager[Bar | None]:
        if not wanted:
            return nullcontext()
        # Not at the top: rich takes longer to import than most lists take to run.
        from stbass.tasklist.bar import Bar

        return Bar(self.name, len(self.tasks))

    def _halves(self) -> tuple[range, range]:
        """What runs in order, and what runs at the same time after that."""
        count = len(self.tasks)
        first = {Strategy.SEQUENTIAL: count, Strategy.PARALLEL: 0, Strategy.HYBRID: count // 2}[self.strategy]
        return range(first), range(first, count)

    def _begin(self, work: Work) -> Coroutine[Any, Any, None] | None:
        """Run what needs no event loop. What is left is to be awaited on one."""
        in_order, at_the_same_time = self._halves()
        if not work.in_order_at_once(in_order):
            return self._run(work)
        if at_the_same_time and not work.stopped:
            return work.at_the_same_time(at_the_same_time)
        return None

    async def _run(self, work: Work) -> None:
        in_order, at_the_same_time = self._halves()
        if in_order:
            await work.in_order(in_order)
        if at_the_same_time and not work.stopped:
            await work.at_the_same_time(at_the_same_time)

    def _error(self, work: Work) -> BaseException | None:
        """What :meth:`execute` raises."""
        if not work.halts:
            return work.fatal
        if work.failed is not None:
            return self.results[work.failed].failure.error
        return next((result.failure.error for result in self.results if result.is_fail), None)

    def _outcome(self, work: Work) -> list[Any]:
        """What :meth:`execute` gives back or raises."""
        error = self._error(work)
        if error is not None:
            raise error
        return [result.value for result in self.results] if work.halts else list(self.results)
