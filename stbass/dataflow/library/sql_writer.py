"""Writing rows to a table.

Jobs with a state that lasts keep a table of ours beside that of the user:

table ``stbass_writer``: how far each writer of each job is
    ``job`` (text), ``component`` (text): the key
    ``sequence`` (bigint): the number of the writer's last batch that is in its table
    written in the transaction that writes the batch; read when a job goes on; never removed (a row for each job)
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from stbass._values.texts import value_text
from stbass.dataflow.library.cells import guess
from stbass.dataflow.library.data import DataWriter
from stbass.dataflow.library.database import Database
from stbass.dataflow.library.fields import FieldNames
from stbass.dataflow.library.formats import Row
from stbass.dataflow.library.plain import plain_value
from stbass.dataflow.model.components import wiring_of
from stbass.errors import CheckpointError, DataflowError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Date, DateTime, Float, Integer, Numeric, Table, Time
    from sqlalchemy.types import TypeEngine

__all__ = ["SQLWriter"]

_TEXT = 255


class SQLWriter(DataWriter):
    """Writes rows to a table that exists, through SQLAlchemy.

    With a state that lasts, each row is in the table once, however often the job died and went on: the rows since the
    last checkpoint are kept in memory and in the checkpoint, and written after it in one transaction, together with
    their number, in a table of ours, ``stbass_writer``. Without such a state all rows are written in one transaction,
    which is committed at the end of a run in which no component has failed; a run that fails, is cancelled or
    interrupted leaves the table as it was. (SQLite lets one program write at a time: there the rows are kept in a
    temporary table until the end, so that nobody waits for the whole run.)

    Args:
        connection_string: SQLAlchemy's address of the database, with a driver that is not for asyncio only:
            ``"sqlite:///file.db"``, ``"postgresql+psycopg://user@host/name"``.
        table: the table, ``"name"`` or ``"schema.name"``.
        field_names: the inputs, which are the columns to write, or a mapping of inputs to columns.
        connect_args: options of SQLAlchemy's ``create_engine``.
        chunk_size: rows that are written at a time. None is 1,000.
        **kwargs: as of :class:`~stbass.dataflow.Component`.

    Raises:
        MissingDependencyError: SQLAlchemy is not installed.
        TypeError: an argument is of the wrong type.
        ValueError: it is no address, or a field has a name that a field cannot have.

    Its ``init`` raises DataflowError if there is no such table, or it has no such column.
    """

    def __init__(
        self,
        connection_string: str,
        table: str,
        field_names: FieldNames,
        connect_args: Mapping[str, Any] | None = None,
        chunk_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(field_names, chunk_size, **kwargs)
        if not isinstance(table, str):
            raise TypeError(f"{type(self).__name__}(table=…) takes the name of a table, got {value_text(table)}")
        schema, _, self._table_name = table.rpartition(".")
        if not self._table_name:
            raise ValueError(f"{type(self).__name__}(table={value_text(table)}): the name of a table is missing")
        self._schema = schema or None
        self._database = Database(type(self), connection_string, connect_args)
        self._table: Table | None = None
        self._progress: Table | None = None
        self._connection: Connection | None = None
        self._sequence = 0
        """The number of the last checkpoint's batch."""
        self._sealed = 0
        """How many of the rows belong to it; the others came later."""

    # A chunk at a time --------------------------------------------------------------------------

    def check_target(self) -> None:
        """Check that the table is there and has the columns."""
        from sqlalchemy import MetaData, Table
        from sqlalchemy.exc import NoSuchTableError

        with self._database.errors("write to"):
            engine = self._database.engine
            try:
                self._table = Table(
                    self._table_name, MetaData(), schema=self._schema, autoload_with=engine, resolve_fks=False
                )
            except NoSuchTableError:
                raise DataflowError(
                    f"component {self.name!r}: {self._database.shown} has no table {self._called()!r}; make it first"
                ) from None
        found = [column.name for column in self._table.columns]
        missing = [name for name in self.columns if name not in found]
        if missing:
            raise DataflowError(
                f"component {self.name!r}: table {self._called()!r} has no column {', '.join(map(repr, missing))}; "
                f"it has {found}"
            )

    def open_target(self, mark: Any) -> None:
        """Make the table of progress, if the job can be resumed."""
        if not self.is_resumable:
            return
        with self._database.errors("write to"):
            self._make_progress_table()
            if mark is None:
                # An earlier job of this name has nothing to do with this one.
                with self._database.engine.begin() as connection:
                    self._set_sequence(connection, 0)

    def write_rows(self, rows: Sequence[Row]) -> None:
        """Write rows in one transaction."""
        with self._writing():
            connection, table = self._once()
            self._insert(connection, rows, table)
            if table is not self._table:
                connection.commit()

    def publish_target(self) -> None:
        """Commit, unless that was done batch by batch."""
        if self._connection is None:
            return
        with self._writing():
            connection, kept = self._once()
            if kept is not self._table:
                from sqlalchemy import insert, select, text

                assert self._table is not None
                rows = select(*kept.columns).order_by(text("rowid"))
                connection.execute(insert(self._table).from_select(list(kept.columns.keys()), rows))
            connection.commit()
            self.abandon_target()

    def abandon_target(self) -> None:
        """Roll back what is not committed."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def close_target(self) -> None:
        """Disconnect."""
        self.abandon_target()
        self._database.close()

    def _writing(self) -> AbstractContextManager[None]:
        return self._database.errors(f"write rows to table {self._called()!r} of")

    def _once(self) -> tuple[Connection, Table]:
        """The connection of the only transaction, and the table into which rows go at first."""
        assert self._table is not None
        if self._connection is None:
            self._connection, self._kept = self._database.engine.connect(), self._table
            if self._connection.dialect.name == "sqlite":
                self._kept = self._make_temporary(self._connection)
        return self._connection, self._kept

    def _make_temporary(self, connection: Connection) -> Table:
        from sqlalchemy import Column, MetaData, Table, false, select, text

        assert self._table is not None
        columns = [self._table.columns[name] for name in self.columns]
        none = select(*columns).where(false()).compile(connection, compile_kwargs={"literal_binds": True})
        connection.execute(text(f"CREATE TEMP TABLE stbass_rows AS {none}"))
        connection.commit()
        made = [Column(column.name, column.type) for column in columns]
        return Table("stbass_rows", MetaData(), *made, schema="temp")

    # With checkpoints ---------------------------------------------------------------------------

    async def step(self) -> None:
        """Take a row."""
        if not self.is_resumable:
            await super().step()
            return
        values = self.__dict__
        self._target_rows.append(tuple([values[name] for name in self._outside_columns]))

    async def checkpoint(self) -> dict[str, Any]:
        """The rows that are not in the table yet, and the number of this batch."""
        if not self.is_resumable:
            return await super().checkpoint()
        await self._target_open()
        self._sequence += 1
        self._sealed = len(self._target_rows)
        return {"sequence": self._sequence, "rows": list(self._target_rows), "finished": self._target_finished}

    async def committed(self, n: int) -> None:
        """Write the rows of the checkpoint, which cannot be lost any more."""
        if self.is_resumable and self._sealed:
            await self.off_loop(self._write_batch, self._sequence, self._target_rows[: self._sealed])
            del self._target_rows[: self._sealed]
            self._sealed = 0

    async def restore(self, state: Any) -> None:
        """Write the rows of the checkpoint, unless that was done before the job died."""
        self._target_finished = state["finished"]
        self._target_opened = True
        self._sequence, self._target_rows, self._sealed = state["sequence"], [], 0
        await self.off_loop(self.open_target, self._sequence)
        await self.off_loop(self._write_batch, self._sequence, [tuple(row) for row in state["rows"]])

    async def _target_finish(self) -> None:
        if self.is_resumable:
            # What is left is written after the last checkpoint.
            self._target_finished = True
        else:
            await super()._target_finish()

    def _write_batch(self, sequence: int, rows: Sequence[Row]) -> None:
        """Write a batch and its number, both or neither; nothing if the number says that it was written before."""
        with self._writing(), self._database.engine.begin() as to:
            if self._take_sequence(to, sequence):
                assert self._table is not None
                self._insert(to, rows, self._table)

    def _take_sequence(self, connection: Connection, sequence: int) -> bool:
        from sqlalchemy import update

        progress = self._progress_table()
        # One statement: if two writers write the same batch at once, one waits, and then finds it done.
        done = connection.execute(
            update(progress).where(*self._mine(progress), progress.c.sequence < sequence).values(sequence=sequence)
        )
        if done.rowcount:
            return True
        if self._sequence_in(connection) is None:
            raise CheckpointError(
                f"component {self.name!r}: its row in table stbass_writer of {self._database.shown} is gone; whether "
                f"the last rows are in table {self._called()!r} cannot be said",
                component=self.name,
            )
        return False

    def _set_sequence(self, connection: Connection, sequence: int) -> None:
        from sqlalchemy import insert, update

        progress = self._progress_table()
        if self._sequence_in(connection) is None:
            job, component = self._key()
            connection.execute(insert(progress).values(job=job, component=component, sequence=sequence))
        else:
            connection.execute(update(progress).where(*self._mine(progress)).values(sequence=sequence))

    def _sequence_in(self, connection: Connection) -> int | None:
        from sqlalchemy import select

        progress = self._progress_table()
        found = connection.execute(select(progress.c.sequence).where(*self._mine(progress))).scalar()
        return None if found is None else int(found)

    def _insert(self, connection: Connection, rows: Sequence[Row], table: Table) -> None:
        from sqlalchemy import insert

        columns = self.columns
        if rows:
            assert self._table is not None
            kinds = [self._table.columns[name].type for name in columns]
            database = connection.dialect.name
            connection.execute(
                insert(table),
                [
                    {
                        name: self._fitted(name, kind, value, database)
                        for name, kind, value in zip(columns, kinds, row, strict=True)
                    }
                    for row in rows
                ],
            )

    def _fitted(self, column: str, kind: TypeEngine[Any], value: Any, database: str) -> Any:
        try:
            plain = plain_value(value)
            why = _what_is_lost(plain, kind, database)
        except ValueError as error:
            why = str(error)
        if why:
            raise DataflowError(
                f"component {self.name!r}: column {column!r} of table {self._called()!r} does not hold"
                f" {value_text(value)}: {why}"
            )
        return plain

    def _make_progress_table(self) -> None:
        from sqlalchemy import inspect
        from sqlalchemy.exc import DBAPIError

        progress = self._progress_table()
        try:
            progress.create(self._database.engine, checkfirst=True)
        except DBAPIError:
            # Another writer has made it since we looked.
            if not inspect(self._database.engine).has_table(progress.name):
                raise

    def _progress_table(self) -> Table:
        from sqlalchemy import BigInteger, Column, MetaData, String, Table

        if self._progress is None:
            self._progress = Table(
                "stbass_writer",
                MetaData(),
                Column("job", String(_TEXT), primary_key=True),
                Column("component", String(_TEXT), primary_key=True),
                Column("sequence", BigInteger, nullable=False),
            )
        return self._progress

    def _mine(self, progress: Table) -> tuple[Any, Any]:
        job, component = self._key()
        return progress.c.job == job, progress.c.component == component

    def _key(self) -> tuple[str, str]:
        job = wiring_of(self).job
        assert job is not None
        return job, self.name

    def _called(self) -> str:
        return f"{self._schema}.{self._table_name}" if self._schema else self._table_name


def _what_is_lost(value: Any, kind: TypeEngine[Any], database: str) -> str:
    """What a column of that kind would drop of a value without a word; empty: nothing that is known."""
    from sqlalchemy import JSON, Date, DateTime, Float, Integer, Numeric, Time

    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic):
        return f"a {type(value).__module__}.{type(value).__name__} is nothing that a database has"
    if isinstance(value, (datetime, time)) and isinstance(kind, (Date, DateTime, Time)):
        return _time_lost(value, kind)
    if isinstance(kind, (Integer, Numeric, Float)) and isinstance(value, (str, int, float, Decimal)):
        return _number_lost(value, kind, database)
    if isinstance(kind, JSON) and not _has_text_keys(value):
        return "JSON has only text as keys"
    if database == "sqlite":
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            return _TOO_LARGE
        if isinstance(value, float) and value != value:
            return "SQLite makes NULL of it"
        if not isinstance(value, (bytes, bytearray, memoryview)) and _is_buffer(value):
            return "SQLite makes bytes of it"
    return ""


def _time_lost(value: datetime | time, kind: Date | DateTime | Time) -> str:
    from sqlalchemy import Date

    if isinstance(kind, Date):
        if isinstance(value, datetime) and value.timetz() != time():
            return f"its time of day would be dropped, as the column is of type {kind!r}"
        return ""
    # SQL Server's type with a zone does not say so.
    if value.tzinfo is not None and not (kind.timezone or type(kind).__name__ == "DATETIMEOFFSET"):
        return f"its zone would be dropped, as the column is of type {kind!r}"
    # PostgreSQL's types have a precision if they are not exact, and MySQL's are not exact if they have none.
    digits = kind.fsp or 0 if hasattr(kind, "fsp") else getattr(kind, "precision", None)
    if digits is not None and value.microsecond % 10 ** max(0, 6 - digits):
        return f"it would be rounded, as the column is of type {kind!r}"
    return ""


def _number_lost(value: str | float | Decimal, kind: Integer | Numeric[Any] | Float[Any], database: str) -> str:
    from sqlalchemy import Float, Integer

    if isinstance(value, str):
        # Databases make numbers of text that looks like one.
        return "" if value == value.strip() and (guess([value]) != "str" or not _is_number(value)) else _NOT_AS_TEXT
    exact = Decimal(float.__repr__(value)) if isinstance(value, float) else Decimal(value)
    if not exact.is_finite():
        return "SQLite makes NULL of it" if database == "sqlite" and exact.is_nan() else ""
    if isinstance(kind, Float) or (database == "sqlite" and isinstance(value, Decimal)):
        return "" if isinstance(value, float) or _is_float(exact) else "a float does not hold it"
    if database == "sqlite":
        return _TOO_LARGE if isinstance(value, int) and not -(2**63) <= value < 2**63 else ""
    places = 0 if isinstance(kind, Integer) else kind.scale
    if places is not None and _places(exact) > places:
        return f"it would be rounded, as the column is of type {kind!r}"
    return ""


_TOO_LARGE = "SQLite has no larger integers than those of 64 bits"
_NOT_AS_TEXT = "it is text, and the number that the column makes of it is another text"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_float(exact: Decimal) -> bool:
    """Whether a float holds it."""
    try:
        return Decimal(repr(float(exact))) == exact
    except OverflowError:
        return False


def _places(exact: Decimal) -> int:
    """How many digits it has after the point, without zeros at the end."""
    _, digits, exponent = exact.as_tuple()
    zeros = len(digits) - len("".join(map(str, digits)).rstrip("0"))
    return max(0, -int(exponent) - zeros)


def _is_buffer(value: Any) -> bool:
    """Whether it gives access to its memory, as arrays do."""
    try:
        memoryview(value).release()
    except TypeError:
        return False
    return True


def _has_text_keys(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _has_text_keys(one) for key, one in value.items())
    return not isinstance(value, (list, tuple)) or all(map(_has_text_keys, value))
