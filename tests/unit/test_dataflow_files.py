"""Readers and writers of CSV and Parquet, on real files."""

from __future__ import annotations

import asyncio
import csv
import gzip
import re
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from math import isnan
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import pytz
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stbass._values.texts import value_text
from stbass.dataflow import LocalProcess
from stbass.dataflow.library import Chunk, DataReader, DataWriter, FileReader, FileWriter, SQLReader, SQLWriter
from stbass.dataflow.library.plain import with_own_zone
from stbass.errors import DataflowError, StbassError
from tests.support.dataflow_parts import Rows, connected, read_all, reading, write_all


def only(error: BaseException) -> BaseException:
    """The one error in a group."""
    while isinstance(error, BaseExceptionGroup):
        assert len(error.exceptions) == 1, error.exceptions
        error = error.exceptions[0]
    return error


async def failure_of_reading(reader: DataReader) -> tuple[StbassError, bool]:
    """Why reading failed, and whether that showed before any step."""
    process, collect = reading(reader)
    early = True
    with pytest.raises(ExceptionGroup) as caught:
        try:
            await process.init()
            early = False
            await process.run()
        finally:
            await process.destroy()
    error = only(caught.value)
    assert isinstance(error, StbassError), repr(error)
    assert not (early and collect.got)
    return error, early


def reader_of(path: Path, text: str, fields: Any, **kwargs: Any) -> FileReader:
    """A reader of a file with this text."""
    path.write_text(text, newline="")
    return FileReader(path=path, field_names=fields, name="reader", **kwargs)


# Reading CSV -------------------------------------------------------------------------------------


async def test_columns_are_guessed_from_the_first_chunk(tmp_path: Path) -> None:
    text = (
        "n,x,ok,word,zip,empty,phone,hole\n"
        "1,1.5,True,a,01234,,+49301,7\n"
        "-20,2,false,nan,99999,,+49302,\n"
        "30,-3e-2,true,c,00001,,+49303,9\n"
    )
    fields = ["n", "x", "ok", "word", "zip", "empty", "phone", "hole"]
    got = await read_all(reader_of(tmp_path / "in.csv", text, fields))
    assert got == [
        (1, 1.5, True, "a", "01234", "", "+49301", 7),
        (-20, 2.0, False, "nan", "99999", "", "+49302", None),
        (30, -0.03, True, "c", "00001", "", "+49303", 9),
    ]
    assert [[type(value) for value in row] for row in got][1] == [int, float, bool, str, str, str, str, type(None)]


async def test_types_say_what_columns_hold(tmp_path: Path) -> None:
    text = "n,x,d,t,m,s\n1,1,2031-05-09,2031-05-09T08:30:00+00:00,12.50,1\n"
    types = {"x": "float", "d": date, "t": "datetime", "m": Decimal, "s": str}
    got = await read_all(reader_of(tmp_path / "in.csv", text, ["n", "x", "d", "t", "m", "s"], types=types))
    assert got == [(1, 1.0, date(2031, 5, 9), datetime(2031, 5, 9, 8, 30, tzinfo=UTC), Decimal("12.50"), "1")]
    assert repr(got[0][1]) == "1.0"


async def test_one_type_for_all_fields(tmp_path: Path) -> None:
    assert await read_all(reader_of(tmp_path / "in.csv", "a,b\n1,2.5\n", ["a", "b"], types="str")) == [("1", "2.5")]


async def test_fields_in_another_order_than_columns_and_under_other_names(tmp_path: Path) -> None:
    text = "name,Flow rate [m3/h],unused\nnorth,1.5,x\nsouth,2.5,y\n"
    reader = reader_of(tmp_path / "in.csv", text, {"flow": "Flow rate [m3/h]", "station": "name"})
    assert await read_all(reader) == [(1.5, "north"), (2.5, "south")]


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 1000])
async def test_what_a_chunk_holds_makes_no_difference(tmp_path: Path, chunk_size: int) -> None:
    text = 'a,b\r\n1,"x, ""y""\nz"\r\n\r\n2,ä\r\n3,\r\n'
    (tmp_path / "in.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    reader = FileReader(path=tmp_path / "in.csv", field_names=["a", "b"], chunk_size=chunk_size, name="r")
    assert await read_all(reader) == [(1, 'x, "y"\nz'), (2, "ä"), (3, "")]


async def test_a_gzipped_file(tmp_path: Path) -> None:
    (tmp_path / "in.CSV.gz").write_bytes(gzip.compress(b"a\n1\n2\n"))
    assert await read_all(FileReader(path=tmp_path / "in.CSV.gz", field_names=["a"], name="r")) == [(1,), (2,)]


async def test_a_file_with_a_header_only_gives_nothing(tmp_path: Path) -> None:
    assert await read_all(reader_of(tmp_path / "in.csv", "a,b\n", ["a", "b"])) == []


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"a,c\n1,2\n", r"no column 'b'; it has \['a', 'c'\]"),
        (b"a,b,b\n1,2,3\n", "more than one column 'b'"),
        (b"a,b\n1,2\n3\n", "line 3: the header has 2 columns, this row has 1"),
        (b'a,b\n1,2\n3,"4\n', "line 3: not CSV: unexpected end of data"),
        (b"a,b\n1,2\n3,\xff\n", "line 3: not UTF-8"),
        (b'a,b\n1,2\n3,"' + b"xxxxxxx\n" * 2**21 + b'x"\n', "line 3: not CSV: field larger"),
    ],
)
async def test_what_is_wrong_with_a_file_shows_before_any_step(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "in.csv").write_bytes(content)
    error, early = await failure_of_reading(FileReader(path=tmp_path / "in.csv", field_names=["a", "b"], name="r"))
    assert str(tmp_path / "in.csv") in str(error)
    assert re.search(says, str(error))
    assert early


