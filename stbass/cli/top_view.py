"""The screen of ``stbass top``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from functools import partial
from typing import Any, ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.events import Resize
from textual.screen import ModalScreen, Screen
from textual.widgets import DataTable, Footer, Input, RichLog, Static

from stbass._values.texts import one_line, plain_text
from stbass.backends.celery import CeleryBackend
from stbass.backends.celery.fleet_status import FleetStatus, FleetWatch
from stbass.backends.celery.settings import fleet_of
from stbass.cli.runs import event_line
from stbass.cli.top_rows import MOST_ROWS, Row, endpoint_rows, failure_rows, fleet_summary, process_rows
from stbass.errors import BackendUnavailableError, SignatureError, StbassError, WireError
from stbass.runs import RunStatus

__all__ = ["Top"]

_PACE = 2.0
"""Seconds between two looks at least."""
_COMMANDS = 8.0
"""How many commands a second it costs Redis at most: a look that costs more is taken less often."""
_CPU = 0.015
"""How much of a core it uses at most, but for what keys do."""
_PACE_MOST = 6.0
_FIND_SECONDS = 60.0
"""How often it looks for queues that nobody consumes: that goes through all keys."""
_ASK_SECONDS = 20.0
"""How often it asks for runs of which no worker tells."""
_PATIENCE = 1.0
_RUNS = 50
_NARROW = 80
_MOST_EVENTS = 5_000
_LONGEST_PATH = 60
_WIDE = {
    "endpoints": ("endpoint", "workers", "running", "queued", "oldest", "lost", "refused"),
    "processes": ("process", "run", "state", "endpoint", "worker", "age", "left", "progress"),
    "failures": ("ago", "process", "run", "endpoint", "error"),
}
_FEW = {
    "endpoints": ("endpoint", "running", "queued"),
    "processes": ("process", "age", "progress"),
    "failures": ("ago", "process", "error"),
}
_LONGEST = {"wide": 32, "narrow": 16}
_ENDS = ("progress", "error")
"""Columns that stand last, and are not cut."""
_STYLES = {"bad": "bold red", "waits": "dim"}


class _Table(DataTable[Text]):
    """A table that is filled again and again, and keeps what is chosen in it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "select_cursor", "Details, events")]

    def __init__(self, name: str) -> None:
        super().__init__(id=name, cursor_type="row", zebra_stripes=False)
        self.rows_by_key: dict[str, Row] = {}
        self._shown: dict[str, list[Text]] = {}
        self._widths: dict[str, int] = {}

    @property
    def chosen(self) -> Row | None:
        """The row at which the cursor stands."""
        return self.rows_by_key.get(self.chosen_key)

    def fill(self, rows: Iterable[Row], narrow: bool) -> None:
        """Show these rows."""
        names = (_FEW if narrow else _WIDE)[self.id or ""]
        longest = _LONGEST["narrow" if narrow else "wide"]
        self.rows_by_key = {row.key: row for row in rows}
        shown = {
            key: [
                Text(
                    row.cells[name] if name in _ENDS else one_line(row.cells[name], longest), _STYLES.get(row.state, "")
                )
                for name in names
            ]
            for key, row in self.rows_by_key.items()
        }
        chosen = self.chosen_key
        # Kept as long as they do: to find out the widths anew costs more than all the rest.
        needed = [
            max(cell.cell_len for cell in column) for column in zip(map(Text, names), *shown.values(), strict=True)
        ]
        if tuple(self._widths) != names or any(
            width < need for width, need in zip(self._widths.values(), needed, strict=True)
        ):
            self._widths, self._shown = dict(zip(names, needed, strict=True)), {}
            self.clear(columns=True)
            for name, width in self._widths.items():
                self.add_column(name, key=name, width=width)
        if list(shown) == list(self._shown):
            for key, cells in shown.items():
                for name, cell, before in zip(names, cells, self._shown[key], strict=True):
                    if cell != before:
                        self.update_cell(key, name, cell)
        else:
            self.clear()
            for key, cells in shown.items():
                self.add_row(*cells, key=key)
            if chosen in shown:
                self.move_cursor(row=self.get_row_index(chosen), animate=False)
        self._shown = shown

    @property
    def chosen_key(self) -> str:
        """The key of the row at which the cursor stands, as it was filled last; empty: none."""
        if not self.row_count:
            return ""
        return self.coordinate_to_cell_key(self.cursor_coordinate).row_key.value or ""


