"""What the demo shows at its end: results, then failures."""

from __future__ import annotations

import reprlib
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stbass._values.texts import error_text

if TYPE_CHECKING:
    from stbass._values.endpoint import Placement
    from stbass.par import PARResult
    from stbass.result import ProcessResult

__all__ = ["show_failures", "show_results"]

Agents = Iterable[tuple[Any, "Placement"]]

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60
_short.maxdict, _short.maxlist, _short.maxlevel = 6, 1, 3


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
    return textwrap.shorten(error_text(error), 160, placeholder=" …")


def _worker(result: ProcessResult) -> str:
    return (result.run.worker if result.run is not None else None) or "nowhere"
