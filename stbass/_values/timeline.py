"""A timeline: who ran where and when, drawn for a terminal, a page or a report.

A bar has two parts: how long a process waited to be started, and how long it ran. All times come from the clock of the
machine that ran the process, so bars of machines whose clocks differ are shifted by as much.
"""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from heapq import nlargest
from math import floor, log10
from operator import itemgetter
from typing import Any, Protocol, overload

from stbass._values.endpoint import place_of
from stbass._values.outcome import ProcessResult, RunInfo, aware, without_value
from stbass._values.pages import html_page, safe_html, text_width
from stbass._values.span import Span, State, state_after
from stbass._values.texts import error_text, one_line, plain_text, seconds_text
from stbass._values.waits import ChannelWaits

__all__ = ["MembersInside", "Timeline", "most_telling"]

_WAITING = "#d0d7de"
_COLOURS: dict[State, str] = {
    "done": "#2da44e",
    "failed": "#cf222e",
    "too late": "#bf5f00",
    "cancelled": "#8c959f",
    "running": "#0969da",
}
_MARKS: dict[State, str] = {"done": " ", "failed": "✗", "too late": "⧗", "cancelled": "-", "running": ">"}
_LONGEST_NAME = 60
_LONGEST_ERROR = 300
_MOST_LINES = 50
_NARROW = 60
_NARROWEST = 32
"""Columns of a terminal: with fewer than the first an error has a line of its own; with fewer than the second, none."""
_MOST_BARS = 1000
_HEIGHT = 16
_LETTERS = 11
_LABELS = 260
_WIDTH = 700
_MARGIN = 110


class _Happened(Protocol):
    """An event of a run, as far as a timeline needs it."""

    @property
    def kind(self) -> str: ...

    @property
    def path(self) -> str: ...

    @property
    def process_id(self) -> str: ...

    @property
    def worker(self) -> str | None: ...

    @property
    def attempt(self) -> int: ...

    @property
    def at(self) -> datetime: ...

    @property
    def error(self) -> str | None: ...

    @property
    def waits(self) -> ChannelWaits | None: ...