class _Question(ModalScreen[bool]):
    """Asks whether a run is to be cancelled."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "dismiss(True)", "Yes"),
        Binding("n,escape,q", "dismiss(False)", "No"),
    ]

    def __init__(self, run_id: str) -> None:
        super().__init__()
        self._run_id = run_id

    def compose(self) -> ComposeResult:
        yield Static(Text(f" Cancel run {one_line(self._run_id, 60)}, with all that it has placed elsewhere? y / n "))


class _Details(ModalScreen[None]):
    """All that is known of a row, and what happens in its run."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter", "dismiss", "Back"),
        Binding("c", "cancel_run", "Cancel the run"),
    ]

    def __init__(self, backend: CeleryBackend, row: Row, cancel: Callable[[], None]) -> None:
        super().__init__()
        self._backend = backend
        self._cancel = cancel
        self.row = row

    def action_cancel_run(self) -> None:
        """Cancel its run, if the user is sure."""
        self._cancel()

    def compose(self) -> ComposeResult:
        yield Static(Text("\n".join(self.row.details)), id="details")
        yield RichLog(id="events", wrap=True, min_width=1, markup=False, max_lines=_MOST_EVENTS)
        yield Footer()

    def on_mount(self) -> None:
        self.query_one("#events").focus()
        if self.row.run:
            self.run_worker(self._follow())

    def renew(self, row: Row | None) -> None:
        """Show what is known now; None: it does not run any more."""
        self.row = self.row if row is None else row
        ended = ["it does not run any more"] if row is None else []
        self.query_one("#details", Static).update(Text("\n".join([*self.row.details, *ended])))

    async def _follow(self) -> None:
        log = self.query_one("#events", RichLog)
        try:
            run = await self._backend.find_run(self.row.run)
            async for event in run.events():
                log.write(Text(event_line(event, _LONGEST_PATH)))
        except (LookupError, StbassError) as error:
            log.write(Text(one_line(str(error), 500), "red"))


