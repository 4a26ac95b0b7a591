"""Connections to Redis as Celery's settings name it: ``redis://``, ``rediss://``, ``unix://``, or Sentinel."""

from __future__ import annotations

import asyncio
import functools
import re
import socket
import ssl
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import redis
import redis.asyncio
from redis.asyncio.sentinel import MasterNotFoundError as AsyncMasterNotFoundError
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from stbass._values.checks import is_between
from stbass._values.texts import value_text
from stbass.errors import BackendUnavailableError, ConfigurationError

__all__ = [
    "CONNECT_TIMEOUT",
    "KEEPALIVE",
    "NOT_LET_IN",
    "NO_CLUSTER",
    "SCHEMES",
    "ConnectionOptions",
    "Endpoint",
    "RedisAddress",
    "find_endpoint",
    "hide_password",
    "is_cluster",
    "unavailable",
]

CONNECT_TIMEOUT = 4.0
"""Seconds until a server that does not answer counts as unreachable."""
KEEPALIVE = {
    getattr(socket, name): value
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
    if hasattr(socket, name)
}
"""So that a firewall does not forget a connection on which nothing is said, and one that is gone is noticed."""
_PING_SECONDS = 2.0
"""For an answer on a connection that was idle: a server that is there gives it at once."""
NO_CLUSTER = "it is a Redis Cluster, which stbass does not support; use a single server, or Sentinel for failover"
NOT_LET_IN = "does not accept the user name and password that it is given"
_MODES = ("redis_mode", "server_mode")
"""Where a server says whether it is a cluster's: Redis, and Valkey from 8.0 on."""
_SIGN_OF_LIFE = 5.0
_LARGEST = 1_000_000
"""Of a number among the transport options."""
_DATABASE = re.compile(r"/?\d*/?")
_WAIT_FOR_CONNECTION = 30.0

SCHEMES = ("redis", "rediss", "unix", "redis+socket", "socket", "sentinel", "redis+sentinel")


def hide_password(url: str) -> str:
    """``url`` with its passwords hidden, for messages; also one that is mistyped."""
    return ";".join(map(_without_password, url.split(";")))


def _without_password(url: str) -> str:
    # Up to the last @: a password may hold one. It may also be given as a parameter.
    hidden = re.sub(r"(://[^:/@]*):.*@" if "://" in url else r"():.*@", r"\1:***@", url)
    return re.sub(r"([?&]password=)[^&#]*", r"\1***", hidden)


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """How connections are made and looked after; the names are those of Celery's transport options.

    Args:
        socket_timeout: seconds within which an answer must come (who only listens asks for a sign of life).
        socket_connect_timeout: seconds until a server that does not answer counts as unreachable.
        socket_keepalive: whether the operating system looks after connections on which nothing is said.
        socket_keepalive_options: of the socket, as pairs; by default after 10 s, then each 5 s, three times.
        health_check_interval: seconds after which a connection that was idle is tried before it is used; 0: never.
        retry_on_timeout: whether a command that was not answered in time is sent once more.
        max_connections: of one event loop to one server; who needs one waits until one is free.
    """

    socket_timeout: float = 10.0
    socket_connect_timeout: float = CONNECT_TIMEOUT
    socket_keepalive: bool = True
    socket_keepalive_options: tuple[tuple[int, int], ...] = tuple(KEEPALIVE.items())
    health_check_interval: float = 10.0
    retry_on_timeout: bool = False
    max_connections: int = 32

    @property
    def sign_of_life(self) -> float:
        """Seconds for an answer to a listener who asks whether the server is still there."""
        return min(self.socket_timeout, _SIGN_OF_LIFE)

    @classmethod
    def parse(cls, given: Mapping[str, Any], setting: str) -> ConnectionOptions:
        """Take the options that are ours out of transport options; None stands for the default.

        Raises:
            ConfigurationError: one is out of range.
        """
        chosen: dict[str, Any] = {}
        for one in fields(cls):
            value = given.get(one.name)
            if value is None:
                continue
            default = one.default
            if isinstance(default, bool):
                good, wanted = isinstance(value, (bool, int)), "True or False"
            elif isinstance(default, tuple):
                good = isinstance(value, Mapping) and all(type(part) is int for pair in value.items() for part in pair)
                value, wanted = tuple(value.items()) if good else value, "a dict of whole numbers"
            else:
                least = 0 if one.name == "health_check_interval" else 1 if one.name == "max_connections" else 0.001
                good = is_between(value, least, _LARGEST) and (one.name != "max_connections" or isinstance(value, int))
                wanted = f"a {'whole ' if one.name == 'max_connections' else ''}number from {least} to {_LARGEST:,}"
            if not good:
                raise ConfigurationError(
                    f"the transport option {one.name} of {setting} is {value_text(value)}: it must be {wanted}"
                )
            chosen[one.name] = value
        return cls(**chosen)