class Timeline:
    """Who ran where and when. A notebook shows it as a picture; ``print`` shows :meth:`to_text`.

    Args:
        spans: one for each process, in the order in which they are shown.
        title: what all of them are together.
        deadline_at: when those that had not ended were cancelled, or would have been; None: never.
    """

    def __init__(self, spans: Sequence[Span], title: str = "", deadline_at: datetime | None = None) -> None:
        self.spans = tuple(spans)
        self.title = one_line(plain_text(title), _LONGEST_NAME)
        self.deadline_at = deadline_at

    @classmethod
    def of(
        cls,
        results: Iterable[ProcessResult],
        around: RunInfo | None = None,
        deadline: float | None = None,
        *,
        at_once: bool = True,
    ) -> Timeline:
        """The timeline of processes that have ended. One of which nobody knows when it ran is left out.

        What has run inside of a composition comes after it, named by its path: ``outer/inner``.

        Args:
            results: theirs.
            around: when what is around them ran, and under which name.
            deadline: of that, in seconds.
            at_once: whether all were there to be started when it began.
        """
        began = None if around is None or around.started_at is None else aware(around.started_at)
        spans = [span for result in results for span in _spans(result, began, at_once)]
        late = None
        if deadline is not None and began is not None:
            late = began + timedelta(seconds=min(deadline, timedelta.max.total_seconds() / 1e6))
        return cls(spans, "" if around is None else around.process_name, late)

    @classmethod
    def of_events(cls, events: Iterable[_Happened], title: str = "") -> Timeline:
        """The timeline of what is told of in events of a run: of each process in it its latest attempt.

        One that has not ended by the last event ends there; but what has run inside of a composition ends with that, if
        nobody has told of its own end: a worker that dies, or a run that is cancelled, tells of the whole alone.
        """
        queued: dict[str, datetime] = {}
        started: dict[str, _Happened] = {}
        ended: dict[str, _Happened] = {}
        names: dict[str, str] = {}
        latest: dict[str, int] = {}
        ends: dict[str, list[tuple[int, _Happened]]] = {}
        last: datetime | None = None
        for number, event in enumerate(events):
            last = event.at
            latest[event.process_id] = number
            if event.kind in ("ended", "retried"):
                ends.setdefault(event.path, []).append((number, event))
            if event.kind != "missed":
                names.setdefault(event.process_id, event.path)
            if event.kind in ("queued", "retried"):
                queued[event.process_id] = event.at
            elif event.kind == "started":
                started[event.process_id] = event
            elif event.kind == "ended":
                ended[event.process_id] = event
        if last is None:
            return cls([], title)
        spans = []
        # An end tells of what is inside only if no other process has its path.
        ends = {path: ends[path] for path, number in Counter(names.values()).items() if number == 1 and path in ends}
        for process_id, path in names.items():
            begun, end = started.get(process_id), ended.get(process_id)
            began_at = None if begun is None else begun.at
            since = min(queued.get(process_id, began_at or last), began_at or last)
            worker = next((one.worker for one in (end, begun) if one is not None and one.worker is not None), None)
            waits = None if end is None else end.waits
            state: State
            state, error = ("running", "") if end is None else _state_told(end.error)
            if end is None and (around := _end_around(path, latest[process_id], ends)) is not None:
                end, state = around, "cancelled"
                if (around.kind, around.error) == ("retried", None) or _WORKER_LOST in (around.error or ""):
                    state, error = "failed", "its worker was lost"
            spans.append(
                Span(
                    _path(path, _LONGEST_NAME),
                    process_id,
                    "" if worker is None else one_line(f"worker {worker}", _LONGEST_NAME),
                    1 if begun is None else begun.attempt,
                    since,
                    began_at,
                    max(last if end is None else end.at, began_at or since),
                    state,
                    one_line(error, _LONGEST_ERROR),
                    waits,
                )
            )
        return cls(spans, title)

    @property
    def started_at(self) -> datetime | None:
        """When the first was there to be started; None if there is none."""
        return min((span.queued_at for span in self.spans), default=None)

    @property
    def ended_at(self) -> datetime | None:
        """When the last ended; None if there is none."""
        return max((span.ended_at for span in self.spans), default=None)

    @property
    def summary(self) -> str:
        """How many there are, how they ended, and how long all of it took."""
        if self.started_at is None or self.ended_at is None:
            return "nothing ran"
        counts = Counter(span.state for span in self.spans)
        states = ", ".join(f"{counts[state]:,} {state}" for state in _COLOURS if counts[state])
        return f"{_counted(len(self.spans))} in {seconds_text(self.ended_at - self.started_at)}: {states}"

    def to_text(self, width: int | None = None, most: int = _MOST_LINES) -> str:
        """For a terminal: ``·`` is waiting to start, ``█`` running, ``░`` waiting in a channel, ``|`` the deadline.

        Args:
            width: in characters; that of the terminal by default.
            most: how many processes have a line; those that failed, then those that took longest.
        """
        # They take longer to load than most programs take to start.
        import shutil

        from rich.cells import cell_len, set_cell_size

        def fitted(text: str, cells: int) -> str:
            return text if cell_len(text) <= cells else f"{set_cell_size(text, cells - 1).rstrip()}…"

        if width is None:
            width = shutil.get_terminal_size((100, 24)).columns
        width = max(width, _NARROWEST)
        shown, left = self._chosen(most)
        names = min(max((cell_len(span.name) for span in shown), default=0), max(8, width // 4))
        room = width - names - 13
        scale = _Scale(self, room)
        lines = [f"{self.title}: {self.summary}" if self.title else self.summary]
        for span in shown:
            taken = seconds_text(span.ran if span.started_at is not None else span.waited)
            name = set_cell_size(fitted(_path(span.name, names), names), names)
            line = f"{name} {scale.bar(span)} {_MARKS[span.state]} {taken:>8}"
            lines.append(line.rstrip())
            more = [text for text in (span.where, span.error) if text and span.state != "done"]
            more = more if width < _NARROW else [", ".join(more)]
            lines += [f"{'':<{names}} {fitted(one_line(text, width), width - names - 1)}" for text in more if text]
        return "\n".join([*lines, *left])

    def to_svg(self, most: int = _MOST_BARS) -> str:
        """A picture, as text: what is known of a process shows where the pointer rests on it.

        Args:
            most: how many processes have a bar; those that failed, then those that took longest.
        """
        shown, left = self._chosen(most)
        scale = _Scale(self, _WIDTH)
        height = _HEIGHT * (len(shown) + len(left) + 2) + 8
        bottom = height - _HEIGHT - 4
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LABELS + _WIDTH + _MARGIN}" height="{height}"'
            f' font-family="system-ui, sans-serif" font-size="{_LETTERS}" fill="#57606a">',
            f"<title>{safe_html(f'{self.title}: {self.summary}' if self.title else self.summary)}</title>",
        ]
        for seconds in scale.ticks:
            x = _LABELS + scale.place(seconds)
            parts.append(f'<path d="M{x:.1f} 4V{bottom}" stroke="{_WAITING}"/>')
            parts.append(f'<text x="{x:.1f}" y="{height - 8}" text-anchor="middle">{seconds_text(seconds)}</text>')
        for number, span in enumerate(shown):
            parts.append(_bar(span, scale, number * _HEIGHT + 6))
        for number, line in enumerate(left, len(shown)):
            parts.append(f'<text x="4" y="{number * _HEIGHT + 17}">{safe_html(line)}</text>')
        if self.deadline_at is not None and (x := scale.place(scale.since(self.deadline_at))) <= _WIDTH:
            parts.append(
                f'<path d="M{_LABELS + x:.1f} 0V{bottom}" stroke="#cf222e" stroke-dasharray="4 3">'
                "<title>the deadline</title></path>"
            )
        return "\n".join([*parts, "</svg>"])

    def to_html(self, most: int = _MOST_BARS) -> str:
        """A page in one piece, which needs nothing else; the arguments are those of :meth:`to_svg`."""
        kinds = [("waiting to start, or in a channel", _WAITING), *_COLOURS.items()]
        legend = " ".join(f'<span style="color:{colour}">■</span> {state}' for state, colour in kinds)
        body = f"<p>{safe_html(self.summary)}</p>\n<p>{legend}</p>\n{self.to_svg(most)}"
        return html_page(self.title or "Timeline", body)

    def _repr_html_(self) -> str:
        return f"<div>{safe_html(self.summary)}</div>{self.to_svg(_MOST_LINES)}"

    def __str__(self) -> str:
        return self.to_text()

    def __repr__(self) -> str:
        return f"<Timeline: {self.summary}>"

    def _chosen(self, most: int) -> tuple[Sequence[Span], list[str]]:
        """Those that are shown, in their order, and what is said of the rest."""
        if len(self.spans) <= most:
            return self.spans, []
        numbers = most_telling(self.spans, most)
        shown = set(numbers)
        rest = Counter(span.state for number, span in enumerate(self.spans) if number not in shown)
        counts = ", ".join(f"{rest[state]:,} {state}" for state in _COLOURS if rest[state])
        return [self.spans[number] for number in numbers], [f"and {len(self.spans) - most:,} more: {counts}"]


