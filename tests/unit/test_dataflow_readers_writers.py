"""Readers and writers in jobs that fail, are stopped, and go on."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from sqlalchemy import create_engine, text

from stbass.dataflow import AsyncioConnector, Component, ConnectorSpec, IOController, LocalProcess, Status, StopEvent
from stbass.dataflow.library import Chunk, DataReader, DataWriter, FileReader, FileWriter, SQLWriter
from stbass.dataflow.state import SqliteStateBackend
from stbass.errors import CheckpointError, DataflowError, ProcessCancelled
from tests.support.dataflow_parts import Rows, connected, read_all, reading, write_all
from tests.support.waiting import until

JOB = "Job_resumed1"


def only(error: BaseException) -> BaseException:
    """The one error in a group."""
    while isinstance(error, BaseExceptionGroup):
        assert len(error.exceptions) == 1, error.exceptions
        error = error.exceptions[0]
    return error


def state_of(tmp_path: Path) -> SqliteStateBackend:
    """A state that lasts."""
    return SqliteStateBackend(str(tmp_path / "state.db"), job_id=JOB)


def numbers_of(path: Path, count: int) -> Path:
    """A CSV file of numbers."""
    path.write_text("n\n" + "".join(f"{number}\n" for number in range(count)))
    return path


class Pass(Component):
    """Passes numbers on; stops the process, or fails, after one of them."""

    io = IOController(inputs=["n"], outputs=["m"])
    n: int
    m: int

    def __init__(self, stop_after: int | None = None, fail_after: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stop_after, self.fail_after = stop_after, fail_after

    def restore(self, state: Any) -> None:
        """Only the numbers matter."""

    async def step(self) -> None:
        """Pass it on."""
        if self.n == self.fail_after:
            raise ValueError(f"no more than {self.n}")
        self.m = self.n
        if self.n == self.stop_after:
            self.io.queue_event(StopEvent(source=self.name, data=None))


def job(tmp_path: Path, writer: DataWriter, **arguments: Any) -> LocalProcess:
    """A job that copies ``in.csv``."""
    reader = FileReader(path=tmp_path / "in.csv", field_names=["n"], chunk_size=7, name="reader")
    edges = [("reader.n", "pass.n"), ("pass.m", "writer.m")]
    return LocalProcess(
        [reader, Pass(name="pass", **arguments), writer],
        [AsyncioConnector(ConnectorSpec(source=source, target=target), maxsize=2) for source, target in edges],
        name="copy",
        state=state_of(tmp_path),
    )


def writer_of(tmp_path: Path, kind: str) -> DataWriter:
    """A writer of the field ``m``."""
    if kind == "sql":
        return SQLWriter(
            connection_string=f"sqlite:///{tmp_path / 'out.db'}", table="t", field_names={"m": "n"}, name="writer"
        )
    return FileWriter(path=tmp_path / f"out.{kind}", field_names={"m": "n"}, chunk_size=4, name="writer")


def written_to(tmp_path: Path, kind: str) -> list[int]:
    """The numbers that were written."""
    if kind == "csv":
        return [int(line) for line in (tmp_path / "out.csv").read_text().splitlines()[1:]]
    if kind == "parquet":
        found: list[int] = pq.read_table(tmp_path / "out.parquet")["n"].to_pylist()
        return found
    engine = create_engine(f"sqlite:///{tmp_path / 'out.db'}")
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT n FROM t ORDER BY rowid")).scalars().all()
    engine.dispose()
    return list(rows)


def sql_table(tmp_path: Path) -> None:
    """The table for the SQL writer."""
    engine = create_engine(f"sqlite:///{tmp_path / 'out.db'}")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (n INTEGER)"))
    engine.dispose()


@pytest.mark.parametrize("kind", ["csv", "parquet", "sql"])
async def test_a_job_that_was_stopped_goes_on_and_writes_each_row_once(tmp_path: Path, kind: str) -> None:
    sql_table(tmp_path)
    numbers_of(tmp_path / "in.csv", 50)
    # given a job that was stopped in the middle
    async with asyncio.timeout(10), job(tmp_path, writer_of(tmp_path, kind), stop_after=21) as process:
        await process.run()
        assert process.status is Status.STOPPED
    # when it goes on
    async with asyncio.timeout(10), job(tmp_path, writer_of(tmp_path, kind)) as process:
        await process.run()
        assert process.status is Status.COMPLETED
    # then all is there, in order, once
    assert written_to(tmp_path, kind) == list(range(50))


@pytest.mark.parametrize("kind", ["csv", "parquet", "sql"])
async def test_a_job_that_failed_goes_on_from_its_last_checkpoint(tmp_path: Path, kind: str) -> None:
    sql_table(tmp_path)
    numbers_of(tmp_path / "in.csv", 50)
    with pytest.raises(ExceptionGroup):
        async with asyncio.timeout(10), job(tmp_path, writer_of(tmp_path, kind), fail_after=30) as process:
            await process.run()
    async with asyncio.timeout(10), job(tmp_path, writer_of(tmp_path, kind)) as process:
        await process.run()
    assert written_to(tmp_path, kind) == list(range(50))


class Breaks(Rows):
    """Gives out rows, then fails, or waits for ever."""

    def __init__(self, at: int, **kwargs: Any) -> None:
        super().__init__(["n"], [[number] for number in range(100)], **kwargs)
        self.at = at
        self.error: BaseException | None = ValueError("broken")
        self.is_there = asyncio.Event()

    async def step(self) -> None:
        """The next row, or what happens instead of it."""
        if self.given == self.at:
            self.is_there.set()
            if self.error is not None:
                raise self.error
            await asyncio.get_running_loop().create_future()
        await super().step()


@pytest.mark.parametrize("form", ["csv", "csv.gz", "parquet"])
@pytest.mark.parametrize("how", ["raises", "is cancelled", "is interrupted", "its user raises"])
async def test_a_run_that_fails_leaves_the_last_good_file(tmp_path: Path, form: str, how: str) -> None:
    # given the file of a good run
    path = tmp_path / f"out.{form}"
    await write_all(FileWriter(path=path, field_names=["n"], name="writer"), [(-1,), (-2,)])
    path.chmod(0o640)
    good = path.read_bytes()

    async def runs(source: Breaks) -> None:
        writer = FileWriter(path=path, field_names=["n"], chunk_size=3, name="writer")
        async with LocalProcess([source, writer], connected(source, writer)) as process:
            if how == "its user raises":
                for _ in range(20):
                    await process.step()
                raise ValueError("of the user")
            running = asyncio.ensure_future(process.run())
            if source.error is None:
                await source.is_there.wait()
                process.cancel() if how == "is cancelled" else running.cancel()
            await running

    # when a run ends otherwise
    source = Breaks(50, name="source")
    if how.startswith("is"):
        source.error = None
    async with asyncio.timeout(30):
        with pytest.raises((ExceptionGroup, ProcessCancelled, asyncio.CancelledError, ValueError)):
            await runs(source)
    # then it is as it was, and nothing is left beside it
    assert path.read_bytes() == good
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    # and a good one replaces it
    await write_all(FileWriter(path=path, field_names=["n"], name="writer"), [(7,)])
    assert await read_all(FileReader(path=path, field_names=["n"], name="reader")) == [(7,)]
    assert path.stat().st_mode & 0o777 == 0o640
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("form", ["csv", "parquet"])
async def test_a_file_whose_rows_have_all_come_is_not_replaced_if_another_component_fails(
    tmp_path: Path, form: str
) -> None:
    path = tmp_path / f"out.{form}"
    await write_all(FileWriter(path=path, field_names=["n"], name="writer"), [(-1,)])
    good, other = path.read_bytes(), Rows(["n"], [[1], [2]], name="other")
    source, writer = Breaks(50, name="source"), FileWriter(path=path, field_names=["n"], name="writer")
    sink = FileWriter(path=tmp_path / f"more.{form}", field_names=["n"], name="sink")
    source.error = None
    process = LocalProcess([source, other, writer, sink], [*connected(other, writer), *connected(source, sink)])
    async with asyncio.timeout(30):
        with pytest.raises(ProcessCancelled):
            async with process:
                running = asyncio.ensure_future(process.run())
                await source.is_there.wait()
                await until(lambda: writer.status is Status.COMPLETED)
                process.cancel()
                await running
    assert path.read_bytes() == good
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("form", ["csv", "parquet"])
async def test_a_link_stays_a_link(tmp_path: Path, form: str) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / f"out.{form}"
    link.symlink_to(tmp_path / "real" / f"of.{form}")
    await write_all(FileWriter(path=link, field_names=["n"], name="writer"), [(1,)])
    assert link.is_symlink()
    assert [one.name for one in (tmp_path / "real").iterdir()] == [f"of.{form}"]
    assert await read_all(FileReader(path=link, field_names=["n"], name="reader")) == [(1,)]


async def test_what_is_no_regular_file_is_refused_before_any_step(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    os.mkfifo(path)
    with pytest.raises(ExceptionGroup) as caught:
        await write_all(FileWriter(path=path, field_names=["n"], name="writer"), [(1,)])
    assert "it is no regular file, and cannot be replaced" in str(only(caught.value))


class Numbers(DataReader):
    """A source of numbers, five at a time, that notes where it was opened."""

    opened: list[Any] = []  # noqa: RUF012

    def __init__(self, count: int, **kwargs: Any) -> None:
        super().__init__(["n"], 5, **kwargs)
        self.count, self.at = count, 0

    def open_source(self, position: Any) -> Any:
        """Note it."""
        self.opened.append(position)
        self.at = position or 0

    def read_rows(self) -> Chunk | None:
        """The next ones."""
        rows = [(number,) for number in range(self.at, min(self.at + 5, self.count))]
        self.at += len(rows)
        return Chunk(rows, self.at) if rows else None


async def test_a_reader_goes_on_at_its_chunk(tmp_path: Path) -> None:
    Numbers.opened.clear()

    def copying(**arguments: Any) -> LocalProcess:
        writer = FileWriter(path=tmp_path / "out.csv", field_names={"m": "n"}, name="writer")
        return LocalProcess(
            [Numbers(100, name="numbers"), Pass(name="pass", **arguments), writer],
            [
                AsyncioConnector(ConnectorSpec(source="numbers.n", target="pass.n"), maxsize=1),
                AsyncioConnector(ConnectorSpec(source="pass.m", target="writer.m"), maxsize=1),
            ],
            state=state_of(tmp_path),
        )

    async with asyncio.timeout(10), copying(stop_after=71) as process:
        await process.run()
    async with asyncio.timeout(10), copying() as process:
        await process.run()
    # It is opened at the beginning, to see whether it can be, and then where it was.
    assert Numbers.opened[:2] == [None, None]
    assert Numbers.opened[2:] == [70]
    assert written_to(tmp_path, "csv") == list(range(100))


async def test_a_source_that_became_shorter_is_an_error(tmp_path: Path) -> None:
    numbers_of(tmp_path / "in.csv", 50)
    async with asyncio.timeout(10), job(tmp_path, writer_of(tmp_path, "csv"), stop_after=40) as process:
        await process.run()
    numbers_of(tmp_path / "in.csv", 3)
    with pytest.raises((DataflowError, ExceptionGroup)) as caught:
        async with asyncio.timeout(10), job(tmp_path, writer_of(tmp_path, "csv")) as process:
            await process.run()
    assert "what it reads from was changed" in str(only(caught.value))


async def test_a_target_that_is_gone_is_an_error(tmp_path: Path) -> None:
    numbers_of(tmp_path / "in.csv", 50)
    async with asyncio.timeout(10), job(tmp_path, writer_of(tmp_path, "csv"), stop_after=40) as process:
        await process.run()
    (tmp_path / "out.csv.part").unlink()
    with pytest.raises((CheckpointError, ExceptionGroup)) as caught:
        async with asyncio.timeout(10), job(tmp_path, writer_of(tmp_path, "csv")) as process:
            await process.run()
    assert isinstance(only(caught.value), CheckpointError)
    assert "it is gone" in str(only(caught.value))
    assert not (tmp_path / "out.csv").exists()


async def test_a_second_run_starts_afresh(tmp_path: Path) -> None:
    numbers_of(tmp_path / "in.csv", 9)
    process = job(tmp_path, writer_of(tmp_path, "csv"))
    for _ in range(2):
        async with asyncio.timeout(10), process:
            await process.run()
        assert written_to(tmp_path, "csv") == list(range(9))
    assert process.state.job_id != JOB


class Ends(DataWriter):
    """A writer whose last act can be watched."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(["n"], None, **kwargs)
        self.finishing, self.may_end = threading.Event(), threading.Event()
        self.error: Exception | None = None
        self.calls: list[str] = []

    def open_target(self, mark: Any) -> None:
        """Nothing to open."""

    def write_rows(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Note it."""
        self.calls.append(f"write {len(rows)}")

    def finish_target(self) -> None:
        """Wait, then fail if it has to."""
        self.calls.append("finish")
        self.finishing.set()
        if not self.may_end.wait(10):
            raise TimeoutError("nobody let it end")
        if self.error is not None:
            raise self.error

    def close_target(self) -> None:
        """Note it."""
        self.calls.append("close")


class Watching(Rows):
    """A source that lets the writer end when a checkpoint is taken while it does its last act."""

    def __init__(self, writer: Ends, **kwargs: Any) -> None:
        super().__init__(["n"], [[1], [2]], **kwargs)
        self.writer = writer

    def checkpoint(self) -> Any:
        """Nothing to keep."""
        if self.writer.finishing.is_set():
            self.writer.may_end.set()
        return {}


async def test_a_checkpoint_that_begins_during_the_last_act_waits_for_it(tmp_path: Path) -> None:
    writer = Ends(name="writer")
    source = Watching(writer, name="source")
    process = LocalProcess([source, writer], connected(source, writer), state=state_of(tmp_path), checkpoint_every=0.01)
    async with asyncio.timeout(10), process:
        await process.run()
    assert process.status is Status.COMPLETED
    assert writer.calls[-2:] == ["finish", "close"]
    assert writer.calls.count("finish") == 1


async def test_a_failure_in_the_last_act_is_one_failure_of_the_writer() -> None:
    source = Rows(["n"], [[1], [2]], name="source")
    writer = Ends(name="writer")
    writer.error = OSError("disk full")
    process = LocalProcess([source, writer], connected(source, writer))
    writer.may_end.set()
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.timeout(10), process:
            await process.run()
    assert caught.value.exceptions == (writer.error,)
    assert writer.error.__notes__ == ["component 'writer', step 2"]
    assert (process.status, writer.status, source.status) == (Status.FAILED, Status.FAILED, Status.COMPLETED)
    assert writer.calls == ["write 2", "finish", "close"]


async def test_what_is_read_can_be_written_in_another_format(tmp_path: Path) -> None:
    rows = [(number, f"n{number}", None if number % 3 else number / 2) for number in range(20)]
    fields = ["a", "b", "c"]
    for name in ("one.csv", "two.parquet", "three.csv.gz"):
        await write_all(FileWriter(path=tmp_path / name, field_names=fields, chunk_size=6, name="writer"), rows)
        rows = await read_all(FileReader(path=tmp_path / name, field_names=fields, name="reader"))
    assert rows == [(number, f"n{number}", None if number % 3 else number / 2) for number in range(20)]


async def test_reading_that_is_cancelled_leaves_nothing_behind(tmp_path: Path) -> None:
    process, collect = reading(Numbers(1000, name="numbers"))
    async with asyncio.timeout(10):
        await process.init()
        running = asyncio.create_task(process.run())
        while len(collect.got) < 10:
            await process.components["numbers"].off_loop(lambda: None)  # type: ignore[attr-defined]
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await process.destroy()
    for thread in threading.enumerate():
        if thread.name.startswith("stbass numbers"):
            thread.join(5)
            assert not thread.is_alive()
