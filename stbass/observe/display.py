"""Showing people what runs: a live table on a terminal or in a notebook, a line per event elsewhere.

Everything goes to standard error, so that a program's output stays its own.
"""

from __future__ import annotations

import textwrap
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from stbass._values.texts import error_text, progress_text, short_text, shortened
from stbass.observe import events
from stbass.observe.events import Event

__all__ = ["LinesView", "LiveView", "View", "progress", "view_for"]

_OF_MANY = {"waits": "wait", "runs": "run"}
_STYLES = {"waits": "dim", "runs": "cyan", "done": "green", "failed": "red"}
# Lines of a terminal that are not for processes: the header, the count of the rest, and the prompt.
_RESERVED = 4

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
        view = view_for(Console(stderr=True, highlight=False) if console is None else console)
        with view, events.subscribe(view.on_event):
            yield
    finally:
        _shown.release()


def view_for(console: Console) -> View:
    """The view that suits where it is shown: a notebook shows what is drawn again only with further packages."""
    return LiveView(console) if console.is_terminal and not console.is_jupyter else LinesView(console)


@dataclass(slots=True)
class _Row:
    name: str
    where: str
    state: str = "waits"
    note: str = ""
    done: float = 0.0
    total: float | None = None
    began: float = 0.0
    ended: float | None = None

    def take(self, event: Event) -> None:
        """What the event says of the process."""
        if event.kind == "progress":
            self.done, self.total, self.note = event.done or 0.0, event.total, event.note
        elif event.kind == "checkpoint":
            self.note = f"checkpoint {short_text(event.value)}"
        elif event.kind == "started":
            self.state, self.began = "runs", time.monotonic()
            self.where = event.worker or self.where
        elif event.kind == "ended":
            self.ended = time.monotonic()
            self.state = "failed" if _error_of(event) else "done"
            self.note = _error_of(event)
            if self.state == "done" and self.total:
                # What has ended well is whole, though it may not have told its last step.
                self.done = self.total

    def cells(self, now: float) -> tuple[RenderableType, ...]:
        """One line of the table."""
        style = _STYLES[self.state]
        bar = ProgressBar(self.total, min(self.done, self.total), width=20) if self.total else ""
        time_ = f"{(self.ended or now) - self.began:.1f} s" if self.began else ""
        return (
            escape(self.name),
            escape(self.where),
            f"[{style}]{self.state}[/]",
            bar,
            time_,
            escape(textwrap.shorten(self.note, 100, placeholder=" …")),
        )


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
        # What had no room is not on the screen, and failures are to be.
        for row in self._arranged()[self._room :]:
            if row.state == "failed":
                self._console.print(f"{row.name}: failed: {row.note}", markup=False, highlight=False, soft_wrap=True)

    def on_event(self, event: Event) -> None:
        with self._lock:
            row = self._rows.get(event.process_id)
            if row is None:
                where = "" if event.placement is None else event.placement.summary
                row = self._rows[event.process_id] = _Row(event.name, where)
            row.take(event)

    def _draw(self) -> Table:
        table = Table(box=None, padding=(0, 1), expand=True)
        for title in ("process", "where", "state", "progress", "time"):
            table.add_column(title, no_wrap=True)
        table.add_column("note", no_wrap=True, ratio=1)
        now = time.monotonic()
        with self._lock:
            rows = list(self._rows.values())
        arranged = self._arranged()
        kept = {id(row) for row in arranged[: self._room]}
        for row in rows:
            if id(row) in kept:
                table.add_row(*row.cells(now))
        if len(rows) > self._room:
            counts = Counter(_OF_MANY.get(row.state, row.state) for row in arranged[self._room :])
            table.add_row(f"[dim]and {', '.join(f'{count} {state}' for state, count in counts.items())}[/]")
        return table

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
        line = f"{time.monotonic() - self._began:6.2f} s  {event.name}: {_sentence(event)}"
        self._console.print(shortened(line, len(line)), markup=False, highlight=False, soft_wrap=True)


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
    error = event.result.failure.error
    return textwrap.shorten(error_text(error), 200, placeholder=" …")