_WORKER_LOST = "WorkerLostError: "


def _state_told(error: str | None) -> tuple[State, str]:
    """How a process ended that is told to have ended with that error."""
    if not error:
        return "done", ""
    kind = error.partition("] ")[2] or error
    state: State = "too late" if kind.startswith("DeadlineExceeded") else "failed"
    return "cancelled" if kind.startswith("ProcessCancelled") else state, error


def _end_around(path: str, after: int, ends: Mapping[str, list[tuple[int, _Happened]]]) -> _Happened | None:
    """The first end, after that event, of an attempt of a composition around what has this path."""
    found = []
    for place, sign in enumerate(path):
        told = ends.get(path[:place], []) if sign == "/" else []
        found += told[bisect(told, after, key=itemgetter(0)) :][:1]
    return min(found, key=itemgetter(0))[1] if found else None


class _Scale:
    """Where a moment of a timeline stands among so many units."""

    def __init__(self, timeline: Timeline, units: int) -> None:
        self._units = units
        self._origin = timeline.started_at
        self._deadline_at = timeline.deadline_at
        ended = timeline.ended_at
        self._length = timedelta() if self._origin is None or ended is None else ended - self._origin

    def since(self, moment: datetime) -> timedelta:
        """From the beginning of the timeline."""
        return timedelta() if self._origin is None else moment - self._origin

    def place(self, after: timedelta) -> float:
        """Of what is so long after the beginning."""
        return self._units * (after / self._length) if self._length else 0.0

    @property
    def ticks(self) -> list[timedelta]:
        """About five round times."""
        seconds = self._length.total_seconds()
        if not seconds:
            return []
        power = 10.0 ** floor(log10(seconds / 5))
        step = next(power * factor for factor in (1, 2, 5, 10) if seconds <= 6 * power * factor)
        return [timedelta(seconds=step * number) for number in range(int(seconds / step) + 1)]

    def bar(self, span: Span) -> str:
        """The bar of a process, in characters."""
        begin, end = self._cell(span.queued_at), self._cell(span.ended_at)
        start = end if span.started_at is None else self._cell(span.started_at)
        cells = [" "] * self._units
        if self._deadline_at is not None and self._origin is not None:
            late = self.place(self.since(self._deadline_at))
            if late <= self._units:
                cells[min(int(late), self._units - 1)] = "|"
        cells[begin:start] = "·" * (start - begin)
        if span.started_at is not None:
            cells[start : end + 1] = "█" * (end + 1 - start)
            for since, until in span.in_channels:
                first, last = self._cell(since), self._cell(until)
                cells[first:last] = "░" * (last - first)
        return "".join(cells)

    def _cell(self, moment: datetime) -> int:
        return max(0, min(int(self.place(self.since(moment))), self._units - 1))