async def test_a_later_cell_of_another_kind_names_line_column_and_remedy(tmp_path: Path) -> None:
    reader = reader_of(tmp_path / "in.csv", "a,b\n1,x\n2,y\nthree,z\n", ["a", "b"], chunk_size=2)
    error, early = await failure_of_reading(reader)
    assert "line 4, column 'a': 'three' is no int" in str(error)
    assert "types= can say what the column holds, such as {'a': 'str'}" in str(error)
    assert not early


async def test_a_cell_that_is_not_what_types_say(tmp_path: Path) -> None:
    error, _ = await failure_of_reading(reader_of(tmp_path / "in.csv", "a\n1\nx\n", ["a"], types={"a": int}))
    assert str(error) == f"{tmp_path / 'in.csv'}, line 3, column 'a': 'x' is no int"


async def test_a_gzipped_file_that_was_cut_off(tmp_path: Path) -> None:
    whole = gzip.compress(b"a\n" + b"".join(b"%d\n" % (n * n) for n in range(50_000)))
    (tmp_path / "in.csv.gz").write_bytes(whole[: len(whole) // 2])
    error, early = await failure_of_reading(FileReader(path=tmp_path / "in.csv.gz", field_names=["a"], name="r"))
    assert "cut off or damaged" in str(error)
    assert not early


async def test_a_file_that_is_not_gzipped(tmp_path: Path) -> None:
    (tmp_path / "in.csv.gz").write_bytes(b"a\n1\n")
    error, early = await failure_of_reading(FileReader(path=tmp_path / "in.csv.gz", field_names=["a"], name="r"))
    assert "not a gzipped file" in str(error)
    assert early


@pytest.mark.parametrize("name", ["in.csv", "in.csv.gz", "in.parquet"])
async def test_a_file_that_is_not_there(tmp_path: Path, name: str) -> None:
    process, _ = reading(FileReader(path=tmp_path / name, field_names=["a"], name="r"))
    with pytest.raises(ExceptionGroup) as caught:
        await process.init()
    await process.destroy()
    assert isinstance(only(caught.value), FileNotFoundError)
    assert name in str(only(caught.value))


# Arguments ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [FileReader, FileWriter])
@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"path": "x.txt"}, ValueError, "ends in"),
        ({"path": "s3://bucket/x.csv"}, ValueError, "local file"),
        ({"path": 7}, TypeError, "text or a Path"),
        ({"field_names": "abc"}, TypeError, "list of names"),
        ({"field_names": []}, ValueError, "empty"),
        ({"field_names": ["a", "a"]}, ValueError, "'a' is there twice"),
        ({"field_names": {"a": "x", "b": "x"}}, ValueError, "'x' is there twice"),
        ({"field_names": [1]}, TypeError, "names are text"),
        ({"field_names": ["name"]}, ValueError, "field_names={'my_name': 'name'}"),
        ({"field_names": ["columns"]}, ValueError, "cannot be called 'columns'"),
        ({"field_names": ["flow rate"]}, ValueError, "field_names={'my_field': 'flow rate'}"),
        ({"field_names": ["class"]}, ValueError, "cannot be called 'class'"),
        ({"chunk_size": 0}, ValueError, "at least 1"),
        ({"chunk_size": "9"}, TypeError, "whole number"),
        ({"chunk_size": True}, TypeError, "whole number"),
        ({"path": "x.csv.gz", "types": {"b": "int"}}, ValueError, ""),
        ({"path": "x.parquet", "types": {"b": "int"}}, ValueError, "not among the fields"),
        ({"path": "x.parquet", "types": "complex"}, ValueError, "no kind of value 'complex'"),
    ],
)
def test_arguments_that_cannot_be_right(
    kind: type[FileReader], arguments: dict[str, Any], error: type[Exception], says: str
) -> None:
    given = {"path": "x.csv", "field_names": ["a"], "name": "c", **arguments}
    with pytest.raises(error) as caught:
        kind(**given)
    assert says in str(caught.value)


def test_types_where_the_file_says_itself_what_it_holds() -> None:
    with pytest.raises(ValueError, match="Parquet file says itself"):
        FileReader(path="x.parquet", field_names=["a"], types="int", name="r")
    with pytest.raises(ValueError, match="CSV file holds text"):
        FileWriter(path="x.csv", field_names=["a"], types="int", name="w")


