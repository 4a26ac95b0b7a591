"""A channel with a capacity: a send that finds room has happened, and values are fetched ahead.

The writer's end knows how much room there is at least (values offered less values received, as far as it was told).
The reader's end takes what is here. What happens at either is told to Redis at once, or with everything else that
happens in this turn of the event loop (see :meth:`.Client.commit`), always between two operations of the program.

What was received makes room, but is acknowledged no earlier than what the program does next (see :class:`.Journal`): so
the value that a killed program was at work on goes to the next reader, or was handed on, never both. ``_due`` decides.
"""

from __future__ import annotations

import time
from asyncio import Future
from collections.abc import Callable
from functools import partial
from typing import Any

from stbass._channels.transport import NOTHING, Arm, Happened
from stbass.errors import ChannelTopologyError, SignatureError, StateLostError, StbassError, WireError
from stbass.transports.redis import scripts
from stbass.transports.redis.client import ScriptCall
from stbass.transports.redis.connection import LATER, Pipe
from stbass.transports.redis.end_state import (
    ASKING,
    FREE,
    HELD,
    LEAVING,
    UNDONE_FOR_NOW,
    MovedValue,
    PendingSend,
    is_undone,
)
from stbass.transports.redis.entries import parse_entry
from stbass.transports.redis.link import RedisLink

__all__ = ["Buffered"]

_FAR = 4
"""How many windows a value may be ahead of the one before it."""