class MembersInside(Sequence[Span]):
    """Who has run inside of a composition, at whatever depth: kept without the values, which may be large.

    Args:
        results: of its processes.
        around: of the whole: when it ran.
        at_once: whether all were there to be started when it began.
    """

    __slots__ = ("_around", "_at_once", "_made", "_results")

    def __init__(self, results: Sequence[ProcessResult], around: ProcessResult | None, *, at_once: bool) -> None:
        # Spans cost as much as running processes that do nothing, so they are made when somebody asks for them.
        self._results = list(map(without_value, results))
        self._around = None if around is None else without_value(around)
        self._at_once = at_once
        self._made: tuple[Span, ...] | None = None
        if any(result.is_fail for result in results):
            self._spans()  # an error keeps alive what its traceback has seen

    def __len__(self) -> int:
        return len(self._spans())

    @overload
    def __getitem__(self, index: int) -> Span: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Span]: ...
    def __getitem__(self, index: int | slice) -> Span | Sequence[Span]:
        return self._spans()[index]

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, (self._spans(),)

    def _spans(self) -> tuple[Span, ...]:
        if self._made is None:
            run = None if self._around is None else self._around.run
            began = None if run is None else run.started_at
            self._made = tuple(span for one in self._results for span in _spans(one, began, self._at_once))
            self._results = []
        return self._made


def most_telling(spans: Sequence[Span], most: int) -> list[int]:
    """Which to show if not all can be: those that failed, then those that took longest; in their order."""
    ranked = nlargest(most, enumerate(spans), key=lambda one: (bool(one[1].error), one[1].waited + one[1].ran))
    return sorted(number for number, _ in ranked)


