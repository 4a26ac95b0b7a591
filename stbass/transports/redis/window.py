"""Receiving from a channel with a capacity: the senders have gone on already, and values are fetched ahead.

A receive takes what is here and has happened. The server is told at once, or with everything else that happens in this
turn of the event loop (see :meth:`stbass.transports.redis.client.Client.commit`), always between two receives: what is
told is what the program had done when it asked for the next value.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from asyncio import Future
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from stbass.errors import ChannelTopologyError, StbassError
from stbass.transports.redis import scripts
from stbass.transports.redis.client import Call
from stbass.transports.redis.intake import Intake
from stbass.transports.redis.places import LOST

if TYPE_CHECKING:
    from stbass.transports.redis.link import RedisLink

__all__ = ["Window"]


class Window(Intake):
    """What was fetched ahead, received, and acknowledged."""

    def __init__(self, link: RedisLink) -> None:
        super().__init__(link)
        self.waiters: deque[Future[Any]] = deque()
        self.got = 0
        self.last = 0.0
        # Up to these numbers: received; told to the server; known to be known there.
        self._consumed = 0
        self._acked = 0
        self._confirmed = 0
        # Up to this one the writer was told that there is room.
        self._credited = 0
        self._doubt: StbassError | None = None
        self._drained = False

    @property
    def waiting(self) -> bool:
        """Whether a receive waits here."""
        return any(not waiter.done() for waiter in self.waiters)

    @property
    def drained(self) -> bool:
        """Whether the channel is closed, and nothing can be received any more."""
        return self._drained

    @abstractmethod
    def _wait(self) -> None:
        """Nothing is here: wait in a blocking move."""

    @abstractmethod
    def _fail_closed(self) -> None:
        """The channel is closed, and nothing more comes."""

    def _consume(self, *, wakes: bool = False) -> Any:
        link = self._link
        client = link.here
        link.goes_on()
        now = time.time()
        untold = self._consumed - self._acked
        if untold > 0 and (2 * untold >= link.capacity > 8 or client.is_quiet(now)):
            # Half a window: the writer can go on.
            client.commit()
        taken = self._taken.popleft()
        if self not in client.uncommitted:
            client.happened(self, wakes=wakes)
        link.journal.in_hand = self
        self._consumed = taken.number
        place = self.got
        self.got = place + 1
        self.last = now
        return link.spec.accept(taken.value, place)

    # Telling the server; see the protocol in :mod:`stbass.transports.redis.client` ----------------

    @property
    def _due(self) -> int:
        """Up to this number the program has dealt with what it received, and the server may be told."""
        return self._consumed - (self._link.journal.in_hand is self)

    def _ack(self, most: int = 0, *, whole: bool = False) -> tuple[bytes, ...]:
        """The arguments of ACK: acknowledge what may be, and move what is there. From now on it counts as told."""
        self._acked = self._due
        self._credited = self._consumed
        return b"%d" % self._acked, b"%d" % most, b"1" if whole else b"0", b"%d" % self._credited

    @property
    def _news(self) -> bool:
        return self._link.places.holds("r") and (self._due > self._acked or self._consumed > self._credited)

    def call(self) -> Call | None:
        """Acknowledge what was received."""
        link = self._link
        if not self._news and (self._confirmed >= self._acked or not link.places.holds("r")):
            return None
        link.prepare()
        args = (link.party.encode(), *self._ack())
        return Call(b"a", link.base.encode(), args, partial(self._acknowledged, self._acked))

    def commit(self) -> None:
        """Acknowledge what was received, and fetch what is there, in one."""
        if not self._news:
            return
        link = self._link
        pipe = link.here.pipe
        if self._can_fetch and pipe.idle:
            self._fetch(tells=True)
        else:
            # What is told follows what was told before, on the same connection.
            link.prepare()
            pipe.call(link.text(scripts.ACK, *self._ack()), partial(self._acknowledged, self._acked))
            self._go_on()

    def committed(self) -> None:
        """Fetch what is there."""
        if self._can_fetch and self._link.places.holds("r"):
            self._fetch()
        else:
            self._go_on()

    def telling(self) -> bytes | None:
        """The command that tells all that was received here, if the server may not know it: this end is given up."""
        if self._consumed <= self._confirmed or not self._link.places.holds("r"):
            return None
        number = b"%d" % self._consumed
        return self._link.text(scripts.ACK, number, b"0", b"0", number)

    @property
    def _can_fetch(self) -> bool:
        return not (self._blocked or self._fetching or self.pipe is None or self.pipe.closed)

    def _fetch(self, *, tells: bool = False) -> None:
        """Fetch what is there, and acknowledge what may be, if it is not told on the other connection."""
        pipe, link = self.pipe, self._link
        assert pipe is not None
        self._fetching += 1
        most = link.capacity
        if tells:
            link.here.beside[self] = None
            args = self._ack(most)
        else:
            args = (b"0", b"%d" % most, b"0", b"0")
        # With a capacity nobody needs to know whether a receive waits, only that the end is in use.
        pipe.call(link.text(scripts.ACK, *args), partial(self._fetched, self._acked if tells else 0, self._consumed))
        if self.waiters:
            self._block(pipe)
        pipe.push()

    def _go_on(self) -> None:
        if self.waiters and not self._taken and not self._blocked and not self._fetching:
            self._wait()

    def tell_received(self) -> None:
        """Acknowledge what may be, once more, on the connection that all else follows on.

        It may have been lost with the other one, and what follows here must not overtake it.
        """
        link = self._link
        link.here.commit()
        if not link.capacity or self._due <= self._confirmed or not link.places.holds("r"):
            return
        args, number = self._ack(), self._acked

        def answered(reply: Any) -> None:
            if isinstance(reply, list) and reply[0] == b"ok":
                self._confirm(number)

        link.here.pipe.call(link.text(scripts.ACK, *args), answered)

    def _confirm(self, number: int) -> None:
        self._confirmed = max(self._confirmed, number)
        if self._confirmed >= self._acked:
            self._link.here.beside.pop(self, None)

    def _acknowledged(self, number: int, reply: Any) -> None:
        if not isinstance(reply, list):
            self.fail(self._link.problem(reply))
        elif reply[0] in LOST:
            self._link.places.told_lost("r")
        elif reply[0] != b"ok":
            self._link.vanished()
        else:
            self._confirm(number)
            if reply[1] and not self._fetching:
                self._link.told_closed()
            self._link.settle()

    def _fetched(self, number: int, received: int, reply: Any) -> None:
        self._end_fetch()
        if not isinstance(reply, list):
            self.fail(self._link.problem(reply))
        elif reply[0] == b"ok":
            self._confirm(number)
            self._add_all(reply)
            if reply[1]:
                self._link.closed = True
                # What the program is still at work on is there, and does not come here once more.
                left = reply[2] - (number < received)
                if left <= 0 and not self._taken and not self._link.outgoing.busy:
                    self._drained = True
                    self._fail_closed()
            self._advance()
            self._link.arms.heat("reader")
            self._link.settle()
        elif reply[0] in LOST:
            self._link.places.told_lost("r")
        else:
            self._link.vanished()

    # What was received and is not known to be acknowledged ----------------------------------------

    @property
    def unacknowledged(self) -> bool:
        """Whether something was received that another reader may get once more."""
        return bool(self._link.capacity) and (self._consumed > self._confirmed or self._doubt is not None)

    async def acknowledged(self) -> None:
        """Return when nothing that was received here can come to another reader.

        Raises:
            ChannelTopologyError: it can: another reader has the place.
            StbassError: whether it can, is not known.
        """
        wanted = self._consumed
        while self._confirmed < wanted or self._doubt is not None:
            if self._doubt is not None:
                doubt, self._doubt = self._doubt, None
                raise doubt
            args, number = self._ack(), self._acked
            # On the connection that all else follows on; once more, if it was told on the other one.
            reply = await self._link.ask(scripts.ACK, *args)
            if reply[0] == b"ok":
                self._confirm(number)
            elif reply[0] in LOST:
                self._link.places.told_lost("r")
            else:
                # The channel is gone, and with it whatever another reader could have got: the next operation says so.
                self._link.vanished()
                self._confirm(number)

    def _begin(self, done: int, *, kept: bool) -> None:
        """The place is ours, with lists of our own: this is what readers have dealt with.

        If it was ours before, what was received here comes once more, and is passed over.
        """
        self._consumed = self._last = max(done, self._consumed) if kept else done
        self._acked = self._confirmed = self._credited = done
        if self._due > done:
            self._link.here.happened(self)

    def _doubt_received(self) -> None:
        """Another reader gets what was received here and not acknowledged."""
        if self._link.capacity and self._consumed > self._confirmed:
            self._doubt = ChannelTopologyError(
                f"channel {self._link.name!r}: another end has taken the place of the reader, and receives once more"
                f" what was received here and not acknowledged ({self._consumed - self._confirmed} values at most)",
                channel_name=self._link.name,
            )
        if self._link.journal.in_hand is self:
            self._link.journal.in_hand = None
        self._confirmed = self._acked = self._credited = self._consumed
