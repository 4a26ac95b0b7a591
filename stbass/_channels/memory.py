"""Channels in the memory of one event loop: the default, and the fastest.

Everything here happens in one step of the loop, so a meeting is atomic without any lock. Who comes second completes
whoever waits, at once: a value that is given to a waiting receiver is that receiver's for good, since a receiver that
is cancelled in that moment still returns it (see :mod:`stbass._channels.cancellation`).
"""

from __future__ import annotations

import asyncio
from asyncio import Future, InvalidStateError, get_running_loop
from collections import deque
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from time import time
from typing import Any, ClassVar, Literal, NoReturn

from stbass._channels.choice import IDLE
from stbass._channels.transport import NOTHING, Arm, ChannelStats, Happened, Link, LinkSpec, Transport
from stbass.errors import ChannelTopologyError, NotTransportable

__all__ = ["MEMORY", "MemoryLink", "MemoryTransport", "attach_all", "detach_all", "ready_among"]


class MemoryTransport(Transport):
    """Channels between processes on one event loop."""

    scheme: ClassVar[str] = "memory"

    def link(self, spec: LinkSpec) -> MemoryLink:
        """A new channel."""
        return MemoryLink(spec)

    def open(self, spec: LinkSpec, shared: Mapping[str, Any]) -> NoReturn:
        """Refused: a channel in memory cannot be reached from elsewhere."""
        raise ChannelTopologyError(
            f"channel {spec.name!r} lives in the memory of the event loop that made it, so there is no other end "
            f"to open; make it with one that both sides reach, such as Chan(..., transport=RedisTransport(url))",
            channel_name=spec.name,
        )

    def __repr__(self) -> str:
        return "MemoryTransport()"


MEMORY = MemoryTransport()
"""The transport of a channel that was not given one."""


