"""Looking at a program while it runs: events of processes, wherever they run.

Nothing is recorded unless somebody subscribes: otherwise an event costs one test of an empty tuple.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from stbass._values.endpoint import Placement
    from stbass.result import ProcessResult

__all__ = ["Event", "EventKind", "active", "emit", "subscribe"]

_log = logging.getLogger(__name__)

EventKind = Literal["queued", "started", "progress", "checkpoint", "output", "retried", "ended"]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a process.

    Args:
        kind: ``queued`` (sent away, not yet started), ``started``, ``progress``, ``checkpoint``, ``output``,
            ``retried`` (a further attempt is about to start), ``ended``.
        name: the process's name.
        process_id: id of this run of it.
        parent: name of the composition around it.
        placement: where it was placed.
        worker: the worker that runs it; None on this event loop or while it is queued.
        attempt: 1 for the first run, 2 after its worker was lost once, and so on.
        done, total, note: as given to ``ctx.progress``.
        value: as given to ``ctx.checkpoint`` or ``ctx.emit``.
        result: of an ``ended`` process, without its value if it ran inside of a process on a worker; of a ``retried``
            one that of the attempt before, None if its worker was lost.
        path: the names of what is around it, from the top, and its own: ``report/draft``.
    """

    kind: EventKind
    name: str
    process_id: str
    parent: str | None = None
    placement: Placement | None = None
    worker: str | None = None
    attempt: int = 1
    done: float | None = None
    total: float | None = None
    note: str = ""
    value: Any = None
    result: ProcessResult | None = None
    path: str = ""


subscribers: tuple[Callable[[Event], None], ...] = ()
"""Those who are called with each event. Only :func:`subscribe` changes it."""


def active() -> bool:
    """Whether anybody has subscribed."""
    return bool(subscribers)


def emit(event: Event) -> None:
    """Tell every subscriber. A subscriber that raises is logged and does not disturb the program."""
    for callback in subscribers:
        try:
            callback(event)
        except Exception:
            _log.exception("a subscriber of stbass.observe failed on %s of %s", event.kind, event.name)


@contextmanager
def subscribe(callback: Callable[[Event], None]) -> Iterator[None]:
    """Call ``callback`` with each :class:`Event` of this Python process while the context lasts.

    It is called in the thread in which the event happens, so it must be quick and must not block.
    """
    global subscribers
    subscribers = (*subscribers, callback)
    try:
        yield
    finally:
        remaining = list(subscribers)
        remaining.remove(callback)
        subscribers = tuple(remaining)
