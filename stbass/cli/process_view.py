"""What ``stbass process run`` shows: how far each component is, and in the end what came of it."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from rich.live import Live
from rich.table import Table
from rich.text import Text

from stbass._values.texts import one_line, printable_lines, text_of
from stbass.dataflow.model.components import steps_of
from stbass.dataflow.process import Process
from stbass.observe.display import draws_again, standard_error

__all__ = ["ModelView", "Summary", "summary_of"]

_EVERY = 5.0
"""Seconds between two lines where there is no terminal."""
_STYLES = {"running": "cyan", "waiting": "dim", "completed": "green", "failed": "red", "stopped": "yellow"}
_LONGEST_NAME = 60
_RESERVED = 3
"""Lines of a terminal that are not for components: the header, the count of the rest, and the prompt."""


class ModelView:
    """Shows on standard error how far a process is while the context lasts: a table, or a line now and then.

    Args:
        process: what runs.
        quiet: show nothing.
    """

    def __init__(self, process: Process, *, quiet: bool = False) -> None:
        self._process = process
        self._quiet = quiet
        self._console = standard_error()
        self._live: Live | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        if self._quiet:
            return self
        if draws_again(self._console):
            self._live = Live(
                console=self._console,
                get_renderable=self._table,
                refresh_per_second=4,
                transient=True,
                # What components print goes above the table, but only if it would go to the terminal anyway.
                redirect_stdout=sys.stdout.isatty(),
            )
            self._live.start()
        else:
            self._timer = asyncio.get_running_loop().call_later(_EVERY, self._line)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        if self._timer is not None:
            self._timer.cancel()

    def _table(self) -> Table:
        table = Table(box=None, padding=(0, 1))
        for title in ("component", "status", "steps"):
            table.add_column(title, no_wrap=True, justify="right" if title == "steps" else "left")
        components = list(self._process.components.values())
        room = max(1, self._console.size.height - _RESERVED)
        # If there is no room for all, those that are furthest behind are shown: they hold up the others.
        shown = sorted(components, key=steps_of)[:room] if len(components) > room else components
        for component in shown:
            status = str(component.status)
            name = Text(one_line(component.name, _LONGEST_NAME))
            table.add_row(name, Text(status, style=_STYLES.get(status, "")), f"{steps_of(component):,}")
        if len(components) > room:
            table.add_row(Text(f"and {len(components) - room} more", style="dim"))
        return table

    def _line(self) -> None:
        steps = ", ".join(
            f"{one_line(one.name, _LONGEST_NAME)} {one.status} {steps_of(one):,}"
            for one in self._process.components.values()
        )
        sys.stderr.write(f"{time.monotonic() - self._began:6.1f} s  steps: {steps}\n")
        sys.stderr.flush()
        self._timer = asyncio.get_running_loop().call_later(_EVERY, self._line)


@dataclass(frozen=True, slots=True)
class Summary:
    """What came of a run."""

    name: str
    kind: str
    status: str
    job_id: str | None
    seconds: float
    components: tuple[dict[str, Any], ...]
    missed: tuple[str, ...]

    def data(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "process": self.name,
            "type": self.kind,
            "status": self.status,
            "job_id": self.job_id,
            "seconds": round(self.seconds, 3),
            "missed_checkpoints": list(self.missed),
            "components": [
                {**one, "exports": {name: _for_json(value) for name, value in one["exports"].items()}}
                for one in self.components
            ],
        }

    def text(self) -> str:
        """The same for people."""
        job = f", job {self.job_id}" if self.job_id is not None else ""
        lines = [f"{self.name}: {self.status} in {self.seconds:.1f} s{job}"]
        rows = [(one["name"], one["status"], f"{one['steps']:,}", one["exports"]) for one in self.components]
        widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
        for name, status, steps, exports in rows:
            unit = "step " if steps == "1" else "steps"
            values = "  ".join(f"{key}={text_of(value, 60)}" for key, value in exports.items())
            line = f"  {name:<{widths[0]}}  {status:<{widths[1]}}  {steps:>{widths[2]}} {unit}  {values}"
            lines.append(line.rstrip())
        if self.missed:
            lines.append(f"  {len(self.missed)} of its checkpoints left out, the last because {self.missed[-1]}")
        return printable_lines("\n".join(lines)) + "\n"


def summary_of(process: Process, seconds: float) -> Summary:
    """What came of the process.

    Args:
        process: it has ended.
        seconds: how long that took.
    """
    return Summary(
        name=process.name,
        kind=type(process).__name__,
        status=str(process.status),
        job_id=process.state.job_id if process.state.durable else None,
        seconds=seconds,
        components=tuple(_components(process)),
        missed=tuple(map(str, process.missed_checkpoints)),
    )


def _components(process: Process) -> Iterable[dict[str, Any]]:
    for component in process.components.values():
        exports = {name: getattr(component, name, None) for name in component.exports or ()}
        yield {
            "name": component.name,
            "status": str(component.status),
            "steps": steps_of(component),
            "exports": exports,
        }


def _for_json(value: Any) -> Any:
    """Components may export anything: what JSON cannot hold is shown as its ``repr``."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        return repr(value)