@dataclass(frozen=True, slots=True, repr=False)
class RedisAddress:
    """Where a Redis server is, and how to make clients of it.

    Args:
        url: as Celery takes it; several Sentinel addresses are joined with ``;``.
        master_name: of Sentinel.
        prefix: what every key and every name of publish/subscribe begins with.
        options: how connections are made.
    """

    url: str
    master_name: str | None = None
    prefix: str = ""
    options: ConnectionOptions = ConnectionOptions()

    @classmethod
    def parse(cls, url: str, setting: str, options: Mapping[str, Any] | None = None) -> RedisAddress:
        """Check ``url``, which was given as ``setting``.

        Raises:
            ConfigurationError: it is not the URL of a Redis server, or a part of it is not what it must be.
        """
        for part in url.split(";"):
            try:
                _ = urlsplit(part).port
            except ValueError:
                # What stands there may be a part of the password: it is not shown.
                raise ConfigurationError(
                    f"{setting}: the port in a URL must be a number from 0 to 65535, an address with colons stands in"
                    " brackets, and / # ? in a password are written as %2F %23 %3F"
                ) from None
        scheme = urlsplit(url.split(";")[0]).scheme
        if scheme not in SCHEMES:
            raise ConfigurationError(
                f"{setting}={hide_password(url)!r} is not a Redis URL: results, leases and checkpoints are kept"
                " in Redis; use redis://, rediss://, unix:// or sentinel://"
            )
        if "socket" not in scheme and scheme != "unix":
            for part in url.split(";"):
                if not _DATABASE.fullmatch(urlsplit(part).path):
                    raise ConfigurationError(
                        f"{setting}={hide_password(url)!r}: what stands after the host is the number of a database, as"
                        " in redis://localhost:6379/0; correct it"
                    )
        options = options or {}
        # As kombu does, which pays no heed to it with other URLs.
        master = options.get("master_name") if "sentinel" in scheme else None
        prefix = options.get("global_keyprefix") or ""
        if not isinstance(prefix, str):
            raise ConfigurationError(
                f"the transport option global_keyprefix of {setting} is {prefix!r}: it must be text"
            )
        if "sentinel" in scheme and not master:
            raise ConfigurationError(
                f"{setting} is a Sentinel URL, which needs the name of the master:"
                " set master_name in Celery's transport options, or in options= of RedisTransport"
            )
        made = cls(url, master, prefix, ConnectionOptions.parse(options, setting))
        made._check(setting)
        return made

    def _check(self, setting: str) -> None:
        """Have redis-py read it, which else does so when it connects first."""
        try:
            self.client().connection_pool.make_connection()
        except (ValueError, TypeError, redis.RedisError) as error:
            unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
            wrong = f"there is no parameter {unknown[1]!r} for such a URL" if unknown else str(error).rstrip(".")
            raise ConfigurationError(f"{setting}={hide_password(self.url)!r}: {wrong}; correct it") from None

    @property
    def database(self) -> int:
        """Number of the database on the server."""
        if self.master_name:
            return int(self._sentinels()[1].get("db", 0))
        return int(redis.connection.parse_url(self._plain_url()).get("db", 0))

    def key(self, name: str) -> str:
        """``name`` as it is in Redis."""
        return f"{self.prefix}{name}"

    def channel(self, name: str) -> str:
        """A name of publish/subscribe: these are not kept apart by database, so they carry its number."""
        return f"{self.prefix}stbass:{self.database}:{name}"

    def __repr__(self) -> str:
        return f"RedisAddress({hide_password(self.url)!r})"

    def __str__(self) -> str:
        return hide_password(self.url)

    def _plain_url(self) -> str:
        url = re.sub(r"^(redis\+socket|socket)://", "unix://", self.url).replace("virtual_host=", "db=")
        # As Celery's documentation writes it; redis-py knows the second part, in lower case.
        return re.sub(r"(?<=[?&]ssl_cert_reqs=)CERT_(\w+)", lambda found: found[1].lower(), url)

    def _sentinels(self) -> tuple[list[tuple[str, int]], dict[str, Any]]:
        hosts, kwargs = [], {}
        for part in self.url.split(";"):
            split = urlsplit(part)
            hosts.append((split.hostname or "localhost", split.port or 26379))
            if split.password:
                kwargs["password"] = split.password
            if split.path.strip("/"):
                kwargs["db"] = split.path.strip("/")
            kwargs.update({key: values[-1] for key, values in parse_qs(split.query).items()})
        return hosts, kwargs

    def _connection(self, listens: bool, kind: Any) -> dict[str, Any]:
        """What redis-py makes a connection with. A stale connection is made anew, once; there are no more retries:
        who calls knows whether a command may be sent twice."""
        options = self.options
        made: dict[str, Any] = {
            "socket_connect_timeout": options.socket_connect_timeout,
            "socket_timeout": options.socket_timeout,
            "health_check_interval": 0 if listens else options.health_check_interval,
        }
        if not self._plain_url().startswith("unix"):
            made["socket_keepalive"] = options.socket_keepalive
            made["socket_keepalive_options"] = dict(options.socket_keepalive_options)
        errors = (redis.ConnectionError, *((redis.TimeoutError,) if options.retry_on_timeout else ()))
        made["retry"] = kind(NoBackoff(), 0 if listens else 1, supported_errors=errors)
        return made

    def client(self, *, listens: bool = False) -> redis.Redis:
        """A blocking client.

        Args:
            listens: whether it is for a subscription, whose owner sees to it that it stands.
        """
        options = self._connection(listens, Retry)
        if self.master_name:
            hosts, kwargs = self._sentinels()
            sentinels: Any = _Sentinel(hosts, **options)  # type: ignore[no-untyped-call]
            found: redis.Redis = sentinels.master_for(self.master_name, **kwargs, **options)
            return found
        return redis.Redis.from_url(self._plain_url(), **options)

    def async_client(self, *, listens: bool = False) -> redis.asyncio.Redis:
        """A client for one event loop: its connections are bounded, and who needs one waits for it.

        Args:
            listens: whether it is for a subscription, whose owner sees to it that it stands.
        """
        options = self._connection(listens, redis.asyncio.retry.Retry)
        if listens:
            options["socket_timeout"] = None
        bounds = {"max_connections": self.options.max_connections}
        pool: Any
        if self.master_name:
            hosts, kwargs = self._sentinels()
            sentinels = _AsyncSentinel(hosts, **options)  # type: ignore[no-untyped-call]
            pool = _BoundedSentinelPool(self.master_name, sentinels, **{**kwargs, **options, **bounds})
        else:
            make: Any = _BoundedPool.from_url
            pool = make(self._plain_url(), **options, **bounds)
        pool.connection_class = _tried(pool.connection_class)
        return redis.asyncio.Redis.from_pool(pool)


