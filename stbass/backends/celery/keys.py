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
    ``checkpoint`` (wire text), ``sig`` (of its id, if the fleet signs), ``turn`` (if its queue has a limit: see
    ``stbass:line``). If the fleet signs, the checkpoint is a JSON list of a signature and the text.
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
    string; worker and producer; worker; an hour. When somebody last looked for leases that have run out (ms; 0: nobody
    has yet): one that has run out since may be that of a worker that could not renew it. It is also written so that a
    server that refuses to write is noticed, see :class:`~stbass.backends.celery.sweep.Sweeper`.
``stbass:swept:queues``
    hash, queue -> when it was last found that a process of it has lost its worker (ms, the server's clock); worker and
    producer; ``stbass status``; for ever.
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
``stbass:limits``
    hash, queue -> its limit, ``<running>,<rate>,<seconds>,<who set it>`` (numbers may be left out; who: ``settings`` or
    ``command``); ``stbass limit``, and workers whose settings name one; all scripts that begin or end processes; for
    ever.
``stbass:limit:<queue>``
    hash; scripts; scripts; for ever. Fields: ``next`` (ms: when the next process may begin by the rate, if they come
    evenly), ``alarm`` (ms: for when a worker has promised to look who may begin).
``stbass:places:<queue>``
    sorted set, id -> ``inf``: it runs; or its turn: it may begin, and its message is on its way; scripts; scripts; a
    member goes when its process ends, is handed back, or loses its worker. There is one only for a queue with a limit.
``stbass:calls:<queue>``
    sorted set, id -> when its place is taken back if it has not begun until then (ms); as before.
``stbass:line:<queue>``
    sorted set, id -> its turn; a worker (what the limit of its queue keeps from running); scripts; until it is called.
    A turn is when its message was first taken from the queue (microseconds, the server's clock).
``stbass:due:<queue>``
    sorted set, id -> when the deadline of one that waits in line is over (ms); as before.
``stbass:parked``
    hash, id -> msgpack of: queue, reply, name, deadline (s), message (JSON, as in a queue), the run of which it is the
    whole; a worker, for what waits in line; scripts; until the message is in its queue again, or the process has ended.
``stbass:free:<life>``
    string; a worker that has nothing left to do (result); the producer that gives it a message (GIVE), or the worker
    that takes one, deletes it; a second. Only if queues are in this database.
``stbass:idle:<queue>``
    sorted set, a worker's life -> when it had nothing left to do (ms, the server's clock); the worker (result); the
    producer (GIVE), which gives a message to the one that was idle last, if it is still free; a second.
``stbass:given:<life>``
    hash, kombu's delivery tag -> queue of a message that a producer has given to this worker; the producer; the worker,
    if it may not have heard of it; until its result is stored, or for ten minutes.
``stbass:here:<uuid>``
    list (JSON of :class:`WorkerAnswer`); workers, to answer a health check; the producer that asked; ``HERE_TTL``. At
    ``stbass:here:<uuid>:detailed`` they also say what they run.
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
``stbass:given:<db>:<life>``
    a message, as it would be in a queue, from a producer to a worker that has nothing to do.
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
    "GIVE",
    "GIVEN",
    "GIVE_BACK",
    "HAND_BACK",
    "HERE_TTL",
    "KNOWN",
    "LEAVE",
    "LEND",
    "LIMIT",
    "MOST_TOLD",
    "NOWHERE",
    "PARK",
    "RELEASE",
    "RENEW",
    "RESTORE",
    "REWRITE",
    "RUNNING",
    "RUN_TTL",
    "SENT",
    "STALE",
    "SWEEP",
    "TEND",
    "TOUCH",
    "FailedProcess",
    "FleetKeys",
    "RunningProcess",
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
    signs: Annotated[str, msgspec.Meta(max_length=100)] = ""
    """What tells its signing key from others, without giving it away; empty: it does not sign."""


MOST_TOLD = 50
"""Of how many processes that run a worker tells, and of how many that have failed."""
_DETAILED = ":detailed"
_Text = Annotated[str, msgspec.Meta(max_length=4000)]


class RunningProcess(msgspec.Struct):
    """A process that a worker runs, as it tells of it; times are seconds."""

    id: _Text
    name: _Text
    queue: _Text
    attempt: int
    age: float
    left: float | None = None
    """To its deadline."""
    progress: _Text = ""
    checkpoint: _Text = ""
    run: _Text = ""
    """The run that it is part of."""
    is_whole: bool = False
    """Whether it is the whole of that run."""


class FailedProcess(msgspec.Struct):
    """A process that has failed on a worker, ``ago`` seconds ago."""

    id: _Text
    name: _Text
    queue: _Text
    attempt: int
    error: _Text
    run: _Text = ""
    ago: float = 0.0


class WorkerAnswer(msgspec.Struct):
    """A worker's answer to a health check; ``blocked`` says what keeps it from running anything.

    What runs there and what has failed is told to who asks for it. On Celery's pools of Python processes it is not
    known: ``running``, how many processes of each queue run, is then None.
    """

    worker: Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
    instance: Annotated[str, msgspec.Meta(max_length=100)] = ""
    """As it is announced: two workers may have the same name. Empty: of a worker that does not say it yet."""
    blocked: _Text = ""
    running: dict[str, int] | None = None
    oldest: list[RunningProcess] = []
    """Those that have run longest."""
    failed: list[FailedProcess] = []
    """The latest first."""


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
        self.limits = self.key("limits")
        self.lost = self.key("swept:queues")
        self.parked = self.key("parked")
        self.cancel_channel = f"{self.key('cancel')}:{self.database}"
        """On which producers say what is cancelled."""
        self.replies = self._channel("reply", "")
        """What the names begin with of channels on which producers hear of their processes."""

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

    def places(self, queue: str) -> str:
        """Key of what has a place under the limit of a queue."""
        return self.key(f"places:{queue}")

    def line(self, queue: str) -> str:
        """Key of what waits for the limit of a queue."""
        return self.key(f"line:{queue}")

    def group(self, group_id: str) -> str:
        """Key of what ``attach`` must know of a group."""
        return self.key(f"group:{group_id}")

    def here(self, number: str, detailed: bool = False) -> str:
        """Key of the list at which a health check waits for answers; ``detailed``: it asks what runs there, too."""
        return self.key(f"here:{number}{_DETAILED if detailed else ''}")

    def asks_what_runs(self, here: str) -> bool:
        """Whether the health check that waits there asks that."""
        return here.endswith(_DETAILED)

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

    def given_channel(self, life: str) -> str:
        """Channel on which a worker is given messages."""
        return self._channel("given", life)

    def name_channel(self, worker: str) -> str:
        """Channel on which workers of one name hear of each other."""
        return self._channel("name", worker)

    def queue_channel(self, queue: str) -> str:
        """Channel that every worker of a queue subscribes to."""
        return self._channel("queue", queue)

    def reply_channel(self, client_id: str) -> str:
        """Channel on which a producer hears of its processes."""
        return f"{self.replies}{client_id}"


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

_LIMITS = """
-- Limits of queues. A process that its queue's limit keeps from running waits in line, and its message beside it. Who
-- ends, changes a limit or finds a worker to be lost calls the next: it gets a place, and its message goes back to the
-- head of its queue, by hand of the script if the queue is on this server, else of whoever runs the script.
local CALL_MS, SEND_MS, EVEN, PAUSE_MS = 600000, 10000, 0.05, 20
local limits = {}
local function limit_of(queue)
  if limits[queue] == nil then
    local text = redis.pcall('HGET', 'stbass:limits', queue)
    local running, rate, per = string.match(type(text) == 'string' and text or '', '^(%d*),(%d*),(%d*),')
    running, rate, per = tonumber(running), tonumber(rate), tonumber(per)
    limits[queue] = (running or rate and rate > 0 and per) and {running = running, rate = rate, per = per} or false
  end
  return limits[queue]
end
-- How many may begin now, and if none only for the rate: in how many ms.
local function room_in(queue, limit)
  local room = limit.running and limit.running - redis.call('ZCARD', 'stbass:places:' .. queue) or math.huge
  if room < 1 or not limit.rate then return room, nil end
  -- Evenly, but for a part of the time in which those may catch up that come late or all at once.
  local gap = limit.per * 1000 / limit.rate
  local ahead = math.max(0, limit.per * 1000 * EVEN - gap)
  local next_at = tonumber(redis.call('HGET', 'stbass:limit:' .. queue, 'next') or '') or 0
  local at = math.max(now, math.min(next_at, now + ahead + gap)) - ahead
  if at > now then return 0, math.max(math.ceil(at - now), math.min(ahead, PAUSE_MS)) end
  return math.min(room, math.floor((now - at) / gap) + 1), nil
end
local function count_begun(queue, limit, number)
  if not limit.rate or number < 1 then return end
  local gap = limit.per * 1000 / limit.rate
  local ahead = math.max(0, limit.per * 1000 * EVEN - gap)
  local next_at = tonumber(redis.call('HGET', 'stbass:limit:' .. queue, 'next') or '') or 0
  next_at = math.max(now, math.min(next_at, now + ahead + gap)) + number * gap
  redis.call('HSET', 'stbass:limit:' .. queue, 'next', string.format('%.3f', next_at))
end
local function drop_from_line(queue, id)
  redis.call('ZREM', 'stbass:line:' .. queue, id)
  redis.call('ZREM', 'stbass:due:' .. queue, id)
  redis.call('HDEL', 'stbass:parked', id)
end
-- What is kept of one that waits; nil if there is nothing, or what is there no worker has written.
local function parked(id)
  local ok, job = pcall(cmsgpack.unpack, redis.call('HGET', 'stbass:parked', id) or '')
  if ok and type(job) == 'table' and #job == 6 and type(job[1]) == 'string' and type(job[4]) == 'number'
     and type(job[5]) == 'string' then
    return job
  end
end
local function into_line(queue, id, turn)
  local job = parked(id)
  if not job then return end
  redis.call('ZADD', 'stbass:line:' .. queue, 'NX', turn, id)
  redis.call('ZREM', 'stbass:due:' .. queue, id)
  if job[4] >= 0 then
    local left = math.max(0, redis.call('PTTL', 'stbass:deadline:' .. id))
    redis.call('ZADD', 'stbass:due:' .. queue, now + left, id)
  end
end
-- Nobody has begun these: their places are others', and whose message was not sent is in line again.
local function take_back_calls(queue)
  local calls, places = 'stbass:calls:' .. queue, 'stbass:places:' .. queue
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', calls, '-inf', now)) do
    redis.call('ZREM', calls, id)
    local turn = redis.call('ZSCORE', places, id)
    if turn and turn ~= 'inf' then
      redis.call('ZREM', places, id)
      into_line(queue, id, turn)
    end
  end
end
-- Whether a process may begin now; then it has a place.
local function admit(queue, limit, id)
  local places, line = 'stbass:places:' .. queue, 'stbass:line:' .. queue
  local turn = redis.call('ZSCORE', places, id)
  if not turn then
    take_back_calls(queue)
    if room_in(queue, limit) < 1 then return false end
    local first = redis.call('ZRANGE', line, 0, 0)[1]
    if first and first ~= id then return false end
    count_begun(queue, limit, 1)
    turn = redis.call('ZSCORE', line, id)
    if turn then drop_from_line(queue, id) end
  end
  redis.call('ZADD', places, 'inf', id)
  redis.call('ZREM', 'stbass:calls:' .. queue, id)
  if not turn or turn == 'inf' then
    turn = redis.call('HGET', 'stbass:run:' .. id, 'turn') or time[1] .. string.format('%06d', time[2])
  end
  redis.call('HSET', 'stbass:run:' .. id, 'turn', turn)
  return true
end
-- Send the message of one that waited: `prefix` is that of queues on this server; nil: they are elsewhere.
local function send(queue, id, prefix, sent)
  local job = parked(id)
  local message = job and job[5]
  if message and prefix then
    redis.call('RPUSH', prefix .. queue, message)
    drop_from_line(queue, id)
  elseif message then
    -- It is kept until somebody says that it is sent.
    redis.call('ZREM', 'stbass:line:' .. queue, id)
    redis.call('ZADD', 'stbass:due:' .. queue, now + SEND_MS, id)
    table.insert(sent, {id, queue, message})
  else
    drop_from_line(queue, id)
  end
  return message
end
-- Somebody has to look again when the next may begin by the rate (in `wait` ms; nil: not by that) or is overdue, unless
-- somebody will. `alarms`: gets the queue, and in how many ms that is.
local function look_again(queue, wait, alarms)
  local due = redis.call('ZRANGE', 'stbass:due:' .. queue, 0, 0, 'WITHSCORES')[2]
  local at = math.min(wait and now + wait or math.huge, tonumber(due or '') or math.huge)
  local alarm = tonumber(redis.call('HGET', 'stbass:limit:' .. queue, 'alarm') or '') or 0
  if at < math.huge and (alarm <= now or alarm > at) then
    redis.call('HSET', 'stbass:limit:' .. queue, 'alarm', string.format('%.0f', at))
    table.insert(alarms, {queue, string.format('%.0f', math.max(1, at - now))})
  end
end
-- Call those who may begin. `alarms`: gets the queue, and in how many ms somebody has to look again; nil: nobody will.
local function tend(queue, prefix, sent, alarms)
  local line = 'stbass:line:' .. queue
  local limit = limit_of(queue)
  take_back_calls(queue)
  if redis.call('ZCARD', line) == 0 then return end
  local room, wait = math.huge, nil
  if limit then room, wait = room_in(queue, limit) end
  if room >= 1 then
    local last = room < math.huge and string.format('%d', room - 1) or '-1'
    local called, begun = redis.call('ZRANGE', line, 0, last, 'WITHSCORES'), 0
    for index = #called - 1, 1, -2 do
      local id, turn = called[index], called[index + 1]
      if send(queue, id, prefix, sent) then
        begun = begun + 1
        if limit or not prefix then
          redis.call('ZADD', 'stbass:places:' .. queue, turn, id)
          redis.call('ZADD', 'stbass:calls:' .. queue, now + (prefix and CALL_MS or SEND_MS), id)
        end
      end
    end
    if limit then
      count_begun(queue, limit, begun)
      room, wait = room_in(queue, limit)
    end
  end
  if alarms and redis.call('ZCARD', line) > 0 then look_again(queue, wait, alarms) end
end
-- Those in line whose deadline is over: each with its queue, whom to tell, its name and deadline, the run of which it
-- is the whole, how many have a place, and the limit. Whoever gets them has to end them.
local function overdue(queue, out)
  local line, key = 'stbass:line:' .. queue, 'stbass:due:' .. queue
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, 200)) do
    local job = parked(id)
    if not job then
      redis.call('ZREM', key, id)
    elseif redis.call('ZSCORE', line, id) then
      local number, limit = redis.call('ZCARD', 'stbass:places:' .. queue), redis.call('HGET', 'stbass:limits', queue)
      redis.call('ZADD', key, now + SEND_MS, id)
      table.insert(out, {id, job[1], job[2], job[3], tostring(job[4]), job[6], number, limit or ''})
    else
      -- Its message was to be sent, or to be taken out of its queue, by somebody who has died.
      redis.call('ZREM', key, id)
      if not redis.call('ZSCORE', 'stbass:places:' .. queue, id) then
        into_line(queue, id, time[1] .. string.format('%06d', time[2]))
      end
    end
  end
end
-- A process has ended, or does not run any more.
local function give_up_place(queue, id)
  redis.call('ZREM', 'stbass:places:' .. queue, id)
  redis.call('ZREM', 'stbass:calls:' .. queue, id)
end
-- One that does not run any more is to run again soon.
local function keep_place(queue, id, until_ms)
  local turn = redis.call('HGET', 'stbass:run:' .. id, 'turn')
  if not turn then return end
  redis.call('ZADD', 'stbass:places:' .. queue, turn, id)
  redis.call('ZADD', 'stbass:calls:' .. queue, until_ms, id)
end
-- What runs now takes places too, as far as it has none.
local function count_running(queue)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', 'stbass:leases', '(' .. now, '+inf')) do
    if redis.pcall('HGET', 'stbass:run:' .. id, 'queue') == queue then
      redis.call('ZADD', 'stbass:places:' .. queue, 'inf', id)
    end
  end
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
  local found = redis.call('HMGET', run, 'deaths', 'blame', 'swept', 'attempt', 'queue')
  local deaths, blame, swept, attempt, queue = unpack(found, 1, 5)
  deaths, blame = tonumber(deaths or '') or 0, tonumber(blame or '') or 0
  if died and attempt and swept ~= attempt then
    deaths, blame = deaths + 1, blame + share_of(id)
    if queue then redis.call('HSET', 'stbass:swept:queues', queue, string.format('%.0f', now)) end
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
    + _LIMITS
    + _DEATHS
    + """
-- Claim processes for a worker, many at once (at most 1000: a command's arguments go over Lua's stack).
-- ARGV: worker, its life, result key prefix, run ttl (s), result ttl (s), how many suspects run there, their blame, and
--       packed (msgpack: an argument each would cost more than the work) a list with, per process: id, lease (ms), has
--       a deadline (0/1), reply, queue, how many workers it may lose, delivery tag, signature of its record, whether it
--       is known that nobody has cancelled it (0/1), whether it may have to wait apart (0/1), number of the call, which
--       is the same until it is answered; then, packed too, limits of queues that hold where nobody has set others
-- Gives since when the server keeps the fleet's data, and then per process: status, attempt, remaining (ms, -1: no
-- deadline), checkpoint or '', blame if it is a suspect ('': it is none), whether its record was forged (0/1); and at
-- last in how many ms somebody has to look who may begin, of which queues
-- status: go; done (its result is stored); again (it has ended, and its result is gone); busy (another worker holds its
--         lease); cancelled (checkpoint is then what says so); late; apart (a suspect that must wait until others have
--         ended here); limited (the limit of its queue is used up); or lost: it has lost as many workers as it may,
--         then attempt is the last one, remaining is how many have died, blame the worker
local worker, life, prefix, ttl, result_ttl = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local suspects, suspected, jobs = tonumber(ARGV[6]), tonumber(ARGV[7]), cmsgpack.unpack(ARGV[8])
local TOGETHER = 0.25
if ARGV[9] then
  for queue, limit in pairs(cmsgpack.unpack(ARGV[9])) do
    if redis.call('HSETNX', 'stbass:limits', queue, limit) == 1 then count_running(queue) end
  end
