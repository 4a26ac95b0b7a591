"""What compositions have in common: they stand where a process can, travel as the tree of their parts, and run under
a policy and until a deadline."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from time import monotonic
from typing import Any, ClassVar, Generic, Self

from typing_extensions import TypeVar

from stbass._engine.lending import lent
from stbass._engine.registry import BackendRegistry, checked_registry
from stbass._engine.supervise import spent_around, too_late
from stbass._process.arguments import Lacking
from stbass._process.context import (
    Composable,
    ProcessContext,
    begin_span,
    emit_event,
    frame_of,
    given_to,
    meter_of,
    owner_in,
    peek_frame,
    running_context,
)
from stbass._values.checks import checked_deadline
from stbass._values.endpoint import Placement
from stbass._values.outcome import (
    Failure,
    ProcessResult,
    RunInfo,
    html_table,
    leaves_of,
    outcome_of_run,
    with_run,
)
from stbass._values.policy import FailurePolicy, OnFailure, RetryPolicy
from stbass._values.texts import value_text
from stbass._values.timeline import MembersInside, Timeline
from stbass._values.usage import NO_USAGE, Budget, Usage, checked_budget
from stbass.channel import Chan
from stbass.errors import BudgetExceeded, NotTransportable, ProcessCancelled
from stbass.observe import events, spans

__all__ = [
    "Composition",
    "CompositionResult",
    "PlacedProcess",
    "ProcessComposition",
    "checked_composable",
    "checked_members",
    "checked_policy",
    "composition_kinds",
    "kind_of",
    "prepare_owner",
    "timed",
]

PlacedProcess = tuple[Composable, Placement | None]
"""A process and where it was explicitly placed."""

MOST_NESTED = 100
"""How many compositions can stand one inside the other: each takes a part of Python's stack."""

S = TypeVar("S")
V_co = TypeVar("V_co", covariant=True, default=Any)
R = TypeVar("R", bound="CompositionResult[Any]", default=Any)

composition_kinds: dict[str, type[Composition]] = {}
"""Every kind of composition whose module is imported, by the name under which it travels."""


