"""How the tasks of a list run on the core.

A *lane* takes one task after the other from those that are left: one lane for tasks in order, as many as there may be
workers for parallel ones. It runs coroutines on the event loop, hands placed tasks to their backend, and when it comes
to sync functions goes into a thread and stays there as long as the next one is sync too. So a task costs little more
than its function: no future, no turn of the event loop, no hop between threads.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import nullcontext
from time import monotonic
from typing import Any

from stbass._engine.children import open_groups, registry_of
from stbass._engine.lending import lent
from stbass._engine.supervise import (
    Child,
    Unobserved,
    cancelled_itself,
    ended,
    ended_by,
    has_limits,
    run_child,
    spent_around,
    supervise,
    too_late,
    until,
)
from stbass._process.context import ProcessContext, emit_event, failure_of, peek_frame
from stbass._process.frame import Frame
from stbass._process.interrupts import interruptible
from stbass._process.sync_threads import SyncThreads, shared_threads
from stbass._values.outcome import ProcessResult
from stbass._values.policy import FailurePolicy, OnFailure, RetryPolicy
from stbass._values.texts import traceback_text
from stbass.errors import ProcessCancelled
from stbass.observe import events
from stbass.tasklist.task import TaskCall

__all__ = ["Work", "at_once"]


class Work:
    """One execution of a list.

    Args:
        calls: the tasks, in order.
        owner: the context of the whole, with its deadline, its budget and its registry.
        on_failure: what a failure does.
        workers: how many local tasks may run at once.
        here: whether sync tasks that run in order may run in this very thread, which blocks its event loop.
        on_end: called with each result as it comes, in any thread.
    """

    def __init__(
        self,
        calls: Sequence[TaskCall],
        owner: ProcessContext,
        on_failure: OnFailure,
        workers: int,
        *,
        here: bool,
        on_end: Callable[[ProcessResult], None] | None = None,
    ) -> None:
        self.calls = calls
        self.owner = owner
        self.here = here
        self.retry = on_failure if isinstance(on_failure, RetryPolicy) else None
        self.limited = has_limits(peek_frame(owner))
        """Whether a deadline or a budget may end it."""
        self.stopped = False
        """Whether no more tasks are to be started."""
        self.results: list[ProcessResult | None] = [None] * len(calls)
        self.failed: int | None = None
        """The task that failed first."""
        self.halts = on_failure is not FailurePolicy.COLLECT
        """Whether a failure stops the list."""
        self.fatal: BaseException | None = None
        """What a task raised if no policy collects it, such as SystemExit."""
        self._workers = workers
        self._on_end = on_end
        self._recording = threading.Lock()
        self._closed = False
        self._lanes: list[Lane] = []
        self._contexts: dict[int, ProcessContext] = {}
        if events.subscribers:
            for index in range(len(calls)):
                self._contexts[index] = self.context(index)
                emit_event(self._contexts[index], "queued")

    def context(self, index: int) -> ProcessContext:
        """The context of a task."""
        found = self._contexts.get(index)
        return (
            self.owner.child(self.calls[index].name, placement=self.calls[index].placement) if found is None else found
        )

    def record(self, index: int, result: ProcessResult) -> None:
        """A task has ended."""
        with self._recording:
            if self._closed:
                return
            self.results[index] = result
            if result.is_fail:
                self._note_failure(index, result.failure.error)
        if self._on_end is not None:
            self._on_end(result)

    def _note_failure(self, index: int, error: BaseException) -> None:
        if self.failed is None:
            self.failed = index
            self.stopped = self.stopped or self.halts
        if self.fatal is None and not isinstance(error, Exception):
            self.fatal = error
            self.stopped = True

    def check(self) -> None:
        """Check that every placed task can go where it is placed.

        Raises:
            NotTransportable: one cannot.
        """
        for index, call in enumerate(self.calls):
            if call.placement is not None:
                registry_of(self.owner).get(call.placement).check(call, self.context(index))

    def in_order_at_once(self, indices: Sequence[int]) -> bool:
        """Run these tasks one after the other in this thread, without an event loop. False: some of them need one."""
        if not self.here or self.retry is not None or not all(self.calls[index].is_plain for index in indices):
            return False
        lane = Lane(self, deque(indices))
        self._lanes.append(lane)
        if (first := lane.take()) is not None:
            lane.run_plain(first)
        return True

    async def in_order(self, indices: Sequence[int]) -> None:
        """Run these tasks one after the other."""
        lane = Lane(self, deque(indices))
        self._lanes.append(lane)
        if self.here:
            with interruptible():
                await lane.execute(self.owner)
            return
        with SyncThreads("tasks", shared_threads().abandoned) as lane.threads:
            await lane.execute(self.owner)

    async def at_the_same_time(self, indices: Sequence[int]) -> None:
        """Run these tasks at the same time: local ones as there are workers, placed ones as their backends can."""
        registry = registry_of(self.owner)
        placed = [index for index in indices if self.calls[index].placement is not None]
        children = []
        for index in placed:
            call, ctx = self.calls[index], self.context(index)
            assert ctx.placement is not None
            children.append(Child(call, ctx, registry.get(ctx.placement)))
        await open_groups(self.owner, children)
        left = deque(index for index in indices if self.calls[index].placement is None)
        with SyncThreads("tasks", shared_threads().abandoned) as threads:
            for _ in range(min(self._workers, len(left))):
                lane = Lane(self, left, threads)
                self._lanes.append(lane)
                children.append(Child(lane, self.owner.child(self.owner.process_name)))

            def then(which: int, result: ProcessResult) -> tuple[int, ...]:
                if which < len(placed):
                    self.record(placed[which], result)
                return ()

            policy = (
                self.retry if self.retry is not None else FailurePolicy.HALT if self.halts else FailurePolicy.COLLECT
            )
            async with lent(self.owner):
                results = await supervise(children, self.owner, policy, then=then)
        for index, result in zip(placed, results, strict=False):
            if self.results[index] is None:
                self.record(index, result)

    def close(self, why: str) -> list[ProcessResult]:
        """The result of every task; one that has none was cancelled, or never started, because of ``why``."""
        with self._recording:
            self._closed = self.stopped = True
        running = {lane.current for lane in self._lanes}
        at = peek_frame(self.owner).deadline_at
        late = at is not None and monotonic() >= at
        spent = spent_around(self.owner)
        made = []
        for index, result in enumerate(self.results):
            if result is None:
                ctx, runs = self.context(index), index in running
                what = f"task {ctx.process_name!r} was {'cancelled' if runs else 'not started'}: {why}"
                error = too_late(ctx, "running" if runs else "queued") if late else spent or ProcessCancelled(what)
                result = ended(Child(self.calls[index], ctx), error)
            made.append(result)
        return made


class Lane(Unobserved):
    """Takes one task after the other from ``left``.

    Args:
        threads: where sync functions run; None: here.
    """

    unseen = True
    lends = True

    def __init__(self, work: Work, left: deque[int], threads: SyncThreads | None = None) -> None:
        self.work = work
        self.left = left
        self.threads = threads
        self.current: int | None = None
        """The task that it runs now, or ran last."""

    def take(self) -> int | None:
        """The next task, if another one is to be started."""
        if self.work.stopped or (self.work.limited and spent_around(self.work.owner) is not None):
            return None
        try:
            index = self.left.popleft()
        except IndexError:
            return None
        self.current = index
        return index

    async def execute(self, ctx: ProcessContext) -> ProcessResult:
        """Run tasks until none is left; under HALT, its failure is that of its task."""
        work = self.work
        index = self.take()
        while index is not None:
            if self.threads is not None and work.retry is None and work.calls[index].is_plain:
                index = await self._run_plain(index, self.threads, peek_frame(ctx))
                continue
            result = await self._run_one(index)
            work.record(index, result)
            index = self.take()
        failed = work.failed
        if failed is None or not work.stopped or (culprit := work.results[failed]) is None:
            return ProcessResult.ok()
        ctx.process_name = work.calls[failed].name
        return culprit

    async def _run_one(self, index: int) -> ProcessResult:
        """A task that may wait: a coroutine, a placed one, one that is tried again."""
        work, call, ctx = self.work, self.work.calls[index], self.work.context(index)
        backend = None
        if call.placement is not None:
            backend = registry_of(ctx).get(call.placement)
        elif call.is_plain:
            call.threads = self.threads
        child = Child(call, ctx, backend)
        task = asyncio.current_task()
        cancellations = 0 if task is None else task.cancelling()
        try:
            async with nullcontext() if backend is None else lent():
                return await run_child(child, work.retry)
        except asyncio.CancelledError:
            if task is None or task.cancelling() > cancellations:
                raise
            return cancelled_itself(child)

    async def _run_plain(self, index: int, threads: SyncThreads, frame: Frame) -> int | None:
        """This sync task and those after it, in a thread, up to one that is not sync, which is given back.

        When this is cancelled, at the deadline, and when the budget is used up, the task that it is at is left to
        itself: a thread cannot be stopped.
        """
        limits = () if frame.meter is None else frame.meter.limits
        try:
            async with until(frame.deadline_at) as scope:
                with ended_by(limits, scope):
                    following: int | None = await threads.call_plain(self.run_plain, index)
                    return following
        except asyncio.CancelledError:
            self.work.stopped = True
            raise
        except TimeoutError:
            self.work.stopped = True
            return None

    def run_plain(self, index: int) -> int | None:
        """As :meth:`_run_plain`, in the thread that this is called in."""
        work = self.work
        following: int | None = index
        while following is not None and work.calls[following].is_plain:
            ctx = work.context(following)
            try:
                result = at_once(work.calls[following].execute(ctx))
            except BaseException as error:
                if self.threads is None:
                    raise
                # It ends the list, but not the event loop to which the thread would hand it.
                result = failure_of(error, ctx, traceback_text(error))
            work.record(following, result)
            following = self.take()
        return following


def at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that never waits for anything.

    Raises:
        RuntimeError: it does.
    """
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise RuntimeError("a coroutine that must not wait did")
