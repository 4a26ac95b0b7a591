"""Choices at one end of a channel in Redis: what they are told, and how two of them meet.

An arm is registered in Redis, so that the other side can see it. A choice that finds something ready decides for it
and asks the server. If that something is a choice at the other side, it proposes, and the link there claims its arm, or
refuses, as ``transport`` describes. The server's scripts decide: a proposal that was taken back cannot
be accepted any more, one that was accepted cannot be taken back.
"""

from __future__ import annotations

import asyncio
from asyncio import Future
from typing import TYPE_CHECKING, Any, Literal

from stbass._channels.choice import DECIDING
from stbass._channels.transport import Arm, Happened
from stbass._values.ids import new_id
from stbass.errors import StbassError
from stbass.transports.redis import scripts

if TYPE_CHECKING:
    from stbass.transports.redis.link import RedisLink

__all__ = ["Arms"]

ANSWER_SECONDS = 1.0
"""How long a proposal stands. Whoever lives answers at once, or when it has decided itself."""


class Arms:
    """The arms of choices that are attached to this end."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._numbers: dict[Arm, int] = {}
        self._by_number: dict[int, Arm] = {}
        self._next = 0
        self._hot: set[Arm] = set()
        self._attached: dict[Arm, Future[bool]] = {}
        # Claims to answer when the choice has decided, and arms whose choice was busy when it was claimed.
        self._put_off: dict[Arm, list[tuple[str, str]]] = {}
        self._refused: set[Arm] = set()
        self._asked: dict[str, Future[bool]] = {}
        self._meeting = {"reader": asyncio.Lock(), "writer": asyncio.Lock()}

    @property
    def any(self) -> bool:
        """Whether a choice is attached."""
        return bool(self._numbers)

    @property
    def wants(self) -> bool:
        """Whether a choice may want to receive."""
        return any(arm.reader and arm.open and not arm.choice.passive for arm in self._numbers)

    # What the choice does ------------------------------------------------------------------------

    def attach(self, arm: Arm) -> None:
        """See :meth:`stbass._channels.transport.Link.attach`."""
        self._next += 1
        self._numbers[arm] = self._next
        self._by_number[self._next] = arm
        if self._link.closed:
            self._hot.add(arm)
            return
        if not arm.choice.passive:
            self._link.places.held("r" if arm.reader else "w")
        self._register(arm)

    def _register(self, arm: Arm, *, tell: bool = True) -> Future[bool]:
        """Let the server, and the other side, know the arm; the answer is whether it is ready."""
        number = self._numbers[arm]
        known: Future[bool] = self._link.here.loop.create_future()
        self._attached[arm] = known

        def answered(reply: Any) -> None:
            ready = True  # an error is for whoever tries to meet
            if isinstance(reply, list) and reply[0] == b"ok":
                if reply[2]:
                    self._link.told_closed()
                ready = bool(reply[1])
            elif isinstance(reply, list):
                self._link.vanished()
            if ready and arm in self._numbers:
                self._heat(arm)
            if not known.done():
                known.set_result(ready)

        self._link.post(
            scripts.ATTACH,
            b"%d" % number,
            b"r" if arm.reader else b"w",
            b"1" if arm.open else b"0",
            b"1" if arm.choice.passive else b"0",
            arm.choice.rank.encode(),
            b"1" if tell else b"0",
            answer=answered,
        )
        return known

    def detach(self, arm: Arm) -> None:
        """See :meth:`stbass._channels.transport.Link.detach`."""
        number = self._numbers.pop(arm)
        del self._by_number[number]
        self._hot.discard(arm)
        self._refused.discard(arm)
        self._attached.pop(arm, None)
        for claim in self._put_off.pop(arm, ()):
            self._deny(arm, claim[0])
        if not self._link.left and self._link.joined:
            self._link.post(scripts.DETACH, b"%d" % number)
            self._link.incoming.refuse_urgent()

    def announce(self, arm: Arm) -> None:
        """See :meth:`stbass._channels.transport.Link.announce`."""
        self._register(arm)

    def resume(self, arm: Arm) -> None:
        """See :meth:`stbass._channels.transport.Link.resume`."""
        for reference, rank in self._put_off.pop(arm, ()):
            self._on_claim(arm, reference, rank)
        if arm in self._refused:
            self._refused.discard(arm)
            self._register(arm)

    def ready(self, arm: Arm) -> bool:
        """See :meth:`stbass._channels.transport.Link.ready`."""
        return arm in self._hot or self._ready_here(arm)

    def _ready_here(self, arm: Arm) -> bool:
        link = self._link
        if arm.reader:
            return link.incoming.offered
        return bool(link.capacity) and link.places.holds("w") and link.outgoing.room > 0

    async def probe(self, arm: Arm) -> bool:
        """See :meth:`stbass._channels.transport.Link.probe`."""
        if self._link.closed:
            return True
        known = self._attached.pop(arm, None) or self._register(arm, tell=False)
        self._attached.pop(arm, None)
        await known
        if not arm.choice.passive:
            return self.ready(arm)
        return known.result() or self.ready(arm)

    # What the arms are told ----------------------------------------------------------------------

    def _heat(self, arm: Arm) -> None:
        self._hot.add(arm)
        arm.notify()

    def heat(self, side: Literal["reader", "writer"]) -> None:
        """Something has changed at one side."""
        for arm in list(self._numbers):
            if arm.reader == (side == "reader") and (self._ready_here(arm) or self._link.closed):
                self._heat(arm)

    def heat_all(self) -> None:
        """The channel is closed, or there is an error to be raised."""
        for arm in list(self._numbers):
            self._heat(arm)

    def told_look(self, number: int) -> None:
        """There may be something for an arm."""
        arm = self._by_number.get(number)
        if arm is None:
            return
        if arm.choice.passive:
            self._register(arm, tell=False)
        else:
            self._heat(arm)

    def again(self) -> None:
        """The connection was lost: look again."""
        for arm in list(self._numbers):
            self._register(arm)

    # Meeting -------------------------------------------------------------------------------------

    async def meet(self, arm: Arm) -> Happened | None:
        """See :meth:`stbass._channels.transport.Link.meet`."""
        link = self._link
        # Before the question: what is said to be ready after it is news.
        self._hot.discard(arm)
        async with self._meeting["reader" if arm.reader else "writer"]:
            place: Literal["r", "w"] = "r" if arm.reader else "w"
            if not link.closed and not link.places.held(place):
                await link.places.placed(place)
            try:
                return await (self._receive(arm) if arm.reader else self._send(arm))
            except StbassError:
                if link.closed:
                    self._hot.add(arm)
                raise

    async def _receive(self, arm: Arm) -> Happened | None:
        link = self._link
        tried: list[bytes] = []
        while True:
            if link.closed and (not link.capacity or link.incoming.drained):
                raise link.closed_error()
            happened = await link.incoming.take_now()
            if happened is not None or not link.places.holds("r") or link.capacity:
                return happened
            reference = new_id()
            answered: Future[bool] = link.here.loop.create_future()
            self._asked[reference] = answered
            try:
                reply = await link.ask(scripts.ASK, reference.encode(), arm.choice.rank.encode(), *tried)
                if reply[0] == b"gone":
                    link.vanished()
                    continue
                if reply[0] != b"ok":
                    return None if reply[0] != b"closed" else await self._closed_meanwhile()
                handle = link.here.loop.call_later(ANSWER_SECONDS, _set, answered, False)
                try:
                    given = await answered
                finally:
                    handle.cancel()
                if not given:
                    await link.ask(scripts.UNASK, reference.encode())
            finally:
                del self._asked[reference]
            # Given, or perhaps in the moment before the proposal was taken back.
            happened = await link.incoming.take_now()
            if happened is not None:
                return happened
            tried.append(reply[1])

    async def _closed_meanwhile(self) -> Happened | None:
        self._link.told_closed()
        raise self._link.closed_error()

    async def _send(self, arm: Arm) -> Happened | None:
        link = self._link
        if link.closed:
            raise link.closed_error()
        if link.capacity:
            return Happened() if link.outgoing.try_accept(arm.value) else None
        sent = await link.outgoing.offer_now(arm.value, arm.choice.rank, ANSWER_SECONDS)
        return Happened() if sent else None

    # Being met -----------------------------------------------------------------------------------

    def told_claim(self, number: int, reference: str, rank: str) -> None:
        """A choice at the other side proposes to meet this arm's."""
        arm = self._by_number.get(number)
        if arm is None:
            self._deny(None, reference)
        else:
            self._on_claim(arm, reference, rank)

    def _on_claim(self, arm: Arm, reference: str, rank: str) -> None:
        link = self._link
        place: Literal["r", "w"] = "r" if arm.reader else "w"
        if link.places.holds(place) and (arm.reader or link.outgoing.free) and arm.claim():
            link.here.spawn(self._accept(arm, reference))
        elif arm.choice.state == DECIDING and rank < arm.choice.rank:
            self._put_off.setdefault(arm, []).append((reference, rank))
        else:
            self._refused.add(arm)
            self._deny(arm, reference)

    async def _accept(self, arm: Arm, reference: str) -> None:
        """Complete a choice that was claimed, if the proposal still stands."""
        link = self._link
        happened: Happened | None = None
        try:
            if arm.reader:
                happened = await link.incoming.take_now()
            else:
                number = link.outgoing.next_number()
                entry = link.codec.entry(number, b"g", link.codec.encode(arm.value))
                reply = await link.ask(scripts.GIVE, reference.encode(), entry)
                if reply[0] == b"ok":
                    happened = Happened()
                    link.outgoing.note_given(reply[1])
        except StbassError as error:
            link.here.warn("meeting", f"channel {link.name!r}: a meeting of two choices came to nothing: {error}")
        finally:
            if happened is not None:
                arm.complete(happened.value)
            else:
                self._refused.add(arm)
                arm.release()
        if happened is None:
            self._deny(arm, reference)

    def _deny(self, arm: Arm | None, reference: str) -> None:
        link = self._link
        if link.left or not link.joined:
            return
        # A number is an offer of the writer's, anything else a proposal of the reader's.
        if reference.isdecimal():
            link.post(scripts.REFUSE, reference.encode())
        else:
            link.post(scripts.DENY, reference.encode())

    def told_answer(self, reference: str, given: bool) -> None:
        """A proposal of ours was answered."""
        answered = self._asked.get(reference)
        if answered is not None:
            _set(answered, given)


def _set(future: Future[bool], value: bool) -> None:
    if not future.done():
        future.set_result(value)