class Composition(Composable[V_co]):
    """A composable that is put together from others and from values, not from a function or a class of the user.

    It travels as ``kind`` (see :func:`kind_of`) and :meth:`parts`, and is made again by :meth:`from_parts`; what any
    composable has (name, optional mark, bound channels, placement) is not among the parts.
    A kind of ours names itself: ``class PAR(Composition, kind="PAR")``.
    """

    _kind: ClassVar[str] = ""

    def __init_subclass__(cls, *, kind: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if kind is not None:
            cls._kind = kind
            composition_kinds[kind] = cls

    @abstractmethod
    def parts(self) -> dict[str, Any]:
        """What it is put together from: composables, at any depth of lists, tuples and dicts, and plain values.

        Raises:
            NotTransportable: it cannot be taken apart before it runs.
        """

    @classmethod
    @abstractmethod
    def from_parts(cls, parts: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`parts`."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        # There is nothing to give back: `run` leaves nothing behind. The form is for programs that read better with it.
        return None

    def _run_to_end(self, coroutine: Coroutine[Any, Any, S]) -> S:
        """Run it on an event loop of its own.

        Raises:
            RuntimeError: there is an event loop in this thread already.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(coroutine)
        coroutine.close()
        what = type(self).__name__
        raise RuntimeError(
            f"{what}.run_sync() was called in a running event loop, which it would block:"
            f" use `await {what}(...).run(...)`"
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


def kind_of(composition: Composition) -> str:
    """The name of its kind, as in :data:`composition_kinds`.

    Raises:
        NotTransportable: its class is the user's own, which a worker would not know.
    """
    kind = composition._kind
    if composition_kinds.get(kind) is not type(composition):
        cls = type(composition)
        raise NotTransportable(
            f"{cls.__module__}:{cls.__qualname__} cannot travel: it is a subclass of a composition;"
            f" use {kind or 'a composition of stbass'} itself, or make it a subclass of Process"
        )
    return kind


def checked_composable(value: object, where: str) -> Composable:
    """``value``, if it can stand in a composition.

    Raises:
        TypeError: it cannot; says where it was given, and what to do.
    """
    if isinstance(value, Composable):
        return value
    if isinstance(value, type) and issubclass(value, Composable):
        hint = f": that is a class; make an instance, {value.__name__}(...)"
    elif isinstance(value, tuple):
        hint = ": pairs of a process and a placement are for PLACED_PAR"
    elif callable(value):
        hint = ": decorate the function with @Process"
    else:
        hint = ""
    raise TypeError(f"{where} must be a process or a composition, got {value_text(value)}{hint}")


def checked_members(values: Iterable[object], what: str) -> tuple[PlacedProcess, ...]:
    """``values``, not explicitly placed, if each can stand in a composition.

    Raises:
        TypeError: one cannot; says which.
    """
    return tuple(
        [
            (value if isinstance(value, Composable) else checked_composable(value, f"argument {index} of {what}"), None)
            for index, value in enumerate(values)
        ]
    )


def checked_policy(value: object) -> OnFailure:
    """``value``, if it can be an ``on_failure``.

    Raises:
        TypeError: it cannot.
    """
    if isinstance(value, (FailurePolicy, RetryPolicy)):
        return value
    raise TypeError(
        f"on_failure must be FailurePolicy.HALT, FailurePolicy.COLLECT or a RetryPolicy, got {value_text(value)}"
    )


class CompositionResult(Generic[V_co]):
    """What the results of compositions have in common; a dataclass derives from it, with these fields.

    ``V_co`` is the type of the values of its processes.
    """

    results: list[ProcessResult[V_co]]
    _optional: frozenset[int]
    _run: ProcessResult | None
    _deadline: float | None
    _at_once: ClassVar[bool] = True

    @property
    def is_ok(self) -> bool:
        """Whether every process that is not optional succeeded."""
        optional = self._optional
        return all(result.is_ok or index in optional for index, result in enumerate(self.results))

    @property
    def failures(self) -> list[Failure]:
        """What is known of those that failed, the optional ones included."""
        return [result.failure for result in self.results if not result.is_ok]

    @property
    def elapsed(self) -> timedelta | None:
        """How long the whole took."""
        return None if self._run is None else self._run.elapsed

    @property
    def usage(self) -> Usage:
        """What all of it has used."""
        used = NO_USAGE if self._run is None else self._run.usage
        return used or sum((result.usage for result in self.results), NO_USAGE)

    @property
    def run(self) -> RunInfo | None:
        """When the whole ran, and under which name."""
        return None if self._run is None else self._run.run

    def timeline(self) -> Timeline:
        """Who ran where and when, for a terminal, a page or a notebook."""
        return Timeline.of(self.results, self.run, self._deadline, at_once=self._at_once)

    def _repr_html_(self) -> str:
        return self.timeline()._repr_html_() + html_table(self.results)

    @property
    @abstractmethod
    def value(self) -> Any:
        """The values of its processes."""


class ProcessComposition(Composition[V_co], Generic[R, V_co]):
    """A composition that runs processes, under a policy and until a deadline."""

    runs_others = True
    lends = True
    depth: int = 1
    """How many compositions stand one inside the other in it, itself included. For the engine."""

    _settings: ClassVar[tuple[str, ...]] = ("on_failure", "deadline", "budget")
    # The processes that are known before it starts, each with where it was explicitly placed.
    _members: Sequence[PlacedProcess] = ()

    def __init__(
        self,
        on_failure: OnFailure,
        deadline: float | None,
        registry: BackendRegistry | None,
        budget: Budget | None,
    ) -> None:
        self._on_failure = checked_policy(on_failure)
        self._deadline = checked_deadline(deadline)
        self._budget = checked_budget(budget)
        self._registry = checked_registry(registry)

    def _set_members(self, members: Sequence[PlacedProcess]) -> None:
        """Take the processes that are known before it starts.

        Raises:
            TypeError: one needs more arguments than the one that it may find on its channel ``input``.
            ValueError: compositions are nested too deep.
        """
        depth = 1
        for member, _ in members:
            if member.runs_others and isinstance(member, ProcessComposition):
                depth = max(depth, 1 + member.depth)
            if member.holds_channels:
                self.holds_channels = True
                self.makes_more = self.makes_more or member.makes_more
            if member.lacks_arguments:
                self.lacks_arguments = True
                for lack in member.lacking():
                    if len(lack.arguments) > 1:
                        raise lack.error()
        if depth > MOST_NESTED:
            raise _too_deep(self.name)
        self.depth, self._members = depth, members

    def given_channels(self) -> Iterator[Chan[Any]]:
        for member, _ in self._members:
            if member.holds_channels:
                yield from member.given_channels()

    def held_channels(self) -> Iterator[Chan[Any]]:
        yield from super().held_channels()
        for member, _ in self._members:
            if member.holds_channels:
                yield from member.held_channels()

    def lacking(self) -> Iterator[Lacking]:
        if self.lacks_arguments and "input" not in self._channels:
            for member, _ in self._members:
                yield from member.lacking()

    @property
    def members(self) -> Sequence[PlacedProcess]:
        """The processes that are known before it starts, each with where it was explicitly placed. For the engine."""
        return self._members

    @property
    def registry(self) -> BackendRegistry | None:
        """Where placements are looked up, as given; None: where the composition around it does."""
        return self._registry

    def parts(self) -> dict[str, Any]:
        """Its processes, and what the constructor was given beside them."""
        return {"processes": [process for process, _ in self._members], **self.settings}

    @property
    def settings(self) -> dict[str, Any]:
        """What its constructor was given beside its processes and its registry, or would have been given."""
        return {name: getattr(self, f"_{name}") for name in self._settings}

    @classmethod
    def from_parts(cls, parts: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`parts`."""
        return cls._make(parts, *parts["processes"])

    @classmethod
    def _make(cls, parts: Mapping[str, Any], *args: Any) -> Self:
        make: Any = cls
        made: Self = make(*args, **{name: parts[name] for name in cls._settings})
        return made

    def __getstate__(self) -> dict[str, Any]:
        # Which backends there are is a matter of the place where it runs.
        return {**self.__dict__, "_registry": None}

    @abstractmethod
    def _run_in(self, ctx: ProcessContext) -> Coroutine[Any, Any, R]:
        """Run its processes inside ``ctx``, whose registry and deadline are set."""

    async def _perform(self, ctx: ProcessContext) -> ProcessResult:
        around = peek_frame(ctx)
        if around.depth >= MOST_NESTED:
            raise _too_deep(self.name)  # made by factories while it ran
        # Several compositions can run in one context, at once or one after the other: each has its deadline, its
        # registry and its budget to itself.
        called_by_process = running_context() is ctx
        owner = owner_in(ctx, apart=called_by_process)
        self._prepare(owner)
        if called_by_process:
            async with lent(owner):
                return _outcome(owner, await self._run_in(owner), around.deadline_at)
        # Its processes use the slot of ``ctx``; what is left of it goes back.
        if around.in_slot:
            around.in_slot, peek_frame(owner).in_slot = False, True
        try:
            result = await self._run_in(owner)
        finally:
            if peek_frame(owner).in_slot:
                around.in_slot, peek_frame(owner).in_slot = True, False
        frame_of(ctx).inside = MembersInside(result.results, result._run, at_once=result._at_once)
        return _outcome(owner, result, around.deadline_at)

    async def _run_at_top(self, ctx: ProcessContext) -> R:
        if self.lacks_arguments and (given_to(ctx) or (None,)) == (None,):
            for lack in self.lacking():
                raise lack.error()
        self._prepare(ctx)
        started = monotonic()
        span = None if spans.current is None else begin_span(self, ctx)
        outcome: ProcessResult | None = None
        try:
            emit_event(ctx, "started")
            if running_context() is None:
                result = await self._run_in(ctx)
            else:
                async with lent(ctx):
                    result = await self._run_in(ctx)
            if events.subscribers or span is not None or peek_frame(ctx).recorder is not None:
                outcome = with_run(_outcome(ctx, result, None), started, monotonic() - started, ctx)
                emit_event(ctx, "ended", result=outcome)
            return result
        finally:
            spans.end(span, outcome)

    def _prepare(self, ctx: ProcessContext) -> None:
        prepare_owner(ctx, self._registry, self._deadline, self._budget)


def prepare_owner(
    ctx: ProcessContext, registry: BackendRegistry | None, deadline: float | None, budget: Budget | None
) -> None:
    """Let what runs inside ``ctx`` find these, and count there what it uses."""
    frame = frame_of(ctx)
    if registry is not None:
        frame.registry = registry
    if deadline is not None:
        frame.limit(monotonic() + deadline, deadline)
    frame.meter = meter_of(ctx)
    if budget is not None:
        frame.meter.limit(budget)


def _too_deep(name: str) -> ValueError:
    return ValueError(
        f"compositions are nested more than {MOST_NESTED} deep, at {name!r}: put processes side by side in one"
        " composition, or let a process run the inner ones in its own code"
    )


def timed(ctx: ProcessContext, started: float) -> ProcessResult:
    """When and how long a composition ran: a run of ``ctx`` that began at ``started`` and ends now."""
    return outcome_of_run(True, None, None, started, monotonic() - started, ctx)


def _outcome(ctx: ProcessContext, result: CompositionResult, around: float | None) -> ProcessResult:
    """The outcome of a composition as a process: its value, or an ``ExceptionGroup`` of the errors of its processes.

    Errors of processes that were only cancelled because another failed are left out of the group.

    Args:
        around: the deadline around it, if any. If that ended it, the error is the deadline, caused by the group; so it
            is with a budget that is used up.
    """
    if result.is_ok:
        return ProcessResult.ok(result.value)
    results, optional = result.results, result._optional
    failed = [one for index, one in enumerate(results) if not one.is_ok and index not in optional]
    told = [one for one in failed if not issubclass(type(one.failure.error), ProcessCancelled)] or failed
    errors = [one.failure.error for one in told]
    group = BaseExceptionGroup(f"{len(failed)} of {len(results)} processes of {ctx.process_name!r} failed", errors)
    if around is not None and monotonic() >= around and any(issubclass(type(error), TimeoutError) for error in errors):
        late = too_late(ctx, "running")
        late.__cause__ = group
        return ProcessResult.fail(late, leaves=leaves_of(told))
    if any(issubclass(type(error), BudgetExceeded) for error in errors) and (spent := spent_around(ctx)) is not None:
        spent.__cause__ = group
        return ProcessResult.fail(spent, leaves=leaves_of(told))
    return ProcessResult.fail(group, leaves=leaves_of(told))