end
local ids, marks = {}, {}
for index, job in ipairs(jobs) do
  ids[index] = job[1]
  marks[index * 3 - 2] = prefix .. job[1]
  marks[index * 3 - 1] = 'stbass:cancelled:' .. job[1]
  marks[index * 3] = 'stbass:run:' .. job[1]
end
-- A lease that is over says nothing until somebody has looked for lost workers since: while the server refused, or was
-- away, nobody could renew it.
local function is_held(ends)
  return ends > now or tonumber(redis.call('GET', 'stbass:swept') or 0) <= ends
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
local out, started, leases, claimed, rated, alarms = {since()}, {}, {}, {}, {}, {}
for index, job in ipairs(jobs) do
  local id, lease, timed, reply = unpack(job, 1, 4)
  local run = 'stbass:run:' .. id
  local status, attempt, remaining, checkpoint, blame, is_forged = 'go', 1, -1, '', '', 0
  local held = ends[index] and is_held(tonumber(ends[index])) and not given_up(run)
  -- Claimed by this call, of which the answer was lost: it was not started.
  local mine = false
  if held then
    local whose, call = unpack(redis.call('HMGET', run, 'life', 'call'))
    mine = whose == life and call == tostring(job[11])
  end
  if claimed[id] then
    status = 'busy'
  elseif not fresh and redis.call('EXISTS', prefix .. id) == 1 then
    status = 'done'
  elseif lately[index] == 1 or before[index] == 1 then
    status = 'again'
  elseif held and not mine then
    status = 'busy'
  elseif not fresh and job[9] == 0 and redis.call('EXISTS', 'stbass:cancelled:' .. id) == 1 then
    status, checkpoint = 'cancelled', redis.call('GET', 'stbass:cancelled:' .. id)
  else
    local deaths, blamed = 0, 0
    if not fresh then
      if forged(run, job[8]) then is_forged = 1 end
      -- A lease that still stands although it is over is of a worker that did not hand it back.
      deaths, blamed = losses(id, ends[index] and not mine)
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
      if status == 'go' and weight and job[10] == 1 and suspects > 0 and suspected + weight > TOGETHER then
        status = 'apart'
        if mine then redis.call('ZREM', 'stbass:leases', id) end
      end
      local limit = status == 'go' and limit_of(job[5])
      if limit and not admit(job[5], limit, id) then
        status = 'limited'
        -- The one of a worker that is lost.
        if ends[index] then redis.call('ZREM', 'stbass:leases', id) end
      elseif limit and limit.rate then
        rated[job[5]] = limit
      end
      if status == 'go' and weight then
        suspects, suspected, blame = suspects + 1, suspected + weight, string.format('%.6f', weight)
      end
    end
  end
  if (status == 'done' or status == 'again') and limit_of(job[5]) then give_up_place(job[5], id) end
  if status == 'go' then
    claimed[id] = true
    if not fresh then
      attempt = tonumber(redis.call('HGET', run, 'attempt') or '0') + (mine and 0 or 1)
      if attempt > 1 then checkpoint = redis.call('HGET', run, 'checkpoint') or '' end
    end
    redis.call('HSET', run, 'attempt', attempt, 'worker', worker, 'life', life, 'reply', reply, 'queue', job[5],
               'most', job[6], 'tag', job[7], 'sig', job[8], 'call', job[11])
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
-- Who has called these may be a command, or somebody who has found a lost worker: neither can look again.
for queue, limit in pairs(rated) do
  if redis.call('ZCARD', 'stbass:line:' .. queue) > 0 then
    local room, wait = room_in(queue, limit)
    look_again(queue, room >= 1 and 0 or wait, alarms)
  end
