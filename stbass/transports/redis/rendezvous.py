"""A channel without a capacity: a send returns when the reader has acknowledged its value.

A receive waits in a blocking move: the server puts the next value into the list of what is taken and says which it is.
The value is the receiver's when the server has acknowledged it, so that a reader that dies before that has taken
nothing. A cancelled receive leaves the blocking move where it is: what it brings waits here, unacknowledged, for the
next receive; nothing is lost with a connection that is broken off in the middle.

A choice that finds something ready decides for it and asks the server. If that something is a choice at the other side,
it proposes, and the link there claims its arm, or refuses, as ``transport`` describes. The server's scripts decide: a
proposal that was taken back cannot be accepted any more, one that was accepted cannot be taken back. The writer's
choice proposes with an offer that cannot wait (NOW), the reader's asks for one (ASK).
"""

from __future__ import annotations

import time
from asyncio import Future
from functools import partial
from typing import Any

from stbass._channels.choice import DECIDING
from stbass._channels.transport import Arm, Happened
from stbass._values.ids import new_id
from stbass.errors import BackendUnavailableError, SignatureError, StbassError, WireError
from stbass.transports.redis import scripts
from stbass.transports.redis.client import ScriptCall
from stbass.transports.redis.connection import LATER
from stbass.transports.redis.end_state import UNDONE_FOR_NOW, MovedValue, PendingSend, Place, is_undone
from stbass.transports.redis.entries import parse_entry
from stbass.transports.redis.link import RedisLink

__all__ = ["Rendezvous"]

_ANSWER_SECONDS = 1.0
"""How long a proposal stands. Whoever lives answers at once, or when it has decided itself."""


