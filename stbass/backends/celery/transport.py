"""A kombu transport for Redis that takes many messages in one round trip, and acknowledges many in one.

It is kombu's own Redis transport but for two things. Stock, every message costs a BRPOP, a MULTI/ZADD/HSET when it is
delivered and a MULTI/ZREM/HDEL when it is acknowledged, each a round trip. Here a BLMOVE wakes the worker; one script
then takes what else is there, as far as the prefetch limit allows, and notes all of it as unacknowledged, atomically;
and the messages that are acknowledged in one turn of the event loop are removed with one command. The keys and their
contents are kombu's, so that stock workers and this one can consume the same queue.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from queue import Empty
from typing import Any, ClassVar

import msgspec
import redis
from kombu.asynchronous import get_event_loop
from kombu.transport import redis as stock
from kombu.transport import virtual
from kombu.utils.json import loads

from stbass.backends.celery.envelope import routing_in_message

__all__ = ["Channel", "Transport"]

_log = logging.getLogger(__name__)

_ACK_DELAY = 0.01
TAKE_MOST = 128
"""Messages taken in one turn: enough to make the round trip cheap, few enough to leave work for other workers."""

TAKE = """
-- Take messages from a queue and note them as unacknowledged (kombu's format).
-- KEYS: queue, unacked hash, unacked index.
-- ARGV: how many more to take, how the routing stands in our own messages, the queue's name, messages taken already
-- Gives: all good messages; messages that are not messages
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local routing, ours = ARGV[2], ',"",' .. cjson.encode(ARGV[3]) .. ']'
local good, bad, noted, index = {}, {}, {}, {}
-- Our own messages end in a fixed form, so that they need not be parsed: ...<routing>"delivery_tag":"<36 characters>"}}
local function quick(raw)
  if raw:sub(-55, -40) == '"delivery_tag":"' and raw:sub(-3) == '"}}'
     and raw:sub(-55 - #routing, -56) == routing then
    return raw:sub(-39, -4), ours
  end
end
local function parsed(raw)
  local ok, message = pcall(cjson.decode, raw)
  local properties = ok and type(message) == 'table' and message.properties
  local info = type(properties) == 'table' and properties.delivery_info
  local tag = type(properties) == 'table' and properties.delivery_tag
  if type(info) == 'table' and type(tag) == 'string' and type(info.exchange or '') == 'string'
     and type(info.routing_key or '') == 'string' then
    return tag, ',' .. cjson.encode(info.exchange or '') .. ',' .. cjson.encode(info.routing_key or '') .. ']'
  end
end
local function note(raw)
  local tag, rest = quick(raw)
  if not tag then tag, rest = parsed(raw) end
  if not tag then
    table.insert(bad, raw)
    return
  end
  table.insert(noted, tag)
  table.insert(noted, '[' .. raw .. rest)
  table.insert(index, now)
  table.insert(index, tag)
  table.insert(good, raw)
end
for i = 4, #ARGV do note(ARGV[i]) end
local more = tonumber(ARGV[1])
if more > 0 then
  local taken = redis.call('RPOP', KEYS[1], more)
  if taken then for _, raw in ipairs(taken) do note(raw) end end
end
if #noted > 0 then
  redis.call('HSET', KEYS[2], unpack(noted))
  redis.call('ZADD', KEYS[3], unpack(index))
end
return {good, bad}
"""

_decode = msgspec.json.Decoder().decode


class QoS(stock.QoS):
    """kombu's acknowledgement bookkeeping, written in batches."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._acked: list[str] = []

    def append(self, message: Any, delivery_tag: str) -> None:
        # Redis knows already: the script that took the message noted it.
        if getattr(self.channel, "_noted", False):
            virtual.QoS.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        hub = get_event_loop()
        if hub is None or threading.get_ident() != self.channel._turn_thread:
            super().ack(delivery_tag)
            return
        virtual.QoS.ack(self, delivery_tag)
        self._acked.append(delivery_tag)
        if len(self._acked) == 1:
            # A little later: what is acknowledged meanwhile goes along, and the next process is not kept waiting.
            hub.call_later(_ACK_DELAY, self.flush_acks)

    def flush_acks(self) -> None:
        """Remove what was acknowledged from Redis. After an error the tags are kept for the next turn."""
        tags, self._acked = self._acked, []
        if not tags:
            return
        try:
            self.channel.batch_client.pipeline(transaction=True).zrem(
                self.channel.prefixed(self.unacked_index_key), *tags
            ).hdel(self.channel.prefixed(self.unacked_key), *tags).execute()
        except redis.RedisError as error:
            # Nothing is lost by it: the results are stored, so a message that comes again is dropped.
            _log.warning("cannot acknowledge %d messages: %s; trying again with the next", len(tags), error)
            self._acked[:0] = tags

    def restore_unacked_once(self, stderr: Any = None) -> None:
        self.flush_acks()
        if self.channel.connection.client is None:
            # The connection is gone already, and kombu would fail, which ends the worker. What runs here goes on; the
            # rest is put back by whoever finds that nobody works on it.
            return
        super().restore_unacked_once(stderr)


class Channel(stock.Channel):
    """kombu's Redis channel, taking messages in batches."""

    QoS = QoS
    _noted = False
    _turn_thread: int | None = None
    _waits_for: str | None = None
    _brpop_sent_at: Any = None
    _batch_client: redis.Redis | None = None
    refused: ClassVar[Counter[str]] = Counter()

    @property
    def batch_client(self) -> redis.Redis:
        """A client without kombu's key prefixing, on the channel's connection pool."""
        if self._batch_client is None:
            self._batch_client = redis.Redis(connection_pool=self.pool)
            self._take = self._batch_client.register_script(TAKE)
        return self._batch_client

    def prefixed(self, key: str) -> str:
        """``key`` as it is in Redis."""
        return f"{self.global_keyprefix}{key}"

    def _brpop_start(self, timeout: float | None = None) -> None:
        self._turn_thread = threading.get_ident()
        self._waits_for = self._only_queue()
        if self._waits_for is None:
            super()._brpop_start(timeout)
            return
        key = self.prefixed(self._waits_for)
        self._in_poll = self.client.connection
        self._brpop_sent_at = time.monotonic()
        # Moves the message to where it was: this waits for one and takes none, so that none is on its way to a worker
        # that may just be dying.
        self.client.connection.send_command("BLMOVE", key, key, "RIGHT", "RIGHT", timeout or self.brpop_timeout)

    def _only_queue(self) -> str | None:
        """The queue, if there is one only: BLMOVE waits for one list, and kombu keeps one per queue and priority."""
        if len(self.active_queues) != 1 or list(self.priority_steps) != [0]:
            return None
        [queue] = self.active_queues
        return str(queue)

    def _brpop_read(self, **options: Any) -> bool:
        waited = self._waits_for
        try:
            try:
                command = "BRPOP" if waited is None else "BLMOVE"
                answer = self.client.parse_response(self.client.connection, command, **options)
            except self.connection_errors:
                self.client.connection.disconnect()
                raise
        finally:
            self._in_poll: Any = None
            self._flush_brpop_reauth()
        if not answer:
            raise Empty
        taken: list[bytes] = []
        if waited is None:
            key, first = answer
            key = key.decode() if isinstance(key, bytes) else key
            taken.append(first)
        else:
            key = waited
        queue = key.rsplit(self.sep, 1)[0]
        self._queue_cycle.rotate(queue)
        room = self.qos.can_consume_max_estimate()
        more = TAKE_MOST if room is None else max(0, min(TAKE_MOST, room) - len(taken))
        client = self.batch_client
        names = [self.prefixed(name) for name in (key, self.unacked_key, self.unacked_index_key)]
        try:
            good, bad = self._take(keys=names, args=[more, routing_in_message(queue), queue, *taken], client=client)
        except self.connection_errors:
            # Not noted, so it is still ours to put back; if that fails too, the caller hears of it.
            if taken:
                client.rpush(names[0], *taken)
            raise
        if not good and not bad:
            # Another worker was quicker.
            raise Empty
        for raw in bad:
            self._refuse(queue, raw)
        self._deliver_all(good, queue)
        return True

    def _deliver_all(self, messages: list[bytes], queue: str) -> None:
        self._noted = True
        try:
            while messages:
                raw = messages.pop(0)
                # kombu marks what plain JSON does not have.
                payload = loads(raw.decode()) if b"__type__" in raw else _decode(raw)
                self.connection._deliver(payload, queue)
        finally:
            self._noted = False
            for raw in reversed(messages):
                # Taken but not delivered, because one before them broke the connection: back to the queue.
                self.qos.restore_by_tag(_decode(raw)["properties"]["delivery_tag"], leftmost=False)

    def _refuse(self, queue: str, raw: bytes) -> None:
        self.refused[queue] += 1
        if self.refused[queue] == 1:
            _log.error(
                "refused something in queue %r that is not a message (%d bytes: %.60r);"
                " more of the kind are only counted",
                queue,
                len(raw),
                raw,
            )


class Transport(stock.Transport):
    """Named in ``broker_transport`` by :func:`stbass.backends.celery.make_app` and ``install``."""

    Channel = Channel
    # An idle worker asks again after this many seconds; what comes wakes it at once. It is also how long an idle worker
    # takes to notice that it was told to consume another queue.
    brpop_timeout = 3
