"""What stbass keeps in Redis for runs that are followed, and the scripts that change it.

The data model; beside :mod:`stbass.backends.celery.keys`, in the same database and under the same prefix. ``<run>`` is
the id of a run, as its user gave it; the process that is the whole of it has an id of its own. Nothing of this is there
for processes that nobody has started as a run.

Keys (type; written by; read by; time to live):

``stbass:started:<run>``
    hash; who starts the run, and the workers that run a part of it; everybody; ``FOLLOW_TTL`` after a part of it was
    started last, and as results once it has ended. While it is there, the id is taken.
    Fields: ``process`` (id of the process), ``work`` (what it does, as a digest), ``kept`` (JSON of
    :class:`~stbass.backends.celery.producer.runs.KeptRun`; with a signature, if the fleet signs), ``sent`` (there once
    its message is in its queue), ``events`` (the number of the latest event), ``latest`` (JSON of :class:`Latest`; with
    a signature, if the fleet signs), ``queued started ended`` (when; ms, the server's clock).
``stbass:events:<run>``
    stream; the same; who follows the run; as the hash. The id of an entry is ``<number>-0``, and the number is that of
    the last event in it: events are numbered from 1. Only the latest ``MOST_EVENTS`` are kept, and as many more as are
    in one entry. Fields: ``at`` (when it was written; ms, the server's clock), ``n`` (how many events are in it),
    ``by`` (the process that it comes from), ``e`` (a JSON list with, per event: how many seconds before that it
    happened, and a :class:`~stbass.backends.celery.envelope.Told`; with a signature, if the fleet signs).
    The end of a run is not there: who follows it takes that from the result. Nothing is written after the result.

``stbass:runs``
    sorted set; who starts a run; who lists runs; as ``stbass:started:<run>``. The ids of the latest ``MOST_LISTED``
    runs, each with the time when it was started (ms, the server's clock).

``stbass:run:<id>``, the record of a process that runs (see :mod:`.keys`), has two fields more: ``batch`` (the attempt
and the number of the batch of its events that was written last: one that comes again is there already) and ``follow``
(the run that it is the whole of).

Channels of publish/subscribe:

``stbass:event:<db>:<run>``
    msgpack list from the scripts to who follows the run: the number of the latest event, and of a small entry also
    ``n``, ``at``, ``by`` and ``e``, so that who has all before it need not ask.
"""

from __future__ import annotations

import msgspec

from stbass.backends.celery.envelope import ABSENT

__all__ = ["FOLLOW_TTL", "MOST_LISTED", "RECORD", "START", "Latest"]

FOLLOW_TTL = 30 * 86400
"""Seconds after which a run of which nothing more is heard is forgotten."""
MOST_LISTED = 10_000
"""How many runs can be listed."""


class Latest(msgspec.Struct, omit_defaults=True):
    """How far the whole of a run is."""

    worker: str | None = None
    attempt: int = 1
    progress: tuple[float, float | None, str] | None = None
    checkpoint: msgspec.Raw = ABSENT


START = """
-- Start a run, unless its id is taken. ARGV: run, process id, ttl (s), first entry's text, its remaining time (ms; '':
-- no deadline), queue's key ('': the message is sent by other means), message, then the record: name, value, …
-- Gives 0, or the fields of the run that has the id: name, value, …
local record, events = 'stbass:started:' .. ARGV[1], 'stbass:events:' .. ARGV[1]
local known = redis.call('HGETALL', record)
if #known > 0 then return known end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', record, 'process', ARGV[2], 'queued', now, 'events', 1, unpack(ARGV, 8))
redis.call('DEL', events)
redis.call('XADD', events, '1-0', 'at', now, 'n', 1, 'by', ARGV[2], 'e', ARGV[4])
redis.call('EXPIRE', record, ARGV[3])
redis.call('EXPIRE', events, ARGV[3])
redis.call('ZADD', 'stbass:runs', now, ARGV[1])
redis.call('ZREMRANGEBYRANK', 'stbass:runs', 0, -10001)
redis.call('EXPIRE', 'stbass:runs', ARGV[3])
if ARGV[5] ~= '' then redis.call('SET', 'stbass:deadline:' .. ARGV[2], ARGV[1], 'PX', ARGV[5]) end
if ARGV[6] ~= '' then redis.call('LPUSH', ARGV[6], ARGV[7]) end
return 0
"""

RECORD = """
-- Keep events, many at once, and with them the checkpoints that were made among them. ARGV: the worker's life, result
-- key prefix, number of the database, how many events are kept, ttl (s), and packed (msgpack) a list with, per process:
-- run, process id, attempt, number of this batch of it, entries (a list of: how many events, text), checkpoint or '',
-- latest or '', whether it has just started (0/1), which time they have at least (ms)
-- What comes from a worker that no longer holds the process is dropped, and so is what comes after the end of the run;
-- a batch that comes again is there already. Gives per process the time that its events have (ms), 1 if they are there
-- already, or 0 if they were dropped.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local out = {}
for index, job in ipairs(cmsgpack.unpack(ARGV[6])) do
  local id, process, attempt, batch, entries, checkpoint, latest, starts, least = unpack(job, 1, 9)
  local at = math.max(now, least)
  local run, record, events = 'stbass:run:' .. process, 'stbass:started:' .. id, 'stbass:events:' .. id
  local known, life, last = unpack(redis.call('HMGET', run, 'attempt', 'life', 'batch'))
  local mark = attempt .. ':' .. batch
  local mine = known == tostring(attempt) and life == ARGV[1]
  out[index] = 0
  if mine and last == mark then
    out[index] = 1
  elseif mine then
    local whole, noted = redis.call('HGET', record, 'process'), {'batch', mark}
    if whole == process then noted = {'batch', mark, 'follow', id} end
    if checkpoint ~= '' then
      table.insert(noted, 'checkpoint')
      table.insert(noted, checkpoint)
    end
    redis.call('HSET', run, unpack(noted))
    if whole and redis.call('EXISTS', ARGV[2] .. whole) == 0 then
      out[index] = at
      for _, entry in ipairs(entries) do
        local count, text = entry[1], entry[2]
        local number = redis.call('HINCRBY', record, 'events', count)
        redis.call('XADD', events, 'MINID', math.max(0, number - ARGV[4] + 1), number .. '-0', 'at', at, 'n', count,
                   'by', process, 'e', text)
        local told = {number}
        if #text <= 65536 then told = {number, count, at, process, text} end
        redis.call('PUBLISH', 'stbass:event:' .. ARGV[3] .. ':' .. id, cmsgpack.pack(told))
      end
      if whole == process and latest ~= '' then redis.call('HSET', record, 'latest', latest) end
      if starts == 1 then
        if whole == process then redis.call('HSETNX', record, 'started', now) end
        redis.call('EXPIRE', record, ARGV[5])
        redis.call('EXPIRE', events, ARGV[5])
      end
    end
  end
end
return out
"""
