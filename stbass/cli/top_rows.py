"""What ``stbass top`` shows of a fleet, as rows of text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from stbass._values.texts import one_line, plain_text
from stbass.backends.celery import keys
from stbass.backends.celery.fleet_status import EndpointStatus, FleetStatus
from stbass.cli.status import HEADS, age_text, endpoint_cells
from stbass.runs import RunStatus

__all__ = ["Row", "endpoint_rows", "failure_rows", "fleet_summary", "process_rows"]

_LONGEST_CELL = 200
_LATELY = 600.0
"""Seconds for which a failure is shown."""
MOST_ROWS = 200


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table.

    Args:
        key: tells it from others, and is the same each time.
        cells: their texts, by the names of columns.
        state: how it is: ``bad``, ``waits`` or nothing in particular.
        details: everything that is known, a line each.
        run: the run that it belongs to; empty: none.
    """

    key: str
    cells: dict[str, str]
    state: str = ""
    details: list[str] = field(default_factory=list)
    run: str = ""

    def has(self, text: str) -> bool:
        """Whether that text is in one of its cells, in capital letters or not."""
        return any(text.casefold() in cell.casefold() for cell in (*self.cells.values(), self.run))


def endpoint_rows(status: FleetStatus) -> Iterator[Row]:
    """A row for each endpoint; its details are what is known of its workers."""
    for one in status.endpoints:
        cells = dict(zip(HEADS, endpoint_cells(one), strict=True))
        details = [f"endpoint {_line(one.endpoint)}: {_waiting(one)}"]
        for worker in status.workers:
            if one.endpoint in worker.endpoints:
                slots = f"{worker.slots} at once"
                details.append(f"worker {_line(worker.name)} ({slots}): {_line(worker.trouble or 'is well')}")
        bad = one.healthy < one.workers or (not one.workers and one.queued)
        yield Row(one.endpoint, cells, "bad" if bad else "", details)


def _waiting(one: EndpointStatus) -> str:
    limit = "no limit" if one.limit is None else f"limit {one.limit}"
    return f"{one.running} running, {limit}, {one.queued} queued, {one.limited} of them for the limit"


def process_rows(status: FleetStatus, runs: dict[str, tuple[str, RunStatus]]) -> Iterator[Row]:
    """A row for each process that workers tell of, the one that has run longest first, and for each run that waits.

    Args:
        status: of the fleet.
        runs: those that no worker has told of, by id: name and state.
    """
    told = [(one, answer.worker) for answer in status.answers for one in answer.oldest]
    for one, worker in sorted(told, key=lambda pair: -pair[0].age):
        cells = {
            "process": _line(one.name),
            "run": _line(one.run),
            "state": "runs" if one.attempt == 1 else f"attempt {one.attempt}",
            "endpoint": _line(one.queue),
            "worker": _line(worker),
            "age": age_text(one.age),
            "left": age_text(one.left),
            "progress": _line(one.progress or one.checkpoint),
        }
        yield Row(one.id, cells, "", _details(one, worker), one.run)
    now = datetime.now(UTC)
    for run_id, (name, state) in runs.items():
        since = None if state.queued_at is None else (now - state.queued_at).total_seconds()
        cells = dict.fromkeys(("endpoint", "worker", "left", "progress"), "") | {
            "process": _line(name),
            "run": _line(run_id),
            "state": state.state,
            "age": age_text(since),
            "worker": _line(state.worker or ""),
        }
        yield Row(f"run {run_id}", cells, "waits", [f"run {_line(run_id)}: {_line(name)}, {state.state}"], run_id)


def _details(one: keys.RunningProcess, worker: str) -> list[str]:
    left = "no deadline" if one.left is None else f"{age_text(one.left)} to its deadline"
    lines = [
        f"process {_line(one.name)} ({_line(one.id)}), attempt {one.attempt}",
        f"on {_line(worker)}, endpoint {_line(one.queue)}, for {age_text(one.age)}, {left}",
    ]
    lines += [f"run {_line(one.run)}" + ("" if one.is_whole else ", of which it is a part")] if one.run else []
    lines += [f"progress {_line(one.progress)}"] if one.progress else []
    return lines + ([f"checkpoint {_line(one.checkpoint)}"] if one.checkpoint else [])


def failure_rows(status: FleetStatus) -> Iterator[Row]:
    """A row for each failure that workers tell of, the latest first."""
    told = [(one, answer.worker) for answer in status.answers for one in answer.failed]
    for one, worker in sorted(told, key=lambda pair: pair[0].ago):
        if one.ago <= _LATELY:
            cells = {
                "ago": age_text(one.ago),
                "process": _line(one.name),
                "run": _line(one.run),
                "endpoint": _line(one.queue),
                "error": _line(one.error),
            }
            attempt = f"attempt {one.attempt}" if one.attempt else "not started"
            details = [
                f"process {_line(one.name)} ({_line(one.id)}), {attempt}, failed {age_text(one.ago)} ago",
                f"on {_line(worker)}, endpoint {_line(one.queue)}" + (f", run {_line(one.run)}" if one.run else ""),
                one_line(one.error, 2000),
            ]
            yield Row(f"{one.id} {one.attempt}", cells, "bad", details, one.run)


def fleet_summary(status: FleetStatus) -> str:
    """All of it in a few words."""
    ill = sum(worker.trouble is not None for worker in status.workers)
    workers = f"{len(status.workers)} worker{'s' * (len(status.workers) != 1)}" + (f" ({ill} not well)" if ill else "")
    running = sum(one.running for one in status.endpoints)
    queued = sum(one.queued for one in status.endpoints)
    failed = [sum(one.ago <= _LATELY for one in answer.failed) for answer in status.answers]
    or_more = " or more" if any(number == keys.MOST_TOLD for number in failed) else ""
    more = f", {sum(failed)}{or_more} failed in 10 min" if any(failed) else ""
    return f"{workers}, {running:,} running, {queued:,} queued{more}"


def _line(text: str) -> str:
    return one_line(plain_text(text), _LONGEST_CELL)
