"""A connection to the broker that takes messages by our transport where the broker is Redis or RabbitMQ.

Which one that is depends on the URL, which is known when a connection is made and not before; and the URL, as it shows
in banners, logs and Flower, stays what it is.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

from celery import Celery
from celery.utils.imports import instantiate
from kombu.connection import Connection, ConnectionPool, PooledConnection
from kombu.utils.collections import HashedSeq

__all__ = ["BrokerConnection", "connect_by_our_transport"]


@cache
def _ours() -> dict[Any, Any]:
    """kombu's transports, and what is taken for each: imported when a connection is made, which few commands do."""
    from kombu.transport import pyamqp
    from kombu.transport import redis as stock

    from stbass.backends.celery.amqp_transport import AmqpSSLTransport, AmqpTransport
    from stbass.backends.celery.transport import SentinelTransport, Transport

    return {
        stock.Transport: Transport,
        stock.SentinelTransport: SentinelTransport,
        pyamqp.Transport: AmqpTransport,
        pyamqp.SSLTransport: AmqpSSLTransport,
    }


class _ByOurTransport(Connection):
    def get_transport_cls(self) -> Any:
        """See kombu."""
        found = super().get_transport_cls()  # type: ignore[no-untyped-call]
        return _ours().get(found, found)

    def __eqhash__(self) -> HashedSeq:
        # kombu keeps a pool for all connections that are equal: stock ones have another.
        return HashedSeq(BrokerConnection, super().__eqhash__())  # type: ignore[no-untyped-call]

    def Pool(self, limit: int | None = None, **options: Any) -> ConnectionPool:
        return _Pool(self, limit, **options)  # type: ignore[no-untyped-call]


class BrokerConnection(_ByOurTransport):
    """kombu's connection; but ``redis://``, ``sentinel://`` and ``amqp://`` mean the transports of this package."""


class _Pooled(_ByOurTransport, PooledConnection):
    """One of a pool."""


class _Pool(ConnectionPool):
    def new(self) -> _Pooled:
        return _Pooled(self, **self.connection.info())  # type: ignore[no-untyped-call]


def connect_by_our_transport(app: Celery) -> None:
    """Let the application make its connections to the broker so, from now on. Its configuration is not looked at."""
    if "amqp" in app.__dict__:
        _replace_stock(app.amqp)
    else:
        app.amqp_cls = partial(_make_amqp, app.amqp_cls)


def _make_amqp(amqp_cls: Any, app: Celery) -> Any:
    return _replace_stock(instantiate(amqp_cls, app=app))


def _replace_stock(amqp: Any) -> Any:
    # A connection class of the application's own stays.
    if amqp.Connection is Connection:
        amqp.Connection = BrokerConnection
    return amqp