end
table.insert(out, alarms)
return out
"""
)

SWEEP = (
    _SERVER
    + _LIMITS
    + _DEATHS
    + """
-- Find processes whose lease has run out. ARGV: how long (ms) the finder has to deal with them, how many at most; then
-- kombu's unacked hash and index and the prefix of queues ('' or none: they are on another server)
-- Gives per process: id, whether it may lose no more workers (0/1), how many have died under it, whether it is a
-- suspect (0/1), then its record (tag, queue, worker, attempt, reply, sig, checkpoint). Until the time is over nobody
-- else finds them; if the finder dies meanwhile, somebody finds them then.
-- Beside these it gives messages that are to be sent, and what waits for a limit beyond its deadline.
-- First something is written: a server that refuses that has refused to renew leases, too, and says nothing of them.
-- Who asks for none has only seen that it is well again: those that live still have to renew theirs.
redis.call('SET', 'stbass:swept', ARGV[2] ~= '0' and now or redis.call('GET', 'stbass:swept') or 0, 'EX', 3600)
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
    local is_last, is_suspect = is_enough(deaths, blame, most) and 1 or 0, weight_of(deaths, blame) and 1 or 0
    table.insert(out, {id, is_last, deaths, is_suspect, run})
    if limit_of(run[2]) then
      -- Its place is others', but for a moment: its message goes to the head of its queue, if it is no suspect.
      give_up_place(run[2], id)
      if is_last + is_suspect == 0 then keep_place(run[2], id, now + SEND_MS) end
    end
  else
    redis.call('ZREM', 'stbass:leases', id)
  end