class Rendezvous(RedisLink):
    """One end of a channel without a capacity."""

    @property
    def busy(self) -> bool:
        return bool(self.state.acking or self.state.fetching)

    @property
    def room(self) -> int:
        return 0

    @property
    def _free(self) -> bool:
        """Whether nothing waits here that would go before a choice's offer."""
        s = self.state
        return not (s.queue or s.pending or s.withdrawing)

    @property
    def _progress(self) -> int:
        return self.state.got

    # Sending -------------------------------------------------------------------------------------

    def offer(self, value: Any) -> Future[None]:
        self._check_open()
        self.touch()
        payload = self.state.codec.encode(value)
        self._raise_failure()
        self.goes_on()
        return self._enqueue(payload)

    def _advance_sends(self) -> None:
        s = self.state
        if s.offering or s.withdrawing or not s.queue or self.closed or self.here.paused or not self.held("w"):
            return
        client = self.here
        if s.journal.unsettled or (client.uncommitted and any(end.journal is s.journal for end in client.uncommitted)):
            # In one step with what was received before.
            client.happened(self)
            client.commit()
            return
        entries = self._entries()
        if entries:
            self.call(scripts.OFFER, s.ttl, *entries, answer=self._offered, now=True, waits=False)

    def _entries(self) -> list[bytes]:
        """Offer what waits."""
        s = self.state
        entries = []
        while s.queue:
            send = s.queue.popleft()
            if send.waiter.done():
                continue  # cancelled: its task is about to withdraw it
            s.number += 1
            send.number = s.number
            s.pending[s.number] = send
            entries.append(s.codec.entry(s.number, b"s", send.payload))
        s.offering = bool(entries)
        return entries

    def tell_alone(self) -> bool:
        """See :class:`.Teller`."""
        return False

    def calls(self) -> list[ScriptCall]:
        """What waits is offered together with what was received before. See :class:`.Teller`."""
        s = self.state
        if s.offering or s.withdrawing or self.closed or not s.holds("w"):
            return []
        entries = self._entries()
        answer = partial(self._offered, together=True)
        return [ScriptCall(scripts.OFFER, s.key, (s.party, s.ttl, *entries), answer)] if entries else []

    def after_calls(self) -> None:
        """See :class:`.Teller`."""

    def _offered(self, reply: Any, *, together: bool = False) -> None:
        s = self.state
        s.offering = False
        if reply is LATER or is_undone(reply):
            # Not offered after all: those whose numbers the server does not know.
            again = [send for number, send in s.pending.items() if number > s.written]
            for send in again:
                del s.pending[send.number]
                send.number = 0
            s.number = s.written
            if reply is LATER or reply == UNDONE_FOR_NOW:
                s.queue.extendleft(reversed(again))
            else:
                for send in again:
                    s.fail_send(send, s.undone())
        elif not isinstance(reply, list):
            s.doubt_number()
            self._fail_writer(s.problem(reply))
        elif self.route(reply, "w") is not None:
            s.written = s.number
            self.note(reply[1], reply[2])
            if reply[3]:
                self.told_closed(why=reply[3])
            self.settle()
        elif together and s.queue:
            # What was received before is not acknowledged until this can be offered.
            s.journal.held_up[self._me] = None
        if s.place_waiters:
            s.tell_places()
        if s.queue:
            self._advance_sends()

    def note(self, acked: int, sent: int) -> None:
        s = self.state
        if acked > s.acked:
            s.acked = acked
            s.sent_at = time.time()
            pending = s.pending
            while pending:
                number = next(iter(pending))
                if number > acked:
                    break
                s.resolve(pending.pop(number))
            for number in [number for number in s.urgent if number <= acked]:
                s.told_urgent(number, True)
        s.sent = max(sent, s.sent)

    def _writer_held(self, offered: int, acked: int, sent: int, had: int) -> None:
        s = self.state
        s.number, s.written, s.acked, s.sent = offered, offered, acked, sent
        while s.queue and 0 < s.queue[0].number <= had:
            s.resolve(s.queue.popleft())
        for send in s.queue:
            send.number = 0

    async def _withdraw_send(self, send: PendingSend) -> Happened | None:
        s = self.state
        while s.offering:
            # The server may refuse it for now: then there is nothing to take back.
            await s.place_changed()
        if send in s.queue and send.number:
            # It was offered before the place was lost. (Who has it again has been told what became of it.)
            happened = await self._take_back(send.number) and send.number > 0
            if send in s.queue:
                s.queue.remove(send)
            return Happened() if happened or send.happened else None
        if send in s.queue:
            s.queue.remove(send)
        if send.number not in s.pending:
            return Happened() if send.happened else None
        s.withdrawing += 1
        try:
            happened = await self._take_back(send.number)
        finally:
            s.withdrawing -= 1
            s.pending.pop(send.number, None)
            self._advance_sends()
            self.settle()
        return Happened() if happened or send.happened else None

    async def _take_back(self, number: int) -> bool:
        """Withdraw an offer; whether it is too late."""
        try:
            reply = await self.ask(scripts.WITHDRAW, b"%d" % number)
        except BackendUnavailableError as error:
            raise BackendUnavailableError(
                f"channel {self.name!r}: a send was cancelled, and whether its value was received is not known: {error}"
            ) from error
        return reply is not None and reply[1] == 0

    # Receiving -----------------------------------------------------------------------------------

    def take(self) -> Future[Any]:
        self.touch()
        self._check_open()
        self.goes_on()
        waiter: Future[Any] = self.here.loop.create_future()
        self.state.waiters.append(waiter)
        self._advance_receives()
        return waiter

    def _advance_receives(self) -> None:
        s = self.state
        waiters = s.waiters
        if self.here.paused:
            return
        while waiters and not s.acking:
            if waiters[0].done():
                waiters.popleft()  # cancelled, and nothing was under way for it
                continue
            if not self.held("r"):
                return
            if s.moved:
                self._acknowledge(waiters[0])
            elif s.stale:
                self._renew()
            else:
                self._wait()
            return
        if not waiters:
            self._refuse_urgent()
            if s.told_wait:
                self.here.loop.call_soon(self._stop_waiting)

    def _stop_waiting(self) -> None:
        s = self.state
        if s.told_wait and not s.waiters and s.holds("r") and not self.closed:
            s.told_wait = False
            self.call(scripts.WAIT, b"0")

    def _take_in(self, raw: bytes) -> None:
        s = self.state
        if not raw or not s.holds("r"):
            return  # with new lists under way, all of this comes again
        entry = parse_entry(raw)
        if entry is None or entry.kind == b"b":
            self._drop_element(raw, "it is not one that stbass wrote")
            return
        if entry.number in s.known or entry.number in s.settled:
            return
        try:
            [value] = s.codec.decode(entry)
        except (WireError, SignatureError) as error:
            self._drop_element(raw, error)
            return
        s.known.add(entry.number)
        s.moved.append(MovedValue(raw, entry.number, entry.kind, value))

    def _acknowledging(self, most: int = 0, *, whole: bool = False) -> tuple[bytes, ...]:
        return b"0", b"%d" % most, b"1" if whole else b"0", b"0"

    def _acknowledge(self, waiter: Future[Any]) -> None:
        s = self.state
        s.acking = True
        s.acking_for = waiter

        def settled(outcome: Any) -> None:
            s.acking = False
            s.acking_for = s.resend = None
            if outcome is not None or waiter.done():
                if waiter in s.waiters:
                    s.waiters.remove(waiter)
                self._give(waiter, outcome)
            if s.stale:
                self._renew()
            self._advance_receives()
            if self.closed:
                self.told_closed()

        self._send_ack(settled, streaming=True)

    def _give(self, waiter: Future[Any], outcome: Any) -> None:
        """Hand the outcome to a receive, or keep it for its withdrawal."""
        s = self.state
        if waiter.done():
            withdrawal = s.withdrawals.get(waiter)
            if withdrawal is None:
                s.outcomes[waiter] = outcome
            elif not withdrawal.done():
                withdrawal.set_result(outcome)
        elif isinstance(outcome, StbassError):
            waiter.set_exception(outcome)
        elif outcome is not None:
            waiter.set_result(outcome.value)

    def _send_ack(self, settled: Any, *, streaming: bool) -> None:
        """Acknowledge the first value that is here: ``settled`` gets what happened, None (too late) or an error."""
        s = self.state
        first = s.moved[0]

        def answered(reply: Any) -> None:
            if reply is LATER:
                settled(None)
                return
            if not isinstance(reply, list):
                settled(s.problem(reply))
                return
            if s.moved and s.moved[0] is first:
                s.moved.popleft()
                s.known.discard(first.number)
            if s.blocked:
                s.settled.add(first.number)
            outcome: Happened | StbassError | None = None
            done = self.route(reply, "r")
            if done is not None and done[3]:
                place = done[1]
                s.got = place + 1
                s.got_at = time.time()
                try:
                    outcome = Happened(s.spec.accept(first.value, place))
                except StbassError as error:
                    outcome = error
            settled(outcome)

        args = (first.raw, b"1" if s.told_wait else b"0")
        if streaming and s.told_wait and not s.blocked and s.pipe is not None and not s.pipe.closed:
            s.resend = lambda: self.call(scripts.RECEIVE, *args, answer=answered)
            # Nothing else goes over this connection: there is nothing to wait for.
            s.pipe.call_now((s.text(scripts.RECEIVE, *args), answered), self._blocking(s.pipe))
        else:
            self.call(scripts.RECEIVE, *args, answer=answered, waits=False)

    def _refuse_urgent(self) -> None:
        """Nobody here is going to take it: say so to whoever offers what cannot wait."""
        s = self.state
        if s.acking or any(arm.reader and arm.open and not arm.choice.passive for arm in s.arms):
            return
        while s.moved and s.moved[0].kind == b"n":
            first = s.moved.popleft()
            s.known.discard(first.number)
            self.call(scripts.REFUSE, b"%d" % first.number)

    async def withdraw(self, waiter: Future[Any]) -> Happened | None:
        s = self.state
        if waiter in s.outcomes:
            waiter.cancel()
            outcome = s.outcomes.pop(waiter)
        elif s.acking_for is waiter:
            waiter.cancel()
            # Only the server's answer tells whether the value is ours.
            withdrawal = s.withdrawals[waiter] = self.here.loop.create_future()
            try:
                outcome = await withdrawal
            finally:
                del s.withdrawals[waiter]
        else:
            return await super().withdraw(waiter)
        if isinstance(outcome, StbassError):
            raise outcome
        return None if outcome is None else Happened(outcome.value)

    def _reader_held(self, acked: int, got: int, kept: bool) -> None:
        self.state.got = got

    def _reader_lost(self, free: bool) -> None:
        pass

    def _end_receives(self) -> None:
        s = self.state
        if s.acking:
            return  # the answer comes, and decides
        if not s.vain and s.holds("r") and s.waiters and not s.drained:
            # A value may have been given before the close.
            if not s.fetching:
                self._check()
            return
        self._fail_closed()

    # Meeting -------------------------------------------------------------------------------------

    async def _meet_writer(self, arm: Arm) -> Happened | None:
        """Offer a value to a receive or a choice that waits, or to nobody."""
        s = self.state
        self._check_open()
        payload = s.codec.encode(arm.value)
        self.goes_on()
        await self._settled()
        tried: list[bytes] = []
        while True:
            self._check_open()
            if not self._free or not s.holds("w"):
                return None
            s.number += 1
            number = s.number
            outcome: Future[bool] = self.here.loop.create_future()
            s.urgent[number] = outcome
            try:
                entry = s.codec.entry(number, b"n", payload)
                s.withdrawing += 1
                try:
                    reply = await self.ask(scripts.NOW, entry, arm.choice.rank.encode(), *tried, place="w", waits=False)
                finally:
                    s.withdrawing -= 1
                    self._advance_sends()
                if reply is not None:
                    s.written = number
                    # Refused, or nobody answers: in either case it must not be taken any more.
                    if await self._answer(outcome) or await self._take_back(number):
                        s.sent_at = time.time()
                        return Happened()
                    tried.append(reply[1])
                else:
                    self._check_open()
                    # Asked once more after a lost connection, it may have been done before the place was lost.
                    if not self.here.paused and await self._take_back(number):
                        return Happened()
                    return None
            finally:
                s.urgent.pop(number, None)

    async def _settled(self) -> None:
        """Return when the server knows what was received before a value is offered that is taken at once, if at all.

        Raises:
            StbassError: a place was lost: it must not be offered.
        """
        s = self.state
        if s.journal.unsettled or self.here.uncommitted:
            self.here.commit()
            for end in s.journal.unsettled_ends():
                await end.flush()
        self._raise_failure()

    async def _answer(self, future: Future[bool]) -> bool:
        handle = self.here.loop.call_later(_ANSWER_SECONDS, _set, future, False)
        try:
            return await future
        finally:
            handle.cancel()

    async def _meet_reader(self, arm: Arm) -> Happened | None:
        s = self.state
        self.goes_on()
        tried: list[bytes] = []
        while True:
            self._check_open()
            happened = await self._take_now()
            if happened is not None or not s.holds("r"):
                return happened
            reference = new_id()
            answered: Future[bool] = self.here.loop.create_future()
            s.proposals[reference] = answered
            try:
                rank = arm.choice.rank.encode()
                reply = await self.ask(scripts.ASK, reference.encode(), rank, *tried, place="r", waits=False)
                if reply is None:
                    self._check_open()
                    return None
                if not await self._answer(answered):
                    await self.ask(scripts.UNASK, reference.encode())
            finally:
                del s.proposals[reference]
            # Given, or perhaps in the moment before the proposal was taken back.
            happened = await self._take_now()
            if happened is not None:
                return happened
            tried.append(reply[1])

    async def _take_now(self) -> Happened | None:
        """Take what is here, for a choice that has decided for it. None: there is nothing any more."""
        s = self.state
        while not s.moved:
            if not await self._look():
                return None
        if s.acking or self.here.paused:
            return None
        s.acking = True
        outcome: Future[Any] = self.here.loop.create_future()
        self._send_ack(outcome.set_result, streaming=False)
        result = await outcome
        s.acking = False
        self._advance_receives()
        if self.closed:
            self.told_closed()
        if isinstance(result, StbassError):
            raise result
        if result is None:
            return await self._take_now()
        return Happened(result.value)

    # Being met -----------------------------------------------------------------------------------

    def told(self, kind: str, details: list[Any]) -> None:
        match kind, details:
            case "claim", [int(number), str(reference), str(rank)]:
                arm = self.state.arms_by_number.get(number)
                if arm is None:
                    self._deny(reference)
                else:
                    self._on_claim(arm, reference, rank)
            case "no", [int(number)]:
                self.state.told_urgent(number, False)
            case (("gave" | "deny"), [str(reference)]):
                answered = self.state.proposals.get(reference)
                if answered is not None:
                    _set(answered, kind == "gave")
            case _:
                super().told(kind, details)

    def _on_claim(self, arm: Arm, reference: str, rank: str) -> None:
        """A choice at the other side proposes to meet this arm's."""
        s = self.state
        place: Place = "r" if arm.reader else "w"
        if s.holds(place) and (arm.reader or self._free) and arm.claim():
            self.here.spawn(self._accept(arm, reference))
        elif arm.choice.state == DECIDING and rank < arm.choice.rank:
            s.put_off.setdefault(arm, []).append((reference, rank))
        else:
            s.refused.add(arm)
            self._deny(reference)

    async def _accept(self, arm: Arm, reference: str) -> None:
        """Complete a choice that was claimed, if the proposal still stands."""
        s = self.state
        happened: Happened | None = None
        try:
            self.goes_on()
            if arm.reader:
                happened = await self._take_now()
            else:
                await self._settled()
                s.number += 1
                entry = s.codec.entry(s.number, b"g", s.codec.encode(arm.value))
                s.withdrawing += 1
                try:
                    reply = await self.ask(scripts.GIVE, reference.encode(), entry, waits=False)
                finally:
                    s.withdrawing -= 1
                if reply is not None:
                    happened = Happened()
                    s.written = int(entry.partition(b"g")[0])
                    s.sent = max(s.sent, reply[1])
                    s.sent_at = time.time()
        except StbassError as error:
            self.here.warn("meeting", f"channel {self.name!r}: a meeting of two choices came to nothing: {error}")
        finally:
            self._advance_sends()
            if happened is not None:
                arm.complete(happened.value)
            else:
                s.refused.add(arm)
                arm.release()
        if happened is None:
            self._deny(reference)

    def _deny(self, reference: str) -> None:
        if self.state.left or not self.state.joined:
            return
        # A number is an offer of the writer's, anything else a proposal of the reader's.
        self.call(scripts.REFUSE if reference.isdecimal() else scripts.DENY, reference.encode())

    def resume(self, arm: Arm) -> None:
        s = self.state
        for reference, rank in s.put_off.pop(arm, ()):
            self._on_claim(arm, reference, rank)
        if arm in s.refused:
            s.refused.discard(arm)
            self._register(arm)

    def detach(self, arm: Arm) -> None:
        s = self.state
        s.refused.discard(arm)
        for reference, _ in s.put_off.pop(arm, ()):
            self._deny(reference)
        super().detach(arm)
        if not s.left and s.joined:
            self._refuse_urgent()


def _set(future: Future[bool], value: bool) -> None:
    if not future.done():
        future.set_result(value)
