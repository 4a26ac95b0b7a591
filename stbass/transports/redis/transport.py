"""Channels over Redis lists."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from stbass._channels.transport import LinkSpec, Transport
from stbass._values.checks import is_between
from stbass._values.ids import new_id
from stbass._values.texts import value_text
from stbass.errors import ChannelTopologyError, ConfigurationError, StbassError
from stbass.transports.redis.address import RedisAddress, hide_password
from stbass.transports.redis.buffered import Buffered
from stbass.transports.redis.client import Client, Journal, Options
from stbass.transports.redis.keys import base_key
from stbass.transports.redis.link import RedisLink
from stbass.transports.redis.loops import PerLoop
from stbass.transports.redis.rendezvous import Rendezvous
from stbass.wire import LIMIT, Signer

__all__ = ["RedisTransport", "Scope"]

_log = logging.getLogger(__name__)

_LEAVE_SECONDS = 5.0
_LONGEST_SECONDS = 100_000_000
"""How long to wait until the server knows that an end is given up; after that its lease ends."""


class RedisTransport(Transport):
    """Channels between processes in different Python processes, on any machines that reach the same Redis.

    A channel lives as long as a Python process that has opened it does. Both ends of a channel find each other by
    :meth:`stbass.Chan.share` (a channel that is bound to a process travels with it), or by its name if both have made
    it with the same ``namespace``.

    Args:
        url: ``redis://``, ``rediss://``, ``unix://`` or Sentinel, as Celery takes it; or a ``RedisAddress``, which has
            its prefix and options in it.
        prefix: what every key and every name of publish/subscribe begins with, as Celery's ``global_keyprefix``.
        options: how connections are made, as Celery's transport options, e.g. ``{"master_name": "main"}`` for Sentinel.
        lease: seconds after which an end that is not heard of is given up.
        ttl: seconds after which Redis forgets a channel of which all ends were killed.
        give_up: seconds for which a connection that was lost is tried again; then what waits fails.
        known: whether the server was there a moment ago: then the first connection is tried again, too.
        namespace: channels of the same name are the same channel, in every transport with this namespace.
        signing_key: sign values, and refuse those that are not signed with this key.
        max_message_bytes: how large a value may be on the wire.

    Raises:
        ConfigurationError: an argument is out of range.
    """

    scheme: ClassVar[str] = "redis"

    def __init__(
        self,
        url: str | RedisAddress,
        *,
        prefix: str | None = None,
        options: Mapping[str, Any] | None = None,
        lease: float = 10.0,
        ttl: float = 86400.0,
        give_up: float = 30.0,
        namespace: str | None = None,
        signing_key: str | bytes | Signer | None = None,
        max_message_bytes: int = LIMIT,
        known: bool = False,
    ) -> None:
        given: Any = url
        if not isinstance(given, (str, RedisAddress)):
            raise ConfigurationError(f"RedisTransport takes the URL of a Redis server, got {url!r}")
        if not isinstance(url, RedisAddress):
            own = {} if prefix is None else {"global_keyprefix": prefix}
            url = RedisAddress.parse(url, "url", {**(options or {}), **own})
        elif prefix is not None or options is not None:
            raise ConfigurationError("RedisTransport: a RedisAddress has its prefix and options; give it no others")
        value: Any
        for name, value, least in (("lease", lease, 0.05), ("ttl", ttl, 0.1), ("give_up", give_up, 0)):
            if not is_between(value, least, _LONGEST_SECONDS):
                raise ConfigurationError(
                    f"RedisTransport({name}={value_text(value)}): a number of seconds from {least:g} to"
                    f" {_LONGEST_SECONDS:,}"
                )
        if ttl < 2 * lease:
            raise ConfigurationError(f"RedisTransport(ttl={ttl!r}): at least twice the lease, which is {lease!r}")
        value = max_message_bytes
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigurationError(f"RedisTransport(max_message_bytes={max_message_bytes!r}): a number of bytes")
        value = namespace
        if value is not None and (not isinstance(value, str) or not value):
            raise ConfigurationError(f"RedisTransport(namespace={namespace!r}): a text that is not empty, or None")
        signer = Signer(signing_key) if isinstance(signing_key, (str, bytes)) else signing_key
        self._options = Options(
            url, float(lease), float(ttl), float(give_up), namespace, signer, max_message_bytes, known
        )
        self._clients: PerLoop[Client] = PerLoop()

    @property
    def by_name(self) -> bool:  # type: ignore[override]
        """Whether it has a namespace."""
        return self._options.namespace is not None

    def link(self, spec: LinkSpec) -> RedisLink:
        """A new channel; with a namespace, the channel of that name."""
        namespace = self._options.namespace
        return self._end(spec, new_id() if namespace is None else spec.name, namespace, creates=True)

    def open(self, spec: LinkSpec, shared: Mapping[str, Any]) -> RedisLink:
        """See :meth:`Transport.open`.

        Raises:
            ChannelTopologyError: it is not what :meth:`RedisLink.share` gives.
        """
        match shared:
            case {"id": str(channel_id), "new": bool(new), "namespace": (None | str()) as namespace} if channel_id:
                lasting = shared.get("lasting") is True
                return self._end(spec, channel_id, namespace, creates=new, loose=new and not lasting, lasting=lasting)
        raise ChannelTopologyError(
            f"channel {spec.name!r} cannot be opened: {dict(shared)!r:.100} does not name a channel in Redis",
            channel_name=spec.name,
        )

    def _end(self, spec: LinkSpec, channel_id: str, namespace: str | None, **options: bool) -> RedisLink:
        protocol = Buffered if spec.capacity else Rendezvous
        return protocol(spec, self._options, self.client, repr(self), channel_id, namespace, **options)

    def reaches(self, other: Transport) -> bool:
        """Whether that one's channels are in the same Redis."""
        return isinstance(other, (RedisTransport, Scope)) and other.options.address == self._options.address

    @property
    def options(self) -> Options:
        """What it was made with."""
        return self._options

    def client(self) -> Client:
        """This event loop's part.

        Raises:
            RuntimeError: there is no running event loop.
        """
        return self._clients.get(lambda: Client(self._options))

    async def aclose(self) -> None:
        """Leave the channels that this event loop has open, and close its connections.

        Channels are not closed by that; one that nobody else has open is gone. What was sent and received is known to
        Redis before that.

        Raises:
            StbassError: as :meth:`stbass.Chan.flush`; everything was left.
        """
        client = self._clients.pop()
        if client is not None:
            try:
                await client.flush()
            finally:
                await client.aclose()

    @property
    def here(self) -> str:
        """What this event loop's connection is known by; see :meth:`connected`."""
        return self.client().id

    async def connected(self, other: str) -> bool:
        """Whether another event loop is connected to the server now, by its :attr:`here`: one that died is not.

        A connection that was cut is made anew at once, so it takes two looks, some time apart, to be sure of the end.

        Raises:
            BackendUnavailableError: the server cannot be reached from here.
        """
        return await self.client().connected(other)

    async def purge(self, ids: Iterable[str]) -> None:
        """End channels, whatever lies in them: nothing of them is left, and whoever has one open finds it closed.

        Args:
            ids: of channels without a namespace, as ``channel.share()["link"]["id"]`` says.

        Raises:
            BackendUnavailableError: the server cannot be reached.
        """
        await self.client().purge([base_key(self._options.address.prefix, one) for one in ids])

    def scope(self, user: str = "") -> Scope:
        """A transport that uses this one's connections, and whose ``aclose`` leaves what was opened through it.

        Args:
            user: the process that it is for: errors for others that want its place name it.
        """
        return Scope(self, user)

    def __repr__(self) -> str:
        return f"RedisTransport({hide_password(self._options.address.url)!r})"


