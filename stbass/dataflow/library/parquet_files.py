"""Parquet files.

A Parquet file ends with its table of contents, without which it cannot be read; one whose writer died is lost. So a
writer that may have to come back writes parts, each a Parquet file of its own that is complete at a checkpoint, in the
folder ``<path>.parts``. When the run has ended well they are joined, one row group at a time, into the file that was
wanted, which appears at once and whole. Where there was no checkpoint there is one part, which is only renamed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from enum import Enum
from itertools import chain
from pathlib import Path
from typing import Any

from stbass._values.texts import text_of
from stbass.dataflow.library.disk import beside, check_replaceable, place, sync, sync_folder
from stbass.dataflow.library.formats import Chunk, Row
from stbass.dataflow.library.plain import plain_value, with_own_zone
from stbass.errors import CheckpointError, DataflowError, MissingDependencyError

__all__ = ["ParquetSink", "ParquetSource", "pyarrow"]

_PART = re.compile(r"part-([0-9]{6,})\.parquet")
_JOINED = "joined"


def pyarrow() -> Any:
    """pyarrow, with its module for Parquet.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError(
            f"Parquet files need pyarrow ({error}): pip install 'stbass-celery[parquet]'"
        ) from error
    return pyarrow


class ParquetSource:
    """A Parquet file to read. A position is a row group and a row in it.

    Args:
        path: the file.
        columns: which columns, in the order in which a row has them.
        chunk_size: rows in a chunk, at most.
    """

    def __init__(self, path: Path, columns: Sequence[str], chunk_size: int) -> None:
        self._path = path
        self._columns = list(columns)
        self._chunk_size = chunk_size
        self._file: Any = None
        self._group, self._row = 0, 0

    def open(self, position: Any) -> Any:
        """Go to a position; None is the first row."""
        self.close()
        pa = pyarrow()
        if self._path.is_dir():
            raise IsADirectoryError(f"cannot read {self._path}: it is a folder")
        try:
            self._file = pa.parquet.ParquetFile(self._path)
        except pa.ArrowInvalid as error:
            raise DataflowError(f"{self._path} is no Parquet file, or was cut off: {error}") from error
        found = self._file.schema_arrow.names
        missing = [name for name in self._columns if name not in found]
        if missing:
            raise DataflowError(f"{self._path} has no column {', '.join(map(repr, missing))}; it has {found}")
        double = [name for name in self._columns if found.count(name) > 1]
        if double:
            raise DataflowError(f"{self._path} has more than one column {', '.join(map(repr, double))}")
        self._group, self._row = (0, 0) if position is None else (position["group"], position["row"])
        self._batches = self._from(self._group, self._row)
        return self._position()

    def read(self) -> Chunk | None:
        """The next rows, all of one row group."""
        pa = pyarrow()
        try:
            while (batch := next(self._batches, None)) is None:
                if self._group >= self._file.num_row_groups - 1:
                    return None
                self._group, self._row = self._group + 1, 0
                self._batches = self._from(self._group, 0)
            self._row += batch.num_rows
            values = [_values(pa, batch.column(name)) for name in self._columns]
        except (pa.ArrowException, OSError, ValueError, OverflowError, KeyError) as error:  # KeyError: no such zone
            raise DataflowError(f"{self._path}, row group {self._group}, cannot be read: {error}") from error
        return Chunk(list(zip(*values, strict=True)), self._position())

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _position(self) -> dict[str, Any]:
        return {"group": self._group, "row": self._row}

    def _from(self, group: int, row: int) -> Any:
        """The batches of a row group from a row on. The rows before it are decoded again, but no other group."""
        if group >= self._file.num_row_groups:
            return
        skip = row
        for batch in self._file.iter_batches(self._chunk_size, row_groups=[group], columns=self._columns):
            if skip >= batch.num_rows:
                skip -= batch.num_rows
                continue
            yield batch.slice(skip)
            skip = 0


def _values(pa: Any, array: Any) -> list[Any]:
    """The values of an array, with times, spans and zones as Python's own.

    Of nanoseconds pyarrow makes pandas' own, and of zones those of pytz, where these are installed.

    Raises:
        ArrowException, ValueError, OverflowError: Python's own cannot hold one of them.
    """
    kind = _in_microseconds(pa, array.type)
    values: list[Any] = (array if kind == array.type else array.cast(kind, safe=True)).to_pylist()
    return list(map(with_own_zone, values)) if "tz=" in str(kind) else values


def _in_microseconds(pa: Any, kind: Any) -> Any:
    types = pa.types

    def within(field: Any) -> Any:
        return field.with_type(_in_microseconds(pa, field.type))

    if types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz) if kind.unit == "ns" else kind
    if types.is_duration(kind):
        return pa.duration("us") if kind.unit == "ns" else kind
    if types.is_time64(kind):
        return pa.time64("us")
    if types.is_struct(kind):
        return pa.struct([within(field) for field in kind])
    if types.is_list(kind):
        return pa.list_(within(kind.value_field))
    if types.is_large_list(kind):
        return pa.large_list(within(kind.value_field))
    if types.is_fixed_size_list(kind):
        return pa.list_(within(kind.value_field), kind.list_size)
    if types.is_map(kind):
        return pa.map_(within(kind.key_field), within(kind.item_field), kind.keys_sorted)
    if types.is_dictionary(kind):
        return _in_microseconds(pa, kind.value_type)
    return kind


