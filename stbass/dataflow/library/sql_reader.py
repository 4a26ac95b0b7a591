"""Reading the rows of a query."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stbass._values.texts import value_text
from stbass.dataflow.library.data import DataReader
from stbass.dataflow.library.database import Database
from stbass.dataflow.library.fields import FieldNames
from stbass.dataflow.library.formats import Chunk
from stbass.errors import DataflowError

if TYPE_CHECKING:
    from sqlalchemy import Connection, CursorResult, Select

__all__ = ["SQLReader"]


_TOKEN = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|(?P<empty>--[^\n]*|/\*.*?\*/|[\s;])|.""", re.DOTALL)


def _without_end(query: str) -> str:
    """A query without the comments and semicolons after it, so that it can be a part of another."""
    tokens = list(_TOKEN.finditer(query))
    last = next((token.end() for token in reversed(tokens) if token["empty"] is None), 0)
    return query[:last].lstrip()


class SQLReader(DataReader):
    """Gives out the rows of a query, through SQLAlchemy.

    How a job is resumed depends on ``key``. With it, rows are read in the order of that column, and each chunk by a
    query of its own for the rows after the last one: a resumed job reads nothing twice, and no transaction stays open.
    Without it, the rows of one query are streamed, and a resumed job skips as many rows as it had read: the query needs
    an ``ORDER BY`` that makes their order certain.

    Args:
        connection_string: SQLAlchemy's address of the database, with a driver that is not for asyncio only:
            ``"sqlite:///file.db"``, ``"postgresql+psycopg://user@host/name"``.
        query: SQL; parameters in it are written ``:name``.
        field_names: the outputs, which are the columns to read, or a mapping of outputs to columns.
        params: values of the parameters.
        connect_args: options of SQLAlchemy's ``create_engine``.
        chunk_size: rows that are read at a time; two chunks are in memory at most. None is 1,000.
        key: a column of the query whose values are all different, and never NULL.
        **kwargs: as of :class:`~stbass.dataflow.Component`.

    Raises:
        MissingDependencyError: SQLAlchemy is not installed.
        TypeError: an argument is of the wrong type.
        ValueError: it is no address, or a field has a name that a field cannot have.

    Its ``init`` raises DataflowError if the query does not work or has no such column.
    """

    def __init__(
        self,
        connection_string: str,
        query: str,
        field_names: FieldNames,
        params: Mapping[str, Any] | None = None,
        connect_args: Mapping[str, Any] | None = None,
        chunk_size: int | None = None,
        key: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(field_names, chunk_size, **kwargs)
        if not isinstance(query, str):
            raise TypeError(f"{type(self).__name__}(query=…) takes text, got {value_text(query)}")
        if key is not None and not isinstance(key, str):
            raise TypeError(f"{type(self).__name__}(key=…) takes the name of a column, got {key!r}")
        self._database = Database(type(self), connection_string, connect_args)
        self._query = _without_end(query)
        self._params = dict(params or {})
        self._key = key
        self._connection: Connection | None = None
        self._result: CursorResult[Any] | None = None
        self._passed = 0
        self._after: Any = None

    def open_source(self, position: Any) -> Any:
        """Connect, and go to a position."""
        with self._database.errors("read from"):
            self._connection = self._database.engine.connect()
            if self._key is None:
                self._passed = 0 if position is None else position["passed"]
                self._stream(self._passed)
            else:
                self._after = None if position is None else position["after"]
                self._check_columns()
                self._look_for_nulls()
        return self._position()

    def read_rows(self) -> Chunk | None:
        """Read the next rows."""
        with self._database.errors("read from"):
            rows = self._read_on() if self._key is None else self._read_after()
        return Chunk(rows, self._position()) if rows else None

    def close_source(self) -> None:
        """Disconnect."""
        connection, self._connection = self._connection, None
        result, self._result = self._result, None
        if result is not None:
            # Where it was refused the error still holds it, and it would hold its lock on the database.
            result.close()
        if connection is not None:
            connection.close()
        self._database.close()

    def _position(self) -> dict[str, Any]:
        return {"passed": self._passed} if self._key is None else {"after": self._after}

    def _connected(self) -> Connection:
        if self._connection is None:
            raise DataflowError(f"component {self.name!r} is not connected to {self._database.shown}")
        return self._connection

    # One query, streamed ------------------------------------------------------------------------

    def _stream(self, passed: int) -> None:
        from sqlalchemy import text

        connection = self._connected().execution_options(stream_results=True, max_row_buffer=self.chunk_size)
        result = self._result = connection.execute(text(self._query), self._params)
        if not result.returns_rows:
            raise DataflowError(f"component {self.name!r}: the query gives no rows: {self._query}")
        found = list(result.keys())
        self._check(found)
        self._places = [found.index(name) for name in self.columns]
        left = passed
        while left:
            skipped = len(result.fetchmany(min(left, self.chunk_size)))
            if not skipped:
                raise DataflowError(
                    f"component {self.name!r}: {passed} rows of its query were read before, and now it has "
                    f"{passed - left}: give key= to go on behind a value instead of a number of rows"
                )
            left -= skipped

    def _read_on(self) -> list[tuple[Any, ...]]:
        if self._result is None:
            return []
        rows = self._result.fetchmany(self.chunk_size)
        self._passed += len(rows)
        if not rows:
            # A query that was read to its end must not keep its transaction open while the process runs on.
            self._result = None
            self._connected().rollback()
        places = self._places
        return [tuple([row[place] for place in places]) for row in rows]

    def _check(self, found: Sequence[str]) -> None:
        wanted = list(dict.fromkeys([*self.columns, *([] if self._key is None else [self._key])]))
        missing = [name for name in wanted if name not in found]
        if missing:
            raise DataflowError(
                f"component {self.name!r}: the query has no column {', '.join(map(repr, missing))}; it has {found}"
            )
        # With a key the query is asked from inside another, where databases find names in upper or lower case alike.
        alike = found if self._key is None else [name.casefold() for name in found]
        double = [name for name in wanted if alike.count(name if self._key is None else name.casefold()) > 1]
        if double:
            raise DataflowError(
                f"component {self.name!r}: the query has more than one column {', '.join(map(repr, double))}; "
                f"give each a name of its own with AS"
            )

    # A query for each chunk ---------------------------------------------------------------------

    def _statement(self) -> tuple[Select[Any], Any]:
        """A statement that selects the columns and the key of the query, and the query as a table."""
        from sqlalchemy import bindparam, column, select, text

        names = list(dict.fromkeys([*self.columns, str(self._key)]))
        parameters: list[Any] = [bindparam(name, value) for name, value in self._params.items()]
        table = text(self._query).bindparams(*parameters).columns(*map(column, names)).subquery("stbass_rows")
        return select(*[table.c[name] for name in self.columns], table.c[str(self._key)].label("stbass_key")), table

    def _check_columns(self) -> None:
        """Look at the columns of the query as it is: as a part of another one, it may have two of a name."""
        from sqlalchemy import text

        with (
            self._connected().execution_options(stream_results=True).execute(text(self._query), self._params) as result
        ):
            if result.returns_rows:
                self._check(list(result.keys()))
        self._connected().rollback()

    def _look_for_nulls(self) -> None:
        statement, table = self._statement()
        connection = self._connected()
        found = connection.execute(statement.where(table.c[str(self._key)].is_(None)).limit(1)).first()
        connection.rollback()
        if found is not None:
            raise DataflowError(f"component {self.name!r}: key={self._key!r} is NULL in some rows; take another column")

    def _read_after(self) -> list[tuple[Any, ...]]:
        statement, table = self._statement()
        key = table.c[str(self._key)]
        if self._after is not None:
            statement = statement.where(key > self._after)
        connection = self._connected()
        # One row more than a chunk: if the key were the same on both sides of the border, rows would be lost.
        rows = connection.execute(statement.order_by(key).limit(self.chunk_size + 1)).all()
        connection.rollback()
        more = len(rows) > self.chunk_size
        if more and rows[-1][-1] == rows[-2][-1]:
            raise DataflowError(
                f"component {self.name!r}: key={self._key!r} is {value_text(rows[-1][-1])} in more than one row;"
                " take a column that has another value in each"
            )
        rows = rows[: self.chunk_size]
        if rows:
            self._after = rows[-1][-1]
        return [tuple(row[:-1]) for row in rows]