class MemoryLink(Link):
    """One channel in memory."""

    __slots__ = (
        "_buffer",
        "_last",
        "_loop",
        "_offers",
        "_readers",
        "_receivers",
        "_senders",
        "_sent",
        "_writers",
    )

    local: ClassVar[bool] = True

    def __init__(self, spec: LinkSpec) -> None:
        super().__init__(spec)
        # Who waits, first come first served; _offers has the values of _senders, in step. A waiter whose task was
        # cancelled stays here, done, until its task runs and withdraws it.
        self._receivers: deque[Future[Any]] = deque()
        self._senders: deque[Future[None]] = deque()
        self._offers: deque[Any] = deque()
        # Accepted and not yet taken: only with a capacity.
        self._buffer: deque[Any] = deque()
        # Choices attached to either side.
        self._readers: list[Arm] = []
        self._writers: list[Arm] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sent = 0
        self._last = 0.0

    # A value moves ------------------------------------------------------------------------------

    def offer(self, value: Any) -> Future[None] | None:
        # Half of every rendezvous: flat, though try_offer could be called for all of it.
        if self.closed:
            raise self.closed_error()
        loop = get_running_loop()
        if loop is not self._loop:
            self._move_to(loop)
        receivers = self._receivers
        while receivers:
            try:
                receivers.popleft().set_result(value)
            except InvalidStateError:
                continue  # cancelled, and its task has not run yet
            self._sent += 1
            self._last = time()
            return None
        if (self._readers or self.capacity) and self.try_offer(value):
            return None
        if self.forsaken is not None:
            raise self.closed_error()
        waiter: Future[None] = Future(loop=loop)
        self._senders.append(waiter)
        self._offers.append(value)
        if self._readers:
            _notify(self._readers)
        return waiter

    def try_offer(self, value: Any) -> bool:
        if self.closed:
            raise self.closed_error()
        if self._receivers:
            if get_running_loop() is not self._loop:
                self._move_to(get_running_loop())
            while self._receivers:
                try:
                    self._receivers.popleft().set_result(value)
                except InvalidStateError:
                    continue
                self._count()
                return True
        if not self._buffer:
            for arm in self._readers:
                if arm.claim():
                    arm.complete(value)
                    self._count()
                    return True
        if len(self._buffer) < self.capacity:
            self._accept(value)
            return True
        if self.forsaken is not None:
            raise self.closed_error()
        return False

    def take(self) -> Future[Any]:
        # Called after try_take has found nothing.
        loop = get_running_loop()
        if loop is not self._loop:
            self._move_to(loop)
        waiter: Future[Any] = Future(loop=loop)
        self._receivers.append(waiter)
        if self._writers:
            _notify(self._writers)
        return waiter

    def try_take(self) -> Any:
        if self._buffer:
            return self._take_accepted()
        senders = self._senders
        if senders:
            if get_running_loop() is not self._loop:
                self._move_to(get_running_loop())
            while senders:
                value = self._offers.popleft()
                try:
                    senders.popleft().set_result(None)
                except InvalidStateError:
                    continue  # cancelled, and its task has not run yet
                self._sent += 1
                self._last = time()
                return value
        if self._writers:
            for arm in self._writers:
                if arm.claim():
                    arm.complete()
                    self._count()
                    return arm.value
        if self.closed or self.forsaken is not None:
            raise self.closed_error()
        return NOTHING

    def _count(self) -> None:
        self._sent += 1
        self._last = time()

    def _accept(self, value: Any) -> None:
        self._buffer.append(value)
        self._count()
        if self._readers:
            _notify(self._readers)

    def _take_accepted(self) -> Any:
        if self._senders and get_running_loop() is not self._loop:
            self._move_to(get_running_loop())
        value = self._buffer.popleft()
        self._last = time()
        # There is room for one more: the sender that has waited longest, else a choice that offers one.
        while self._senders:
            offer = self._offers.popleft()
            try:
                self._senders.popleft().set_result(None)
            except InvalidStateError:
                continue
            self._accept(offer)
            return value
        for arm in self._writers:
            if arm.claim():
                arm.complete()
                self._accept(arm.value)
                return value
        _notify(self._writers)
        return value

    async def withdraw(self, waiter: Future[Any]) -> Happened | None:
        if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            return Happened(waiter.result())
        waiter.cancel()
        self._remove(waiter)
        return None

    def _remove(self, waiter: Future[Any]) -> None:
        if waiter in self._receivers:
            self._receivers.remove(waiter)
        elif waiter in self._senders:
            place = self._senders.index(waiter)
            del self._senders[place], self._offers[place]

    # The end ------------------------------------------------------------------------------------

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._end_waiting()

    def forsake(self, told: str, *, failed: bool) -> None:
        # What need not wait goes on: a writer while there is room, a reader while there are values.
        self.forsaken = told, failed
        self._end_waiting()

    def _end_waiting(self) -> None:
        waiting = [waiter for line in (self._receivers, self._senders) for waiter in line if not waiter.done()]
        self._receivers.clear()
        self._senders.clear()
        self._offers.clear()
        for waiter in waiting:
            waiter.set_exception(self.closed_error())
        _notify(self._readers)
        _notify(self._writers)

    def reopen(self) -> bool:
        self.forsaken = None
        return True

    # Choice -------------------------------------------------------------------------------------

    def attach(self, arm: Arm) -> None:
        loop = get_running_loop()
        if loop is not self._loop:
            self._move_to(loop)
        if arm.reader:
            arms, partners = self._readers, self._writers
        else:
            arms, partners = self._writers, self._readers
        arms.append(arm)
        if partners:
            self.announce(arm)

    def detach(self, arm: Arm) -> None:
        arms = self._readers if arm.reader else self._writers
        if arm in arms:  # else its event loop has ended, and it was forgotten with it
            arms.remove(arm)

    def announce(self, arm: Arm) -> None:
        if not arm.open:
            return
        for partner in self._writers if arm.reader else self._readers:
            if not partner.open or partner.choice.state == IDLE:
                partner.notify()  # its precondition is asked once more, now that there is somebody to meet
            else:
                partner.choice.mark(partner.index)

    def resume(self, arm: Arm) -> None:
        for partner in self._writers if arm.reader else self._readers:
            # One that waits was looked at before: telling it again would only turn the two round each other.
            if partner.choice.state == IDLE:
                partner.notify()

    def faced(self, arm: Arm) -> bool:
        """Whether a choice is attached to the other side: it can become ready without this arm being told."""
        return bool(self._writers if arm.reader else self._readers)

    def ready(self, arm: Arm) -> bool:
        if arm.reader:
            line, partners = self._senders, self._writers
        else:
            line, partners = self._receivers, self._readers
        if not (line or partners or self.capacity or self._buffer):
            return self.closed or self.forsaken is not None
        if self.closed or self.forsaken is not None:
            return True
        accepted = len(self._buffer)
        if accepted if arm.reader else accepted < self.capacity:
            return True
        return _live(line) or any(partner.claimable for partner in partners)

    # What it tells ------------------------------------------------------------------------------

    def stats(self) -> ChannelStats:
        waiting: Literal["sender", "receiver"] | None = None
        if _live(self._senders) or any(arm.claimable for arm in self._writers):
            waiting = "sender"
        elif _live(self._receivers) or any(arm.claimable for arm in self._readers):
            waiting = "receiver"
        last_at = datetime.fromtimestamp(self._last, UTC) if self._last else None
        return ChannelStats(self._sent, self._sent - len(self._buffer), waiting, last_at)

    def accepted(self) -> tuple[Any, ...]:
        return tuple(self._buffer)

    @property
    def sent(self) -> int:
        return self._sent

    @property
    def used(self) -> bool:
        return bool(self._sent or self._senders or self._receivers or self._readers or self._writers)

    def share(self) -> NoReturn:
        """Refused: a channel in memory cannot be reached from elsewhere."""
        raise NotTransportable(
            f"channel {self.name!r} lives in the memory of this event loop and cannot be reached from another Python "
            f"process; make it with transport=RedisTransport(url), or promote() it to one before its first use",
            channel_name=self.name,
        )

    # Event loops --------------------------------------------------------------------------------

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """Serve another event loop from now on, unless somebody waits in the one before.

        A waiter cannot be woken from another loop's thread: it would sleep on, and nobody would know why.
        """
        before = self._loop
        waiting = self._receivers or self._senders or self._readers or self._writers
        if before is not None and waiting and not before.is_closed():
            raise ChannelTopologyError(
                f"channel {self.name!r} is in use on another event loop; a channel in memory serves one loop at a "
                f"time. Run both processes on one loop, or make it with transport=RedisTransport(url)",
                channel_name=self.name,
            )
        if before is not None and before.is_closed():
            # Their tasks ended with their loop.
            self._receivers.clear()
            self._senders.clear()
            self._offers.clear()
            self._readers.clear()
            self._writers.clear()
        self._loop = loop