def test_what_was_said_is_exported(tmp_path: Path) -> None:
    writer = FileWriter(path="out.csv", field_names={"station": "name"}, chunk_size=5, name="w")
    assert writer.export() == {
        "type": "stbass.dataflow.library.FileWriter",
        "args": {"path": "out.csv", "field_names": {"station": "name"}, "chunk_size": 5, "name": "w"},
    }


# Writing CSV -------------------------------------------------------------------------------------


async def test_rows_of_every_kind_that_csv_has(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    row = [1, 0.1, 'a,"b"\nc', None, True, date(2031, 5, 9), Decimal("1.50"), np.float64(0.25), np.int64(7), "ä"]
    fields = [f"f{number}" for number in range(len(row))]
    await write_all(FileWriter(path=path, field_names=fields, name="w"), [row])
    assert path.read_text() == ('f0,f1,f2,f3,f4,f5,f6,f7,f8,f9\n1,0.1,"a,""b""\nc",,True,2031-05-09,1.50,0.25,7,ä\n')


@pytest.mark.parametrize("count", [0, 1, 6, 7, 8, 21])
@pytest.mark.parametrize("name", ["out.csv", "out.csv.gz", "out.parquet"])
async def test_all_rows_are_written_whatever_the_chunk(tmp_path: Path, name: str, count: int) -> None:
    path = tmp_path / name
    rows = [(number, f"text {number}") for number in range(count)]
    types = {"types": {"a": "int", "b": "str"}} if name.endswith("parquet") else {}
    await write_all(FileWriter(path=path, field_names=["a", "b"], chunk_size=7, name="w", **types), rows)
    assert await read_all(FileReader(path=path, field_names=["a", "b"], chunk_size=4, name="r")) == rows
    assert sorted(one.name for one in tmp_path.iterdir()) == [name]


@pytest.mark.parametrize("name", ["out.csv", "out.csv.gz", "out.parquet"])
async def test_a_file_that_is_there_is_replaced(tmp_path: Path, name: str) -> None:
    for value in (1, 2):
        await write_all(FileWriter(path=tmp_path / name, field_names=["a"], name="w"), [(value,)])
    assert await read_all(FileReader(path=tmp_path / name, field_names=["a"], name="r")) == [(2,)]


async def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one.csv.gz", "two.csv.gz"):
        writer = FileWriter(path=tmp_path / name, field_names=["a"], chunk_size=3, name="w")
        await write_all(writer, [(number,) for number in range(10)])
    assert (tmp_path / "one.csv.gz").read_bytes() == (tmp_path / "two.csv.gz").read_bytes()


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
async def test_nothing_is_touched_before_the_first_row(tmp_path: Path, name: str) -> None:
    # given a file that is there, and a writer whose sibling cannot be initialised
    path = tmp_path / name
    path.write_bytes(b"precious")
    writer = FileWriter(path=path, field_names=["a"], name="w")
    reader = FileReader(path=tmp_path / "missing.csv", field_names=["a"], name="r")
    # when the process fails in init
    with pytest.raises(ExceptionGroup):
        async with LocalProcess([reader, writer], connected(reader, writer)) as process:
            await process.run()
    # then the file is as it was
    assert path.read_bytes() == b"precious"
    assert [one.name for one in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("value", "kind"), [([1], "list"), ({"a": 1}, "dict"), (b"x", "bytes"), (object(), "object"), ({1}, "set")]
)
async def test_a_value_that_csv_cannot_hold(tmp_path: Path, value: object, kind: str) -> None:
    writer = FileWriter(path=tmp_path / "out.csv", field_names={"v": "the value"}, chunk_size=2, name="w")
    with pytest.raises(ExceptionGroup) as caught:
        await write_all(writer, [("fine",), ("fine",), ("fine",), (value,)])
    error = only(caught.value)
    assert isinstance(error, DataflowError)
    assert f"row 4, column 'the value': a {kind} has no form in a CSV file" in str(error)
    assert list(tmp_path.iterdir()) == []


async def test_text_that_is_not_unicode(tmp_path: Path) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await write_all(FileWriter(path=tmp_path / "out.csv", field_names=["a"], name="w"), [("\ud800",)])
    assert "not valid Unicode" in str(only(caught.value))


@pytest.mark.parametrize(("path", "error"), [("no/such/out.csv", FileNotFoundError), ("folder.csv", IsADirectoryError)])
async def test_a_place_that_cannot_be_written_shows_before_any_step(
    tmp_path: Path, path: str, error: type[OSError]
) -> None:
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ExceptionGroup) as caught:
        await write_all(FileWriter(path=tmp_path / path, field_names=["a"], name="w"), [(1,)])
    assert isinstance(only(caught.value), error)
    assert path.split("/")[0] in str(only(caught.value))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(
            st.integers(),
            st.floats(allow_nan=True),
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20),
            st.booleans(),
        ),
        min_size=1,
        max_size=12,
    ),
    chunk_size=st.integers(1, 13),
    suffix=st.sampled_from([".csv", ".csv.gz"]),
)
async def test_what_was_written_is_read_again(
    tmp_path: Path, rows: list[tuple[Any, ...]], chunk_size: int, suffix: str
) -> None:
    path, fields = tmp_path / f"file{suffix}", ["n", "x", "s", "b"]
    await write_all(FileWriter(path=path, field_names=fields, chunk_size=chunk_size, name="w"), rows)
    types = dict(zip(fields, ["int", "float", "str", "bool"], strict=True))
    got = await read_all(FileReader(path=path, field_names=fields, chunk_size=chunk_size, types=types, name="r"))
    assert [repr(row) for row in got] == [repr(row) for row in rows]


