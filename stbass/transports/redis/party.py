"""One open end of a channel, as the server knows it: a party of the channel, its calls, and how it joins and leaves."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from asyncio import Future
from typing import TYPE_CHECKING, Any

from stbass._channels.transport import Link, LinkSpec
from stbass.errors import (
    BackendUnavailableError,
    ChannelClosedError,
    ChannelTopologyError,
    StateLostError,
    StbassError,
)
from stbass.transports.redis import scripts
from stbass.transports.redis.client import Client, Journal
from stbass.transports.redis.connection import Answer
from stbass.transports.redis.entries import Codec
from stbass.transports.redis.keys import base_key

if TYPE_CHECKING:
    from stbass.transports.redis.scripts import Script
    from stbass.transports.redis.transport import RedisTransport

__all__ = ["Party"]


class Party(Link):
    """One open end of a channel in Redis, without what it does there.

    Args:
        transport: what it was made by.
        channel_id: which channel.
        namespace: in which it is found by its name, if it is.
        creates: whether the channel comes into being if it is not there; else that means that it is closed.
        loose: whether it was shared before it was there: then this end may be over before the other one comes, which
            must find it closed.
    """

    _client: Client | None = None

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
        self._loose = loose
        self._shared = False
        self._heads: dict[Script, bytes] = {}
        self.own_journal: Journal | None = None
        """Of the process that it was opened for, if it is not the event loop's."""
        self.user = ""
        """The process that it was opened for, if that is known."""
        self.joined = False
        """Whether the server was told of this end."""
        self.left = False
        self.vain = False
        """Whether the channel is gone, so that nothing can come of it any more."""
        self._lost: StbassError | None = None
        self._run_id = ""
        self.type_name = spec.type_name.encode("utf-8", "surrogatepass")
        self.codec = Codec(spec.name, channel_id, self.options.signer, self.options.max_message_bytes)

    @abstractmethod
    def on_new_party(self, client: Client) -> int:
        """It is another party from now on, which holds nothing; gives its number."""

    @abstractmethod
    def on_joined(self, closed: bool, acked: int, sent: int, got: int) -> None:
        """The server knows this end, and tells what has become of the channel so far."""

    @abstractmethod
    def told_closed(self) -> None:
        """The channel is closed."""

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
    def who(self) -> str:
        """Where this end is, and of which process, for messages."""
        return f"{self.here.who} (process {self.user!r})" if self.user else self.here.who

    @property
    def here(self) -> Client:
        """The event loop's part, also when it is being closed."""
        return self.client if self._client is None else self._client

    def touch(self) -> None:
        """Somebody wants to use this end: if the event loop or its connections are others by now, join anew."""
        client = self._client
        if client is None or client.closing or client.loop is not asyncio.get_running_loop():
            if client is not None and not client.closing and client.loop.is_running():
                # Here, in another thread.
                raise ChannelTopologyError(
                    f"channel {self.name!r} is used in two event loops at the same time; open an end for the other one:"
                    f" Chan.open(channel.share(), transport=channel.transport)",
                    channel_name=self.name,
                )
            self._client = None
            _ = self.client

    def _reset(self, client: Client) -> None:
        self.party = f"{client.id}.{self.on_new_party(client)}"
        key, party = self.base.encode(), self.party.encode()
        self._heads = {
            script: b"$7\r\nEVALSHA\r\n$40\r\n%b\r\n$1\r\n1\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"
            % (script.sha, len(key), key, len(party), party)
            for script in scripts.ALL
        }
        self.journal = self.own_journal or client.journal
        self.joined = False
        self.left = False

    def text(self, script: Script, *args: bytes) -> bytes:
        """A call of a script as it goes over the wire."""
        return (
            b"*%d\r\n" % (5 + len(args))
            + self._heads[script]
            + b"".join([b"$%d\r\n%b\r\n" % (len(arg), arg) for arg in args])
        )

    def goes_on(self) -> None:
        """The program does something here: it has dealt with what it received last."""
        if self.journal.in_hand is not None:
            self.here.goes_on(self.journal)

    def post(self, script: Script, *args: bytes, answer: Answer | None = None, now: bool = False) -> None:
        """Call a script; ``answer`` gets its reply or an error."""
        client = self.here
        if client.closing:
            if answer is not None:
                answer(self.transport_closed())
            return
        if client.uncommitted:
            client.commit()
        self.prepare()
        if now and client.is_alone():
            client.pipe.call_now((self.text(script, *args), answer))
        else:
            client.pipe.call(self.text(script, *args), answer)

    def prepare(self) -> None:
        """Something is about to be asked: the first contact makes this end known."""
        if not self.joined:
            self._join(self.here)

    def transport_closed(self) -> BackendUnavailableError:
        """The error for what was under way when the transport was closed."""
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
        self.joined = True
        options, spec = self.options, self.spec

        def answered(reply: Any) -> None:
            if not isinstance(reply, list):
                return  # whatever was asked after it gets the same error
            if reply[0] == b"ok":
                self._run_id = client.pipe.run_id
                _, closed, _, acked, sent, got = reply
                self.on_joined(bool(closed), acked, sent, got)
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

    async def known(self) -> None:
        """Return when the server knows this end."""
        if not self.joined:
            await self.ask(scripts.SYNC, self.lease, self.ttl)

    def closed_error(self) -> StbassError:  # type: ignore[override]
        """Why an operation on this channel is refused."""
        if self._lost is not None:
            return StateLostError(str(self._lost))
        return ChannelClosedError(f"channel {self.name!r} is closed", channel_name=self.name)
