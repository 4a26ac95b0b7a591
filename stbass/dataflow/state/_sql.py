"""Tables and statements that the backends over SQL databases share.

A statement list is a generator: it yields statements with their parameters and is sent the rows, so that SQLite can run
it in a thread and PostgreSQL on the event loop. Each runs in one transaction; an exception in it rolls all back.

The data model (all written and read by the run that holds the job, and read by whoever looks; kept until deleted:
deleting a row of ``stbass_job`` deletes all that belongs to the job):

``stbass_schema``
    one row: ``version``, the version of these tables.
``stbass_job``
    ``job_id`` (key); ``created_at`` (ISO 8601, UTC); ``metadata`` (JSON or NULL); ``holder`` (JSON: host, pid, since;
    NULL: nobody); ``fence`` (grows by 1 with each run that gets the job, and when it is given up).
``stbass_process``
    ``job_id``, ``id`` (key); ``data`` (JSON of its ``dict()``, with the ids of components and connectors); ``status``.
``stbass_member``
    ``job_id``, ``process_id``, ``kind`` (``component`` or ``connector``), ``id`` (key); ``position`` in the process.
``stbass_item``
    ``job_id``, ``kind``, ``id`` (key); ``data`` (JSON of the component's or connector's ``dict()``).
``stbass_checkpoint``
    ``job_id`` (key); ``n``; ``parts`` (how many).
``stbass_part``
    ``job_id``, ``name`` (key); ``data`` (bytes); ``checksum`` (CRC-32 of them).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from stbass.dataflow.state._records import SCHEMA_VERSION, ProcessRecord, StoredPart, stored_parts, wrong_version

__all__ = ["Dialect", "JobStatements", "Lost", "Statements", "all_jobs", "has_schema", "make_schema", "put_job", "run"]

_T = TypeVar("_T")

Statements: TypeAlias = Generator[tuple[str, Sequence[Any]], list[tuple[Any, ...]], _T]


class Lost(Exception):
    """The job's fence is not the one that this run got. The backend makes an error of it that says where."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """What differs.

    Args:
        has_schema: a query for whether there is a table ``stbass_schema``: one row with a number.
        blob: the type of bytes.
        for_update: what makes a SELECT lock its row.
        alone: run before tables are made, so that only one makes them.
    """

    has_schema: str
    blob: str
    for_update: str = ""
    alone: tuple[str, ...] = ()


def has_schema(dialect: Dialect, where: str) -> Statements[bool]:
    """Whether the tables are there.

    Raises:
        StateError: they are there in another version.
    """
    rows = yield dialect.has_schema, ()
    if not rows[0][0]:
        return False
    rows = yield "SELECT version FROM stbass_schema", ()
    if rows != [(SCHEMA_VERSION,)]:
        raise wrong_version(where, ", ".join(str(row[0]) for row in rows))
    return True


def make_schema(dialect: Dialect, where: str) -> Statements[None]:
    """Make the tables, unless somebody else has meanwhile."""
    for statement in dialect.alone:
        yield statement, ()
    if (yield from has_schema(dialect, where)):
        return
    job = "job_id TEXT NOT NULL REFERENCES stbass_job (job_id) ON DELETE CASCADE"
    yield "CREATE TABLE stbass_schema (version BIGINT NOT NULL)", ()
    yield (
        "CREATE TABLE stbass_job (job_id TEXT PRIMARY KEY, created_at TEXT NOT NULL, metadata TEXT, holder TEXT,"
        " fence BIGINT NOT NULL DEFAULT 0)",
        (),
    )
    yield (
        f"CREATE TABLE stbass_process ({job}, id TEXT NOT NULL, data TEXT NOT NULL, status TEXT NOT NULL,"
        " PRIMARY KEY (job_id, id))",
        (),
    )
    yield (
        f"CREATE TABLE stbass_member ({job}, process_id TEXT NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL,"
        " position BIGINT NOT NULL, PRIMARY KEY (job_id, process_id, kind, id))",
        (),
    )
    yield (
        f"CREATE TABLE stbass_item ({job}, kind TEXT NOT NULL, id TEXT NOT NULL, data TEXT NOT NULL,"
        " PRIMARY KEY (job_id, kind, id))",
        (),
    )
    yield f"CREATE TABLE stbass_checkpoint ({job}, n BIGINT NOT NULL, parts BIGINT NOT NULL, PRIMARY KEY (job_id))", ()
    yield (
        f"CREATE TABLE stbass_part ({job}, name TEXT NOT NULL, data {dialect.blob} NOT NULL, checksum BIGINT NOT NULL,"
        " PRIMARY KEY (job_id, name))",
        (),
    )
    yield "INSERT INTO stbass_schema (version) VALUES (?)", (SCHEMA_VERSION,)


def put_job(job: str, created_at: str, metadata: str | None) -> Statements[tuple[str, str | None]]:
    """Store a job if it is new, and its metadata unless None."""
    yield (
        "INSERT INTO stbass_job (job_id, created_at) VALUES (?, ?) ON CONFLICT (job_id) DO NOTHING",
        (job, created_at),
    )
    if metadata is not None:
        yield "UPDATE stbass_job SET metadata = ? WHERE job_id = ?", (metadata, job)
    rows = yield "SELECT created_at, metadata FROM stbass_job WHERE job_id = ?", (job,)
    return rows[0][0], rows[0][1]


def all_jobs() -> Statements[dict[str, tuple[str, list[str]]]]:
    """When each was made, and the statuses of its processes."""
    rows = yield (
        "SELECT j.job_id, j.created_at, p.status FROM stbass_job j LEFT JOIN stbass_process p ON p.job_id = j.job_id",
        (),
    )
    found: dict[str, tuple[str, list[str]]] = {}
    for job_id, created_at, status in rows:
        found.setdefault(job_id, (created_at, []))[1].extend([] if status is None else [status])
    return found


class JobStatements:
    """What is done with one job, by a run that holds it with this token, or by somebody who does not (None)."""

    def __init__(self, dialect: Dialect, job: str, token: int | None) -> None:
        self._dialect = dialect
        self._job = job
        self._token = token

    def guard(self) -> Statements[None]:
        """Nothing is written by a run that has lost the job; and nobody else writes to it until this has."""
        rows = yield f"SELECT fence FROM stbass_job WHERE job_id = ?{self._dialect.for_update}", (self._job,)
        if not rows:
            raise Lost("its record was deleted")
        if self._token is not None and rows[0][0] != self._token:
            raise Lost("another run has taken it")

    def put_process(self, process_id: str, record: ProcessRecord) -> Statements[None]:
        yield from self.guard()
        yield (
            "INSERT INTO stbass_process (job_id, id, data, status) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (job_id, id) DO UPDATE SET data = excluded.data",
            (self._job, process_id, record.data, record.status),
        )
        yield "DELETE FROM stbass_member WHERE job_id = ? AND process_id = ?", (self._job, process_id)
        for kind, texts in (("component", record.components), ("connector", record.connectors)):
            for position, (key, text) in enumerate(texts.items()):
                yield (
                    "INSERT INTO stbass_member (job_id, process_id, kind, id, position) VALUES (?, ?, ?, ?, ?)",
                    (self._job, process_id, kind, key, position),
                )
                if text is not None:
                    yield from self._put_item(kind, key, text)

    def get_process(self, process_id: str) -> Statements[ProcessRecord | None]:
        found = yield "SELECT data, status FROM stbass_process WHERE job_id = ? AND id = ?", (self._job, process_id)
        if not found:
            return None
        rows = yield (
            "SELECT m.kind, m.id, i.data FROM stbass_member m LEFT JOIN stbass_item i"
            " ON i.job_id = m.job_id AND i.kind = m.kind AND i.id = m.id"
            " WHERE m.job_id = ? AND m.process_id = ? ORDER BY m.position",
            (self._job, process_id),
        )
        members: dict[str, dict[str, str | None]] = {"component": {}, "connector": {}}
        for kind, key, text in rows:
            members[kind][key] = text
        return ProcessRecord(found[0][0], found[0][1], members["component"], members["connector"])

    def set_status(self, process_id: str, status: str) -> Statements[bool]:
        yield from self.guard()
        rows = yield (
            "UPDATE stbass_process SET status = ? WHERE job_id = ? AND id = ? RETURNING id",
            (status, self._job, process_id),
        )
        return bool(rows)

    def statuses(self) -> Statements[dict[str, str]]:
        rows = yield "SELECT id, status FROM stbass_process WHERE job_id = ?", (self._job,)
        return {row[0]: row[1] for row in rows}

    def put_item(self, kind: str, item_id: str, data: str) -> Statements[None]:
        yield from self.guard()
        yield from self._put_item(kind, item_id, data)

    def _put_item(self, kind: str, item_id: str, data: str) -> Statements[None]:
        yield (
            "INSERT INTO stbass_item (job_id, kind, id, data) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (job_id, kind, id) DO UPDATE SET data = excluded.data",
            (self._job, kind, item_id, data),
        )

    def get_item(self, kind: str, item_id: str) -> Statements[str | None]:
        rows = yield (
            "SELECT data FROM stbass_item WHERE job_id = ? AND kind = ? AND id = ?",
            (self._job, kind, item_id),
        )
        return rows[0][0] if rows else None

    def processes_of(self, component_id: str) -> Statements[list[str]]:
        rows = yield (
            "SELECT process_id FROM stbass_member WHERE job_id = ? AND kind = 'component' AND id = ?",
            (self._job, component_id),
        )
        return [row[0] for row in rows]

    def take(self, holder: str) -> Statements[int]:
        """Note a new holder, who has the lock; gives the fence."""
        rows = yield (
            "UPDATE stbass_job SET fence = fence + 1, holder = ? WHERE job_id = ? RETURNING fence",
            (holder, self._job),
        )
        if not rows:
            raise Lost("its record was deleted")
        fence: int = rows[0][0]
        return fence

    def give_up(self, token: int) -> Statements[None]:
        """Note that nobody holds it."""
        yield (
            "UPDATE stbass_job SET fence = fence + 1, holder = NULL WHERE job_id = ? AND fence = ?",
            (self._job, token),
        )

    def delete(self) -> Statements[None]:
        yield from self.guard()
        yield "DELETE FROM stbass_job WHERE job_id = ?", (self._job,)

    def holder(self) -> Statements[str | None]:
        rows = yield "SELECT holder FROM stbass_job WHERE job_id = ?", (self._job,)
        return rows[0][0] if rows else None

    def save(self, n: int, parts: Mapping[str, bytes]) -> Statements[None]:
        yield from self.guard()
        yield "DELETE FROM stbass_part WHERE job_id = ?", (self._job,)
        yield (
            "INSERT INTO stbass_checkpoint (job_id, n, parts) VALUES (?, ?, ?)"
            " ON CONFLICT (job_id) DO UPDATE SET n = excluded.n, parts = excluded.parts",
            (self._job, n, len(parts)),
        )
        for part in stored_parts(parts):
            yield (
                "INSERT INTO stbass_part (job_id, name, data, checksum) VALUES (?, ?, ?, ?)",
                (self._job, part.name, part.data, part.checksum),
            )

    def load(self) -> Statements[tuple[Any, Any, list[StoredPart]] | None]:
        """Number, count and parts, as they were read."""
        head = yield "SELECT n, parts FROM stbass_checkpoint WHERE job_id = ?", (self._job,)
        if not head:
            return None
        rows = yield "SELECT name, data, checksum FROM stbass_part WHERE job_id = ?", (self._job,)
        return head[0][0], head[0][1], [StoredPart(*row) for row in rows]


def run(statements: Statements[_T], execute: Callable[[str, Sequence[Any]], list[tuple[Any, ...]]]) -> _T:
    """Run all of them, with what runs one."""
    try:
        step = next(statements)
        while True:
            step = statements.send(execute(*step))
    except StopIteration as done:
        result: _T = done.value
        return result
