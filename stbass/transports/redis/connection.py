"""Connections to Redis that never wait for an answer before the next command.

redis-py's own connections wait for each answer in turn, which is half of what a rendezvous may cost. Here commands of
one turn of the event loop go out in one write, answers are handed to callbacks in order, and pushed messages arrive on
the same connection (RESP3). Parsing is hiredis's; addresses, TLS and Sentinel are redis-py's.

What the server refuses for now (see :mod:`.trouble`) was not done. A call that waits is made again, in order, when
:meth:`Pipe.resume` says so; any other is answered with :data:`LATER`, and it is for the caller to ask again: so that a
caller who does not want it any more, because he was cancelled, knows that it has not happened.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import hiredis
import redis

from stbass.errors import BackendUnavailableError, StbassError
from stbass.transports.redis.address import NO_CLUSTER, RedisAddress, find_endpoint, is_cluster
from stbass.transports.redis.scripts import ALL
from stbass.transports.redis.trouble import Trouble, Vigil, trouble_of

__all__ = ["LATER", "Answer", "Pipe", "command"]

_log = logging.getLogger(__name__)

OLDEST = (6, 2)
_PAUSES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5)
_SILENT_TRIES = 2
"""How often a server is tried once more from which there was no answer, if it is not known to be there."""
_UNWELCOME = ("NOPERM", "NOAUTH", "WRONGPASS")

Answer = Callable[[Any], None]
"""Called with what the server answered, or with the error: a ``ReplyError`` or a ``StbassError``, or with ``LATER``."""


class _Later(enum.Enum):
    LATER = "the server refuses it for now, and has not done it"


LATER: Final = _Later.LATER
"""The answer to a call that does not wait: the server refuses it for now, and has not done it."""


def command(*parts: bytes) -> bytes:
    """A command as it goes over the wire."""
    return b"*%d\r\n" % len(parts) + b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts])


def _keep_alive(transport: asyncio.Transport, address: RedisAddress) -> None:
    connected = transport.get_extra_info("socket")
    if (
        connected is None
        or connected.family == getattr(socket, "AF_UNIX", None)
        or not address.options.socket_keepalive
    ):
        return
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in address.options.socket_keepalive_options:
        connected.setsockopt(socket.IPPROTO_TCP, option, value)


def _reason(error: BaseException) -> str:
    return str(error) or ("no answer" if isinstance(error, TimeoutError) else type(error).__name__)


class _Refused(Exception):
    """The server answered, and trying again will not help."""


class _RefusedForNow(Exception):
    """The server answered, and trying again will help some time."""


class Pipe(asyncio.Protocol):
    """One connection, opened when it is first used.

    Args:
        address: of the server.
        on_push: called with each pushed message.
        on_up: called when a connection stands that is not the first.
        on_give_up: called with the error when a lost connection could not be made anew.
        on_down: called when the connection is lost. With it, commands that were not answered get the error; without,
            the connection is made anew and they are sent again.
        on_deaf: called when the server did not answer, and the connection is made anew.
        on_refused: called with a command and the error when the server refuses it for now; False: it is an error like
            any other.
        vigil: what tells that the server refuses for now.
        give_up: seconds for which a lost connection is tried again.
        subscribe: the publish/subscribe channel to hear.
        known: whether the server was there a moment ago: then a connection that fails is tried again.
    """

    def __init__(
        self,
        address: RedisAddress,
        *,
        give_up: float,
        on_push: Callable[[list[Any]], None] | None = None,
        on_up: Callable[[bool], None] | None = None,
        on_give_up: Callable[[StbassError], None] | None = None,
        on_down: Callable[[], None] | None = None,
        on_deaf: Callable[[], None] | None = None,
        on_refused: Callable[[bytes, Exception], bool],
        vigil: Vigil,
        subscribe: str | None = None,
        known: bool = False,
    ) -> None:
        self.address = address
        self._give_up = give_up
        self._on_push = on_push
        self._on_up = on_up
        self._on_give_up = on_give_up
        self.on_down = on_down
        self._on_deaf = on_deaf
        self._on_refused = on_refused
        self._vigil = vigil
        self._subscribe = subscribe
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser: hiredis.Reader = hiredis.Reader()
        # What was sent, or is to be, and not answered; whether it waits until the server does it.
        self._waiting: deque[tuple[bytes, Answer | None, bool]] = deque()
        # How many of these, from the first, were sent on an earlier connection: nobody knows whether they were done.
        self._repeated = 0
        # What waits to be sent again, and what comes after it.
        self._later: deque[tuple[bytes, Answer | None, bool]] = deque()
        self.paused = False
        """Whether nothing is sent, because the server refuses for now."""
        # During the greeting: answers go there instead.
        self._greeting: asyncio.Queue[Any] | None = None
        self._out: list[bytes] = []
        self._flushing = False
        self._ready = False
        # Whether the connection is given up, and its end was not told yet.
        self._aborted = False
        self._closing = False
        self._connecting: asyncio.Task[None] | None = None
        self._known = known
        self._was_up = False
        self._heard_at = 0.0
        self._looks: asyncio.TimerHandle | None = None
        self.run_id = ""
        """Of the server's process; another one after a restart."""

    @property
    def closed(self) -> bool:
        """Whether it was given up."""
        return self._closing

    @property
    def ready(self) -> bool:
        """Whether it stands."""
        return self._ready

    @property
    def idle(self) -> bool:
        """Whether nothing is under way there."""
        return not self._waiting

    def call(self, text: bytes, answer: Answer | None = None, *, waits: bool = True) -> None:
        """Send a command, as :func:`command` made it; ``answer`` is called with the answer.

        Args:
            text: the command.
            answer: called once.
            waits: whether it is sent again while the server refuses it for now; else the answer is ``LATER``.
        """
        if self.paused:
            if waits:
                self._later.append((text, answer, True))
            elif answer is not None:
                self._loop.call_soon(answer, LATER)
            return
        self._waiting.append((text, answer, waits))
        if self._looks is None and self.on_down is None:
            self._look_later()
        if self._ready:
            self._out.append(text)
            if not self._flushing:
                self._flushing = True
                self._loop.call_soon(self._flush)
        elif self._connecting is None and not self._closing and not self._aborted:
            self._connecting = self._loop.create_task(self._connect(), name="stbass-redis-connect")

    def call_now(self, *calls: tuple[bytes, Answer]) -> None:
        """The same for commands that do not wait, and that nothing else of this turn is likely to follow.

        They are written at once, together.
        """
        if self._ready and self._transport is not None and not self._out and not self.paused:
            for text, answer in calls:
                self._waiting.append((text, answer, False))
            if self._looks is None and self.on_down is None:
                self._look_later()
            self._transport.write(b"".join([text for text, _ in calls]) if len(calls) > 1 else calls[0][0])
        else:
            for text, answer in calls:
                self.call(text, answer, waits=False)

    def resume(self) -> None:
        """Send again what the server has refused, and what was called since."""
        self.paused = False
        later, self._later = self._later, deque()
        for text, answer, waits in later:
            self.call(text, answer, waits=waits)

    def _look_later(self) -> None:
        seconds = self.address.options.socket_timeout / 2
        self._looks = self._loop.call_later(seconds, self._look, self._loop.time())

    def _look(self, since: float) -> None:
        """Something was asked: a connection on which nothing comes any more, and that is never closed, is given up."""
        self._looks = None
        if not self._waiting or not self._ready:
            return
        if self._loop.time() - max(since, self._heard_at) < self.address.options.socket_timeout / 2:
            self._look_later()
            return
        _log.warning("Redis at %s does not answer; connecting anew", self.address)
        self._abort()
        if self._on_deaf is not None:
            self._on_deaf()

    def _flush(self) -> None:
        self._flushing = False
        self.push()

    def push(self) -> None:
        """Write what was called in this turn of the event loop now, not at its end."""
        if self._out:
            if self._ready and self._transport is not None:
                self._transport.write(b"".join(self._out))
            self._out.clear()

    async def aclose(self) -> None:
        """Close it; what was not answered never is."""
        self.drop()
        if self._connecting is not None:
            await asyncio.gather(self._connecting, return_exceptions=True)

    def drop(self) -> None:
        """Close it without waiting."""
        self._closing = True
        self._ready = False
        if self._looks is not None:
            self._looks.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
        if self._transport is not None:
            self._transport.abort()

    def reset(self) -> None:
        """Give up the connection, as if it had been lost."""
        self._abort()

    # What the event loop calls -------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """See :class:`asyncio.Protocol`."""
        parser = self._parser
        parser.feed(data)
        self._heard_at = self._loop.time()
        try:
            while (reply := parser.gets()) is not False:
                if type(reply) is hiredis.PushNotification:
                    if self._on_push is not None:
                        self._on_push(reply)
                elif self._greeting is not None:
                    self._greeting.put_nowait(reply)
                elif type(reply) is hiredis.ReplyError and str(reply).startswith("NOSCRIPT"):
                    # The scripts are not there any more: greet it again.
                    self._abort()
                    return
                else:
                    text, answer, waits = self._waiting.popleft()
                    if self._repeated:
                        self._repeated -= 1
                        waits = True
                    if type(reply) is hiredis.ReplyError and trouble_of(reply) is Trouble.FOR_NOW:
                        self._refused(reply, text, answer, waits)
                    elif answer is not None:
                        answer(reply)
        except hiredis.ProtocolError as error:
            _log.warning("Redis at %s does not speak the protocol (%s); connecting anew", self.address, error)
            self._abort()

    def _refused(self, error: Exception, text: bytes, answer: Answer | None, waits: bool) -> None:
        waited_out = self._on_refused(text, error)
        # What came before it is not there, so it was not done either, and who made the call has to send that first.
        overtook = str(error).startswith("TRYAGAIN")
        if waited_out and waits and not overtook and self.on_down is None:
            self._later.append((text, answer, True))
        elif answer is not None:
            answer(LATER if waited_out else error)

    def _abort(self) -> None:
        if self._transport is not None:
            self._aborted = self._aborted or self._ready
            self._not_ready()
            self._transport.abort()

    def _not_ready(self) -> None:
        if self._ready:
            self._ready = False
            self._repeated = len(self._waiting)

    def connection_lost(self, error: Exception | None) -> None:
        """See :class:`asyncio.Protocol`."""
        self._transport = None
        was_ready = self._ready or self._aborted
        self._not_ready()
        self._aborted = False
        self._out.clear()
        if self._greeting is not None:
            self._greeting.put_nowait(error or ConnectionResetError("the connection was closed"))
        if self._closing or not was_ready:
            return
        if self.on_down is not None:
            self._closing = True
            self._waiting.clear()
            self.on_down()
        elif self._connecting is None:
            self._connecting = self._loop.create_task(self._connect(), name="stbass-redis-connect")

    # Connecting ----------------------------------------------------------------------------------

    async def _connect(self) -> None:
        began = self._loop.time()
        attempt = 0
        refused = False
        while True:
            try:
                async with asyncio.timeout(self.address.options.socket_connect_timeout):
                    await self._open()
                break
            except _RefusedForNow as error:
                self._abort()
                refused = True
                await asyncio.sleep(self._vigil.pause(error))
                # It is there.
                began, attempt = self._loop.time(), 0
                continue
            except (OSError, TimeoutError, redis.RedisError, hiredis.HiredisError, _Refused) as error:
                self._abort()
                if self._known:
                    # (Rules that let us do nothing may be just changing.)
                    passes = not isinstance(error, _Refused) or any(word in str(error) for word in _UNWELCOME)
                    again = passes and self._loop.time() - began < self._give_up
                else:
                    # Perhaps it has just started, and hung up; or something between has forgotten the connection.
                    hung_up = isinstance(error, ConnectionResetError) and attempt < len(_PAUSES)
                    again = hung_up or (isinstance(error, TimeoutError) and attempt < _SILENT_TRIES)
                if not again:
                    self._connecting = None
                    self._fail(error, self._loop.time() - began)
                    return
                if attempt == 0:
                    _log.warning("no connection to Redis at %s (%s); connecting anew", self.address, _reason(error))
            # Nobody tells when a server is back: it can only be tried, ever more slowly.
            await asyncio.sleep(_PAUSES[min(attempt, len(_PAUSES) - 1)])
            attempt += 1
        self._connecting = None
        again, self._was_up = self._was_up, True
        self._known = self._ready = True
        if refused:
            self._vigil.over()
        if self._waiting and self._transport is not None:
            self._transport.write(b"".join([text for text, *_ in self._waiting]))
        if again and self._on_up is not None:
            self._on_up(self._restarted)

    def _fail(self, error: BaseException, seconds: float) -> None:
        reason = _reason(error)
        tried = f", tried for {seconds:.0f} s" if self._known else ""
        problem: StbassError
        if isinstance(error, _Refused):
            problem = BackendUnavailableError(f"Redis at {self.address} cannot be used for channels: {reason}")
        else:
            outcome = ", so whether the last operations took place is not known" if self._was_up else ""
            problem = BackendUnavailableError(
                f"Redis at {self.address} cannot be reached ({reason}{tried}){outcome}; start it, or correct the URL"
            )
        was_up, self._was_up, self._known = self._was_up, False, False
        waiting, self._waiting = [*self._waiting, *self._later], deque()
        self._later.clear()
        self._repeated = 0
        if self.on_down is not None and not self._closing:
            self._closing = True
            self.on_down()
        for _, answer, _ in waiting:
            if answer is not None:
                answer(problem)
        if was_up and self._on_give_up is not None:
            self._on_give_up(problem)

    async def _open(self) -> None:
        where = await find_endpoint(self.address)
        self._parser = hiredis.Reader()
        self._greeting = asyncio.Queue()
        try:
            if where.path is not None:
                transport, _ = await self._loop.create_unix_connection(lambda: self, where.path)
            else:
                transport, _ = await self._loop.create_connection(
                    lambda: self,
                    where.host,
                    where.port,
                    ssl=where.tls,
                    server_hostname=where.host if where.tls else None,
                )
                connection = transport.get_extra_info("socket")
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._transport = transport
            _keep_alive(transport, self.address)
            hello = [b"HELLO", b"3"]
            if where.password is not None:
                hello += [b"AUTH", (where.username or "default").encode(), where.password.encode()]
            greeting = [hello]
            if where.database:
                greeting.append([b"SELECT", b"%d" % where.database])
            greeting.append([b"INFO", b"server"])
            greeting += [[b"SCRIPT", b"LOAD", script.text] for script in ALL]
            if self._subscribe is not None:
                greeting.append([b"SUBSCRIBE", self._subscribe.encode()])
                # A subscription is answered by a push; what comes after it says that it stands.
                greeting.append([b"PING"])
            await self._greet(greeting)
        finally:
            self._greeting = None

    async def _greet(self, greeting: Sequence[list[bytes]]) -> None:
        assert self._transport is not None
        assert self._greeting is not None
        # Who it is first: an old server is told from one that refuses something.
        self._transport.write(b"".join([command(*parts) for parts in greeting]))
        for parts in greeting:
            if parts[0] == b"SUBSCRIBE":
                continue
            reply = await self._greeting.get()
            if isinstance(reply, OSError):
                raise reply
            if isinstance(reply, Exception):
                name = parts[0].decode()
                if trouble_of(reply) is Trouble.FOR_NOW and not any(word in str(reply) for word in _UNWELCOME):
                    raise _RefusedForNow(str(reply))
                if name == "HELLO" and "unknown command" in str(reply):
                    raise _Refused("it is too old; Redis 6.2 or Valkey is needed")
                raise _Refused(f"it refused {name}: {reply}")
            if parts[0] == b"INFO":
                self._identify(reply)

    def _identify(self, info: Any) -> None:
        text = bytes(info).decode("utf-8", "replace") if isinstance(info, bytes) else str(info)
        fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        version = fields.get("redis_version", "")
        numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
        if numbers < OLDEST:
            raise _Refused(
                f"it is version {version or 'unknown'}, and the blocking move of channels needs Redis 6.2 or Valkey"
            )
        if is_cluster(text):
            raise _Refused(NO_CLUSTER)
        run_id = fields.get("run_id", "")
        self._restarted = self.run_id not in ("", run_id)
        self.run_id = run_id

    _restarted = False