class Scope(Transport):
    """What one process of many has opened, so that it can be left when that one ends."""

    scheme: ClassVar[str] = "redis"

    def __init__(self, transport: RedisTransport, user: str = "") -> None:
        self._transport = transport
        self._user = user
        self._journal = Journal(is_process=True)
        self._opened: list[RedisLink] = []
        self._waiting: set[asyncio.Task[None]] = set()

    @property
    def options(self) -> Options:
        """What the transport was made with."""
        return self._transport.options

    def reaches(self, other: Transport) -> bool:
        """See :meth:`RedisTransport.reaches`."""
        return self._transport.reaches(other)

    def link(self, spec: LinkSpec) -> RedisLink:
        """See :meth:`RedisTransport.link`."""
        made = self._transport.link(spec)
        made.state.user, made.state.own_journal = self._user, self._journal
        self._opened.append(made)
        return made

    def open(self, spec: LinkSpec, shared: Mapping[str, Any]) -> RedisLink:
        """See :meth:`RedisTransport.open`."""
        made = self._transport.open(spec, shared)
        made.state.user, made.state.own_journal = self._user, self._journal
        self._opened.append(made)
        return made

    async def connected(self, other: str) -> bool:
        """See :meth:`RedisTransport.connected`."""
        return await self._transport.connected(other)

    async def purge(self, ids: Iterable[str]) -> None:
        """See :meth:`RedisTransport.purge`."""
        await self._transport.purge(ids)

    @property
    def used(self) -> bool:
        """Whether anything was opened."""
        return bool(self._opened)

    @property
    def uncertain(self) -> bool:
        """Whether something was sent or received through it that Redis may not know of."""
        return bool(self._waiting) or any(link.uncertain for link in self._opened)

    def when_certain(self, then: Callable[[], None]) -> None:
        """Call a function when Redis knows everything that was sent and received so far. Never, if that fails."""

        async def wait() -> None:
            try:
                await self.flush()
            except StbassError as error:
                _log.warning("what was to follow what channels did does not: %s", error)
            else:
                then()

        task = asyncio.get_running_loop().create_task(wait(), name="stbass-channels-flush")
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def flush(self) -> None:
        """Return when Redis knows everything that was sent and received through it.

        Raises:
            StbassError: as :meth:`stbass.Chan.flush`.
        """
        for link in list(self._opened):
            await link.flush()

    async def aclose(self) -> None:
        """Leave what was opened; what was sent and received is known to Redis before that.

        Raises:
            StbassError: as :meth:`stbass.Chan.flush`; everything was left.
        """
        try:
            if self._journal.broken_off:
                self._journal.broken_off = False
                for link in list(self._opened):
                    await link.close_after_all()
            await self.flush()
            if self._waiting:
                await asyncio.wait(self._waiting)
        finally:
            await self.leave()

    def belongs_to(self, runs: Sequence[tuple[str, int]]) -> None:
        """Say what the process is a part of: it takes the places of earlier attempts, and a later one takes its.

        Args:
            runs: the process's own run and those around it: what each is known by, and which attempt at it this is.
        """
        self._journal.runs = runs

    def break_off(self) -> None:
        """The process is about to be cancelled, and is run again elsewhere.

        The value that it is at work on is then received there once more.
        """
        self._journal.broken_off = True

    async def leave(self) -> None:
        """Leave what was opened, whatever becomes of what was sent and received; nobody can use it after that."""
        opened, self._opened = self._opened, []
        left = [future for link in opened if (future := link.leave(final=True)) is not None]
        if left:
            await asyncio.wait(left, timeout=_LEAVE_SECONDS)
        # A task that the process has left behind must not join a channel anew: nobody would ever leave it.
        self._journal.ended = True

    def __repr__(self) -> str:
        return repr(self._transport)
