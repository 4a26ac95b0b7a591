"""The reader's side of a channel in Redis.

A receive waits in a blocking move on a connection of its own: the server puts the next value into the list of what is
taken and says which it is. The value is the receiver's when the server has acknowledged it, so that a reader that dies
before that has taken nothing. A cancelled receive leaves the blocking move where it is: what it brings waits here,
unacknowledged, for the next receive; nothing is lost with a connection that is broken off in the middle.

With a capacity it is otherwise: see :mod:`.window`.
"""

from __future__ import annotations

import time
from asyncio import Future
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from stbass._channels.transport import NOTHING, Happened
from stbass.errors import StbassError
from stbass.transports.redis import scripts
from stbass.transports.redis.places import LOST
from stbass.transports.redis.window import Window

if TYPE_CHECKING:
    from stbass.transports.redis.link import RedisLink

__all__ = ["Reader"]


class Reader(Window):
    """What is received at this end."""

    def __init__(self, link: RedisLink) -> None:
        super().__init__(link)
        # The receive or choice that an acknowledgement is under way for, and what became of it.
        self._acking = False
        self._acking_for: Future[Any] | None = None
        self._outcomes: dict[Future[Any], Any] = {}
        self._withdrawals: dict[Future[Any], Future[Any]] = {}
        self._resend: Callable[[], None] | None = None
        self._stale = False
        self._told_wait = False

    @property
    def busy(self) -> bool:
        """Whether something here has no answer yet, or can still be received."""
        if self._acking or self._fetching or self._consumed > self._acked:
            return True
        return bool(self._link.capacity and not self._drained and (self.waiters or self._link.places.holds("r")))

    # Receiving -----------------------------------------------------------------------------------

    def take(self) -> Future[Any]:
        """See :meth:`stbass._channels.transport.Link.take`."""
        link = self._link
        if link.closed and (not link.capacity or self._drained):
            raise link.closed_error()
        link.goes_on()
        waiter: Future[Any] = link.here.loop.create_future()
        self.waiters.append(waiter)
        self._advance()
        return waiter

    def try_take(self) -> Any:
        """See :meth:`stbass._channels.transport.Link.try_take`: with a capacity, what has been fetched already."""
        if self._taken and self._link.capacity and not self.waiters and not self._acking:
            return self._consume()
        return NOTHING

    def _advance(self) -> None:
        """Go on with whoever waits first."""
        link = self._link
        waiters = self.waiters
        while waiters and not self._acking:
            if waiters[0].done():
                waiters.popleft()  # cancelled, and nothing was under way for it
                continue
            if not link.places.held("r"):
                return
            if not self._taken:
                if self._stale:
                    self._renew_place()
                elif not self._news:  # else what is there is about to be fetched
                    self._wait()
                return
            if not link.capacity:
                self._acknowledge(waiters[0])
                return
            waiter = waiters.popleft()
            try:
                waiter.set_result(self._consume(wakes=True))
            except StbassError as error:
                waiter.set_exception(error)
        if not waiters:
            self.refuse_urgent()
        if not waiters and self._told_wait and not link.capacity:
            link.here.loop.call_soon(self._stop_waiting)

    def _wait(self) -> None:
        """Nothing is here: tell that a receive waits, and wait in a blocking move."""
        link = self._link
        if link.closed:
            if not self._fetching:
                self._check()
            return
        told, self._told_wait = self._told_wait, True
        if self._blocked:
            if not told:
                link.post(scripts.WAIT, b"1", answer=self._waits)
            return
        pipe = self.pipe
        if pipe is None or pipe.closed:
            pipe = self.pipe = link.here.take_pipe(self._down)
        if not told:
            pipe.call(link.text(scripts.WAIT, b"1"), self._waits)
        self._block(pipe)

    def _waits(self, reply: Any) -> None:
        if not isinstance(reply, list):
            self.fail(self._link.problem(reply))
        elif reply[0] in LOST:
            self._link.places.told_lost("r")
        elif reply[0] == b"gone":
            self._link.vanished()
        elif reply[1]:
            self._link.told_closed()

    def _stop_waiting(self) -> None:
        link = self._link
        if self._told_wait and not self.waiters and link.places.holds("r") and not link.closed:
            self._told_wait = False
            self._link.post(scripts.WAIT, b"0")

    def _check(self) -> None:
        """Ask what is there."""
        self._fetching += 1
        self._link.here.commit()
        args = self._ack(max(1, self._link.capacity), whole=True)
        answer = partial(self._fetched, self._acked, self._consumed)
        self._link.post(scripts.ACK, *args, answer=answer)

    def refuse_urgent(self) -> None:
        """Nobody here is going to take it: say so to whoever offers what cannot wait."""
        if self._acking or self._link.arms.wants:
            return
        while self._taken and self._taken[0].kind == b"n":
            taken = self._taken.popleft()
            self._known.discard(taken.number)
            self._link.post(scripts.REFUSE, b"%d" % taken.number)

    # Acknowledging -------------------------------------------------------------------------------

    def _acknowledge(self, waiter: Future[Any]) -> None:
        self._acking = True
        self._acking_for = waiter

        def settled(outcome: Any) -> None:
            self._acking = False
            self._acking_for = self._resend = None
            if outcome is not None or waiter.done():
                if waiter in self.waiters:
                    self.waiters.remove(waiter)
                self._give(waiter, outcome)
            if self._stale:
                self._renew_place()
            self._advance()
            if self._link.closed:
                self._link.told_closed()

        self._send_ack(settled, streaming=True)

    def _give(self, waiter: Future[Any], outcome: Any) -> None:
        """Hand the outcome to a receive, or keep it for its withdrawal."""
        if waiter.done():
            withdrawal = self._withdrawals.get(waiter)
            if withdrawal is None:
                self._outcomes[waiter] = outcome
            elif not withdrawal.done():
                withdrawal.set_result(outcome)
        elif isinstance(outcome, StbassError):
            waiter.set_exception(outcome)
        elif outcome is not None:
            waiter.set_result(outcome.value)

    def _send_ack(self, settled: Any, *, streaming: bool) -> None:
        """Acknowledge the first value that is taken: ``settled`` gets what happened, None (too late) or an error."""
        link = self._link
        taken = self._taken[0]

        def answered(reply: Any) -> None:
            if not isinstance(reply, list):
                settled(link.problem(reply))
                return
            if self._taken and self._taken[0] is taken:
                self._taken.popleft()
                self._known.discard(taken.number)
            if self._blocked:
                self._settled.add(taken.number)
            if reply[0] == b"ok" and reply[3]:
                place = reply[1]
                self.got = place + 1
                self.last = time.time()
                try:
                    settled(Happened(link.spec.accept(taken.value, place)))
                except StbassError as error:
                    settled(error)
                return
            settled(None)
            if reply[0] in LOST:
                link.places.told_lost("r")
            elif reply[0] == b"gone":
                link.vanished()

        keep = b"1" if self._told_wait else b"0"
        args = (taken.raw, keep)
        if streaming and self._told_wait and not self._blocked and self.pipe is not None and not self.pipe.closed:
            self._resend = lambda: link.post(scripts.RECEIVE, *args, answer=answered)
            # Nothing else goes over this connection: there is nothing to wait for.
            self.pipe.call_now((link.text(scripts.RECEIVE, *args), answered), self._blocking(self.pipe))
        else:
            link.post(scripts.RECEIVE, *args, answer=answered)

    async def take_now(self) -> Happened | None:
        """Take what is there, for a choice that has decided for it. None: there is nothing any more."""
        link = self._link
        while True:
            link.goes_on()
            if link.capacity and self._taken:
                return Happened(self._consume())
            if not self._taken:
                if self._fetching or self._acking:
                    await link.ask(scripts.WAIT, b"1" if self._told_wait else b"0")
                    if self._fetching or self._acking:
                        return None
                    continue
                link.here.commit()
                self._fetching += 1
                try:
                    reply = await link.ask(scripts.ACK, *self._ack(max(1, link.capacity), whole=True))
                finally:
                    self._end_fetch()
                if reply[0] != b"ok":
                    link.vanished() if reply[0] == b"gone" else link.places.told_lost("r")
                    return None
                self._add_all(reply)
                if not self._taken:
                    if reply[1]:
                        self._drained = True
                        link.told_closed()
                        raise link.closed_error()
                    return None
                continue
            if self._acking:
                return None
            self._acking = True
            outcome: Future[Any] = link.here.loop.create_future()
            self._send_ack(outcome.set_result, streaming=False)
            result = await outcome
            self._acking = False
            self._advance()
            if link.closed:
                link.told_closed()
            if isinstance(result, StbassError):
                raise result
            if result is not None:
                return Happened(result.value)

    def knows(self, waiter: Future[Any]) -> bool:
        """Whether this is a receive that has not ended, or whose end nobody has heard."""
        return waiter in self.waiters or waiter in self._outcomes

    async def withdraw(self, waiter: Future[Any]) -> Happened | None:
        """See :meth:`stbass._channels.transport.Link.withdraw`."""
        waiter.cancel()
        if waiter in self._outcomes:
            outcome = self._outcomes.pop(waiter)
        elif self._acking_for is waiter:
            # Only the server's answer tells whether the value is ours.
            withdrawal = self._withdrawals[waiter] = self._link.here.loop.create_future()
            try:
                outcome = await withdrawal
            finally:
                del self._withdrawals[waiter]
        else:
            self.waiters.remove(waiter)
            self._advance()
            return None
        if isinstance(outcome, StbassError):
            raise outcome
        return None if outcome is None else Happened(outcome.value)

    # What the server tells -----------------------------------------------------------------------

    def on_held(self, epoch: int, acked: int, got: int, *, kept: bool) -> None:
        """The reader's place is ours, with lists of our own."""
        if epoch != self._epoch:
            self.drop_pipe()
            self._forget()
            self._begin(acked, kept=kept)
            self._epoch = epoch
            self._stale = False
        self._told_wait = False
        if not (kept and self._link.capacity):
            self.got = got
        self._advance()
        self._link.arms.heat("reader")

    def told_lost(self) -> None:
        """Another party has the place, and everything that was not acknowledged."""
        self._doubt_received()
        self.given_back()

    def given_back(self) -> None:
        """The place is not ours any more."""
        self.drop_pipe()
        self._epoch = -1
        self._told_wait = False
        self._forget()
        if self.waiters:
            self._link.places.held("r")

    def told_closed(self) -> None:
        """The channel is closed; what was accepted or given can still be received."""
        link = self._link
        if not link.capacity:
            if self._acking:
                return  # the answer comes, and decides
            if not link.vain and link.places.holds("r") and self.waiters and not self._drained:
                # A value may have been given before the close.
                if not self._fetching:
                    self._check()
                return
            self._drained = True
            self._fail_closed()
        elif self._drained or link.vain:
            self._drained = True
            self._fail_closed()
        elif link.places.holds("r"):
            if not self._fetching:
                self._check()
        elif self.waiters:
            link.places.held("r")

    def _fail_closed(self) -> None:
        self.drop_pipe()
        waiters, self.waiters = self.waiters, deque()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(self._link.closed_error())

    def fail(self, error: StbassError) -> None:
        """Whoever waits cannot go on."""
        # What was moved for a connection that is given up is only found again with new lists.
        self._stale = self._link.places.holds("r")
        self.drop_pipe()
        self._told_wait = False
        waiters, self.waiters = self.waiters, deque()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(type(error)(str(error), **error.__dict__))

    def again(self) -> None:
        """The connection was lost: what it would have told is asked for."""
        if self._link.places.holds("r") and not self._fetching and not self._acking:
            self._check()

    def _down(self) -> None:
        """The connection of the blocking move was lost."""
        self.pipe = None
        self._blocked = False
        if self._link.left or not self._link.places.holds("r"):
            return
        self._stale = True
        if self._resend is not None:
            # An acknowledgement was under way there: once more, on the other connection.
            resend, self._resend = self._resend, None
            resend()
        elif not self._acking:
            self._renew_place()

    def _renew_place(self) -> None:
        """The server may not know yet that a connection is gone, and still move a value for it: to lists of its own."""
        link = self._link
        self._stale = False
        if link.left or not link.places.holds("r"):
            return
        self.tell_received()
        # What else was moved here goes back to the front, and comes again.
        self._forget()
        self._fetching = 0
        self._end_fetch()
        self._told_wait = False
        link.places.renew()