BEFORE = "".join(f"{90000 + n}\n" for n in range(20))


@pytest.mark.parametrize("cell", ["01234", "+4930", "1_000", "12e4567", "1.5", "x"])
async def test_what_is_text_in_the_first_row_is_no_number_in_a_later_one(tmp_path: Path, cell: str) -> None:
    if cell not in ("1.5",):
        assert await read_all(reader_of(tmp_path / "first.csv", f"a\n{cell}\n90000\n", ["a"])) == [(cell,), ("90000",)]
    error, _ = await failure_of_reading(reader_of(tmp_path / "later.csv", f"a\n{BEFORE}{cell}\n", ["a"], chunk_size=10))
    assert f"line 22, column 'a': '{cell}' is no int for sure, which the rows before it are" in str(error)
    assert "{'a': 'str'}" in str(error)


@pytest.mark.parametrize("cell", ["007", "12e4567", "9007199254740993", "0.12345678901234567890", "1e-400", "+1.5"])
async def test_a_column_of_floats_takes_nothing_that_a_float_does_not_hold(tmp_path: Path, cell: str) -> None:
    assert await read_all(reader_of(tmp_path / "first.csv", f"a\n{cell}\n0.5\n", ["a"])) == [(cell,), ("0.5",)]
    text = "a\n0.5\n1\n" + f"{cell}\n"
    error, _ = await failure_of_reading(reader_of(tmp_path / "later.csv", text, ["a"], chunk_size=2))
    assert f"line 4, column 'a': '{cell}' is no float for sure" in str(error)


@pytest.mark.parametrize("value", [0.1, 1e300, 5e-324, 1 / 3, 123456789.123456789, -2.5e-7, float("inf")])
async def test_every_float_that_was_written_is_a_float(tmp_path: Path, value: float) -> None:
    await write_all(FileWriter(path=tmp_path / "x.csv", field_names=["a"], name="w"), [(value,), (0.5,)])
    assert await read_all(FileReader(path=tmp_path / "x.csv", field_names=["a"], name="r")) == [(value,), (0.5,)]


@pytest.mark.parametrize(
    ("kind", "cell"),
    [("float", "12e4567"), ("decimal", "1_000"), ("decimal", " 1 2"), ("int", "1_000"), ("int", "9" * 5000)],
)
async def test_what_is_none_of_the_kind_that_was_asked_for(tmp_path: Path, kind: str, cell: str) -> None:
    error, _ = await failure_of_reading(reader_of(tmp_path / "in.csv", f"a\n{cell}\n", ["a"], types=kind))
    assert f"line 2, column 'a': {value_text(cell)} is no {kind}" in str(error)


async def test_a_long_field_that_was_written_is_read(tmp_path: Path) -> None:
    rows = [("x" * 140_000,), ("line\n" * 100_000,)]
    await write_all(FileWriter(path=tmp_path / "x.csv", field_names=["a"], name="w"), rows)
    assert await read_all(FileReader(path=tmp_path / "x.csv", field_names=["a"], name="r")) == rows


class Word(str):
    """Text that says of itself what it likes, as numbers of such classes do."""

    def __str__(self) -> str:
        return "seven"


class Whole(int):
    __repr__ = __str__ = Word.__str__


class Real(float):
    __repr__ = __str__ = Word.__str__


async def test_values_of_subclasses_in_a_csv_file(tmp_path: Path) -> None:
    writer = FileWriter(path=tmp_path / "x.csv", field_names=["a", "b", "c"], name="w")
    await write_all(writer, [(Word("x"), Whole(7), Real(0.5))])
    assert (tmp_path / "x.csv").read_text() == "a,b,c\nx,7,0.5\n"


async def test_an_int_that_has_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await write_all(FileWriter(path=tmp_path / "x.csv", field_names=["a"], name="w"), [(1,), (10**5000,)])
    error = only(caught.value)
    assert isinstance(error, DataflowError)
    assert "x.csv, row 2: Exceeds the limit" in str(error)


async def test_values_of_numpy_and_pandas_in_a_csv_file(tmp_path: Path) -> None:
    row = (np.int64(7), np.float32(0.5), np.bool_(True), np.datetime64("2031-05-09T08:30", "ns"))
    await write_all(FileWriter(path=tmp_path / "x.csv", field_names=["a", "b", "c", "d"], name="w"), [row])
    assert (tmp_path / "x.csv").read_text() == "a,b,c,d\n7,0.5,True,2031-05-09 08:30:00\n"


