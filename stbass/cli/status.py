"""``stbass status``: who consumes what, what runs, what waits, what was lost and refused."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import typer

from stbass._values.texts import printable, shortened
from stbass.backends.celery.fleet_status import EndpointStatus, FleetStatus, look_at
from stbass.cli.exits import Exit, complain
from stbass.cli.named import load_settings
from stbass.errors import ConfigurationError

__all__ = ["HEADS", "age_text", "endpoint_cells", "run_status"]

HEADS = ("endpoint", "workers", "running", "queued", "oldest", "lost", "refused")
_LONGEST_NAME = 40
_PATIENCE = 1.0
_PATIENCE_MOST = 5.0
"""Seconds to wait for a worker at most, however long its lease is: so long is a health check's patience."""


def run_status(required: Sequence[str], as_json: bool, app: str) -> int:
    """Show the state of the fleet, and say what is the matter with endpoints that are required. Gives the exit code.

    Raises:
        ConfigurationError: the application cannot be loaded, or an endpoint has no name.
        BackendUnavailableError: Redis, or the broker, cannot be reached.
    """
    for endpoint in required:
        if not endpoint.strip():
            raise ConfigurationError(f"--require {endpoint!r}: name an endpoint each time; it may be repeated")
    settings, application = load_settings(app)
    patience = min(2 * settings.lease, _PATIENCE_MOST) if required else _PATIENCE
    status = look_at(settings, application, required, patience)
    by_name = {one.endpoint: one for one in status.endpoints}
    missing = [name for name in dict.fromkeys(required) if not by_name[name].healthy]
    if as_json:
        told = {"endpoints": status.endpoints, "workers": status.workers, "refused": status.refused}
        typer.echo(msgspec.json.encode({"ok": not missing, **told}).decode())
    else:
        _show(status)
    for name in missing:
        complain(f"stbass: {_trouble(by_name[name], status)}")
    return Exit.FAILED if missing else Exit.OK


def _show(status: FleetStatus) -> None:
    if not status.endpoints:
        typer.echo("no worker is there, and nothing waits")
    else:
        rows = [HEADS, *(endpoint_cells(one) for one in status.endpoints)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(HEADS))]
        for first, *others in rows:
            cells = [f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True)]
            typer.echo("  ".join([f"{first:<{widths[0]}}", *cells]))
    for worker in status.workers:
        if worker.trouble is not None:
            typer.echo(f"worker {_name(worker.name)}: {printable(shortened(worker.trouble, 300))}")
    if status.refused:
        typer.echo("refused: " + ", ".join(f"{number} {_name(kind)}" for kind, number in status.refused.items()))


def endpoint_cells(one: EndpointStatus) -> tuple[str, ...]:
    """What is shown of an endpoint: a text for each of :data:`HEADS`."""
    workers = str(one.workers) if one.healthy == one.workers else f"{one.healthy} of {one.workers}"
    running = str(one.running) if one.limit is None else f"{one.running} / {one.limit}"
    return (
        _name(one.endpoint),
        workers,
        running,
        str(one.queued),
        age_text(one.oldest),
        "-" if one.lost is None else f"{age_text(one.lost)} ago",
        str(one.refused),
    )


def _name(text: str) -> str:
    return printable(shortened(text, _LONGEST_NAME))


def age_text(seconds: float | None) -> str:
    """A time for people: ``3 min``; ``-`` if it is not known."""
    if seconds is None:
        return "-"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _trouble(one: EndpointStatus, status: FleetStatus) -> str:
    """Why an endpoint that is required is not served."""
    name = _name(one.endpoint)
    if not one.workers:
        return f"no worker consumes {name!r}; start one: stbass worker -e {name}"
    its = [worker for worker in status.workers if one.endpoint in worker.endpoints]
    reasons = "; ".join(f"{_name(worker.name)}: {printable(shortened(worker.trouble or '', 300))}" for worker in its)
    return f"no worker of {name!r} is well: {reasons}"
