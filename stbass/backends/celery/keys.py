"""What stbass keeps in Redis for processes on a fleet, and the scripts that change it.

The data model. All of it is in the result backend's database, and every key and every name of publish/subscribe begins
with the prefix that Celery's transport option ``global_keyprefix`` says (none by default). ``<id>`` is the process id,
which is also the Celery task id. Nothing here holds a clock reading of a producer or a worker, so that their clocks may
differ.

Keys (type; written by; read by; time to live):

``stbass:run:<id>``
    hash; the worker (claim, checkpoint); worker and producer; deleted when the result is stored.
    Fields: ``attempt`` (1, 2, ...: claims), ``worker`` (who holds it), ``queue``, ``reply`` (whom to tell), ``most``
    (how many workers it may lose: with the last of them it fails), ``deaths`` (how many it has lost: a claim after a
    worker that handed it back is an attempt, and no death), ``swept`` (the attempt whose worker was found to be lost,
    and counted), ``tag`` (kombu's delivery tag), ``checkpoint`` (wire text).
``stbass:leases``
    sorted set, id -> when the lease ends (ms, the server's clock); the worker; worker and producer; members go with
    their process.
``stbass:swept``
    string; worker and producer; nobody; an hour. When somebody last looked for leases that have run out (ms). It is
    written so that a server that refuses to write is noticed, see :class:`~stbass.backends.celery.sweep.Sweeper`.
``stbass:deadline:<id>``
    string; the producer, before sending; the worker (claim); the process's remaining time: gone when the time is over.
``stbass:cancelled:<id>``
    string; the producer; the worker (claim); ``CANCEL_TTL``.
``stbass:worker:<instance>``
    string (JSON of :class:`WorkerInfo`); the worker; producers; two leases, renewed. ``<instance>`` is another one each
    time a worker starts: two workers may have the same name.
``stbass:group:<id>``
    hash, an entry for each backend that has a part of it (JSON of :class:`~stbass.backends.celery.envelope.KeptGroup`);
    the producer; ``PLACED_PAR.attach``; as results.
``stbass:here:<uuid>``
    list (JSON of :class:`WorkerAnswer`); workers, to answer a health check; the producer that asked; ``HERE_TTL``.
``celery-task-meta-<id>``
    string (Celery's JSON); the worker; producer and Celery; Celery's ``result_expires``.
``celery-taskset-meta-<id>``
    string (Celery's JSON); the producer; Celery's ``GroupResult``; as results.

Channels of publish/subscribe. A server does not keep them apart by database, so they carry its number, ``<db>``:

``stbass:cancel:<db>``
    a JSON list of ids, and of :class:`Superseded`, to every Python process that runs processes: from producers what is
    cancelled, from workers what was begun by a process whose worker is lost.
``stbass:queue:<db>:<queue>``
    workers subscribe while they consume the queue, so the number of subscribers is the number of live workers, however
    they die. A health check sends the key of a list: workers that take messages answer there.
``stbass:alive:<db>:<instance>``
    nothing is sent: the worker subscribes to it, and the subscription ends with it, however it dies.
``stbass:name:<db>:<name>``
    JSON of :class:`WorkerInfo`, from a worker that starts to those that have the same name, and back.
``stbass:reply:<db>:<client>``
    JSON from workers to the producer that sent the process: started, progress, checkpoints, results.
"""

from __future__ import annotations

import re
from typing import Annotated

import msgspec

from stbass.transports.redis.address import RedisAddress

__all__ = [
    "CANCEL_TTL",
    "CHECKPOINT",
    "CLAIM",
    "FINISH",
    "HAND_BACK",
    "HERE_TTL",
    "RELEASE",
    "RENEW",
    "RESTORE",
    "RUNNING",
    "RUN_TTL",
    "SWEEP",
    "TOUCH",
    "FleetKeys",
    "Superseded",
    "WorkerAnswer",
    "WorkerInfo",
]