# Parquet -----------------------------------------------------------------------------------------


def parquet(path: Path, row_group_size: int = 4, **columns: Sequence[Any]) -> Path:
    """A file of these columns."""
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return path


@pytest.mark.parametrize("chunk_size", [1, 3, 4, 100])
async def test_columns_of_a_parquet_file(tmp_path: Path, chunk_size: int) -> None:
    when = [datetime(2031, 5, 9, hour) for hour in range(10)]
    path = parquet(tmp_path / "in.parquet", n=list(range(10)), t=when, v=[[n, None] for n in range(10)], s=["x"] * 10)
    reader = FileReader(path=path, field_names=["t", "n", "v"], chunk_size=chunk_size, name="r")
    assert await read_all(reader) == [(when[n], n, [n, None]) for n in range(10)]


async def test_a_parquet_file_without_rows(tmp_path: Path) -> None:
    path = parquet(tmp_path / "in.parquet", a=[])
    assert await read_all(FileReader(path=path, field_names=["a"], name="r")) == []


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda data: b"a,b\n1,2\n", "is no Parquet file, or was cut off"),
        (lambda data: data[: len(data) // 2], "is no Parquet file, or was cut off"),
        (lambda data: b"", "is no Parquet file, or was cut off"),
    ],
)
async def test_what_is_no_parquet_file(tmp_path: Path, spoil: Any, says: str) -> None:
    path = parquet(tmp_path / "in.parquet", a=[1, 2, 3])
    path.write_bytes(spoil(path.read_bytes()))
    error, early = await failure_of_reading(FileReader(path=path, field_names=["a"], name="r"))
    assert says in str(error)
    assert early


async def test_a_column_that_a_parquet_file_lacks(tmp_path: Path) -> None:
    path = parquet(tmp_path / "in.parquet", a=[1])
    error, _ = await failure_of_reading(FileReader(path=path, field_names=["a", "b"], name="r"))
    assert "no column 'b'; it has ['a']" in str(error)


async def test_row_groups_are_chunks_and_the_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    await write_all(
        FileWriter(path=path, field_names={"a": "name", "b": "value"}, chunk_size=4, name="w"),
        [(f"n{number}", number / 2) for number in range(10)],
    )
    with pq.ParquetFile(path) as file:
        assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [4, 4, 2]
        assert file.read().to_pydict() == {"name": [f"n{n}" for n in range(10)], "value": [n / 2 for n in range(10)]}


async def test_a_value_that_does_not_fit_the_column(tmp_path: Path) -> None:
    writer = FileWriter(path=tmp_path / "out.parquet", field_names=["a"], chunk_size=2, name="w")
    with pytest.raises(ExceptionGroup) as caught:
        await write_all(writer, [(1,), (2,), (3,), (4.5,)])
    error = only(caught.value)
    assert "rows 3 to 4, column 'a': not all are int64" in str(error)
    assert "types= can say what it holds" in str(error)