def attach_all(arms: Iterable[Arm], attached: list[Arm]) -> None:
    """Attach these arms to their links, whatever links they are, and add each to ``attached`` when it is.

    A choice over many channels spends most of its time here, so the usual reader makes no call of its own.
    """
    loop = get_running_loop()
    for arm in arms:
        link = arm.link
        if type(link) is MemoryLink and arm.reader and link._loop is loop and not link._writers:
            link._readers.append(arm)  # and there is nobody to tell
        else:
            link.attach(arm)
        attached.append(arm)


def detach_all(arms: Iterable[Arm]) -> None:
    """The inverse of :func:`attach_all`."""
    for arm in arms:
        link = arm.link
        if type(link) is MemoryLink and arm.reader and len(link._readers) == 1 and link._readers[0] is arm:
            link._readers.clear()
        else:
            link.detach(arm)


def ready_among(arms: Iterable[Arm]) -> list[int]:
    """Which of these arms are open and ready, by their indexes, whatever links they are."""
    found = []
    for arm in arms:
        link = arm.link
        if type(link) is MemoryLink and arm.reader and not (link._senders or link._writers or link._buffer):
            if not link.closed and link.forsaken is None:
                continue  # the usual one: nobody is there
        if arm.open and link.ready(arm):
            found.append(arm.index)
    return found


def _live(line: deque[Future[Any]]) -> bool:
    if line and not line[0].done():
        return True
    return any(not waiter.done() for waiter in line)


def _notify(arms: list[Arm]) -> None:
    for arm in arms:
        arm.notify()
