"""Parquet files.

A Parquet file ends with its table of contents, without which it cannot be read; one whose writer died is lost. So a
writer that may have to come back writes parts, each a Parquet file of its own that is complete at a checkpoint, in the
folder ``<path>.parts``. When the run has ended well they are joined, one row group at a time, into the file that was
wanted, which appears at once and whole. Where there was no checkpoint there is one part, which is only renamed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from stbass.dataflow.library.disk import beside, check_replaceable, place, sync, sync_folder
from stbass.dataflow.library.formats import Chunk, Row
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
        raise MissingDependencyError(f"Parquet files need pyarrow ({error}): pip install 'stbass[parquet]'") from error
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
            values = [batch.column(name).to_pylist() for name in self._columns]
        except (pa.ArrowException, OSError, ValueError) as error:
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
        if self._writer is None:
            self._writer = pyarrow().parquet.ParquetWriter(self._part(self._complete + 1), self._schema)
        self._writer.write_table(table, row_group_size=max(len(rows), 1))
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
        schema = pa.parquet.read_schema(parts[0]) if parts else self._infer(())
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
        if self._schema is None:
            self._schema = self._infer(rows)
        arrays = []
        for at, name in enumerate(self._columns):
            field = self._schema.field(name)
            try:
                arrays.append(_array(pa, [row[at] for row in rows], field.type))
            except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
                raise self._misfit(name, field.type, rows, error) from error
        return pa.Table.from_arrays(arrays, schema=self._schema)

    def _infer(self, rows: Sequence[Row]) -> Any:
        pa = pyarrow()
        types = {
            "int": pa.int64,
            "float": pa.float64,
            "bool": pa.bool_,
            "str": pa.string,
            "date": pa.date32,
        }
        fields = []
        for at, name in enumerate(self._columns):
            kind = types.get(self._kinds.get(name, ""))
            try:
                fields.append((name, kind() if kind else pa.array([row[at] for row in rows]).type))
            except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
                raise self._misfit(name, "one type", rows, error) from error
        return pa.schema(fields)

    def _misfit(self, name: str, kind: Any, rows: Sequence[Row], error: Exception) -> DataflowError:
        return DataflowError(
            f"{self._path}, rows {self._rows + 1} to {self._rows + len(rows)}, column {name!r}: not all are {kind}, "
            f"which is what the first rows or types= made it: {error}. types= can say what it holds, "
            f"such as {{{name!r}: 'float'}}"
        )


def _array(pa: Any, values: list[Any], kind: Any) -> Any:
    """Values as an array of a type, if that loses nothing of them."""
    found = pa.array(values)
    if found.type == kind:
        return found
    # Given a type, pyarrow refuses text for a number but cuts 4.5 down to 4; a cast refuses 4.5 but takes text.
    made = pa.array(values, kind)
    return made if pa.types.is_null(found.type) else found.cast(kind, safe=True)
