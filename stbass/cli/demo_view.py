"""What the demo shows: live progress, then results, then failures."""

from __future__ import annotations

import reprlib
import textwrap
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

if TYPE_CHECKING:
    from stbass.endpoint import Placement
    from stbass.observe import Event
    from stbass.par import PARResult
    from stbass.result import ProcessResult

__all__ = ["LiveView", "PlainView", "show_failures", "show_results"]

Agents = Iterable[tuple[Any, "Placement"]]

_STATES = {"queued": "waits", "started": "runs"}
_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60
_short.maxdict, _short.maxlist, _short.maxlevel = 6, 1, 3


@dataclass(slots=True)
class _Row:
    name: str
    where: str
    state: str = "waits"
    worker: str = ""
    done: float = 0
    total: float | None = None
    note: str = ""
    began: float = 0.0
    ended: float | None = None


class LiveView:
    """A table that is drawn again as things happen, for a terminal."""

    def __init__(self, console: Console) -> None:
        self._lock = threading.Lock()
        self._rows: dict[str, _Row] = {}
        self._live = Live(console=console, get_renderable=self._table, refresh_per_second=10)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def on_event(self, event: Event) -> None:
        """Take note of an event; may be called from any thread."""
        if event.placement is None:
            return  # the composition itself
        with self._lock:
            row = self._rows.get(event.process_id)
            if row is None:
                row = _Row(event.name, event.placement.endpoint or "", began=time.monotonic())
                self._rows[event.process_id] = row
            row.state = _STATES.get(event.kind, row.state)
            row.worker = event.worker or row.worker
            if event.kind == "progress":
                row.done, row.total, row.note = event.done or 0, event.total, event.note
            elif event.kind == "checkpoint":
                row.note = f"checkpoint {_short.repr(event.value)}"
            elif event.kind == "ended" and event.result is not None:
                row.ended = time.monotonic()
                row.state = "done" if event.result.is_ok else "failed"
                row.note = "" if event.result.is_ok else type(event.result.failure.error).__name__

    def _table(self) -> Table:
        table = Table(box=None, padding=(0, 1))
        for title in ("agent", "endpoint", "state", "progress", "time", "note"):
            table.add_column(title, no_wrap=True)
        colours = {"waits": "dim", "runs": "cyan", "done": "green", "failed": "red"}
        with self._lock:
            for row in self._rows.values():
                bar = ProgressBar(row.total, row.done, width=20) if row.total else ""
                took = (row.ended or time.monotonic()) - row.began
                state = f"[{colours[row.state]}]{row.state}[/]"
                table.add_row(escape(row.name), row.where, state, bar, f"{took:4.1f} s", escape(row.note))
        return table


class PlainView:
    """A line per event, where there is no terminal."""

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
        """Print a line; may be called from any thread."""
        if event.placement is None or event.kind == "progress":
            return
        if event.kind == "queued":
            what = f"waits for {event.placement.endpoint}"
        elif event.kind == "started":
            what = f"runs on {event.worker}"
        elif event.kind == "checkpoint":
            what = f"checkpoint {_short.repr(event.value)}"
        else:
            what = "done" if event.result is None or event.result.is_ok else f"failed: {_error(event.result)}"
        line = f"{time.monotonic() - self._began:5.2f} s  {event.name}: {what}"
        self._console.print(line, markup=False, soft_wrap=True)


def show_results(console: Console, agents: Agents, result: PARResult) -> None:
    """A table of every agent: where it ran, how long, and what came of it."""
    table = Table(title="Results", title_justify="left")
    for title in ("agent", "placement", "ran on", "took", "outcome"):
        table.add_column(title, overflow="fold")
    for (agent, placement), each in zip(agents, result.results, strict=True):
        outcome = (
            f"[green]ok[/] {escape(_short.repr(each.value))}"
            if each.is_ok
            else f"[red]{type(each.failure.error).__name__}[/]"
        )
        model_at_endpoint = f"{placement.model} @ {placement.endpoint}"
        table.add_row(escape(agent.name), model_at_endpoint, _worker(each), _took(each), outcome)
    console.print()
    console.print(table)


def show_failures(console: Console, agents: Agents, result: PARResult) -> None:
    """Each failure with its error, where it ran, and its last checkpoint."""
    failed = [pair for pair in zip(agents, result.results, strict=True) if pair[1].is_fail]
    console.print(f"\n{len(failed)} failures; what the others found is kept (COLLECT):")
    for (agent, placement), each in failed:
        failure = each.failure
        console.print(f"\n[bold red]{escape(agent.name)}[/]")
        rows = {
            "error": _error(each),
            "ran on": f"{_worker(each)}, {placement.model} @ {placement.endpoint}",
            "checkpoint": _short.repr(failure.checkpoint),
            "started": str(failure.started_at),
            "failed": f"{failure.failed_at}, after {_took(each)}",
        }
        for title, text in rows.items():
            console.print(f"  {title:<11}{text}", markup=False, soft_wrap=True)


def _took(result: ProcessResult) -> str:
    return "" if result.elapsed is None else f"{result.elapsed.total_seconds():.2f} s"


def _error(result: ProcessResult) -> str:
    error = result.failure.error
    return textwrap.shorten(f"{type(error).__name__}: {error}", 160, placeholder=" …")


def _worker(result: ProcessResult) -> str:
    return (result.run.worker if result.run is not None else None) or "nowhere"
