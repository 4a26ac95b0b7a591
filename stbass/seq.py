"""Processes one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from stbass._engine.children import hold_in_turn, make_children, migrate_channels
from stbass._engine.composition import (
    CompositionResult,
    ProcessComposition,
    checked_members,
    timed,
)
from stbass._engine.holders import Stages
from stbass._engine.registry import BackendRegistry
from stbass._engine.supervise import Child, cancelled_itself, is_limited, lend, run_child, take_over
from stbass._process.arguments import Lacking
from stbass._process.context import (
    Composable,
    ProcessContext,
    frame_of,
    give,
    given_to,
    held_by,
    optional_among,
    sent_by,
    top_context,
)
from stbass._values.outcome import ProcessResult
from stbass._values.policy import FailurePolicy, OnFailure, RetryPolicy
from stbass._values.usage import Budget

__all__ = ["SEQ", "SEQResult", "Sequential"]


@dataclass(frozen=True)
class SEQResult(CompositionResult):
    """The outcome of processes that ran one after the other.

    Args:
        results: one for each stage that ran, in order.
    """

    results: list[ProcessResult]
    _passed: Any = field(default=None, repr=False)
    _optional: frozenset[int] = field(default=frozenset(), repr=False)
    _run: ProcessResult | None = field(default=None, repr=False, compare=False)
    _deadline: float | None = field(default=None, repr=False, compare=False)
    _at_once = False

    @property
    def value(self) -> Any:
        """What the last stage passed on; of an empty sequence, its input.

        Raises:
            BaseException: the last stage that ran failed, and is not optional: its error.
        """
        if self.results and self.results[-1].is_fail and len(self.results) - 1 not in self._optional:
            raise self.results[-1].failure.error
        return self._passed


class Sequential(ProcessComposition[SEQResult]):
    """What SEQ and SEQ_FOR have in common."""

    async def run(self, input_value: Any = None) -> SEQResult:
        """Run one stage after the other; the first finds ``input_value`` on its channel ``input``.

        Raises:
            NotTransportable: a stage cannot go to the backend that it was placed on; nothing was started.
            TypeError: the first stage needs an argument, and there is no ``input_value``; nothing was started.
        """
        ctx = top_context(self.name, self.bound_channels)
        give(ctx, (input_value,))
        return await self._run_at_top(ctx)

    def lacking(self) -> Iterator[Lacking]:
        # Only the first stage is not given what the one before it passes on. It finds None where it is given nothing.
        for first, _ in self._members[:1] if "input" not in self._channels else ():
            yield from (lack for lack in first.lacking() if not lack.accepts_none)

    def _prepare(self, ctx: ProcessContext) -> None:
        super()._prepare(ctx)
        if given_to(ctx) is None:
            give(ctx, (None,))

    def run_sync(self, input_value: Any = None) -> SEQResult:
        """:meth:`run` for callers without an event loop.

        Raises:
            RuntimeError: there is one in this thread.
        """
        return self._run_to_end(self.run(input_value))

    def _run_in(self, ctx: ProcessContext) -> Coroutine[Any, Any, SEQResult]:
        children = make_children(ctx, self.members)
        return self._run_stages(ctx, children, children)

    def _run_stages(
        self, ctx: ProcessContext, children: list[Child], stages: Iterable[Child]
    ) -> Coroutine[Any, Any, SEQResult]:
        """Run ``stages`` in turn; ``children`` has each of them when its turn has come, if not before."""
        if self.holds_channels or held_by(ctx) is not None:
            return self._run_counted(ctx, children, stages)
        return self._run_turns(ctx, children, stages)

    async def _run_counted(self, ctx: ProcessContext, children: list[Child], stages: Iterable[Child]) -> SEQResult:
        turns, holder = hold_in_turn(ctx, self, children)
        try:
            return await self._run_turns(ctx, children, stages, turns)
        finally:
            if holder is not None:
                await holder.finish()

    async def _run_turns(
        self, ctx: ProcessContext, children: list[Child], stages: Iterable[Child], turns: Stages | None = None
    ) -> SEQResult:
        started = monotonic()
        await migrate_channels(ctx, children)
        for child in children:
            if child.backend is not None:
                child.backend.check(child.process, child.ctx)
        goes_on = self._on_failure is FailurePolicy.COLLECT
        retry = self._on_failure if isinstance(self._on_failure, RetryPolicy) else None
        frame = frame_of(ctx)
        plain = retry is None and not is_limited(frame)
        task = asyncio.current_task()
        assert task is not None
        cancellations = task.cancelling()
        given = given_to(ctx) or (None,)
        results: list[ProcessResult] = []
        for stage in stages:
            give(stage.ctx, given)
            if turns is not None:
                stage.holder = turns.begin(len(results), stage.process, stage.ctx, again=retry is not None)
            try:
                if plain and stage.backend is None:
                    result = await stage.process.execute(stage.ctx)
                else:
                    stage.hands_on = True
                    lend(ctx, (stage,))
                    try:
                        result = await run_child(stage, retry)
                    finally:
                        take_over(ctx, stage)
            except asyncio.CancelledError:
                if task.cancelling() > cancellations:
                    raise
                result = cancelled_itself(stage)
            if task.cancelling() > cancellations:
                # The stage has taken no notice. What comes after it must not run.
                raise asyncio.CancelledError
            results.append(result)
            if turns is not None and stage.holder is not None:
                stage.holder.end(result, tell=goes_on or result.is_ok or stage.process.is_optional)
            if result.is_ok:
                sent = sent_by(stage.ctx)
                given = tuple(sent) if sent else (result.value,)
            elif goes_on or stage.process.is_optional:
                given = (None,)
            else:
                break
        return SEQResult(
            results,
            given[-1],
            optional_among([child.process for child in children]),
            timed(ctx, started),
            self._deadline,
        )


class SEQ(Sequential, kind="SEQ"):
    """Processes that run one after the other, each with what the one before it passed on.

    A stage finds that on its channel ``input``, and passes on what it sends on ``output``, else what it returns. A
    stage may send several values: the next one can receive all of them, in order; the last is the stage's value.
    The stages of an inner composition find the input of the stage that it is.

    Args:
        processes: processes or compositions.
        on_failure: HALT stops at the first stage that fails and is not optional; COLLECT goes on with None; a
            :class:`RetryPolicy` tries the failing stage again first, and stops when that does not help.
        deadline: seconds after which the stage that has not ended is cancelled and fails with ``DeadlineExceeded``.
        registry: where the placements of processes are looked up; by default that of the composition around it,
            else :func:`stbass.placement.default_registry`.
        budget: how much it may use; then the stage that has not ended is cancelled, and fails with ``BudgetExceeded``.

    Raises:
        TypeError: an argument is of the wrong type, or a process needs more arguments than ``input`` brings.
        ValueError: the deadline is out of range.
    """

    def __init__(
        self,
        *processes: Composable,
        on_failure: OnFailure = FailurePolicy.HALT,
        deadline: float | None = None,
        registry: BackendRegistry | None = None,
        budget: Budget | None = None,
    ) -> None:
        super().__init__(on_failure, deadline, registry, budget)
        self._set_members(checked_members(processes, "SEQ"))

    @property
    def processes(self) -> tuple[Composable, ...]:
        """What it is put together from."""
        return tuple(process for process, _ in self._members)
