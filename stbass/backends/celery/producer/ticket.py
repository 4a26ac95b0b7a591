"""A process that a producer waits for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from stbass._process.context import ProcessContext, count_usage
from stbass._process.frame import RunRecorder
from stbass._values.endpoint import Placement
from stbass._values.outcome import ProcessResult
from stbass._values.usage import NO_USAGE, Usage
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
        ctx: of the process, where what it uses counts.
        recorder: of the run that it is part of, if what happens on the fleet is told to this program alone.
    """

    envelope: Envelope
    grace: float
    remaining: float | None = None
    placement: Placement | None = None
    group: str | None = None
    complete: Callable[[], None] | None = None
    sender: RunningMessage | None = None
    ctx: ProcessContext | None = None
    recorder: RunRecorder | None = None
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
    used: dict[int, Usage] = field(default_factory=dict)
    """What each attempt has used, as far as its worker has said."""
    missing_since: float | None = None
    """Since when nobody on the fleet knows it."""
    output: list[Any] | None = None
    """Of a stage: what it has sent on its ``output``."""

    @property
    def id(self) -> str:
        """Id of the process, and of Celery's task."""
        return self.envelope.id

    @property
    def is_observed(self) -> bool:
        """Whether anybody wants to know what happens to it."""
        return self.recorder is not None or events.active()

    @property
    def left(self) -> float | None:
        """Seconds to the deadline."""
        return None if self.remaining is None else self.remaining - (time.monotonic() - self.submitted_at)

    def note_usage(self, attempt: int, total: Usage) -> None:
        """An attempt has used so much up to now."""
        before = self.used.get(attempt, NO_USAGE)
        # What was said earlier may arrive later.
        if self.ctx is not None and total != before and total.tokens >= before.tokens and total.cost >= before.cost:
            self.used[attempt] = total
            count_usage(self.ctx, total - before)

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
