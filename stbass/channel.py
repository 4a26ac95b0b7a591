"""Typed channels: how processes talk.

A channel is a rendezvous: a send and a receive meet, and both go on. ``Chan`` checks types, knows who holds its two
sides, and keeps the protocol; the meeting itself is its transport's (:mod:`stbass._channels.transport`).
"""

from __future__ import annotations

import asyncio
import types
from asyncio import CancelledError
from collections.abc import AsyncIterator, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Self, TypeVar, overload

from stbass._channels.cancellation import owed, raise_owed
from stbass._channels.memory import MEMORY
from stbass._channels.transport import NOTHING, ChannelStats, Link, LinkSpec, Transport
from stbass._channels.typespec import ChannelType
from stbass._channels.typewire import SequentialProtocol, VariantProtocol, describe, from_wire, to_wire, type_name
from stbass._channels.waiting import LONG_WAIT, abandon, interrupted, note_wait, until_ready
from stbass._values.ids import new_id
from stbass._values.texts import value_text
from stbass.errors import (
    ChannelClosedError,
    ChannelProtocolError,
    ChannelTopologyError,
    ChannelTypeError,
    NotTransportable,
    WireError,
)
from stbass.observe import spans

__all__ = [
    "Chan",
    "ChannelClosedError",
    "ChannelProtocolError",
    "ChannelStats",
    "ChannelTopologyError",
    "ChannelTypeError",
    "SequentialProtocol",
    "VariantProtocol",
]

T = TypeVar("T")


