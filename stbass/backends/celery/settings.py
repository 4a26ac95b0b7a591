"""What producers and workers of one fleet agree on, kept with the Celery application."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property, lru_cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from stbass._engine.registry import BackendRegistry
from stbass._values.checks import is_between
from stbass._values.limits import Limit, limits_of
from stbass._values.texts import value_text
from stbass.backends.celery.keys import FleetKeys
from stbass.backends.celery.refusals import Refusals
from stbass.errors import ConfigurationError
from stbass.transports.redis.address import SCHEMES, RedisAddress, hide_password
from stbass.transports.redis.loops import PerLoop

if TYPE_CHECKING:
    from stbass.transports.redis.transport import RedisTransport
    from stbass.wire.signing import Signer

__all__ = [
    "CALL",
    "EXECUTE",
    "LARGEST_MESSAGE",
    "LONGEST_GRACE",
    "LONGEST_LEASE",
    "QUEUE_RULE",
    "SHORTEST_LEASE",
    "FleetSettings",
    "FleetState",
    "PlainConf",
    "fleet_of",
    "included",
    "is_queue",
    "read_settings",
    "worker_processes",
]

EXECUTE = "stbass.execute"
"""Name of the Celery task that runs a process."""
CALL = "stbass.call"
"""Name of the Celery task that runs a process of a canvas or a schedule."""

MAX_MESSAGE_BYTES = 16 * 2**20
LARGEST_MESSAGE = 512 * 2**20
"""Bytes: a text in Redis has no more."""
SHORTEST_LEASE = 0.1
LONGEST_LEASE = 86400.0
LONGEST_GRACE = 86400.0
_CHANNEL_TTL = 86400.0
_LONGEST_EXPIRY = 3e9
_LONGEST_QUEUE = 1000
QUEUE_RULE = (
    "a queue's name has at most 1,000 characters, at least one, no commas and no control characters, and neither begins"
    " nor ends with a space: a worker could not be told to consume it"
)


@dataclass(frozen=True)
class FleetSettings:
    """Settings of a fleet, read from the application's configuration once.

    Keys there that are not Celery's start with ``stbass_``.

    Args:
        backend: where results, leases and checkpoints are.
        broker: where the queues are if the broker is Redis too, else None (messages then go through kombu).
        include: modules whose processes a worker may run.
        functions: modules whose public functions a worker may call.
        signer: signs messages and results, or None.
        broker_prefix: what kombu puts before its keys.
        unacked: kombu's keys for messages that are taken and not acknowledged.
        max_message_bytes: largest message and result.
        result_ttl: seconds that results are kept; 0 means for ever.
        lease: seconds after which a worker that is not heard of is lost (unless the producer says otherwise).
        grace: seconds that running processes get to end when the worker is told to stop.
        limits: of queues, where nobody has set others.
    """

    backend: RedisAddress
    broker: RedisAddress | None
    broker_prefix: str = ""
    unacked: tuple[str, str] = ("unacked", "unacked_index")
    include: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    signer: Signer | None = field(default=None, repr=False)
    max_message_bytes: int = MAX_MESSAGE_BYTES
    result_ttl: int = 86400
    lease: float = 10.0
    grace: float = 10.0
    limits: Mapping[str, Limit] = field(default_factory=dict)

    @cached_property
    def keys(self) -> FleetKeys:
        """The fleet's names in Redis."""
        return FleetKeys(self.backend)

    @property
    def signs(self) -> str:
        """What tells the signing key from others, without giving it away; empty: nothing is signed."""
        return "" if self.signer is None else self.signer.sign("fleet")[:16]

    @property
    def one_server(self) -> bool:
        """Whether queues and results are in one database of one Redis server: one connection then serves both."""
        return self.broker is not None and self.broker.url == self.backend.url

    @property
    def servers(self) -> str:
        """What to call the servers in a sentence: that of the results, and that of the queues if it is another one."""
        broker = "" if self.broker is None or self.one_server else f", or at {self.broker}"
        return f"Redis at {self.backend}{broker}"

    @property
    def beside_results(self) -> tuple[str, str, str]:
        """Keys of the messages that are taken and not acknowledged, and what comes before the name of a queue.

        All of them are empty if queues are not where the results are.
        """
        if not self.one_server:
            return "", "", ""
        return f"{self.broker_prefix}{self.unacked[0]}", f"{self.broker_prefix}{self.unacked[1]}", self.broker_prefix

    def allows(self, reference: str) -> bool:
        """Whether a worker with these settings may run the process ``module:qualname``."""
        return reference in worker_processes() or _is_included(reference.partition(":")[0], self.include)

    def calls(self, module: str) -> bool:
        """Whether ``functions`` names the module itself: only of such a module may plain functions be called."""
        return module in self.functions

    def make_transport(self, *, known: bool = False) -> RedisTransport:
        """Channels in the Redis that holds the results; ``known``: which was there a moment ago."""
        from stbass.transports.redis.transport import RedisTransport

        return RedisTransport(
            self.backend,
            lease=self.lease,
            ttl=max(_CHANNEL_TTL, 2 * self.lease),
            signing_key=self.signer,
            max_message_bytes=self.max_message_bytes,
            known=known,
        )


