"""One end of a channel in Redis: its lease, its places, its messages. What moves: :mod:`.reader`, :mod:`.writer`."""

from __future__ import annotations

import asyncio
from asyncio import Future
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from stbass import wire
from stbass.errors import (
    BackendUnavailableError,
    ChannelClosedError,
    ChannelTopologyError,
    SignatureError,
    StateLostError,
    StbassError,
    WireError,
)
from stbass.transports.base import ChannelStats, Happened, Link, LinkSpec, Side
from stbass.transports.choice import Arm
from stbass.transports.redis import scripts
from stbass.transports.redis.arms import Arms
from stbass.transports.redis.client import Client
from stbass.transports.redis.connection import Answer
from stbass.transports.redis.keys import base_key
from stbass.transports.redis.places import Place, Places
from stbass.transports.redis.reader import Reader
from stbass.transports.redis.writer import Writer

if TYPE_CHECKING:
    from stbass.transports.redis.scripts import Script
    from stbass.transports.redis.transport import RedisTransport

__all__ = ["RedisLink"]

_PLACES: dict[Side, Place] = {"writer": "w", "reader": "r"}


class RedisLink(Link):
    """One open end of a channel in Redis.

    Args:
        transport: what it was made by.
        channel_id: which channel.
        namespace: in which it is found by its name, if it is.
        creates: whether the channel comes into being if it is not there; else that means that it is closed.
    """

    _client: Client | None = None

    def __init__(
        self, transport: RedisTransport, spec: LinkSpec, channel_id: str, namespace: str | None, *, creates: bool
    ) -> None:
        super().__init__(spec)
        self.spec = spec
        self.transport = transport
        self.options = transport.options
        self.id = channel_id
        self.namespace = namespace
        self.base = base_key(channel_id, namespace)
        self.creates = creates
        self.lease = b"%d" % (self.options.lease * 1000)
        self.ttl = b"%d" % (self.options.ttl * 1000)
        self._loose = False
        self._shared = False
        self._heads: dict[Script, bytes] = {}
        self._known = False
        self.left = False
        self.vain = False
        """Whether the channel is gone, so that nothing can come of it any more."""
        self._lost: StbassError | None = None
        self._run_id = ""
        self.type_name = spec.type_name.encode("utf-8", "surrogatepass")
        self.places = Places(self)
        self.incoming = Reader(self)
        self.outgoing = Writer(self)
        self.arms = Arms(self)

    # Talking to the server -----------------------------------------------------------------------

    @property
    def client(self) -> Client:
        """The event loop's part; changes only if the event loop does."""
        found = self._client
        if found is None or found.closing:
            found = self.transport.client()
            self._client = found
            self._reset(found)
        return found

    @property
    def here(self) -> Client:
        """The event loop's part, also when it is being closed."""
        return self.client if self._client is None else self._client

    def touch(self) -> None:
        """Somebody wants to use this end: if the event loop or its connections are others by now, join anew."""
        if self._client is None or self._client.closing or self._client.loop is not asyncio.get_running_loop():
            self._client = None
            _ = self.client

    def _reset(self, client: Client) -> None:
        self.party = f"{client.id}.{client.enter(self)}"
        key, party = self.base.encode(), self.party.encode()
        self._heads = {
            script: b"$7\r\nEVALSHA\r\n$40\r\n%b\r\n$1\r\n1\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"
            % (script.sha, len(key), key, len(party), party)
            for script in scripts.ALL
        }
        self._known = False
        self.left = False
        self.places.forget()

    def text(self, script: Script, *args: bytes) -> bytes:
        """A call of a script as it goes over the wire."""
        return (
            b"*%d\r\n" % (5 + len(args))
            + self._heads[script]
            + b"".join([b"$%d\r\n%b\r\n" % (len(arg), arg) for arg in args])
        )

    def post(self, script: Script, *args: bytes, answer: Answer | None = None) -> None:
        """Call a script; ``answer`` gets its reply or an error."""
        client = self.here
        if client.closing:
            if answer is not None:
                answer(self._transport_closed())
            return
        if not self._known:
            self._join(client)
        client.pipe.call(self.text(script, *args), answer)

    def _transport_closed(self) -> BackendUnavailableError:
        return BackendUnavailableError(f"channel {self.name!r}: {self.transport!r} was closed meanwhile")

    def ask(self, script: Script, *args: bytes) -> Future[list[Any]]:
        """Call a script and wait for its reply; errors are raised."""
        client = self.here
        future: Future[list[Any]] = client.loop.create_future()

        def answered(reply: Any) -> None:
            if future.done():
                return
            if isinstance(reply, list):
                future.set_result(reply)
            else:
                future.set_exception(self.problem(reply))

        self.post(script, *args, answer=answered)
        return future

    def problem(self, reply: Any) -> StbassError:
        """What to raise for a reply that is an error."""
        if isinstance(reply, StbassError):
            # One for each who waits: a traceback belongs to one raising.
            return type(reply)(str(reply), **reply.__dict__)
        where = f"Redis at {self.options.address}"
        if "WRONGTYPE" in str(reply):
            return ChannelTopologyError(
                f"channel {self.name!r}: a key that begins with {self.base!r} holds something else in {where}: another"
                f" program uses the name. Delete that key, or use another database",
                channel_name=self.name,
            )
        return BackendUnavailableError(f"channel {self.name!r}: {where} refused: {reply}")

    def _join(self, client: Client) -> None:
        self._known = True
        options, spec = self.options, self.spec

        def answered(reply: Any) -> None:
            if not isinstance(reply, list):
                return  # whatever was asked after it gets the same error
            if reply[0] == b"ok":
                self._run_id = client.pipe.run_id
                _, closed, _, acked, sent, got = reply
                self.outgoing.note(acked, sent)
                self.incoming.got = got
                if closed:
                    self.told_closed()
            else:
                self.vanished()

        flags = (b"1" if self.creates else b"0", b"1" if self._loose else b"0")
        lifetimes = (b"%d" % (options.lease * 1000), b"%d" % (options.ttl * 1000))
        client.pipe.call(
            self.text(
                scripts.JOIN,
                *lifetimes,
                *flags,
                spec.name.encode("utf-8", "surrogatepass"),
                self.type_name,
                b"%d" % spec.capacity,
            ),
            answered,
        )

    def vanished(self) -> None:
        """There is no such channel in Redis: it was closed, or the server has lost its data."""
        run_id = self.here.pipe.run_id
        if self._run_id and run_id != self._run_id:
            self._lost = StateLostError(
                f"channel {self.name!r} is not in Redis at {self.options.address} any more: the server was restarted"
                f" without its data"
            )
        self.left = self.vain = True
        self.told_closed()

    def closed_error(self) -> StbassError:  # type: ignore[override]
        """Why an operation on this channel is refused."""
        if self._lost is not None:
            return StateLostError(str(self._lost))
        return ChannelClosedError(f"channel {self.name!r} is closed", channel_name=self.name)

    # Values --------------------------------------------------------------------------------------

    def encode(self, value: Any) -> bytes:
        """A value as it travels.

        Raises:
            NotTransportable: it cannot, or is too large.
        """
        return wire.dumps(value, limit=self.options.max_message_bytes, what=f"value for channel {self.name!r}")

    def entry(self, number: int, kind: bytes, payload: bytes) -> bytes:
        """An element of the lists, signed if the fleet signs."""
        head = b"%d%b" % (number, kind)
        signer = self.options.signer
        if signer is None:
            return head + payload
        return head + signer.sign("value", self.id, head, payload).encode() + payload

    def decode(self, number: int, kind: bytes, payload: bytes) -> Any:
        """The value of an element.

        Raises:
            WireError: it is none that :meth:`encode` wrote.
            SignatureError: it is not signed as it should be.
        """
        signer = self.options.signer
        if signer is not None:
            signature, payload = payload[:64], payload[64:]
            signer.verify(signature.decode("latin-1"), "value", self.id, b"%d%b" % (number, kind), payload)
        return wire.loads(payload, limit=self.options.max_message_bytes)

    def read(self, raw: bytes, parsed: tuple[int, bytes, bytes] | None) -> tuple[Any] | None:
        """The value of an element that was taken; what is none of ours is dropped, counted and logged."""
        reason: Exception | str = "it is not one that stbass wrote"
        if parsed is not None:
            try:
                return (self.decode(*parsed),)
            except (WireError, SignatureError) as error:
                reason = error
        self.here.warn(
            "signature" if isinstance(reason, SignatureError) else "value",
            f"channel {self.name!r}: refused a value in Redis: {reason}",
        )
        self.post(scripts.DROP, raw)
        return None

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
        if self._client is None and not self._shared and self.namespace is None and self.creates:
            return None  # nobody else can know of it
        self.outgoing.flush()
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
        if client is None or not self._known or (self.left and (self.vain or not final)):
            return None
        self.outgoing.flush()
        done: Future[None] = client.loop.create_future()

        def answered(reply: Any) -> None:
            if isinstance(reply, list) and reply[0] == b"stay" and self._known:
                self.left = False
            if not done.done():
                done.set_result(None)

        self.left = True
        if final:
            self.places.forget()
        client.pipe.call(self.text(scripts.LEAVE, b"1" if final else b"0"), answered)
        if final:
            self._known = False
            self.incoming.fail(self._transport_closed())
            self.outgoing.fail(self._transport_closed())
            self.places.tell_changed()
        return done

    def __del__(self) -> None:
        client = self._client
        if client is not None and self._known and not self.left and not client.closing:
            text = self.text(scripts.LEAVE, b"1")
            pipe = self.incoming.pipe

            def leave() -> None:
                client.pipe.call(text)
                if pipe is not None:
                    pipe.drop()

            if not client.loop.is_closed():
                client.loop.call_soon_threadsafe(leave)

    # Choice --------------------------------------------------------------------------------------

    def attach(self, arm: Arm) -> None:
        """See :meth:`Link.attach`."""
        self.touch()
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

    # What the server tells -----------------------------------------------------------------------

    def told(self, kind: str, details: list[Any]) -> None:
        """A message came."""
        match kind, details:
            case "ack", [int(acked), int(sent)]:
                self.outgoing.note(acked, sent)
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
            case "lost", [("w" | "r") as side]:
                self.places.told_lost(side)
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
        if not self._known or self.left:
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

    async def known(self) -> None:
        """Return when the server knows this end."""
        if not self._known:
            await self.ask(scripts.SYNC, self.lease, self.ttl)

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
            if _has_loop() and not self.closed and not self._known:
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
