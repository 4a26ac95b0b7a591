"""The one engine under every composition: run these at once, under this policy, until this deadline.

Rules that every composition has from here:

* A process that fails and is not optional halts the others: under HALT, and under a :class:`RetryPolicy` when it has
  used up its attempts. Those that were cancelled for it fail with :class:`ProcessCancelled`, which says for whom.
* The deadline belongs to whoever supervises the process itself: a composition inside a composition ends its own
  processes at the nearest deadline around it, and so knows what each was doing. At the deadline nobody is halted.
* A backend with a ``deadline_grace`` answers for its processes itself for that long; its own result wins.
* Cancelling :func:`supervise` cancels and awaits every process. No process is cancelled by an exception that passes
  through the task group, so that cancellations from outside are never mixed up with our own.
"""

from __future__ import annotations

import asyncio
import reprlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from time import monotonic

from stbass._channels.cancellation import is_being_cancelled
from stbass._engine.backend import ExecutionBackend
from stbass._engine.holders import Holder
from stbass._engine.limiter import Slot, limiter_of
from stbass._process.context import (
    Composable,
    ProcessContext,
    emit_event,
    failure_of,
    frame_of,
    let_hold,
    next_attempt,
    peek_frame,
    with_all_attempts,
)
from stbass._process.frame import Frame
from stbass._process.meter import Meter
from stbass._values.outcome import ProcessResult
from stbass._values.policy import FailurePolicy, OnFailure, RetryPolicy
from stbass._values.texts import error_text, traceback_text, value_text
from stbass.errors import BudgetExceeded, ConfigurationError, DeadlineExceeded, ProcessCancelled
from stbass.observe import events
from stbass.timer import running

__all__ = [
    "Child",
    "Unobserved",
    "cancelled_itself",
    "ended",
    "ended_by",
    "has_limits",
    "is_limited",
    "lend",
    "run_attempts",
    "run_child",
    "spent_around",
    "supervise",
    "take_over",
    "too_late",
    "until",
]

# A worker's clock may run ahead of ours a little. A process that it ended at the deadline halts nobody.
_CLOCK_TOLERANCE = 0.1

_START_MOST = 250
"""Processes that are started in one turn of the event loop: each does its first step in the next, before all others."""


class Child:
    """A process that is to run, with its context, and the backend that runs it (None: here)."""

    __slots__ = ("backend", "began", "covered", "ctx", "hands_on", "holder", "process")

    def __init__(self, process: Composable, ctx: ProcessContext, backend: ExecutionBackend | None = None) -> None:
        self.process = process
        self.ctx = ctx
        """Of the latest attempt."""
        self.backend = backend
        self.began = False
        """Whether it was handed to whoever runs it; before, it waits for its turn."""
        self.covered = False
        """Whether the slot of the composition is used on its behalf: before it runs, and after, if it hands it on."""
        self.hands_on = False
        """Whether whoever runs it takes its use of the slot over when it has ended, so that nobody comes between."""
        self.holder: Holder | None = None
        """What it is for the channels that it has, if somebody counts who has them."""

    @property
    def in_place(self) -> bool:
        """Whether it is given the slot of the composition around it."""
        return self.backend is None and (not self.process.runs_others or self.process.lends)


async def supervise(
    children: Sequence[Child],
    owner: ProcessContext,
    on_failure: OnFailure,
    *,
    limit: int | None = None,
    first: Iterable[int] | None = None,
    then: Callable[[int, ProcessResult], Iterable[int]] | None = None,
) -> list[ProcessResult]:
    """Run ``children`` at once and give back their results, in their order.

    Args:
        owner: the context of the composition that they belong to.
        limit: how many run at the same time; the rest wait, in order.
        first: indices of those that can start at once; all, by default.
        then: called with each result; gives the indices of those that can start now.
    """
    if not children:
        return []
    return await _Supervision(children, owner, on_failure, limit, first, then).run()