CANCEL_TTL = 3600
"""Seconds that a cancelled process is remembered, so that its message is not run when it is taken late."""
RUN_TTL = 7 * 86400
"""Seconds after which the record of a process that nobody finished is forgotten."""


HERE_TTL = 5
"""Seconds after which answers to a health check are forgotten."""


class WorkerInfo(msgspec.Struct):
    """What a worker announces."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
    pid: int
    queues: list[str]
    concurrency: Annotated[int, msgspec.Meta(ge=0)]
    include: list[str]
    instance: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    host: Annotated[str, msgspec.Meta(max_length=1000)] = ""


class WorkerAnswer(msgspec.Struct):
    """A worker's answer to a health check; ``blocked`` says what keeps it from running anything."""

    worker: Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
    blocked: Annotated[str, msgspec.Meta(max_length=4000)] = ""


class Superseded(msgspec.Struct):
    """What these attempts of a process have sent, while they ran on a worker, is to end: another one runs, or none."""

    inside: Annotated[str, msgspec.Meta(max_length=1000)]
    before: int


class FleetKeys:
    """The names that one fleet uses, under its prefix.

    Args:
        address: of the result backend.
    """

    def __init__(self, address: RedisAddress) -> None:
        self._prefix, self._database = address.prefix, address.database
        self.leases = self.key("leases")
        self.cancel_channel = f"{self.key('cancel')}:{self._database}"
        """On which producers say what is cancelled."""

    def key(self, name: str) -> str:
        """A key of ours."""
        return f"{self._prefix}stbass:{name}"

    def _channel(self, kind: str, name: str) -> str:
        return f"{self._prefix}stbass:{kind}:{self._database}:{name}"

    def pattern(self, name: str) -> str:
        """What matches all names that begin with this one."""
        return re.sub(r"([*?\[\]\\^-])", r"\\\1", name) + "*"

    def script(self, text: str) -> str:
        """A script of this module for this fleet."""
        prefix = "".join(f"\\{byte:03d}" for byte in self._prefix.encode())
        return text.replace("'stbass:", f"'{prefix}stbass:")

    def run(self, process_id: str) -> str:
        """Key of the record of a running process."""
        return self.key(f"run:{process_id}")

    def deadline(self, process_id: str) -> str:
        """Key that lives as long as the process may."""
        return self.key(f"deadline:{process_id}")

    def cancelled(self, process_id: str) -> str:
        """Key that tells that a process must not start."""
        return self.key(f"cancelled:{process_id}")

    def worker(self, instance: str) -> str:
        """Key of a worker's announcement."""
        return self.key(f"worker:{instance}")

    def group(self, group_id: str) -> str:
        """Key of what ``attach`` must know of a group."""
        return self.key(f"group:{group_id}")

    def here(self, number: str) -> str:
        """Key of the list at which a health check waits for answers."""
        return self.key(f"here:{number}")

    def alive_channel(self, instance: str) -> str:
        """Channel that a worker subscribes to for as long as it lives."""
        return self._channel("alive", instance)

    def name_channel(self, worker: str) -> str:
        """Channel on which workers of one name hear of each other."""
        return self._channel("name", worker)

    def queue_channel(self, queue: str) -> str:
        """Channel that every worker of a queue subscribes to."""
        return self._channel("queue", queue)

    def reply_channel(self, client_id: str) -> str:
        """Channel on which a producer hears of its processes."""
        return self._channel("reply", client_id)


