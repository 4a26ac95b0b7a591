"""How one process of a workflow runs on the core: rules, attempts, timeout, and the backend for its kind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from time import monotonic
from typing import Any, Literal

from stbass._engine.backend import ExecutionBackend
from stbass._engine.children import registry_of
from stbass._engine.lending import lent
from stbass._engine.supervise import Child, Unobserved, ended, has_limits, run_attempts, run_child, supervise
from stbass._process.context import Composable, ProcessContext, failure_of, frame_of, peek_frame, top_context
from stbass._process.interrupts import interruptible
from stbass._process.sync_threads import SyncThreads
from stbass._values.checks import checked_verdict
from stbass._values.endpoint import Placement
from stbass._values.outcome import ProcessResult as CoreResult
from stbass._values.outcome import errors_in, leaf_named, utc_now
from stbass._values.policy import FailurePolicy
from stbass.backends._pool_protocol import sendable
from stbass.errors import NotTransportable, ProcessCancelled, ProcessSkipped, ValidationFailed
from stbass.workflow.code import fraction, is_coroutine, run_code
from stbass.workflow.config import BackoffPolicy, ProcessType
from stbass.workflow.pools import Pools, WorkflowPoolManager
from stbass.workflow.protocols import ProcessLike, WorkflowLike
from stbass.workflow.remote import remote_of
from stbass.workflow.state import ProcessResult, ProcessState

__all__ = [
    "NodeRun",
    "Verdict",
    "Watch",
    "check_picklable",
    "described",
    "look_at_input",
    "reset",
    "run_alone",
    "settle",
]

Watch = dict[str, ProcessLike]
"""Processes whose progress comes from elsewhere, by the id of their run."""

Verdict = ValidationFailed | Literal["fine"]


class Code(Composable):
    """A process's own code.

    Args:
        thread: whether the event loop must stay free, so that sync code runs in a thread.
        threads: where it runs; None: on this event loop.
    """

    def __init__(
        self, process: ProcessLike, input_data: Any, *, thread: bool = False, threads: SyncThreads | None = None
    ) -> None:
        self.process = process
        self.input_data = input_data
        self.thread = thread
        self.threads = threads

    async def _perform(self, ctx: ProcessContext) -> Any:
        return await run_code(self.process, self.input_data, thread=self.thread, threads=self.threads)


class NodeRun(Unobserved):
    """One run of one process of a workflow.

    Args:
        process: which one.
        placement: where it is placed, or None.
        pools: where threads and Python processes come from.
        give_input: gives its input when it starts.
        watch: where to enter it if its progress comes from elsewhere.
        verdict: what came of looking at its input, if that has been done.
        optional: whether the others go on when it fails.
    """

    def __init__(
        self,
        process: ProcessLike,
        placement: Placement | None,
        pools: Pools,
        give_input: Callable[[], Any],
        watch: Watch | None = None,
        verdict: Verdict | None = None,
        *,
        optional: bool = False,
    ) -> None:
        self.process = process
        self.where = placement
        self.pools = pools
        self.give_input = give_input
        self.watch = watch
        self.verdict = verdict
        self.began: float | None = None
        """When it began, on :func:`time.monotonic`."""
        self._name = str(process.config.process_id)
        self._is_optional = optional

    async def execute(self, ctx: ProcessContext) -> CoreResult:
        """Run it; never raises ``Exception``."""
        process = self.process
        config, metadata = process.config, process.metadata
        self.began = monotonic()
        metadata.state = ProcessState.RUNNING
        metadata.start_time = utc_now()
        input_data = self.give_input()
        if config.validation_rules is not None:
            verdict = look_at_input(process, input_data) if self.verdict is None else self.verdict
            if isinstance(verdict, ValidationFailed):
                return ended(Child(self, ctx), verdict)
        strategy = config.retry_strategy
        plain = config.process_type is ProcessType.ASYNC and self.where is None
        if plain and strategy is None and config.timeout is None and not has_limits(peek_frame(ctx)):
            return await Code(process, input_data).execute(ctx)
        policy = None if strategy is None else BackoffPolicy(strategy)
        attempt = _Attempt(self, input_data, 1 if policy is None else policy.max_attempts)
        return await run_attempts(Child(attempt, ctx), policy)


class _Attempt(Unobserved):
    """One attempt, with its timeout."""

    def __init__(self, run: NodeRun, input_data: Any, most: int) -> None:
        self.run = run
        self.input_data = input_data
        self.most = most

    async def execute(self, ctx: ProcessContext) -> CoreResult:
        run, process = self.run, self.run.process
        metadata, timeout = process.metadata, process.config.timeout
        metadata.state = ProcessState.RUNNING
        metadata.retries = ctx.attempt - 1
        inner = ctx.child(ctx.process_name, parent=ctx.parent, placement=run.where)
        inner.attempt = ctx.attempt
        inner.process_id = ctx.process_id
        inner.resumed_from = ctx.resumed_from
        if timeout is not None:
            frame_of(inner).limit(monotonic() + timeout, timeout)
        work, backend = self._work(inner)
        if run.watch is not None:
            run.watch[inner.process_id] = process
        result = await run_child(Child(work, inner, backend))
        if result.is_fail:
            metadata.last_error = described(result.failure.error)
            if ctx.attempt < self.most:
                metadata.state = ProcessState.RETRYING
        return result

    def _work(self, ctx: ProcessContext) -> tuple[Composable, ExecutionBackend | None]:
        """What to run, and on which backend; None: here."""
        run, process = self.run, self.run.process
        if run.where is not None:
            return remote_of(process, self.input_data), registry_of(ctx).get(run.where)
        kind = process.config.process_type
        if kind is ProcessType.PROCESS:
            frame_of(ctx).sink = Progress(process)
            # There, the event loop must stay free: it is told when to end.
            return Code(process, self.input_data, thread=True), run.pools[kind]
        if kind is ProcessType.ASYNC and (is_coroutine(process) or not has_limits(peek_frame(ctx))):
            return Code(process, self.input_data), None
        return Code(process, self.input_data, threads=run.pools.threads), run.pools[ProcessType.THREAD]


class Progress:
    """Takes the progress of a process that runs in another Python process."""

    def __init__(self, process: ProcessLike) -> None:
        self._process = process

    def checkpoint(self, value: Any) -> None:
        """Nothing to do: the pool gives it to the next attempt."""

    def progress(self, done: float, total: float | None, note: str) -> None:
        """Enter it in the metadata."""
        self._process.metadata.progress = fraction(done, total)


def check_picklable(process: ProcessLike) -> None:
    """Check that the process can go to another Python process.

    Raises:
        NotTransportable: it cannot.
    """
    sendable(process, f"node {process.config.process_id!s} ({type(process).__qualname__}), which is of kind PROCESS,")


def look_at_input(process: ProcessLike, input_data: Any) -> Verdict:
    """The error of the first validation rule that the input does not fulfil, or ``"fine"``."""
    name = process.config.process_id
    for rule in process.config.validation_rules or ():
        what = getattr(rule, "__qualname__", None) or repr(rule)
        try:
            verdict = rule(input_data)
            is_fine = verdict is None or checked_verdict(verdict, "it")
        except Exception as error:
            broken = ValidationFailed(f"process {name!s}: the validation rule {what} raised {described(error)}")
            broken.__cause__ = error
            return broken
        if not is_fine:
            return ValidationFailed(f"process {name!s}: its input does not fulfil the validation rule {what}")
    return "fine"


def described(error: BaseException) -> str:
    """``ErrorType: message``, or only the type."""
    text = _said(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _said(error: BaseException) -> str:
    """Its message; of a group also what is in it."""
    return leaf_named(str(error), errors_in(error)) if isinstance(error, BaseExceptionGroup) else str(error)


def settle(process: ProcessLike, result: CoreResult, began: float | None) -> ProcessResult:
    """Enter the outcome in the process's metadata, and give it back as the front end has it.

    Args:
        began: when it began, on :func:`time.monotonic`; None if it never did.
    """
    metadata = process.metadata
    elapsed = 0.0 if began is None else monotonic() - began
    start = None if began is None else metadata.start_time
    end = None if start is None else start + timedelta(seconds=elapsed)
    if result.is_ok:
        made = ProcessResult(True, result.value, elapsed, start, end)
        metadata.state = ProcessState.COMPLETED
        metadata.progress = 1.0
    else:
        error = result.failure.error
        kind, text = type(error).__name__, _said(error)
        made = ProcessResult(
            False, None, elapsed, start, end, text, kind, text or kind, error, result.failure.traceback_str
        )
        never_ran = began is None and isinstance(error, (ProcessSkipped, ProcessCancelled))
        metadata.state = ProcessState.SKIPPED if never_ran else ProcessState.FAILED
        metadata.last_error = described(error)
    metadata.end_time = end
    metadata.result = made
    return made


def reset(process: ProcessLike, before: ProcessResult | None = None) -> None:
    """Its metadata as it is before a run; of a node that completed in an earlier one, as it was after that."""
    # In place: whoever looks at the metadata while it runs may have taken hold of it before.
    metadata = process.metadata
    metadata.state = ProcessState.WAITING if before is None else ProcessState.COMPLETED
    metadata.retries = 0
    metadata.progress = 0.0 if before is None else 1.0
    metadata.start_time = None if before is None else before.start_time
    metadata.end_time = None if before is None else before.end_time
    metadata.last_error = None
    metadata.result = before


async def run_alone(process: ProcessLike, input_data: Any, workflow: WorkflowLike | None) -> ProcessResult:
    """Run a process by itself, with the pools of ``workflow`` if there is one; what it raises is in the result."""
    reset(process)
    name = str(process.config.process_id)
    ctx = top_context(name)
    if process.config.process_type is ProcessType.PROCESS:
        try:
            check_picklable(process)
        except NotTransportable as error:
            return settle(process, failure_of(error, ctx), None)
    if workflow is not None:
        limits = (workflow.process_id, workflow.max_threads, workflow.max_processes)
    else:
        limits = (f"without a workflow, on event loop {id(asyncio.get_running_loop())}", None, None)
    async with WorkflowPoolManager.get_instance().lease(*limits) as pools:
        run = NodeRun(process, None, pools, lambda: input_data)
        try:
            async with lent(ctx):
                with interruptible():
                    [result] = await supervise([Child(run, ctx)], ctx, FailurePolicy.COLLECT)
        except asyncio.CancelledError as error:
            settle(process, failure_of(error, ctx), run.began)
            raise
    return settle(process, result, run.began)
