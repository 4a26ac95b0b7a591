"""Where whoever traces is told: around each process and composition, and where one goes to a worker and arrives there.

Nobody traces unless :func:`stbass.observe.instrument` was called: a process then costs one look at a variable.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stbass._values.waits import Direction

if TYPE_CHECKING:
    from stbass.result import ProcessResult

__all__ = [
    "COUNTED",
    "OpenSpan",
    "Tracing",
    "arrive",
    "begin",
    "carried",
    "count",
    "current",
    "end",
    "trace_with",
    "waited",
]

COUNTED = {
    "stbass.workers.lost": "Processes whose worker was lost, by queue",
    "stbass.messages.refused": "Messages and other things that were refused, by kind",
}
"""What is counted beside processes, with what it is."""

_log = logging.getLogger(__name__)
_NOTHING: Mapping[str, str] = {}


class OpenSpan(ABC):
    """The span of a process that runs."""

    __slots__ = ()

    @abstractmethod
    def end(self, result: ProcessResult | None) -> None:
        """It has ended; None: it was cancelled, and its code did not say otherwise."""


class Tracing(ABC):
    """Whoever traces."""

    @abstractmethod
    def begin(self, kind: str, ctx: Any, worker: str | None, run: str) -> OpenSpan:
        """See :func:`begin`."""

    @abstractmethod
    def count(self, name: str, about: Mapping[str, str]) -> None:
        """See :func:`count`."""

    @abstractmethod
    def waited(self, direction: Direction, seconds: float, process: str | None) -> None:
        """See :func:`waited`."""

    @abstractmethod
    def carried(self) -> Mapping[str, str]:
        """See :func:`carried`."""

    @abstractmethod
    def arrive(self, carried: Mapping[str, str], attempt: int) -> None:
        """See :func:`arrive`."""


current: Tracing | None = None
"""Only :func:`trace_with` changes it."""


def trace_with(tracing: Tracing | None) -> None:
    """Let ``tracing`` be told from now on; None: nobody."""
    global current
    current = tracing


def begin(kind: str, ctx: Any, worker: str | None, run: str) -> OpenSpan | None:
    """A process or composition begins, in this context of the event loop.

    Nothing that whoever traces raises is in its way.

    Args:
        kind: the name of its class.
        ctx: its :class:`~stbass.context.ProcessContext`.
        worker: that runs it; None: none does.
        run: id of the run that it is part of.
    """
    if current is None:
        return None
    try:
        return current.begin(kind, ctx, worker, run)
    except Exception:
        _log.exception("no span was begun for %s", kind)
        return None


def end(span: OpenSpan | None, result: ProcessResult | None) -> None:
    """What :func:`begin` was told of has ended; None: it was cancelled."""
    if span is not None:
        try:
            span.end(result)
        except Exception:
            _log.exception("a span could not be ended")


def count(name: str, **about: str) -> None:
    """One more of something happened, such as the loss of a worker.

    Args:
        name: of what is counted, one of :data:`COUNTED`.
        about: what it is told apart by.
    """
    if current is not None:
        try:
            current.count(name, about)
        except Exception:
            _log.exception("%s was not counted", name)


def waited(direction: Direction, seconds: float, process: str | None) -> None:
    """A send, a receive or a choice did not go on at once, but has waited so long.

    Args:
        direction: what has waited.
        seconds: how long.
        process: the name of the process that it was a part of; None: of none.
    """
    if current is not None:
        try:
            current.waited(direction, seconds, process)
        except Exception:
            _log.exception("a wait in a channel was not counted")


def carried() -> Mapping[str, str]:
    """What a message says of the span around it. It is not to be changed: other messages say the same."""
    if current is None:
        return _NOTHING
    try:
        return current.carried()
    except Exception:
        _log.exception("a message does not say which span it was sent in")
        return _NOTHING


def arrive(carried: Mapping[str, str], attempt: int) -> None:
    """What this task runs from now on belongs to the span that a message was sent in.

    Args:
        carried: as the message says it.
        attempt: above 1 if an earlier worker was lost: the span is linked to that of the message, too.
    """
    if current is not None:
        try:
            current.arrive(carried, attempt)
        except Exception:
            _log.exception("the span in which a message was sent could not be read")
