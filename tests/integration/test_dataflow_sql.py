"""Readers and writers of SQL databases: SQLite, and a real PostgreSQL."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import create_engine, text

from stbass.dataflow import Component, IOController, LocalProcess
from stbass.dataflow.library import SQLReader, SQLWriter
from stbass.errors import DataflowError
from tests.support.dataflow_parts import Rows, connected, read_all, reading, write_all
from tests.support.postgres_server import PostgresServer


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """SQLAlchemy's address of a server."""
    with PostgresServer() as server:
        yield server.url().replace("postgresql://", "postgresql+psycopg://")


@pytest.fixture(params=["sqlite", "postgres"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database with a table ``t`` of 25 rows and an empty table ``out``."""
    found = f"sqlite:///{tmp_path / 'file.db'}"
    if request.param == "postgres":
        found = request.getfixturevalue("postgres")
    execute(
        found,
        "DROP TABLE IF EXISTS t",
        "DROP TABLE IF EXISTS out",
        "DROP TABLE IF EXISTS stbass_writer",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, name VARCHAR(20), maybe INTEGER)",
        *(f"INSERT INTO t VALUES ({n}, 'n{n:02}', {n if n % 2 else 'NULL'})" for n in range(25)),
        "CREATE TABLE out (id INTEGER, x FLOAT, word VARCHAR(20))",
    )
    return found


def execute(address: str, *statements: str) -> list[tuple[Any, ...]]:
    """Rows of the last statement."""
    engine = create_engine(address)
    rows: list[tuple[Any, ...]] = []
    with engine.begin() as connection:
        for statement in statements:
            result = connection.execute(text(statement))
            rows = [tuple(row) for row in result] if result.returns_rows else []
    engine.dispose()
    return rows


EXPECTED = [(f"n{n:02}", n) for n in range(25)]


async def failure(process: LocalProcess) -> DataflowError:
    """Why it failed: one error."""
    with pytest.raises(ExceptionGroup) as caught:
        async with process:
            await process.run()
    error: BaseException = caught.value
    while isinstance(error, BaseExceptionGroup):
        assert len(error.exceptions) == 1
        error = error.exceptions[0]
    assert isinstance(error, DataflowError), repr(error)
    return error


# Reading -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_size", [1, 7, 25, 1000])
@pytest.mark.parametrize("key", [None, "id", "name"])
async def test_rows_of_a_query(address: str, key: str | None, chunk_size: int) -> None:
    reader = SQLReader(
        connection_string=address,
        query="SELECT id, name, maybe FROM t ORDER BY id;",
        field_names={"word": "name", "number": "id"},
        key=key,
        chunk_size=chunk_size,
        name="reader",
    )
    assert await read_all(reader) == EXPECTED


@pytest.mark.parametrize("key", [None, "id"])
async def test_parameters(address: str, key: str | None) -> None:
    reader = SQLReader(
        connection_string=address,
        query="SELECT id, name AS word FROM t WHERE id >= :least AND name <> :but ORDER BY id",
        params={"least": 20, "but": "n22"},
        field_names=["word"],
        key=key,
        chunk_size=2,
        name="reader",
    )
    assert await read_all(reader) == [("n20",), ("n21",), ("n23",), ("n24",)]


@pytest.mark.parametrize("key", [None, "id"])
async def test_a_query_without_rows(address: str, key: str | None) -> None:
    query = "SELECT id FROM t WHERE id < 0"
    reader = SQLReader(connection_string=address, query=query, field_names={"n": "id"}, key=key, name="reader")
    assert await read_all(reader) == []


@pytest.mark.parametrize(
    ("query", "key", "says"),
    [
        ("SELECT nonsense FROM t", None, "nonsense"),
        ("SELECT nonsense FROM t", "id", "nonsense"),
        ("SELECT id FROM t", None, "no column 'name'; it has ['id']"),
        ("SELECT id FROM t", "id", "name"),
        ("DELETE FROM t WHERE id < 0", None, "DELETE FROM t"),
        ("SELECT id, name, maybe FROM t", "maybe", "key='maybe' is NULL in some rows"),
        ("SELECT 1 AS k, name FROM t", "k", "key='k' is 1 in more than one row"),
        ("SELECT id, name, 'x' AS name FROM t", None, "more than one column 'name'"),
        ("SELECT id, name, 'x' AS name FROM t", "id", "more than one column 'name'"),
        ("SELECT id, name, 1 AS id FROM t", "id", "more than one column 'id'"),
        ("SELECT id, name, 'x' AS NAME FROM t", "id", "more than one column 'name'"),
    ],
)
async def test_what_is_wrong_with_a_query_shows_before_any_step(
    address: str, query: str, key: str | None, says: str
) -> None:
    process, collect = reading(
        SQLReader(
            connection_string=address, query=query, field_names={"word": "name"}, key=key, chunk_size=5, name="reader"
        )
    )
    error = await failure(process)
    assert says in str(error)
    assert collect.got == []
    # and the database is free for others, while somebody still has the error
    execute(address, "CREATE TABLE another (a INTEGER)", "DROP TABLE another")


@pytest.mark.parametrize("key", [None, "id"])
@pytest.mark.parametrize(
    "end",
    [" -- all of them", ";", "; -- it's done", " /* all; of them */ ;\n", "\n-- one\n--two", " AND name <> '--x;'"],
)
async def test_what_may_stand_behind_a_query(address: str, key: str | None, end: str) -> None:
    query = f"SELECT id, name FROM t WHERE id < 2{end}"
    reader = SQLReader(connection_string=address, query=query, field_names={"word": "name"}, key=key, name="reader")
    assert await read_all(reader) == [("n00",), ("n01",)]


async def test_a_server_that_is_not_there_and_whose_password_is_not_shown() -> None:
    reader = SQLReader(
        connection_string="postgresql+psycopg://me:geheim@127.0.0.1:1/x", query="SELECT 1", field_names=["a"], name="r"
    )
    error = await failure(reading(reader)[0])
    assert "cannot read from postgresql+psycopg://me:***@127.0.0.1:1/x" in str(error)
    assert "geheim" not in str(error)


# Writing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 5, 6, 17])
async def test_rows_are_written_whatever_the_chunk(address: str, count: int) -> None:
    writer = SQLWriter(
        connection_string=address, table="out", field_names={"a": "id", "b": "x"}, chunk_size=5, name="writer"
    )
    await write_all(writer, [(n, n / 4) for n in range(count)])
    assert execute(address, "SELECT id, x, word FROM out ORDER BY id") == [(n, n / 4, None) for n in range(count)]
    # Without a state that lasts, there is nothing of ours in the database.
    with pytest.raises(Exception, match="stbass_writer"):
        execute(address, "SELECT * FROM stbass_writer")


async def test_numbers_of_numpy(address: str) -> None:
    writer = SQLWriter(connection_string=address, table="out", field_names={"a": "id", "b": "x"}, name="writer")
    await write_all(writer, [(np.int64(3), np.float32(0.5))])
    assert execute(address, "SELECT id, x FROM out") == [(3, 0.5)]


async def test_times_of_numpy_in_a_column_without_a_type(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path / 'file.db'}"
    execute(address, "CREATE TABLE untyped (a)")
    writer = SQLWriter(connection_string=address, table="untyped", field_names=["a"], name="writer")
    await write_all(writer, [(np.datetime64("2031-05-09T08:30:00.5", "ns"),), (np.datetime64("NaT"),)])
    assert execute(address, "SELECT a FROM untyped") == [("2031-05-09 08:30:00.500000",), (None,)]
    writer = SQLWriter(connection_string=address, table="untyped", field_names=["a"], name="writer")
    with pytest.raises(ExceptionGroup) as caught:
        await write_all(writer, [(np.datetime64(1, "ns"),)])
    assert "finer than a microsecond" in str(caught.value.exceptions)


async def test_values_that_only_sql_has(tmp_path: Path, postgres: str) -> None:
    execute(postgres, "DROP TABLE IF EXISTS v", "CREATE TABLE v (t TIMESTAMP, m NUMERIC(8, 2))")
    row = (datetime(2031, 5, 9, 8, 30), Decimal("12.50"))
    await write_all(SQLWriter(connection_string=postgres, table="v", field_names=["t", "m"], name="writer"), [row])
    query = "SELECT t, m FROM v"
    assert await read_all(SQLReader(connection_string=postgres, query=query, field_names=["t", "m"], name="r")) == [row]


@pytest.mark.parametrize(
    ("kind", "kept", "lost", "says"),
    [
        ("INTEGER", 2.0, 2.5, "it would be rounded"),
        ("INTEGER", "7", "007", "another text"),
        ("BIGINT", Decimal("2.0"), Decimal("2.5"), "it would be rounded"),
        ("NUMERIC(8, 2)", Decimal("12.500"), Decimal("12.345"), "it would be rounded"),
        ("NUMERIC(8, 2)", 12.5, 0.1 + 0.2, "it would be rounded"),
        ("NUMERIC", Decimal("1234567890123456789012345678901.25"), "1_000", "another text"),
        ("DOUBLE PRECISION", Decimal("0.5"), Decimal("12345678901234567.25"), "a float does not hold it"),
        ("DATE", datetime(2031, 5, 9), datetime(2031, 5, 9, 8, 30), "its time of day would be dropped"),
        ("DATE", date(2031, 5, 9), datetime(2031, 5, 9, tzinfo=UTC), "its time of day would be dropped"),
        ("TIMESTAMP", datetime(2031, 5, 9, 8, 30, 1, 5), datetime(2031, 5, 9, tzinfo=UTC), "its zone"),
        ("TIMESTAMP(0)", datetime(2031, 5, 9, 8, 30, 1), datetime(2031, 5, 9, 8, 30, 1, 5), "it would be rounded"),
        ("TIME(3)", time(8, 30, 1, 5000), time(8, 30, 1, 5), "it would be rounded"),
        ("TEXT", "é", "\ud800", "surrogates not allowed"),
    ],
)
async def test_what_a_column_would_change_is_refused(postgres: str, kind: str, kept: Any, lost: Any, says: str) -> None:
    execute(postgres, "DROP TABLE IF EXISTS v", f"CREATE TABLE v (a {kind})")

    def writer() -> SQLWriter:
        return SQLWriter(connection_string=postgres, table="v", field_names=["a"], name="writer")

    await write_all(writer(), [(kept,)])
    with pytest.raises(ExceptionGroup) as caught:
        await write_all(writer(), [(lost,)])
    [error] = caught.value.exceptions
    assert isinstance(error, DataflowError)
    assert says in str(error)
    [(got,)] = execute(postgres, "SELECT a FROM v")
    assert got == {"7": 7}.get(kept, date(2031, 5, 9) if kind == "DATE" else kept)


@pytest.mark.parametrize(
    ("table", "columns", "says"),
    [
        ("nowhere", {"a": "id"}, "has no table 'nowhere'; make it first"),
        ("out", {"a": "id", "b": "y", "c": "z"}, "table 'out' has no column 'y', 'z'; it has ['id', 'x', 'word']"),
    ],
)
async def test_a_table_that_does_not_suit_shows_before_any_step(
    address: str, table: str, columns: dict[str, str], says: str
) -> None:
    source = Rows(list(columns), [[1] * len(columns)], name="source")
    writer = SQLWriter(connection_string=address, table=table, field_names=columns, name="writer")
    error = await failure(LocalProcess([source, writer], connected(source, writer)))
    assert says in str(error)
    assert source.given == 0


async def test_a_row_that_the_database_refuses_leaves_the_table_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE out (a INTEGER UNIQUE)")
    connection.close()
    source = Rows(["a"], [[1], [2], [3], [1]], name="source")
    writer = SQLWriter(
        connection_string=f"sqlite:///{path}", table="out", field_names=["a"], chunk_size=2, name="writer"
    )
    error = await failure(LocalProcess([source, writer], connected(source, writer)))
    assert "cannot write rows to table 'out'" in str(error)
    assert "UNIQUE constraint failed" in str(error)
    assert execute(f"sqlite:///{path}", "SELECT a FROM out ORDER BY a") == []


async def test_a_run_that_fails_leaves_the_table_as_it_was(address: str) -> None:
    execute(address, "DROP TABLE IF EXISTS kept", "CREATE TABLE kept (a INTEGER, b VARCHAR(9))")
    execute(address, "INSERT INTO kept VALUES (0, 'good')")
    source = Rows(["a", "b"], [[number, "x"] for number in range(9)], name="source")

    class Breaks(Component):
        io = IOController(inputs=["a"])
        a: int

        async def step(self) -> None:
            if self.a == 7:
                raise ValueError("broken")

    writer = SQLWriter(connection_string=address, table="kept", field_names=["a", "b"], chunk_size=2, name="writer")
    breaks = Breaks(name="breaks")
    connectors = [*connected(source, writer), *connected(source, breaks)]
    with pytest.raises(ExceptionGroup, match="components failed"):
        async with asyncio.timeout(30), LocalProcess([source, writer, breaks], connectors) as process:
            await process.run()
    assert execute(address, "SELECT a, b FROM kept") == [(0, "good")]


async def test_two_writers_and_a_reader_of_one_database(address: str) -> None:
    for name in ("here", "there", "source"):
        execute(address, f"DROP TABLE IF EXISTS {name}", f"CREATE TABLE {name} (a INTEGER)")
    execute(address, "INSERT INTO source VALUES (1), (2), (3)")
    source = SQLReader(connection_string=address, query="SELECT a FROM source ORDER BY a", field_names=["a"], name="s")
    writers = [
        SQLWriter(connection_string=address, table=name, field_names=["a"], chunk_size=1, name=name)
        for name in ("here", "there")
    ]
    connectors = [one for writer in writers for one in connected(source, writer)]
    async with asyncio.timeout(30), LocalProcess([source, *writers], connectors) as process:
        await process.run()
    for name in ("here", "there"):
        assert execute(address, f"SELECT a FROM {name} ORDER BY a") == [(1,), (2,), (3,)]


# Arguments ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"connection_string": "no address: geheim"}, ValueError, "is no address of a database"),
        ({"connection_string": 7}, TypeError, "takes text"),
        ({"connect_args": "x"}, TypeError, "takes a mapping"),
        ({"connect_args": {"isolation_level": "AUTOCOMMIT"}}, ValueError, "in part or twice"),
        ({"table": ""}, ValueError, "name of a table is missing"),
        ({"table": 7}, TypeError, "name of a table"),
        ({"field_names": ["state"]}, ValueError, "field_names={'my_state': 'state'}"),
    ],
)
def test_arguments_that_cannot_be_right(arguments: dict[str, Any], error: type[Exception], says: str) -> None:
    given = {"connection_string": "sqlite://", "table": "t", "field_names": ["a"], "name": "w", **arguments}
    with pytest.raises(error) as caught:
        SQLWriter(**given)
    assert says in str(caught.value)
    assert "geheim" not in str(caught.value)


async def test_a_driver_for_asyncio_only() -> None:
    address = "postgresql+psycopg_async://me@127.0.0.1:1/x"
    reader = SQLReader(connection_string=address, query="SELECT 1 AS a", field_names=["a"], name="r")
    assert "a driver for asyncio only" in str(await failure(reading(reader)[0]))