end
local sent, late = {}, {}
-- pcall: what somebody else has put under that name must not keep lost workers from being found.
for _, queue in ipairs(redis.pcall('HKEYS', 'stbass:limits')) do
  -- Who has ended without a word here: its lease is gone.
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', 'stbass:places:' .. queue, 'inf', 'inf')) do
    if not redis.call('ZSCORE', 'stbass:leases', id) then give_up_place(queue, id) end
  end
  overdue(queue, late)
  tend(queue, (ARGV[3] or '') ~= '' and ARGV[5] or nil, sent)
end
return {out, sent, late}
"""
)

RUNNING = """
-- How many processes each worker runs now, but for those that lend their places, and how many of each queue run. Gives
-- two lists: name, number, name, ...
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local workers, queues, out = {}, {}, {{}, {}}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', 'stbass:leases', '(' .. now, '+inf')) do
  local run = redis.pcall('HMGET', 'stbass:run:' .. id, 'worker', 'attempt', 'swept', 'lent', 'queue')
  local worker, attempt, swept, lent, queue = unpack(run, 1, 5)
  if worker and swept ~= attempt then
    if not lent then workers[worker] = (workers[worker] or 0) + 1 end
    if queue then queues[queue] = (queues[queue] or 0) + 1 end
  end
end
for index, numbers in ipairs({workers, queues}) do
  for name, number in pairs(numbers) do
    table.insert(out[index], name)
    table.insert(out[index], number)
  end
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

STALE = """
-- The messages that nobody has touched for long. On the broker. KEYS: unacked index. ARGV: seconds, how many of them to
-- pass over, how many to give at most
-- Gives the time since when (s), and their tags.
local bound = redis.call('TIME')[1] - ARGV[1]
return {tostring(bound), redis.call('ZRANGE', KEYS[1], '-inf', bound, 'BYSCORE', 'LIMIT', ARGV[2], ARGV[3])}
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

HAND_BACK = (
    _SERVER
    + _LIMITS
    + """
-- Give up leases, so that the next worker need not wait for them. ARGV: the worker's life, then per process: id,
-- attempt
-- If somebody else has it meanwhile, the lease is theirs. A place under a limit is kept: its message is on its way.
for i = 2, #ARGV, 2 do
  local id = ARGV[i]
  local attempt, life, queue = unpack(redis.call('HMGET', 'stbass:run:' .. id, 'attempt', 'life', 'queue'))
  if attempt == ARGV[i + 1] and life == ARGV[1] then
    redis.call('ZREM', 'stbass:leases', id)
    if limit_of(queue) then keep_place(queue, id, now + CALL_MS) end
  end
end
return 0
"""
)

RENEW = (
    _SERVER
    + _LIMITS
    + """
-- Renew a worker's leases, all in one command. ARGV: its life, result key prefix, result ttl (s), then per process: id,
-- attempt, lease (ms)
-- Gives since when the server keeps the fleet's data; the ids that are no longer this worker's: their leases ran out
-- and somebody else took them; and those of which nobody knows anything any more.
local life, prefix, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3])
local lost, gone = {}, {}
for i = 4, #ARGV, 3 do
  local id = ARGV[i]
  local run = redis.call('HMGET', 'stbass:run:' .. id, 'attempt', 'life', 'swept', 'queue')
  if run[1] == ARGV[i + 1] and run[2] == life and run[3] ~= ARGV[i + 1] then
    redis.call('ZADD', 'stbass:leases', now + ARGV[i + 2], id)
    -- Should its place have been evicted.
    if run[4] and limit_of(run[4]) then redis.call('ZADD', 'stbass:places:' .. run[4], 'inf', id) end
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
    + _LIMITS
    + """
-- Store results, many at once (at most 1000), tell those who wait, and acknowledge the messages.
-- ARGV: result key prefix, result ttl (s; 0: none), packed (msgpack) a list with, per process: id, attempt (0: it never
--       started), result, reply, delivery tag, the worker's life ('': whoever's it was), queue, and of the whole of a
--       run (see run_keys) the id of that; then kombu's unacked hash and index and the prefix of queues ('': they are
--       on another server); then, if the worker is given messages, its life, and if it has nothing left to do the
--       queues of which it may be given one
-- Gives per process 1, or 0 if it is no longer this worker's (then nothing is stored: the other one's result counts).
-- Beside these it gives messages that are to be sent, of those who waited for the limit of a queue; and of such queues
-- in how many ms somebody has to look who may begin.
local prefix, ttl, jobs = ARGV[1], tonumber(ARGV[2]), cmsgpack.unpack(ARGV[3])
local channels = {}
for index, job in ipairs(jobs) do channels[index] = prefix .. job[1] end
-- Who waits for a single result, as Celery does, subscribes to its key; for most nobody does.
local listeners = redis.call('PUBSUB', 'NUMSUB', unpack(channels))
local out, replies, gone, ended, tags, freed = {}, {}, {}, {}, {}, {}
for index, job in ipairs(jobs) do
  local id, attempt, result, reply, tag, life, queue, followed = unpack(job, 1, 8)
  local run, key = 'stbass:run:' .. id, channels[index]
  local known, whose, follow = unpack(redis.call('HMGET', run, 'attempt', 'life', 'follow'))
  followed = followed or follow
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
      -- What was told before may be dated a little ahead, for the order's sake (see RECORD of run_keys).
      local last = redis.call('XREVRANGE', 'stbass:events:' .. followed, '+', '-', 'COUNT', 1)[1]
      redis.call('HSET', 'stbass:started:' .. followed, 'ended', math.max(now, last and tonumber(last[2][2]) or 0))
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
  if queue and limit_of(queue) and (mine or attempt == 0 and not redis.call('ZSCORE', 'stbass:leases', id)) then
    give_up_place(queue, id)
    drop_from_line(queue, id)
    freed[queue] = true
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
local sent, alarms = {}, {}
for queue in pairs(freed) do tend(queue, ARGV[4] ~= '' and ARGV[6] or nil, sent, alarms) end
if ARGV[7] and #tags > 0 then redis.call('HDEL', 'stbass:given:' .. ARGV[7], unpack(tags)) end
if ARGV[8] then redis.call('SET', 'stbass:free:' .. ARGV[7], 1, 'PX', 1000) end
for i = 8, #ARGV do
  -- pcall: what somebody else has put under that name must not keep results from being stored.
  redis.pcall('ZADD', 'stbass:idle:' .. ARGV[i], now, ARGV[7])
  redis.call('PEXPIRE', 'stbass:idle:' .. ARGV[i], 1000)
end
return {out, sent, alarms}
"""
)

