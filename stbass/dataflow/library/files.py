"""Reading and writing files: CSV, gzipped CSV, Parquet."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stbass._values.texts import value_text
from stbass.dataflow.library.cells import Types, check_types
from stbass.dataflow.library.csv_files import CsvSink, CsvSource
from stbass.dataflow.library.data import DataReader, DataWriter
from stbass.dataflow.library.fields import FieldNames
from stbass.dataflow.library.formats import Chunk, Row, Sink, Source
from stbass.dataflow.library.parquet_files import ParquetSink, ParquetSource

__all__ = ["FileReader", "FileWriter"]

_FORMATS = (".csv", ".csv.gz", ".parquet")


class FileReader(DataReader):
    """Gives out the rows of a file: CSV (``.csv``, ``.csv.gz``) or Parquet (``.parquet``).

    A CSV file is UTF-8 with a header. ``types`` says what its cells hold; else that is guessed, column by column, from
    the first chunk: whole numbers, numbers, ``True`` and ``False``, else text. What looks like a number but would lose
    something by being one, such as ``01234``, is text. Nothing between two commas is None, or ``""`` in a column of
    text. A later cell that is not of the column's kind is an error that names its line.

    A job that is resumed seeks the chunk in which it stopped; a gzipped file is decompressed up to there.

    Args:
        path: the file.
        field_names: the outputs, which are the columns to read, or a mapping of outputs to columns.
        chunk_size: rows that are read at a time; two chunks are in memory at most. None is 1,000.
        types: for CSV, what the fields hold: ``"int"``, ``"float"``, ``"bool"``, ``"date"``, ``"datetime"``,
            ``"decimal"`` or ``"str"`` (or the classes) for all of them, or by field; the rest is guessed.
        **kwargs: as of :class:`~stbass.dataflow.Component`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: no such format, kind or field.

    Its ``init`` raises OSError if the file cannot be opened, DataflowError if it is not what its name says, or has no
    such column.
    """

    def __init__(
        self,
        path: str | Path,
        field_names: FieldNames,
        chunk_size: int | None = None,
        types: Types = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(field_names, chunk_size, **kwargs)
        self._path, form = _path_and_format(type(self), path)
        kinds = check_types(types, self._outside_columns)
        self._source: Source
        if form == ".parquet":
            if kinds:
                raise ValueError("FileReader(types=…) is for CSV files; a Parquet file says itself what it holds")
            self._source = ParquetSource(self._path, self.columns, self.chunk_size)
        else:
            self._source = CsvSource(
                self._path, self.columns, _by_column(kinds, self._outside_columns), self.chunk_size
            )

    def open_source(self, position: Any) -> Any:
        """Open the file."""
        return self._source.open(position)

    def read_rows(self) -> Chunk | None:
        """Read the next rows."""
        return self._source.read()

    def close_source(self) -> None:
        """Close the file."""
        self._source.close()


class FileWriter(DataWriter):
    """Writes rows to a file: CSV (``.csv``, ``.csv.gz``) or Parquet (``.parquet``). An existing file is replaced
    at the end of a run in which no component has failed; a run that fails, is cancelled or interrupted leaves it as it
    was. Until then CSV is written to ``<path>.part``, and Parquet, whose row groups are chunks, to parts in the folder
    ``<path>.parts``.

    With a state that lasts, each row is in the file once, however often the job died and went on: what was written is
    cut back to where it was at the checkpoint; the bytes are the same as if nothing had happened (of a gzipped file:
    those in it).

    In a CSV file None and ``""`` look the same, and dates and times are ISO 8601.

    Args:
        path: the file. Its folder has to exist.
        field_names: the inputs, which are the columns to write, or a mapping of inputs to columns.
        chunk_size: rows that are written at a time. None is 1,000, for Parquet 10,000.
        types: for Parquet, what the fields hold: ``"int"``, ``"float"``, ``"bool"``, ``"date"``, ``"datetime"``,
            ``"decimal"`` (20 digits before the point, 18 after it) or ``"str"``, for all of them or by field; for the
            rest the first chunk decides.
        **kwargs: as of :class:`~stbass.dataflow.Component`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: no such format, kind or field.

    Its ``init`` raises OSError if the file cannot be written, MissingDependencyError if pyarrow is needed and missing.
    """

    def __init__(
        self,
        path: str | Path,
        field_names: FieldNames,
        chunk_size: int | None = None,
        types: Types = None,
        **kwargs: Any,
    ) -> None:
        self._path, form = _path_and_format(type(self), path)
        if chunk_size is None and form == ".parquet":
            chunk_size = 10_000
        super().__init__(field_names, chunk_size, **kwargs)
        kinds = check_types(types, self._outside_columns)
        self._sink: Sink
        if form == ".parquet":
            self._sink = ParquetSink(self._path, self.columns, _by_column(kinds, self._outside_columns))
        else:
            if kinds:
                raise ValueError("FileWriter(types=…) is for Parquet files; a CSV file holds text")
            self._sink = CsvSink(self._path, self.columns)
        self.whole_chunks = self._sink.whole_chunks

    def check_target(self) -> None:
        """Check that the file can be written."""
        self._sink.check()

    def open_target(self, mark: Any) -> None:
        """Begin afresh, or go back to a mark."""
        self._sink.open(mark)

    def write_rows(self, rows: Sequence[Row]) -> None:
        """Write rows."""
        self._sink.write(rows)

    def mark_target(self) -> Any:
        """Bring what was written to disk, and return the mark of it."""
        return self._sink.mark()

    def finish_target(self) -> None:
        """Complete the file."""
        self._sink.finish()

    def publish_target(self) -> None:
        """Put the file in its place."""
        self._sink.publish()

    def abandon_target(self) -> None:
        """Remove what was written, and leave the file that was there before."""
        self._sink.abandon()

    def close_target(self) -> None:
        """Close the file."""
        self._sink.close()


def _path_and_format(kind: type, given: object) -> tuple[Path, str]:
    if not isinstance(given, str | os.PathLike):
        raise TypeError(f"{kind.__name__}(path=…) takes text or a Path, got {value_text(given)}")
    path = Path(given)
    # The end of the name counts: `run.2031.csv` is a CSV file.
    form = next((form for form in _FORMATS if path.name.lower().endswith(form)), None)
    if form is None or "://" in str(given):
        raise ValueError(f"{kind.__name__}(path={str(given)!r}): a local file with a name that ends in {_FORMATS}")
    return path, form


def _by_column(kinds: dict[str, str], columns: dict[str, str]) -> dict[str, str]:
    return {columns[field]: kind for field, kind in kinds.items()}
