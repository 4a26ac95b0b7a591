"""What stbass keeps in Redis for processes on a fleet, and the scripts that change it.

The data model. All of it is in the result backend's database, and every key and every name of publish/subscribe begins
with the prefix that Celery's transport option ``global_keyprefix`` says (none by default). ``<id>`` is the process id,
which is also the Celery task id. Nothing here holds a clock reading of a producer or a worker, so that their clocks may
differ.

Keys (type; written by; read by; time to live):

``stbass:run:<id>``
    hash; the worker (claim, checkpoint); worker and producer; deleted when the result is stored.
    Fields: ``attempt`` (1, 2, ...: claims), ``worker`` (who holds it), ``life`` (of that worker: another one each time
    it is started), ``queue``, ``reply`` (whom to tell), ``most`` (how many workers it may lose: with the last of them
    it fails), ``deaths`` (how many have died under it: a claim after a worker that handed it back is an attempt, and no
    death), ``blame`` (its part in these deaths, see ``_DEATHS``), ``share`` (``<attempt>:<its part>`` in the death that
    is being dealt with), ``swept`` (the attempt whose worker was found to be lost, and counted), ``tag`` (kombu's
    delivery tag), ``lent`` (1 while it waits for others and its worker runs another message in its place),
    ``checkpoint`` (wire text), ``sig`` (of its id, if the fleet signs). If the fleet signs, the
    checkpoint is a JSON list of a signature and the text.
``stbass:leases``
    sorted set, id -> when the lease ends (ms, the server's clock); the worker; worker and producer; members go with
    their process.
``stbass:ended:<n>``
    set of ids; the worker (result); the worker (claim: a message that comes again is refused, also if the result is
    gone); twice as long as results. ``<n>`` counts times to live of results, so that two sets are enough.
``stbass:since``
    string; whoever finds none; workers; for ever. When the server began to keep the fleet's data (microseconds, its own
    clock): if it is another than before, they were lost.
``stbass:swept``
    string; worker and producer; nobody; an hour. When somebody last looked for leases that have run out (ms). It is
    written so that a server that refuses to write is noticed, see :class:`~stbass.backends.celery.sweep.Sweeper`.
``stbass:deadline:<id>``
    string; the producer, before sending; the worker (claim); the process's remaining time: gone when the time is over.
``stbass:cancelled:<id>``
    string (1, or a signature); the producer; the worker (claim); ``CANCEL_TTL``.
``stbass:worker:<instance>``
    string (JSON of :class:`WorkerInfo`); the worker; producers; two leases, renewed. ``<instance>`` is another one each
    time a worker starts: two workers may have the same name.
``stbass:group:<id>``
    hash, an entry for each backend that has a part of it (JSON of :class:`~stbass.backends.celery.envelope.KeptGroup`;
    with a signature, if the fleet signs); the producer; ``PLACED_PAR.attach``; as results.
``stbass:here:<uuid>``
    list (JSON of :class:`WorkerAnswer`); workers, to answer a health check; the producer that asked; ``HERE_TTL``.
``celery-task-meta-<id>``
    string (Celery's JSON); the worker; producer and Celery; Celery's ``result_expires``.
``celery-taskset-meta-<id>``
    string (Celery's JSON); the producer; Celery's ``GroupResult``; as results.

Channels of publish/subscribe. A server does not keep them apart by database, so they carry its number, ``<db>``:

``stbass:cancel:<db>``
    a JSON list of ids, and of :class:`Superseded`, to every Python process that runs processes: from producers what is
    cancelled, from workers what was begun by a process whose worker is lost. If the fleet signs, a list of a signature
    and that list.
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
    "KNOWN",
    "LEND",
    "NOWHERE",
    "RELEASE",
    "RENEW",
    "RESTORE",
    "REWRITE",
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
        self._prefix, self.database = address.prefix, address.database
        self.leases = self.key("leases")
        self.cancel_channel = f"{self.key('cancel')}:{self.database}"
        """On which producers say what is cancelled."""

    def key(self, name: str) -> str:
        """A key of ours."""
        return f"{self._prefix}stbass:{name}"

    def _channel(self, kind: str, name: str) -> str:
        return f"{self._prefix}stbass:{kind}:{self.database}:{name}"

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

    def started(self, run_id: str) -> str:
        """Key of the record of a run."""
        return self.key(f"started:{run_id}")

    def events(self, run_id: str) -> str:
        """Key of the events of a run."""
        return self.key(f"events:{run_id}")

    @property
    def runs(self) -> str:
        """Key of the list of runs."""
        return self.key("runs")

    def event_channel(self, run_id: str) -> str:
        """Channel on which who follows a run hears of its events."""
        return self._channel("event", run_id)

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


_SERVER = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- Since when the server keeps the fleet's data.
local function since()
  local known = redis.call('GET', 'stbass:since')
  if not known then
    known = time[1] .. string.format('%06d', time[2])
    redis.call('SET', 'stbass:since', known)
  end
  return known
end
-- The set of those that have ended, of this time to live (s; 0: for ever) of results or the one before.
local function ended_in(ttl, before)
  return 'stbass:ended:' .. (ttl > 0 and string.format('%d', math.floor(now / 1000 / ttl) - before) or '0')
end
local function has_ended(id, ttl)
  return redis.call('SISMEMBER', ended_in(ttl, 0), id) == 1 or redis.call('SISMEMBER', ended_in(ttl, 1), id) == 1
end
"""

