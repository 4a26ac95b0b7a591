"""A kombu transport for Redis that takes many messages in one round trip, and acknowledges many in one.

It is kombu's own Redis transport but for two things. Stock, every message costs a BRPOP, a MULTI/ZADD/HSET when it is
delivered and a MULTI/ZREM/HDEL when it is acknowledged, each a round trip; and a message that was popped for a worker
that dies before it has noted it is lost. Here the worker waits without taking (see :mod:`.watch`), for one queue and
for many in the same way; one script then takes what is there, as far as the prefetch limit allows, and notes all of it
as unacknowledged, atomically. Those of processes are acknowledged where their results are stored, if that is the same
server; others that are acknowledged in one turn of the event loop are removed with one command. The keys and their
contents are kombu's, so that stock workers and this one can consume the same queue, but for one (under kombu's
``global_keyprefix``):

``stbass:took:<id>``
    string; this worker; it alone; ten minutes. The tags of the messages that it took last, and the number of that call:
    if the answer was lost with the connection, they are asked for again. ``<id>`` is one event loop's connection to the
    broker.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence, Sized
from functools import cached_property
from queue import Empty
from typing import Any, ClassVar, NamedTuple

import msgspec
import redis
from kombu.asynchronous import get_event_loop
from kombu.transport import redis as stock
from kombu.transport import virtual
from kombu.utils.json import loads
from redis.sentinel import SentinelManagedConnection

from stbass._values.ids import new_id
from stbass._values.texts import error_text
from stbass.backends.celery.envelope import routing_in_message
from stbass.backends.celery.incoming import CheckedBody, checked_message
from stbass.backends.celery.refusals import Refusals
from stbass.backends.celery.watch import ListWatch
from stbass.errors import ConfigurationError, StbassError
from stbass.transports.redis.address import CONNECT_TIMEOUT, KEEPALIVE, NO_CLUSTER, is_cluster
from stbass.transports.redis.trouble import Trouble, trouble_of

__all__ = ["Channel", "SentinelChannel", "SentinelTransport", "Transport"]

_log = logging.getLogger(__name__)

_ACK_DELAY = 0.01
_TICK = 1.0
"""Seconds between looks at the connection that waits for messages."""
_LATE = 4.0
"""Seconds without an answer after which a worker does not say of itself that it takes messages."""
_HEALTH_CHECK = 10
_ANSWER_TIMEOUT = 5.0
"""Seconds for which a server may leave a question without an answer, unless ``socket_timeout`` says so."""
TAKE_MOST = 128
"""Messages taken in one turn: enough to make the round trip cheap, few enough to leave work for other workers."""

TAKE = """
-- Take messages from queues and note them as unacknowledged (kombu's format).
-- KEYS: the queues' lists, the most urgent first. Only these: the server tells who waits of changes of any of them.
-- ARGV: unacked hash, unacked index, what was taken last, how many to take, whether equally urgent lists share that
--       ('1') or the first has all it can ('0'), the number of this call, whether it was made before and its answer was
--       lost ('1'), the key that says that this worker is free, and may be given messages ('': it is given none), then
--       per list: how the routing stands in our own messages, the queue's name, its rank, whether its messages are to
--       be noted ('1'; '0': nobody will acknowledge them)
-- Gives whether there is more (1), and per list that had some: its number, good messages, messages that are not
-- messages. After a lost answer: 0 and the entries of those messages in the unacked hash.
local unacked, unacked_index, took = unpack(ARGV, 1, 3)
local room, shared, call = tonumber(ARGV[4]), ARGV[5] == '1', ARGV[6]
local again = ARGV[7] == '1'
local before = redis.call('GET', took)
local tags = before and cmsgpack.unpack(before) or {}
if tonumber(table.remove(tags) or -1) >= tonumber(call) then
  -- Made again; or late: what was sent on a connection that is lost may arrive after what was sent on the next one.
  if not again or #tags == 0 then return {1, {}} end
  local entries = {}
  for _, entry in ipairs(redis.call('HMGET', unacked, unpack(tags))) do
    if entry then table.insert(entries, entry) end
  end
  return {1, {{0, entries, {}}}}
end
if again then redis.call('SET', took, cmsgpack.pack({call}), 'EX', 600) end
local more = 0
local lists, out, taken = {}, {}, {}
for i, key in ipairs(KEYS) do
  local routing, queue, rank, noted = unpack(ARGV, 4 * i + 5, 4 * i + 8)
  local length = redis.call('LLEN', key)
  if length > 0 then
    table.insert(lists, {i, key, length, 0, routing, queue, rank, noted == '1'})
  end
end
if #lists == 0 then return {0, out} end
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
-- How many from each
local first = 1
while first <= #lists and room > 0 do
  local last = first
  while last < #lists and lists[last + 1][7] == lists[first][7] do last = last + 1 end
  local share = shared and math.max(1, math.floor(room / (last - first + 1))) or room
  for _, most in ipairs({share, room}) do
    for i = first, last do
      local further = math.min(lists[i][3] - lists[i][4], most, room)
      lists[i][4] = lists[i][4] + further
      room = room - further
    end
  end
  first = last + 1
end
for _, list in ipairs(lists) do
  local number, key, length, count, routing, queue, rank, noting = unpack(list)
  if count > 0 then
    -- Our own messages end in a fixed form, and need not be parsed: ...<routing>"delivery_tag":"<36 characters>"}}
    local ours, form = ',"",' .. cjson.encode(queue) .. ']', routing .. '"delivery_tag":"'
    local function quick(raw)
      local tag = raw:match('^([%w-]+)"}}$', -39)
      if tag and raw:find(form, -39 - #form, true) == #raw - 38 - #form then return tag, ours end
    end
    local function parsed(raw)
      local ok, message = pcall(cjson.decode, raw)
      local properties = ok and type(message) == 'table' and message.properties
      local info = type(properties) == 'table' and properties.delivery_info
      local tag = type(properties) == 'table' and properties.delivery_tag
      -- A tag is found again by its text: it is plain ASCII, without what JSON would escape.
      if type(info) == 'table' and type(tag) == 'string' and tag:find('^[ !#-Z%[%]^-~]+$')
         and type(info.exchange or '') == 'string'
         and type(info.routing_key or '') == 'string' then
        return tag, ',' .. cjson.encode(info.exchange or '') .. ',' .. cjson.encode(info.routing_key or '') .. ']'
      end
    end
    local raws = redis.call('LRANGE', key, -count, -1)
    local good, bad, noted, fresh, index = {}, {}, {}, {}, {}
    for i = #raws, 1, -1 do
      local raw = raws[i]
      local tag, rest = quick(raw)
      if not tag then tag, rest = parsed(raw) end
      if not tag then
        table.insert(bad, raw)
      else
        table.insert(good, raw)
        if noting then
          table.insert(noted, tag)
          table.insert(noted, '[' .. raw .. rest)
          table.insert(fresh, tag)
        end
      end
    end
    if #noted > 0 then
      -- Each its own time: where they wait for a limit they keep their order by it. The latest first: the server looks
      -- for the place of each from the beginning of a short sorted set.
      for i = #fresh, 1, -1 do
        table.insert(index, now + (#taken + i - 1) * 0.000001)
        table.insert(index, fresh[i])
      end
      for _, tag in ipairs(fresh) do table.insert(taken, tag) end
      redis.call('HSET', unacked, unpack(noted))
      redis.call('ZADD', unacked_index, unpack(index))
    end
    -- Last: a server that refuses to note them does not lose them.
    redis.call('LTRIM', key, 0, -count - 1)
    table.insert(out, {number, good, bad})
    -- Who waits is told of changes only of what it has looked at since it was last told.
    length = redis.call('LLEN', key)
  end
  if length > 0 then more = 1 end
end
if #taken > 0 then
  table.insert(taken, call)
  redis.call('SET', took, cmsgpack.pack(taken), 'EX', 600)
  if ARGV[8] ~= '' then redis.call('DEL', ARGV[8]) end
end
return {more, out}
"""

_decode = msgspec.json.Decoder().decode
_TAG = re.compile(rb'"delivery_tag": *"([^"]+)"')


def _or_default(socket_timeout: Any) -> float:
    return float(socket_timeout or _ANSWER_TIMEOUT)


def _names_and_patterns(topics: list[str]) -> tuple[list[str], list[str]]:
    patterns = [topic for topic in topics if any(mark in topic for mark in "*?[")]
    return [topic for topic in topics if topic not in patterns], patterns


class _List(NamedTuple):
    """One of a queue's lists: kombu keeps one per priority."""

    queue: str
    key: bytes
    args: tuple[bytes, ...]
    """Of the script."""


class _RefusedForNow(redis.ConnectionError):
    pass


class _Patient:
    """A connection for which a refusal that passes by itself is what kombu waits out: a connection to be made anew."""

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        """As redis-py's."""
        try:
            return super().read_response(*args, **kwargs)  # type: ignore[misc]
        except redis.ResponseError as error:
            if trouble_of(error) is Trouble.NEVER:
                raise
            raise _RefusedForNow(f"the server refuses for now: {error}") from error


class _PatientConnection(_Patient, redis.Connection):
    pass


class _PatientSSLConnection(_Patient, redis.SSLConnection):
    pass


class QoS(stock.QoS):
    """kombu's acknowledgement bookkeeping, written in batches."""

    channel: Channel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._acked: list[str] = []
        self._gone: set[str] = set()

    def append(self, message: Any, delivery_tag: str) -> None:
        # Redis knows already: the script that took the message noted it.
        if getattr(self.channel, "_noted", False):
            virtual.QoS.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        if delivery_tag in self._gone:
            self._gone.discard(delivery_tag)
            virtual.QoS.ack(self, delivery_tag)
            return
        hub = get_event_loop()
        if hub is None or threading.get_ident() != self.channel._turn_thread:
            super().ack(delivery_tag)
            return
        virtual.QoS.ack(self, delivery_tag)
        self._acked.append(delivery_tag)
        if len(self._acked) == 1:
            # A little later: what is acknowledged meanwhile goes along, and the next process is not kept waiting.
            hub.call_later(_ACK_DELAY, self.flush_acks)

    def forgotten(self, delivery_tag: str) -> None:
        """Redis has been told already of the message that is about to be acknowledged."""
        self._gone.add(delivery_tag)

    def flush_acks(self) -> None:
        """Remove what was acknowledged from Redis. After an error the tags are kept for the next turn."""
        tags, self._acked = self._acked, []
        if not tags:
            return
        try:
            self.channel.forget(tags)
        except redis.RedisError as error:
            # Nothing is lost by it: the results are stored, so a message that comes again is dropped.
            _log.warning("cannot acknowledge %d messages: %s; trying again with the next", len(tags), error)
            self._acked[:0] = tags

    def can_consume(self) -> bool:
        """Whether messages may be taken."""
        most = super().can_consume_max_estimate()
        return most is None or most > len(self.channel.given)

    def can_consume_max_estimate(self) -> int | None:
        """How many messages may be taken at once."""
        # Where somebody decides before each message, as Celery does for ``worker_disable_prefetch``: one.
        most: int | None = 1 if "can_consume" in vars(self) else super().can_consume_max_estimate()
        return most if most is None else max(0, most - len(self.channel.given))

    def restore_unacked_once(self, stderr: Any = None) -> None:
        self.flush_acks()
        connection = self.channel.connection
        if connection is None or connection.client is None:
            # The connection is gone already, and kombu would fail, which ends the worker. What runs here goes on; the
            # rest is put back by whoever finds that nobody works on it.
            return
        super().restore_unacked_once(stderr)


class _Message(CheckedBody, virtual.Message):
    pass


class Channel(stock.Channel):
    """kombu's Redis channel, taking messages in batches."""

    QoS = QoS
    Message = _Message
    connection_class: Any = _PatientConnection
    connection_class_ssl: Any = _PatientSSLConnection
    # kombu's transport options; it has no time-outs, and waits for ever on a connection that a firewall has forgotten.
    socket_timeout: Any = _ANSWER_TIMEOUT
    socket_connect_timeout: Any = CONNECT_TIMEOUT
    socket_keepalive: Any = True
    socket_keepalive_options: Any = KEEPALIVE
    health_check_interval = _HEALTH_CHECK
    _noted = False
    _turn_thread: int | None = None
    _in_poll: Any
    _brpop_sent_at: Any = None
    _batch_client: redis.Redis | None = None
    _no_clusters: ClassVar[set[str]] = set()
    refused: ClassVar[Counter[str]] = Counter()
    refusals: ClassVar[Refusals | None] = None
    """Where a worker sets aside what it refuses."""
    free: ClassVar[bytes] = b""
    """The key that says that this worker may be given messages; empty: it is given none."""
    given: ClassVar[Sized] = ()
    """Messages that it was given and that are not delivered: they take places all the same."""
    _unanswered: ClassVar[dict[str, tuple[str, bytes]]] = {}
    """Per broker: where a message may have been taken for us without our knowing, and the number of that call."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._watch = ListWatch(TAKE)
        self._id = new_id()
        self._calls = itertools.count()
        self._unnoted: set[str] = set()
        self._listed_for: tuple[str, ...] | None = None
        self._listed: list[_List] = []
        self._refusal: str | None = None
        self._bindings_refused = False
        self._rests_until = 0.0
        self._rest = 0.0
        super().__init__(*args, **kwargs)
        self._refuse_cluster()

    def _refuse_cluster(self) -> None:
        uri = self.connection.client.as_uri()
        if uri in self._no_clusters:
            return
        try:
            info: Any = redis.Redis(connection_pool=self.pool).execute_command("INFO", "server")
        except redis.ResponseError:
            # Not everybody may ask; then the commands will tell.
            return
        if is_cluster(info):
            super().close()
            raise ConfigurationError(f"the broker {uri} cannot be used: {NO_CLUSTER}")
        self._no_clusters.add(uri)

    @property
    def batch_client(self) -> redis.Redis:
        """A client without kombu's key prefixing, on the channel's connection pool."""
        if self._batch_client is None:
            self._batch_client = redis.Redis(connection_pool=self.pool)
        return self._batch_client

    def prefixed(self, key: str) -> str:
        """``key`` as it is in Redis."""
        return f"{self.global_keyprefix}{key}"

    def let_go(self, tag: str) -> None:
        """This message is somebody else's now: it takes no place here, and what Redis knows of it stays as it is."""
        virtual.QoS.ack(self.qos, tag)

    def forget(self, tags: Sequence[str | bytes]) -> None:
        """These messages are dealt with.

        Raises:
            redis.RedisError: the server is away, or refuses.
        """
        pipe = self.batch_client.pipeline(transaction=True)
        pipe.zrem(self.prefixed(self.unacked_index_key), *tags)
        pipe.hdel(self.prefixed(self.unacked_key), *tags)
        pipe.execute()

    def maybe_refresh_binding_expiry(self) -> None:
        """See kombu, which calls it every second; but a server that refuses is told of once, and once when it is over.

        Raises:
            redis.ConnectionError: the connection is lost.
        """
        try:
            super().maybe_refresh_binding_expiry()
        except redis.ResponseError as error:
            if not self._bindings_refused:
                _log.warning(
                    "cannot renew the bindings of queues that expire: the broker at %s refuses: %s; trying again until"
                    " it does not",
                    self._broker,
                    error_text(error),
                )
            self._bindings_refused = True
        else:
            if self._bindings_refused:
                _log.warning("the broker at %s renews the bindings of queues again", self._broker)
            self._bindings_refused = False

    # Waiting: kombu's names, as its poller calls them --------------------------------------------

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:
        """See kombu."""
        answer = super().basic_consume(queue, no_ack, *args, **kwargs)
        if no_ack:
            self._unnoted.add(queue)
        else:
            self._unnoted.discard(queue)
        # What it waits for is not all any more: the next turn asks again.
        self._in_poll = None
        self._listed_for = None
        return answer

    def _lists(self) -> list[_List]:
        queues = tuple(self._queue_cycle.consume(len(self.active_queues)))
        if queues != self._listed_for:
            self._listed_for = queues
            self._listed = [self._list(queue, rank) for rank in self.priority_steps for queue in queues]
        return self._listed

    def _list(self, queue: str, rank: int) -> _List:
        key = self.prefixed(self._q_for_pri(queue, rank)).encode()
        noted = b"0" if queue in self._unnoted else b"1"
        return _List(queue, key, (routing_in_message(queue), queue.encode(), b"%d" % rank, noted))

    def _brpop_start(self, timeout: float | None = None) -> None:
        self._turn_thread = threading.get_ident()
        if time.monotonic() < self._rests_until:
            return
        lists = self._lists()
        if not lists:
            return
        connection = self.client.connection
        try:
            self._watch.look(connection, [one.key for one in lists])
        except OSError:
            # Closed while it was idle. Nothing is lost with it; kombu makes another in the next turn.
            connection.disconnect()
            return
        self._in_poll = connection
        self._brpop_sent_at = time.monotonic()

    def _brpop_read(self, **options: Any) -> bool:
        found, rests = False, time.monotonic() < self._rests_until
        connection = self.client.connection
        try:
            # What may have been taken without our knowing is asked for, whether there is more or not.
            found = self._watch.read() or self._broker in self._unanswered
        except OSError as error:
            _log.debug("the connection that waits for messages is made anew: %s", error)
            connection.disconnect()
        except redis.ResponseError as error:
            self._refused_for_now(error)
        if self._pending_reauth_token(connection) is not None:
            connection.set_re_auth_token(None)
            connection.disconnect()
        if not found or rests:
            raise Empty
        if not self.qos.can_consume():
            self._in_poll = None
            raise Empty
        return self._take_some()

    def look_after(self) -> None:
        """Called every second: is the server still there, and is there something that we have not heard of?"""
        if not self._in_poll:
            return
        with contextlib.suppress(Empty):
            self._brpop_read()
        if not self._in_poll:
            return
        now, asked_at = time.monotonic(), self._watch.asked_at
        if asked_at is not None and now - asked_at > (_or_default(self.socket_timeout)):
            _log.warning("the broker has not answered for %.0f s; connecting anew", now - asked_at)
            self.client.connection.disconnect()
        elif asked_at is None and now - self._brpop_sent_at >= self.brpop_timeout:
            self._brpop_start()

    @property
    def hears(self) -> bool:
        """Whether the server answered when it was last asked."""
        asked_at = self._watch.asked_at
        return asked_at is None or time.monotonic() - asked_at < _LATE

    # Listening to what is said to all: by name, where kombu subscribes by pattern. For that a user who may use only the
    # names with the fleet's prefix has no right.

    def _subscribe(self) -> None:
        topics = sorted({topic for queue in self.active_fanout_queues for topic in self._get_subscribe_topics(queue)})
        if not topics:
            return
        client = self.subclient
        if client.connection._sock is None:
            client.connection.connect()
        self._in_listen = client.connection
        names, patterns = _names_and_patterns(topics)
        if names:
            client.subscribe(*names)
        if patterns:
            client.psubscribe(*patterns)

    def _unsubscribe_from(self, queue: str) -> None:
        client = self.subclient
        if client.connection and client.connection._sock:
            names, patterns = _names_and_patterns(self._get_subscribe_topics(queue))
            if names:
                client.unsubscribe(*names)
            if patterns:
                client.punsubscribe(*patterns)

    # Taking --------------------------------------------------------------------------------------

    def _take_some(self) -> bool:
        lists = self._lists()
        if not lists:
            raise Empty
        room = self.qos.can_consume_max_estimate()
        try:
            is_more, taken = self._take_from(lists, TAKE_MOST if room is None else min(TAKE_MOST, room))
        except redis.ResponseError as error:
            self._refused_for_now(error)
            raise Empty from None
        if is_more:
            self._in_poll = None
        if self._refusal is not None:
            _log.warning("the broker gives messages again")
            self._refusal, self._rest = None, 0.0
        if not taken:
            # Another worker was quicker.
            raise Empty
        messages = []
        for number, good, bad in taken:
            if number == 0:
                messages += list(self._parsed_entries(good))
                continue
            queue = lists[number - 1].queue
            self._queue_cycle.rotate(queue)
            messages += [(queue, raw) for raw in good]
            for raw in bad:
                self._refuse(queue, raw)
        self._deliver_all(messages)
        return True

    @cached_property
    def _broker(self) -> str:
        return f"{self.connection.client.as_uri()}{self.global_keyprefix}"

    def _take_from(self, lists: list[_List], room: int) -> list[Any]:
        where, connection = self._broker, self.client.connection
        unanswered = self._unanswered.pop(where, None)
        taker, call = unanswered or (self._id, b"%d" % next(self._calls))
        names = (self.unacked_key, self.unacked_index_key, f"stbass:took:{taker}")
        shared = b"1" if self.queue_order_strategy == "round_robin" else b"0"
        head = [*(self.prefixed(name).encode() for name in names), b"%d" % room, shared, call]
        of_lists = [part for one in lists for part in one.args]
        keys, seconds = [one.key for one in lists], _or_default(self.socket_timeout)

        def take(again: bool) -> list[Any]:
            return self._watch.take(connection, keys, [*head, b"%d" % again, self.free, *of_lists], seconds)

        try:
            try:
                return take(unanswered is not None)
            except OSError as error:
                # Closed while it was idle, perhaps, or no master any more.
                # Whether it was taken or not: the same call gives the same answer.
                _log.debug("the connection that waits for messages is made anew: %s", error)
                connection.disconnect()
                connection.connect()
                return take(True)
        except OSError as error:
            self._unanswered[where] = (taker, call)
            connection.disconnect()
            raise redis.ConnectionError(f"the broker gives no messages: {error}") from error
        except redis.RedisError:
            # Also a server that refuses now, and may have done it before.
            self._unanswered[where] = (taker, call)
            raise

    def _refused_for_now(self, error: redis.RedisError) -> None:
        """The server is there and says no, for as long as it is full, a replica, or still loading."""
        self._rest = min(1.0, self._rest * 2 or 0.05)
        self._rests_until = time.monotonic() + self._rest
        self._in_poll = None
        if self._refusal is None:
            self._refusal = str(error)
            _log.warning("the broker gives no messages: %s; trying again until it does", error)

    def _parsed_entries(self, entries: list[bytes]) -> Iterator[tuple[str, bytes]]:
        for entry in entries:
            message, exchange, routing_key = _decode(entry)
            for queue in self._lookup(exchange, routing_key):
                yield queue, msgspec.json.encode(message)

    def put_back(self, tag: str) -> None:
        """Let others have a message that is noted as taken, and was not delivered."""
        self.qos.restore_by_tag(tag, leftmost=False)

    def deliver(self, queue: str, raw: bytes) -> None:
        """Deliver a message that is noted as taken already."""
        self._deliver_all([(queue, raw)])

    def _deliver_all(self, messages: list[tuple[str, bytes]]) -> None:
        messages.reverse()
        try:
            while messages:
                queue, raw = messages.pop()
                payload = self._payload(queue, raw)
                if payload is not None:
                    self._noted = queue not in self._unnoted
                    self.connection._deliver(payload, queue)
        finally:
            self._noted = False
            for queue, raw in messages:
                # Taken but not delivered, because one before them broke the connection: back to the queue.
                if queue not in self._unnoted:
                    self.qos.restore_by_tag(_decode(raw)["properties"]["delivery_tag"], leftmost=False)

    def _payload(self, queue: str, raw: bytes) -> Any:
        found = None
        try:
            # kombu marks what plain JSON does not have.
            found = loads(raw.decode()) if b"__type__" in raw else _decode(raw)
            return checked_message(found)
        except (StbassError, ValueError, RecursionError) as error:
            # What Lua took for JSON, and is none; or what is no message of Celery's.
            self._refuse_message(queue, raw, error_text(error), found)
            return None

    def _refuse_message(self, queue: str, raw: bytes, reason: str, payload: Any) -> None:
        headers = payload.get("headers") if type(payload) is dict else None
        self._refuse(queue, raw, reason, headers.get("id") if type(headers) is dict else "")
        properties = payload.get("properties") if type(payload) is dict else None
        tag = properties.get("delivery_tag") if type(properties) is dict else None
        # Others than the last are texts in its headers or its body, and perhaps tags of other messages.
        tags = [tag] if type(tag) is str else _TAG.findall(raw)[-1:]
        if tags:
            # It is not to come again.
            self.forget(tags)

    def _refuse(
        self, queue: str, raw: bytes, reason: str = "it is not JSON with a delivery tag and routing", task_id: Any = ""
    ) -> None:
        self.refused[queue] += 1
        if self.refusals is not None:
            self.refusals.note("message", reason, raw, queue=queue, task_id=task_id)
            return
        if self.refused[queue] == 1:
            _log.error(
                "refused something in queue %r that is not a message (%d bytes: %.60r);"
                " more of the kind are only counted",
                queue,
                len(raw),
                raw,
            )

    def close(self) -> None:
        """See kombu; but there is nothing to be read first."""
        if self._in_poll:
            self._in_poll.disconnect()
            self._in_poll = None
        super().close()


class _Poller(stock.MultiChannelPoller):
    """kombu's poller; but what it reads are no messages, and is read whether there is room for messages or not."""

    readers: ClassVar[Any] = {}
    """What the event loop watches, if there is one: file descriptors with what is called, and with what."""
    on_read: Any = None

    @property
    def fds(self) -> dict[int, Any]:
        """Those that the event loop does not watch yet: kombu tells it of all there are in each of its turns."""
        return {fd: channel for fd, channel in super().fds.items() if self.readers.get(fd) != (self.on_read, (fd,))}

    def _update_brpop_polling(self) -> None:
        """Nothing is paused."""

    def on_readable(self, fileno: int) -> None:
        channel, kind = self._fd_to_chan.get(fileno, (None, None))
        if channel is not None and kind == "BRPOP":
            channel.handlers[kind]()
        else:
            super().on_readable(fileno)

    def maybe_check_brpop_health(self) -> None:
        for channel in list(self._channels):
            channel.look_after()

    def get(self, callback: Any, timeout: float | None = None) -> Any:
        return super().get(callback, _TICK if timeout is None else min(timeout, _TICK))


class Transport(stock.Transport):
    """What an application with :func:`stbass.backends.celery.install` takes messages by where its broker is Redis."""

    Channel = Channel
    # An idle worker asks again after this many seconds, to see that the server is there; what comes wakes it at once.
    brpop_timeout = 3

    _looks: Any = None
    cycle: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = _Poller()

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """See kombu."""
        super().register_with_event_loop(connection, loop)
        self.cycle.readers, self.cycle.on_read = loop.readers, self.on_readable
        if self._looks is not None:
            self._looks.cancel()
        self._looks = loop.call_repeatedly(_TICK, self.cycle.maybe_check_brpop_health)
        if "health_check_interval" not in connection.client.transport_options:
            self.cycle._subclient_health_tref.cancel()
            check = self.cycle.maybe_check_subclient_health
            self.cycle._subclient_health_tref = loop.call_repeatedly(_HEALTH_CHECK, check)


class _PatientSentinelConnection(_Patient, SentinelManagedConnection):
    pass


class _PatientSentinelSSLConnection(_Patient, stock.SentinelManagedSSLConnection):
    pass


class SentinelChannel(Channel, stock.SentinelChannel):
    """The same where the master is, as Sentinel says."""

    connection_class = _PatientSentinelConnection
    connection_class_ssl = _PatientSentinelSSLConnection


class SentinelTransport(Transport, stock.SentinelTransport):
    """The same where the master is, as Sentinel says."""

    default_port = stock.SentinelTransport.default_port
    Channel = SentinelChannel
