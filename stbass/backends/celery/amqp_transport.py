"""kombu's transport for RabbitMQ, with messages checked where they come in, as :mod:`.transport` does for Redis."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, ClassVar

from kombu.transport import pyamqp

from stbass.backends.celery.incoming import CheckedBody, check_headers
from stbass.backends.celery.refusals import Refusals
from stbass.errors import WireError

__all__ = ["AmqpChannel", "AmqpSSLTransport", "AmqpTransport"]

_log = logging.getLogger(__name__)


class _Message(CheckedBody, pyamqp.Message):
    pass


class AmqpChannel(pyamqp.Channel):
    """A channel whose consumers get no message that is not what it must be."""

    Message = _Message
    refusals: ClassVar[Refusals | None] = None
    """Where what is refused is set aside; a worker sets it."""

    def basic_consume(self, *args: Any, callback: Any = None, **options: Any) -> Any:
        """See py-amqp."""
        checking = None if callback is None else partial(self._deliver, callback)
        return super().basic_consume(*args, callback=checking, **options)

    def _deliver(self, callback: Any, raw: Any) -> None:
        headers = raw.properties.get("application_headers") or {}
        try:
            check_headers(headers, raw.body, raw.properties.get("content_type"))
        except WireError as error:
            self._refuse(raw, headers, error)
        else:
            callback(raw)

    def _refuse(self, raw: Any, headers: Any, error: WireError) -> None:
        body = raw.body if isinstance(raw.body, bytes) else str(raw.body).encode("utf-8", "surrogatepass")
        if self.refusals is None:
            _log.error("refused a message in queue %r: %s", raw.delivery_info["routing_key"], error)
        else:
            queue = raw.delivery_info["routing_key"]
            self.refusals.note("message", error, body, queue=queue, task_id=headers.get("id", ""))
        # It is not to come again.
        self.basic_ack(raw.delivery_info["delivery_tag"])


class _AmqpConnection(pyamqp.Connection):
    Channel = AmqpChannel


class AmqpTransport(pyamqp.Transport):
    """``amqp://``."""

    Connection = _AmqpConnection


class AmqpSSLTransport(pyamqp.SSLTransport):
    """``amqps://``."""

    Connection = _AmqpConnection