@lru_cache(maxsize=1)
def worker_processes() -> frozenset[str]:
    """Processes, as ``module:qualname``, that every worker runs, whatever its ``include`` says.

    They are those of the entry-point group ``stbass.worker_processes``, with which what is built on this backend
    registers the process that serves it on a worker. Such a process runs only what ``include`` allows.
    """
    return frozenset(entry.value for entry in entry_points(group="stbass.worker_processes"))


@lru_cache(maxsize=4096)
def _is_included(module: str, include: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in include)


class FleetState:
    """All that stbass remembers of a Celery application."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.installed = False
        """Whether the application runs processes, and not only sends them."""
        self.clients: PerLoop[Any] = PerLoop()
        """The producer's connections."""
        self.task_results: PerLoop[Any] = PerLoop()
        """Who hears of results of ordinary tasks."""
        self.make_registry: Callable[[], BackendRegistry] = BackendRegistry
        """Makes what :attr:`registry` is, once the application is configured."""

    @cached_property
    def settings(self) -> FleetSettings:
        """Read from the application's configuration when they are first asked for.

        Raises:
            ConfigurationError: they do not make a fleet; the message names the setting.
        """
        return read_settings(self.app.conf)

    @cached_property
    def registry(self) -> BackendRegistry:
        """Where a worker looks up the placements of what runs in it.

        Raises:
            ConfigurationError: the application's settings name one that is not there.
        """
        return self.make_registry()

    @cached_property
    def refusals(self) -> Refusals:
        """Of what came in and was refused here."""
        return Refusals(self.settings.backend)

    @cached_property
    def transport(self) -> RedisTransport:
        """What channels run on, for all backends of the application."""
        return self.settings.make_transport()

    @cached_property
    def results(self) -> Any:
        """Celery's result backend for processes: the application's, or one of their own (``stbass_result_backend``)."""
        own = self.app.conf.get(_OWN_RESULTS)
        if not own:
            return self.app.backend
        from celery.app.backends import by_url

        backend, url = by_url(own, self.app.loader)
        return backend(app=self.app, url=url)

    @cached_property
    def task_address(self) -> RedisAddress:
        """Where results of ordinary tasks are, if that is Redis.

        Raises:
            ConfigurationError: it is not.
        """
        conf = self.app.conf
        return RedisAddress.parse(str(conf.result_backend), "result_backend", _result_options(conf))

    @cached_property
    def result_prefix(self) -> bytes:
        """What Celery puts before a task id to make the key of its result."""
        key: bytes = self.results.get_key_for_task("x")
        return key[:-1]


_KEPT_AS = "stbass_fleet"


def fleet_of(app: Any) -> FleetState:
    """What stbass remembers of a Celery application, kept with it under one name."""
    known: FleetState | None = app.__dict__.get(_KEPT_AS)
    if known is None:
        known = app.__dict__[_KEPT_AS] = FleetState(app)
    return known


class PlainConf(dict[str, Any]):
    """Settings, as Celery names them, of no application: Celery is not loaded. One that is not there is None."""

    def __getattr__(self, name: str) -> Any:
        return self.get(name)


