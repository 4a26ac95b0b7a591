"""State in Redis. Needs the extra ``celery``, for its client; no worker.

The data model. Keys (type; written by; read by; time to live). ``<job>`` is ``stbass:state:<job id>``. All of it but
the lease is kept until somebody deletes it, so the server must not evict keys (``maxmemory-policy noeviction``). It is
as durable as the server's own persistence (``appendonly yes``; ``appendfsync always`` for no loss at all).

``stbass:state:schema``
    string, the version of these keys; whoever uses the database first; everybody; none.
``<job>``
    hash; the run that holds the job; everybody; none. Fields: ``created_at`` (ISO 8601, UTC), ``metadata`` (JSON),
    ``fence`` (grows by 1 with each run that gets the job, and when it is given up), ``checkpoint`` (its number, to
    know that there must be one).
``<job>:process``, ``<job>:component``, ``<job>:connector``
    hash, id -> JSON of its ``dict()`` (a process's with only the ids of its components and connectors); the run that
    holds the job; everybody; none.
``<job>:status``
    hash, process id -> status; the run that holds the job; everybody; none.
``<job>:checkpoint``
    hash; the run that holds the job; the next run; none. Fields: ``n``, ``parts`` (how many), ``part:<name>`` (bytes),
    ``sum:<name>`` (CRC-32 of them).
``<job>:lease``
    string, a nonce and JSON (host, pid, since); the run that holds the job; whoever wants it; the lease, renewed every
    third of it by a thread.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from stbass._process.sync_threads import shared_threads
from stbass._values.texts import value_text
from stbass.dataflow.state._records import (
    SCHEMA_VERSION,
    ProcessRecord,
    StoredPart,
    checked_checkpoint,
    damaged,
    from_json,
    stored_parts,
    wrong_version,
)
from stbass.dataflow.state.base import StateBackend
from stbass.errors import ConfigurationError, MissingDependencyError, StateError, StateUnavailable

try:
    import redis
    import redis.asyncio

    from stbass.transports.redis.address import RedisAddress
    from stbass.transports.redis.leases import LeaseKeeper
    from stbass.transports.redis.trouble import Trouble, trouble_of
except ImportError as error:
    raise MissingDependencyError("RedisStateBackend needs redis-py: pip install 'stbass-celery[celery]'") from error

__all__ = ["RedisStateBackend"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_JOBS = "stbass:state:Job_"
_SCHEMA_KEY = "stbass:state:schema"
_MOST_FIELDS = 1000
"""Of one command: a command's arguments go over Lua's stack."""

_ACQUIRE = """
-- Take a job. KEYS: job, lease. ARGV: the lease's value, milliseconds, nonce.
-- Gives {1, fence}; {0, value of the lease of who has it}; {-1}: there is no such job
local held = redis.call('GET', KEYS[2])
-- Ours already, if the answer to an earlier attempt was lost.
if held and string.sub(held, 1, #ARGV[3]) ~= ARGV[3] then return {0, held} end
if redis.call('HEXISTS', KEYS[1], 'created_at') == 0 then return {-1} end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return {1, redis.call('HINCRBY', KEYS[1], 'fence', 1)}
"""

_RENEW = """
-- Renew the lease of a job; one that has run out is taken again if nobody has had the job meanwhile.
-- KEYS: job, lease. ARGV: token, value, milliseconds. Gives 1; 0: the job is no longer that run's.
if redis.call('HGET', KEYS[1], 'fence') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
return 1
"""

_RELEASE = """
-- Give a job up. KEYS: job, lease. ARGV: token.
if redis.call('HGET', KEYS[1], 'fence') == ARGV[1] then
  redis.call('DEL', KEYS[2])
  -- A renewal that is still on its way must not take it again.
  redis.call('HINCRBY', KEYS[1], 'fence', 1)
end
"""

_RUN = """
-- Run commands, all at the same moment, and give their answers. ARGV: for each the number of its arguments, and they.
local answers, at = {}, 1
while at <= #ARGV do
  local count = tonumber(ARGV[at])
  answers[#answers + 1] = redis.call(unpack(ARGV, at + 1, at + count))
  at = at + count + 1
end
return answers
"""

_WRITE = """
-- Run commands, all or none. KEYS: job, lease.
-- ARGV: token ('': of somebody who does not hold the job), the lease's value, milliseconds;
--       then for each command the number of its arguments, and they
-- Gives 1; 0: another run has the job; -1: there is no such job
if redis.call('HEXISTS', KEYS[1], 'created_at') == 0 then return -1 end
if ARGV[1] ~= '' then
  if redis.call('HGET', KEYS[1], 'fence') ~= ARGV[1] then return 0 end
  -- It ran out (the server was away, perhaps), and nobody has had the job meanwhile.
  if redis.call('EXISTS', KEYS[2]) == 0 then redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3]) end
