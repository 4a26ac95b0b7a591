"""Sending processes through a broker that is not Redis, such as RabbitMQ: with kombu, in a thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kombu.common import maybe_declare
from kombu.exceptions import OperationalError

from stbass.errors import BackendUnavailableError
from stbass.transports.redis.address import CONNECT_TIMEOUT

__all__ = ["KombuSender", "OutMessage"]

OutMessage = tuple[str, str, str, dict[str, Any]]
"""Of a message its process's id, its queue, its body (JSON), and its headers."""

_CONFIRM_SECONDS = 30.0


class _BrokerAwayError(BackendUnavailableError, ConnectionError):
    """The broker cannot be reached; whoever waits for servers waits for it as well."""


class KombuSender:
    """Sends messages over the connections of an application's pool.

    Args:
        app: the Celery application.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self.name = f"the broker at {app.connection_for_write().as_uri()}"
        """What it is called in messages, without its password."""

    def send(self, messages: Sequence[OutMessage]) -> None:
        """Send them all, and return when the broker has them.

        Raises:
            BackendUnavailableError: it cannot be reached, or refuses; it may have some of them.
        """
        self._on_a_connection(lambda connection: self._publish(connection, messages))

    def ping(self) -> None:
        """Return if the broker can be reached.

        Raises:
            BackendUnavailableError: it cannot.
        """
        self._on_a_connection(lambda connection: connection.default_channel)

    def lengths(self, queues: Sequence[str]) -> dict[str, int]:
        """How many messages wait in these queues; those that are not there are left out.

        Raises:
            BackendUnavailableError: the broker cannot be reached.
        """
        found: dict[str, int] = {}

        def ask(connection: Any) -> None:
            for queue in queues:
                channel = connection.channel()
                try:
                    found[queue] = channel.queue_declare(queue, passive=True).message_count
                except connection.channel_errors:
                    continue  # there is no such queue
                finally:
                    connection.maybe_close_channel(channel)

        self._on_a_connection(ask)
        return found

    def _on_a_connection(self, step: Callable[[Any], Any]) -> None:
        with self._app.connection_or_acquire() as connection:
            refused = (*connection.connection_errors, *connection.channel_errors, OperationalError)
            away = (*connection.recoverable_connection_errors, OperationalError)
            for is_last in (False, True):
                try:
                    connection.ensure_connection(
                        max_retries=1, interval_start=0, interval_step=0, timeout=CONNECT_TIMEOUT
                    )
                    step(connection)
                    return
                except away as error:
                    # One of the pool may have been closed while it was idle: then a new one will do.
                    connection.collect()
                    if is_last:
                        reason = f"{self.name} cannot be reached ({error}); start it, or correct the URL"
                        raise _BrokerAwayError(reason) from error
                except refused as error:
                    connection.collect()
                    raise BackendUnavailableError(f"{self.name} refuses ({error}); see what it lacks") from error

    def _publish(self, connection: Any, messages: Sequence[OutMessage]) -> None:
        channel = connection.channel()
        try:
            confirmed = _Confirmations(channel, len(messages))
            producer = self._app.amqp.Producer(channel, auto_declare=False)
            for queue in {queue for _, queue, _, _ in messages}:
                maybe_declare(self._app.amqp.queues[queue], channel)
            for process_id, queue, body, headers in messages:
                producer.publish(
                    body,
                    exchange="",
                    routing_key=queue,
                    content_type="application/json",
                    content_encoding="utf-8",
                    correlation_id=process_id,
                    delivery_mode=2,
                    headers=headers,
                )
            confirmed.wait(connection)
        finally:
            connection.maybe_close_channel(channel)


class _Confirmations:
    """What the broker says it has: a message that only left here may have got lost with the connection."""

    def __init__(self, channel: Any, count: int) -> None:
        self._outstanding: set[int] = set()
        self._refused = 0
        # Brokers that kombu only imitates have a message when publishing returns.
        if hasattr(channel, "confirm_select"):
            channel.confirm_select()
            self._outstanding.update(range(1, count + 1))
            channel.events["basic_ack"].add(self._on_ack)
            channel.events["basic_nack"].add(self._on_nack)

    def wait(self, connection: Any) -> None:
        """Return when it has said so of all.

        Raises:
            OperationalError: it could not keep one.
            TimeoutError: it has said nothing for long.
        """
        while self._outstanding:
            connection.drain_events(timeout=_CONFIRM_SECONDS)
        if self._refused:
            raise OperationalError(f"it could not keep {self._refused} messages")

    def _on_ack(self, tag: int, multiple: bool) -> None:
        self._outstanding -= {one for one in self._outstanding if one <= tag} if multiple else {tag}

    def _on_nack(self, tag: int, multiple: bool) -> None:
        before = len(self._outstanding)
        self._on_ack(tag, multiple)
        self._refused += before - len(self._outstanding)