PARK = (
    _SERVER
    + _LIMITS
    + """
-- Let processes wait in line for the limit of their queue. ARGV: packed (msgpack) a list with, per process: id, queue,
-- reply, name, deadline (s; -1: none), message, the run of which it is the whole (''), delivery tag, whether it is
-- known that nobody has cancelled it (0/1); whether their messages are acknowledged (1), or will be when they are kept
-- (0: they cannot be called yet); then kombu's unacked hash and index and the prefix of queues ('': they are on another
-- server)
-- Gives what FINISH gives beside.
local unacked, index, prefix = ARGV[3], ARGV[4], ARGV[3] ~= '' and ARGV[5] or nil
local queues, sent, alarms = {}, {}, {}
for number, job in ipairs(cmsgpack.unpack(ARGV[1])) do
  local id, queue, reply, name, deadline, message, followed, tag, uncancelled = unpack(job, 1, 9)
  local turn = redis.call('HGET', 'stbass:run:' .. id, 'turn')
  local taken = unacked ~= '' and tag ~= '' and redis.call('ZSCORE', index, tag)
  turn = turn or string.format('%.0f', taken and taken * 1000000 or time[1] * 1000000 + time[2] + number)
  if taken then
    redis.call('ZREM', index, tag)
    redis.call('HDEL', unacked, tag)
  end
  -- One that has been called meanwhile has another message on its way.
  if not redis.call('ZSCORE', 'stbass:places:' .. queue, id) then
    redis.call('HSET', 'stbass:parked', id, cmsgpack.pack({queue, reply, name, deadline, message, followed}))
    if ARGV[2] == '0' then
      redis.call('ZADD', 'stbass:due:' .. queue, now + SEND_MS, id)
    elseif uncancelled == 0 and redis.call('EXISTS', 'stbass:cancelled:' .. id) == 1 then
      send(queue, id, prefix, sent)
    else
      into_line(queue, id, turn)
    end
    queues[queue] = true
  end
end
if ARGV[2] == '1' then
  for queue in pairs(queues) do tend(queue, prefix, sent, alarms) end
end
return {sent, alarms}
"""
)

