"""One end of a channel in Redis: its lease, its places, its messages. What moves: :mod:`.reader`, :mod:`.writer`."""

from __future__ import annotations

import asyncio
from asyncio import Future
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from stbass._channels.transport import Arm, ChannelStats, Happened, LinkSpec, Side
from stbass.errors import StbassError
from stbass.transports.redis import scripts
from stbass.transports.redis.arms import Arms
from stbass.transports.redis.party import Party
from stbass.transports.redis.places import Place, Places
from stbass.transports.redis.reader import Reader
from stbass.transports.redis.writer import Writer

if TYPE_CHECKING:
    from stbass.transports.redis.client import Client
    from stbass.transports.redis.transport import RedisTransport

__all__ = ["RedisLink"]

_PLACES: dict[Side, Place] = {"writer": "w", "reader": "r"}


class RedisLink(Party):
    """One open end of a channel in Redis.

    Args:
        transport: what it was made by.
        channel_id: which channel.
        namespace: in which it is found by its name, if it is.
        creates: whether the channel comes into being if it is not there; else that means that it is closed.
        loose: whether it was shared before it was there: then this end may be over before the other one comes, which
            must find it closed.
    """

    def __init__(
        self,
        transport: RedisTransport,
        spec: LinkSpec,
        channel_id: str,
        namespace: str | None,
        *,
        creates: bool,
        loose: bool = False,
    ) -> None:
        super().__init__(transport, spec, channel_id, namespace, creates=creates, loose=loose)
        self.places = Places(self)
        self.incoming = Reader(self)
        self.outgoing = Writer(self)
        self.arms = Arms(self)

    def on_new_party(self, client: Client) -> int:
        """See :meth:`Party.on_new_party`."""
        self.places.forget()
        return client.enter(self)

    def on_joined(self, closed: bool, acked: int, sent: int, got: int) -> None:
        """See :meth:`Party.on_joined`."""
        self.outgoing.note(acked, sent)
        self.incoming.got = got
        if closed:
            self.told_closed()

    # A value moves -------------------------------------------------------------------------------

    def offer(self, value: Any) -> Future[None] | None:
        """See :meth:`Link.offer`."""
        if self.closed:
            raise self.closed_error()
        self.touch()
        return self.outgoing.offer(value)

    def take(self) -> Future[Any]:
        """See :meth:`Link.take`."""
        self.touch()
        return self.incoming.take()

    def try_take(self) -> Any:
        """See :meth:`Link.try_take`."""
        return self.incoming.try_take()

    async def flush(self) -> None:
        """See :meth:`Link.flush`."""
        if self._client is not None and self.uncertain:
            self.goes_on()
            self._client.commit()
            await self.outgoing.written()
            await self.incoming.acknowledged()

    @property
    def uncertain(self) -> bool:
        """Whether something has happened here, and the server may not know it."""
        return self.outgoing.unwritten or self.incoming.unacknowledged

    async def withdraw(self, waiter: Future[Any]) -> Happened | None:
        """See :meth:`Link.withdraw`."""
        if self.incoming.knows(waiter):
            return await self.incoming.withdraw(waiter)
        return await self.outgoing.withdraw(waiter)

    # The end -------------------------------------------------------------------------------------

    def close(self) -> None:
        """See :meth:`Link.close`."""
        self._close()

    async def aclose(self) -> None:
        """See :meth:`Link.aclose`."""
        closing = self._close()
        if closing is not None:
            await closing

    def _close(self) -> Future[None] | None:
        if self.closed and (self.left or self._client is None):
            return None
        self.closed = True
        if self._client is not None:
            self.goes_on()
        if self._client is None and not self._shared and not self._loose and self.namespace is None and self.creates:
            return None  # nobody else can know of it
        done: Future[None] = self.here.loop.create_future()

        def answered(reply: Any) -> None:
            if isinstance(reply, list):
                if reply[0] == b"ok":
                    self.outgoing.note(*reply[1:])
                self.told_closed()
                if not done.done():
                    done.set_result(None)
            elif not done.done():
                done.set_exception(self.problem(reply))
                done.exception()

        self.post(scripts.CLOSE, answer=answered)
        return done

    def told_closed(self) -> None:
        """The channel is closed."""
        self.closed = True
        self.outgoing.told_closed()
        self.incoming.told_closed()
        self.arms.heat_all()
        self.settle()

    def settle(self) -> None:
        """Leave a closed channel when nothing here waits for it any more."""
        if self.closed and not self.left and not self.outgoing.busy and not self.incoming.busy:
            self.leave(final=False)

    def leave(self, *, final: bool) -> Future[None] | None:
        """Give up this end's places and its lease. Done when the server knows."""
        client = self._client
        if client is None or not self.joined or (self.left and (self.vain or not final)):
            return None
        self.goes_on()
        self.incoming.tell_received()
        done: Future[None] = client.loop.create_future()

        def answered(reply: Any) -> None:
            if isinstance(reply, list) and reply[0] == b"stay" and self.joined:
                self.left = False
            if not done.done():
                done.set_result(None)

        self.left = True
        if final:
            self.places.forget()
        client.pipe.call(self.text(scripts.LEAVE, b"1" if final else b"0"), answered)
        if final:
            self.joined = False
            self.incoming.fail(self.transport_closed())
            self.outgoing.fail(self.transport_closed())
            self.places.tell_changed()
        return done

    def __del__(self) -> None:
        client = self._client
        if client is not None and self.joined and not self.left and not client.closing:
            text = self.text(scripts.LEAVE, b"1")
            received = self.incoming.telling()
            pipe = self.incoming.pipe

            def leave() -> None:
                if received is not None:
                    client.pipe.call(received)
                client.pipe.call(text)
                if pipe is not None:
                    pipe.drop()

            if not client.loop.is_closed():
                client.loop.call_soon_threadsafe(leave)

    # Choice --------------------------------------------------------------------------------------

    def attach(self, arm: Arm) -> None:
        """See :meth:`Link.attach`."""
        self.touch()
        if arm.reader:
            self.goes_on()
        self.arms.attach(arm)

    def detach(self, arm: Arm) -> None:
        """See :meth:`Link.detach`."""
        self.arms.detach(arm)

    def ready(self, arm: Arm) -> bool:
        """See :meth:`Link.ready`."""
        return self.arms.ready(arm)

    def announce(self, arm: Arm) -> None:
        """See :meth:`Link.announce`."""
        self.arms.announce(arm)

    def resume(self, arm: Arm) -> None:
        """See :meth:`Link.resume`."""
        self.arms.resume(arm)

    async def probe(self, arm: Arm) -> bool:
        """See :meth:`Link.probe`."""
        return await self.arms.probe(arm)

    async def meet(self, arm: Arm) -> Happened | None:
        """See :meth:`Link.meet`."""
        return await self.arms.meet(arm)

    def unreachable(self, problem: StbassError) -> None:
        """The server stays away: what waits here fails, and choices find out for themselves."""
        if not self.joined or self.left:
            return
        error = self.problem(problem)
        self.outgoing.fail(error)
        self.incoming.fail(error)
        self.arms.heat_all()

    # What the server tells -----------------------------------------------------------------------

    def told(self, kind: str, details: list[Any]) -> None:
        """A message came."""
        match kind, details:
            case "ack", [int(acked), int(sent)]:
                self.outgoing.told_acked(acked, sent)
            case "look", [int(number)]:
                self.arms.told_look(number)
            case "closed", []:
                self.told_closed()
            case "claim", [int(number), str(reference), str(rank)]:
                self.arms.told_claim(number, reference, rank)
            case "no", [int(number)]:
                self.outgoing.refused(number)
            case (("gave" | "deny"), [str(reference)]):
                self.arms.told_answer(reference, kind == "gave")
            case "lost", ["w" | "r"]:
                self.sync()  # what is offered here must not be offered again unless that is so
            case "free", [("w" | "r") as side]:
                self.places.told_free(side)
            case "held", [("w" | "r") as side, str(owner), str(who), (int() | float() | str()) as since]:
                self.places.told_held(side, owner, who, since)
            case "ask", [("w" | "r") as side, str(asker)]:
                self.post(scripts.AFFIRM, side.encode(), asker.encode())
            case _:
                raise ValueError(f"unknown message {kind!r:.40} {details!r:.100}")

    def sync(self, *, restarted: bool | None = None) -> None:
        """Renew the lease, and ask for what may not have been told. ``restarted`` is given after a reconnection."""
        if not self.joined or self.left:
            return

        def answered(reply: Any) -> None:
            if not isinstance(reply, list) or self.left:
                return
            if reply[0] != b"ok":
                self.vanished()
                return
            _, closed, _, acked, sent, w, r, now, _ = reply
            self._run_id = self.here.pipe.run_id
            self.outgoing.note(acked, sent)
            if now.endswith(b"n"):
                self.outgoing.refused(int(now[:-1]))
            elif now:
                self.outgoing.accepted(int(now[:-1]))
            if closed:
                self.told_closed()
                return
            if not w and self.places.holds("w"):
                self.places.told_lost("w")
            if not r and self.places.holds("r"):
                self.places.told_lost("r")
            if restarted is not None:
                self.arms.again()

        if restarted is not None:
            # Before any answer to what was sent again: what it has moved may have been told on the lost connection.
            self.incoming.again()
        self.post(scripts.SYNC, self.lease, self.ttl, answer=answered)

    # Who holds the sides -------------------------------------------------------------------------

    def bind(self, side: Side, owner: str) -> None:
        """See :meth:`Link.bind`."""
        if _has_loop():
            self.touch()
        before = self.owner(_PLACES[side])
        super().bind(side, owner)
        self.places.bind(_PLACES[side], changed=before != owner, now=_has_loop() and not self.closed)

    def unbind(self, side: Side) -> None:
        """See :meth:`Link.unbind`."""
        super().unbind(side)
        self.places.free(_PLACES[side])

    def owner(self, place: Place) -> str | None:
        """The process that a side is bound to here."""
        return self.writer if place == "w" else self.reader

    def disown(self, place: Place) -> None:
        """The side turned out to be another's."""
        super().unbind("writer" if place == "w" else "reader")

    async def bound(self) -> None:
        """See :meth:`Link.bound`."""
        if self.closed:
            return
        self.touch()
        await self.places.bound()

    # What it tells -------------------------------------------------------------------------------

    def stats(self) -> ChannelStats:
        """See :meth:`Link.stats`."""
        waiting: Literal["sender", "receiver"] | None = None
        if self.outgoing.waiting or self.incoming.offered:
            waiting = "sender"
        elif self.incoming.waiting:
            waiting = "receiver"
        last = max(self.incoming.last, self.outgoing.last)
        return ChannelStats(
            max(self.outgoing.sent, self.incoming.got),
            self.incoming.got,
            waiting,
            datetime.fromtimestamp(last, UTC) if last else None,
        )

    @property
    def sent(self) -> int:
        """See :attr:`Link.sent`."""
        return self.outgoing.sent

    @property
    def used(self) -> bool:
        """See :attr:`Link.used`."""
        return bool(
            self.outgoing.sent or self.outgoing.waiting or self.incoming.got or self.incoming.waiting or self.arms.any
        )

    def share(self) -> dict[str, Any]:
        """See :meth:`Link.share`."""
        self._shared = True
        if self._client is None or not self._run_id:
            # The other end may be there first.
            self._loose = self.creates
            if _has_loop() and not self.closed and not self.joined:
                self.ask(
                    scripts.SYNC, b"%d" % (self.options.lease * 1000), b"%d" % (self.options.ttl * 1000)
                ).add_done_callback(_forget)
        return {"id": self.id, "new": self._loose, "namespace": self.namespace}


def _forget(future: Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


def _has_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
