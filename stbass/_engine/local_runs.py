"""Runs that this Python process keeps: on a backend that keeps none itself, for tests and programs without a server."""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import datetime
from functools import partial
from itertools import islice
from threading import Lock
from time import monotonic
from typing import Any

from stbass._engine.backend import ExecutionBackend
from stbass._engine.channel_migration import channels_by_path
from stbass._engine.children import open_groups
from stbass._engine.lending import lent
from stbass._engine.registry import BackendRegistry
from stbass._engine.runs import (
    MOST_EVENTS,
    Run,
    RunEvent,
    RunOrder,
    RunStatus,
    checked_after,
    end_of_run,
    missed_events,
    run_event,
    taken_by,
)
from stbass._engine.supervise import Child, run_child
from stbass._process.contained import exit_refused
from stbass._process.context import Composable, ProcessContext, failure_of, frame_of
from stbass._process.meter import Meter
from stbass._values.checks import checked_deadline
from stbass._values.ctrl_c import raise_ctrl_c
from stbass._values.ids import new_id
from stbass._values.outcome import ProcessResult, utc_now
from stbass._values.texts import text_of, traceback_text, type_name_of
from stbass.channel import Chan
from stbass.errors import NotTransportable, ProcessCancelled
from stbass.observe.events import Event
from stbass.timer import running

__all__ = ["find_here", "start_here"]

KEPT_SECONDS = 86400.0
"""How long a run is known after it has ended: as long as the fleet keeps results by default."""


class _Record:
    """What is known of a run. It is also told of what happens in it."""

    fleet: object = None

    def __init__(self, process: Composable, order: RunOrder) -> None:
        self.run_id = order.id
        self.work = order.work
        self.process = process  # also so that what its work was told by is not made anew
        self.process_id = new_id()
        self.channels = channels_by_path(process)
        self.task: asyncio.Task[None] | None = None
        self.result: ProcessResult | None = None
        self.ended_since: float | None = None
        """When it ended, on time.monotonic."""
        self.times: dict[str, datetime] = {}
        self.latest: dict[str, Any] = {}
        """Of the whole run: worker, attempt, progress, checkpoint."""
        self.number = 0
        """Of the latest event."""
        self.events: deque[RunEvent] = deque(maxlen=MOST_EVENTS)
        self._waiting: list[Callable[[], object]] = []
        self._lock = Lock()

    def record(self, event: Event) -> None:
        if event.kind == "output":
            event = replace(event, value=_copied(event.value))
        elif event.kind == "checkpoint":
            with contextlib.suppress(NotTransportable):
                event = replace(event, value=_copied(event.value))
        whole = event.process_id == self.process_id
        with self._lock:
            if self.result is not None or (whole and event.kind in ("queued", "ended") and self.number):
                return  # how it begins and ends is told by whoever starts it
            self.number += 1
            told = run_event(event, self.number, utc_now())
            self.events.append(told)
            if whole:
                self._note(told)
        self._wake()

    def _note(self, event: RunEvent) -> None:
        self.times.setdefault(event.kind, event.at)
        if event.kind == "started":
            self.latest.update(worker=event.worker, attempt=event.attempt)
        elif event.kind in ("progress", "checkpoint"):
            self.latest[event.kind] = event.value

    async def room(self) -> None:
        return None

    async def flush(self) -> None:
        return None

    def end(self, result: ProcessResult) -> None:
        """It has ended."""
        with self._lock:
            self.times["ended"] = at = utc_now()
            self.number += 1
            self.events.append(end_of_run(result, self.number, self.process.name, self.process_id, at))
            self.result = result
            self.ended_since = monotonic()
        self._wake()

    def _wake(self) -> None:
        for wake in list(self._waiting):
            with contextlib.suppress(RuntimeError):  # the event loop of somebody who followed it was closed
                wake()

    @contextmanager
    def news(self) -> Iterator[asyncio.Event]:
        """Set, on this event loop, whenever something has happened."""
        event = asyncio.Event()
        wake = partial(asyncio.get_running_loop().call_soon_threadsafe, event.set)
        self._waiting.append(wake)
        try:
            yield event
        finally:
            self._waiting.remove(wake)

    def after(self, number: int) -> list[RunEvent]:
        """The events that came after that one, as far as they are kept, with word of those that are not."""
        with self._lock:
            first = self.number - len(self.events) + 1
            found = list(islice(self.events, max(0, number + 1 - first), None))
            if found and first > number + 1:
                found.insert(
                    0, missed_events(number + 1, first - 1, self.process.name, self.process_id, self.times["queued"])
                )
        return found


def _copied(value: Any) -> Any:
    """As it is now: the process may go on to change it."""
    try:
        return copy.deepcopy(value)
    except BaseException as error:  # of a class of the user's
        raise_ctrl_c(error)
        raise NotTransportable(
            f"output: a {type_name_of(type(value))} cannot be kept for those who follow the run, because it cannot be"
            f" copied ({text_of(error, 200)}); emit plain values"
        ) from error