TEND = (
    _SERVER
    + _LIMITS
    + """
-- Call who may begin. ARGV: kombu's unacked hash and index and the prefix of queues ('': they are on another server),
-- then queues. Gives what FINISH gives beside, and what waits beyond its deadline.
local sent, alarms, late = {}, {}, {}
for i = 4, #ARGV do
  overdue(ARGV[i], late)
  tend(ARGV[i], ARGV[1] ~= '' and ARGV[3] or nil, sent, alarms)
end
return {sent, alarms, late}
"""
)

LEAVE = (
    _SERVER
    + _LIMITS
    + """
-- Cancelled processes wait in line no longer: their messages go back to their queues, to be found cancelled there.
-- ARGV: kombu's unacked hash and index and the prefix of queues ('': they are on another server), then packed (msgpack)
-- the ids. Gives messages that are to be sent.
local sent = {}
for _, id in ipairs(cmsgpack.unpack(ARGV[4])) do
  local job = parked(id)
  if job then send(job[1], id, ARGV[1] ~= '' and ARGV[3] or nil, sent) end
end
return sent
"""
)

SENT = (
    _SERVER
    + _LIMITS
    + """
-- Messages of processes that waited are in their queues again. ARGV: per message: id, queue
for i = 1, #ARGV, 2 do
  local id, queue = ARGV[i], ARGV[i + 1]
  local place = redis.call('ZSCORE', 'stbass:places:' .. queue, id)
  if not redis.call('ZSCORE', 'stbass:line:' .. queue, id) then drop_from_line(queue, id) end
  if place and place ~= 'inf' then
    if limit_of(queue) then
      redis.call('ZADD', 'stbass:calls:' .. queue, now + CALL_MS, id)
    else
      give_up_place(queue, id)
    end
  end
end
return 0
"""
)

