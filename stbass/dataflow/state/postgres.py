"""State in a PostgreSQL database. Needs the extra ``postgres``.

The data model: the tables in :mod:`stbass.dataflow.state._sql`, in the first schema of the search path, and

advisory lock
    of the session; its key is the first 8 bytes of the SHA-256 of ``stbass:`` and the job id. Held by the run that has
    the job, on the one connection that it also writes with: the server frees it when that connection ends, however the
    process at its other end died. A machine that vanished is missed after about 25 seconds (TCP keep-alive).

A run whose connection was lost takes the lock again on a new one, and goes on if the job's ``fence`` says that nobody
had it meanwhile. Connections must be direct: a pooler that gives each transaction another session cannot hold locks.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import socket
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from stbass._values.texts import value_text
from stbass.dataflow.state import _sql
from stbass.dataflow.state._database import DatabaseStateBackend
from stbass.dataflow.state._held import forget_in_children, keep_in_children
from stbass.dataflow.state._sql import Dialect, JobStatements, Lost, Statements
from stbass.errors import ConfigurationError, MissingDependencyError, StateError, StateUnavailable

try:
    import psycopg
    import psycopg.conninfo
    import psycopg.errors
except ImportError as error:
    raise MissingDependencyError("PostgresStateBackend needs psycopg: pip install 'stbass-celery[postgres]'") from error

__all__ = ["PostgresStateBackend"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

_CONNECT_SECONDS = 5
_GRACE = 1.0
"""Seconds that a job's lock is waited for: so long the server may take to notice that its holder was killed."""

_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_WRITE = "BEGIN ISOLATION LEVEL READ COMMITTED"

_SESSION = (
    # So soon is a client missed whose machine has vanished.
    "SET tcp_keepalives_idle = 10",
    "SET tcp_keepalives_interval = 5",
    "SET tcp_keepalives_count = 3",
    # A checkpoint that was reported as saved is never taken back.
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'",
)

_REMEDIES = {
    "25006": "can only be read (a standby?): name the primary server",
    "42501": "may not be written by this user: grant it the right to create and write tables",
    "3F000": "has no schema that tables could be made in: create one, or correct the search_path",
    "53100": "cannot be written: the server's disk is full",
    "55P03": "is locked by another program",
}
_TRANSIENT = ("25006", "53", "55P03", "57")
"""Beginnings of the states of a server that will do its work again: a standby that becomes the primary, one that lacks
disk, memory or connections, that is locked, or is being stopped or started."""


