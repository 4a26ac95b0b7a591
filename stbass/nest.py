"""What compositions that run processes have in common: policy, deadline, registry, and how they start and fail."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from datetime import timedelta
from time import monotonic
from typing import Any, Generic, Protocol, TypeVar

from stbass import observe
from stbass.composite import Composition, checked_deadline, checked_policy
from stbass.context import ProcessContext
from stbass.errors import ProcessCancelled
from stbass.outcome import ProcessResult, RunInfo, settled
from stbass.policy import OnFailure
from stbass.process import Composable
from stbass.registry import BackendRegistry
from stbass.supervise import too_late

__all__ = ["Nest", "NestResult", "optional_among", "timed"]


class NestResult(Protocol):
    """What every result of a composition can tell."""

    @property
    def is_ok(self) -> bool: ...

    @property
    def value(self) -> Any: ...

    @property
    def results(self) -> list[ProcessResult]: ...

    @property
    def _optional(self) -> frozenset[int]: ...


R = TypeVar("R", bound=NestResult)


class Nest(Composition, Generic[R]):
    """A composition that runs processes, under a policy and until a deadline."""

    _runs_others = True

    def __init__(self, on_failure: OnFailure, deadline: float | None, registry: BackendRegistry | None) -> None:
        self._on_failure = checked_policy(on_failure)
        self._deadline = checked_deadline(deadline)
        self._registry = _checked_registry(registry)

    def __getstate__(self) -> dict[str, Any]:
        # Which backends there are is a matter of the place where it runs.
        return {**self.__dict__, "_registry": None}

    @abstractmethod
    async def _run_in(self, ctx: ProcessContext) -> R:
        """Run its processes inside ``ctx``, whose registry and deadline are set."""

    async def _perform(self, ctx: ProcessContext) -> ProcessResult:
        around = ctx._deadline_at
        self._prepare(ctx)
        return _outcome(ctx, await self._run_in(ctx), around)

    async def _run_at_top(self, ctx: ProcessContext) -> R:
        self._prepare(ctx)
        started = ctx._started = monotonic()
        if not observe.subscribers:
            return await self._run_in(ctx)
        observe.emit(ctx._event("started"))
        result = await self._run_in(ctx)
        outcome = _outcome(ctx, result, None)
        seen = settled(outcome._ok, outcome._value, outcome._failure, started, monotonic() - started, ctx)
        observe.emit(ctx._event("ended", result=seen))
        return result

    def _prepare(self, ctx: ProcessContext) -> None:
        if self._registry is not None:
            ctx._registry = self._registry
        if self._deadline is not None:
            ctx._limit(monotonic() + self._deadline, self._deadline)


class TimedResult:
    """Tells when and how long a composition ran."""

    _run: ProcessResult | None

    @property
    def elapsed(self) -> timedelta | None:
        """How long the whole took."""
        return None if self._run is None else self._run.elapsed

    @property
    def run(self) -> RunInfo | None:
        """When the whole ran, and under which name."""
        return None if self._run is None else self._run.run


def timed(ctx: ProcessContext, started: float) -> ProcessResult:
    """What :class:`TimedResult` looks at: a run of ``ctx`` that began at ``started`` and ends now."""
    return settled(True, None, None, started, monotonic() - started, ctx)


def _checked_registry(value: object) -> BackendRegistry | None:
    if value is None or isinstance(value, BackendRegistry):
        return value
    raise TypeError(f"registry must be a BackendRegistry or None, got {value!r}")


def optional_among(processes: Iterable[Composable]) -> frozenset[int]:
    """Which of them are optional, by index."""
    return frozenset([index for index, process in enumerate(processes) if process._is_optional])


def _outcome(ctx: ProcessContext, result: NestResult, around: float | None) -> ProcessResult:
    """A composition's outcome as a process: its value, or an ``ExceptionGroup`` of the errors of its processes.

    Errors of processes that were only cancelled because another failed are left out of the group.

    Args:
        around: the deadline around it, if any. If that ended it, the error is the deadline, caused by the group.
    """
    if result.is_ok:
        return ProcessResult.ok(result.value)
    results, optional = result.results, result._optional
    failures = [one.failure for index, one in enumerate(results) if not one._ok and index not in optional]
    errors = [failure.error for failure in failures if not isinstance(failure.error, ProcessCancelled)]
    errors = errors or [failure.error for failure in failures]
    group = BaseExceptionGroup(f"{len(failures)} of {len(results)} processes of {ctx.process_name!r} failed", errors)
    if around is not None and monotonic() >= around and any(isinstance(error, TimeoutError) for error in errors):
        late = too_late(ctx, "running")
        late.__cause__ = group
        return ProcessResult.fail(late)
    return ProcessResult.fail(group)