class ParquetSink:
    """A Parquet file to write. A mark is the number of parts that are complete.

    Args:
        path: the file.
        columns: what the values of a row are called in the file.
        kinds: what is in them, by column; a column that is missing here is what it is in the first chunk.
    """

    whole_chunks = True

    def __init__(self, path: Path, columns: Sequence[str], kinds: Mapping[str, str]) -> None:
        self._path = path
        self._columns = list(columns)
        self._kinds = kinds
        self._schema: Any = None
        self._writer: Any = None
        self._complete = 0
        self._rows = 0

    def check(self) -> None:
        """Check that the file can be written."""
        pyarrow()
        check_replaceable(self._path)

    def open(self, mark: Any) -> None:
        """Go back to a mark; None: begin afresh."""
        self.close()
        self._complete, self._rows = (0, 0) if mark is None else (mark["parts"], mark["rows"])
        self._schema = None
        self._folder.mkdir(exist_ok=True)
        for number, part in self._parts():
            if number > self._complete:
                part.unlink()
        for number in range(1, self._complete + 1):
            if not self._part(number).exists():
                raise CheckpointError(
                    f"cannot go on writing {self._path}: {self._part(number)}, which the checkpoint says is written, "
                    "is gone: somebody else removed it"
                )
        if self._complete:
            self._schema = pyarrow().parquet.read_schema(self._part(1))

    def write(self, rows: Sequence[Row]) -> None:
        """Write rows, as one row group."""
        table = self._table(rows)
        pa = pyarrow()
        try:
            if self._writer is None:
                self._writer = pa.parquet.ParquetWriter(self._part(self._complete + 1), self._schema)
            self._writer.write_table(table, row_group_size=max(len(rows), 1))
        except pa.ArrowNotImplementedError as error:
            raise DataflowError(f"{self._path}: Parquet has no form for {self._schema.types}: {error}") from error
        self._rows += len(rows)

    def mark(self) -> Any:
        """Complete the part that is being written."""
        self._complete_part()
        return {"parts": self._complete, "rows": self._rows}

    def finish(self) -> None:
        """Complete the last part."""
        self._complete_part()

    def publish(self) -> None:
        """Put the parts together, and the result in its place."""
        if self._folder.is_dir():
            parts = [part for _, part in self._parts()]
            place(parts[0] if len(parts) == 1 else self._join(parts), self._path)
            self.abandon()
        elif not self._path.exists():
            raise CheckpointError(f"cannot write {self._path}: its parts, in {self._folder}, are gone")

    def abandon(self) -> None:
        """Remove the parts."""
        self.close()
        if not self._folder.is_dir():
            return
        for _, part in self._parts():
            part.unlink()
        (self._folder / _JOINED).unlink(missing_ok=True)
        with suppress(OSError):  # something else is in it
            self._folder.rmdir()

    def close(self) -> None:
        """Leave the part that is being written incomplete; it is of no use then, and going back removes it."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    @property
    def _folder(self) -> Path:
        return beside(self._path, ".parts")

    def _part(self, number: int) -> Path:
        return self._folder / f"part-{number:06}.parquet"

    def _parts(self) -> list[tuple[int, Path]]:
        """The parts that are there, in order. Only what has such a name is ours."""
        found = [(_PART.fullmatch(path.name), path) for path in self._folder.iterdir()]
        return sorted((int(match[1]), path) for match, path in found if match)

    def _complete_part(self) -> None:
        if self._writer is None:
            return
        self.close()
        self._complete += 1
        with self._part(self._complete).open("rb") as file:
            sync(file)
        sync_folder(self._folder)

    def _join(self, parts: Sequence[Path]) -> Path:
        pa = pyarrow()
        joined = self._folder / _JOINED
        schema = pa.parquet.read_schema(parts[0]) if parts else self._infer([[] for _ in self._columns])
        with pa.parquet.ParquetWriter(joined, schema) as writer:
            for path in parts:
                with pa.parquet.ParquetFile(path) as part:
                    for group in range(part.num_row_groups):
                        table = part.read_row_group(group)
                        writer.write_table(table, row_group_size=max(table.num_rows, 1))
        with joined.open("rb") as file:
            sync(file)
        return joined

    def _table(self, rows: Sequence[Row]) -> Any:
        pa = pyarrow()
        columns = [self._plain(at, name, rows) for at, name in enumerate(self._columns)]
        if self._schema is None:
            self._schema = self._infer(columns)
        arrays = []
        for name, values in zip(self._columns, columns, strict=True):
            kind = self._schema.field(name).type
            try:
                array = pa.array(values, kind)
                lost = None if _sure(pa, kind, values) else _lost(pa, values, array)
            except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
                raise self._misfit(name, kind, values, str(error)) from error
            if lost is not None:
                raise self._misfit(name, kind, values, f"{text_of(lost, _SHOWN)} would be changed")
            arrays.append(array)
        return pa.Table.from_arrays(arrays, schema=self._schema)

    def _plain(self, at: int, name: str, rows: Sequence[Row]) -> list[Any]:
        try:
            return [plain_value(row[at]) for row in rows]
        except ValueError as error:
            raise DataflowError(f"{self._which(name, len(rows))}: {error}") from None

    def _infer(self, columns: Sequence[list[Any]]) -> Any:
        pa = pyarrow()
        fields = []
        for name, values in zip(self._columns, columns, strict=True):
            try:
                fields.append((name, _kind(pa, self._kinds.get(name), values)))
            except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
                raise self._misfit(name, "one type", values, str(error)) from error
        return pa.schema(fields)

    def _which(self, name: str, count: int) -> str:
        return f"{self._path}, rows {self._rows + 1} to {self._rows + count}, column {name!r}"

    def _misfit(self, name: str, kind: Any, values: Sequence[Any], why: str) -> DataflowError:
        works = next((given for given in _KINDS if self._would_work(given, name, values)), None)
        advice = (
            f"types= can say what it holds: {{{name!r}: {works!r}}}"
            if works
            else "Send values of one type, such as text; if types= does not say which, the first chunk_size= rows do"
        )
        return DataflowError(
            f"{self._which(name, len(values))}: not all are {kind}, which is what the first rows or types= made it: "
            f"{why}. {advice}"
        )

    def _would_work(self, given: str, name: str, values: Sequence[Any]) -> bool:
        """Whether this kind would have kept these values, and those that were written before."""
        pa = pyarrow()
        try:
            kind = _kind(pa, given, values)
            return all(_lost(pa, some, pa.array(some, kind)) is None for some in chain([values], self._written(name)))
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            return False

    def _written(self, name: str) -> Iterator[list[Any]]:
        """What was written to a column, for a message; nothing can be written after it."""
        pa = pyarrow()
        self.close()
        for _, path in self._parts():
            with pa.parquet.ParquetFile(path) as part:
                for group in range(part.num_row_groups):
                    yield _values(pa, part.read_row_group(group, [name]).column(0))


_KINDS = ("int", "float", "bool", "str", "date", "datetime", "decimal")
_PRECISION, _SCALE = 38, 18


def _kind(pa: Any, given: str | None, values: Sequence[Any]) -> Any:
    """The type of a column: the one that was given, or that of its first values."""
    match given:
        case "int":
            return pa.int64()
        case "float":
            return pa.float64()
        case "bool":
            return pa.bool_()
        case "str":
            return pa.string()
        case "date":
            return pa.date32()
        case "decimal":
            return pa.decimal128(_PRECISION, _SCALE)
        case "datetime":
            is_aware = any(isinstance(value, datetime) and value.tzinfo is not None for value in values)
            return pa.timestamp("us", "UTC" if is_aware else None)
    found = pa.array(values).type
    if pa.types.is_decimal128(found):
        # As many digits as there can be: the next rows may have larger numbers.
        return pa.decimal128(_PRECISION, found.scale)
    return found


def _sure(pa: Any, kind: Any, values: Sequence[Any]) -> bool:
    """Whether nothing can be lost, so that there is no need to look at each value."""
    classes = set(map(type, values)) - {type(None)}
    for is_kind, cls in (
        (pa.types.is_integer, int),
        (pa.types.is_float64, float),
        (pa.types.is_boolean, bool),
        (pa.types.is_string, str),
        (pa.types.is_binary, bytes),
    ):
        if is_kind(kind):
            return classes <= {cls}
    return False


def _lost(pa: Any, values: Sequence[Any], array: Any) -> Any:
    """The first value that is not in an array as it was; None: all are."""
    return next((one for one, read in zip(values, _values(pa, array), strict=True) if not _is_kept(one, read)), None)


def _is_kept(value: Any, read: Any) -> bool:
    """Whether what will be read is what was written.

    Tuples and arrays come back as lists, a whole number in a column of floats as a float, a key that a dict lacks as
    None, and an aware time as the same moment in the zone of the column.
    """
    value = plain_value(value)
    if value is None or read is None:
        return value is read
    if isinstance(value, Mapping):
        return (
            isinstance(read, dict)
            and value.keys() <= read.keys()
            and all(_is_kept(value.get(key), one) for key, one in read.items())
        )
    if isinstance(value, list | tuple) or hasattr(value, "tolist"):
        values = value.tolist() if hasattr(value, "tolist") else value
        return isinstance(read, list) and len(values) == len(read) and all(map(_is_kept, values, read))
    if isinstance(value, bool) or isinstance(read, bool):
        return value is read
    if isinstance(value, int | float) and isinstance(read, int | float):
        return value == read or (value != value and read != read)
    if isinstance(value, datetime) and isinstance(read, datetime):
        # Compared, a naive time and an aware one are just different.
        return value == read
    return isinstance(value, type(read)) and not isinstance(value, Enum | datetime) and bool(value == read)


_SHOWN = 100