_DEATHS = """
-- Whose fault is it that a worker died? Each death is shared out among the processes that ran there: first among all
-- alike; and once some of them are suspects, because two workers have died under them, among these, in the measure of
-- what each has to its blame. Suspects run together only as long as it is likely that none of them kills (CLAIM), so
-- that after a few deaths nearly all of them are put down to the one that kills, and others have no part in them.
local SUSPECT, LEAST = 2, 0.001
local function weight_of(deaths, blame)
  if (tonumber(deaths or '') or 0) < SUSPECT then return nil end
  return math.max(LEAST, tonumber(blame or '') or 0)
end
-- The part of a process in the death of its worker. Noted for all that ran there when the first of them is found: they
-- are found one by one.
local function share_of(id)
  local run = 'stbass:run:' .. id
  local life, attempt, share = unpack(redis.call('HMGET', run, 'life', 'attempt', 'share'))
  local of, noted = string.match(share or '', '^(%d+):([%d.]+)$')
  if of == attempt then return tonumber(noted) end
  local there, suspected = {}, 0
  for _, other in ipairs(redis.call('ZRANGE', 'stbass:leases', 0, -1)) do
    -- pcall: what somebody else has put under that name must not hide all others.
    local found = redis.pcall('HMGET', 'stbass:run:' .. other, 'life', 'attempt', 'deaths', 'blame')
    if found[2] and found[1] == life then
      local weight = weight_of(found[3], found[4])
      suspected = suspected + (weight or 0)
      table.insert(there, {other, found[2], weight})
    end
  end
  for _, one in ipairs(there) do
    local part = suspected == 0 and 1 / #there or (one[3] or 0) / suspected
    redis.call('HSET', 'stbass:run:' .. one[1], 'share', one[2] .. ':' .. string.format('%.6f', part))
    if one[1] == id then share = part end
  end
  return tonumber(share) or 1
end
-- Count that the worker of this attempt has died, once. Gives how many have, and the blame.
local function losses(id, died)
  local run = 'stbass:run:' .. id
  local deaths, blame, swept, attempt = unpack(redis.call('HMGET', run, 'deaths', 'blame', 'swept', 'attempt'))
  deaths, blame = tonumber(deaths or '') or 0, tonumber(blame or '') or 0
  if died and attempt and swept ~= attempt then
    deaths, blame = deaths + 1, blame + share_of(id)
    -- The worker that lost it must see that it has, should it live after all.
    redis.call('HSET', run, 'deaths', deaths, 'blame', string.format('%.6f', blame), 'swept', attempt)
  end
  return deaths, blame
end
-- Whether it may lose no more workers.
local function is_enough(deaths, blame, most)
  return deaths > 0 and (most == 1 or blame > most - 0.01)
end
"""

