"""What happened: the outcome of one process."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, Protocol

from typing_extensions import TypeVar

from stbass._values.endpoint import Placement, place_of
from stbass._values.ids import new_id
from stbass._values.pages import safe_html
from stbass._values.span import Span
from stbass._values.texts import (
    attribute_of,
    error_text,
    notes_of,
    plain_text,
    printable,
    shortened,
    text_of,
    value_text,
)
from stbass._values.usage import NO_USAGE, Usage
from stbass._values.waits import ChannelWaits

_LONGEST_VALUE = 10_000
"""Characters of a value in a text for people."""
_MOST_LEAVES = 100

__all__ = [
    "Failure",
    "ProcessResult",
    "RunInfo",
    "aware",
    "errors_in",
    "html_table",
    "leaf_named",
    "leaves_of",
    "moment_of",
    "outcome_of_run",
    "utc_now",
    "with_run",
    "without_value",
]


T_co = TypeVar("T_co", covariant=True, default=Any)
T = TypeVar("T")


def utc_now() -> datetime:
    """The current time with its zone (UTC)."""
    return datetime.now(UTC)


def moment_of(clock: float) -> datetime:
    """When :func:`time.monotonic` showed ``clock``.

    Processes are timed on that clock alone, and dates made from it only when somebody asks: a date costs more than
    starting a process does.
    """
    return datetime.fromtimestamp(time.time() - time.monotonic() + clock, UTC)


@dataclass(frozen=True, slots=True)
class RunInfo:
    """Where and when a process ran; kept with its result for timelines and reports.

    Of a composition that was itself a member, ``inside`` is who has run in it. ``waits`` are those in channels, of one
    that waited long enough to be seen.
    """

    process_name: str = "unknown"
    process_id: str = ""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    queued: timedelta | None = None
    worker: str | None = None
    attempt: int = 1
    placement: Placement | None = None
    usage: Usage | None = None
    inside: Sequence[Span] = field(default=(), repr=False, compare=False)
    waits: ChannelWaits | None = None


class RunSource(Protocol):
    """Knows where a process ran. It is asked only when somebody reads ``ProcessResult.run``."""

    def run_info(self, started_at: datetime | None, ended_at: datetime | None) -> RunInfo: ...

    def outline(self) -> RunSource:
        """One that says the same, and keeps no values of the process alive."""
        ...


@dataclass(frozen=True, slots=True)
class Failure:
    """Everything known about a process that failed.

    Args:
        error: the exception.
        process_name: name of the process.
        process_id: id of this run of it.
        started_at: when it started, or None if it never did.
        failed_at: when it failed.
        placement: where it was placed.
        parent_process: name of the composition around it.
        channel_state: per bound channel, what :attr:`stbass.channel.Chan.stats` said at the failure.
        checkpoint: the last value given to ``ctx.checkpoint``.
        traceback_str: text of the traceback, of the remote one if it ran elsewhere.
        leaves: of a composition: what failed in it, at whatever depth, a line each, at most a hundred: the names of the
            processes from the outside in, the error, and where it ran, such as
            ``"research/fetch: ValueError: no such page (opus @ anthropic, worker w1@host)"``. Of a process that raised
            a group of errors: those errors.
        usage: what it had used, if it said so.
        worker: the worker that ran it; None if it ran in this Python process, or nobody ran it.
        last_progress: what it last gave to ``ctx.progress``, such as ``"3 of 10 reading"``; empty if it never did.
        attempt: which attempt this was: above 1 if it had failed before, or its worker was lost.
        run: id of the run that it was part of, as logs and traces have it; None: nobody knows.
    """

    error: BaseException
    process_name: str = "unknown"
    process_id: str = field(default_factory=new_id)
    started_at: datetime | None = None
    failed_at: datetime = field(default_factory=utc_now)
    placement: Placement | None = None
    parent_process: str | None = None
    channel_state: dict[str, Any] = field(default_factory=dict)
    checkpoint: Any = None
    traceback_str: str = ""
    leaves: tuple[str, ...] = ()
    usage: Usage | None = None
    worker: str | None = None
    last_progress: str = ""
    attempt: int = 1
    run: str | None = None

    def __post_init__(self) -> None:
        if not self.leaves and issubclass(type(self.error), BaseExceptionGroup):
            object.__setattr__(self, "leaves", errors_in(self.error))

    @property
    def elapsed(self) -> timedelta | None:
        """From start to failure; None if it never started."""
        if self.started_at is None:
            return None
        # Somebody may have set the clock back between the two.
        return max(timedelta(0), aware(self.failed_at) - aware(self.started_at))

    @property
    def summary(self) -> str:
        """One line: ``[name] ErrorType: message``; of a composition also the first that failed in it."""
        text = f"[{shortened(self.process_name, _LONGEST_VALUE)}] {error_text(self.error)}"
        return printable(leaf_named(text, self.leaves))

    @property
    def detailed(self) -> str:
        """Many lines: everything that is known."""
        lines = [
            f"Process: {self.process_name} ({self.process_id})",
            f"Error: {error_text(self.error)}",
            f"Failed at: {self.failed_at.isoformat()}",
        ]
        lines[2:2] = [note for note in notes_of(self.error) if note not in self.traceback_str]
        if self.started_at is not None:
            lines.append(f"Started at: {self.started_at.isoformat()} (ran {self.elapsed})")
        if self.parent_process is not None:
            lines.append(f"Parent: {self.parent_process}")
        if self.placement is not None:
            lines.append(f"Placement: {self.placement.summary}")
        if self.worker is not None:
            lines.append(f"Worker: {self.worker}")
        if self.last_progress:
            lines.append(f"Last progress: {self.last_progress}")
        if self.attempt > 1:
            lines.append(f"Attempt: {self.attempt}")
        if self.run is not None:
            lines.append(f"Run: {self.run}")
        lines += [f"Failed in it: {leaf}" for leaf in self.leaves]
        if self.checkpoint is not None:
            lines.append(f"Checkpoint: {text_of(self.checkpoint, _LONGEST_VALUE)}")
        if self.usage is not None:
            lines.append(f"Usage: {self.usage.summary}")
        for name, state in self.channel_state.items():
            lines.append(f"Channel {name}: {text_of(state)}")
        if self.traceback_str:
            lines.append("Traceback:")
            lines.append(self.traceback_str.rstrip())
        text = "\n".join(map(plain_text, lines))
        return shortened(text, len(text))

    def __repr__(self) -> str:
        # Its error may be one whose repr raises, and so may what its checkpoint holds.
        parts = (f"{one.name}={text_of(getattr(self, one.name), _LONGEST_VALUE)}" for one in fields(self))
        return f"Failure({', '.join(parts)})"


def leaf_named(text: str, leaves: Sequence[str]) -> str:
    """``text`` with the first of :attr:`Failure.leaves` behind it, and how many more there are."""
    more = f" (and {len(leaves) - 1} more)" if len(leaves) > 1 else ""
    return f"{text}: {leaves[0]}{more}" if leaves else text


def leaves_of(failed: Iterable[ProcessResult]) -> tuple[str, ...]:
    """:attr:`Failure.leaves` of a composition in which these processes failed."""
    found: list[str] = []
    for result in failed:
        failure = result.failure
        name = shortened(failure.process_name, _LONGEST_VALUE)
        raised = errors_in(failure.error)
        if failure.leaves and failure.leaves != raised:
            found += [f"{name}/{leaf}" for leaf in failure.leaves]
        else:
            found += [f"{name}: {leaf}{_place(failure, result.run)}" for leaf in raised]
        if len(found) > _MOST_LEAVES:
            break
    return _bounded(found)


def errors_in(error: BaseException) -> tuple[str, ...]:
    """The texts of the errors in a group, at whatever depth; of another error its own."""
    found: list[str] = []
    rest = [error]
    while rest and len(found) <= _MOST_LEAVES:
        one = rest.pop()
        if issubclass(type(one), BaseExceptionGroup):
            rest += reversed(attribute_of(one, "exceptions") or ())
        else:
            found.append(error_text(one, _LONGEST_VALUE))
    return _bounded(found)


def _bounded(leaves: list[str]) -> tuple[str, ...]:
    return tuple(leaves) if len(leaves) <= _MOST_LEAVES else (*leaves[: _MOST_LEAVES - 1], "and more")


def _place(failure: Failure, run: RunInfo | None) -> str:
    place = failure.placement
    where = [] if place is None else [place_of(place)]
    if run is not None and run.worker is not None:
        where.append(f"worker {run.worker}")
    where = [plain_text(one) for one in where if one]
    return f" ({', '.join(where)})" if where else ""


def aware(moment: datetime) -> datetime:
    """The moment with a zone. One without a zone, as ``datetime.now()`` gives it, is local time."""
    return moment if moment.tzinfo is not None else moment.astimezone()


class _Draft:
    """A result that is being made: the layout of :class:`ProcessResult`, and not frozen yet."""

    __slots__ = ("_elapsed", "_failure", "_run", "_started", "_value", "is_ok")

    def __init__(
        self,
        ok: bool,
        value: Any,
        failure: Failure | None,
        started: float | None,
        elapsed: float | timedelta | None,
        run: RunSource | RunInfo | None,
    ) -> None:
        self.is_ok = ok
        self._value = value
        self._failure = failure
        self._started = started
        self._elapsed = elapsed
        self._run = run


@dataclass(frozen=True, repr=False, eq=False, init=False)
class ProcessResult(_Draft, Generic[T_co]):
    """The outcome of a process: a value or a :class:`Failure`. Make one with :meth:`ok` or :meth:`fail`.

    For type checkers, ``T_co`` is the type of the value.
    """

    __slots__ = ()

    # A plain slot: the engine asks it of every process.
    is_ok: bool
    _value: Any
    _failure: Failure | None
    elapsed: timedelta | None
    run: RunInfo | None

    def __init__(
        self,
        is_ok: bool,
        _value: Any = None,
        _failure: Failure | None = None,
        elapsed: timedelta | None = None,
        run: RunInfo | None = None,
    ) -> None:
        fill = object.__setattr__
        fill(self, "is_ok", is_ok)
        fill(self, "_value", _value)
        fill(self, "_failure", _failure)
        fill(self, "_started", None)
        fill(self, "_elapsed", elapsed)
        fill(self, "_run", run)

    @classmethod
    def ok(cls, value: T = None) -> ProcessResult[T]:  # type: ignore[assignment]
        """A success with a value."""
        made: Any = _Draft(True, value, None, None, None, None)
        made.__class__ = cls
        return made  # type: ignore[no-any-return]

    @classmethod
    def fail(cls, error: BaseException, **failure_fields: Any) -> ProcessResult[Any]:
        """A failure; keyword arguments are the fields of :class:`Failure`.

        Raises:
            TypeError: ``error`` is not an exception, or a field is unknown.
        """
        if not isinstance(error, BaseException):
            raise TypeError(
                f"ProcessResult.fail takes an exception, got {value_text(error)}; wrap it, e.g. in RuntimeError(…)"
            )
        return cls(False, None, Failure(error, **failure_fields))

    @property
    def is_fail(self) -> bool:
        """Whether it failed."""
        return not self.is_ok

    @property
    def value(self) -> T_co:
        """The value of a success.

        Raises:
            BaseException: on a failure, the stored error itself.
        """
        if self._failure is not None:
            raise self._failure.error
        return self._value  # type: ignore[no-any-return]

    @property
    def failure(self) -> Failure:
        """The failure of a failed process.

        Raises:
            AttributeError: on a success.
        """
        if self._failure is None:
            raise AttributeError("this result is a success: it has no failure; ask is_fail first")
        return self._failure

    @property  # type: ignore[no-redef]
    def elapsed(self) -> timedelta | None:
        """How long it ran; None if it never started, or was not run by :meth:`stbass.Process.execute`."""
        elapsed = self._elapsed
        return timedelta(seconds=elapsed) if isinstance(elapsed, float) else elapsed

    @property  # type: ignore[no-redef]
    def run(self) -> RunInfo | None:
        """Where and when it ran; None if it was not run by :meth:`stbass.Process.execute`."""
        source = self._run
        if source is None or isinstance(source, RunInfo):
            return source
        started = ended = None
        if self._started is not None:
            started, elapsed = moment_of(self._started), self.elapsed
            ended = started if elapsed is None else started + elapsed
        made = source.run_info(started, ended)
        object.__setattr__(self, "_run", made)
        return made

    @property
    def usage(self) -> Usage:
        """What it has used, as it said with ``ctx.usage``, with all that it has run and in all its attempts."""
        run = self.run
        return NO_USAGE if run is None or run.usage is None else run.usage

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ProcessResult):
            return NotImplemented
        return (self.is_ok, self._value, self._failure) == (other.is_ok, other._value, other._failure)

    def __hash__(self) -> int:
        return hash((self.is_ok, self._value, self._failure))

    def __reduce__(self) -> tuple[Any, ...]:
        return ProcessResult, (self.is_ok, self._value, self._failure, self.elapsed, self.run)

    def __repr__(self) -> str:
        if self._failure is None:
            return f"ProcessResult.ok({text_of(self._value, _LONGEST_VALUE)})"
        return f"ProcessResult.fail({self._failure!r})"

    def _repr_html_(self) -> str:
        return html_table([self])


def html_table(results: Iterable[ProcessResult]) -> str:
    """A row for each result: what ran, where, for how long, and what came of it. Notebooks show results so.

    Failures come first, and of many results the rest is only counted.
    """
    ordered = sorted(results, key=lambda result: result.is_ok)
    rest = len(ordered) - _MOST_ROWS
    more = f"<p>… and {rest} more</p>" if rest > 0 else ""
    return _HTML.format(rows="\n".join(map(_html_row, ordered[:_MOST_ROWS]))) + more


def _html_row(result: ProcessResult) -> str:
    run = result.run or RunInfo()
    if result.is_ok:
        outcome, what = "done", text_of(result.value, _LONGEST_CELL)
    else:
        outcome, what = "failed", error_text(result.failure.error)
        run = run if result.run is not None else RunInfo(result.failure.process_name, worker=result.failure.worker)
    where = " · ".join(one for one in (run.placement and run.placement.summary, run.worker) if one)
    took = "" if result.elapsed is None else f"{result.elapsed.total_seconds():.2f} s"
    cells = (run.process_name, where, outcome, took, what)
    return "<tr>" + "".join(f"<td>{safe_html(shortened(cell, _LONGEST_CELL))}</td>" for cell in cells) + "</tr>"


_LONGEST_CELL = 300
_MOST_ROWS = 50
_HTML = """<table style="text-align:left">
<thead><tr><th>process</th><th>where</th><th>outcome</th><th>took</th><th>value or error</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>"""


def outcome_of_run(
    ok: bool,
    value: Any,
    failure: Failure | None,
    started: float | None,
    elapsed: float | timedelta | None,
    source: RunSource | RunInfo | None,
) -> ProcessResult:
    """A result of a run, made without the cost of a frozen dataclass (a third of starting a task).

    Args:
        started: when it started, on :func:`time.monotonic`.
        elapsed: how long it ran; a float is in seconds.
        source: the :class:`RunInfo`, or who is asked for it when somebody looks at it.
    """
    made: Any = _Draft(ok, value, failure, started, elapsed, source)
    made.__class__ = ProcessResult
    return made  # type: ignore[no-any-return]


def with_run(result: ProcessResult, started: float, elapsed: float, source: RunSource) -> ProcessResult:
    """The same outcome as that of a run; the arguments are those of :func:`outcome_of_run`."""
    return outcome_of_run(result.is_ok, result._value, result._failure, started, elapsed, source)


def without_value(result: ProcessResult) -> ProcessResult:
    """The same outcome, but for the value and what else the process has had."""
    source = result._run
    if source is not None and not isinstance(source, RunInfo):
        source = source.outline()
    return outcome_of_run(result.is_ok, None, result._failure, result._started, result._elapsed, source)
