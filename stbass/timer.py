"""Time as something that can be waited for, alone or in a choice."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Generator
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from stbass._values.ids import new_id
from stbass._values.texts import value_text
from stbass._values.waits import Direction

__all__ = ["DEADLINE", "TIMER", "Countdown", "TimerExpired", "running"]


class RunningProcess(Protocol):
    """A process that runs, as far as timers and channels know it."""

    @property
    def process_name(self) -> str:
        """Its name."""

    @property
    def last_checkpoint(self) -> Any:
        """Its last checkpoint, or None."""

    def note_wait(self, channel: str, direction: Direction, since: float, seconds: float) -> None:
        """It has waited so long in a channel; ``since`` is when that began, on :func:`time.monotonic`."""


running: ContextVar[RunningProcess | None] = ContextVar("stbass_running", default=None)
"""The context of the process that runs."""


@dataclass(unsafe_hash=True)
class TimerExpired(TimeoutError):
    """What a timer or a deadline gives when its time has come; a process can also raise it, or fail with it.

    Args:
        started_at: when the wait began.
        deadline: when it was to end.
        elapsed: how long the wait really was, on the monotonic clock.
        timer_name: the timer's name.
        last_checkpoint: what the process around the wait last saved with ``ctx.checkpoint``, or None.
    """

    started_at: datetime
    deadline: datetime
    elapsed: timedelta
    timer_name: str = ""
    last_checkpoint: Any = None

    def __post_init__(self) -> None:
        # An exception is pickled, and sent, by its args.
        self.args = self.started_at, self.deadline, self.elapsed, self.timer_name, self.last_checkpoint

    def __str__(self) -> str:
        return f"timer {self.timer_name!r} expired after {self.elapsed.total_seconds():g} s"


class Countdown:
    """One wait on a timer: from when, and until when on the event loop's clock."""

    __slots__ = ("at", "began", "started_at", "timer", "until")

    def __init__(self, timer: TIMER | DEADLINE, seconds: float) -> None:
        self.timer = timer
        self.started_at = timer._now()
        self.began = asyncio.get_running_loop().time()
        self.at = self.began + seconds
        # Not the loop's clock: whoever asks what remains may be outside of any loop.
        self.until = time.monotonic() + seconds

    def expire(self) -> TimerExpired:
        """Say that the time has come."""
        elapsed = timedelta(seconds=asyncio.get_running_loop().time() - self.began)
        process = running.get()
        self.timer._fired = True
        return TimerExpired(
            self.started_at,
            self.timer._deadline_of(self.started_at),
            elapsed,
            self.timer.name,
            None if process is None else process.last_checkpoint,
        )


class TIMER:
    """Ready a number of seconds after a wait for it began.

    Every wait counts anew: each ``await`` of the timer, and each ``await`` of a choice that has it as a guard. So a
    timer that is used again and again in a loop means "nothing happened for so long". For one time limit over several
    choices use :class:`DEADLINE`.

    Args:
        seconds: from the start of a wait; 0 is ready at once, ``math.inf`` never.
        name: for messages and :class:`TimerExpired`.

    Raises:
        ValueError: negative, or not a number.
    """

    __slots__ = ("_countdown", "_fired", "name", "seconds")

    def __init__(self, seconds: float, name: str | None = None) -> None:
        if not seconds >= 0:
            raise ValueError(f"a timer's seconds are 0 or more, not {value_text(seconds)}")
        self.seconds = seconds
        self.name = name or f"timer_{new_id()[:8]}"
        self._fired = False
        self._countdown: Countdown | None = None

    @property
    def is_expired(self) -> bool:
        """Whether the latest wait for it ended by its time coming."""
        return self._fired

    @property
    def remaining(self) -> timedelta:
        """From now to the end of the latest wait, never below zero; all of it before the first."""
        if self._fired:
            return timedelta(0)
        if self._countdown is None:
            return _timedelta(self.seconds)
        return _timedelta(max(0.0, self._countdown.until - time.monotonic()))

    def begin(self) -> Countdown:
        """Begin a wait."""
        self._fired = False
        self._countdown = Countdown(self, self.seconds)
        return self._countdown

    def __await__(self) -> Generator[Any, None, TimerExpired]:
        """Wait that long."""
        return _wait(self).__await__()

    def _now(self) -> datetime:
        return datetime.now(UTC)

    def _deadline_of(self, started_at: datetime) -> datetime:
        return started_at + timedelta(seconds=self.seconds)

    def __repr__(self) -> str:
        return f"TIMER(seconds={self.seconds!r}, name={self.name!r})"


class DEADLINE:
    """Ready from a point in time on. However often it is waited for, that point stays.

    A wait measures the distance once and then follows the monotonic clock.

    Args:
        target: with a zone, or without one: then it is local time.
        name: for messages and :class:`TimerExpired`.

    Raises:
        TypeError: ``target`` is not a datetime.
    """

    __slots__ = ("_fired", "name", "target")

    def __init__(self, target: datetime, name: str | None = None) -> None:
        if not isinstance(target, datetime):
            raise TypeError(f"a deadline is a datetime, not {value_text(target)}; for seconds from now use TIMER")
        self.target = target
        self.name = name or f"deadline_{new_id()[:8]}"
        self._fired = False

    @property
    def is_expired(self) -> bool:
        """Whether the time has come."""
        return self._fired or self.remaining <= timedelta(0)

    @property
    def remaining(self) -> timedelta:
        """From now to the target; negative when it has passed."""
        return self.target - self._now()

    @property
    def seconds(self) -> float:
        """Seconds from now to the target, never below 0."""
        return max(0.0, self.remaining.total_seconds())

    def begin(self) -> Countdown:
        """Begin a wait."""
        return Countdown(self, self.seconds)

    def __await__(self) -> Generator[Any, None, TimerExpired]:
        """Wait until then."""
        return _wait(self).__await__()

    def _now(self) -> datetime:
        return datetime.now(self.target.tzinfo)

    def _deadline_of(self, started_at: datetime) -> datetime:
        return self.target

    def __repr__(self) -> str:
        return f"DEADLINE({self.target!r}, name={self.name!r})"


async def _wait(timer: TIMER | DEADLINE) -> TimerExpired:
    countdown = timer.begin()
    await asyncio.sleep(countdown.at - countdown.began)
    return countdown.expire()


def _timedelta(seconds: float) -> timedelta:
    return timedelta.max if math.isinf(seconds) else timedelta(seconds=seconds)
