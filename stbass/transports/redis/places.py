"""Who holds the two sides of a channel in Redis, as one end of it knows.

A side is asked for when a process is bound to it, or when it is first used. If another party holds it, that one is
asked whether it lives: it says so at once, and the side is refused; a dead one's lease ends, and the side is ours.
"""

from __future__ import annotations

import asyncio
from asyncio import Future
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from stbass.errors import ChannelTopologyError, StbassError
from stbass.transports.redis import scripts

if TYPE_CHECKING:
    from stbass.transports.redis.link import RedisLink

__all__ = ["Place", "Places"]

Place: TypeAlias = Literal["w", "r"]
PLACES: tuple[Place, Place] = ("w", "r")
FREE, ASKING, HELD, LEAVING = range(4)
LOST = (b"taken", b"free")
"""What the server answers to an end that does not hold a place."""


class Places:
    """The sides as one end holds them, asks for them, or leaves them alone."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._states: dict[Place, int] = {"w": FREE, "r": FREE}
        # What a bound side was refused with, until somebody asks; and the latest refusal of all.
        self._problems: dict[Place, StbassError] = {}
        self._refusal: StbassError | None = None
        self._retries: dict[Place, asyncio.TimerHandle] = {}
        self._changed: list[Future[None]] = []
        self._freeing = 0
        # What is being given back, and is to be held again.
        self._wanted: set[Place] = set()

    def holds(self, place: Place) -> bool:
        """Whether this end holds the side."""
        return self._states[place] == HELD

    def asks(self, place: Place) -> bool:
        """Whether this end waits for the side."""
        return self._states[place] == ASKING

    def forget(self) -> None:
        """Neither is held any more."""
        self._states = {"w": FREE, "r": FREE}
        self._wanted.clear()
        for handle in self._retries.values():
            handle.cancel()
        self._retries.clear()
        self.tell_changed()

    def bind(self, place: Place, *, changed: bool, now: bool) -> None:
        """A process was bound to a side: ask for it, ``now`` or when it is first used."""
        self._problems.pop(place, None)
        if self._states[place] == LEAVING:
            self._wanted.add(place)
        elif changed or self._states[place] == FREE:
            self._states[place] = FREE
            if now:
                self._hold(place)

    def free(self, place: Place) -> None:
        """Give a side back."""
        link = self._link
        self._problems.pop(place, None)
        if self._states[place] in (FREE, LEAVING):
            self._wanted.discard(place)
            return
        if not link.left:
            link.goes_on()
            link.incoming.tell_received()
        self._states[place] = FREE
        if link.left:
            return
        self._freeing += 1

        def answered(reply: Any) -> None:
            self._freeing -= 1
            self.tell_changed()

        def give_back() -> None:
            self._states[place] = FREE
            link.post(scripts.FREE, place.encode(), answer=answered)
            if place == "r":
                link.incoming.given_back()
            if place in self._wanted:
                self._wanted.discard(place)
                self._hold(place)

        # What is under way on another connection must not come after it.
        self._states[place] = LEAVING
        if place == "r":
            link.incoming.when_fetched(give_back)
        else:
            give_back()

    def held(self, place: Place) -> bool:
        """Whether this end holds the place; asks for it if not, and the reader or writer is told."""
        state = self._states[place]
        if state == HELD:
            return True
        if state == FREE:
            self._hold(place)
        elif state == LEAVING:
            self._wanted.add(place)
        return False

    async def placed(self, place: Place) -> None:
        """Return when this end holds the place.

        Raises:
            StbassError: it cannot.
        """
        while not self._link.closed and not self.held(place):
            future: Future[None] = self._link.here.loop.create_future()
            self._changed.append(future)
            await future
            if self._states[place] == FREE and self._refusal is not None:
                raise self._refusal

    def renew(self) -> None:
        """Hold the reader's place anew, with new lists."""
        self._hold("r", anew=True)

    def _hold(self, place: Place, anew: bool = False) -> None:
        self._states[place] = ASKING
        handle = self._retries.pop(place, None)
        if handle is not None:
            handle.cancel()
        owner = self._link.owner(place) or ""

        def answered(reply: Any) -> None:
            if self._states[place] == ASKING and owner == (self._link.owner(place) or ""):
                self._held_answer(place, owner, reply)

        self._link.post(
            scripts.HOLD,
            place.encode(),
            owner.encode("utf-8", "surrogatepass"),
            self._link.who.encode("utf-8", "backslashreplace"),
            self._link.type_name,
            self._link.lease,
            b"1" if anew else b"0",
            answer=answered,
        )

    def _held_answer(self, place: Place, owner: str, reply: Any) -> None:
        if not isinstance(reply, list):
            self._refuse(place, self._link.problem(reply))
        elif reply[0] == b"ok":
            _, epoch, offered, acked, sent, got, closed, kept = reply
            self._states[place] = HELD
            self._refusal = None
            self._link.left = False
            if place == "w":
                self._link.outgoing.on_held(offered, acked, sent)
            else:
                self._link.incoming.on_held(epoch, acked, got, kept=bool(kept))
            if closed:
                self._link.told_closed()
            self.tell_changed()
        elif reply[0] == b"held":
            # Does the holder live? It says so at once; if it is dead, its lease ends.
            left = reply[4] / 1000
            self._retries[place] = self._link.here.loop.call_later(left + 0.01, self._hold, place)
        elif reply[0] == b"type":
            self._refuse(
                place,
                ChannelTopologyError(
                    f"channel {self._link.name!r}: this end carries {self._link.spec.type_name}, the other end"
                    f" {reply[1].decode('utf-8', 'replace')}; make both with the same type",
                    channel_name=self._link.name,
                ),
            )
        else:
            self._states[place] = FREE
            self._link.vanished()
            self.tell_changed()

    def _held_by(self, place: Place, owner: str, who: str, since: Any) -> ChannelTopologyError:
        name = "writer" if place == "w" else "reader"
        own = self._link.owner(place)
        mine = own or f"an unbound end at {self._link.who}"
        holder = f"{owner!r} at {who}" if owner else f"an unbound end at {who}"
        me = repr(own) if own else mine
        when = datetime.fromtimestamp(float(since) / 1000, UTC)
        return ChannelTopologyError(
            f"channel {self._link.name!r} already has a {name}: {holder}, since {when:%Y-%m-%d %H:%M:%S} UTC; {me}"
            f" cannot be another. A channel has one writer and one reader; unbind the first, or use a channel for each",
            channel_name=self._link.name,
            holder=owner,
            refused=mine,
            since=when,
        )

    def _refuse(self, place: Place, error: StbassError) -> None:
        handle = self._retries.pop(place, None)
        if handle is not None:
            handle.cancel()
        self._states[place] = FREE
        owner = self._link.owner(place)
        if owner is not None:
            self._link.disown(place)
            self._problems[place] = error
        self._refusal = error
        if place == "w":
            self._link.outgoing.fail(error)
        else:
            self._link.incoming.fail(error)
        self._link.arms.heat_all()
        self.tell_changed()

    def told_free(self, place: Place) -> None:
        """The holder of a side that this end waits for does not hold it any more."""
        if self.asks(place):
            self._hold(place)

    def told_held(self, place: Place, owner: str, who: str, since: Any) -> None:
        """The holder of a side that this end waits for lives."""
        if self.asks(place):
            self._refuse(place, self._held_by(place, owner, who, since))

    def told_lost(self, place: Place) -> None:
        """Another party holds the side."""
        self._states[place] = FREE
        if place == "w":
            self._link.outgoing.told_lost()
        else:
            self._link.incoming.told_lost()

    def tell_changed(self) -> None:
        """Let whoever waits look again."""
        changed, self._changed = self._changed, []
        for future in changed:
            if not future.done():
                future.set_result(None)

    async def bound(self) -> None:
        """See :meth:`stbass._channels.transport.Link.bound`."""
        link = self._link
        for place in PLACES:
            if link.owner(place) is not None and self._states[place] == FREE:
                self._hold(place)
        await link.known()
        while ASKING in self._states.values() or self._freeing:
            future: Future[None] = link.here.loop.create_future()
            self._changed.append(future)
            await future
        for place in PLACES:
            problem = self._problems.pop(place, None)
            if problem is not None:
                raise problem
