"""``stbass runs``, ``follow``, ``cancel`` and ``attach``: what was started somewhere, from the shell."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stbass._values.texts import one_line, printable, shortened, text_of
from stbass._values.timeline import Timeline
from stbass.backends.celery import CeleryBackend
from stbass.cli.compositions import outcome_data
from stbass.cli.exits import Exit, complain
from stbass.cli.named import load_application
from stbass.errors import ConfigurationError, DeadlineExceeded
from stbass.placement import PLACED_PAR, BackendRegistry
from stbass.result import FailureReport, ProcessResult
from stbass.runs import Run, RunEvent, RunStatus, find

__all__ = ["attach", "cancel", "event_line", "follow", "list_runs"]

_LONGEST = 200
_NARROW = 70
"""Columns of a terminal in which a table of runs has no room."""


def list_runs(app: str, most: int, as_json: bool) -> int:
    """Write the latest runs, the newest first; gives back the exit code."""

    async def listing(backend: CeleryBackend, _: BackendRegistry) -> int:
        runs = await backend.list_runs(most)
        states = await asyncio.gather(*(run.status() for run in runs), return_exceptions=True)
        found = [(run, state) for run, state in zip(runs, states, strict=True) if isinstance(state, RunStatus)]
        if as_json:
            for run, state in found:
                sys.stdout.write(json.dumps({"id": run.id, "name": run.name, **_plain(state)}) + "\n")
            return Exit.OK
        if not found:
            sys.stdout.write("no runs: programs start them with stbass.start()\n")
            return Exit.OK
        now = datetime.now(UTC)
        rows = [tuple(printable(shortened(cell, _LONGEST)) for cell in _cells(run, state, now)) for run, state in found]
        console = _console()
        if console.width < _NARROW:
            # An id is to be copied: it stands in a line of its own, with the rest below.
            for run_id, *rest in rows:
                console.print(f"{run_id}\n  {', '.join(filter(None, rest))}", markup=False, soft_wrap=True)
            return Exit.OK
        table = Table(box=None, padding=(0, 2, 0, 0))
        for title in ("id", "process", "state", "worker", "since", "progress"):
            table.add_column(title, overflow="fold")
        for row in rows:
            table.add_row(*map(escape, row))
        console.print(table)
        return Exit.OK

    return _on_fleet(app, listing)


def follow(app: str, run_id: str, after: str | None, as_json: bool, timeline: bool) -> int:
    """Write what happens in a run, a line each, until it has ended; the exit code says how.

    Raises:
        ConfigurationError: there is no such run, or it has never had such an event.
    """

    async def following(_: CeleryBackend, registry: BackendRegistry) -> int:
        run = await _found(run_id, registry)
        events: list[RunEvent] = []
        try:
            async for event in run.events(after):
                if timeline:
                    events.append(event)
                else:
                    _tell(event_line(event) if not as_json else json.dumps(_event(event)))
        except ValueError as error:
            raise ConfigurationError(f"--after {after!r}: {error}") from None
        finally:
            if events:  # also if Ctrl-C ends it before the run has ended
                _tell(Timeline.of_events(events, run.name).to_text())
        return _code(await run.result())

    return _on_fleet(app, following)


def cancel(app: str, run_id: str, as_json: bool) -> int:
    """Cancel a run, and wait until it has ended; gives back the exit code.

    Raises:
        ConfigurationError: there is no such run.
    """

    async def cancelling(_: CeleryBackend, registry: BackendRegistry) -> int:
        run = await _found(run_id, registry)
        cancels = (await run.status()).state != "ended"
        if cancels:
            await run.cancel()
        result = await run.result()
        if as_json:
            _tell(json.dumps({"id": run_id, "name": run.name, "had_ended": not cancels, **outcome_data(result)}))
            return Exit.OK
        ended = "it ended by itself meanwhile" if result.is_ok else result.failure.summary
        said = f": {shortened(ended, 1000)}" if cancels else " had ended already"
        _tell(printable(f"run {run_id} ({shortened(run.name, _LONGEST)}){said}"))
        return Exit.OK

    return _on_fleet(app, cancelling)


def attach(app: str, group_id: str, deadline: float | None, as_json: bool) -> int:
    """Wait for a PLACED_PAR that was started elsewhere; the exit code says how it ended.

    Raises:
        ConfigurationError: there is no such group.
    """

    async def attaching(_: CeleryBackend, registry: BackendRegistry) -> int:
        try:
            result = await PLACED_PAR.attach(group_id, registry=registry, deadline=deadline)
        except LookupError as error:
            raise ConfigurationError(str(error)) from None
        if as_json:
            for one in result.results:
                sys.stdout.write(json.dumps(outcome_data(one)) + "\n")
        else:
            sys.stdout.write(result.timeline().to_text() + "\n")
            if result.failures:
                complain(FailureReport.of(result.results).summary())
        if any(isinstance(failure.error, DeadlineExceeded) for failure in result.failures):
            return Exit.DEADLINE
        return Exit.OK if result.is_ok else Exit.FAILED

    return _on_fleet(app, attaching)


def _on_fleet(app: str, do: Callable[[CeleryBackend, BackendRegistry], Awaitable[int]]) -> int:
    application = load_application(app)

    async def doing() -> int:
        async with aclosing(CeleryBackend(application)) as backend:
            registry = BackendRegistry()
            registry.register("*", backend)
            return await do(backend, registry)

    return asyncio.run(doing())


async def _found(run_id: str, registry: BackendRegistry) -> Run[Any]:
    try:
        return await find(run_id, registry=registry)
    except (LookupError, ValueError) as error:
        raise ConfigurationError(str(error)) from None


def _code(result: ProcessResult) -> int:
    if result.is_ok:
        return Exit.OK
    complain(result.failure.summary)
    return Exit.DEADLINE if isinstance(result.failure.error, DeadlineExceeded) else Exit.FAILED


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def event_line(event: RunEvent, longest_path: int = 1000) -> str:
    """What has happened, in one line for people; of the path to the process it shows so many characters at most."""
    said = {
        "queued": "waits",
        "started": f"runs{f' on {event.worker}' if event.worker else ''}",
        "retried": f"is tried again, {event.error or 'because its worker was lost'}",
        "missed": f"{event.value} events are kept no more",
    }.get(event.kind)
    if event.kind == "progress":
        of = "" if event.value.total is None else f" of {event.value.total:g}"
        said = f"{event.value.done:g}{of} {event.value.note}".rstrip()
    elif event.kind == "checkpoint":
        said = f"checkpoint {text_of(event.value, 80)}"
    elif event.kind == "output":
        said = event.value if isinstance(event.value, str) else text_of(event.value, 1000)
    elif event.kind == "ended":
        said = "done" if event.error is None else f"failed: {event.error}"
    if event.attempt > 1 and event.kind == "started":
        said = f"{said}, attempt {event.attempt}"
    text = printable(shortened(f"{one_line(event.path, longest_path)}: {said}", 2000))
    return f"{event.at.astimezone():%H:%M:%S}  {text}"


def _event(event: RunEvent) -> dict[str, Any]:
    [data] = [line.removeprefix("data: ") for line in event.as_sse().splitlines() if line.startswith("data: ")]
    found: dict[str, Any] = json.loads(data)
    return found


def _plain(state: RunStatus) -> dict[str, Any]:
    found = asdict(state)
    for name in ("queued_at", "started_at", "ended_at"):
        moment = found[name]
        found[name] = None if moment is None else moment.isoformat()
    found["checkpoint"] = None if state.checkpoint is None else text_of(state.checkpoint, 1000)
    return found


def _cells(run: Run[Any], state: RunStatus, now: datetime) -> Sequence[str]:
    since = state.ended_at or state.started_at or state.queued_at
    age = "" if since is None else _span((now - since).total_seconds())
    return run.id, run.name, _state(state), state.worker or "", age, _progress(state)


def _state(state: RunStatus) -> str:
    return f"{state.state} (attempt {state.attempt})" if state.attempt > 1 else state.state


def _progress(state: RunStatus) -> str:
    if state.progress is None:
        return "" if state.checkpoint is None else text_of(state.checkpoint, 80)
    of = "" if state.progress.total is None else f" of {state.progress.total:g}"
    return f"{state.progress.done:g}{of} {state.progress.note}".rstrip()


def _span(seconds: float) -> str:
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {name}"
    return f"{max(0.0, seconds):.0f} s"


def _console() -> Console:
    # Not narrower than its lines where nobody looks at it: a pipe has no width.
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=1000)