CLAIM = (
    _SERVER
    + _DEATHS
    + """
-- Claim processes for a worker, many at once (at most 1000: a command's arguments go over Lua's stack).
-- ARGV: worker, its life, result key prefix, run ttl (s), result ttl (s), how many suspects run there, their blame, and
--       packed (msgpack: an argument each would cost more than the work) a list with, per process: id, lease (ms), has
--       a deadline (0/1), reply, queue, how many workers it may lose, delivery tag, signature of its record, whether it
--       is known that nobody has cancelled it (0/1), whether it may have to wait apart (0/1)
-- Gives since when the server keeps the fleet's data, and then per process: status, attempt, remaining (ms, -1: no
-- deadline), checkpoint or '', blame if it is a suspect ('': it is none), whether its record was forged (0/1)
-- status: go; done (its result is stored); again (it has ended, and its result is gone); busy (another worker holds its
--         lease); cancelled (checkpoint is then what says so); late; apart (a suspect that must wait until others have
--         ended here); or lost: it has lost as many workers as it may, then attempt is the last one, remaining is how
--         many have died, blame the worker
local worker, life, prefix, ttl, result_ttl = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local suspects, suspected, jobs = tonumber(ARGV[6]), tonumber(ARGV[7]), cmsgpack.unpack(ARGV[8])
local TOGETHER = 0.25
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
-- Whether the record is one that no worker has made: then it is not there any more.
local function forged(run, sig)
  local attempt, found = unpack(redis.call('HMGET', run, 'attempt', 'sig'))
  if (found or '') == sig or not (attempt or redis.call('EXISTS', run) == 1) then return false end
  redis.call('DEL', run)
  return true
end
-- Most batches hold nothing but fresh processes, which a few commands tell.
local fresh = redis.call('EXISTS', unpack(marks)) == 0
local ends = redis.call('ZMSCORE', 'stbass:leases', unpack(ids))
local lately = redis.call('SMISMEMBER', ended_in(result_ttl, 0), unpack(ids))
local before = redis.call('SMISMEMBER', ended_in(result_ttl, 1), unpack(ids))
local out, started, leases, claimed = {since()}, {}, {}, {}
for index, job in ipairs(jobs) do
  local id, lease, timed, reply = unpack(job, 1, 4)
  local run = 'stbass:run:' .. id
  local status, attempt, remaining, checkpoint, blame, is_forged = 'go', 1, -1, '', '', 0
  if claimed[id] then
    status = 'busy'
  elseif not fresh and redis.call('EXISTS', prefix .. id) == 1 then
    status = 'done'
  elseif lately[index] == 1 or before[index] == 1 then
    status = 'again'
  elseif ends[index] and tonumber(ends[index]) > now and not given_up(run) then
    status = 'busy'
  elseif not fresh and job[9] == 0 and redis.call('EXISTS', 'stbass:cancelled:' .. id) == 1 then
    status, checkpoint = 'cancelled', redis.call('GET', 'stbass:cancelled:' .. id)
  else
    local deaths, blamed = 0, 0
    if not fresh then
      if forged(run, job[8]) then is_forged = 1 end
      -- A lease that still stands although it is over is of a worker that did not hand it back.
      deaths, blamed = losses(id, ends[index])
    end
    if is_enough(deaths, blamed, job[6]) then
      local found = redis.call('HMGET', run, 'attempt', 'checkpoint', 'worker')
      status, attempt, remaining = 'lost', tonumber(found[1]), deaths
      checkpoint, blame = found[2] or '', found[3]
    else
      local weight = weight_of(deaths, blamed)
      if timed == 1 then
        remaining = redis.call('PTTL', 'stbass:deadline:' .. id)
        if remaining <= 0 then status = 'late' end
      end
      if status == 'go' and weight then
        if job[10] == 1 and suspects > 0 and suspected + weight > TOGETHER then
          status = 'apart'
        else
          suspects, suspected, blame = suspects + 1, suspected + weight, string.format('%.6f', weight)
        end
      end
    end
  end
  if status == 'go' then
    claimed[id] = true
    if not fresh then
      attempt = tonumber(redis.call('HGET', run, 'attempt') or '0') + 1
      if attempt > 1 then checkpoint = redis.call('HGET', run, 'checkpoint') or '' end
    end
    redis.call('HSET', run, 'attempt', attempt, 'worker', worker, 'life', life, 'reply', reply, 'queue', job[5],
               'most', job[6], 'tag', job[7], 'sig', job[8])
    redis.call('EXPIRE', run, ttl)
    if attempt > 1 then redis.call('HDEL', run, 'lent') end
    table.insert(leases, now + lease)
    table.insert(leases, id)
    if reply ~= '' then
      if not started[reply] then started[reply] = {} end
      table.insert(started[reply], {id, attempt})
    end
  end
  out[index + 1] = {status, attempt, remaining, checkpoint, blame, is_forged}
end
if #leases > 0 then redis.call('ZADD', 'stbass:leases', unpack(leases)) end
for reply, entries in pairs(started) do
  redis.call('PUBLISH', reply, cjson.encode({started = entries, worker = worker}))
end
return out
"""
)