class _FleetScreen(Screen[None]):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "app.quit", "Quit"),
        Binding("c", "cancel_run", "Cancel the run"),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("r", "look", "Look now"),
        Binding("escape", "no_filter", "No filter", show=False),
    ]

    def __init__(self, application: Any) -> None:
        super().__init__()
        self._application = application
        self._fleet = fleet_of(application)
        self._status: FleetStatus | None = None
        self._waiting: dict[str, tuple[str, RunStatus]] = {}
        """Runs that no worker has told of, and that have not ended."""
        self._over: set[str] = set()
        """Ids of runs that have ended, or of which nothing can be said."""
        self._wanted = ""
        self._look_now = asyncio.Event()
        self._details: _Details | None = None

    def compose(self) -> ComposeResult:
        yield Static("looks at the fleet …", id="summary")
        with Vertical():
            yield Static("Endpoints", classes="title")
            yield _Table("endpoints")
            yield Static("Running", classes="title", id="running")
            yield _Table("processes")
            yield Static("Failed in the last 10 minutes", classes="title", id="failed")
            yield _Table("failures")
        yield Input(placeholder="show only what has this text in it", id="filter")
        yield Footer()

    def on_mount(self) -> None:
        self._backend = CeleryBackend(self._application)
        self.query_one("#processes").focus()
        self.run_worker(self._watch())

    async def on_unmount(self) -> None:
        await self._backend.aclose()

    # Looking -------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        found_at, asked_at, busy = -_FIND_SECONDS, -_ASK_SECONDS, 0.0
        with closing(FleetWatch(self._fleet.settings, self._fleet.app, detailed=True)) as watch:
            while True:
                self._look_now.clear()
                find = loop.time() - found_at >= _FIND_SECONDS
                found_at = loop.time() if find else found_at
                ask = loop.time() - asked_at >= _ASK_SECONDS
                asked_at = loop.time() if ask else asked_at
                pace, used = _PACE, time.process_time()
                try:
                    pace = max(_PACE, await self._look(watch, find, ask) / _COMMANDS, min(busy / _CPU, _PACE_MOST))
                except BackendUnavailableError as error:
                    self.query_one("#summary", Static).update(Text(one_line(str(error), 500), "bold red"))
                else:
                    self._show(pace)
                with suppress(TimeoutError):
                    async with asyncio.timeout(pace):
                        await self._look_now.wait()
                busy = time.process_time() - used

    async def _look(self, watch: FleetWatch, find: bool, ask: bool) -> float:
        """Look once; gives back about how many commands that was."""
        known = [one.endpoint for one in self._status.endpoints] if self._status else []
        status = await asyncio.to_thread(watch.look, known, _PATIENCE, find)
        latest = await asyncio.to_thread(watch.latest_runs, _RUNS)
        told = {one.run for answer in status.answers for one in answer.oldest if one.is_whole}
        waiting: dict[str, tuple[str, RunStatus]] = {}
        asked = 0
        for run_id in latest:
            if run_id in self._over or run_id in told:
                continue
            if run_id in self._waiting and not ask:
                waiting[run_id] = self._waiting[run_id]
                continue
            asked += 1
            try:
                run = await self._backend.find_run(run_id)
                state = await run.status()
            except (LookupError, WireError, SignatureError):
                self._over.add(run_id)
                continue
            if state.state == "ended":
                self._over.add(run_id)
            else:
                waiting[run_id] = run.name, state
        self._over &= set(latest)
        self._status, self._waiting = status, waiting
        queues = sum(2 + bool(one.limited) + bool(one.queued > one.limited) for one in status.endpoints)
        return 10 + 4 * len(status.workers) + queues + 5 * asked

    # Showing -------------------------------------------------------------------------------------

    def _show(self, pace: float = 0.0) -> None:
        status = self._status
        if status is None:
            return
        narrow = self.size.width < _NARROW
        address = self._fleet.settings.backend
        every = f", every {pace:.0f} s" if pace > _PACE else ""
        self.query_one("#summary", Static).update(Text(f"{fleet_summary(status)}{every}  {address}"))
        running = sum(one.running for one in status.endpoints)
        processes = [row for row in process_rows(status, self._waiting) if row.has(self._wanted)]
        shown = sum(row.state != "waits" for row in processes[:MOST_ROWS])
        which = f": {shown} of {running:,}, those that run longest" if shown < running else ""
        which = f": with {self._wanted!r} in them, of those that run longest" if self._wanted else which
        self.query_one("#running", Static).update(Text(f"Running{which}"))
        for name, rows in (
            ("endpoints", endpoint_rows(status)),
            ("processes", processes[:MOST_ROWS]),
            ("failures", [row for row in failure_rows(status) if row.has(self._wanted)]),
        ):
            self.query_one(f"#{name}", _Table).fill(rows, narrow)
        self.query_one("#failed").display = bool(self.query_one("#failures", _Table).row_count)
        self.query_one("#failures").display = self.query_one("#failed").display

        if self._details is not None:
            known = {row.key: row for table in self.query(_Table) for row in table.rows_by_key.values()}
            self._details.renew(known.get(self._details.row.key))

    def on_resize(self, _: Resize) -> None:
        self._show()

    # Keys ----------------------------------------------------------------------------------------

    def action_look(self) -> None:
        """Look now."""
        self._look_now.set()

    def on_data_table_row_selected(self, _: DataTable.RowSelected) -> None:
        if (row := self._chosen) is not None:
            self._details = _Details(self._backend, row, self.action_cancel_run)
            self.app.push_screen(self._details, self._back)

    def _back(self, _: None) -> None:
        self._details = None

    def action_cancel_run(self) -> None:
        """Cancel the run of the chosen row, if the user is sure."""
        row = self._chosen
        if row is None or not row.run:
            self.notify("Only runs can be cancelled from here: this belongs to none.", severity="warning")
        else:
            self.app.push_screen(_Question(row.run), partial(self._answered, row.run))

    def _answered(self, run_id: str, sure: bool | None) -> None:
        if sure:
            self.run_worker(self._cancelling(run_id))

    async def _cancelling(self, run_id: str) -> None:
        shown = one_line(plain_text(run_id), 60)
        try:
            run = await self._backend.find_run(run_id)
            await run.cancel()
        except (LookupError, StbassError) as error:
            self.notify(one_line(str(error), 300), severity="error", markup=False)
        else:
            self.notify(f"run {shown} is told to end", markup=False)
            self._waiting.pop(run_id, None)
            self._look_now.set()

    @property
    def _chosen(self) -> Row | None:
        if self._details is not None:
            return self._details.row
        return self.focused.chosen if isinstance(self.focused, _Table) else None

    def action_filter(self) -> None:
        """Ask for a text that rows must have in them."""
        box = self.query_one("#filter", Input)
        box.add_class("on")
        box.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        self._wanted = event.value
        self._show()

    def on_input_submitted(self, _: Input.Submitted) -> None:
        self.query_one("#processes").focus()

    def action_no_filter(self) -> None:
        """Show everything again."""
        box = self.query_one("#filter", Input)
        box.value = ""
        box.remove_class("on")
        self.query_one("#processes").focus()


class Top(App[None]):
    """What a fleet does, live.

    Args:
        application: the Celery application of the fleet.
    """

    ENABLE_COMMAND_PALETTE = False
    TITLE = "stbass top"
    CSS = """
    #details { height: auto; max-height: 50%; background: $panel; }
    #events { height: 1fr; }
    #summary { height: auto; max-height: 3; background: $panel; }
    .title { height: 1; text-style: bold; color: $accent; }
    #endpoints, #failures { height: auto; max-height: 30%; }
    #processes { height: 1fr; min-height: 3; }
    #filter { display: none; height: 1; border: none; padding: 0 1; }
    #filter.on { display: block; }
    DataTable { scrollbar-size-horizontal: 0; scrollbar-size-vertical: 1; }
    _Question { align: center middle; }
    _Question Static { width: auto; max-width: 90%; border: round $accent; }
    """

    def __init__(self, application: Any) -> None:
        super().__init__()
        self._application = application

    def get_default_screen(self) -> Screen[None]:
        return _FleetScreen(self._application)