CLAIM = """
-- Claim processes for a worker, many at once (at most 1000: a command's arguments go over Lua's stack).
-- ARGV: worker, result key prefix, run ttl (s), and packed (msgpack: an argument each would cost more than the work) a
--       list with, per process: id, lease (ms), has a deadline (0/1), reply, queue, how many workers it may lose,
--       delivery tag
-- Gives per process: status, attempt, remaining (ms, -1: no deadline), checkpoint or ''
-- status: go; done (its result is stored); busy (another worker holds its lease); cancelled; late; or lost: it has lost
--         as many workers as it may, then attempt is the last one, remaining is their number, a fifth value the worker
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local worker, prefix, ttl, jobs = ARGV[1], ARGV[2], ARGV[3], cmsgpack.unpack(ARGV[4])
local ids, marks = {}, {}
for index, job in ipairs(jobs) do
  ids[index] = job[1]
  marks[index * 3 - 2] = prefix .. job[1]
  marks[index * 3 - 1] = 'stbass:cancelled:' .. job[1]
  marks[index * 3] = 'stbass:run:' .. job[1]
end
-- Whoever found that a worker is lost holds its lease (see SWEEP), and must not keep the next worker waiting for it.
local function given_up(run)
  local swept, attempt = unpack(redis.call('HMGET', run, 'swept', 'attempt'))
  return swept and swept == attempt
end
-- How many workers it has lost. A lease that still stands although it is over is of a worker that did not hand it back.
local function deaths_of(run, lapsed)
  local deaths, swept, attempt = unpack(redis.call('HMGET', run, 'deaths', 'swept', 'attempt'))
  if lapsed and attempt and swept ~= attempt then
    redis.call('HSET', run, 'swept', attempt)
    return redis.call('HINCRBY', run, 'deaths', 1)
  end
  return tonumber(deaths or '0')
end
-- Most batches hold nothing but fresh processes, which two commands tell.
local fresh = redis.call('EXISTS', unpack(marks)) == 0
local ends = redis.call('ZMSCORE', 'stbass:leases', unpack(ids))
local out, started, leases, claimed = {}, {}, {}, {}
for index, job in ipairs(jobs) do
  local id, lease, timed, reply = unpack(job, 1, 4)
  local run = 'stbass:run:' .. id
  local status, attempt, remaining, checkpoint = 'go', 1, -1, ''
  if claimed[id] then
    status = 'busy'
  elseif not fresh and redis.call('EXISTS', prefix .. id) == 1 then
    status = 'done'
  elseif ends[index] and tonumber(ends[index]) > now and not given_up(run) then
    status = 'busy'
  elseif not fresh and redis.call('EXISTS', 'stbass:cancelled:' .. id) == 1 then
    status = 'cancelled'
  else
    local deaths = fresh and 0 or deaths_of(run, ends[index])
    if deaths >= job[6] then
      local found = redis.call('HMGET', run, 'attempt', 'checkpoint', 'worker')
      out[index] = {'lost', tonumber(found[1]), deaths, found[2] or '', found[3]}
      status = 'lost'
    elseif timed == 1 then
      remaining = redis.call('PTTL', 'stbass:deadline:' .. id)
      if remaining <= 0 then status = 'late' end
    end
  end
  if status == 'go' then
    claimed[id] = true
    if not fresh then
      attempt = tonumber(redis.call('HGET', run, 'attempt') or '0') + 1
      if attempt > 1 then checkpoint = redis.call('HGET', run, 'checkpoint') or '' end
    end
    redis.call('HSET', run, 'attempt', attempt, 'worker', worker, 'reply', reply, 'queue', job[5], 'most', job[6],
               'tag', job[7])
    redis.call('EXPIRE', run, ttl)
    table.insert(leases, now + lease)
    table.insert(leases, id)
    if reply ~= '' then
      if not started[reply] then started[reply] = {} end
      table.insert(started[reply], {id, attempt})
    end
  end
  if status ~= 'lost' then out[index] = {status, attempt, remaining, checkpoint} end
end
if #leases > 0 then redis.call('ZADD', 'stbass:leases', unpack(leases)) end
for reply, entries in pairs(started) do
  redis.call('PUBLISH', reply, cjson.encode({started = entries, worker = worker}))
end
return out
"""

