"""Writers in groups: a job that died and went on has written each row once, wherever its writers run."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from stbass.dataflow import Component, IOController, LocalProcess, Process
from stbass.dataflow.library import FileWriter, SQLWriter
from stbass.dataflow.state import DictStateBackend, SqliteStateBackend
from tests.support.dataflow import checkpoints_of, wire
from tests.support.dataflow_here import HereProcess

N = 20


class Numbers(Component):
    """1 … N, one a step; raises at a step if it was told to."""

    io = IOController(outputs=["n"])
    trouble_at: ClassVar[int | None] = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.made = 0

    async def step(self) -> None:
        if self.made == type(self).trouble_at:
            raise OSError("the first run ends here")
        self.made += 1
        self.n = self.made
        if self.made == N:
            await self.io.close()


def process(kind: type[Process], writer: Component, database: Path) -> Process:
    state = SqliteStateBackend(database, job_id="Job_written1")
    return kind([Numbers(name="numbers"), writer], [wire("numbers.n", "writer.n")], state=state, checkpoint_every=60)


async def die_after_a_checkpoint_and_go_on(make: Callable[[], Process], monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint lies between rows that are written before the end of the first run."""
    monkeypatch.setattr(Numbers, "trouble_at", 12)
    with pytest.raises(ExceptionGroup):
        async with make() as first:
            for _ in range(5):
                await first.step()
            await checkpoints_of(first).take()
            await first.run()
    monkeypatch.setattr(Numbers, "trouble_at", None)
    async with make() as second:
        await second.run()


@pytest.mark.parametrize("kind", [LocalProcess, HereProcess])
async def test_rows_of_a_table(kind: type[Process], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a job that writes rows two at a time
    path = tmp_path / "rows.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE rows (n INTEGER)")

    def make() -> Process:
        writer = SQLWriter(f"sqlite:///{path}", "rows", ["n"], chunk_size=2, name="writer")
        return process(kind, writer, tmp_path / "jobs.db")

    # When it dies some rows after a checkpoint, and goes on
    await die_after_a_checkpoint_and_go_on(make, monkeypatch)
    # Then each row is there once
    with sqlite3.connect(path) as connection:
        assert [n for (n,) in connection.execute("SELECT n FROM rows ORDER BY rowid")] == list(range(1, N + 1))


@pytest.mark.parametrize("kind", [LocalProcess, HereProcess])
async def test_lines_of_a_file(kind: type[Process], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.csv"

    def make() -> Process:
        return process(kind, FileWriter(path, ["n"], chunk_size=2, name="writer"), tmp_path / "jobs.db")

    await die_after_a_checkpoint_and_go_on(make, monkeypatch)
    assert path.read_text().split() == ["n", *map(str, range(1, N + 1))]


async def test_a_state_of_the_writer_alone_is_not_what_a_job_goes_on_from(tmp_path: Path) -> None:
    # Given a process whose own state does not last, and a writer with one that does
    path = tmp_path / "rows.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE rows (n INTEGER)")
    own = SqliteStateBackend(tmp_path / "own.db")
    writer = SQLWriter(f"sqlite:///{path}", "rows", ["n"], chunk_size=2, name="writer", state=own)
    # When it runs to its end
    parts: list[Component] = [Numbers(name="numbers"), writer]
    async with LocalProcess(parts, [wire("numbers.n", "writer.n")], state=DictStateBackend()) as made:
        await made.run()
    # Then the rows are written, although there is no checkpoint that they could wait for
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM rows").fetchone() == (N,)
