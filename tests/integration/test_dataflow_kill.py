"""Jobs whose program is killed, again and again, and that write what one that never died would have written."""

from __future__ import annotations

import gzip
import json
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import create_engine, text

from tests.support.postgres_server import PostgresServer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ROWS = 20_100
KILLS = 3


def job(tmp_path: Path, **given: Any) -> list[str]:
    """The command that runs a job."""
    arguments = {"state": str(tmp_path / "state.db"), "job": "Job_killed01", "every": 0.05, "die": None, **given}
    return [sys.executable, "-m", "tests.support.dataflow_job", json.dumps(arguments)]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run it until it ends, of itself or not."""
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def run_killed(command: list[str], dice: random.Random) -> int:
    """Run it, and kill it a moment after one of its first checkpoints. How many it had made."""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seen = 0
        for _ in range(dice.randint(0, 4)):
            seen += process.stdout.readline().startswith("checkpoint")
        try:
            # Where it is then is up to the machine: that is the point.
            process.wait(dice.uniform(0, 0.15) if seen else dice.uniform(0.3, 0.6))
        except subprocess.TimeoutExpired:
            process.kill()
    return seen


def run_until_done(command: list[str], seed: int) -> int:
    """Kill it a few times, then let it finish. How often it was killed after a checkpoint."""
    dice = random.Random(seed)
    kills = sum(bool(run_killed(command, dice)) for _ in range(KILLS))
    done = run(command)
    if "JobFinishedError" not in done.stderr:
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith("done\n")
    return kills


EXPECTED = [(number, 2 * number) for number in range(ROWS)]


def csv_text(count: int = ROWS) -> str:
    """What a job writes."""
    return "n,double\n" + "".join(f"{number},{2 * number}\n" for number in range(count))


def numbers_csv(tmp_path: Path, count: int = ROWS) -> Path:
    """What a job reads."""
    path = tmp_path / "in.csv"
    path.write_text("n,rest\n" + "".join(f"{number},x\n" for number in range(count)))
    return path


def read_rows(path: Path) -> list[tuple[int, int]]:
    """The rows of a Parquet file."""
    table = pq.read_table(path)
    return list(zip(table["n"].to_pylist(), table["double"].to_pylist(), strict=True))


@pytest.mark.parametrize("seed", [0, 2])
def test_csv_to_csv(tmp_path: Path, seed: int) -> None:
    command = job(
        tmp_path,
        reader=["FileReader", {"path": str(numbers_csv(tmp_path)), "chunk_size": 700}],
        writer=["FileWriter", {"path": str(tmp_path / "out.csv"), "chunk_size": 300}],
    )
    assert run_until_done(command, seed) > 0
    assert (tmp_path / "out.csv").read_text() == csv_text()


def test_gzipped_csv_to_gzipped_csv(tmp_path: Path) -> None:
    source = tmp_path / "in.csv.gz"
    source.write_bytes(gzip.compress(numbers_csv(tmp_path).read_bytes()))
    command = job(
        tmp_path,
        reader=["FileReader", {"path": str(source), "chunk_size": 700}],
        writer=["FileWriter", {"path": str(tmp_path / "out.csv.gz"), "chunk_size": 300}],
    )
    assert run_until_done(command, 7) > 0
    assert gzip.decompress((tmp_path / "out.csv.gz").read_bytes()).decode() == csv_text()


@pytest.mark.parametrize("seed", [1])
def test_parquet_to_parquet(tmp_path: Path, seed: int) -> None:
    pq.write_table(pa.table({"n": list(range(ROWS))}), tmp_path / "in.parquet", row_group_size=4_000)
    command = job(
        tmp_path,
        reader=["FileReader", {"path": str(tmp_path / "in.parquet"), "chunk_size": 900}],
        writer=["FileWriter", {"path": str(tmp_path / "out.parquet"), "chunk_size": 800}],
    )
    assert run_until_done(command, seed) > 0
    assert read_rows(tmp_path / "out.parquet") == EXPECTED
    # Row groups are chunks, whenever it died; and nothing is left of the parts.
    with pq.ParquetFile(tmp_path / "out.parquet") as file:
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    assert sizes == [800] * (ROWS // 800) + [ROWS % 800]
    assert not (tmp_path / "out.parquet.parts").exists()


def sqlite_table(path: Path, rows: int = 0) -> str:
    """A database with a table to write to, and one to read from. Gives SQLAlchemy's address."""
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE numbers (n INTEGER PRIMARY KEY)")
        connection.execute("CREATE TABLE doubled (n INTEGER, double INTEGER)")
        connection.executemany("INSERT INTO numbers VALUES (?)", ((number,) for number in range(rows)))
    connection.close()
    return f"sqlite:///{path}"


def written(address: str) -> list[tuple[int, int]]:
    """What is in the table, in the order of writing as far as the database knows it."""
    engine = create_engine(address)
    with engine.connect() as connection:
        found = connection.execute(text("SELECT n, double FROM doubled ORDER BY n")).all()
    engine.dispose()
    return [(row.n, row.double) for row in found]