SWEEP = """
-- Find processes whose lease has run out. ARGV: how long (ms) the finder has to deal with them, how many at most
-- Gives per process: id, whether it may lose no more workers (0/1), how many it has lost, then its record (tag, queue,
-- worker, attempt, reply, checkpoint). Until the time is over nobody else finds them; if the finder dies meanwhile,
-- somebody finds them then.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- First something is written: a server that refuses that has refused to renew leases, too, and says nothing of them.
redis.call('SET', 'stbass:swept', now, 'EX', 3600)
local out = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', 'stbass:leases', '-inf', now, 'LIMIT', 0, ARGV[2])) do
  local key = 'stbass:run:' .. id
  -- pcall: what somebody else has put under that name must not hide all others.
  local run = redis.pcall('HMGET', key, 'tag', 'queue', 'worker', 'attempt', 'reply', 'checkpoint')
  local known = redis.pcall('HMGET', key, 'most', 'deaths', 'swept')
  local most, deaths, swept = tonumber(known[1] or ''), tonumber(known[2] or '0'), known[3]
  if run[4] and most and deaths then
    redis.call('ZADD', 'stbass:leases', now + ARGV[1], id)
    if swept ~= run[4] then
      deaths = deaths + 1
      redis.call('HSET', key, 'deaths', deaths)
      -- The worker that lost it must see that it has, should it live after all.
      redis.call('HSET', key, 'swept', run[4])
    end
    for index = 1, 6 do run[index] = run[index] or '' end
    table.insert(out, {id, deaths >= most and 1 or 0, deaths, run})
  else
    redis.call('ZREM', 'stbass:leases', id)
  end
end
return out
"""

RUNNING = """
-- How many processes each worker runs now. Gives: worker, number, worker, number, ...
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local numbers, out = {}, {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', 'stbass:leases', '(' .. now, '+inf')) do
  local run = redis.pcall('HMGET', 'stbass:run:' .. id, 'worker', 'attempt', 'swept')
  local worker, attempt, swept = run[1], run[2], run[3]
  if worker and swept ~= attempt then numbers[worker] = (numbers[worker] or 0) + 1 end
end
for worker, number in pairs(numbers) do
  table.insert(out, worker)
  table.insert(out, number)
end
return out
"""

RELEASE = """
-- Give up the hold that SWEEP gave on a process, now that its message is back in the queue. ARGV: id
-- If a worker has claimed it already, the lease is that worker's.
local swept, attempt = unpack(redis.call('HMGET', 'stbass:run:' .. ARGV[1], 'swept', 'attempt'))
if swept == attempt then redis.call('ZREM', 'stbass:leases', ARGV[1]) end
return 0
"""

RESTORE = """
-- Put a message that nobody works on back into its queue, first in line. On the broker.
-- KEYS: unacked hash, unacked index, queue. ARGV: tag, when it was taken at the latest (s), the message
-- Gives 1, or 0 if somebody else has dealt with it or has just taken it.
local taken = redis.call('ZSCORE', KEYS[2], ARGV[1])
if not taken or tonumber(taken) > tonumber(ARGV[2]) then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('RPUSH', KEYS[3], ARGV[3])
return 1
"""

TOUCH = """
-- Note that messages are still being worked on, so that nobody gives them to another worker. On the broker.
-- KEYS: unacked index. ARGV: tags
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
for _, tag in ipairs(ARGV) do redis.call('ZADD', KEYS[1], 'XX', now, tag) end
return 0
"""

HAND_BACK = """
-- Give up leases, so that the next worker need not wait for them. ARGV: per process: id, attempt
-- If somebody else has it meanwhile, the lease is theirs.
for i = 1, #ARGV, 2 do
  if redis.call('HGET', 'stbass:run:' .. ARGV[i], 'attempt') == ARGV[i + 1] then
    redis.call('ZREM', 'stbass:leases', ARGV[i])
  end
end
return 0
"""