async def test_types_make_the_column_wide_enough(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    writer = FileWriter(path=path, field_names=["a"], chunk_size=2, types={"a": "float"}, name="w")
    await write_all(writer, [(1,), (None,), (3,), (4.5,)])
    assert await read_all(FileReader(path=path, field_names=["a"], name="r")) == [(1.0,), (None,), (3.0,), (4.5,)]


NOON = datetime(2031, 1, 1, 12)


@pytest.mark.parametrize(
    "rows",
    [
        [1, None, 2],
        [1, 2.5, None],
        ["x", ""],
        [b"x"],
        [True, False],
        [float("nan"), 1.0],
        [date(2031, 1, 1)],
        [NOON, NOON.replace(microsecond=1)],
        [NOON.replace(tzinfo=UTC), NOON.replace(tzinfo=timezone(timedelta(hours=2)))],
        [timedelta(microseconds=1)],
        [time(8, 30)],
        [Decimal("1.10"), Decimal("12345678901234567890.5")],
        [{"x": 1, "y": [1, 2]}, {"y": None, "x": None}],
        [[{"x": 1}], []],
    ],
    ids=repr,
)
async def test_what_parquet_keeps(tmp_path: Path, rows: list[Any]) -> None:
    path = tmp_path / "x.parquet"
    await write_all(FileWriter(path=path, field_names=["a"], name="w"), [(value,) for value in rows])
    got = [value for (value,) in await read_all(FileReader(path=path, field_names=["a"], name="r"))]
    assert [str(one) if one != one else one for one in got] == [str(one) if one != one else one for one in rows]
    if len({type(one) for one in rows}) == 1:
        assert [type(one) for one in got] == [type(one) for one in rows]


@pytest.mark.parametrize(
    ("rows", "types", "hint"),
    [
        ([{"x": 1}, {"x": 2, "error": "disk full"}], None, None),
        ([{"d": {"x": 1}}, {"d": {"y": 2}}], None, None),
        ([[{"x": 1}], [{"y": 2}]], None, None),
        ([date(2031, 1, 1), datetime(2031, 1, 2, 15, 30)], None, None),
        ([NOON, date(2031, 1, 1)], None, None),
        ([datetime(2031, 1, 2, 15, 30)], "date", "datetime"),
        ([NOON, NOON.replace(tzinfo=UTC)], None, None),
        ([NOON.replace(tzinfo=UTC), NOON], None, None),
        ([2**53 + 1], "float", "int"),
        ([True], "int", "bool"),
        ([5], "str", "int"),
        ([1], "bool", "int"),
        ([2**63], None, None),
        ([{1}], None, None),
        ([{}], None, None),
        ([{1: "a"}], None, None),
        ([Decimal("1.10"), Decimal("1.234")], None, "decimal"),
        ([None, 5], None, "int"),
        ([None, 1.5], None, "float"),
        ([None, "x"], None, "str"),
        ([None, NOON], None, "datetime"),
        ([None, Decimal("1.5")], None, "decimal"),
        ([1, 2.5], None, "float"),
        ([2**53 + 1, 2.5], None, None),
        ([1, None, 2, 2.5], None, "float"),
        ([Decimal(10) ** 30, Decimal("0.25")], None, None),
        ([1, "x"], None, None),
        ([{"t": np.datetime64(1, "ns")}], None, None),
        ([[np.datetime64(1, "ns")]], None, None),
        ([NotImplemented], None, None),
        ([np.datetime64(1, "ns")], None, None),
    ],
    ids=repr,
)
async def test_what_parquet_would_change_is_refused_with_a_hint_that_works(
    tmp_path: Path, rows: list[Any], types: str | None, hint: str | None
) -> None:
    def writer(kind: str | None) -> FileWriter:
        path = tmp_path / "x.parquet"
        return FileWriter(path=path, field_names=["a"], chunk_size=1, types=kind and {"a": kind}, name="w")

    with pytest.raises(ExceptionGroup) as caught:
        await write_all(writer(types), [(value,) for value in rows])
    error = only(caught.value)
    assert isinstance(error, DataflowError)
    assert list(tmp_path.iterdir()) == []
    if hint is None:
        assert "types= can say" not in str(error)
        return
    assert f"{{'a': {hint!r}}}" in str(error)
    await write_all(writer(hint), [(value,) for value in rows])
    assert await read_all(FileReader(path=tmp_path / "x.parquet", field_names=["a"], name="r")) == [
        (one,) for one in rows
    ]


WITHIN: dict[str, tuple[Callable[[pa.DataType], pa.DataType], Callable[[Any], Any]]] = {
    "plain": (lambda kind: kind, lambda value: value),
    "list": (pa.list_, lambda value: [value]),
    "large list": (pa.large_list, lambda value: [value]),
    "list of two": (lambda kind: pa.list_(kind, 2), lambda value: [value, None]),
    "struct": (lambda kind: pa.struct([("t", kind)]), lambda value: {"t": value}),
    "map": (lambda kind: pa.map_(pa.string(), kind), lambda value: [("t", value)]),
    "list of maps": (lambda kind: pa.list_(pa.map_(pa.string(), kind)), lambda value: [[("t", value)]]),
}
"""Types of Parquet files that hold another type, and a value in each."""


@pytest.mark.parametrize("unit", ["ns", "us", "ms"])
@pytest.mark.parametrize("shape", list(WITHIN))
@pytest.mark.parametrize("zone", [None, "Europe/Vienna", "+02:00", "UTC"])
async def test_times_are_pythons_own_whatever_else_is_installed(
    tmp_path: Path, unit: str, shape: str, zone: str | None
) -> None:
    kind, within = WITHIN[shape]
    value = within(NOON if zone is None else NOON.replace(tzinfo=timezone(timedelta(hours=2))))
    column = pa.array([value], kind(pa.timestamp(unit, zone)))
    pq.write_table(pa.table({"a": column}), tmp_path / "in.parquet")
    [(got,)] = await read_all(FileReader(path=tmp_path / "in.parquet", field_names=["a"], name="r"))
    assert got == value
    # Neither pandas' times nor the zones of pytz.
    assert not {word for word in ("Timestamp", "pytz", "DstTzInfo", "<UTC>") if word in repr(got)}


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        *((shape, kind) for shape in WITHIN for kind in (pa.timestamp("ns"), pa.timestamp("us"))),
        # In maps, older versions of pyarrow read them as numbers.
        *((shape, pa.duration("ns")) for shape in WITHIN if "map" not in shape),
    ],
    ids=str,
)
async def test_a_time_that_no_datetime_holds_is_refused_wherever_it_is(
    tmp_path: Path, shape: str, kind: pa.DataType
) -> None:
    outer, within = WITHIN[shape]
    pq.write_table(
        pa.table({"a": pa.array([within(2**62 + 1)], outer(pa.int64())).cast(outer(kind))}), tmp_path / "in.parquet"
    )
    error, _ = await failure_of_reading(FileReader(path=tmp_path / "in.parquet", field_names=["a"], name="r"))
    assert isinstance(error, DataflowError)
    assert str(error).startswith(f"{tmp_path}/in.parquet, row group 0, cannot be read")