class Chan(Generic[T]):
    """A typed channel with one writer and one reader at a time.

    Sends and receives are atomic with respect to cancellation: one that raises ``CancelledError`` did nothing, and one
    that returns has happened at both sides. If the cancellation comes after the meeting but before the task runs again,
    the operation returns, and the cancellation is raised where the task waits next.

    Args:
        type_spec: what it carries: a class (``bool`` is not an ``int`` here; an ``int`` is welcome on a channel of
            ``float`` and arrives as one), any annotation that pydantic can validate (``list[int]``, ``int | None``,
            ``Literal[...]``; strictly: no numbers out of text), a pydantic model (a dict becomes one),
            :class:`SequentialProtocol` or :class:`VariantProtocol`. ``Chan[T](name)`` is the same as
            ``Chan(T, name=name)``, and typed.
        name: for messages; made up if None.
        capacity: how many values may be sent ahead of the receiver; 0: none, a rendezvous.
        transport: what it runs on; the memory of this event loop if None.

    Raises:
        TypeError: values cannot be checked against ``type_spec``.
        ValueError: the capacity is not 0 or a positive integer.
    """

    __slots__ = (
        "__weakref__",
        "_capacity",
        "_exact",
        "_name",
        "_opened",
        "_shared",
        "_transport",
        "_turn",
        "_type",
        "counted_by",
        "link",
    )

    @overload
    def __init__(
        self: Chan[T],
        type_spec: type[T],
        *,
        name: str | None = None,
        capacity: int = 0,
        transport: Transport | None = None,
    ) -> None: ...

    @overload
    def __init__(
        self: Chan[Any],
        type_spec: SequentialProtocol | types.UnionType | None,
        *,
        name: str | None = None,
        capacity: int = 0,
        transport: Transport | None = None,
    ) -> None: ...

    # Chan[T](name): see _Alias.
    @overload
    def __init__(
        self, type_spec: str = ..., *, name: str | None = None, capacity: int = 0, transport: Transport | None = None
    ) -> None: ...

    @overload
    def __init__(
        self: Chan[Any],
        type_spec: object,
        *,
        name: str | None = None,
        capacity: int = 0,
        transport: Transport | None = None,
    ) -> None: ...

    def __init__(
        self,
        type_spec: Any = NOTHING,
        *,
        name: str | None = None,
        capacity: int = 0,
        transport: Transport | None = None,
    ) -> None:
        self._set_up(type_spec, name, capacity, MEMORY if transport is None else transport)
        self.link: Link = self._transport.link(self._link_spec())
        """Where its two sides meet: for what is built on channels (choices, placing, dataflow), not for programs."""

    def _set_up(self, type_spec: Any, name: str | None, capacity: int, transport: Transport) -> None:
        if type_spec is NOTHING:
            raise TypeError("a channel needs a type: Chan(int), or Chan[int](name)")
        if type(capacity) is not int or capacity < 0:
            raise ValueError(f"a channel's capacity is 0 or a positive integer, not {value_text(capacity)}")
        self._name = name or f"chan_{new_id()[:8]}"
        self._type = ChannelType(type_spec, self._name)
        self._exact = self._type.exact
        # One send after the other: what a value has to be depends on how many came before it.
        self._turn = asyncio.Lock() if self._type.is_sequence else None
        self._capacity = capacity
        self._transport = transport
        self._opened = self._shared = False
        self.counted_by: object = None
        """What the engine knows of who has it, while a composition runs to which it was given."""

    def _link_spec(self) -> LinkSpec:
        return LinkSpec(self._name, self._capacity, type_name(self._type.spec), self._type.fit)

    if not TYPE_CHECKING:

        def __class_getitem__(cls, item: Any) -> Any:
            return _Alias(cls, item)

    # A value moves ------------------------------------------------------------------------------

    async def send(self, value: T) -> None:
        """Send a value; returns when a receiver has it (or, with a capacity, when it is accepted).

        Raises:
            ChannelTypeError: it does not fit; nobody has seen it.
            ChannelProtocolError: the sequence of types is exhausted.
            ChannelClosedError: the channel is closed, or was before a receiver came; nobody has seen the value.
            ChannelTopologyError: another process is the writer (only then known, if the channel is remote).
        """
        if type(value) is not self._exact:
            if self._turn is not None:
                await self._send_in_turn(value, self._turn)
                return
            value = self._type.fit(value)
        link = self.link
        waiter = link.offer(value)
        if waiter is not None:
            since = monotonic()
            try:
                if owed:
                    raise_owed()
                await waiter
            except CancelledError as cancel:
                await interrupted(link, waiter, cancel)
            except GeneratorExit:
                abandon(waiter)
                raise
            finally:
                if monotonic() - since >= LONG_WAIT or spans.current is not None:
                    note_wait(self._name, "send", since)

    async def recv(self) -> T:
        """Receive the next value.

        Raises:
            ChannelClosedError: the channel is closed and empty, or was closed before a value came.
            ChannelTypeError: a value came from another Python process and does not fit.
            ChannelTopologyError: another process is the reader (only then known, if the channel is remote).
        """
        link = self.link
        value: T = link.try_take()
        if value is NOTHING:
            waiter = link.take()
            since = monotonic()
            try:
                if owed:
                    raise_owed()
                value = await waiter
            except CancelledError as cancel:
                value = await interrupted(link, waiter, cancel)
            except GeneratorExit:
                abandon(waiter)
                raise
            finally:
                if monotonic() - since >= LONG_WAIT or spans.current is not None:
                    note_wait(self._name, "receive", since)
        return value

    async def _send_in_turn(self, value: Any, turn: asyncio.Lock) -> None:
        async with turn:
            link = self.link
            await link.bound()
            if not link.closed:
                value = self._type.fit(value, link.sent)
            waiter = link.offer(value)
            if waiter is not None:
                since = monotonic()
                try:
                    if owed:
                        raise_owed()
                    await waiter
                except CancelledError as cancel:
                    await interrupted(link, waiter, cancel)
                except GeneratorExit:
                    abandon(waiter)
                    raise
                finally:
                    if monotonic() - since >= LONG_WAIT or spans.current is not None:
                        note_wait(self._name, "send", since)

    @property
    def is_sequence(self) -> bool:
        """Whether what a value has to be depends on what was sent before it."""
        return self._turn is not None

    async def begin_offer(self, value: Any) -> Any:
        """For a choice that is going to offer a value: the value as it goes over the channel.

        :meth:`end_offer` must follow.

        Raises:
            ChannelTypeError, ChannelProtocolError: as :meth:`send`.
            ChannelTopologyError: another value of a sequence is being sent already.
        """
        if self._turn is None:
            return value if type(value) is self._exact else self._type.fit(value)
        if self._turn.locked():
            raise ChannelTopologyError(
                f"channel {self._name!r} carries a sequence, and a send waits on it already: "
                f"what a value has to be depends on what was sent before it, so one is offered at a time",
                channel_name=self._name,
            )
        await self._turn.acquire()
        try:
            await self.link.bound()
            return value if self.link.closed else self._type.fit(value, self.link.sent)
        except BaseException:
            self._turn.release()
            raise

    def end_offer(self) -> None:
        """The choice no longer offers the value."""
        if self._turn is not None:
            self._turn.release()

    async def readable(self) -> None:
        """Return when a receive would complete at once: a value is there, or the channel is closed."""
        await until_ready(self.link, reader=True)

    async def writable(self) -> None:
        """Return when a send would complete at once: a receiver waits, there is room, or the channel is closed."""
        await until_ready(self.link, reader=False)

    async def flush(self) -> None:
        """Return when nothing that was sent or received here would be undone if this Python process ended.

        Only a channel with a capacity, in Redis, puts anything off: what is sent in one turn of the event loop, and
        what is received. stbass flushes by itself before a checkpoint, a result or a value on another channel leaves.

        Raises:
            StbassError: the server does not answer, or has lost the channel; what becomes of the values is not known.
            ChannelTopologyError: the end's place was lost; what it received goes to the new reader too.
        """
        await self.link.flush()

    # The end ------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the channel; again does nothing.

        Every waiting sender and receiver gets ``ChannelClosedError``; an offered value that nobody took is withdrawn.
        Values that a channel with a capacity has accepted can still be received.
        """
        self.link.close()

    async def aclose(self) -> None:
        """Close the channel, and return when its other end knows (or can be told no more)."""
        await self.link.aclose()

    def forsake(self, told: str, *, failed: bool) -> None:
        """Nobody is left who could have its other end: whoever waits for one is told. For the engine.

        Args:
            told: who has ended, and how.
            failed: whether one of them has failed.
        """
        self.link.forsake(told, failed=failed)

    def renew(self) -> Link:
        """Undo :meth:`forsake`; gives back the link that it had until now."""
        link = self.link
        if not link.reopen():
            self.link = self._transport.link(self._link_spec())
        return link

    def mark_outside(self) -> None:
        """Whoever made it looks after its ends, and ends it: nobody is told of one that is gone. For the engine."""
        self._shared = True

    @property
    def known_outside(self) -> bool:
        """Whether somebody may have its other end of whom nothing is known here."""
        return self._opened or self._shared or self._transport.by_name

    @property
    def closed(self) -> bool:
        """Whether it is closed, as far as is known here."""
        return self.link.closed

    async def __aenter__(self) -> Self:
        """The channel, which is closed at the end of the block."""
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __aiter__(self) -> AsyncIterator[T]:
        """The values, until the channel is closed.

        Raises:
            ChannelClosedError: it is closed because a process that had its other end has failed.
        """
        return self

    async def __anext__(self) -> T:
        try:
            return await self.recv()
        except ChannelClosedError as error:
            if error.failed:
                raise
            raise StopAsyncIteration from None

    # What it is ---------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Its name."""
        return self._name

    @property
    def type_spec(self) -> Any:
        """What it carries, as given."""
        return self._type.spec

    @property
    def capacity(self) -> int:
        """How many values may be sent ahead of the receiver; 0 is a rendezvous."""
        return self._capacity

    @property
    def transport(self) -> Transport:
        """What it runs on."""
        return self._transport

    @property
    def stats(self) -> ChannelStats:
        """What it has done so far, as far as is known here."""
        return self.link.stats()

    @property
    def accepted(self) -> tuple[T, ...]:
        """Values that it has accepted and that nobody has received yet, first to last: only of a channel in memory."""
        return self.link.accepted()

    @property
    def used(self) -> bool:
        """Whether a value was ever sent, or anybody waits: then it cannot be promoted any more."""
        return self.link.used

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"<Chan {self._name!r} of {describe(self._type.spec)}, {self._transport.scheme}, {state}>"

    # Who holds its sides ------------------------------------------------------------------------

    def bind_writer(self, process_id: str) -> None:
        """Make a process the writer. Again by the same does nothing.

        Raises:
            ChannelTopologyError: another process is; names both. For a remote channel perhaps only from
                :meth:`bound` or the first operation.
        """
        self.link.bind("writer", process_id)

    def bind_reader(self, process_id: str) -> None:
        """Make a process the reader. Again by the same does nothing.

        Raises:
            ChannelTopologyError: as :meth:`bind_writer`.
        """
        self.link.bind("reader", process_id)

    def unbind_writer(self) -> None:
        """Let the channel have no writer."""
        self.link.unbind("writer")

    def unbind_reader(self) -> None:
        """Let the channel have no reader."""
        self.link.unbind("reader")

    async def bound(self) -> None:
        """Return when the sides bound here are held everywhere.

        Raises:
            ChannelTopologyError: another process holds one, or the two ends' types differ.
        """
        await self.link.bound()

    @property
    def writer_attached(self) -> bool:
        """Whether it has a writer, as far as is known here."""
        return self.link.writer is not None

    @property
    def reader_attached(self) -> bool:
        """Whether it has a reader, as far as is known here."""
        return self.link.reader is not None

    @property
    def is_bound(self) -> bool:
        """Whether it has a writer and a reader."""
        return self.writer_attached and self.reader_attached

    # Elsewhere ----------------------------------------------------------------------------------

    def promote(self, transport: Transport) -> None:
        """Move a channel in memory, which nobody has used yet, to another transport. To its own does nothing.

        Its writer and its reader stay bound.

        Raises:
            ChannelTopologyError: it is in use, closed, or not in memory any more; says which.
        """
        if transport is self._transport:
            return
        link = self.link
        if not link.local:
            reason = f"it already runs on {self._transport!r}"
        elif link.closed:
            reason = "it is closed"
        elif link.used:
            stats = link.stats()
            if stats.sent:
                reason = f"it has carried {stats.sent} values"
            elif stats.waiting:
                reason = f"a {stats.waiting} waits in it"
            else:
                reason = "a choice has it as a guard"
        else:
            moved = transport.link(self._link_spec())
            if link.writer is not None:
                moved.bind("writer", link.writer)
            if link.reader is not None:
                moved.bind("reader", link.reader)
            self.link, self._transport = moved, transport
            return
        raise ChannelTopologyError(
            f"channel {self._name!r} cannot be moved to {transport!r}: {reason}. "
            f"Place the processes before they use it, or make it with transport=",
            channel_name=self._name,
        )

    def share(self) -> dict[str, Any]:
        """A plain description (str, int, list, dict) with which :meth:`open` opens the other end elsewhere.

        Raises:
            NotTransportable: it lives in memory; says what to do.
        """
        self.mark_outside()
        return self.described()

    def described(self) -> dict[str, Any]:
        """As :meth:`share`, for a process that is counted among those that have the channel. For the engine."""
        return {
            "transport": self._transport.scheme,
            "name": self._name,
            "capacity": self._capacity,
            "type": to_wire(self._type.spec),
            "link": self.link.share(),
        }

    @classmethod
    def open(cls, shared: Mapping[str, Any], *, transport: Transport) -> Chan[Any]:
        """The other end of a channel that was made in another Python process.

        No module is imported for its type: where a class of it is not known here, anything is let through here, and
        the end that knows it checks.

        Args:
            shared: what :meth:`share` gave there.
            transport: how to reach it; not taken from ``shared``, which came over the wire.

        Raises:
            WireError: it is not what :meth:`share` gives.
            ChannelTopologyError: it is not a channel of this transport.
        """
        match shared:
            case {
                "transport": str(scheme),
                "name": str(name),
                "capacity": int(capacity),
                "type": wire,
                "link": dict(link),
            }:
                type_spec = from_wire(wire)
            case _:
                raise WireError(f"not what Chan.share() gives: {shared!r:.200}")
        if scheme != transport.scheme:
            raise ChannelTopologyError(
                f"channel {name!r} runs on {scheme!r}, and was to be opened with {transport!r}", channel_name=name
            )
        made: Chan[Any] = cls.__new__(cls)
        made._set_up(type_spec, name, capacity, transport)
        made._opened = True
        made.link = transport.open(made._link_spec(), link)
        return made

    def __reduce__(self) -> NoReturn:
        raise NotTransportable(
            f"channel {self._name!r} cannot be pickled: it is an end of something. "
            f"Send Chan.share(), and open it there with Chan.open(shared, transport=...)"
        )


class _Alias(types.GenericAlias):
    """``Chan[T]``: an annotation, and a way to make a channel of that type."""

    def __call__(self, name: str | None = None, **options: Any) -> Any:
        made: Any = self.__origin__
        return made(self.__args__[0], name=name, **options)
