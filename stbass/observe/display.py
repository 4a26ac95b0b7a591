"""Showing people what runs: a live table on a terminal or in a notebook, a line per event elsewhere.

Everything goes to standard error, so that a program's output stays its own.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from stbass._values.numbers import finite
from stbass._values.texts import error_text, one_line, progress_text, short_text
from stbass.observe import events
from stbass.observe.events import Event

__all__ = ["LinesView", "LiveView", "View", "draws_again", "progress", "standard_error", "view_for"]

_OF_MANY = {"waits": "wait", "runs": "run"}
_STYLES = {"waits": "dim", "runs": "cyan", "done": "green", "failed": "red"}
# Lines of a terminal that are not for processes: the header, the count of the rest, and the prompt.
_RESERVED = 4
_LONGEST_NAME = 60
_LONGEST_NOTE = 100
_LONGEST_ERROR = 200
_LONGEST_SENTENCE = 300
_NARROW = 60
"""Columns of a terminal: with fewer, the table has no places and no notes."""
_WIDE = 100
"""With fewer columns, bars are short, and errors do not stand whole in the table."""

_shown = threading.Lock()


class View(AbstractContextManager["View"], Protocol):
    """Shows events while its context lasts."""

    def on_event(self, event: Event) -> None:
        """Take note of an event; called from any thread."""


@contextmanager
def progress(console: Console | None = None) -> Iterator[None]:
    """Show every process of this Python process while the context lasts: waiting, running where, done or failed.

    A second display inside the first shows nothing of its own: the first one shows everything.

    Args:
        console: where to show it; standard error by default.
    """
    if not _shown.acquire(blocking=False):
        yield
        return
    try:
        view = view_for(standard_error() if console is None else console)
        with view, events.subscribe(view.on_event):
            yield
    finally:
        _shown.release()


def standard_error() -> Console:
    """Where progress is shown."""
    # FORCE_COLOR has rich take a file for a terminal. In a notebook rich makes a picture of each line, not text.
    is_file = sys.stderr is None or not sys.stderr.isatty()
    return Console(stderr=True, highlight=False, force_jupyter=False, force_terminal=False if is_file else None)


def view_for(console: Console) -> View:
    """The view that suits where it is shown."""
    return LiveView(console) if draws_again(console) else LinesView(console)


def draws_again(console: Console) -> bool:
    """Whether what it shows can be drawn again in its place.

    A dumb terminal cannot move its cursor, and a notebook needs further packages for it.
    """
    return console.is_terminal and not console.is_dumb_terminal and not console.is_jupyter


@dataclass(slots=True)
class _Row:
    name: str
    where: str
    state: str = "waits"
    note: str = ""
    share: float | None = None
    """How much of it is done, from 0 to 1; None: it has not said so in numbers."""
    began: float = 0.0
    ended: float | None = None

    def take(self, event: Event) -> None:
        """What the event says of the process."""
        if event.kind == "progress":
            self.share, self.note = _share(event.done, event.total), event.note
        elif event.kind == "checkpoint":
            self.note = f"checkpoint {short_text(event.value)}"
        elif event.kind == "started":
            self.state, self.began = "runs", time.monotonic()
            self.where = event.worker or self.where
        elif event.kind == "ended":
            self.ended = time.monotonic()
            self.state = "failed" if _error_of(event) else "done"
            self.note = _error_of(event)
            if self.state == "done" and self.share is not None:
                # What has ended well is whole, though it may not have told its last step.
                self.share = 1.0

    def cells(self, now: float, bar: int) -> dict[str, RenderableType]:
        """What stands in each column of the table; a bar is that many characters long."""
        return {
            "process": Text(one_line(self.name, _LONGEST_NAME)),
            "where": Text(one_line(self.where, _LONGEST_NAME)),
            "state": Text(self.state, _STYLES[self.state]),
            "progress": "" if self.share is None else ProgressBar(1.0, self.share, width=bar),
            "time": f"{(self.ended or now) - self.began:.1f} s" if self.began else "",
            "note": Text(one_line(self.note, _LONGEST_NOTE)),
        }


def _share(done: Any, total: Any) -> float | None:
    """How much of it is done, from 0 to 1. A process may have given anything for a number."""
    part, whole = finite(done), finite(total)
    return None if part is None or whole is None or whole <= 0 else min(max(part, 0.0) / whole, 1.0)


class LiveView(View):
    """A table that is drawn again as things happen."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._rows: dict[str, _Row] = {}
        self._live = Live(console=console, get_renderable=self._draw, refresh_per_second=8)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
        # What has no room is not on the screen, or not whole, and failures are to be.
        for row in self._arranged()[self._room if self._console.width >= _WIDE else 0 :]:
            if row.state == "failed":
                line = f"{one_line(row.name, _LONGEST_NAME)}: failed: {row.note}"
                self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def on_event(self, event: Event) -> None:
        with self._lock:
            row = self._rows.get(event.process_id)
            if row is None:
                where = "" if event.placement is None else event.placement.summary
                row = self._rows[event.process_id] = _Row(event.name, where)
            row.take(event)

    def _draw(self) -> Group:
        width = self._console.width
        bar = 20 if width >= _WIDE else width // 10
        table = Table(box=None, padding=(0, 1), expand=True)
        names = ["process", "state", "progress", "time"]
        if width >= _NARROW:
            names = ["process", "where", *names[1:], "note"]
        longest = {"process": width // 4, "where": width // 5}
        for name in names:
            table.add_column(name, no_wrap=True, max_width=longest.get(name), ratio=1 if name == "note" else None)
        now = time.monotonic()
        with self._lock:
            rows = list(self._rows.values())
        arranged = self._arranged()
        kept = {id(row) for row in arranged[: self._room]}
        for row in rows:
            if id(row) in kept:
                cells = row.cells(now, bar)
                table.add_row(*(cells[name] for name in names))
        counts = Counter(_OF_MANY.get(row.state, row.state) for row in arranged[self._room :])
        rest = ", ".join(f"{count} {state}" for state, count in counts.items())
        return Group(table, Text(f" and {rest}", "dim")) if rest else Group(table)

    @property
    def _room(self) -> int:
        return max(1, self._console.size.height - _RESERVED)

    def _arranged(self) -> list[_Row]:
        """Those first that are shown if there is no room for all."""
        with self._lock:
            return sorted(self._rows.values(), key=lambda row: ("failed", "runs", "waits", "done").index(row.state))


class LinesView(View):
    """A line per event."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def on_event(self, event: Event) -> None:
        told = f"{one_line(event.name, _LONGEST_NAME)}: {one_line(_sentence(event), _LONGEST_SENTENCE)}"
        line = f"{time.monotonic() - self._began:6.2f} s  {told}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _sentence(event: Event) -> str:
    if event.kind == "queued":
        return "waits" if event.placement is None else f"waits for {event.placement.summary}"
    if event.kind == "started":
        again = f", attempt {event.attempt}" if event.attempt > 1 else ""
        return f"runs{f' on {event.worker}' if event.worker else ''}{again}"
    if event.kind == "progress":
        return progress_text(event.done, event.total, event.note)
    if event.kind == "checkpoint":
        return f"checkpoint {short_text(event.value)}"
    if event.kind == "output":
        return f"says {short_text(event.value)}"
    if event.kind == "retried":
        return f"is tried again, {_error_of(event) or 'because its worker was lost'}"
    error = _error_of(event)
    return f"failed: {error}" if error else "done"


def _error_of(event: Event) -> str:
    """What went wrong, or nothing."""
    if event.result is None or event.result.is_ok:
        return ""
    return one_line(error_text(event.result.failure.error), _LONGEST_ERROR)