async def test_times_that_are_written_once_each(tmp_path: Path) -> None:
    column = pa.array([NOON, NOON, None], pa.timestamp("ns")).dictionary_encode()
    pq.write_table(pa.table({"a": column}), tmp_path / "in.parquet")
    got = await read_all(FileReader(path=tmp_path / "in.parquet", field_names=["a"], name="r"))
    assert repr(got) == repr([(NOON,), (NOON,), (None,)])


async def test_a_zone_that_nobody_knows_is_told_with_the_file(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": pa.array([NOON], pa.timestamp("us", "Mars/North"))}), tmp_path / "in.parquet")
    error, _ = await failure_of_reading(FileReader(path=tmp_path / "in.parquet", field_names=["a"], name="r"))
    assert isinstance(error, DataflowError)
    assert re.search("in.parquet, row group 0, cannot be read: .*Mars/North", str(error))


def test_zones_of_pytz_as_pythons_own() -> None:
    vienna = pytz.timezone("Europe/Vienna").localize(NOON)
    fixed = NOON.replace(tzinfo=pytz.FixedOffset(90))
    got = with_own_zone({"a": [vienna], "b": ("x", fixed), "c": NOON})
    assert repr(got) == repr(
        {
            "a": [NOON.replace(tzinfo=ZoneInfo("Europe/Vienna"))],
            "b": ("x", NOON.replace(tzinfo=timezone(timedelta(minutes=90)))),
            "c": NOON,
        }
    )


async def test_a_time_that_python_cannot_hold_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": pa.array([1], pa.timestamp("ns"))}), tmp_path / "in.parquet")
    error, _ = await failure_of_reading(FileReader(path=tmp_path / "in.parquet", field_names=["a"], name="r"))
    assert "would lose data" in str(error)


async def test_two_columns_of_one_name_in_a_parquet_file(tmp_path: Path) -> None:
    pq.write_table(pa.table([[1], [2]], names=["a", "a"]), tmp_path / "in.parquet")
    error, early = await failure_of_reading(FileReader(path=tmp_path / "in.parquet", field_names=["a"], name="r"))
    assert "more than one column 'a'" in str(error)
    assert early


def documented() -> list[tuple[str, str, str]]:
    """The rows of the table in the documentation."""
    page = (Path(__file__).parents[2] / "docs" / "dataflow.md").read_text()
    table = page.split("| value | in a CSV file | back from Parquet |")[1].split("\n\n")[0]
    rows = [re.fullmatch(r"\| `(.*?)` \| (.*?) \| (.*?) \|", line) for line in table.splitlines()[2:]]
    return [(row[1], row[2].strip("`"), row[3].strip("`")) for row in rows if row is not None]


def test_the_table_in_the_documentation_is_found() -> None:
    assert len(documented()) > 20


@pytest.mark.parametrize(("value", "in_csv", "from_parquet"), documented())
async def test_the_documentation_says_what_becomes_of_a_value(
    tmp_path: Path, value: str, in_csv: str, from_parquet: str
) -> None:
    names = {one.__name__: one for one in (np, date, datetime, time, timedelta, Decimal)} | {"UTC": UTC}
    row = (eval(value, names), "beside it")
    for path, expected in ((tmp_path / "x.csv", in_csv), (tmp_path / "x.parquet", from_parquet)):
        writer = FileWriter(path=path, field_names=["a", "b"], name="w")
        if expected == "refused":
            with pytest.raises(ExceptionGroup) as caught:
                await write_all(writer, [row])
            assert isinstance(only(caught.value), DataflowError)
        else:
            await write_all(writer, [row])
            if path.suffix == ".csv":
                assert path.read_text() == f"a,b\n{'' if expected == 'empty' else expected},beside it\n"
            else:
                [(got, _)] = await read_all(FileReader(path=path, field_names=["a", "b"], name="r"))
                assert (type(got), got) == (type(eval(expected, names)), eval(expected, names))


def documented_tables() -> list[tuple[str, str, str]]:
    """The rows of the table of tables in the documentation."""
    page = (Path(__file__).parents[2] / "docs" / "dataflow.md").read_text()
    table = page.split("| value | column of a table in SQLite | back from a plain query |")[1].split("\n\n")[0]
    rows = [re.fullmatch(r"\| `(.*?)` \| `(.*?)` \| (.*?) \|", line) for line in table.splitlines()[2:]]
    return [(row[1], row[2], row[3].strip("`")) for row in rows if row is not None]


def test_the_table_of_tables_in_the_documentation_is_found() -> None:
    assert len(documented_tables()) > 30


@pytest.mark.parametrize(("value", "kind", "back"), documented_tables())
async def test_the_documentation_says_what_a_table_makes_of_a_value(
    tmp_path: Path, value: str, kind: str, back: str
) -> None:
    names = {one.__name__: one for one in (np, date, datetime, time, timedelta, Decimal)} | {"UTC": UTC}
    with closing(sqlite3.connect(tmp_path / "x.db")) as made, made:
        made.execute(f"CREATE TABLE t (a {kind})")
    where = f"sqlite:///{tmp_path / 'x.db'}"
    writer = SQLWriter(connection_string=where, table="t", field_names=["a"], name="w")
    if back == "refused":
        with pytest.raises(ExceptionGroup) as caught:
            await write_all(writer, [(eval(value, names),)])
        assert isinstance(only(caught.value), DataflowError)
    else:
        await write_all(writer, [(eval(value, names),)])
        reader = SQLReader(connection_string=where, query="SELECT a FROM t", field_names=["a"], name="r")
        [(got,)] = await read_all(reader)
        assert (type(got), got) == (type(eval(back)), eval(back))


async def test_what_others_keep_beside_the_parts_stays(tmp_path: Path) -> None:
    folder = tmp_path / "out.parquet.parts"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / "part-000003.parquet").write_text("left over")
    await write_all(FileWriter(path=tmp_path / "out.parquet", field_names=["a"], name="w"), [(1,)])
    assert [one.name for one in folder.iterdir()] == ["notes.txt"]


