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
        now = time.time()
        uncommitted = self._consumed - self._acked
        if uncommitted > 0 and (2 * uncommitted >= link.capacity > 8 or client.is_quiet(now)):
            # What was received before, the program has dealt with. Half a window: the writer can go on.
            client.commit()
            uncommitted = 0
        taken = self._taken.popleft()
        if uncommitted <= 0:
            client.happened(self, wakes=wakes)
        self._consumed = taken.number
        place = self.got
        self.got = place + 1
        self.last = now
        return link.spec.accept(taken.value, place)

    # Telling the server; see the protocol in :mod:`stbass.transports.redis.client` ----------------

    def call(self) -> Call | None:
        """Acknowledge what was received."""
        link, number = self._link, self._consumed
        if number <= self._acked or not link.places.holds("r"):
            return None
        self._acked = number
        link.prepare()
        args = (link.party.encode(), b"%d" % number, b"0", b"1", b"0")
        return Call(b"a", link.base.encode(), args, partial(self._acknowledged, number))

    def commit(self) -> None:
        """Acknowledge what was received, and fetch what is there, in one."""
        number = self._consumed
        if number <= self._acked or not self._link.places.holds("r"):
            return
        if self._can_fetch:
            self._acked = number
            self._fetch(number)
        else:
            # Everything that moves values is on one connection, so that none overtakes another.
            self._acked = number
            self._link.prepare()
            text = self._link.text(scripts.ACK, b"%d" % number, b"0", b"1", b"0")
            self._link.here.pipe.call(text, partial(self._acknowledged, number))
            self._go_on()

    def committed(self) -> None:
        """Fetch what is there."""
        if self._can_fetch and self._link.places.holds("r"):
            self._fetch(0)
        else:
            self._go_on()

    @property
    def _can_fetch(self) -> bool:
        return not (self._blocked or self._fetching or self.pipe is None or self.pipe.closed)

    def _fetch(self, number: int) -> None:
        """Acknowledge all up to a number, and fetch what is there."""
        pipe, link = self.pipe, self._link
        assert pipe is not None
        self._fetching += 1
        # With a capacity nobody needs to know whether a receive waits, only that the end is in use.
        pipe.call(
            link.text(scripts.ACK, b"%d" % number, b"%d" % link.capacity, b"1", b"0"), partial(self._fetched, number)
        )
        if self.waiters:
            self._block(pipe)
        pipe.push()

    def _go_on(self) -> None:
        if self.waiters and not self._taken and not self._blocked and not self._fetching:
            self._wait()

    def tell_received(self) -> None:
        """Acknowledge what was received, once more, on the connection that all else follows on.

        It may have been lost with the other one, and what follows here must not overtake it.
        """
        link = self._link
        link.here.commit()
        if not link.capacity or self._consumed <= self._confirmed or not link.places.holds("r"):
            return
        number = self._acked = self._consumed

        def answered(reply: Any) -> None:
            if isinstance(reply, list) and reply[0] == b"ok":
                self._confirm(number)

        link.here.pipe.call(link.text(scripts.ACK, b"%d" % number, b"0", b"1", b"0"), answered)

    def _confirm(self, number: int) -> None:
        self._confirmed = max(self._confirmed, number)

    def _acknowledged(self, number: int, reply: Any) -> None:
        if not isinstance(reply, list):
            self.fail(self._link.problem(reply))
        elif reply[0] in LOST:
            self._link.places.told_lost("r")
        elif reply[0] != b"ok":
            self._link.vanished()
        else:
            self._confirm(number)
            if reply[2] and not self._fetching:
                self._link.told_closed()
            self._link.settle()

    def _fetched(self, number: int, reply: Any) -> None:
        self._end_fetch()
        if not isinstance(reply, list):
            self.fail(self._link.problem(reply))
        elif reply[0] == b"ok":
            self._confirm(number)
            self._add_all(reply)
            if reply[2]:
                self._link.closed = True
                if reply[4] == 0 and not self._taken and not self._link.outgoing.busy:
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
        while self.unacknowledged:
            if self._doubt is not None:
                doubt, self._doubt = self._doubt, None
                raise doubt
            number = self._consumed
            # On the connection that all else follows on; once more, if it was told on the other one.
            reply = await self._link.ask(scripts.ACK, b"%d" % number, b"0", b"1", b"0")
            if reply[0] == b"ok":
                self._confirm(number)
            elif reply[0] in LOST:
                self._link.places.told_lost("r")
            else:
                # The channel is gone, and with it whatever another reader could have got: the next operation says so.
                self._link.vanished()
                self._confirm(number)

    def _begin(self, acked: int) -> None:
        """The place is ours, with lists of our own: this is what former readers have received."""
        self._consumed = self._acked = self._confirmed = self._last = acked

    def _doubt_received(self) -> None:
        """Another reader gets what was received here and not acknowledged."""
        if self._link.capacity and self._consumed > self._confirmed:
            self._doubt = ChannelTopologyError(
                f"channel {self._link.name!r}: another end has taken the place of the reader, and receives once more"
                f" what was received here and not acknowledged ({self._consumed - self._confirmed} values at most)",
                channel_name=self._link.name,
            )
        self._confirmed = self._acked = self._consumed
