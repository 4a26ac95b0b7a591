"""One process on a timeline."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from stbass.errors import DeadlineExceeded, ProcessCancelled

__all__ = ["Span", "State", "seconds_text", "state_after"]

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

    @property
    def waited(self) -> timedelta:
        """How long it waited to be started."""
        return (self.started_at or self.ended_at) - self.queued_at

    @property
    def ran(self) -> timedelta:
        """How long it ran; nothing if it never started."""
        return timedelta() if self.started_at is None else self.ended_at - self.started_at

    @property
    def text(self) -> str:
        """What is known of it, in one line."""
        parts = [self.state, f"waited {seconds_text(self.waited)}"]
        parts.append("never started" if self.started_at is None else f"ran {seconds_text(self.ran)}")
        parts += [f"attempt {self.attempt}"] if self.attempt > 1 else []
        parts += [text for text in (self.where, self.error) if text]
        return f"{self.name}: {', '.join(parts)}"


def seconds_text(time: timedelta) -> str:
    """For people, in the unit that fits."""
    seconds = time.total_seconds()
    if seconds >= 120:
        minutes, seconds = divmod(seconds, 60)
        return f"{minutes:,.0f} min {seconds:.0f} s" if seconds >= 0.5 else f"{minutes:,.0f} min"
    if not seconds or seconds >= 0.9995:
        return f"{seconds:.3g} s"
    return f"{seconds * 1000:.3g} ms"