@pytest.mark.slow
@pytest.mark.parametrize("key", ["n", None])
def test_sqlite_to_sqlite(tmp_path: Path, key: str | None) -> None:
    source, target = sqlite_table(tmp_path / "in.db", ROWS), sqlite_table(tmp_path / "out.db")
    query = "SELECT n FROM numbers" + ("" if key else " ORDER BY n")
    reader = {"connection_string": source, "query": query, "key": key, "chunk_size": 700}
    command = job(
        tmp_path,
        reader=["SQLReader", reader],
        writer=["SQLWriter", {"connection_string": target, "table": "doubled"}],
    )
    assert run_until_done(command, 3) > 0
    assert written(target) == EXPECTED


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """SQLAlchemy's address of a server with the tables."""
    with PostgresServer() as server:
        address = server.url().replace("postgresql://", "postgresql+psycopg://")
        engine = create_engine(address)
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE numbers (n BIGINT PRIMARY KEY)"))
            connection.execute(text(f"INSERT INTO numbers SELECT generate_series(0, {ROWS - 1})"))
            connection.execute(text("CREATE TABLE doubled (n BIGINT, double BIGINT)"))
        engine.dispose()
        yield address


@pytest.mark.slow
def test_postgres_to_postgres(tmp_path: Path, postgres: str) -> None:
    command = job(
        tmp_path,
        reader=["SQLReader", {"connection_string": postgres, "query": "SELECT n FROM numbers", "key": "n"}],
        writer=["SQLWriter", {"connection_string": postgres, "table": "public.doubled"}],
    )
    assert run_until_done(command, 5) > 0
    assert written(postgres) == EXPECTED


# At one point exactly ----------------------------------------------------------------------------

FEW = 5_000
ROWS_OF = ["before write_rows", "after write_rows"]
# Two checkpoints there always are: one before the first step, one when all have ended.
MARKS = ["before mark_target", "after mark_target", "after checkpoint"]
ENDS = ["before finish_target", "after finish_target", "before publish_target", "after publish_target"]


@pytest.mark.parametrize("name", [pytest.param("out.csv", marks=pytest.mark.slow), "out.parquet"])
@pytest.mark.parametrize(
    ("where", "count"),
    [
        # What is before one thing is after another, or nearly so.
        pytest.param(where, count, marks=pytest.mark.slow if where.startswith("before") else ())
        for wheres, count in ((ROWS_OF, 3), (MARKS, 2), ([*ENDS, "before open_target"], 1))
        for where in wheres
    ],
)
def test_a_file_is_right_wherever_its_writer_died(tmp_path: Path, name: str, where: str, count: int) -> None:
    out, flag = tmp_path / name, tmp_path / "died"
    command = job(
        tmp_path,
        every=0.02,
        reader=["FileReader", {"path": str(numbers_csv(tmp_path, FEW))}],
        writer=["FileWriter", {"path": str(out), "chunk_size": 70}],
        die=[where, count, str(flag)],
    )
    # given a writer that dies at this point
    assert run(command).returncode < 0
    assert flag.exists()
    # when the job goes on
    finished = run(command)
    # then nothing is missing and nothing is there twice
    assert finished.returncode == 0, finished.stderr
    if name.endswith("csv"):
        assert out.read_text() == csv_text(FEW)
    else:
        assert read_rows(out) == EXPECTED[:FEW]
        assert not out.with_name("out.parquet.parts").exists()


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ("before checkpoint", 2),
        ("after checkpoint", 2),
        ("before committed", 2),
        ("after committed", 2),
        ("after open_target", 1),
        ("before _insert", 2),
        ("after _insert", 2),
        ("after _write_batch", 2),
    ],
)
def test_a_table_is_right_wherever_its_writer_died(tmp_path: Path, where: str, count: int) -> None:
    target, flag = sqlite_table(tmp_path / "out.db"), tmp_path / "died"
    command = job(
        tmp_path,
        every=0.02,
        reader=["FileReader", {"path": str(numbers_csv(tmp_path, FEW))}],
        writer=["SQLWriter", {"connection_string": target, "table": "doubled"}],
        die=[where, count, str(flag)],
    )
    assert run(command).returncode < 0
    assert flag.exists()
    finished = run(command)
    assert finished.returncode == 0, finished.stderr
    assert written(target) == EXPECTED[:FEW]


def test_a_file_that_somebody_changed_meanwhile_is_an_error(tmp_path: Path) -> None:
    # given a job that died after some checkpoints
    out = tmp_path / "out.csv"
    command = job(
        tmp_path,
        every=0.02,
        reader=["FileReader", {"path": str(numbers_csv(tmp_path, FEW))}],
        writer=["FileWriter", {"path": str(out), "chunk_size": 70}],
        die=["after committed", 2, str(tmp_path / "died")],
    )
    assert run(command).returncode < 0
    # when what it has written is cut off by somebody else
    part = out.with_name("out.csv.part")
    os.truncate(part, 12)
    # then the job says so, and leaves the file alone
    finished = run(command)
    assert finished.returncode == 1
    assert "somebody else changed it" in finished.stderr
    assert part.stat().st_size == 12