SWEEP = (
    _SERVER
    + _DEATHS
    + """
-- Find processes whose lease has run out. ARGV: how long (ms) the finder has to deal with them, how many at most
-- Gives per process: id, whether it may lose no more workers (0/1), how many have died under it, whether it is a
-- suspect (0/1), then its record (tag, queue, worker, attempt, reply, sig, checkpoint). Until the time is over nobody
-- else finds them; if the finder dies meanwhile, somebody finds them then.
-- First something is written: a server that refuses that has refused to renew leases, too, and says nothing of them.
redis.call('SET', 'stbass:swept', now, 'EX', 3600)
local out = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', 'stbass:leases', '-inf', now, 'LIMIT', 0, ARGV[2])) do
  local key = 'stbass:run:' .. id
  -- pcall: what somebody else has put under that name must not hide all others.
  local run = redis.pcall('HMGET', key, 'tag', 'queue', 'worker', 'attempt', 'reply', 'sig', 'checkpoint')
  local most = tonumber(redis.pcall('HMGET', key, 'most')[1] or '')
  if run[4] and most then
    local deaths, blame = losses(id, true)
    redis.call('ZADD', 'stbass:leases', now + ARGV[1], id)
    for index = 1, 7 do run[index] = run[index] or '' end
    local is_suspect = weight_of(deaths, blame) and 1 or 0
    table.insert(out, {id, is_enough(deaths, blame, most) and 1 or 0, deaths, is_suspect, run})
  else
    redis.call('ZREM', 'stbass:leases', id)
  end
end
return out
"""
)

RUNNING = """
-- How many processes each worker runs now, but for those that lend their places. Gives: worker, number, ...
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local numbers, out = {}, {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', 'stbass:leases', '(' .. now, '+inf')) do
  local run = redis.pcall('HMGET', 'stbass:run:' .. id, 'worker', 'attempt', 'swept', 'lent')
  local worker, attempt, swept, lent = run[1], run[2], run[3], run[4]
  if worker and swept ~= attempt and not lent then numbers[worker] = (numbers[worker] or 0) + 1 end
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
-- Put a message that nobody works on back into its queue. On the broker.
-- KEYS: unacked hash, unacked index, queue. ARGV: tag, when it was taken at the latest (s), the message, whether it is
-- to be the last in line (0/1) and not the first
-- Gives 1, or 0 if somebody else has dealt with it or has just taken it.
local taken = redis.call('ZSCORE', KEYS[2], ARGV[1])
if not taken or tonumber(taken) > tonumber(ARGV[2]) then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call(ARGV[4] == '1' and 'LPUSH' or 'RPUSH', KEYS[3], ARGV[3])
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

LEND = """
-- Note which processes lend their places. ARGV: the worker's life, then per process: id, attempt, 1 (it lends it) or -1
-- (it has it again)
for i = 2, #ARGV, 3 do
  local run = 'stbass:run:' .. ARGV[i]
  local attempt, life = unpack(redis.call('HMGET', run, 'attempt', 'life'))
  if attempt == ARGV[i + 1] and life == ARGV[1] then
    if ARGV[i + 2] == '1' then redis.call('HSET', run, 'lent', 1) else redis.call('HDEL', run, 'lent') end
  end