RENEW = """
-- Renew a worker's leases, all in one command. ARGV: then per process: id, attempt, lease (ms)
-- Gives the ids that are no longer this worker's: their leases ran out and somebody else took them.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lost = {}
for i = 1, #ARGV, 3 do
  local id = ARGV[i]
  local run = redis.call('HMGET', 'stbass:run:' .. id, 'attempt', 'swept')
  if run[1] == ARGV[i + 1] and run[2] ~= ARGV[i + 1] then
    redis.call('ZADD', 'stbass:leases', now + ARGV[i + 2], id)
  else
    table.insert(lost, id)
  end
end
return lost
"""

CHECKPOINT = """
-- Keep checkpoints, many at once. ARGV: per process: id, attempt, checkpoint
-- One that comes after the end, or from a worker that no longer holds the process, is dropped.
for i = 1, #ARGV, 3 do
  local run = 'stbass:run:' .. ARGV[i]
  if redis.call('HGET', run, 'attempt') == ARGV[i + 1] then
    redis.call('HSET', run, 'checkpoint', ARGV[i + 2])
  end
end
return 0
"""

FINISH = """
-- Store results, many at once (at most 1000), tell those who wait, and acknowledge the messages.
-- ARGV: result key prefix, result ttl (s; 0: none), packed (msgpack) a list with, per process: id, attempt (0: it never
--       started), result, reply, delivery tag; then kombu's unacked hash and index ('': they are on another server)
-- Gives per process 1, or 0 if it is no longer this worker's (then nothing is stored: the other one's result counts).
local prefix, ttl, jobs = ARGV[1], tonumber(ARGV[2]), cmsgpack.unpack(ARGV[3])
local channels = {}
for index, job in ipairs(jobs) do channels[index] = prefix .. job[1] end
-- Who waits for a single result, as Celery does, subscribes to its key; for most nobody does.
local listeners = redis.call('PUBSUB', 'NUMSUB', unpack(channels))
local out, replies, gone, ended, tags = {}, {}, {}, {}, {}
for index, job in ipairs(jobs) do
  local id, attempt, result, reply, tag = unpack(job, 1, 5)
  local run, key = 'stbass:run:' .. id, channels[index]
  local mine
  if attempt == 0 then
    mine = redis.call('EXISTS', key) == 0
  else
    mine = redis.call('HGET', run, 'attempt') == tostring(attempt)
  end
  if mine then
    if ttl > 0 then redis.call('SET', key, result, 'EX', ttl) else redis.call('SET', key, result) end
    table.insert(gone, run)
    table.insert(gone, 'stbass:deadline:' .. id)
    table.insert(ended, id)
    if listeners[index * 2] > 0 then redis.call('PUBLISH', key, result) end
    if reply ~= '' then
      if not replies[reply] then replies[reply] = {{}, {}} end
      -- A large result is fetched by who waits for it: a subscriber whose buffer overflows is cut off.
      if #result <= 65536 then
        table.insert(replies[reply][1], result)
      else
        table.insert(replies[reply][2], '"' .. id .. '"')
      end
    end
    out[index] = 1
  else
    out[index] = 0
  end
  -- If it is another worker's, so is its message, and may be all that there is of the process.
  if tag ~= '' and (mine or attempt == 0) then table.insert(tags, tag) end
end
if #ended > 0 then
  redis.call('DEL', unpack(gone))
  redis.call('ZREM', 'stbass:leases', unpack(ended))
end
if ARGV[4] ~= '' and #tags > 0 then
  redis.call('ZREM', ARGV[5], unpack(tags))
  redis.call('HDEL', ARGV[4], unpack(tags))
end
for reply, results in pairs(replies) do
  local small, large = table.concat(results[1], ','), table.concat(results[2], ',')
  redis.call('PUBLISH', reply, '{"results":[' .. small .. '],"ready":[' .. large .. ']}')
end
return out
"""