def _not_found(asked: Any, name: str) -> str:
    """What redis-py says, but for all that it knows of its clients."""
    at = [one.connection_pool.connection_kwargs for one in asked.sentinels]
    where = ", ".join(f"{one['host']}:{one['port']}" for one in at)
    return f"no Sentinel answers at {where} that knows of a master {name!r}"


class _Sentinel(Sentinel):
    def discover_master(self, service_name: str) -> Any:
        ask: Any = super().discover_master
        try:
            return ask(service_name)
        except MasterNotFoundError:
            raise MasterNotFoundError(_not_found(self, service_name)) from None


class _AsyncSentinel(AsyncSentinel):
    async def discover_master(self, service_name: str) -> Any:
        ask: Any = super().discover_master
        try:
            return await ask(service_name)
        except AsyncMasterNotFoundError:
            raise AsyncMasterNotFoundError(_not_found(self, service_name)) from None


class _BoundedPool(redis.asyncio.ConnectionPool):
    """Connections of one event loop: who needs one when all are in use waits.

    redis-py's own pool of this kind takes locks and sets a time-out for each command, and each of its pools tries a
    connection by reading from it and tells listeners of its return: together more than half of what a command costs.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._free: int = options["max_connections"]
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._idle: list[Any] = []
        """Those that nobody uses; in use, as far as redis-py knows."""

    async def get_connection(self, *args: Any, **kwargs: Any) -> Any:
        if self._free:
            self._free -= 1
        else:
            await self._wait()
        try:
            get: Any = self.get_available_connection
            connection = self._idle.pop() if self._idle else get()
        except BaseException:
            self._hand_on()
            raise
        if connection.is_well:
            return connection
        try:
            await self.ensure_connection(connection)
        except BaseException:
            await self.release(connection)
            raise
        return connection

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """See redis-py."""
        for connection in self._idle.copy():
            await connection.disconnect()
        await super().disconnect(inuse_connections)

    async def _wait(self) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(_WAIT_FOR_CONNECTION):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self._hand_on()
            if isinstance(error, TimeoutError):
                raise redis.ConnectionError(
                    f"all {self.max_connections} connections were in use for {_WAIT_FOR_CONNECTION:g} s"
                ) from None
            raise

    async def release(self, connection: Any) -> None:
        try:
            # redis-py 6 does not know servers that ask for it.
            if getattr(connection, "should_reconnect", bool)():
                await connection.disconnect()
        finally:
            self._idle.append(connection)
            self._hand_on()

    def _hand_on(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


class _BoundedSentinelPool(_BoundedPool, SentinelConnectionPool):
    """The same to where the master is."""

    def __init__(self, service_name: str, sentinel_manager: Any, **options: Any) -> None:
        make: Any = SentinelConnectionPool.__init__
        self._free = options["max_connections"]
        self._waiting = deque()
        self._idle = []
        make(self, service_name, sentinel_manager, **options)


class _TriedConnection:
    """A connection of redis-py that is tried before it is used if it was idle, and made anew if it does not answer.

    The first one to a server tells a cluster, which would answer only some of the commands.

    redis-py sets a time-out for each command and one for each answer, which is a third of what they cost. Here one
    timer looks after the connection for as long as it is in use.
    """

    health_check_interval: float
    next_health_check: float
    _reader: Any
    _writer: Any
    _no_clusters: ClassVar[set[str]] = set()
    _asked_at: float | None = None
    """When the command was sent that has no answer yet."""
    _looks: asyncio.TimerHandle | None = None
    _deaf: redis.TimeoutError | None = None

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        connection: Any = self
        self._patience: float | None = connection.socket_timeout
        connection.socket_timeout = None

    @property
    def is_well(self) -> bool:
        """Whether it stands, as far as that can be told without asking."""
        reader: Any = self._reader
        connection: Any = self
        return connection.is_connected and not reader.at_eof() and reader.exception() is None

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """See redis-py."""
        connection: Any = self
        if not connection.is_connected:
            await connection.connect_check_health(check_health=False)
        elif check_health:
            await self.check_health()
        parent: Any = super()
        self._wait_from_now()
        try:
            await parent.send_packed_command(command, check_health=False)
        except redis.ConnectionError as error:
            raise self._deaf or error from None
        finally:
            self._asked_at = None

    async def read_response(self, *args: Any, timeout: float | None = None, **options: Any) -> Any:
        """See redis-py; who gives a ``timeout`` looks after the connection himself."""
        parent: Any = super()
        if timeout is None:
            self._wait_from_now()
        try:
            return await parent.read_response(*args, timeout=timeout, **options)
        finally:
            self._asked_at = None

    def _wait_from_now(self) -> None:
        if self._patience is not None:
            loop = asyncio.get_running_loop()
            self._asked_at = loop.time()
            if self._looks is None:
                self._looks = loop.call_at(self._asked_at + self._patience, self._look)

    def _look(self) -> None:
        self._looks = None
        if self._asked_at is None or self._patience is None:
            return
        loop = asyncio.get_running_loop()
        due = self._asked_at + self._patience
        if loop.time() < due:
            self._looks = loop.call_at(due, self._look)
            return
        self.give_up(f"no answer for {self._patience:g} s")

    def give_up(self, reason: str) -> None:
        """End the connection, on which nothing comes any more: who reads or writes there gets a time-out error."""
        self._deaf = redis.TimeoutError(reason)
        if self._reader is not None:
            self._reader.set_exception(self._deaf)
            self._writer.transport.abort()

    async def connect(self) -> None:
        """See redis-py.

        Raises:
            BackendUnavailableError: the server is part of a cluster.
        """
        kind: Any = super()
        self._deaf = None
        await kind.connect()
        connection: Any = self
        where = repr(connection.repr_pieces())
        if where in self._no_clusters:
            return
        await connection.send_command("INFO", "server", check_health=False)
        try:
            info = await connection.read_response()
        except redis.ResponseError:
            # Not everybody may ask; then the commands will tell.
            info = b""
        if is_cluster(info):
            await connection.disconnect(nowait=True)
            raise BackendUnavailableError(f"Redis at {where} cannot be used: {NO_CLUSTER}")
        self._no_clusters.add(where)

    async def check_health(self) -> None:
        connection: Any = self
        now = asyncio.get_running_loop().time()
        if not self.health_check_interval or now <= self.next_health_check:
            return
        try:
            async with asyncio.timeout(_PING_SECONDS):
                await connection.send_command("PING", check_health=False)
                await connection.read_response()
        except (redis.RedisError, OSError, TimeoutError):
            await connection.disconnect(nowait=True)
            self.next_health_check = now + self.health_check_interval
            await connection.connect()


@functools.cache
def _tried(kind: type) -> type:
    return type(f"Tried{kind.__name__}", (_TriedConnection, kind), {})


@dataclass(frozen=True, slots=True, repr=False)
class Endpoint:
    """Where to connect now, and what to say first."""

    host: str
    port: int
    path: str | None
    tls: ssl.SSLContext | None
    username: str | None
    password: str | None
    database: int


async def find_endpoint(address: RedisAddress) -> Endpoint:
    """What redis-py makes of an address; of a Sentinel address, where the master is now.

    Raises:
        redis.RedisError: no Sentinel knows.
        OSError: none can be reached.
    """
    pool: Any = address.async_client().connection_pool
    # Not opened: it only tells what the URL says.
    parsed: Any = pool.connection_class(**pool.connection_kwargs)
    host, port = getattr(parsed, "host", ""), int(getattr(parsed, "port", 0) or 0)
    if address.master_name:
        host, port = await pool.get_master_address()
    context = getattr(parsed, "ssl_context", None)
    return Endpoint(
        host,
        port,
        getattr(parsed, "path", None),
        None if context is None else context.get(),
        parsed.username,
        parsed.password,
        int(parsed.db or 0),
    )


def is_cluster(info: Any) -> bool:
    """Whether the answer to ``INFO server``, as text or as redis-py reads it, is that of a node of a cluster."""
    if isinstance(info, dict):
        return any(info.get(name) == "cluster" for name in _MODES)
    text = info.decode("utf-8", "replace") if isinstance(info, bytes) else str(info)
    return any(f"{name}:cluster" in text for name in _MODES)


def unavailable(address: RedisAddress, doing: str, error: BaseException) -> BackendUnavailableError:
    """The error for a server that cannot be reached, or that refuses."""
    if isinstance(error, redis.AuthenticationError):
        return BackendUnavailableError(f"{doing}: Redis at {address} {NOT_LET_IN} ({error}); correct them in its URL")
    if isinstance(error, redis.ResponseError):
        return BackendUnavailableError(f"{doing}: Redis at {address} refuses ({error}); see what the server lacks")
    if isinstance(error, BackendUnavailableError):
        return BackendUnavailableError(f"{doing}: {error}")
    return BackendUnavailableError(
        f"{doing}: Redis at {address} cannot be reached ({error}); start it, or correct the URL"
    )