end
return 0
"""

HAND_BACK = """
-- Give up leases, so that the next worker need not wait for them. ARGV: the worker's life, then per process: id,
-- attempt
-- If somebody else has it meanwhile, the lease is theirs.
for i = 2, #ARGV, 2 do
  local attempt, life = unpack(redis.call('HMGET', 'stbass:run:' .. ARGV[i], 'attempt', 'life'))
  if attempt == ARGV[i + 1] and life == ARGV[1] then redis.call('ZREM', 'stbass:leases', ARGV[i]) end
end
return 0
"""

RENEW = (
    _SERVER
    + """
-- Renew a worker's leases, all in one command. ARGV: its life, result key prefix, result ttl (s), then per process: id,
-- attempt, lease (ms)
-- Gives since when the server keeps the fleet's data; the ids that are no longer this worker's: their leases ran out
-- and somebody else took them; and those of which nobody knows anything any more.
local life, prefix, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3])
local lost, gone = {}, {}
for i = 4, #ARGV, 3 do
  local id = ARGV[i]
  local run = redis.call('HMGET', 'stbass:run:' .. id, 'attempt', 'life', 'swept')
  if run[1] == ARGV[i + 1] and run[2] == life and run[3] ~= ARGV[i + 1] then
    redis.call('ZADD', 'stbass:leases', now + ARGV[i + 2], id)
  elseif run[1] or redis.call('EXISTS', prefix .. id) == 1 or has_ended(id, ttl) then
    table.insert(lost, id)
  else
    table.insert(gone, id)
  end
end
return {since(), lost, gone}
"""
)

REWRITE = (
    _SERVER
    + """
-- Write again the records of processes of which a worker still holds the lease, but which the server does not have any
-- more. ARGV: worker, its life, run ttl (s), and packed (msgpack) a list with, per process: id, attempt, lease (ms),
-- reply, queue, how many workers it may lose, delivery tag, signature of its record, checkpoint or ''
-- What somebody else has claimed meanwhile is theirs.
for _, job in ipairs(cmsgpack.unpack(ARGV[4])) do
  local run = 'stbass:run:' .. job[1]
  if redis.call('EXISTS', run) == 0 then
    redis.call('HSET', run, 'attempt', job[2], 'worker', ARGV[1], 'life', ARGV[2], 'reply', job[4], 'queue', job[5],
               'most', job[6], 'tag', job[7], 'sig', job[8])
    if job[9] ~= '' then redis.call('HSET', run, 'checkpoint', job[9]) end
    redis.call('EXPIRE', run, ARGV[3])
    redis.call('ZADD', 'stbass:leases', now + job[3], job[1])
  end
end
return 0
"""
)

CHECKPOINT = """
-- Keep checkpoints, many at once. ARGV: the worker's life, then per process: id, attempt, checkpoint
-- One that comes after the end, or from a worker that no longer holds the process, is dropped.
for i = 2, #ARGV, 3 do
  local run = 'stbass:run:' .. ARGV[i]
  local attempt, life = unpack(redis.call('HMGET', run, 'attempt', 'life'))
  if attempt == ARGV[i + 1] and life == ARGV[1] then redis.call('HSET', run, 'checkpoint', ARGV[i + 2]) end
end
return 0
"""

FINISH = (
    _SERVER
    + """