class _Supervision:
    __slots__ = (
        "_children",
        "_group",
        "_halt",
        "_halted_by",
        "_is_starting",
        "_limit",
        "_owner",
        "_plain",
        "_ready",
        "_reason",
        "_results",
        "_retry",
        "_running",
        "_slot",
        "_spare",
        "_tasks",
        "_then",
    )

    def __init__(
        self,
        children: Sequence[Child],
        owner: ProcessContext,
        on_failure: OnFailure,
        limit: int | None,
        first: Iterable[int] | None,
        then: Callable[[int, ProcessResult], Iterable[int]] | None,
    ) -> None:
        self._children = children
        self._owner = owner
        frame = peek_frame(owner)
        self._slot = frame.slot
        self._spare: Child | None = None
        """Has ended, and its use of the slot is for whoever starts next."""
        if self._slot is not None:
            for child in children:
                child.hands_on = True
        self._halt = on_failure is not FailurePolicy.COLLECT
        self._retry = on_failure if isinstance(on_failure, RetryPolicy) else None
        # The children have their deadline and their slot from the owner.
        self._plain = self._retry is None and not is_limited(frame)
        self._limit = len(children) if limit is None else limit
        self._then = then
        self._ready = deque(range(len(children)) if first is None else first)
        self._running = 0
        self._is_starting = False
        """Whether there are more to start at once than are started in one turn of the event loop."""
        self._tasks: list[asyncio.Task[None] | None] = [None] * len(children)
        self._results: list[ProcessResult | None] = [None] * len(children)
        self._halted_by: Child | None = None
        self._reason = ""

    async def run(self) -> list[ProcessResult]:
        if events.subscribers or peek_frame(self._owner).recorder is not None:
            for child in self._children:
                if not child.process.unseen:
                    emit_event(child.ctx, "queued")
        try:
            async with asyncio.TaskGroup() as self._group:
                # In the slot of the composition nobody else may come between.
                most = _START_MOST if self._slot is None else None
                self._start(most)
                while self._is_starting:
                    await asyncio.sleep(0)
                    self._start(most)
                if self._slot is not None:
                    lend(self._owner, [child for child, task in zip(self._children, self._tasks, strict=True) if task])
        finally:
            if self._slot is not None:
                for child in self._children:
                    if child.covered:
                        _uncover(child)
        return [
            self._unstarted(child) if result is None else result
            for child, result in zip(self._children, self._results, strict=True)
        ]

    def _start(self, most: int | None = None) -> None:
        """Start those that can start now, or the first ``most`` of them."""
        self._is_starting = False
        while self._ready and self._running < self._limit:
            if most == 0:
                self._is_starting = True
                break
            if most is not None:
                most -= 1
            index = self._ready.popleft()
            self._running += 1
            if self._spare is not None and self._children[index].in_place:
                self._children[index].covered, self._spare.covered, self._spare = True, False, None
            self._tasks[index] = self._group.create_task(self._run_one(index, self._children[index]))

    async def _run_one(self, index: int, child: Child) -> None:
        try:
            if not self._plain:
                result = await run_child(child, self._retry)
            elif child.backend is not None:
                result = await _run_on(child.backend, child)
            else:
                child.began = True
                result = await child.process.execute(child.ctx)
        except asyncio.CancelledError:
            if self._halted_by is None and is_being_cancelled():
                raise
            result = self._cancelled(child)
        self._results[index] = result
        self._running -= 1
        self._spare = child if child.covered else None
        if not result.is_ok and self._halts(child, result):
            self._halt_for(child, result.failure.error)
        if child.holder is not None:
            child.holder.end(result, tell=self._halted_by is None)
        if self._then is not None or self._ready:
            self._go_on(index, result)
        if self._spare is not None:
            self._spare = None
            if self._running:
                _uncover(child)
            else:
                take_over(self._owner, child)

    def _go_on(self, index: int, result: ProcessResult) -> None:
        # After a cancellation from outside nothing is started any more, whatever this process made of it.
        if self._halted_by is None and not is_being_cancelled():
            if self._then is not None:
                self._ready.extend(self._then(index, result))
            if not self._is_starting:
                self._start()

    def _halts(self, child: Child, result: ProcessResult) -> bool:
        if not self._halt or self._halted_by is not None or child.process.is_optional:
            return False
        if issubclass(type(result.failure.error), BudgetExceeded) and spent_around(self._owner) is not None:
            return False
        deadline_at = peek_frame(self._owner).deadline_at
        if deadline_at is None:
            return True
        tolerance = _CLOCK_TOLERANCE if issubclass(type(result.failure.error), DeadlineExceeded) else 0.0
        return monotonic() < deadline_at - tolerance

    def _halt_for(self, culprit: Child, error: BaseException) -> None:
        self._halted_by = culprit
        self._reason = (
            f"process {culprit.ctx.process_name!r} failed ({error_text(error, 1000)}),"
            f" and that halts {self._owner.process_name!r}"
        )
        self._ready.clear()
        current = asyncio.current_task()
        for task in self._tasks:
            if task is not None and task is not current and not task.done():
                task.cancel()

    def _cancelled(self, child: Child) -> ProcessResult:
        name = child.ctx.process_name
        if self._halted_by is None:
            return cancelled_itself(child)
        halted_by = self._halted_by.ctx.process_name
        return ended(child, ProcessCancelled(f"process {name!r} was cancelled: {self._reason}", halted_by=halted_by))

    def _unstarted(self, child: Child) -> ProcessResult:
        name = child.ctx.process_name
        if self._halted_by is None:
            return ended(child, ProcessCancelled(f"process {name!r} was never started"))
        halted_by = self._halted_by.ctx.process_name
        return ended(child, ProcessCancelled(f"process {name!r} was not started: {self._reason}", halted_by=halted_by))