LIMIT = (
    _SERVER
    + _LIMITS
    + """
-- Set the limit of a queue. ARGV: kombu's unacked hash and index and the prefix of queues ('': they are on another
-- server), the queue, its limit (as it is kept; '': it stays as it is), whether it is only a default (0/1)
-- Gives its limit as it is now (false: it has none), how many have a place, how many wait, and messages to be sent.
local queue, text = ARGV[4], ARGV[5]
local known = redis.call('HGET', 'stbass:limits', queue)
if text ~= '' and (ARGV[6] == '0' or not known or known ~= text and string.find(known, ',settings$')) then
  redis.call('HSET', 'stbass:limits', queue, text)
  if limit_of(queue) then
    count_running(queue)
  else
    redis.call('ZREMRANGEBYSCORE', 'stbass:places:' .. queue, 'inf', 'inf')
  end
  known = text
end
local sent = {}
tend(queue, ARGV[1] ~= '' and ARGV[3] or nil, sent)
return {known, redis.call('ZCARD', 'stbass:places:' .. queue), redis.call('ZCARD', 'stbass:line:' .. queue), sent}
"""
)

KNOWN = """
-- Which processes nobody works on, and have no result. ARGV: result key prefix, and packed (msgpack) their ids
-- Gives per process 0: somebody works on it, it waits for a limit, or it has ended; 1: it has a record; 2: nothing is
-- known of it.
local out = {}
for index, id in ipairs(cmsgpack.unpack(ARGV[2])) do
  if redis.call('ZSCORE', 'stbass:leases', id) or redis.call('EXISTS', ARGV[1] .. id) == 1
     or redis.call('HEXISTS', 'stbass:parked', id) == 1 then
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

GIVE = """
-- Send a message: to a worker that had nothing left to do a moment ago, if there is one and nothing waits, else into
-- the queue. A worker that is given one need not be told that there is one, ask for it and get it. It is given one, of
-- whichever queue, until it has said again that it has nothing to do; and one that does not live, or is only slow, is
-- given none for long.
-- ARGV: the queue's list, the queue, what the names of workers' channels begin with, kombu's unacked hash and index,
-- delivery tag, the message, and if it has a deadline the key of that and the time that is left (ms)
local LARGEST, FORGOTTEN = 65536, 600
local list, queue, channels, unacked, index, tag, message, deadline, left = unpack(ARGV, 1, 9)
if deadline then redis.call('SET', deadline, queue, 'PX', left) end
local idle = 'stbass:idle:' .. queue
local function next_idle()
  -- pcall: what somebody else has put under that name must not keep anything from being sent.
  return redis.pcall('ZPOPMAX', idle)
