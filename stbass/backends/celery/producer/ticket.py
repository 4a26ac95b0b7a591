"""A process that a producer waits for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from stbass._values.endpoint import Placement
from stbass._values.outcome import ProcessResult
from stbass.backends.celery.current_message import RunningMessage
from stbass.backends.celery.envelope import Envelope
from stbass.observe import events

__all__ = ["Ticket"]


@dataclass(slots=True, eq=False)
class Ticket:
    """A process on the fleet, with what only its producer knows of it.

    Args:
        envelope: the process.
        grace: seconds beyond the deadline that a worker has to answer.
        remaining: seconds to the deadline when it was submitted.
        placement: where it was placed.
        group: id of Celery's group that it belongs to.
        complete: fills in what the envelope lacks; called right before it is sent.
        sender: the message in a worker whose code has sent it.
    """

    envelope: Envelope
    grace: float
    remaining: float | None = None
    placement: Placement | None = None
    group: str | None = None
    complete: Callable[[], None] | None = None
    sender: RunningMessage | None = None
    future: asyncio.Future[ProcessResult] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    headers: dict[str, str] = field(default_factory=dict)
    """The envelope in its message's headers, until that is sent."""
    submitted_at: float = field(default_factory=time.monotonic)
    sent: bool = False
    started_at: float | None = None
    worker: str | None = None
    attempt: int = 1
    checkpoint: msgspec.Raw | None = None
    timer: asyncio.TimerHandle | None = None
    output: list[Any] | None = None
    """Of a stage: what it has sent on its ``output``."""

    @property
    def id(self) -> str:
        """Id of the process, and of Celery's task."""
        return self.envelope.id

    @property
    def left(self) -> float | None:
        """Seconds to the deadline."""
        return None if self.remaining is None else self.remaining - (time.monotonic() - self.submitted_at)

    def event(self, kind: Any, **details: Any) -> events.Event:
        """An event of this process, for those who look."""
        known = self.envelope
        return events.Event(
            kind,
            known.name,
            known.id,
            known.parent,
            self.placement,
            self.worker,
            self.attempt,
            path=f"{known.path or ''}{known.name}",
            **details,
        )
