"""One process on a timeline."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from stbass._values.texts import seconds_text
from stbass._values.waits import ChannelWaits
from stbass.errors import DeadlineExceeded, ProcessCancelled

__all__ = ["Span", "State", "state_after"]

State = Literal["done", "failed", "too late", "cancelled", "running"]


def state_after(error: BaseException) -> State:
    """How a process ended that failed with ``error``."""
    kind = type(error)
    if issubclass(kind, ProcessCancelled):
        return "cancelled"
    return "too late" if issubclass(kind, DeadlineExceeded) else "failed"


@dataclass(frozen=True, slots=True)
class Span:
    """One process on a timeline.

    Args:
        name: of the process.
        process_id: id of this run of it.
        where: its placement, and the worker that ran it; empty if it ran here, with no placement.
        attempt: 1, or more if it was run again.
        queued_at: when it was there to be started.
        started_at: when it started; None if it never did.
        ended_at: when it ended.
        state: how it ended; ``too late`` is a deadline, and ``running`` one that has not ended.
        error: what went wrong, for people; empty if nothing did.
        waits: in channels, of what ran; None: none that was long enough to be seen.
    """

    name: str
    process_id: str
    where: str
    attempt: int
    queued_at: datetime
    started_at: datetime | None
    ended_at: datetime
    state: State
    error: str = ""
    waits: ChannelWaits | None = None

    @property
    def waited(self) -> timedelta:
        """How long it waited to be started."""
        return (self.started_at or self.ended_at) - self.queued_at

    @property
    def ran(self) -> timedelta:
        """How long it ran; nothing if it never started."""
        return timedelta() if self.started_at is None else self.ended_at - self.started_at

    @property
    def in_channels(self) -> list[tuple[datetime, datetime]]:
        """From when until when it waited in channels: the longest waits, within the time that it ran."""
        if self.waits is None or self.started_at is None:
            return []
        begun = ((self.started_at + timedelta(seconds=one.began), one.seconds) for one in self.waits.longest)
        return [(since, min(since + timedelta(seconds=seconds), self.ended_at)) for since, seconds in begun]

    @property
    def text(self) -> str:
        """What is known of it, in one line."""
        parts = [self.state, f"waited {seconds_text(self.waited)}"]
        parts.append("never started" if self.started_at is None else f"ran {seconds_text(self.ran)}")
        parts += [] if self.waits is None else [self.waits.text]
        parts += [f"attempt {self.attempt}"] if self.attempt > 1 else []
        parts += [text for text in (self.where, self.error) if text]
        return f"{self.name}: {', '.join(parts)}"