class PostgresStateBackend(DatabaseStateBackend):
    """State in a PostgreSQL database, which processes on any machine may use at once.

    Args:
        db_url: ``postgresql://user:password@host:port/database``, or another connection string of libpq. What it does
            not say comes from libpq's environment variables (``PGPASSWORD``, ...).
        timeout: seconds after which a server that does not answer is given up, and for which one that is away at a
            checkpoint is waited for.
        job_id: see :class:`StateBackend`.
        metadata: see :class:`StateBackend`.

    Raises:
        ConfigurationError: an argument is wrong.
    """

    _dialect = Dialect(
        # Not to_regclass(): what that remembers to be missing may have been made by somebody else a moment ago.
        has_schema="SELECT count(*) FROM pg_catalog.pg_tables WHERE tablename = 'stbass_schema'"
        " AND schemaname = ANY (current_schemas(false))",
        blob="BYTEA",
        for_update=" FOR UPDATE",
        # Any number, as long as every stbass takes the same.
        alone=("SELECT pg_advisory_xact_lock(7453206144218734592)",),
    )

    def __init__(
        self,
        db_url: str,
        *,
        timeout: float = 60.0,
        job_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(job_id, metadata)
        if not timeout > 0:
            raise ConfigurationError(f"timeout must be a number of seconds above 0, not {value_text(timeout)}")
        self._timeout = self._patience = timeout
        self._parameters = _parsed(db_url)
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._descriptor = -1
        self._session = 0
        """Process id of the server's process that holds the job for us."""
        self._statement_turn = asyncio.Lock()
        self._hung_up = False
        """Whether the last connection was ended because the server did not answer."""

    def _where(self) -> str:
        given = self._parameters
        place = given.get("host") or given.get("hostaddr") or "the default host"
        port = f":{given['port']}" if given.get("port") else ""
        return f"PostgreSQL database {given.get('dbname') or '(the default)'!r} at {place}{port}"

    def _forget_connection(self) -> None:
        self._connection = None

    async def _open(self) -> None:
        self._statement_turn = asyncio.Lock()
        if not await self._run(_READ, lambda: _sql.has_schema(self._dialect, self._where())):
            await self._run(_WRITE, lambda: _sql.make_schema(self._dialect, self._where()))

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            keep_in_children(self._descriptor)
            await connection.close()

    async def _read(self, make: Callable[_P, Statements[_T]], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await self._run(_READ, lambda: make(*args, **kwargs))

    async def _write(self, make: Callable[_P, Statements[_T]], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await self._run(_WRITE, lambda: make(*args, **kwargs))

    async def _lock(self, holder: str) -> int:
        try:
            fence = await self._run(_WRITE, lambda: self._taken(holder))
        except StateError as error:
            if isinstance(error.__cause__, psycopg.errors.LockNotAvailable):
                raise self._in_use(await self._holder()) from None
            raise
        assert self._connection is not None
        self._session = self._connection.info.backend_pid
        return fence

    def _taken(self, holder: str) -> Statements[int]:
        yield from self._locked()
        return (yield from self._statements.take(holder))

    def _locked(self) -> Statements[None]:
        yield f"SET LOCAL lock_timeout = '{_GRACE:g}s'", ()
        yield "SELECT pg_advisory_lock(?)", (_lock_key(self._job_id),)

    async def _unlock(self, token: int) -> None:
        # Not by what has the token: if the connection was lost meanwhile, the job need not be taken again for this.
        statements = JobStatements(self._dialect, self._job_id, None)

        def given_up() -> Statements[None]:
            yield from statements.give_up(token)
            yield "SELECT pg_advisory_unlock_all()", ()

        await self._run(_WRITE, given_up)

    # The connection ------------------------------------------------------------------------------

    async def _run(self, begin: str, make: Callable[[], Statements[_T]]) -> _T:
        """In one transaction. If the connection turns out to be lost, once more on a new one.

        Doing the same twice changes nothing: all that is written replaces what was there, and the fence keeps out
        whoever lost the job in between.
        """
        async with self._statement_turn:
            try:
                fresh = await self._connect_if_needed()
                try:
                    return await self._transaction(begin, make())
                except psycopg.OperationalError:
                    # On a new connection it is no accident; and whoever did not answer for so long is not asked again.
                    if fresh or self._hung_up or self._connection is None or not self._connection.closed:
                        raise
                await self._connect_if_needed()
                return await self._transaction(begin, make())
            except psycopg.Error as error:
                raise self._explained(error) from error
            except Lost as error:
                raise self._lost(str(error)) from None

    async def _transaction(self, begin: str, statements: Statements[_T]) -> _T:
        connection = self._connection
        assert connection is not None
        self._hung_up = False
        waiting = asyncio.get_running_loop().call_later(self._timeout, self._hang_up, connection)
        try:
            async with connection.cursor(binary=True) as cursor:
                await cursor.execute(begin)
                try:
                    step = next(statements)
                    while True:
                        await cursor.execute(step[0].replace("?", "%s"), tuple(step[1]))
                        step = statements.send([] if cursor.description is None else await cursor.fetchall())
                except StopIteration as done:
                    await cursor.execute("COMMIT")
                    result: _T = done.value
                    return result
        except BaseException:
            await self._back_out(connection)
            raise
        finally:
            waiting.cancel()

    async def _back_out(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Leave no transaction behind, and no lock that is not accounted for."""
        try:
            if not connection.closed:
                await connection.rollback()
                if self._token is None:
                    await connection.execute("SELECT pg_advisory_unlock_all()")
        except psycopg.Error:
            # The server forgets both with the connection.
            await connection.close()

    async def _connect_if_needed(self) -> bool:
        """Whether the connection is new."""
        if self._connection is not None:
            if not self._connection.closed:
                return False
            await self._close()
        given = {"connect_timeout": _CONNECT_SECONDS, **self._parameters}
        connection = await psycopg.AsyncConnection.connect(**given, autocommit=True, prepare_threshold=None)
        self._connection, self._descriptor = connection, connection.fileno()
        # A forked child that outlives this process must not keep the connection, and the job with it.
        forget_in_children(self._descriptor)
        for statement in _SESSION:
            await connection.execute(statement)
        if self._token is not None:
            await self._regain(self._token)
        return True

    async def _regain(self, token: int) -> None:
        """Take the job's lock again, on a new connection, if nobody has taken the job meanwhile."""
        key = _lock_key(self._job_id)
        statements = JobStatements(self._dialect, self._job_id, token)

        def regained() -> Statements[None]:
            # The server may not have noticed that our old connection is gone; so far as it still has the lock, end it.
            yield (
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid = ?"
                " AND classid::bigint = ? AND objid::bigint = ? AND objsubid = 1"
                " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
                (self._session, (key >> 32) & 0xFFFFFFFF, key & 0xFFFFFFFF),
            )
            # The lock first, as whoever takes the job does: the other way round each could wait for the other.
            yield from self._locked()
            yield from statements.guard()

        try:
            await self._transaction(_WRITE, regained())
        except psycopg.errors.LockNotAvailable:
            await self._close()
            raise Lost("its connection was lost, and another run has it now") from None
        except BaseException:
            await self._close()
            raise
        assert self._connection is not None
        self._session = self._connection.info.backend_pid

    def _hang_up(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """End a connection whose server does not answer: whoever waits for it gets an error."""
        if not connection.closed:
            self._hung_up = True
            # Cancelling instead would ask the server, which does not answer.
            with socket.socket(fileno=os.dup(connection.fileno())) as line:
                line.shutdown(socket.SHUT_RDWR)

    def _explained(self, error: psycopg.Error) -> StateError:
        state = error.sqlstate or ""
        kind: type[StateError] = StateUnavailable if state.startswith(_TRANSIENT) else StateError
        if state in _REMEDIES:
            what = _REMEDIES[state]
        elif isinstance(error, psycopg.OperationalError):
            kind = StateUnavailable
            if self._hung_up:
                what = f"did not answer for {self._timeout:g} s: see what the server does"
            else:
                what = "cannot be reached: start the server, or correct its address, the user's name or the password"
        else:
            what = "cannot be used"
        text = str(error).strip()
        secret = self._parameters.get("password")
        if secret:
            text = text.replace(str(secret), "***")
        return kind(f"{self._where()} {what} ({text})")


def _parsed(url: str) -> dict[str, Any]:
    """What a connection string says."""
    # SQLAlchemy's URLs name a driver, which is of no interest here.
    plain = re.sub(r"\Apostgres(ql)?\+\w+://", "postgresql://", url)
    try:
        return dict(psycopg.conninfo.conninfo_to_dict(plain))
    except psycopg.Error:
        # What psycopg says about it repeats parts of it, and the password may be among them.
        raise ConfigurationError(
            "db_url is not a connection string of PostgreSQL: write postgresql://user:password@host:port/database"
            " (characters such as @ : / % in the password as %40 %3A %2F %25)"
        ) from None


def _lock_key(job_id: str) -> int:
    return int.from_bytes(hashlib.sha256(f"stbass:{job_id}".encode()).digest()[:8], "big", signed=True)