end
local at = 4
while at <= #ARGV do
  local count = tonumber(ARGV[at])
  redis.call(unpack(ARGV, at + 1, at + count))
  at = at + count + 1
end
return 1
"""

_Argument = str | bytes | int
_Command = Sequence[_Argument]


class RedisStateBackend(StateBackend):
    """State in Redis, which processes on any machine may use at once. As durable as the server is made.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``.
        lease: seconds after which a run that is not heard of has lost the job.
        timeout: seconds after which a server that does not answer is given up, and for which one that is away at a
            checkpoint is waited for.
        job_id: see :class:`StateBackend`.
        metadata: see :class:`StateBackend`.

    Raises:
        ConfigurationError: an argument is wrong.
    """

    def __init__(
        self,
        url: str,
        *,
        lease: float = 10.0,
        timeout: float = 60.0,
        job_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(job_id, metadata)
        for name, seconds in (("lease", lease), ("timeout", timeout)):
            if not seconds > 0.01:
                raise ConfigurationError(f"{name} must be a number of seconds above 0.01, not {value_text(seconds)}")
        self._address = RedisAddress.parse(url, "url")
        try:
            self._address.client().close()
        except ValueError:
            # What is wrong could be a part of the password.
            raise ConfigurationError(
                "url is not the URL of a Redis server: write redis://user:password@host:port/number"
                " (characters such as @ : / % in the password as %40 %3A %2F %25)"
            ) from None
        self._lease = lease
        self._timeout = self._patience = timeout
        self._nonce = secrets.token_hex(8)
        self._lease_value = ""
        self._keeper: LeaseKeeper[tuple[int, str]] | None = None
        self._client: redis.asyncio.Redis | None = None

    def _where(self) -> str:
        return f"Redis at {self._address}"

    def _key(self, part: str = "") -> str:
        return f"stbass:state:{self._job_id}{part and ':'}{part}"

    def _forget_connection(self) -> None:
        self._client = self._keeper = None
        self._nonce = secrets.token_hex(8)

    async def _open(self) -> None:
        self._client = client = self._address.async_client()

        async def version() -> Any:
            await client.set(_SCHEMA_KEY, SCHEMA_VERSION, nx=True)
            return await client.get(_SCHEMA_KEY)

        found = _text(await self._do(version))
        if found != str(SCHEMA_VERSION):
            raise wrong_version(self._where(), found)

    async def _close(self) -> None:
        client, self._client = self._client, None
        try:
            await self._renew_no_more()
        finally:
            if client is not None:
                await client.aclose()

    async def _all_jobs(self) -> dict[str, tuple[str, list[str]]]:
        client = self._redis

        async def ids() -> set[str]:
            pattern = f"{_JOBS}{'[A-Za-z0-9]' * 8}*"
            return {_text(key)[len(_JOBS) - 4 :] async for key in client.scan_iter(pattern, 1000)}

        found = {}
        for job_id in sorted(one for one in await self._do(ids) if ":" not in one):
            created_at, statuses = await self._at_once(
                ["HGET", f"stbass:state:{job_id}", "created_at"], ["HVALS", f"stbass:state:{job_id}:status"]
            )
            if created_at is not None:
                found[job_id] = _text(created_at), [_text(status) for status in statuses]
        return found

    async def _delete(self) -> None:
        parts = ("process", "component", "connector", "status", "checkpoint", "lease")
        await self._write([["DEL", self._key(), *map(self._key, parts)]])

    async def _put_job(self, job_id: str, created_at: str, metadata: str | None) -> tuple[str, str | None]:
        commands: list[_Command] = [["HSETNX", self._key(), "created_at", created_at]]
        if metadata is not None:
            commands.append(["HSET", self._key(), "metadata", metadata])
        found = (await self._at_once(*commands, ["HMGET", self._key(), "created_at", "metadata"]))[-1]
        return _text(found[0]), None if found[1] is None else _text(found[1])

    async def _put_process(self, process_id: str, record: ProcessRecord) -> None:
        commands: list[_Command] = [
            ["HSET", self._key("process"), process_id, record.data],
            ["HSETNX", self._key("status"), process_id, record.status],
        ]
        for kind, texts in (("component", record.components), ("connector", record.connectors)):
            commands += [["HSET", self._key(kind), key, text] for key, text in texts.items() if text is not None]
        await self._write(commands)

    async def _get_process(self, process_id: str) -> ProcessRecord | None:
        data, status = await self._at_once(
            ["HGET", self._key("process"), process_id], ["HGET", self._key("status"), process_id]
        )
        if data is None or status is None:
            return None
        described = from_json(data, f"process {process_id!r}")
        items = {}
        for kind in ("component", "connector"):
            ids = described[f"{kind}s"]
            texts = await self._hash(kind, ids)
            items[kind] = {key: None if text is None else _text(text) for key, text in zip(ids, texts, strict=True)}
        return ProcessRecord(_text(data), _text(status), items["component"], items["connector"])

    async def _set_status(self, process_id: str, status: str) -> bool:
        # Processes are never removed, so what is there now is there a moment later.
        if (await self._hash("process", [process_id]))[0] is None:
            return False
        await self._write([["HSET", self._key("status"), process_id, status]])
        return True

    async def _statuses(self) -> dict[str, str]:
        return {_text(key): _text(status) for key, status in (await self._whole_hash("status")).items()}

    async def _put_item(self, kind: str, item_id: str, data: str) -> None:
        await self._write([["HSET", self._key(kind), item_id, data]])

    async def _get_item(self, kind: str, item_id: str) -> str | None:
        found = (await self._hash(kind, [item_id]))[0]
        return None if found is None else _text(found)

    async def _processes_of(self, component_id: str) -> list[str]:
        found = {_text(key): text for key, text in (await self._whole_hash("process")).items()}
        return [key for key, text in found.items() if component_id in from_json(text, f"process {key!r}")["components"]]

    # The job -------------------------------------------------------------------------------------

    async def _lock(self, holder: str) -> int:
        value = f"{self._nonce}{holder}"
        answer = await self._script(_ACQUIRE, value, int(self._lease * 1000), self._nonce)
        if answer[0] < 0:
            raise self._lost("its record is gone")
        if answer[0] == 0:
            raise self._in_use(_text(answer[1])[len(self._nonce) :])
        token: int = answer[1]
        self._lease_value = value
        # A renewal that is not answered for as long as the lease is of no use any more.
        self._keeper = LeaseKeeper(
            self._address, f"the lease of {self._job_id}", self._renew, self._renewal_refused, timeout=self._lease
        )
        self._keeper.hold(self._key("lease"), self._lease, (token, value))
        return token

    def _renew(self, client: redis.Redis, held: Sequence[tuple[int, str]]) -> list[str]:
        job, lease, renew = self._key(), self._key("lease"), client.register_script(_RENEW)
        milliseconds = int(self._lease * 1000)
        return [lease for token, value in held if not renew([job, lease], [token, value, milliseconds])]

    def _renewal_refused(self, keys: list[str]) -> None:
        _log.error("%s at %s was lost: another run has the job, or it is gone", keys[0], self._address)

    async def _renew_no_more(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            await shared_threads().call_plain(keeper.close, 2 * self._lease)

    async def _unlock(self, token: int) -> None:
        await self._renew_no_more()
        await self._script(_RELEASE, token)

    async def _holder(self) -> str | None:
        found = (await self._at_once(["GET", self._key("lease")]))[0]
        return None if found is None else _text(found)[len(self._nonce) :]

    async def _save(self, n: int, parts: Mapping[str, bytes]) -> None:
        fields: list[_Argument] = ["n", n, "parts", len(parts)]
        for part in stored_parts(parts):
            fields += [f"part:{part.name}", part.data, f"sum:{part.name}", part.checksum]
        chunks = [fields[start : start + 2 * _MOST_FIELDS] for start in range(0, len(fields), 2 * _MOST_FIELDS)]
        await self._write(
            [
                # First, because a server without memory refuses it; once something is written it refuses nothing.
                ["HSET", self._key(), "checkpoint", n],
                ["DEL", self._key("checkpoint")],
                *(["HSET", self._key("checkpoint"), *chunk] for chunk in chunks),
            ]
        )

    async def _load(self) -> tuple[int, dict[str, bytes]] | None:
        expected, flat = await self._at_once(["HGET", self._key(), "checkpoint"], ["HGETALL", self._key("checkpoint")])
        fields = _pairs(flat)
        if expected is None and not fields:
            return None
        if not fields or expected != fields.get(b"n"):
            raise damaged(self._job_id, self._where(), "it is gone, or not the one that was saved last")
        sums = {key[4:]: value for key, value in fields.items() if key.startswith(b"sum:")}
        read = [
            StoredPart(_text(key[5:]), value, _number(sums.get(key[5:])))
            for key, value in fields.items()
            if key.startswith(b"part:")
        ]
        return checked_checkpoint(
            self._job_id, self._where(), _number(fields.get(b"n")), _number(fields.get(b"parts")), read
        )

    # Commands ------------------------------------------------------------------------------------

    async def _write(self, commands: list[_Command]) -> None:
        """Run commands, all or none, unless this run has lost the job."""
        token: _Argument = "" if self._token is None else self._token
        answer = await self._script(_WRITE, token, self._lease_value, int(self._lease * 1000), *_packed(commands))
        if answer < 0:
            raise self._lost("its record is gone: was the server started again without its data?")
        if answer == 0:
            raise self._lost("another run has taken it")

    async def _script(self, text: str, *args: _Argument) -> Any:
        client = self._redis
        return await self._do(lambda: client.register_script(text)([self._key(), self._key("lease")], args))

    async def _at_once(self, *commands: _Command) -> list[Any]:
        """The answers to commands that are run together."""
        # Not MULTI: a server without memory refuses that even for reading.
        found: list[Any] = await self._script(_RUN, *_packed(commands))
        return found

    async def _hash(self, part: str, fields: list[str]) -> list[Any]:
        chunks = [fields[start : start + _MOST_FIELDS] for start in range(0, len(fields), _MOST_FIELDS)]
        answers = await self._at_once(*(["HMGET", self._key(part), *chunk] for chunk in chunks))
        return [one for answer in answers for one in answer]

    async def _whole_hash(self, part: str) -> dict[bytes, bytes]:
        return _pairs((await self._at_once(["HGETALL", self._key(part)]))[0])

    @property
    def _redis(self) -> redis.asyncio.Redis:
        assert self._client is not None
        return self._client

    async def _do(self, work: Callable[[], Awaitable[_T]]) -> _T:
        """Talk to the server. If the connection turns out to be lost, once more on a new one.

        Doing the same twice changes nothing: all that is written replaces what was there, and the fence keeps out
        whoever lost the job in between.
        """
        try:
            async with asyncio.timeout(self._timeout):
                try:
                    return await work()
                except redis.AuthenticationError:
                    raise
                except redis.ConnectionError:
                    return await work()
        except TimeoutError as error:
            raise StateUnavailable(
                f"{self._where()} did not answer for {self._timeout:g} s: see what the server does, or correct"
                " its address"
            ) from error
        except (redis.RedisError, OSError) as error:
            raise self._explained(error) from error

    def _explained(self, error: BaseException) -> StateError:
        # An error inside a script has, of older servers, only the text of what it is.
        text = str(error)
        trouble = trouble_of(error)
        kind = StateError if trouble is Trouble.NEVER else StateUnavailable
        if isinstance(error, redis.AuthenticationError):
            kind = StateError
            what = "refuses this user: correct the user's name or the password"
        elif isinstance(error, redis.ReadOnlyError) or "-READONLY " in text:
            what = "can only be read (a replica): name the primary server"
        elif isinstance(error, redis.OutOfMemoryError) or "-OOM " in text:
            what = "has no memory left: give it more, or remove what is not needed"
        elif trouble is Trouble.AWAY:
            what = "cannot be reached: start the server, or correct its address"
        elif trouble is Trouble.FOR_NOW:
            what = "refuses for now: see what the server does"
        else:
            what = "cannot be used"
        return kind(f"{self._where()} {what} ({text})")


def _packed(commands: Iterable[_Command]) -> list[_Argument]:
    """Commands as the arguments of a script: of each the number of its parts, and they."""
    return [part for command in commands for part in (len(command), *command)]


def _pairs(flat: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _number(value: Any) -> Any:
    """The number that stands there, or what else does."""
    try:
        return int(value)
    except (TypeError, ValueError):
        return value
