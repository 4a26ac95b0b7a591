"""How values of a channel in Redis come to the reader's end.

A value is moved by the server from the list of what is offered into the list of what is taken, and told to this end: by
a blocking move on a connection of its own while somebody waits here, or by a script that moves all that is there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stbass.errors import SignatureError, StbassError, WireError
from stbass.transports.redis import scripts
from stbass.transports.redis.connection import Answer, Pipe, command
from stbass.transports.redis.entries import parse_entry

if TYPE_CHECKING:
    from stbass.transports.redis.link import RedisLink

__all__ = ["Intake", "Taken"]

_FAR = 4
"""How many windows of a channel with a capacity a value may be ahead of the one before it."""


class Taken:
    """A value that was moved to this reader, and not acknowledged yet."""

    __slots__ = ("kind", "number", "raw", "value")

    def __init__(self, raw: bytes, number: int, kind: bytes, value: Any) -> None:
        self.raw = raw
        self.number = number
        self.kind = kind
        self.value = value


class Intake(ABC):
    """What was moved to this end and not acknowledged, and what is about to be moved."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._taken: deque[Taken] = deque()
        self._known: set[int] = set()
        # Acknowledged while a blocking move was under way, whose answer may bring them once more.
        self._settled: set[int] = set()
        # With a capacity: the number of the last value that was moved here.
        self._last = 0
        self.pipe: Pipe | None = None
        self._blocked = False
        self._epoch = 0
        # Fetches under way, and what a blocking move has brought meanwhile.
        self._fetching = 0
        self._overtaking: list[bytes] = []
        self._when_fetched: list[Callable[[], None]] = []

    @abstractmethod
    def _advance(self) -> None:
        """Something came: go on with whoever waits first."""

    @abstractmethod
    def fail(self, error: StbassError) -> None:
        """Whoever waits cannot go on."""

    @property
    def offered(self) -> bool:
        """Whether a value is here that nobody has received."""
        return bool(self._taken)

    # Waiting for what comes ----------------------------------------------------------------------

    def _block(self, pipe: Pipe) -> None:
        text, moved = self._blocking(pipe)
        pipe.call(text, moved)

    def _blocking(self, pipe: Pipe) -> tuple[bytes, Answer]:
        """The blocking move, to be called on that connection."""
        self._blocked = True
        base, epoch = self._link.base.encode(), self._epoch
        offers, taken = b"%b:offers:%d" % (base, epoch), b"%b:taken:%d" % (base, epoch)

        def moved(reply: Any) -> None:
            if pipe is not self.pipe or epoch != self._epoch:
                return
            self._blocked = False
            if isinstance(reply, bytes) and self._fetching:
                # What is being fetched on the other connection was moved before it.
                self._overtaking.append(reply)
            elif isinstance(reply, bytes):
                self._add(reply)
                self._settled.clear()
                self._advance()
                if self._taken:
                    self._link.arms.heat("reader")
            else:
                self.fail(self._link.problem(reply))

        return command(b"BLMOVE", offers, taken, b"LEFT", b"RIGHT", b"0"), moved

    def _add_all(self, reply: list[Any]) -> None:
        for raw in reply[3:]:
            self._add(raw)
        if not self._fetching and self._overtaking:
            overtaking, self._overtaking = self._overtaking, []
            for raw in overtaking:
                self._add(raw)
            self._settled.clear()

    def _add(self, raw: bytes) -> None:
        link = self._link
        if not raw or not link.places.holds("r"):
            return  # with new lists under way, all of this comes again
        entry = parse_entry(raw)
        capacity = link.capacity
        if entry is None or (entry.kind == b"b") != (capacity > 0):
            self._refuse(raw, "it is not one that stbass wrote")
            return
        number, kind, count, _ = entry
        if capacity:
            if number + count - 1 <= self._last:
                return  # it came by another way already
            if number > self._last + _FAR * (capacity + 8):
                self._refuse(raw, f"its number is {number}, and the one before it has {self._last}")
                return
        elif number in self._known or number in self._settled:
            return
        try:
            values = link.codec.decode(entry)
        except (WireError, SignatureError) as error:
            self._refuse(raw, error)
            return
        if not capacity:
            self._known.add(number)
            self._taken.append(Taken(raw, number, kind, values[0]))
            return
        skip = max(0, self._last + 1 - number)
        self._taken.extend([Taken(raw, number + i, kind, values[i]) for i in range(skip, count)])
        self._last = number + count - 1

    def _refuse(self, raw: bytes, reason: Exception | str) -> None:
        """What is none of ours is dropped, counted and logged."""
        link = self._link
        link.here.warn(
            "signature" if isinstance(reason, SignatureError) else "value",
            f"channel {link.name!r}: refused a value in Redis: {reason}",
        )
        link.post(scripts.DROP, raw)

    # The end -------------------------------------------------------------------------------------

    def when_fetched(self, then: Callable[[], None]) -> None:
        """Call a function when no fetch is under way."""
        self._when_fetched.append(then)
        if not self._fetching:
            self._end_fetch()

    def _end_fetch(self) -> None:
        self._fetching = max(0, self._fetching - 1)
        if not self._fetching:
            waiting, self._when_fetched = self._when_fetched, []
            for then in waiting:
                then()

    def _forget(self) -> None:
        """What was moved here comes again, or is another's."""
        self._taken.clear()
        self._known.clear()
        self._settled.clear()
        self._overtaking.clear()

    def drop_pipe(self) -> None:
        """Give up the connection of the blocking move."""
        pipe, self.pipe = self.pipe, None
        blocked, self._blocked = self._blocked, False
        if pipe is not None:
            if blocked or pipe.closed:
                pipe.drop()
                # What was under way there is never answered.
                self._fetching = 0
                self._end_fetch()
            else:
                self._link.here.give_back(pipe)