-- Store results, many at once (at most 1000), tell those who wait, and acknowledge the messages.
-- ARGV: result key prefix, result ttl (s; 0: none), packed (msgpack) a list with, per process: id, attempt (0: it never
--       started), result, reply, delivery tag, the worker's life ('': whoever's it was), and of the whole of a run (see
--       run_keys) the id of that; then kombu's unacked hash and index ('': they are on another server)
-- Gives per process 1, or 0 if it is no longer this worker's (then nothing is stored: the other one's result counts).
local prefix, ttl, jobs = ARGV[1], tonumber(ARGV[2]), cmsgpack.unpack(ARGV[3])
local channels = {}
for index, job in ipairs(jobs) do channels[index] = prefix .. job[1] end
-- Who waits for a single result, as Celery does, subscribes to its key; for most nobody does.
local listeners = redis.call('PUBSUB', 'NUMSUB', unpack(channels))
local out, replies, gone, ended, tags = {}, {}, {}, {}, {}
for index, job in ipairs(jobs) do
  local id, attempt, result, reply, tag, life, followed = unpack(job, 1, 7)
  local run, key = 'stbass:run:' .. id, channels[index]
  local known, whose = unpack(redis.call('HMGET', run, 'attempt', 'life'))
  local mine
  if attempt > 0 and known then
    mine = known == tostring(attempt) and (life == '' or whose == life)
  else
    -- It never started, or the server has lost its record: then the first result counts.
    mine = redis.call('EXISTS', key) == 0 and (attempt == 0 or not has_ended(id, ttl))
  end
  if mine then
    if ttl > 0 then redis.call('SET', key, result, 'EX', ttl) else redis.call('SET', key, result) end
    table.insert(gone, run)
    table.insert(gone, 'stbass:deadline:' .. id)
    table.insert(ended, id)
    if followed and redis.call('HGET', 'stbass:started:' .. followed, 'process') == id then
      redis.call('HSET', 'stbass:started:' .. followed, 'ended', now)
      for _, kept in ipairs({'stbass:started:' .. followed, 'stbass:events:' .. followed}) do
        if ttl > 0 then redis.call('EXPIRE', kept, ttl) else redis.call('PERSIST', kept) end
      end
    end
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
  redis.call('SADD', ended_in(ttl, 0), unpack(ended))
  if ttl > 0 then redis.call('EXPIRE', ended_in(ttl, 0), 2 * ttl) end
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
)

KNOWN = """
-- Which processes nobody works on, and have no result. ARGV: result key prefix, and packed (msgpack) their ids
-- Gives per process 0: somebody works on it or it has ended; 1: it has a record; 2: nothing is known of it.
local out = {}
for index, id in ipairs(cmsgpack.unpack(ARGV[2])) do
  if redis.call('ZSCORE', 'stbass:leases', id) or redis.call('EXISTS', ARGV[1] .. id) == 1 then
    out[index] = 0
  else
    out[index] = redis.call('EXISTS', 'stbass:run:' .. id) == 1 and 1 or 2
  end
end
return out
"""

NOWHERE = """
-- Which messages of ours are neither in a queue nor taken from it. On the broker.
-- KEYS: unacked hash, queue. ARGV: how many messages are looked at, and packed (msgpack) a list of their delivery tags
-- Gives the tags that are nowhere; none, if the queue is too long to tell.
local length = redis.call('LLEN', KEYS[2])
if length > tonumber(ARGV[1]) then return {} end
local queued, out = {}, {}
for start = 0, length - 1, 500 do
  -- Ours end in: "delivery_tag":"<36 characters>"}}
  for _, raw in ipairs(redis.call('LRANGE', KEYS[2], start, start + 499)) do queued[raw:sub(-39, -4)] = true end
end
for _, tag in ipairs(cmsgpack.unpack(ARGV[2])) do
  if not queued[tag] and redis.call('HEXISTS', KEYS[1], tag) == 0 then table.insert(out, tag) end
end
return out
"""