def cancelled_itself(child: Child) -> ProcessResult:
    """The failure of a process that raised ``CancelledError`` of its own accord."""
    name = child.ctx.process_name
    return ended(child, ProcessCancelled(f"process {name!r} raised CancelledError, though nobody cancelled it"))


async def run_child(child: Child, retry: RetryPolicy | None = None) -> ProcessResult:
    """Run one process to its end, or to its deadline or that of a budget around it, in its place."""
    frame = peek_frame(child.ctx)
    limits = () if frame.meter is None else frame.meter.limits
    if (frame.deadline_at is None and not limits) or (child.backend is None and child.process.runs_others):
        return await run_attempts(child, retry)
    try:
        if not limits:
            async with until(frame.deadline_at, child.backend):
                return await run_attempts(child, retry)
        if spent_around(child.ctx) is not None:
            raise TimeoutError
        async with until(frame.deadline_at, child.backend) as scope:
            with ended_by(limits, scope):
                return await run_attempts(child, retry)
    except TimeoutError:
        spent = spent_around(child.ctx)
        return ended(child, too_late(child.ctx, "running" if child.began else "queued") if spent is None else spent)


def has_limits(frame: Frame) -> bool:
    """Whether something may end processes that run there before they have ended: a deadline or a budget."""
    return frame.deadline_at is not None or (frame.meter is not None and bool(frame.meter.limits))


def is_limited(frame: Frame) -> bool:
    """Whether processes that run there have a deadline, a slot or a budget to keep to."""
    return frame.slot is not None or has_limits(frame)


def spent_around(ctx: ProcessContext) -> BudgetExceeded | None:
    """The error of the nearest budget around that is used up, if any is."""
    meter = peek_frame(ctx).meter
    found = () if meter is None else (limited.spent for limited in meter.limits)
    return next((spent for spent in found if spent is not None), None)


@contextmanager
def ended_by(limits: Sequence[Meter], scope: asyncio.Timeout) -> Iterator[None]:
    """End ``scope`` when one of the budgets is used up, whichever thread notices."""
    loop = asyncio.get_running_loop()
    inside = True

    def end() -> None:
        if inside and not scope.expired():
            scope.reschedule(loop.time())

    def spent() -> None:
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(end)

    for limited in limits:
        limited.watch(spent)
    try:
        yield
    finally:
        inside = False
        for limited in limits:
            limited.unwatch(spent)


def until(deadline_at: float | None, backend: ExecutionBackend | None = None) -> asyncio.Timeout:
    """A scope that ends with ``TimeoutError`` at the deadline, or when a backend's time to answer for it is over."""
    if deadline_at is None:
        return asyncio.timeout(None)
    grace = 0.0 if backend is None else backend.deadline_grace
    left = deadline_at + grace - monotonic()
    if left <= 0:
        raise TimeoutError
    return asyncio.timeout_at(asyncio.get_running_loop().time() + left)


async def run_attempts(child: Child, retry: RetryPolicy | None = None) -> ProcessResult:
    """Run one process, again and again as the policy says. No wait goes past the deadline.

    A further attempt finds the last checkpoint of the one before in ``ctx.resumed_from``.

    Returns:
        The first success, else the last failure. ``child.ctx`` is the context of that attempt.
    """
    result = await _run_once(child)
    if retry is None:
        return result
    for attempt in range(retry.max_attempts - 1):
        if result.is_ok or not retry.tries_again(result.failure.error):
            break
        try:
            delay = retry.wait_after(attempt, result.failure.error)
        except ConfigurationError as error:
            return failure_of(error, child.ctx, traceback_text(error))
        remaining = child.ctx.remaining
        if remaining is not None and delay >= remaining:
            break
        if child.covered:
            _uncover(child)
        await asyncio.sleep(delay)
        child.ctx = next_attempt(child.ctx)
        if result.run is not None:
            # Elsewhere it may have been begun more often: by workers that were lost.
            child.ctx.attempt = max(child.ctx.attempt, result.run.attempt + 1)
        child.ctx.resumed_from = result.failure.checkpoint
        if not child.process.unseen:
            emit_event(child.ctx, "retried", result=result)
        result = await _run_once(child)
    return result


