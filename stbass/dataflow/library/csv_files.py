"""CSV files, plain and gzipped: UTF-8, a header, commas, `"` around what needs it."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

from stbass._values.texts import value_text
from stbass.dataflow.library.cells import guess, parser, takes, writable
from stbass.dataflow.library.disk import back_to, beside, check_replaceable, place, sync
from stbass.dataflow.library.formats import Chunk, Row
from stbass.errors import DataflowError

__all__ = ["CsvSink", "CsvSource"]

_LONGEST = 2**24
"""Bytes in a line, at most. A file with no line ends is not CSV, and must not be read into memory to find that out."""
_BOM = b"\xef\xbb\xbf"


class CsvSource:
    """A CSV file to read.

    A position is the byte and the line at which a row begins, with the kinds that were guessed.

    Args:
        path: the file.
        columns: which columns, in the order in which a row has them.
        kinds: what is in them, by column; a column that is missing here is guessed from the first chunk.
        chunk_size: rows in a chunk.
    """

    def __init__(self, path: Path, columns: Sequence[str], kinds: Mapping[str, str], chunk_size: int) -> None:
        self._path = path
        self._columns = columns
        self._given = kinds
        self._chunk_size = chunk_size
        self._raw: IO[bytes] | None = None
        self._file: IO[bytes] | None = None
        self._kinds: dict[str, str] = {}

    def open(self, position: Any) -> Any:
        """Go to a position; None is the first row."""
        self.close()
        self._raw = self._path.open("rb")
        gzipped = self._path.name.lower().endswith(".gz")
        self._file = cast("IO[bytes]", gzip.GzipFile(fileobj=self._raw)) if gzipped else self._raw
        self._offset, self._line = 0, 1
        # Python's module refuses what is longer than 128 KiB, in all of the program.
        csv.field_size_limit(max(csv.field_size_limit(), _LONGEST))
        self._rows = csv.reader(self._lines(), strict=True)
        header = self._next_row()
        if header is None:
            raise DataflowError(f"{self._path} is empty: a CSV file begins with the names of its columns")
        self._width = len(header)
        self._places = self._find(header)
        if position is None:
            self._kinds = {}
        else:
            # A gzipped file has to be decompressed up to there.
            self._file.seek(position["offset"])
            self._offset, self._line = position["offset"], position["line"]
            self._rows = csv.reader(self._lines(), strict=True)
            self._kinds = dict(position["kinds"])
        self._parsers = self._parsers_now()
        return self._position()

    def read(self) -> Chunk | None:
        """The next rows."""
        texts: list[list[str]] = []
        lines: list[int] = []
        while len(texts) < self._chunk_size:
            line = self._line
            row = self._next_row()
            if row is None:
                break
            if len(row) != self._width:
                raise DataflowError(
                    f"{self._path}, line {line}: the header has {self._width} columns, this row has {len(row)}"
                )
            texts.append([row[place] for place in self._places])
            lines.append(line)
        if not texts:
            return None
        if not self._kinds:
            by_column = dict(zip(self._columns, zip(*texts, strict=True), strict=True))
            self._kinds = {name: self._given.get(name) or guess(cells) for name, cells in by_column.items()}
            self._parsers = self._parsers_now()
        return Chunk([self._values(row, line) for row, line in zip(texts, lines, strict=True)], self._position())

    def close(self) -> None:
        """Close the file."""
        for file in (self._file, self._raw):
            if file is not None:
                file.close()
        self._file = self._raw = None

    def _parsers_now(self) -> list[Callable[[str], Any]]:
        return [parser(kind, guessed=name not in self._given) for name, kind in self._kinds.items()]

    def _position(self) -> dict[str, Any]:
        return {"offset": self._offset, "line": self._line, "kinds": dict(self._kinds)}

    def _lines(self) -> Iterator[str]:
        """The lines of the file. The CSV reader takes no more than it needs, so between rows the offset is exact."""
        file = cast("IO[bytes]", self._file)
        while line := file.readline(_LONGEST):
            if len(line) == _LONGEST and not line.endswith(b"\n"):
                raise DataflowError(f"{self._path}, line {self._line}: longer than {_LONGEST:,} bytes")
            begins = self._offset == 0 and line.startswith(_BOM)
            self._offset += len(line)
            try:
                text = (line[len(_BOM) :] if begins else line).decode()
            except UnicodeDecodeError as error:
                raise DataflowError(f"{self._path}, line {self._line}: not UTF-8: {error}") from error
            self._line += 1
            yield text

    def _next_row(self) -> list[str] | None:
        line = self._line
        try:
            for row in self._rows:
                if row:  # an empty line is not a row
                    return row
                line = self._line
        except csv.Error as error:
            raise DataflowError(f"{self._path}, line {line}: not CSV: {error}") from error
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataflowError(
                f"{self._path}, line {line}: not a gzipped file, or cut off or damaged there: {error}"
            ) from error
        return None

    def _find(self, header: Sequence[str]) -> list[int]:
        names = [name.strip() for name in header]
        missing = [name for name in self._columns if name not in names]
        if missing:
            raise DataflowError(f"{self._path} has no column {', '.join(map(repr, missing))}; it has {names}")
        double = [name for name in self._columns if names.count(name) > 1]
        if double:
            raise DataflowError(f"{self._path} has more than one column {', '.join(map(repr, double))}")
        return [names.index(name) for name in self._columns]

    def _values(self, cells: Sequence[str], line: int) -> Row:
        try:
            return tuple([parse(cell) for parse, cell in zip(self._parsers, cells, strict=True)])
        except ValueError:
            raise self._misfit(cells, line) from None

    def _misfit(self, cells: Sequence[str], line: int) -> DataflowError:
        place = next(place for place, cell in enumerate(cells) if not takes(self._parsers[place], cell))
        name = self._columns[place]
        kind = self._kinds[name]
        text = f"{self._path}, line {line}, column {name!r}: {value_text(cells[place])} is no {kind}"
        if name not in self._given:
            text += (
                f" for sure, which the rows before it are; types= can say what the column holds, such as "
                f"{{{name!r}: 'str'}}"
            )
        return DataflowError(text)


class CsvSink:
    """A CSV file to write.

    It is written beside its place, and put there at once when it is complete.

    A mark is the number of bytes that belong to it. Going back to it cuts off what came after. A gzipped file is
    written as one member for each call of :meth:`write`, which is a valid file too, so that it can be cut between them.

    Args:
        path: the file.
        columns: what the values of a row are called in the header.
    """

    whole_chunks = False

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._path = path
        self._columns = columns
        self._gzipped = path.name.lower().endswith(".gz")
        self._file: IO[bytes] | None = None
        self._count = 0

    def check(self) -> None:
        """Check that the file can be written."""
        check_replaceable(self._path)

    def open(self, mark: Any) -> None:
        """Go back to a mark; None: an empty file with a header."""
        self.close()
        if mark is None:
            self._count = 0
            self._file = self._part.open("wb", buffering=0)
            self._append([self._columns])
            return
        self._count = mark["rows"]
        self._file = back_to(self._part, mark["offset"])

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows."""
        self._append(writable(rows, self._columns, self._count + 1, str(self._path)))
        self._count += len(rows)

    def mark(self) -> Any:
        """Bring all of the file to disk, and return how long it is."""
        file = self._opened()
        sync(file)
        return {"offset": file.tell(), "rows": self._count}

    def finish(self) -> None:
        """Bring all of it to disk."""
        sync(self._opened())

    def publish(self) -> None:
        """Put the file in its place."""
        self.close()
        place(self._part, self._path)

    def abandon(self) -> None:
        """Remove what was written."""
        self.close()
        self._part.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def _part(self) -> Path:
        return beside(self._path, ".part")

    def _opened(self) -> IO[bytes]:
        if self._file is None:
            raise DataflowError(f"{self._path} is not open")
        return self._file

    def _append(self, rows: Sequence[Sequence[Any]]) -> None:
        text = io.StringIO(newline="")
        plain, quoting = (
            csv.writer(text, lineterminator="\n"),
            csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL),
        )
        for number, row in enumerate(rows, self._count + 1):
            # Python's csv module does not notice that this needs quotes.
            writer = quoting if any(isinstance(value, str) and "\r" in value for value in row) else plain
            try:
                writer.writerow(row)
            except ValueError as error:  # an int of thousands of digits
                raise DataflowError(f"{self._path}, row {number}: {error}") from error
        try:
            data = text.getvalue().encode()
        except UnicodeEncodeError as error:
            raise DataflowError(
                f"{self._path}, rows from {self._count + 1}: text that is not valid Unicode: {error}"
            ) from error
        # mtime=0: the same rows give the same bytes, whenever they are written.
        _write_all(self._opened(), gzip.compress(data, mtime=0) if self._gzipped else data)


def _write_all(file: IO[bytes], data: bytes) -> None:
    before = file.tell()
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError:
        # The disk is full: part of a row that was written is not a row.
        with suppress(OSError):
            file.truncate(before)
            file.seek(before)
        raise