# Off the event loop, in bounded memory -----------------------------------------------------------


class Slow(DataReader):
    """A reader of numbers that notes in which thread it reads, and how far ahead."""

    def __init__(self, chunks: int, **kwargs: Any) -> None:
        super().__init__(["n"], 5, **kwargs)
        self.chunks, self.read, self.threads = chunks, 0, set[int]()
        self.given_when_read: list[int] = []
        self.closed = 0

    def open_source(self, position: Any) -> Any:
        """Begin."""
        self.read = 0 if position is None else position

    def read_rows(self) -> Chunk | None:
        """The next five numbers."""
        self.threads.add(threading.get_ident())
        self.given_when_read.append(self.read * 5)
        if self.read == self.chunks:
            return None
        self.read += 1
        return Chunk([(self.read * 5 + n,) for n in range(-5, 0)], self.read)

    def close_source(self) -> None:
        """Count."""
        self.closed += 1


async def test_a_reader_reads_in_one_thread_that_is_not_the_event_loops_and_one_chunk_ahead() -> None:
    reader = Slow(4, name="r")
    process, collect = reading(reader)
    async with process:
        # given that nothing was asked for yet: one chunk, and the one after it
        await reader.off_loop(lambda: None)
        assert reader.given_when_read == [0, 5]
        for _ in range(5):
            await process.step()
        await reader.off_loop(lambda: None)
        assert reader.given_when_read == [0, 5]
        # when the second chunk is begun the third is read, and no more
        await process.step()
        await reader.off_loop(lambda: None)
        assert reader.given_when_read == [0, 5, 10]
        await process.run()
    assert [row[0] for row in collect.got] == list(range(20))
    assert len(reader.threads) == 1
    assert threading.get_ident() not in reader.threads
    assert reader.closed == 1
    # and the thread ends
    for thread in threading.enumerate():
        if thread.name.startswith("stbass r"):
            thread.join(5)
            assert not thread.is_alive()


class Watchful(DataWriter):
    """A writer that gives the source every chance to run ahead, and notes how far it got."""

    def __init__(self, source: Rows, **kwargs: Any) -> None:
        super().__init__(["n"], 3, **kwargs)
        self.source, self.loop = source, asyncio.get_running_loop()
        self.ahead: list[int] = []
        self.written: list[int] = []

    def open_target(self, mark: Any) -> None:
        """Nothing to open."""

    def write_rows(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Be slow, as far as the event loop can see."""
        asyncio.run_coroutine_threadsafe(self.turns(), self.loop).result(10)
        self.ahead.append(self.source.given - len(self.written))
        self.written += [row[0] for row in rows]

    async def turns(self) -> None:
        """Many turns of the event loop."""
        for _ in range(300):
            await asyncio.sleep(0)


async def test_a_slow_writer_holds_up_its_source() -> None:
    # given a source that could give all at once
    source = Rows(["n"], [[n] for n in range(300)], name="source")
    writer = Watchful(source, name="w")
    # when the writer is slow
    async with asyncio.timeout(20), LocalProcess([source, writer], connected(source, writer)) as process:
        await process.run()
    # then there is never more under way than the connector holds, two chunks and what the source has in its hands
    assert writer.written == list(range(300))
    assert max(writer.ahead) <= 64 + 2 * 3 + 2


def test_a_csv_file_is_read_by_pythons_own_module_too(tmp_path: Path) -> None:
    from stbass.dataflow.library.csv_files import CsvSink

    rows: list[tuple[Any, ...]] = [("a\r\nb", 1), ("c\rd", None), ('"', 2), ("", 3), (" x ", float("nan"))]
    sink = CsvSink(tmp_path / "x.csv", ["s", "n"])
    sink.open(None)
    sink.write(rows)
    sink.finish()
    sink.publish()
    with (tmp_path / "x.csv").open(newline="") as file:
        read = list(csv.reader(file))
    assert [row[0] for row in read] == ["s", "a\r\nb", "c\rd", '"', "", " x "]
    assert isnan(float(read[-1][1]))