async def _run_once(child: Child) -> ProcessResult:
    if child.backend is not None:
        return await _run_on(child.backend, child)
    process, ctx = child.process, child.ctx
    slot: Slot | None = peek_frame(ctx).slot
    if slot is None:
        child.began = True
        return await process.execute(ctx)
    frame = frame_of(ctx)
    if child.covered or not process.runs_others:
        if not child.covered:
            await slot.enter()
        child.covered, frame.in_slot = False, True
    try:
        child.began = True
        return await process.execute(ctx)
    finally:
        if child.hands_on:
            child.covered, frame.in_slot = frame.in_slot, False
        else:
            _leave_slot(ctx)


async def _run_on(backend: ExecutionBackend, child: Child) -> ProcessResult:
    process, ctx = child.process, child.ctx
    # Thousands share one frame, unless it has to say something of this one alone.
    frame = peek_frame(ctx)
    slot: Slot | None = frame.slot.message if backend.in_place and frame.slot is not None else None
    if not backend.in_place:
        if frame.worker is not None:
            frame_of(ctx).worker = None
        let_hold(ctx, None)  # what runs in another thread is counted as a whole
    around, limiter = running.get(), None
    try:
        limiter = limiter_of(backend)
        if limiter is not None:
            slot = Slot(limiter, slot)
        if slot is not frame.slot:
            frame_of(ctx).slot = slot
        if slot is not None and (limiter is not None or not process.runs_others):
            await slot.enter()
            frame_of(ctx).in_slot = True
        child.began = True
        if around is not None:
            # What the backend does is no part of the code of the process around.
            running.set(None)
        result: object = await backend.execute(process, ctx)
        if not isinstance(result, ProcessResult):
            raise TypeError(
                f"execute of backend {backend.name!r} gave back {value_text(result)}, which is not a ProcessResult"
            )
        return with_all_attempts(result, ctx)
    except Exception as error:
        return ended(child, error, traceback_text(error))
    finally:
        if around is not None:
            running.set(around)
        _leave_slot(ctx)
        if limiter is not None and slot is not None:
            slot.close()


def lend(owner: ProcessContext, children: Iterable[Child]) -> None:
    """The composition ``owner`` has started ``children``, and only waits from now on: its slot is theirs.

    Those that run in its place use it in its stead; if there are none, somebody else can have it meanwhile.
    """
    frame = frame_of(owner)
    if frame.slot is None or not frame.in_slot:
        return
    for child in children:
        if child.in_place:
            frame.slot.join()
            child.covered = True
    _leave_slot(owner)


def take_over(owner: ProcessContext, child: Child) -> None:
    """``child`` has ended: if it still uses the slot of the composition ``owner``, that has it again."""
    if child.covered:
        child.covered, frame_of(owner).in_slot = False, True


def _leave_slot(ctx: ProcessContext) -> None:
    frame = peek_frame(ctx)
    if frame.in_slot:
        frame.in_slot = False
        frame.slot.leave()


def _uncover(child: Child) -> None:
    child.covered = False
    peek_frame(child.ctx).slot.leave()


def too_late(ctx: ProcessContext, phase: str) -> DeadlineExceeded:
    """The error of a process that had not ended at its deadline."""
    frame = peek_frame(ctx)
    span = frame.deadline_span
    what = "was still waiting for its turn" if phase == "queued" else "had not ended"
    checkpoint = "" if ctx.last_checkpoint is None else f"; its last checkpoint: {reprlib.repr(ctx.last_checkpoint)}"
    where = "" if ctx.placement is None else f" on {ctx.placement.summary}"
    if frame.worker is not None:
        where += f" (worker {frame.worker})"
    return DeadlineExceeded(
        f"process {ctx.process_name!r}{where} {what} when the deadline of {_seconds(span)} passed{checkpoint}",
        deadline=span,
        phase=phase,
        worker=frame.worker,
    )


def _seconds(span: float | None) -> str:
    return "its composition" if span is None else f"{span:g} s"


def ended(child: Child, error: BaseException, traceback_str: str = "") -> ProcessResult:
    """A failure that the process itself could not tell of: it was cancelled, or its backend failed."""
    result = failure_of(error, child.ctx, traceback_str)
    if not child.process.unseen:
        emit_event(child.ctx, "ended", result=result)
    return result


class Unobserved(Composable):
    """Something that the engine runs as it runs a process, and of which observers hear nothing.

    It runs processes of its own, and keeps their deadline. Override :meth:`execute`; it must not raise ``Exception``.
    """

    runs_others = True

    async def _perform(self, ctx: ProcessContext) -> ProcessResult:
        return await self.execute(ctx)
