"""One open end of a channel in Redis: its lease, its places, its choices, and how values come to it.

What is known of the end stands in :class:`.EndState`. How values move is one of two protocols, each a subclass:
:mod:`.rendezvous`, for a channel without a capacity, and :mod:`.buffered`.

A place, that of the writer or that of the reader, is asked for when a process is bound to it, or when it is first
used. If another party holds it, that one is asked whether it lives: it says so at once, and the place is refused; the
lease of a dead one ends, and the place is ours.

A value is moved by the server from the list of what is offered into the list of what is taken, and told to the reader:
by a blocking move on a connection of its own while somebody waits here, or by a script that moves all that is there.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from abc import abstractmethod
from asyncio import Future
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from stbass._channels.transport import Arm, ChannelStats, Happened, Link, LinkSpec, Side
from stbass._values.texts import shortened
from stbass.errors import ChannelTopologyError, SignatureError, StateLostError, StbassError
from stbass.transports.redis import scripts
from stbass.transports.redis.client import Client, Journal, Options
from stbass.transports.redis.connection import LATER, Answer, Pipe, command
from stbass.transports.redis.end_state import ASKING, FREE, HELD, LEAVING, EndState, PendingSend, Place
from stbass.transports.redis.scripts import Script

__all__ = ["RedisLink"]

_log = logging.getLogger(__name__)

_RESTARTED = (
    "the server was restarted without its data or with older data, or another one took its place that had not got the"
    " latest"
)
_DELETED = (
    "its data was deleted (FLUSHALL, FLUSHDB, DEL) or evicted (maxmemory-policy), or has expired because this end did"
    " not reach the server for longer than its lease"
)

_CLOSED = b"1"
_LONGEST_WHY = 2_000

_PLACES: dict[Side, Place] = {"writer": "w", "reader": "r"}


class RedisLink(Link):
    """One open end of a channel in Redis.

    Args:
        connect: gives the running event loop's client.
        transport: what it was made by, for messages.
        channel_id: which channel.
        namespace: in which it is found by its name, if it is.
        creates: whether the channel comes into being if it is not there.
        loose: whether it was shared before it was there.
        lasting: whether it comes into being again after all its ends were left.
    """

    def __init__(
        self,
        spec: LinkSpec,
        options: Options,
        connect: Callable[[], Client],
        transport: str,
        channel_id: str,
        namespace: str | None,
        *,
        creates: bool,
        loose: bool = False,
        lasting: bool = False,
    ) -> None:
        # What a program has not told does not keep its channel.
        self._me: weakref.ref[RedisLink] = weakref.ref(self)
        # In a cycle it is gone before it says so, and then the hash is there only if it was asked for before.
        hash(self._me)
        self.state = EndState(spec, options, transport, channel_id, namespace, creates, loose, lasting)
        self.state.shared = lasting
        super().__init__(spec)
        self._connect = connect

    # What the two protocols do -------------------------------------------------------------------

    @property
    @abstractmethod
    def busy(self) -> bool:
        """Whether something here has no answer yet, or can still be received."""

    @property
    @abstractmethod
    def room(self) -> int:
        """How many values would be accepted at once."""

    @abstractmethod
    def note(self, acked: int, sent: int) -> None:
        """The reader has acknowledged all up to ``acked``."""

    @abstractmethod
    def _advance_sends(self) -> None:
        """Go on with the sends that wait."""

    @abstractmethod
    def _advance_receives(self) -> None:
        """Go on with whoever waits first."""

    @abstractmethod
    def _writer_held(self, offered: int, acked: int, sent: int, had: int) -> None:
        """The writer's place is ours: this is where the former writer stopped.

        Args:
            had: number of the last value that was sent from here and needs no sending, by the numbers of then.
        """

    @abstractmethod
    def _reader_held(self, acked: int, got: int, kept: bool) -> None:
        """The reader's place is ours, with lists of our own: this is where the former reader stopped."""

    @abstractmethod
    def _reader_lost(self, free: bool) -> None:
        """The reader's place is another's, or nobody's, with everything that was not acknowledged."""

    @abstractmethod
    def _end_receives(self) -> None:
        """The channel is closed; what was accepted or given can still be received."""

    @property
    def _complete(self) -> bool:
        """Whether it was told that the channel is closed, and has what was in it: then nobody needs its data."""
        return self.state.total is not None

    @property
    @abstractmethod
    def _progress(self) -> int:
        """How many values the server has told that it knows to be received here."""

    @abstractmethod
    def _withdraw_send(self, send: PendingSend) -> Any:
        """Take back a value that is offered."""

    @abstractmethod
    def _take_in(self, raw: bytes) -> None:
        """An element was moved here."""

    @abstractmethod
    def _acknowledging(self, most: int = 0, *, whole: bool = False) -> tuple[bytes, ...]:
        """The arguments of ACK: acknowledge what may be, and move what is there. From now on it counts as told."""

    @abstractmethod
    def _meet_reader(self, arm: Arm) -> Any:
        """Receive, for a choice that has decided for it."""

    @abstractmethod
    def _meet_writer(self, arm: Arm) -> Any:
        """Send, for a choice that has decided for it."""

    def _confirm(self, number: int) -> None:
        """What was received up to that number is known to be acknowledged."""

    def _untold(self) -> None:
        """What was told of what was received here did not arrive."""

    def _when_written(self, then: Callable[[], None]) -> None:
        """Call a function when the server has everything that was accepted here, or never will."""
        then()

    def _when_all_written(self, then: Callable[[], None]) -> None:
        """Call a function when what was sent by now is written or lost, here and where it was made of what came here.

        (In a program of one's own, others may send all the time: they are waited for only if nothing is told now.)
        """
        journal, client = self.state.journal, self.state.client
        whole = journal.is_process or client is None or client.paused
        waited_for = [self, *(journal.writers() if whole else ())]

        def next_one() -> None:
            if waited_for:
                waited_for.pop()._when_written(next_one)
            else:
                then()

        next_one()

    def tell_received(self) -> None:
        """Acknowledge what may be, before anything that follows."""
        self.here.commit()

    # Talking to the server -----------------------------------------------------------------------

    @property
    def here(self) -> Client:
        """The event loop's part; changes only if the event loop does."""
        client = self.state.client
        return self._enter() if client is None else client

    def _enter(self) -> Client:
        client = self._connect()
        self.state.forget_places()
        self.state.enter(client, client.enter(self))
        return client

    def touch(self) -> None:
        """Somebody wants to use this end: if the event loop or its connections are others by now, join anew."""
        client, failure = self.state.client, self.state.journal.failure
        if failure is not None:
            raise self.state.problem(failure)
        if self.state.journal.ended:
            raise self.state.process_ended()
        if client is None or client.closing or client.loop is not asyncio.get_running_loop():
            if client is not None and not client.closing and client.loop.is_running():
                # Here, in another thread.
                raise ChannelTopologyError(
                    f"channel {self.name!r} is used in two event loops at the same time; open an end for the other one:"
                    f" Chan.open(channel.share(), transport=channel.transport)",
                    channel_name=self.name,
                )
            self._enter()

    def _gives_up(self) -> None:
        """The program ends here: with what it received last too, unless it was broken off."""
        if not self.state.journal.broken_off:
            self.goes_on()

    def goes_on(self) -> None:
        """The program does something here: it has dealt with what it received last."""
        s = self.state
        if s.journal.in_hand is not None and s.client is not None:
            s.client.goes_on(s.journal)

    def call(
        self, script: Script, *args: bytes, answer: Answer | None = None, now: bool = False, waits: bool = True
    ) -> None:
        """Call a script.

        Args:
            script: which.
            args: its arguments.
            answer: gets its reply or an error, whatever they are.
            now: whether nothing else is likely to follow.
            waits: whether it waits for a server that refuses for now; else the answer is ``LATER``.
        """
        client = self.here
        if client.closing:
            if answer is not None:
                answer(self.state.transport_closed())
            return
        if client.uncommitted:
            client.commit()
        self.prepare()
        s = self.state
        if s.early is not None:
            if waits or not client.paused:
                s.early.append((script, args, answer, waits))
            elif answer is not None:
                client.loop.call_soon(answer, LATER)
            return
        text = s.text(script, *args)
        if now and answer is not None and client.is_alone():
            client.pipe.call_now((text, answer))
        else:
            client.pipe.call(text, answer, waits=waits)

    async def ask(
        self, script: Script, *args: bytes, place: Place | None = None, waits: bool = True
    ) -> list[Any] | None:
        """Call a script and wait for what it did; None if nothing, see :meth:`route`. Errors are raised."""
        future: Future[Any] = self.here.loop.create_future()

        def answered(reply: Any) -> None:
            if future.done():
                return
            if isinstance(reply, list) or reply is LATER:
                future.set_result(reply)
            else:
                future.set_exception(self.state.problem(reply))

        self.call(script, *args, answer=answered, waits=waits)
        reply = await future
        return None if reply is LATER else self.route(reply, place)

    def route(self, reply: list[Any], place: Place | None = None) -> list[Any] | None:
        """What a script answers (see :mod:`.scripts`): the answer if it did its work; else its meaning here, and None.

        Args:
            reply: of the script.
            place: which one the script needs.
        """
        match reply[0], place:
            case b"ok", _:
                return reply
            case ((b"taken" | b"free"), _) if reply[1] != self.state.born:
                self._vanished()
            case (b"taken" | b"free") as word, ("w" | "r"):
                self._lose(place, free=word == b"free")
            case b"gone", _:
                self._vanished()
            case b"closed", _:
                self.told_closed(why=reply[1])
            case b"held", ("w" | "r"):
                # Does the holder live? It says so at once; if it is dead, its lease ends.
                delay = reply[4] / 1000 + 0.01
                self.state.retries[place] = self.here.loop.call_later(delay, self._hold, place)
            case b"old", ("w" | "r"):
                superseded = self.state.superseded(place)
                self.here.undo(self.state.journal, superseded)
                self._refuse(place, superseded)
            case b"type", ("w" | "r"):
                self._refuse(place, self.state.other_type(reply[1]))
        return None

    def prepare(self) -> None:
        """Something is about to be asked: the first contact makes this end known."""
        s = self.state
        if s.joined:
            return
        s.joined = True
        client = self.here

        party = s.party

        def answered(reply: Any) -> None:
            if party != s.party:
                return  # on another event loop by now
            early, s.early = s.early or [], None
            if not isinstance(reply, list):
                s.joined, s.early = False, []
                for _, _, answer, _ in early:
                    if answer is not None:
                        answer(reply)
                return
            client.allowed.add(b"EVALSHA")
            if reply[0] == b"closed":
                self.note_why(reply[1])
                self._over()
            elif self.route(reply) is not None:
                s.run_id = client.pipe.run_id
                _, closed, offered, acked, sent, got, born = reply
                s.belong(born)
                self.note(acked, sent)
                s.got = got
                if closed:
                    self.told_closed(offered, closed)
            for script, args, answer, waits in early:
                client.pipe.call(s.text(script, *args), answer, waits=waits)

        flags = (b"1" if s.creates else b"0", b"1" if s.loose else b"0")
        name = s.spec.name.encode("utf-8", "surrogatepass")
        text = s.text(scripts.JOIN, s.lease, s.ttl, *flags, name, s.type_name, b"%d" % s.spec.capacity)
        client.pipe.call(text, answered)

    def closed_error(self) -> StbassError:  # type: ignore[override]
        """Why an operation on this channel is refused."""
        if self.state.data_lost is not None:
            # One for each who waits: a traceback belongs to one raising.
            return StateLostError(str(self.state.data_lost))
        return super().closed_error()

    def _check_open(self) -> None:
        if self.closed:
            raise self.closed_error()

    # The end -------------------------------------------------------------------------------------

    def close(self) -> None:
        self._close()

    def forsake(self, told: str, *, failed: bool) -> None:
        # Until this is over, the channel is there for who has not come yet, and is to be told as well.
        self.state.stays = True
        if not self.capacity:
            super().forsake(told, failed=failed)
            return
        why = _written_why(told, failed)
        # Whether anybody waits, the server knows, which tells whoever does.
        self._when_written(lambda: self.call(scripts.CLOSE, why))

    def reopen(self) -> bool:
        self.state.stays = False
        return False

    async def given_up(self) -> None:
        leaving = self.leave(final=True)
        if leaving is not None:
            await leaving

    async def aclose(self) -> None:
        closing = self._close()
        if closing is not None:
            await closing

    def _close(self) -> Future[None] | None:
        s = self.state
        if self.closed and (s.left or s.client is None):
            return None
        self.closed = True
        if s.journal.broken_off or s.journal.failure is not None or s.journal.ended:
            # Whoever runs it again, or what the process has not left behind, goes on with the channel.
            s.close_put_off = s.journal.failure is None
            s.fail_sends(self.closed_error)
            s.fail_receives(self.closed_error)
            self.heat_all()
            return None
        self.goes_on()
        if s.client is None and not s.shared and not s.loose and s.namespace is None and s.creates:
            return None  # nobody else can know of it
        done: Future[None] = self.here.loop.create_future()

        def answered(reply: Any) -> None:
            error: StbassError | None = None
            if not isinstance(reply, list):
                error = s.problem(reply)
            elif self.route(reply) is not None:
                self.note(*reply[1:3])
                self.told_closed(*reply[3:5])
            elif s.data_lost is not None:
                error = self.closed_error()
            if error is None:
                if not done.done():
                    done.set_result(None)
            elif not done.done():
                done.set_exception(error)
                done.exception()

        # What the server refuses for now must not come after the close.
        why = _CLOSED if self.forsaken is None else _written_why(*self.forsaken)
        self._when_written(lambda: self.call(scripts.CLOSE, why, answer=answered))
        return done

    async def close_after_all(self) -> None:
        """The process is not run again elsewhere: close what it has closed."""
        if self.state.close_put_off:
            self.state.close_put_off = False
            await self.aclose()

    def _vanished(self) -> None:
        """There is no such channel in Redis: it was closed and all of it received, or its data is lost."""
        s = self.state
        if s.born and not s.left and not self._complete:
            restarted = self.here.pipe.run_id != s.run_id
            s.data_lost = s.data_gone(_RESTARTED if restarted else _DELETED)
        self._over()

    def _over(self) -> None:
        """Nothing can come of the channel any more."""
        s = self.state
        s.left = s.vain = True
        for place, state in s.places.items():
            if state == ASKING:
                s.places[place] = FREE
        self._place_given_up(s.data_lost)
        self.told_closed()
        s.tell_places()

    def told_closed(self, total: int | None = None, why: bytes = _CLOSED) -> None:
        """The channel is closed. Nobody takes what waits here.

        Args:
            total: number of the last value, if the server has told that it is closed.
            why: as the server has it.
        """
        if total is not None:
            self.state.total = total
        self.note_why(why)
        self.closed = True
        self.state.fail_sends(self.closed_error)
        self._end_receives()
        self.heat_all()
        self.settle()

    def note_why(self, why: bytes) -> None:
        """The channel is closed, and this is what the server has of the reason."""
        if why != _CLOSED and self.forsaken is None:
            self.forsaken = why[1:].decode("utf-8", "replace"), why[:1] == b"!"

    def _forsaken(self, why: bytes) -> None:
        """Nobody is left who could receive: what would wait for room fails."""
        self.note_why(why)
        if self.room <= 0:
            self.state.fail_sends(self.closed_error)
        self.heat_all()

    def settle(self) -> None:
        """Leave a closed channel when nothing here waits for it any more."""
        s = self.state
        if self.closed and not (s.left or s.sending or s.stays or self.busy):
            self.leave(final=False)

    def leave(self, *, final: bool) -> Future[None] | None:
        """Give up this end's places and its lease. Done when the server knows."""
        s = self.state
        client = s.client
        if client is None or not s.joined or (s.left and (s.vain or not final)):
            return None
        self._gives_up()
        done: Future[None] = client.loop.create_future()
        self._when_all_written(partial(self._leave, client, done, final))
        return done

    def _leave(self, client: Client, done: Future[None], final: bool) -> None:
        s = self.state
        if s.client is not client or not s.joined:
            done.set_result(None)
            return
        self.tell_received()

        def answered(reply: Any) -> None:
            state = self.state  # this end lives until it knows whether it has left
            if isinstance(reply, list) and reply == [b"ok", 0] and state.joined:
                state.left = False
            if not done.done():
                done.set_result(None)

        s.left = True
        if final:
            s.forget_places()
        client.pipe.call(s.text(scripts.LEAVE, b"1" if final else b"0"), answered)
        if final:
            s.joined = False
            # What was not told by now goes to the next reader.
            s.told = s.confirmed = s.credited = s.received
            s.belong(b"")
            self._fail_reader(s.transport_closed())
            self._fail_writer(s.transport_closed())
            s.tell_places()

    def __del__(self) -> None:
        s = self.state
        client = s.client
        s.journal.forget(self._me)
        if client is not None and s.joined and not s.left and not client.closing:
            if not client.loop.is_closed():
                client.loop.call_soon_threadsafe(client.leave_for, self._last_words(), s.pipe)

    def _last_words(self) -> list[bytes]:
        """The commands by which an end is given up that nobody has any more."""
        return [self.state.text(scripts.LEAVE, b"1")]

    def drop_pipe(self) -> None:
        """Give up the connection of the blocking move."""
        self.state.drop_pipe()

    def unreachable(self, problem: StbassError) -> None:
        """The server stays away: what waits here fails, and choices find out for themselves."""
        if not self.state.joined or self.state.left:
            return
        error = self.state.problem(problem)
        self._fail_writer(error)
        self._fail_reader(error)
        self.heat_all()

    # A server that refuses for now ---------------------------------------------------------------

    def on_pause(self) -> None:
        """The server refuses for now: what does not wait for it is told so."""
        s = self.state
        early = s.early or []
        if early:
            s.early = [one for one in early if one[3]]
            for _, _, answer, waits in early:
                if not waits and answer is not None:
                    answer(LATER)
        s.tell_places()

    def on_resume(self) -> None:
        """Ask again for what the server has refused."""
        self._advance_sends()
        self._advance_receives()
        if self.closed:
            self.told_closed()
        self.sync(restarted=False)

    # What the server tells -----------------------------------------------------------------------

    def told(self, kind: str, details: list[Any]) -> None:
        """A message came.

        Raises:
            ValueError: it is none that a script sends.
        """
        s = self.state
        match kind, details:
            case "ack", [int(acked), int(sent)]:
                if not s.holds("w"):
                    return  # it was sent to the former holder
                if max(acked, sent) > s.number:
                    raise ValueError(f"number {max(acked, sent)} is acknowledged, and the last is {s.number}")
                self.note(acked, sent)
            case "look", [int(number)]:
                arm = s.arms_by_number.get(number)
                if arm is None:
                    return
                if arm.choice.passive:
                    self._register(arm, tell=False)
                else:
                    self._heat(arm)
            case "closed", [int(total), str(why)]:
                self.told_closed(total, why.encode("utf-8", "replace"))
            case "forsaken", [str(why)]:
                self._forsaken(why.encode("utf-8", "replace"))
            case "gone", [*why]:
                if why == ["restarted"]:
                    s.run_id = ""  # as the other end has found, even if this one has found nothing amiss
                self.sync()  # if that is so, its answer says it
            case "lost", ["w" | "r"]:
                self.sync()  # what is offered here must not be offered again unless that is so
            case "free", [("w" | "r") as place]:
                if s.places[place] == ASKING:
                    self._hold(place)
            case "held", [("w" | "r") as place, str(owner), str(who), (int() | float() | str()) as since]:
                if s.places[place] == ASKING:
                    me = s.where(self.here)
                    self._refuse(place, s.held_by(place, self._owner(place), me, owner, who, since))
            case "ask", [("w" | "r") as place, str(asker)]:
                self.call(scripts.AFFIRM, place.encode(), asker.encode())
            case _:
                raise ValueError(f"unknown message {kind!r:.40} {details!r:.100}")

    def sync(self, *, restarted: bool | None = None) -> None:
        """Renew the lease, and ask for what may not have been told. ``restarted`` is given after a reconnection."""
        s = self.state
        if not s.joined or s.left:
            return
        party, written, progress, heard = s.party, s.written, self._progress, len(s.heard)

        def answered(reply: Any) -> None:
            if party != s.party:
                return  # on another event loop by now
            s.syncing = False
            if not isinstance(reply, list) or s.left or self.route(reply) is None:
                return
            _, closed, offered, acked, sent, w, r, now, received, arms, there = reply
            if (w == 1 and offered < written) or (r and received < progress):
                # Values were lost, or would come once more: the server has older data than it had.
                self.call(scripts.LOSE)
                s.run_id = ""
                self._vanished()
                return
            s.run_id = self.here.pipe.run_id
            if w >= 0:  # else another writer goes on counting, and its numbers are not those of what waits here
                self.note(acked, sent)
            if now:
                s.told_urgent(int(now[:-1]), not now.endswith(b"n"))
            if closed:
                self.told_closed(offered, closed)
                return
            if w < 1 and s.holds("w"):
                self._lose("w")
            if not r and s.holds("r"):
                self._lose("r")
            self._see_that_values_come(bool(r and there))
            if s.look_again or arms < heard:
                s.look_again = False
                for arm in list(s.arms):
                    self._register(arm)

        if restarted is not None:
            s.look_again = True
            if s.holds("r") and not s.fetching and not s.acking:
                # Before any answer to what was sent again: what it has moved may have been told on the lost connection.
                self._check()
        if not s.syncing:
            s.syncing = True
            self.call(scripts.SYNC, s.lease, s.ttl, answer=answered)

    def _see_that_values_come(self, there: bool) -> None:
        """An answer on the connection of the blocking move may have got lost without a word: nobody else looks there.

        Args:
            there: whether the server has values for this end.
        """
        s = self.state
        now = self.here.loop.time()
        if not there or not (s.waiters or s.acking) or s.pipe is None or s.pipe.idle:
            s.overdue = None
        elif s.overdue is None or s.overdue[:2] != (s.got, s.confirmed):
            s.overdue = (s.got, s.confirmed, now)  # it may be on its way
        elif now - s.overdue[2] > s.options.lease / 4:
            s.overdue = None
            _log.warning("channel %r: a value does not come though it is there; connecting anew", self.name)
            s.pipe.reset()

    # Who holds the places ------------------------------------------------------------------------

    def bind(self, side: Side, owner: str) -> None:
        if _has_loop():
            self.touch()
        s, place = self.state, _PLACES[side]
        before = self._owner(place)
        super().bind(side, owner)
        s.problems.pop(place, None)
        if s.places[place] == LEAVING:
            s.wanted.add(place)
        elif before != owner or s.places[place] == FREE:
            s.places[place] = FREE
            if _has_loop() and not self.closed:
                self._hold(place)

    def unbind(self, side: Side) -> None:
        super().unbind(side)
        s, place = self.state, _PLACES[side]
        s.problems.pop(place, None)
        s.wanted.discard(place)
        if s.places[place] in (FREE, LEAVING):
            return
        if s.left:
            s.places[place] = FREE
            return
        self._gives_up()
        s.places[place] = LEAVING
        s.giving_back += 1
        # What is under way on another connection, or is refused for now, must not come after it.
        self._when_all_written(partial(self._tell_and_give_back, place))

    def _tell_and_give_back(self, place: Place) -> None:
        self.tell_received()
        self.state.on_fetched(partial(self._give_back, place))

    def _give_back(self, place: Place) -> None:
        s = self.state
        s.places[place] = FREE

        def answered(reply: Any) -> None:
            s.giving_back -= 1
            s.tell_places()

        self.call(scripts.FREE, place.encode(), answer=answered)
        if place == "r":
            self._given_back()
        if place in s.wanted:
            s.wanted.discard(place)
            self._hold(place)

    def _owner(self, place: Place) -> str | None:
        return self.writer if place == "w" else self.reader

    async def bound(self) -> None:
        if self.state.data_lost is not None:
            raise self.closed_error()
        if self.closed:
            return
        self.touch()
        s = self.state
        for place, state in s.places.items():
            if self._owner(place) is not None and state == FREE:
                self._hold(place)
        if not s.joined:
            await self.ask(scripts.SYNC, s.lease, s.ttl)
        while ASKING in s.places.values() or s.giving_back:
            await s.place_changed()
        for place in s.places:
            problem = s.problems.pop(place, None)
            if problem is not None:
                raise problem

    def held(self, place: Place) -> bool:
        """Whether this end holds the place; asks for it if not, and goes on when it has it."""
        state = self.state.places[place]
        if state == HELD:
            return True
        if state == FREE:
            self._hold(place)
        elif state == LEAVING:
            self.state.wanted.add(place)
        return False

    async def _placed(self, place: Place) -> bool:
        """Whether this end holds the place, as soon as that is known; not if the server refuses for now.

        Raises:
            StbassError: it cannot.
        """
        s = self.state
        while not self.closed and not self.held(place):
            if self.here.paused:
                return False
            await s.place_changed()
            if s.places[place] == FREE and s.refusal is not None:
                raise s.refusal
        return True

    def _hold(self, place: Place, anew: bool = False) -> None:
        """Ask for a place; ``anew``: for the reader's, that is ours, with new lists."""
        s = self.state
        s.places[place] = ASKING
        s.stop_retry(place)
        owner = self._owner(place) or ""

        def answered(reply: Any) -> None:
            if s.places[place] != ASKING or owner != (self._owner(place) or ""):
                return
            if not isinstance(reply, list):
                self._refuse(place, s.problem(reply))
            elif self.route(reply, place) is not None:
                self._is_held(place, reply)

        self.call(
            scripts.HOLD,
            place.encode(),
            owner.encode("utf-8", "surrogatepass"),
            s.where(self.here).encode("utf-8", "backslashreplace"),
            s.type_name,
            s.lease,
            b"1" if anew else b"0",
            s.journal.known_runs(),
            answer=answered,
        )

    def _is_held(self, place: Place, reply: list[Any]) -> None:
        s = self.state
        _, epoch, offered, acked, sent, got, closed, kept, why, had = reply
        s.places[place] = HELD
        s.refusal = None
        s.left = False
        if place == "w":
            if not s.under_way:
                self.here.can_tell(self._me, s.journal)
            self._writer_held(offered, acked, sent, had)
            if why:
                self._forsaken(why)
            self._advance_sends()
            self.heat("writer")
        else:
            if epoch != s.epoch:
                s.drop_pipe()
                s.renewed()
                s.epoch = epoch
                s.stale = False
                self._reader_held(acked, got, bool(kept))
            s.told_wait = False
            self._advance_receives()
            self.heat("reader")
        if closed:
            self.told_closed(offered, closed)
        s.tell_places()

    def _refuse(self, place: Place, error: StbassError) -> None:
        s = self.state
        s.stop_retry(place)
        s.places[place] = FREE
        if self._owner(place) is not None:
            super().unbind("writer" if place == "w" else "reader")
            s.problems[place] = error
        s.refusal = error
        if place == "w":
            self._fail_writer(error)
        else:
            self._fail_reader(error)
        self.heat_all()
        s.tell_places()

    def _lose(self, place: Place, *, free: bool = False) -> None:
        """Another party holds the place, or nobody: what waits here is offered, or asked for, when we have it again."""
        s = self.state
        if s.places[place] != LEAVING:
            s.places[place] = FREE
        if place == "r":
            self._reader_lost(free)
            self._given_back()
            return
        again = list(s.pending.values())
        s.pending.clear()
        s.queue.extendleft(reversed(again))
        s.settle_urgent()
        if s.queue or s.put_back:
            self.held("w")

    def _given_back(self) -> None:
        """The reader's place is not ours any more."""
        s = self.state
        s.drop_pipe()
        s.epoch = -1
        s.told_wait = False
        s.renewed()
        if s.waiters:
            self.held("r")

    # Sending -------------------------------------------------------------------------------------

    def _enqueue(self, payload: bytes) -> Future[None]:
        """A send that waits."""
        s = self.state
        waiter: Future[None] = self.here.loop.create_future()
        send = PendingSend(waiter, payload)
        s.queue.append(send)
        s.sends[waiter] = send
        self._advance_sends()
        return waiter

    def _fail_writer(self, error: StbassError) -> None:
        self.state.fail_sends(lambda: self.state.problem(error))
        self._place_given_up(error)

    def _place_given_up(self, error: StbassError | None) -> None:
        """The writer's place is not ours any more, and will not be."""
        s = self.state
        if self._me in s.journal.held_up:
            self._lose_accepted(error)
            self.here.can_tell(self._me, s.journal)
            if error is not None and s.journal.is_process:
                self.here.undo(s.journal, error)

    def undo(self, error: StbassError) -> None:
        """What the program has not told is lost, with what it has received; ``error`` says why."""
        s = self.state
        if s.journal.failure is not None:
            s.renewed()
            self._fail_writer(error)
            self._fail_reader(error)
            self.heat_all()
        elif s.holds("w") or s.queue:
            # In a program of one's own nobody knows which values were made of which.
            s.write_failure = s.write_failure or error
            queue, s.queue = s.queue, deque()
            for send in queue:
                s.fail_send(send, error)

    def _lose_accepted(self, error: StbassError | None) -> None:
        """What was accepted, and cannot be sent any more, is lost; without an error nobody needs it."""

    @property
    def journal(self) -> Journal:
        """Of the program whose end it is."""
        return self.state.journal

    def _raise_failure(self) -> None:
        """Whoever sends the next value must know, once; if the process has failed, always."""
        s = self.state
        if s.journal.failure is not None:
            raise s.problem(s.journal.failure)
        if s.write_failure is not None:
            error, s.write_failure = s.write_failure, None
            raise self._failed(error)

    def _failed(self, error: StbassError) -> StbassError:
        """The error for whoever asks what has become of accepted values."""
        return type(error)(f"values that channel {self.name!r} had accepted may be lost: {error}", **error.__dict__)

    async def withdraw(self, waiter: Future[Any]) -> Happened | None:
        s = self.state
        if waiter in s.waiters:
            waiter.cancel()
            s.waiters.remove(waiter)
            self._advance_receives()
            return None
        send = s.sends.pop(waiter, None)
        if send is None:
            happened = waiter.done() and not waiter.cancelled() and waiter.exception() is None
            return Happened(waiter.result()) if happened else None
        waiter.cancel()
        if send.happened:
            return Happened()
        if send in s.queue:
            s.queue.remove(send)
            return None
        found: Happened | None = await self._withdraw_send(send)
        return found

    # How values come -----------------------------------------------------------------------------

    def _wait(self) -> None:
        """Nothing is here: tell that a receive waits, and wait in a blocking move."""
        s = self.state
        if self.closed:
            if not s.fetching:
                self._check()
            return
        told, s.told_wait = s.told_wait, True
        if s.blocked:
            if not told:
                self.call(scripts.WAIT, b"1", answer=self._waits, waits=False)
            return
        pipe = s.pipe
        if pipe is None or pipe.closed:
            pipe = s.pipe = self.here.take_pipe(self._down)
        if not told:
            pipe.call(s.text(scripts.WAIT, b"1"), self._waits, waits=False)
        self._block(pipe)

    def _waits(self, reply: Any) -> None:
        if reply is LATER:
            self.state.told_wait = False
        elif _is_gone(reply):
            self._not_there()
        elif not isinstance(reply, list):
            self._fail_reader(self.state.problem(reply))
        elif self.route(reply, "r") is not None and reply[1]:
            self.told_closed(why=reply[1])

    def _block(self, pipe: Pipe) -> None:
        pipe.call(*self._blocking(pipe), waits=False)

    def _blocking(self, pipe: Pipe) -> tuple[bytes, Answer]:
        """The blocking move, to be called on that connection."""
        s = self.state
        s.blocked = True
        epoch = s.epoch
        offers, taken = b"%b:offers:%d" % (s.key, epoch), b"%b:taken:%d" % (s.key, epoch)

        def moved(reply: Any) -> None:
            if pipe is not s.pipe or epoch != s.epoch:
                return
            s.blocked = False
            if reply is LATER:
                s.told_wait = False
                return
            self.here.allowed.add(b"BLMOVE")
            if not isinstance(reply, bytes):
                self._fail_reader(s.problem(reply))
            elif s.fetching:
                # What is being fetched on the other connection was moved before it.
                s.overtaking.append(reply)
            else:
                self._take_in(reply)
                s.settled.clear()
                self._advance_receives()
                if s.moved:
                    self.heat("reader")

        return command(b"BLMOVE", offers, taken, b"LEFT", b"RIGHT", b"0"), moved

    def _not_there(self) -> None:
        """A script found no channel, perhaps on the connection of the blocking move.

        That it was closed may still be on its way on the other connection: the next answer there comes after it.
        """
        if self.state.left:
            self._vanished()
        else:
            self.sync()

    def _check(self) -> None:
        """Ask what is there."""
        s = self.state
        self.here.commit()
        s.fetching += 1
        args = self._acknowledging(max(1, self.capacity), whole=True)
        told = int(args[0])
        self.call(scripts.ACK, *args, answer=partial(self._fetched, told, told < s.received), waits=False)

    def _fetched(self, told: int, in_hand: bool, reply: Any) -> None:
        """What was asked for came.

        Args:
            told: what was received up to this number was acknowledged with the question.
            in_hand: whether the program was still at work on a value when it was asked.
            reply: the answer.
        """
        s = self.state
        s.end_fetch()
        if reply is LATER:
            self._untold()
            self._take_in_all([])
        elif _is_gone(reply):
            self._not_there()
        elif not isinstance(reply, list):
            self._fail_reader(s.problem(reply))
        elif self.route(reply, "r") is not None:
            self._confirm(told)
            self._take_in_all(reply)
            if reply[1]:
                self.closed = True
                self.note_why(reply[1])
                # What the program is still at work on is there, and does not come here once more. But what is there may
                # also be on its way here: moved for a question on the other connection, whose answer is still to come.
                if reply[2] <= in_hand and not (s.moved or s.sending or s.fetching):
                    self._fail_closed()
            self._advance_receives()
            self.heat("reader")
            self.settle()

    async def _look(self) -> bool:
        """Fetch what is there, for a choice; whether there is something."""
        s = self.state
        if s.fetching or s.acking:
            await self.ask(scripts.WAIT, b"1" if s.told_wait else b"0", place="r", waits=False)
            if self.here.paused:
                return False
            return bool(s.moved) or not (s.fetching or s.acking)
        self.here.commit()
        s.fetching += 1
        try:
            args = self._acknowledging(max(1, self.capacity), whole=True)
            reply = await self.ask(scripts.ACK, *args, place="r", waits=False)
        finally:
            s.end_fetch()
        if reply is None:
            if self.here.paused:
                self._untold()
            return False
        self._take_in_all(reply)
        if not s.moved and reply[1]:
            s.drained = True
            self.told_closed(why=reply[1])
            raise self.closed_error()
        return bool(s.moved)

    def _take_in_all(self, reply: list[Any]) -> None:
        s = self.state
        for raw in reply[3:]:
            self._take_in(raw)
        if not s.fetching and s.overtaking:
            overtaking, s.overtaking = s.overtaking, []
            for raw in overtaking:
                self._take_in(raw)
            s.settled.clear()

    def _drop_element(self, raw: bytes, reason: Exception | str) -> None:
        """What is none of ours is dropped, counted and logged."""
        self.here.warn(
            "signature" if isinstance(reason, SignatureError) else "value",
            f"channel {self.name!r}: refused a value in Redis: {reason}",
        )
        self.call(scripts.DROP, raw)

    def _fail_closed(self) -> None:
        """The channel is closed, and nothing more comes."""
        self.state.drained = True
        self.state.drop_pipe()
        self.state.fail_receives(self.closed_error)

    def _fail_reader(self, error: StbassError) -> None:
        s = self.state
        # What was moved for a connection that is given up is only found again with new lists.
        s.stale = s.holds("r")
        s.drop_pipe()
        s.told_wait = False
        s.fail_receives(lambda: s.problem(error))

    def _down(self) -> None:
        """The connection of the blocking move was lost."""
        s = self.state
        s.pipe = None
        s.blocked = False
        if not s.left and s.holds("r"):
            s.stale = True
            if s.resend is not None:
                # An acknowledgement was under way there: once more, on the other connection.
                resend, s.resend = s.resend, None
                resend()
            elif not s.acking:
                self._renew()
        else:
            s.end_fetch(all_of_them=True)

    def _renew(self) -> None:
        """The server may not know yet that a connection is gone, and still move a value for it: to lists of its own."""
        s = self.state
        s.stale = False
        if s.left or not s.holds("r"):
            return
        self.tell_received()
        # What else was moved here goes back to the front, and comes again.
        s.renewed()
        s.told_wait = False
        s.end_fetch(all_of_them=True)
        self._hold("r", anew=True)

    # Choice --------------------------------------------------------------------------------------

    def attach(self, arm: Arm) -> None:
        self.touch()
        s = self.state
        if arm.reader:
            self.goes_on()
        s.last_arm += 1
        s.arms[arm] = s.last_arm
        s.arms_by_number[s.last_arm] = arm
        if self.closed:
            s.hot.add(arm)
            return
        if not arm.choice.passive:
            self.held("r" if arm.reader else "w")
        self._register(arm)

    def _register(self, arm: Arm, *, tell: bool = True) -> Future[bool]:
        """Let the server, and the other side, know the arm; the answer is whether it is ready."""
        s = self.state
        known: Future[bool] = self.here.loop.create_future()
        s.registered[arm] = known

        def answered(reply: Any) -> None:
            ready = reply is not LATER  # an error is for whoever tries to meet
            if ready and arm in s.arms:
                s.heard.add(arm)
            if isinstance(reply, list) and self.route(reply) is not None:
                if reply[2]:
                    self.told_closed(why=reply[2])
                ready = bool(reply[1])
            if ready and arm in s.arms:
                self._heat(arm)
            if not known.done():
                known.set_result(ready)

        self.call(
            scripts.ATTACH,
            b"%d" % s.arms[arm],
            b"r" if arm.reader else b"w",
            b"1" if arm.open else b"0",
            b"1" if arm.choice.passive else b"0",
            arm.choice.rank.encode(),
            b"1" if tell else b"0",
            answer=answered,
            waits=False,
        )
        return known

    def detach(self, arm: Arm) -> None:
        s = self.state
        number = s.arms.pop(arm)
        del s.arms_by_number[number]
        s.hot.discard(arm)
        s.registered.pop(arm, None)
        if not s.left and s.joined and (arm in s.heard or not self.here.paused):
            self.call(scripts.DETACH, b"%d" % number)
        s.heard.discard(arm)

    def announce(self, arm: Arm) -> None:
        self._register(arm)

    def ready(self, arm: Arm) -> bool:
        return arm in self.state.hot or self._ready_here(arm)

    def _ready_here(self, arm: Arm) -> bool:
        if arm.reader:
            return bool(self.state.moved)
        return self.state.holds("w") and (self.room > 0 or self.forsaken is not None)

    async def probe(self, arm: Arm) -> bool:
        if self.closed:
            return True
        s = self.state
        known = s.registered.pop(arm, None) or self._register(arm, tell=False)
        s.registered.pop(arm, None)
        await known
        if not arm.choice.passive:
            return self.ready(arm)
        return known.result() or self.ready(arm)

    def _heat(self, arm: Arm) -> None:
        self.state.hot.add(arm)
        arm.notify()

    def heat(self, side: Literal["reader", "writer"]) -> None:
        """Something has changed at one side."""
        for arm in list(self.state.arms):
            if arm.reader == (side == "reader") and (self._ready_here(arm) or self.closed):
                self._heat(arm)

    def heat_all(self) -> None:
        """The channel is closed, or there is an error to be raised."""
        for arm in list(self.state.arms):
            self._heat(arm)

    async def meet(self, arm: Arm) -> Happened | None:
        s = self.state
        # Before the question: what is said to be ready after it is news.
        s.hot.discard(arm)
        place: Place = "r" if arm.reader else "w"
        async with s.meeting[place]:
            if not self.closed and not self.held(place) and not await self._placed(place):
                return None
            if s.journal.failure is not None:
                raise s.problem(s.journal.failure)
            try:
                happened: Happened | None = await (self._meet_reader(arm) if arm.reader else self._meet_writer(arm))
            except StbassError:
                if self.closed:
                    s.hot.add(arm)
                raise
            return happened

    # What it tells -------------------------------------------------------------------------------

    @property
    def uncertain(self) -> bool:
        """Whether something has happened here, and the server may not know it."""
        return False

    def stats(self) -> ChannelStats:
        return self.state.stats()

    @property
    def sent(self) -> int:
        return self.state.sent

    @property
    def used(self) -> bool:
        return self.state.used

    def outlive(self) -> None:
        self.state.lasting = True

    def share(self) -> dict[str, Any]:
        s = self.state
        s.shared = True
        if s.lasting:
            return {"id": s.id, "new": True, "namespace": s.namespace, "lasting": True}
        if s.client is None or not s.run_id:
            # The other end may be there first.
            s.loose = s.creates
            if _has_loop() and not self.closed and not s.joined:
                self.call(scripts.SYNC, s.lease, s.ttl)
        return {"id": s.id, "new": s.loose, "namespace": s.namespace}


def _is_gone(reply: Any) -> bool:
    return isinstance(reply, list) and reply[0] == b"gone"


def _has_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _written_why(told: str, failed: bool) -> bytes:
    return f"{'!' if failed else '-'}{shortened(told, _LONGEST_WHY)}".encode()
