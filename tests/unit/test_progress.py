"""Showing people what runs."""

from __future__ import annotations

import asyncio
import io

import pytest
from rich.console import Console

from stbass import PAR, FailurePolicy, Process
from stbass._process.context import ProcessContext
from stbass.observe.display import LinesView, LiveView, progress, view_for
from tests.support.compose import boom, give


@Process
async def steps(ctx: ProcessContext) -> None:
    for done in range(3):
        ctx.progress(done, 2, f"step {done}")
        await asyncio.sleep(0)
    ctx.checkpoint({"at": "the end"})


def lines() -> Console:
    return Console(file=io.StringIO(), width=100)


def terminal(height: int = 20) -> Console:
    return Console(file=io.StringIO(), width=100, height=height, force_terminal=True, color_system=None)


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


async def test_a_line_per_event_where_there_is_no_terminal() -> None:
    console = lines()
    with progress(console):
        await PAR(steps, boom, on_failure=FailurePolicy.COLLECT).run()
    text = [line.split("s  ", 1)[1] for line in shown(console).splitlines()]
    assert "steps: waits" in text
    assert "steps: runs" in text
    assert "steps: 1 of 2 step 1" in text
    assert "steps: checkpoint {'at': 'the end'}" in text
    assert "steps: done" in text
    assert "boom: failed: ValueError: boom" in text
    assert text[-1].startswith("PAR: failed: ExceptionGroup")


async def test_a_table_on_a_terminal() -> None:
    console = terminal()
    with progress(console):
        await PAR(steps, boom, give("[red]x"), on_failure=FailurePolicy.COLLECT).run()
    # The last drawing stays.
    text = shown(console)
    last = text[text.rindex("process ") :]
    assert "ValueError: boom" in last
    assert [last.count(word) for word in ("done", "failed")] == [2, 2]


async def test_more_processes_than_lines() -> None:
    console = terminal(height=8)
    view = LiveView(console)
    with progress(console):
        await PAR(*[give(1)] * 30).run()
    assert "and 27 done" in shown(console)
    assert isinstance(view_for(terminal()), type(view))
    assert isinstance(view_for(lines()), LinesView)


async def test_a_second_display_leaves_it_to_the_first() -> None:
    first, second = lines(), lines()
    with progress(first), progress(second):
        await PAR(give(1)).run()
    assert shown(second) == ""
    with progress(second):
        await PAR(give(1)).run()
    assert "give: done" in shown(second)


async def test_run_shows_it_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    result = await PAR(give(1)).run(progress=True)
    assert result.is_ok
    out, err = capsys.readouterr()
    assert out == ""
    assert "give: done" in err
    await PAR(give(1)).run()
    assert capsys.readouterr() == ("", "")


def test_run_sync_shows_it_too(capsys: pytest.CaptureFixture[str]) -> None:
    PAR(give(1)).run_sync(progress=True)
    assert "give: done" in capsys.readouterr().err