def _spans(result: ProcessResult, began: datetime | None, at_once: bool) -> Iterator[Span]:
    """That of a process, and of what has run in it."""
    span = _span(result, began, at_once)
    if span is not None:
        yield span
        for inner in () if result.run is None else result.run.inside:
            yield replace(inner, name=_path(f"{span.name}/{inner.name}", _LONGEST_NAME))


def _span(result: ProcessResult, began: datetime | None, at_once: bool) -> Span | None:
    run = result.run or RunInfo()
    name, process_id, started, ended = run.process_name, run.process_id, run.started_at, run.ended_at
    placement, error = run.placement, ""
    state: State = "done"
    if result.is_fail:
        failure = result.failure
        name, process_id, placement = failure.process_name, failure.process_id, placement or failure.placement
        started, ended = started or failure.started_at, ended or failure.failed_at
        state = state_after(failure.error)
        error = error_text(failure.error, _LONGEST_ERROR)
    if ended is None:
        return None
    ended, started = aware(ended), None if started is None else min(aware(started), aware(ended))
    queued = began
    if started is not None and (run.queued is not None or not at_once):
        queued = started - (run.queued or timedelta())
    where = [] if placement is None else [place_of(placement)]
    where += [] if run.worker is None else [f"worker {run.worker}"]
    return Span(
        one_line(plain_text(name), _LONGEST_NAME),
        process_id,
        ", ".join(one_line(plain_text(one), _LONGEST_NAME) for one in where if one),
        run.attempt,
        min(queued or started or ended, started or ended),
        started,
        ended,
        state,
        error,
        run.waits,
    )


def _bar(span: Span, scale: _Scale, top: int) -> str:
    begin, end = scale.place(scale.since(span.queued_at)), scale.place(scale.since(span.ended_at))
    start = end if span.started_at is None else scale.place(scale.since(span.started_at))
    colour = _COLOURS[span.state]
    parts = [f"<g><title>{safe_html(span.text)}</title>"]
    parts.append(f'<text x="4" y="{top + 11}">{safe_html(_label(span))}</text>')
    if start - begin >= 0.1:
        parts.append(
            f'<rect x="{_LABELS + begin:.1f}" y="{top}" width="{start - begin:.1f}" height="12" fill="{_WAITING}"/>'
        )
    if span.started_at is not None:
        width = max(1.0, end - start)
        parts.append(f'<rect x="{_LABELS + start:.1f}" y="{top}" width="{width:.1f}" height="12" fill="{colour}"/>')
        waits = [[scale.place(scale.since(moment)) for moment in wait] for wait in span.in_channels]
        if path := "".join([f"M{_LABELS + a:.1f} {top + 6}H{_LABELS + b:.1f}" for a, b in waits if b - a >= 0.5]):
            parts.append(f'<path d="{path}" stroke="{_WAITING}" stroke-width="6"/>')
    if span.state != "done":
        sign = f"{span.state}" + (f", attempt {span.attempt}" if span.attempt > 1 else "")
        parts.append(f'<text x="{_LABELS + end + 4:.1f}" y="{top + 11}" fill="{colour}">{sign}</text>')
    return "".join([*parts, "</g>"])


def _label(span: Span) -> str:
    """Its name and place, as far as they have room beside the bars."""
    label = one_line(f"{_path(span.name, 44)} {span.where}", 44)
    # These letters are not bold, and so a tenth less wide.
    while 0.9 * text_width(label, _LETTERS) > _LABELS - 8:
        label = f"…{label[2:]}" if label.startswith("…") else f"{label[:-2]}…"
    return label


def _path(name: str, longest: int) -> str:
    """In one line; of a path that is too long the end, where the process itself stands."""
    line = one_line(name, len(name))
    return f"…{line[1 - longest :]}" if "/" in line and len(line) > longest else one_line(line, longest)


def _counted(number: int) -> str:
    return "1 process" if number == 1 else f"{number:,} processes"
