"""Where a process has waited in channels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from heapq import heappush, heappushpop
from typing import Literal

from stbass._values.texts import one_line, plain_text, seconds_text

__all__ = ["MOST_WAITS", "ChannelWait", "ChannelWaits", "Direction", "WaitTally"]

Direction = Literal["send", "receive", "choose"]
"""What has waited in a channel."""

MOST_WAITS = 16
"""How many waits of one process are kept apart; of the others there is a sum."""
_LONGEST_NAME = 60


@dataclass(frozen=True, slots=True)
class ChannelWait:
    """One wait of a process in a channel.

    Args:
        channel: its name; of a choice, those of all that it waited at.
        direction: what waited: ``send``, ``receive`` or ``choose``.
        began: seconds after the process started.
        seconds: how long it was.
    """

    channel: str
    direction: Direction
    began: float
    seconds: float

    @property
    def text(self) -> str:
        """What is known of it, for people."""
        return f"{seconds_text(timedelta(seconds=self.seconds))} in a {self.direction} on {self.channel!r}"


@dataclass(frozen=True, slots=True)
class ChannelWaits:
    """The waits of one process in channels, as far as they were long enough to be seen.

    Args:
        count: how many there were.
        seconds: all of them together; more than the process ran, if several of its tasks waited side by side.
        longest: the longest, at most :data:`MOST_WAITS`, in the order in which they began.
    """

    count: int
    seconds: float
    longest: tuple[ChannelWait, ...]

    @property
    def text(self) -> str:
        """What is known of them, in one line."""
        whole = f"{seconds_text(timedelta(seconds=self.seconds))} of it in channels"
        if not self.longest:
            return whole
        longest = max(self.longest, key=lambda wait: wait.seconds).text
        return f"{whole} ({longest})" if self.count == 1 else f"{whole} ({self.count:,} times; longest {longest})"


class WaitTally:
    """Counts the waits of one process that runs."""

    __slots__ = ("_count", "_longest", "_seconds")

    def __init__(self) -> None:
        self._count = 0
        self._seconds = 0.0
        # A heap: the shortest comes first, and leaves when there are too many.
        self._longest: list[tuple[float, float, str, Direction]] = []

    def add(self, channel: str, direction: Direction, began: float, seconds: float) -> None:
        """One more; the arguments are those of :class:`ChannelWait`."""
        self._count += 1
        self._seconds += seconds
        wait = seconds, began, channel, direction
        if len(self._longest) < MOST_WAITS:
            heappush(self._longest, wait)
        else:
            heappushpop(self._longest, wait)

    def so_far(self) -> ChannelWaits:
        """What there was up to now."""
        return ChannelWaits(self._count, self._seconds, tuple(self._in_order()))

    def _in_order(self) -> Iterator[ChannelWait]:
        for seconds, began, channel, direction in sorted(self._longest, key=lambda wait: wait[1]):
            yield ChannelWait(one_line(plain_text(channel), _LONGEST_NAME), direction, began, seconds)
