"""Processes at once."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from typing_extensions import TypeVar

from stbass import observe
from stbass._engine.children import hold_together, make_children, open_groups
from stbass._engine.composition import (
    CompositionResult,
    ProcessComposition,
    checked_members,
    timed,
)
from stbass._engine.registry import BackendRegistry
from stbass._engine.supervise import Child, ended, supervise, too_late
from stbass._process.context import Composable, ProcessContext, held_by, optional_among, top_context
from stbass._values.checks import checked_limit
from stbass._values.outcome import ProcessResult
from stbass._values.policy import FailurePolicy, OnFailure, RetryPolicy
from stbass._values.usage import Budget
from stbass.errors import DeadlineExceeded

__all__ = ["PAR", "PARResult", "Parallel"]


T_co = TypeVar("T_co", covariant=True, default=Any)


@dataclass(frozen=True)
class PARResult(CompositionResult[T_co]):
    """The outcome of processes that ran at once; ``T_co`` is the type of their values, if all have the same.

    Args:
        results: one for each process, in the order in which they were declared.
        group: what the backend knows the processes by together, such as a Celery ``GroupResult``; None if it does not.
    """

    results: list[ProcessResult[T_co]]
    group: Any = field(default=None, compare=False)
    _optional: frozenset[int] = field(default=frozenset(), repr=False)
    _run: ProcessResult | None = field(default=None, repr=False, compare=False)
    _deadline: float | None = field(default=None, repr=False, compare=False)

    @property
    def successes(self) -> list[ProcessResult[T_co]]:
        """The results of those that succeeded."""
        return [result for result in self.results if result.is_ok]

    @property
    def value(self) -> list[T_co]:
        """The values of those that succeeded, in the order in which they were declared."""
        return [result.value for result in self.results if result.is_ok]


class Parallel(ProcessComposition[PARResult[T_co], list[T_co]]):
    """What PAR, PLACED_PAR and PAR_FOR have in common."""

    _settings = ("on_failure", "deadline", "limit", "budget")

    def __init__(
        self,
        on_failure: OnFailure,
        deadline: float | None,
        limit: int | None,
        registry: BackendRegistry | None,
        budget: Budget | None,
    ) -> None:
        super().__init__(on_failure, deadline, registry, budget)
        self._limit = checked_limit(limit, "limit")

    async def run(self, *, progress: bool = False) -> PARResult[T_co]:
        """Run all at once; returns when every process has ended, one way or another.

        Cancelling this cancels and awaits all of them.

        Args:
            progress: show on standard error what runs, and how far it is (see :mod:`stbass.observe.display`).

        Raises:
            NotTransportable: a process cannot go to the backend that it was placed on; nothing was started.
            TypeError: a process needs an argument; nothing was started.
        """
        # `observe` loads what draws when it is asked for: that costs more to import than everything else together.
        with observe.progress() if progress else nullcontext():
            return await self._run_at_top(top_context(self.name, self.bound_channels))

    def run_sync(self, *, progress: bool = False) -> PARResult[T_co]:
        """:meth:`run` for callers without an event loop.

        Raises:
            RuntimeError: there is one in this thread.
        """
        return self._run_to_end(self.run(progress=progress))

    async def _run_in(self, ctx: ProcessContext) -> PARResult[T_co]:
        return await self._run_children(ctx, make_children(ctx, self.members))

    async def _run_children(self, ctx: ProcessContext, children: list[Child]) -> PARResult[T_co]:
        started = monotonic()
        group = holder = None
        if self.holds_channels or held_by(ctx) is not None:
            again = isinstance(self._on_failure, RetryPolicy)
            holder = hold_together(ctx, self, children, limit=self._limit, again=again)
        try:
            group = await open_groups(ctx, children)
        except DeadlineExceeded:
            # Nothing has started. As at any other deadline, every process has a result that says so.
            results = [ended(child, too_late(child.ctx, "queued")) for child in children]
        else:
            results = await supervise(children, ctx, self._on_failure, limit=self._limit)
        finally:
            if holder is not None:
                await holder.finish()
        return PARResult(
            results, group, optional_among([child.process for child in children]), timed(ctx, started), self._deadline
        )


class PAR(Parallel[T_co], kind="PAR"):
    """Processes that run at once.

    Args:
        processes: processes or compositions.
        on_failure: HALT cancels the rest when one fails that is not optional; COLLECT lets them end; a
            :class:`RetryPolicy` tries the failing one again first, and halts when that does not help.
        deadline: seconds after which those that have not ended are cancelled and fail with ``DeadlineExceeded``.
        limit: how many run at the same time; the rest wait, in order.
        registry: where the placements of processes are looked up; by default that of the composition around it,
            else :func:`stbass.placement.default_registry`.
        budget: how much all of it may use; then those that have not ended are cancelled, and fail with
            ``BudgetExceeded``.

    Raises:
        TypeError: an argument is of the wrong type, or a process needs more arguments than ``input`` brings.
        ValueError: the deadline or the limit is out of range.
    """

    def __init__(
        self,
        *processes: Composable[T_co],
        on_failure: OnFailure = FailurePolicy.HALT,
        deadline: float | None = None,
        limit: int | None = None,
        registry: BackendRegistry | None = None,
        budget: Budget | None = None,
    ) -> None:
        super().__init__(on_failure, deadline, limit, registry, budget)
        self._set_members(checked_members(processes, "PAR"))

    @property
    def processes(self) -> tuple[Composable, ...]:
        """What it is put together from."""
        return tuple(process for process, _ in self._members)
