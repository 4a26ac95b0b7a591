"""kombu's transport for RabbitMQ, with messages checked where they come in, as :mod:`.transport` does for Redis.

The prefetch count of a running consumer can be raised and lowered here also where RabbitMQ counts for each consumer by
itself, which quorum queues demand. A consumer then keeps the count that it began with, so others are put beside it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

from kombu.transport import pyamqp

from stbass.backends.celery.incoming import CheckedBody, check_headers
from stbass.backends.celery.refusals import Refusals
from stbass.errors import WireError

__all__ = ["AmqpChannel", "AmqpSSLTransport", "AmqpTransport"]

_log = logging.getLogger(__name__)
_ANY_NUMBER = 0xFFFF
"""More than a prefetch count can say."""


class _Message(CheckedBody, pyamqp.Message):
    pass


@dataclass(slots=True, eq=False)
class _Helper:
    """A consumer that was put beside another one, of the same queue.

    Args:
        count: how many messages it may hold: its prefetch count, or, once it is cancelled, those that it still holds.
    """

    count: int
    held: int = 0
    """Messages that it was given and that are neither acknowledged nor rejected."""
    is_cancelled: bool = False


@dataclass(slots=True, eq=False)
class _Consumer:
    """A consumer, with what it was asked for, and its helpers, by their tags."""

    options: dict[str, Any]
    helpers: dict[str, _Helper] = field(default_factory=dict)


class AmqpChannel(pyamqp.Channel):
    """A channel whose consumers get no message that is not what it must be."""

    Message = _Message
    refusals: ClassVar[Refusals | None] = None
    """Where what is refused is set aside; a worker sets it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._prefetch = self._told = 0
        """What each consumer is to begin with, and what the broker was told last. 0: the channel has one for all."""
        self._more = 0
        """How many messages more each consumer may hold by now."""
        self._consumers: dict[str, _Consumer] = {}
        """By their tags; of a channel that has one count for all there are none."""
        self._by_helpers: dict[int, _Helper] = {}
        """Who got a message, by its delivery tag, of those that were got by helpers and are still held."""
        self._is_adjusting = False

    def basic_qos(self, prefetch_size: int, prefetch_count: int, a_global: bool) -> None:
        """See py-amqp; but a count for each consumer by itself changes that of those that are there already, too."""
        if a_global or not self._prefetch:
            super().basic_qos(prefetch_size, prefetch_count, a_global)
            self._prefetch = self._told = 0 if a_global else prefetch_count
        else:
            # Also if there is no consumer now: one that is added begins as the first did.
            self._more = max(0, (prefetch_count or _ANY_NUMBER) - self._prefetch)
            self._adjust()

    def basic_consume(self, queue: str = "", *, callback: Any = None, **options: Any) -> Any:
        """See py-amqp."""
        checking = None if callback is None else partial(self._deliver, callback)
        options |= {"queue": queue, "callback": checking}
        if checking is None or not self._prefetch or options.get("no_ack"):
            return super().basic_consume(**options)
        tag = self._begin(self._prefetch, options)
        self._consumers[tag] = _Consumer({**options, "consumer_tag": "", "nowait": False})
        self._adjust()
        return tag

    def basic_cancel(self, consumer_tag: str, *args: Any, **options: Any) -> Any:
        """See py-amqp."""
        if consumer := self._consumers.pop(consumer_tag, None):
            for tag in [tag for tag, helper in consumer.helpers.items() if not helper.is_cancelled]:
                super().basic_cancel(tag)
        return super().basic_cancel(consumer_tag, *args, **options)

    def basic_ack(self, delivery_tag: int, *args: Any, **options: Any) -> None:
        """See py-amqp."""
        super().basic_ack(delivery_tag, *args, **options)
        self._given_back(delivery_tag)

    def basic_reject(self, delivery_tag: int, *args: Any, **options: Any) -> None:
        """See py-amqp."""
        super().basic_reject(delivery_tag, *args, **options)
        self._given_back(delivery_tag)

    def _given_back(self, delivery_tag: int) -> None:
        if helper := self._by_helpers.pop(delivery_tag, None):
            helper.held -= 1
            if helper.is_cancelled:
                helper.count -= 1
                self._adjust()

    def _begin(self, prefetch_count: int, options: dict[str, Any]) -> Any:
        """A new consumer, with that count."""
        if self._told != prefetch_count:
            super().basic_qos(0, prefetch_count, False)
            self._told = prefetch_count
        return super().basic_consume(**options)

    def _adjust(self) -> None:
        """Let the helpers of each consumer make up for the count that it lacks."""
        if self._is_adjusting:
            return  # called for a message that came while we wait for an answer of the broker: seen to below
        self._is_adjusting = True
        try:
            changed = True
            while changed:
                # Messages come meanwhile, and one change may make another one necessary.
                changed = any(self._adjusted(consumer) for consumer in list(self._consumers.values()))
        finally:
            self._is_adjusting = False

    def _adjusted(self, consumer: _Consumer) -> bool:
        """Whether something had to be changed, and was."""
        consumer.helpers = {tag: helper for tag, helper in consumer.helpers.items() if helper.count}
        lacking = self._more - sum(helper.count for helper in consumer.helpers.values())
        if lacking > 0:
            helper = _Helper(lacking)
            deliver = partial(self._deliver_by, helper, consumer.options["callback"])
            consumer.helpers[self._begin(lacking, {**consumer.options, "callback": deliver})] = helper
            return True
        working = {tag: helper for tag, helper in consumer.helpers.items() if not helper.is_cancelled}
        if lacking == 0 or not working:
            return False
        # What it holds is still to be acknowledged, and counts until then; so one that holds little.
        tag = min(working, key=lambda one: working[one].held)
        super().basic_cancel(tag)
        working[tag].is_cancelled, working[tag].count = True, working[tag].held
        return True

    def _deliver_by(self, helper: _Helper, deliver: Any, raw: Any) -> None:
        self._by_helpers[raw.delivery_info["delivery_tag"]] = helper
        helper.held += 1
        deliver(raw)

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