end
-- Not a large one: a subscriber whose buffer overflows is cut off.
local found = #message <= LARGEST and redis.call('LLEN', list) == 0 and next_idle() or {}
while found[1] do
  local channel, given = channels .. found[1], 'stbass:given:' .. found[1]
  if redis.call('DEL', 'stbass:free:' .. found[1]) == 1 and redis.call('PUBSUB', 'NUMSUB', channel)[2] > 0 then
    local time = redis.call('TIME')
    redis.call('HSET', unacked, tag, '[' .. message .. ',"",' .. cjson.encode(queue) .. ']')
    redis.call('ZADD', index, time[1] + time[2] / 1000000, tag)
    redis.call('HSET', given, tag, queue)
    redis.call('EXPIRE', given, FORGOTTEN)
    redis.call('PUBLISH', channel, message)
    return 1
  end
  found = next_idle()
end
redis.call('LPUSH', list, message)
return 0
"""

_GIVEN = """
-- What a worker was given and nobody has acknowledged: queue, message and delivery tag.
local function given(life, unacked)
  local out, found = {}, redis.call('HGETALL', 'stbass:given:' .. life)
  for i = 1, #found, 2 do
    local tag, queue = found[i], found[i + 1]
    local entry = redis.call('HGET', unacked, tag)
    -- As GIVE has noted it: [<message>,"",<queue>]
    if entry then table.insert(out, {queue, string.sub(entry, 2, -#cjson.encode(queue) - 6), tag}) end
  end
  return out
end
"""

GIVEN = (
    _GIVEN
    + """
-- Gives what a worker was given that it may not have heard of. ARGV: its life, kombu's unacked hash
return given(ARGV[1], ARGV[2])
"""
)

GIVE_BACK = (
    _GIVEN
    + """
-- Give a worker nothing more. ARGV: its life, kombu's unacked hash and index, the prefix of queues, whether what it was
-- given goes back, too, to the heads of its queues (0/1)
local life, unacked, index, prefix = unpack(ARGV, 1, 4)
redis.call('DEL', 'stbass:free:' .. life)
if ARGV[5] == '1' then
  for _, one in ipairs(given(life, unacked)) do
    local queue, message, tag = unpack(one)
    redis.call('HDEL', unacked, tag)
    redis.call('ZREM', index, tag)
    redis.call('RPUSH', prefix .. queue, message)
  end
  redis.call('DEL', 'stbass:given:' .. life)
end
return 0
"""
)
