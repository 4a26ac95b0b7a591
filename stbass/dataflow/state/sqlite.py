"""State in an SQLite file, of one machine.

The data model: the tables in :mod:`stbass.dataflow.state._sql`, and beside the file ``<db>``

``<db>-wal``, ``<db>-shm``
    SQLite's own (write-ahead log); gone when the last connection is closed.
``<db>-<digest of the job id>.lock``
    empty; locked with ``flock`` by the run that holds the job, made and removed by it. The operating system frees the
    lock however that process ends; the file of one that was killed stays until the job is run again, and does no harm.
    On a network file system it is as good as that system's ``flock``.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from stbass._process.sync_threads import OneThread
from stbass._values.texts import value_text
from stbass.dataflow.state import _sql
from stbass.dataflow.state._database import DatabaseStateBackend
from stbass.dataflow.state._held import FileLock
from stbass.dataflow.state._sql import Dialect, Lost, Statements
from stbass.errors import ConfigurationError, StateError, StateUnavailable

__all__ = ["SqliteStateBackend"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

_EFFECTIVE = os.access in os.supports_effective_ids

_REMEDIES = {
    sqlite3.SQLITE_BUSY: "is locked: another program has been writing to it for {:g} s; end that, or give a longer"
    " timeout=",
    sqlite3.SQLITE_READONLY: "cannot be written: make it and its folder writable for this user",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: it must be a file, and it and its folder readable and writable for"
    " this user",
    sqlite3.SQLITE_NOTADB: "is not an SQLite database: name another file; this one is left as it is",
    sqlite3.SQLITE_CORRUPT: "is damaged: put back a copy from before, or name another file",
    sqlite3.SQLITE_FULL: "cannot be written: the disk is full",
}


_TRANSIENT = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
"""What passes when somebody has seen to it."""


class SqliteStateBackend(DatabaseStateBackend):
    """State in a file, which several processes of this machine may use at once.

    All of it happens in a thread, so the event loop never waits for the disk. What is stored is on the disk, also if
    the machine loses its power, when the call returns.

    Args:
        db_path: the file; it is made if it is missing, its folder is not. It may hold other tables.
        timeout: seconds to wait while another program writes to it.
        job_id: see :class:`StateBackend`.
        metadata: see :class:`StateBackend`.

    Raises:
        ConfigurationError: an argument is wrong.
    """

    _dialect = Dialect(
        has_schema="SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'stbass_schema'", blob="BLOB"
    )

    def __init__(
        self,
        db_path: str | Path,
        *,
        timeout: float = 5.0,
        job_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(job_id, metadata)
        if str(db_path) in ("", ":memory:"):
            raise ConfigurationError(
                f"db_path={str(db_path)!r} is no file, and would not last: name one, or use DictStateBackend"
            )
        if not timeout >= 0:
            raise ConfigurationError(f"timeout must be a number of seconds, 0 or more, not {value_text(timeout)}")
        # Now, because the working directory may be another by the time it is opened.
        self._path = Path(db_path).absolute()
        self._timeout = timeout
        self._thread: OneThread | None = None
        self._connection: sqlite3.Connection | None = None
        self._file_lock: FileLock | None = None

    def _where(self) -> str:
        return f"SQLite file {str(self._path)!r}"

    def _forget_connection(self) -> None:
        self._thread = self._connection = self._file_lock = None

    async def _open(self) -> None:
        self._thread = OneThread("stbass-state")
        await self._in_thread(self._connect)

    async def _close(self) -> None:
        thread = self._thread
        if thread is not None:
            try:
                await self._in_thread(self._disconnect)
            finally:
                self._thread = None
                thread.end()

    async def _read(self, make: Callable[_P, Statements[_T]], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await self._in_thread(lambda: self._transaction("BEGIN", make(*args, **kwargs)))

    async def _write(self, make: Callable[_P, Statements[_T]], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await self._in_thread(lambda: self._transaction("BEGIN IMMEDIATE", make(*args, **kwargs)))

    async def _lock(self, holder: str) -> int:
        return await self._in_thread(lambda: self._take(holder))

    async def _unlock(self, token: int) -> None:
        await self._in_thread(lambda: self._give_up_file(token))

    # In the thread -------------------------------------------------------------------------------

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        def told() -> _T:
            try:
                return work()
            except sqlite3.Error as error:
                raise self._explained(error) from error
            except OSError as error:
                raise StateError(f"{self._where()} cannot be used: {error}") from error

        assert self._thread is not None, "between _open and _close there is a thread"
        return await self._thread.call(told)

    def _connect(self) -> None:
        if not self._path.parent.is_dir():
            raise StateError(f"{self._where()} cannot be made: there is no folder {str(self._path.parent)!r}; make it")
        if self._path.exists() and not os.access(self._path, os.W_OK, effective_ids=_EFFECTIVE):
            # SQLite would open it and leave files beside it that cannot be written either.
            raise StateError(f"{self._where()} {_REMEDIES[sqlite3.SQLITE_READONLY]}")
        # No isolation level: this module says itself where a transaction begins.
        connection = sqlite3.connect(self._path, timeout=self._timeout, isolation_level=None)
        self._connection = connection
        connection.execute("PRAGMA foreign_keys = ON")
        # With the log, readers and the writer do not wait for one another.
        if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            try:
                connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                # Another process is about to do the same; this one need not wait for it here. SQLite does not.
                if _code(error) != sqlite3.SQLITE_BUSY:
                    raise
        # Every commit reaches the disk: a checkpoint that was reported as saved is never taken back.
        connection.execute("PRAGMA synchronous = FULL")
        if not self._transaction("BEGIN", _sql.has_schema(self._dialect, self._where())):
            self._transaction("BEGIN IMMEDIATE", _sql.make_schema(self._dialect, self._where()))

    def _disconnect(self) -> None:
        try:
            self._let_go()
        finally:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _transaction(self, begin: str, statements: Statements[_T]) -> _T:
        connection = self._connection
        assert connection is not None
        connection.execute(begin)
        try:
            found = _sql.run(statements, lambda text, parameters: connection.execute(text, parameters).fetchall())
            connection.execute("COMMIT")
        except BaseException as error:
            # After some errors SQLite has rolled back by itself.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if isinstance(error, Lost):
                raise self._lost(str(error)) from None
            raise
        return found

    def _take(self, holder: str) -> int:
        digest = hashlib.sha256(self._job_id.encode()).hexdigest()[:16]
        path = self._path.with_name(f"{self._path.name}-{digest}.lock")
        # It may be there already: whoever waited for it was cancelled meanwhile.
        if self._file_lock is None or self._file_lock.path != path:
            self._let_go()
            self._file_lock = FileLock(path)
        if not self._file_lock.take():
            raise self._in_use(self._transaction("BEGIN", self._statements.holder()))
        try:
            return self._transaction("BEGIN IMMEDIATE", self._statements.take(holder))
        except BaseException:
            self._let_go()
            raise

    def _give_up_file(self, token: int) -> None:
        try:
            self._transaction("BEGIN IMMEDIATE", self._statements.give_up(token))
        finally:
            self._let_go()

    def _let_go(self) -> None:
        lock, self._file_lock = self._file_lock, None
        if lock is not None:
            lock.give_up()

    def _explained(self, error: sqlite3.Error) -> StateError:
        what = _REMEDIES.get(_code(error), "cannot be used").format(self._timeout)
        kind = StateUnavailable if _code(error) in _TRANSIENT else StateError
        return kind(f"{self._where()} {what} ({error})")


def _code(error: sqlite3.Error) -> int:
    """SQLite's code for what went wrong, without its details."""
    # Errors that the module itself makes have none.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