class LocalRun(Run[Any]):
    """A run in this Python process. It ends with it, and with the event loop on which it was started."""

    def __init__(self, record: _Record, is_new: bool = False) -> None:
        super().__init__(record.run_id, record.process.name, is_new)
        self._record = record

    async def _result(self, deadline: float | None = None) -> ProcessResult:
        seconds = checked_deadline(deadline)
        try:
            async with asyncio.timeout(seconds):
                with self._record.news() as news:
                    while self._record.result is None:
                        await news.wait()
                        news.clear()
        except TimeoutError:
            assert seconds is not None
            return self._waited_for(seconds)
        return self._record.result

    async def status(self) -> RunStatus:
        record = self._record
        times = [record.times.get(kind) for kind in ("queued", "started", "ended")]
        state: Any = "ended" if times[2] else "running" if times[1] else "queued"
        return RunStatus(state, **record.latest, queued_at=times[0], started_at=times[1], ended_at=times[2])

    async def events(self, after: str | None = None) -> AsyncIterator[RunEvent]:
        record = self._record
        number = checked_after(after, record.number, self.id)
        with record.news() as news:
            while True:
                news.clear()
                over = record.result is not None
                for event in record.after(number):
                    number = int(event.id)
                    yield event
                if over and number >= record.number:
                    return
                if number >= record.number:
                    async with lent():
                        await news.wait()

    async def cancel(self) -> None:
        task = self._record.task
        if self._record.result is None and task is not None:
            loop = task.get_loop()
            if loop is asyncio.get_running_loop():
                task.cancel()
            else:
                loop.call_soon_threadsafe(task.cancel)

    @asynccontextmanager
    async def _channels(self) -> AsyncIterator[Mapping[str, Chan[Any]]]:
        yield self._record.channels


_runs: dict[str, _Record] = {}


def find_here(run_id: str) -> LocalRun | None:
    """The run of that id, if this Python process keeps it."""
    found = _runs.get(run_id)
    return None if found is None or _is_forgotten(found) else LocalRun(found)


def _is_forgotten(record: _Record) -> bool:
    return record.ended_since is not None and monotonic() - record.ended_since > KEPT_SECONDS


def _known(order: RunOrder) -> LocalRun | None:
    found = find_here(order.id)
    if found is not None and _runs[order.id].work != order.work:
        raise taken_by(order.id, found.name)
    return found


async def start_here(
    process: Composable, order: RunOrder, backend: ExecutionBackend, registry: BackendRegistry
) -> LocalRun:
    """Start a process as a run that this Python process keeps, unless it has one of that id.

    Args:
        process: what to run.
        order: how.
        backend: where.
        registry: where the placements of what is inside are looked up.

    Raises:
        RunConflictError: it has, and that is other work.
        Exception: the backend, or one of those inside, cannot take it; nothing was started.
    """
    known = _known(order)
    if known is not None:
        return known
    record = _Record(process, order)
    ctx = ProcessContext(process.name, record.process_id, None, None, order.placement)
    frame = frame_of(ctx)
    frame.registry = registry
    frame.meter = Meter(run=order.id)
    frame.recorder = record
    if order.deadline is not None:
        frame.limit(monotonic() + order.deadline, order.deadline)
    child = Child(process, ctx, backend)
    await open_groups(ctx, [child])
    # Somebody may have started it meanwhile.
    known = _known(order)
    if known is not None:
        return known
    for run_id in [run_id for run_id, one in _runs.items() if _is_forgotten(one)]:
        del _runs[run_id]
    _runs[order.id] = record
    path = f"{frame.path}{process.name}"
    record.record(Event("queued", process.name, record.process_id, placement=order.placement, path=path))
    record.task = asyncio.get_running_loop().create_task(_run(child, record), name=f"stbass-run-{order.id}")
    record.task.add_done_callback(partial(_see_to_the_end, record, ctx))
    return LocalRun(record, is_new=True)


async def _run(child: Child, record: _Record) -> None:
    running.set(None)  # it is no part of the process that has started it
    try:
        record.end(await run_child(child))
    except asyncio.CancelledError:
        raise
    except (SystemExit, KeyboardInterrupt) as error:
        record.end(exit_refused(error, child.ctx))
    except BaseException as error:
        record.end(failure_of(error, child.ctx, traceback_text(error)))


def _see_to_the_end(record: _Record, ctx: ProcessContext, task: asyncio.Task[None]) -> None:
    # Here and not in the task, which may have been cancelled before its first step.
    if task.cancelled():
        record.end(failure_of(ProcessCancelled(f"process {ctx.process_name!r} was cancelled"), ctx))