class Buffered(RedisLink):
    """One end of a channel with a capacity."""

    @property
    def busy(self) -> bool:
        s = self.state
        if s.fetching or s.received > s.told:
            return True
        return not s.drained and bool(s.waiters or s.holds("r"))

    # Sending -------------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        s = self.state
        if s.queue or self.closed or not self.held("w"):
            return 0
        return self.capacity - (s.number - s.acked)

    def offer(self, value: Any) -> Future[None] | None:
        if self.closed:
            raise self.closed_error()
        self.touch()
        s = self.state
        payload = s.codec.encode(value)
        if s.write_failure is not None:
            self._raise_failure()
        if not s.queue and s.places["w"] == HELD and s.number - s.acked < self.capacity:
            self._accept(payload)
            return None
        if self.forsaken is not None:
            raise self.closed_error()
        return self._enqueue(payload)

    def _accept(self, payload: bytes, *, wakes: bool = False) -> None:
        s = self.state
        client = self.here
        if s.journal.in_hand is not None:
            client.goes_on(s.journal)
        outbox = s.outbox
        if not outbox:
            client.happened(self, wakes=wakes)
            s.journal.writing[self._me] = None
        s.number += 1
        outbox.append(payload)
        s.unwritten += 1
        s.sent += 1
        s.sent_at = now = time.time()
        # Half a window: the reader can begin with these while the next are made.
        if 2 * len(outbox) >= self.capacity > 8 or client.is_quiet(now):
            client.commit()

    def _advance_sends(self) -> None:
        s = self.state
        if not s.queue or self.closed or not self.held("w"):
            return
        while s.queue and self.capacity > s.number - s.acked:
            send = s.queue.popleft()
            if send.waiter.done():
                continue  # cancelled: its task is about to withdraw it
            self._accept(send.payload, wakes=not s.queue)
            s.resolve(send)

    def note(self, acked: int, sent: int) -> None:
        s = self.state
        if acked > s.acked:
            s.acked = acked
            s.sent_at = time.time()
            self._advance_sends()
            self.heat("writer")
        s.sent = max(sent + s.unwritten, s.sent)

    def _writer_held(self, offered: int, acked: int, sent: int, had: int) -> None:
        s = self.state
        there = min(s.put_back, max(0, had - (s.number - s.under_way - len(s.outbox))))
        if there:
            del s.outbox[:there]
            s.put_back -= there
            s.unwritten -= there
            self._tell_written()
        s.number = offered + s.under_way + len(s.outbox)
        s.written = offered
        s.acked = acked
        s.sent = sent + len(s.outbox)
        if s.outbox:
            self.here.happened(self)
            self.here.commit()

    async def _withdraw_send(self, send: PendingSend) -> Happened | None:
        return None

    async def _meet_writer(self, arm: Arm) -> Happened | None:
        self._check_open()
        self._raise_failure()
        if self.room <= 0:
            if self.forsaken is not None:
                raise self.closed_error()
            return None
        self._accept(self.state.codec.encode(arm.value))
        return Happened()

    # Receiving -----------------------------------------------------------------------------------

    def take(self) -> Future[Any]:
        self.touch()
        s = self.state
        if self.closed and s.drained:
            raise self.closed_error()
        self.goes_on()
        waiter: Future[Any] = self.here.loop.create_future()
        s.waiters.append(waiter)
        self._advance_receives()
        return waiter

    def try_take(self) -> Any:
        """What has been fetched already."""
        s = self.state
        if s.moved and not s.waiters:
            return self._consume()
        return NOTHING

    def _consume(self, *, wakes: bool = False) -> Any:
        s = self.state
        client = self.here
        journal = s.journal
        if journal.in_hand is not None and journal.in_hand is not self._me:
            client.goes_on(journal)
        now = time.time()
        untold = s.received - s.told
        if untold > 0 and (2 * untold >= self.capacity > 8 or client.is_quiet(now)):
            # Half a window: the writer can go on.
            journal.in_hand = None
            client.commit()
        first = s.moved.popleft()
        if self not in client.uncommitted:
            client.happened(self, wakes=wakes)
        journal.in_hand = self._me
        s.received = first.number
        place = s.got
        s.got = place + 1
        s.got_at = now
        return s.spec.accept(first.value, place)

    def _advance_receives(self) -> None:
        s = self.state
        waiters = s.waiters
        while waiters:
            if waiters[0].done():
                waiters.popleft()  # cancelled
                continue
            if not self.held("r"):
                return
            if not s.moved:
                if self.here.paused:
                    return
                if s.stale:
                    self._renew()
                elif not self._news:  # else what is there is about to be fetched
                    self._wait()
                return
            waiter = waiters.popleft()
            try:
                waiter.set_result(self._consume(wakes=True))
            except StbassError as error:
                waiter.set_exception(error)

    async def _meet_reader(self, arm: Arm) -> Happened | None:
        s = self.state
        if self.closed and s.drained:
            raise self.closed_error()
        self.goes_on()
        while not s.moved:
            if not await self._look():
                return None
        return Happened(self._consume())

    def _take_in(self, raw: bytes) -> None:
        s = self.state
        if not raw or not s.holds("r"):
            return  # with new lists under way, all of this comes again
        entry = parse_entry(raw)
        if entry is None or entry.kind != b"b":
            self._drop_element(raw, "it is not one that stbass wrote")
            return
        number, kind, count, _ = entry
        last = number + count - 1
        if last <= s.last_moved:
            return  # it came by another way already
        if number > s.last_moved + _FAR * (self.capacity + 8):
            self._drop_element(raw, f"its number is {number}, and the one before it has {s.last_moved}")
            return
        try:
            values = s.codec.decode(entry)
        except (WireError, SignatureError) as error:
            self._drop_element(raw, error)
            return
        skip = max(0, s.last_moved + 1 - number)
        s.moved.extend([MovedValue(raw, number + i, kind, values[i]) for i in range(skip, count)])
        s.last_moved = last

    def _reader_held(self, acked: int, got: int, kept: bool) -> None:
        s = self.state
        # If the place was ours before, what was received here comes once more, and is passed over.
        if not kept:
            s.received, s.got = acked, got
        s.received = s.last_moved = max(acked, s.received)
        s.told = s.confirmed = s.credited = acked
        s.journal.unheard.pop(self._me, None)
        # That there is room may have been lost with the connection, as an acknowledgement may.
        if s.received > acked:
            self.here.happened(self)

    def _reader_lost(self, free: bool) -> None:
        s = self.state
        count = s.received - s.confirmed
        if s.journal.in_hand is self._me:
            s.journal.in_hand = None
        s.told = s.confirmed = s.credited = s.received
        s.journal.unheard.pop(self._me, None)
        if count > 0:
            what = (
                "the place of the reader was lost, and whoever takes it"
                if free
                else ("another end has taken the place of the reader, and")
            )
            s.doubt = ChannelTopologyError(
                f"channel {self.name!r}: {what} receives once more what was received here and not acknowledged"
                f" ({count} values at most)",
                channel_name=self.name,
            )
            # What is made of these values must not be sent: they come to somebody else.
            self.here.undo(s.journal, s.doubt)

    def _over(self) -> None:
        super()._over()
        self.state.journal.unheard.pop(self._me, None)  # what other ends tell need not wait for its answer

    def _end_receives(self) -> None:
        s = self.state
        if s.drained or s.vain:
            self._fail_closed()
        elif s.holds("r"):
            if not s.fetching:
                self._check()
        elif s.waiters:
            self.held("r")

    # Telling the server --------------------------------------------------------------------------

    @property
    def _due(self) -> int:
        """Up to this number the program has dealt with what it received: so much may be acknowledged."""
        return self.state.received - (self.state.journal.in_hand is self._me)

    @property
    def _news(self) -> bool:
        s = self.state
        return self._may_tell and (self._due > s.told or s.received > s.credited)

    @property
    def _may_tell(self) -> bool:
        """Whether what was received can be acknowledged."""
        return self.state.places["r"] in (HELD, LEAVING) and not self.state.left

    @property
    def _can_fetch(self) -> bool:
        s = self.state
        return not (s.blocked or s.fetching or s.pipe is None or s.pipe.closed) and s.holds("r")

    @property
    def _complete(self) -> bool:
        s = self.state
        if s.total is None:
            return False
        reads = s.places["r"] != FREE or s.waiters or any(arm.reader for arm in s.arms)
        return not reads or s.received >= s.total

    @property
    def _progress(self) -> int:
        return self.state.confirmed

    def _untold(self) -> None:
        s = self.state
        s.told = s.credited = s.confirmed
        s.journal.unheard.pop(self._me, None)
        self.here.happened(self)

    def _when_written(self, then: Callable[[], None]) -> None:
        s = self.state
        if not s.unwritten or s.write_failure is not None or s.client is None:
            then()
            return
        s.when_written.append(then)
        s.client.commit()

    def on_resume(self) -> None:
        if self.state.outbox or self._news:
            self.here.uncommitted[self] = None
        super().on_resume()

    def _acknowledging(self, most: int = 0, *, whole: bool = False) -> tuple[bytes, ...]:
        s = self.state
        number = self._due
        if number > s.confirmed and s.journal.unsure(self._me):
            # It is told together with what must be there before.
            number = s.confirmed
            self.here.happened(self)
        else:
            self._tells(number)
        s.credited = s.received
        return b"%d" % number, b"%d" % most, b"1" if whole else b"0", b"%d" % s.credited

    def _tells(self, number: int) -> None:
        """From now on, what was received up to that number counts as acknowledged."""
        s = self.state
        s.told = number
        if number > s.confirmed:
            s.journal.unheard[self._me] = None

    def tell_alone(self) -> bool:
        """Acknowledge and fetch in one, if there is nothing else to tell; whether it was so. See :class:`.Teller`."""
        s = self.state
        if s.outbox or not self._news or not self._can_fetch or not self.here.pipe.idle or s.journal.unsure(self._me):
            return False
        assert s.pipe is not None
        args = self._acknowledging(self.capacity)
        self._fetch(s.pipe, args, s.told)
        return True

    def calls(self) -> list[ScriptCall]:
        """What tells the server; from now on it counts as told."""
        s = self.state
        found = []
        if s.outbox:
            payloads, s.outbox = s.outbox, []
            s.put_back = 0
            s.under_way += len(payloads)
            elements = s.codec.batches(s.number - len(payloads) + 1, payloads)
            found.append(
                ScriptCall(scripts.OFFER, s.key, (s.party, s.ttl, *elements), partial(self._written, payloads))
            )
        if self._news or (s.confirmed < s.told and self._may_tell):
            self._tells(self._due)
            s.credited = s.received
            args = (s.party, b"%d" % s.told, b"0", b"0", b"%d" % s.credited)
            found.append(ScriptCall(scripts.ACK, s.key, args, partial(self._acknowledged, s.told)))
        elif s.places["r"] == ASKING and s.received > s.confirmed:
            # With new lists it is told again. Nothing that follows may be there without it, or if the place is lost.
            args = (s.party, b"%d" % self._due, b"0", b"0", b"%d" % s.received)
            found.append(ScriptCall(scripts.ACK, s.key, args, _nothing))
        if found:
            self.prepare()
        return found

    def precondition(self) -> ScriptCall:
        """A call that does nothing: others are done with it only if all that was sent here is there."""
        s = self.state
        return ScriptCall(scripts.OFFER, s.key, (s.party, s.ttl, b"%dc" % s.number), _nothing)

    def after_calls(self) -> None:
        """What :meth:`calls` gave was sent: fetch what is there."""
        s = self.state
        if self._can_fetch and s.pipe is not None:
            self._fetch(s.pipe, (b"0", b"%d" % self.capacity, b"0", b"0"), 0)
        elif s.waiters and not s.moved and not s.blocked and not s.fetching:
            self._wait()

    def _fetch(self, pipe: Pipe, args: tuple[bytes, ...], told: int) -> None:
        s = self.state
        s.fetching += 1
        pipe.call(s.text(scripts.ACK, *args), partial(self._fetched, told, s.told < s.received), waits=False)
        if s.waiters:
            self._block(pipe)
        pipe.push()

    def tell_received(self) -> None:
        """Tell once more what was received, and what of it is acknowledged, on the connection that all else follows on.

        It may have been lost with the other one, and what follows here must not overtake it.
        """
        s = self.state
        self.here.commit()
        if s.received > s.confirmed and self._may_tell and s.journal.failure is None:
            number, *more = self._acknowledging()
            told = partial(self._acknowledged, int(number))
            self.here.pipe.call(s.text(scripts.ACK, number, *more), told)

    def _last_words(self) -> list[bytes]:
        s = self.state
        words = super()._last_words()
        if s.received > s.confirmed and self._may_tell and not s.journal.broken_off and s.journal.failure is None:
            number = b"%d" % s.received
            words.insert(0, s.text(scripts.ACK, number, b"0", b"0", number))
        return words

    def _confirm(self, number: int) -> None:
        s = self.state
        s.confirmed = max(s.confirmed, number)
        if s.confirmed >= s.told:
            s.journal.unheard.pop(self._me, None)

    def _acknowledged(self, number: int, reply: Any) -> None:
        if reply is LATER or is_undone(reply):
            self._untold()
        elif not isinstance(reply, list):
            self._fail_reader(self.state.problem(reply))
        elif self.route(reply, "r") is not None:
            self._confirm(number)
            if reply[1] and not self.state.fetching:
                self.told_closed(why=reply[1])
            self.settle()

    def _written(self, payloads: list[bytes], reply: Any) -> None:
        s = self.state
        s.under_way -= len(payloads)
        if reply is LATER or reply == UNDONE_FOR_NOW:
            self._put_back(payloads, ours=s.places["w"] in (HELD, LEAVING))
        elif not isinstance(reply, list) or is_undone(reply):
            s.unwritten -= len(payloads)
            s.doubt_number()
            error = s.undone() if is_undone(reply) else s.problem(reply)
            self._lose_written(error)
            self._fail_writer(error)
        elif self.route(reply, "w") is not None:
            s.unwritten -= len(payloads)
            s.written = s.number - s.unwritten
            self.note(reply[1], reply[2])
            self.settle()
        elif s.vain:
            s.unwritten -= len(payloads)
            error = self.closed_error()
            if isinstance(error, StateLostError):  # else its reader has closed and left it
                self._lose_written(error)
        else:
            # Another end took the place while we thought that it is ours: they are written when it is again.
            self._put_back(payloads, ours=False)
        if s.put_back and not s.under_way and s.places["w"] in (HELD, LEAVING):
            self.here.can_tell(self._me, s.journal)
        self._tell_written()

    def _put_back(self, payloads: list[bytes], *, ours: bool) -> None:
        """The server has not got these, nor what was sent after them: it is sent again when all of it is here.

        Args:
            payloads: what was refused; refusals come in the order of what was sent.
            ours: whether the writer's place is.
        """
        s = self.state
        s.outbox[s.put_back : s.put_back] = payloads
        s.put_back += len(payloads)
        if s.under_way or not ours:
            s.journal.held_up[self._me] = None
        if not ours:
            self.held("w")
        self.here.happened(self)

    # What Redis does not know --------------------------------------------------------------------

    @property
    def uncertain(self) -> bool:
        s = self.state
        return s.unwritten > 0 or s.received > s.confirmed or s.doubt is not None

    async def flush(self) -> None:
        s = self.state
        if s.journal.failure is not None and s.joined:
            raise s.problem(s.journal.failure)
        if s.client is None or not self.uncertain:
            return
        self._gives_up()
        s.client.commit()
        await self.written()
        if s.write_failure is not None:
            raise self._failed(s.write_failure)
        wanted = self._due  # all, but what a process that was broken off was at work on
        # A channel that is gone has nothing that another reader could get: the next operation says so.
        while (s.confirmed < wanted and not s.vain) or s.doubt is not None:
            if s.journal.failure is not None:
                raise s.problem(s.journal.failure)
            if s.doubt is not None:
                doubt, s.doubt = s.doubt, None
                raise doubt
            for end in s.journal.writers():
                await end.written()
            await self._regain()
            args = self._acknowledging()
            # On the connection that all else follows on; once more, if it was told on the other one.
            reply = await self.ask(scripts.ACK, *args, place="r")
            if reply is not None:
                self._confirm(int(args[0]))

    async def _regain(self) -> None:
        """Return when the reader's place is ours, if it was refused: only then what was received is told of.

        Raises:
            StbassError: it is refused again.
        """
        s = self.state
        if s.places["r"] == FREE:
            self._hold("r")
        while s.places["r"] == ASKING:
            await s.place_changed()
        if s.places["r"] == FREE and not s.vain and s.refusal is not None:
            raise s.refusal

    async def written(self) -> None:
        """Return when the server has everything that was accepted here, or never will."""
        s = self.state
        while s.unwritten and s.write_failure is None:
            done: Future[None] = self.here.loop.create_future()
            s.flushes.append(done)
            await done

    def _lose_written(self, error: StbassError) -> None:
        self.state.write_failure = error
        self.here.warn("lost", f"channel {self.name!r}: values that were accepted may be lost: {error}")

    def _tell_written(self) -> None:
        s = self.state
        if not s.unwritten:
            s.journal.writing.pop(self._me, None)
        elif s.write_failure is None:
            return
        flushes, s.flushes = s.flushes, []
        for done in flushes:
            if not done.done():
                done.set_result(None)
        waiting, s.when_written = s.when_written, []
        for then in waiting:
            then()

    def _lose_accepted(self, error: StbassError | None) -> None:
        s = self.state
        s.unwritten -= len(s.outbox)
        s.outbox.clear()
        s.put_back = 0
        s.doubt_number()
        if error is not None:
            self._lose_written(error)
        self._tell_written()

    def undo(self, error: StbassError) -> None:
        s = self.state
        if s.outbox:
            self._lose_accepted(error)
        if s.journal.failure is not None:
            s.received = s.told = s.credited = s.confirmed
            s.journal.unheard.pop(self._me, None)
        super().undo(error)
        self._tell_written()


def _nothing(reply: Any) -> None:
    """What must be there is told of by those who sent it."""