def read_settings(conf: Any) -> FleetSettings:
    """The fleet's settings in the configuration of an application, or in a :class:`PlainConf`.

    Raises:
        ConfigurationError: they do not make a fleet; the message names the setting.
    """
    broker_url = conf.broker_read_url or conf.broker_url or ""
    if isinstance(broker_url, (list, tuple)):
        broker_url = ";".join(broker_url)
    for one in broker_url.split(";"):
        if "@" in one and "://" not in one:
            # To Celery it would be the name of a host, which it shows.
            raise ConfigurationError(
                f"broker_url={hide_password(one)!r} is not a URL: write it as redis://:password@host:6379/0"
            )
    where = _OWN_RESULTS if conf.get(_OWN_RESULTS) else "result_backend"
    url = str(conf.get(where) or "")
    if not url:
        raise ConfigurationError(
            "result_backend is not set: stbass keeps results in Redis; set it, e.g. redis://localhost:6379/0, or, for"
            " processes alone, stbass_result_backend"
        )
    if where == "result_backend" and url.partition("://")[0] not in SCHEMES:
        raise ConfigurationError(
            f"result_backend={hide_password(url)!r} is not a Redis URL: stbass keeps results of processes, leases and"
            " checkpoints in Redis; set stbass_result_backend, e.g. to redis://localhost:6379/0. Results of ordinary"
            " tasks stay where they are"
        )
    options = conf.broker_transport_options or {}
    # The broker's first: where nothing else is said, results are there too, and the mistake is in that URL.
    broker = None
    if broker_url.partition("://")[0] in ("redis", "rediss", "redis+socket", "unix", "sentinel"):
        broker = RedisAddress.parse(broker_url, "broker_url", options)
    backend = RedisAddress.parse(url, where, _result_options(conf))
    key = conf.get("stbass_signing_key")
    return FleetSettings(
        backend=backend,
        broker=broker,
        broker_prefix=options.get("global_keyprefix", ""),
        unacked=(options.get("unacked_key", "unacked"), options.get("unacked_index_key", "unacked_index")),
        include=included(conf),
        functions=_modules(conf, "stbass_functions"),
        signer=_signer(key) if key else None,
        max_message_bytes=int(_number(conf, "stbass_max_message_bytes", MAX_MESSAGE_BYTES, 1024, LARGEST_MESSAGE)),
        result_ttl=_expiry(conf.result_expires),
        lease=_number(conf, "stbass_lease", 10.0, SHORTEST_LEASE, LONGEST_LEASE),
        grace=_number(conf, "stbass_grace", 10.0, 0.0, LONGEST_GRACE),
        limits=limits_of(conf.get("stbass_limits"), "stbass_limits"),
    )


def _signer(key: Any) -> Signer:
    from stbass.wire.signing import Signer

    return Signer(key)


_OWN_RESULTS = "stbass_result_backend"
_RESULT_OPTIONS = {
    "redis_socket_timeout": "socket_timeout",
    "redis_socket_connect_timeout": "socket_connect_timeout",
    "redis_socket_keepalive": "socket_keepalive",
    "redis_retry_on_timeout": "retry_on_timeout",
    "redis_max_connections": "max_connections",
    "redis_backend_health_check_interval": "health_check_interval",
}


def _result_options(conf: Any) -> dict[str, Any]:
    """How to connect to the results: Celery has settings for it, and transport options, which win."""
    given = {setting: conf.get(setting) for setting in _RESULT_OPTIONS if conf.get(setting) is not None}
    if given:
        from celery.app.defaults import DEFAULTS

        # Celery's own defaults are not what somebody wants.
        given = {_RESULT_OPTIONS[name]: value for name, value in given.items() if value != DEFAULTS.get(name)}
    prefix = (conf.broker_transport_options or {}).get("global_keyprefix")
    # A fleet that puts its queues apart is apart from others also where it forgot to say so for the results.
    return {"global_keyprefix": prefix, **given, **(conf.result_backend_transport_options or {})}


def included(conf: Any) -> tuple[str, ...]:
    """The modules that a worker with this configuration imports."""
    return tuple(dict.fromkeys([*(conf.include or ()), *(conf.imports or ())]))


def _modules(conf: Any, name: str) -> tuple[str, ...]:
    value = conf.get(name) or ()
    if not isinstance(value, (list, tuple)) or not all(isinstance(one, str) and one for one in value):
        raise ConfigurationError(f"{name} must be a list of modules, got {value!r}")
    return tuple(dict.fromkeys(value))


def _number(conf: Any, name: str, default: float, least: float, most: float) -> float:
    value = conf.get(name, default)
    if not is_between(value, least, most):
        raise ConfigurationError(f"{name} must be a number from {least:g} to {most:.10g}, got {value_text(value)}")
    return float(value)


def _expiry(expires: Any) -> int:
    """Whole seconds that results are kept; 0: for ever."""
    seconds = expires.total_seconds() if isinstance(expires, timedelta) else 0 if expires is None else expires
    if isinstance(seconds, str) and re.fullmatch(r"\d{1,12}", seconds):
        seconds = int(seconds)  # as Celery does
    if not is_between(seconds, 0, _LONGEST_EXPIRY):
        raise ConfigurationError(
            "result_expires must be a timedelta, or a number of seconds from 0 (as with None, results are kept for"
            f" ever) to {_LONGEST_EXPIRY:.10g}, got {value_text(expires)}"
        )
    return math.ceil(seconds)


def is_queue(name: object) -> bool:
    """Whether a worker can be told to consume a queue of this name, see :data:`QUEUE_RULE`."""
    return (
        isinstance(name, str)
        and 0 < len(name) <= _LONGEST_QUEUE
        and "," not in name
        and name.isprintable()
        and name == name.strip()
    )
