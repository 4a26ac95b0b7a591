"""The writer's side of a channel in Redis.

Without a capacity a value is offered, and its send returns when the reader has acknowledged it. With one, this end
knows how much room there is at least (values offered less values acknowledged, as far as it was told), and a send that
finds room has happened: its value is written at once, or with others at the end of this turn of the event loop
(see :meth:`stbass.transports.redis.client.Client.commit`).
"""

from __future__ import annotations

import time
from asyncio import Future
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from stbass._channels.transport import Happened
from stbass.errors import StateLostError, StbassError
from stbass.transports.redis import scripts
from stbass.transports.redis.client import Call
from stbass.transports.redis.places import LOST
from stbass.transports.redis.urgent import Urgent

if TYPE_CHECKING:
    from stbass.transports.redis.connection import Answer
    from stbass.transports.redis.link import RedisLink

__all__ = ["Writer"]


class _Send:
    """A value on its way."""

    __slots__ = ("happened", "number", "payload", "waiter")

    def __init__(self, waiter: Future[Any], payload: bytes) -> None:
        self.waiter = waiter
        self.payload = payload
        self.number = 0
        self.happened = False


class Writer(Urgent):
    """What is sent from this end."""

    def __init__(self, link: RedisLink) -> None:
        super().__init__(link)
        self._queue: deque[_Send] = deque()
        # Offered and not yet acknowledged, in order.
        self._pending: dict[int, _Send] = {}
        self._sends: dict[Future[Any], _Send] = {}
        self._acked = 0
        self.sent = 0
        # Accepted: to be written at the end of the turn; refused because another end had taken the place; and how many
        # of all accepted are not known to be in Redis, who wants to hear that they are, and why they never will be.
        self._outbox: list[bytes] = []
        self._returned: list[bytes] = []
        self._unwritten = 0
        self._flushes: list[Future[None]] = []
        self._failure: StbassError | None = None

    @property
    def waiting(self) -> bool:
        """Whether a send waits here."""
        return bool(self._queue or self._pending)

    @property
    def busy(self) -> bool:
        """Whether something here has no answer yet."""
        return bool(self._pending or self._urgent or self._unwritten or self._withdrawing)

    @property
    def room(self) -> int:
        """How many values a channel with a capacity accepts at once."""
        if self._queue or self._link.closed or not self._link.places.held("w"):
            return 0
        return self._link.capacity - (self._number - self._acked)

    # Sending -------------------------------------------------------------------------------------

    def offer(self, value: Any) -> Future[None] | None:
        """See :meth:`stbass._channels.transport.Link.offer`."""
        link = self._link
        payload = link.codec.encode(value)
        if link.capacity:
            self._tell_failure()
            if self.room > 0:
                self._accept(payload)
                return None
        waiter: Future[None] = link.here.loop.create_future()
        send = _Send(waiter, payload)
        if not link.capacity:
            link.goes_on()
        self._queue.append(send)
        self._sends[waiter] = send
        self._advance()
        return waiter

    def _accept(self, payload: bytes, *, wakes: bool = False) -> None:
        link = self._link
        client = link.here
        outbox = self._outbox
        link.goes_on()
        if not outbox:
            client.happened(self, wakes=wakes)
        self._number += 1
        outbox.append(payload)
        self._unwritten += 1
        self.sent += 1
        self.last = now = time.time()
        # Half a window: the reader can begin with these while the next are made.
        if 2 * len(outbox) >= link.capacity > 8 or client.is_quiet(now):
            client.commit()

    def try_accept(self, value: Any) -> bool:
        """Accept a value if there is room."""
        self._tell_failure()
        if self.room <= 0:
            return False
        self._accept(self._link.codec.encode(value))
        return True

    def _advance(self) -> None:
        link = self._link
        if self._withdrawing or not self._queue or link.closed or not link.places.held("w"):
            return
        if link.capacity:
            while self._queue and link.capacity > self._number - self._acked:
                send = self._queue.popleft()
                if send.waiter.done():
                    continue  # cancelled: its task is about to withdraw it
                self._accept(send.payload, wakes=not self._queue)
                self._resolve(send)
            return
        entries = []
        while self._queue:
            send = self._queue.popleft()
            if send.waiter.done():
                continue
            self._number += 1
            send.number = self._number
            self._pending[self._number] = send
            entries.append(link.codec.entry(self._number, b"s", send.payload))
        if entries:
            link.post(scripts.OFFER, link.ttl, *entries, answer=self._offered, now=True)

    def call(self) -> Call | None:
        """Write what was accepted; see :class:`stbass.transports.redis.client.Part`."""
        if not self._outbox:
            return None
        link = self._link
        link.prepare()
        elements, answer = self._packed()
        return Call(b"o", link.base.encode(), (link.party.encode(), link.ttl, *elements), answer)

    def commit(self) -> None:
        """See :class:`stbass.transports.redis.client.Part`."""
        if self._outbox:
            link = self._link
            link.prepare()
            elements, answer = self._packed()
            link.here.pipe.call(link.text(scripts.OFFER, link.ttl, *elements), answer)

    def committed(self) -> None:
        """See :class:`stbass.transports.redis.client.Part`."""

    def _packed(self) -> tuple[Iterable[bytes], Answer]:
        payloads, self._outbox = self._outbox, []

        def answered(reply: Any) -> None:
            if isinstance(reply, list) and reply[0] in LOST:
                # Another end took the place while we thought that it is ours: they are written when it is again.
                self._returned += payloads
            else:
                self._unwritten -= len(payloads)
                self._note_written(reply)
            self._offered(reply)
            self._tell_written()

        return self._link.codec.batches(self._number - len(payloads) + 1, payloads), answered

    def _note_written(self, reply: Any) -> None:
        link = self._link
        if not isinstance(reply, list):
            self._lose(link.problem(reply))
        elif reply[0] == b"gone":
            link.vanished()
            error = link.closed_error()
            if isinstance(error, StateLostError):  # else its reader has closed and left it
                self._lose(error)

    # What was accepted and is not known to be in Redis --------------------------------------------

    @property
    def unwritten(self) -> bool:
        """Whether something was accepted and is not known to be in Redis."""
        return self._unwritten > 0

    async def written(self) -> None:
        """Return when everything that was accepted is in Redis.

        Raises:
            StbassError: whether it is, is not known and will not be.
        """
        while self._unwritten and self._failure is None:
            done: Future[None] = self._link.here.loop.create_future()
            self._flushes.append(done)
            await done
        if self._failure is not None:
            raise self._failed()

    def _lose(self, error: StbassError) -> None:
        self._failure = error
        self._link.here.warn("lost", f"channel {self._link.name!r}: values that were accepted may be lost: {error}")

    def _failed(self) -> StbassError:
        """The error for whoever asks what has become of accepted values."""
        error = self._failure
        assert error is not None
        return type(error)(
            f"values that channel {self._link.name!r} had accepted may be lost: {error}", **error.__dict__
        )

    def _tell_failure(self) -> None:
        """Once, whoever sends the next value must know."""
        if self._failure is not None:
            error, self._failure = self._failed(), None
            raise error

    def _tell_written(self) -> None:
        if self._unwritten and self._failure is None:
            return
        flushes, self._flushes = self._flushes, []
        for done in flushes:
            if not done.done():
                done.set_result(None)

    def _offered(self, reply: Any) -> None:
        if not isinstance(reply, list):
            self.fail(self._link.problem(reply))
        elif reply[0] in LOST:
            self._link.places.told_lost("w")
        elif reply[0] == b"gone":
            self._link.vanished()
        else:
            self.note(reply[1], reply[2])
            if reply[0] == b"closed":
                self._link.told_closed()
            self._link.settle()

    # What comes back -----------------------------------------------------------------------------

    def told_acked(self, acked: int, sent: int) -> None:
        """The same, in a message.

        Raises:
            ValueError: nothing of that number was ever offered here.
        """
        if not self._link.places.holds("w"):
            return  # it was sent to the former holder
        if max(acked, sent) > self._number:
            raise ValueError(f"number {max(acked, sent)} is acknowledged, and the last is {self._number}")
        self.note(acked, sent)

    def note(self, acked: int, sent: int) -> None:
        """The reader has acknowledged all up to ``acked``."""
        if acked > self._acked:
            self._acked = acked
            self.last = time.time()
            pending = self._pending
            while pending:
                number = next(iter(pending))
                if number > acked:
                    break
                self._resolve(pending.pop(number))
            for number in [number for number in self._urgent if number <= acked]:
                self.accepted(number)
            if self._link.capacity:
                self._advance()
                self._link.arms.heat("writer")
        self.sent = max(sent + self._unwritten, self.sent) if self._link.capacity else max(sent, self.sent)

    def _resolve(self, send: _Send) -> None:
        send.happened = True
        if not send.waiter.done():
            self._sends.pop(send.waiter, None)
            send.waiter.set_result(None)

    def on_held(self, offered: int, acked: int, sent: int) -> None:
        """The writer's place is ours: this is where the former writer stopped."""
        self._outbox[:0] = self._returned
        self._returned.clear()
        self._number = offered + len(self._outbox)
        self._acked = acked
        self.sent = sent + len(self._outbox)
        if self._outbox:
            self._link.here.happened(self)
            self._link.here.commit()
        self._advance()
        self._link.arms.heat("writer")

    def told_lost(self) -> None:
        """Another party has the place: what waits here is not offered any more, and is offered again when we can."""
        again = list(self._pending.values())
        self._pending.clear()
        self._queue.extendleft(reversed(again))
        self._settle_urgent()
        if self._queue or self._returned:
            self._link.places.held("w")

    def told_closed(self) -> None:
        """Nobody takes what waits here."""
        sends = [*self._pending.values(), *self._queue]
        self._pending.clear()
        self._queue.clear()
        for send in sends:
            if not send.waiter.done():
                self._sends.pop(send.waiter, None)
                send.waiter.set_exception(self._link.closed_error())
        self._settle_urgent()

    def fail(self, error: StbassError) -> None:
        """What waits here cannot go on."""
        sends = [*self._pending.values(), *self._queue]
        self._pending.clear()
        self._queue.clear()
        for send in sends:
            if not send.waiter.done():
                self._sends.pop(send.waiter, None)
                send.waiter.set_exception(type(error)(str(error), **error.__dict__))
        self._settle_urgent()
        if self._returned:
            self._unwritten -= len(self._returned)
            self._returned.clear()
            self._lose(error)
            self._tell_written()

    async def withdraw(self, waiter: Future[Any]) -> Happened | None:
        """See :meth:`stbass._channels.transport.Link.withdraw`."""
        send = self._sends.pop(waiter, None)
        if send is None:
            happened = waiter.done() and not waiter.cancelled() and waiter.exception() is None
            return Happened(waiter.result()) if happened else None
        waiter.cancel()
        if send.happened:
            return Happened()
        if send in self._queue:
            self._queue.remove(send)
            return None
        if send.number not in self._pending:
            return None
        self._withdrawing += 1
        try:
            happened = await self._take_back(send.number)
        finally:
            self._withdrawing -= 1
            self._pending.pop(send.number, None)
            self._advance()
            self._link.settle()
        return Happened() if happened or send.happened else None

    def next_number(self) -> int:
        """For a value that is given in answer to a proposal."""
        self._number += 1
        return self._number

    def note_given(self, sent: int) -> None:
        """A value was given in answer to a proposal."""
        self.sent = max(self.sent, sent)
        self.last = time.time()

    @property
    def free(self) -> bool:
        """Whether nothing waits here that would go before a choice's offer."""
        return not (self._queue or self._pending or self._withdrawing)
