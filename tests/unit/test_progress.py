"""Showing people what runs."""

from __future__ import annotations

import asyncio
import io
import re
from typing import Any

import pytest
from rich.console import Console

from stbass import PAR, FailurePolicy, Placement, Process, ProcessResult
from stbass._process.context import ProcessContext
from stbass._values.outcome import html_table
from stbass.observe import Event
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


def terminal(height: int = 20, width: int = 100) -> Console:
    return Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)


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


async def test_those_that_have_no_line_are_counted_by_what_they_do() -> None:
    # given twelve processes of which one runs and the others wait, and room for a few
    console = terminal(height=8)
    view = LiveView(console)
    for number in range(12):
        view.on_event(Event("queued", f"agent{number}", str(number)))
    view.on_event(Event("started", "agent11", "11"))
    # when they are shown, then the rest is counted in the plural
    console.print(view._draw())
    assert re.search(r"and \d+ wait(,| *$)", shown(console), re.MULTILINE)


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


@Process
async def saves(ctx: ProcessContext, value: Any) -> None:
    ctx.checkpoint(value)


@pytest.mark.parametrize("value", ["x" * 5000, ["one"] * 5000, {f"key {n}": "v" * 90 for n in range(99)}])
async def test_a_checkpoint_is_shortened(value: Any) -> None:
    console = lines()
    with progress(console):
        await PAR(saves(value)).run()
    [line] = [line for line in shown(console).splitlines() if "checkpoint " in line]
    assert len(line.split("checkpoint ", 1)[1]) <= 80


async def test_failures_stay_where_there_is_no_room_for_all() -> None:
    # given 5 failures among 60 processes that succeed, and a terminal of 10 lines,
    console = terminal(height=10)
    members = [give(1)] * 30 + [boom.with_name(f"boom {number}") for number in range(5)] + [give(1)] * 30
    with progress(console):
        await PAR(*members, on_failure=FailurePolicy.COLLECT).run()
    # then all of them are in the last drawing.
    last = shown(console)[shown(console).rindex("process ") :]
    assert [f"boom {number}" in last for number in range(5)] == [True] * 5


async def test_failures_that_have_no_room_at_all_are_listed_below() -> None:
    console = terminal(height=8)
    members = [boom.with_name(f"boom {number}.") for number in range(40)]
    with progress(console):
        await PAR(*members, on_failure=FailurePolicy.COLLECT).run()
    last = shown(console)[shown(console).rindex("process ") :]
    assert [f"boom {number}." in last for number in range(40)] == [True] * 40
    assert last.count("ValueError: boom") >= 40


@Process
async def a_quarter(ctx: ProcessContext, ends_well: bool) -> None:
    ctx.progress(1, 4)
    if not ends_well:
        raise ValueError("after a quarter")


async def test_a_bar_is_full_when_its_process_is_done_and_stays_where_it_was_if_it_failed() -> None:
    console = terminal()
    with progress(console):
        await PAR(a_quarter(True), a_quarter(False), on_failure=FailurePolicy.COLLECT).run()
    last = shown(console)[shown(console).rindex("process ") :]
    assert sorted(line.count("━") for line in last.splitlines() if "a_quarter" in line) == [5, 20]


def test_a_notebook_gets_lines() -> None:
    assert isinstance(view_for(Console(file=io.StringIO(), force_jupyter=True)), LinesView)


def test_a_dumb_terminal_gets_lines() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"})
    assert isinstance(view_for(console), LinesView)


def test_a_file_gets_lines_though_colours_are_forced(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    PAR(give(1)).run_sync(progress=True)
    err = capsys.readouterr().err
    assert err.count("give: done") == 1
    assert "\x1b" not in err


HOSTILE = [
    "[red]x[/red]",
    "clear\x1b[2J\x1b]0;title\x07 it",
    "c1 \x9b2J",
    "two\nlines\r and\ttabs",
    "\u202eright to left",
    "half of an emoji \ud83d",
    "🚀" * 50,
    "宽" * 50,
    "L" * 10_000,
]


@Process
async def says_and_fails(ctx: ProcessContext, text: str) -> None:
    ctx.progress(1, 4, text)
    ctx.checkpoint({"text": text})
    raise ValueError(text)


@pytest.mark.parametrize("width", [None, 100, 80, 40], ids=["file", "100", "80", "40"])
async def test_texts_of_strangers_do_not_reach_the_terminal_as_they_are(width: int | None) -> None:
    console = lines() if width is None else terminal(40, width)
    members = [says_and_fails(text).with_name(text) for text in HOSTILE]
    with progress(console):
        await PAR(*members, on_failure=FailurePolicy.COLLECT).run()
    text = shown(console)
    for own in re.findall(r"\x1b\[[?]?[0-9]*[A-Zhl]|\r", text):  # what a table that is drawn again consists of
        assert own in ("\x1b[?25l", "\x1b[?25h", "\x1b[2K", "\x1b[1A", "\r")
    said = re.sub(r"\x1b\[(\?25[lh]|2K|1A)|\r", "", text)
    assert [sign for sign in said if not sign.isprintable() and sign != "\n"] == []
    assert "[red]x[/red]" in said
    assert max(map(len, said.splitlines())) < 500


@pytest.mark.parametrize("width", [80, 40], ids=["80", "40"])
async def test_a_small_terminal_shows_how_each_does_and_all_that_failed(width: int) -> None:
    # given names that are longer than the terminal is wide, and a place
    console = terminal(20, width)
    name, error = "a name of a process " * 10, "an error that is longer than a small terminal is wide, " * 2
    view = LiveView(console)
    for number in range(3):
        view.on_event(Event("queued", name, str(number), placement=Placement(endpoint="far away" * 20)))
        view.on_event(Event("started", name, str(number), worker="worker@host" * 20))
        view.on_event(Event("progress", name, str(number), done=1.0, total=2.0, note="half way"))
    view.on_event(Event("ended", name, "2", result=ProcessResult.fail(ValueError(error))))
    # when they are shown, then each has its state, its bar and its time,
    with view:
        console.print(view._draw())
        rows = [line for line in shown(console).splitlines() if "a name" in line]
    assert [re.search(r" (runs|failed) +━.* [0-9.]+ s", row) is not None for row in rows[-3:]] == [True] * 3
    # and the error stands below, whole.
    assert error.strip() in shown(console)


async def test_the_rest_is_counted_whole_in_a_small_terminal() -> None:
    console = terminal(8, 40)
    view = LiveView(console)
    for number in range(300):
        view.on_event(Event("queued", "agent", str(number)))
        if number % 2:
            view.on_event(Event("started", "agent", str(number)))
    console.print(view._draw())
    assert "and 146 run, 150 wait" in shown(console)


# Results in notebooks -----------------------------------------------------------------------------


async def test_a_result_is_a_table_in_a_notebook() -> None:
    result = await PAR(give("<b>bold</b>"), boom, on_failure=FailurePolicy.COLLECT).run()
    html = result._repr_html_()
    assert html.count("<td>done</td>") == html.count("<td>failed</td>") == 1
    assert "&lt;b&gt;bold&lt;/b&gt;" in html
    assert "<td>boom</td>" in html
    assert "<td>failed</td>" in html
    assert "ValueError: boom" in html
    assert "ValueError: boom" in result.results[1]._repr_html_()
    assert "<td>done</td>" in ProcessResult.ok(3)._repr_html_()
    assert "ValueError: x" in ProcessResult.fail(ValueError("x"))._repr_html_()


async def test_a_table_in_a_notebook_is_no_larger_than_people_read_and_shows_no_secret() -> None:
    result = await PAR(give("x" * 10**6), give({"api_key": "sk-abcdefghijklmnopqrstuvwxyz0123456789"})).run()
    html = result._repr_html_()
    assert len(html) < 20_000
    assert "sk-abcdefghijkl" not in html


async def test_of_many_results_a_notebook_shows_the_failures_and_counts_the_rest() -> None:
    result = await PAR(*[give(1)] * 100, boom, on_failure=FailurePolicy.COLLECT).run()
    html = html_table(result.results)
    assert "ValueError: boom" in html
    assert html.count("<td>done</td>") == 49
    assert "51 more" in html


# Failures ----------------------------------------------------------------------------------------


@Process
async def fails_half_way(ctx: ProcessContext) -> None:
    ctx.progress(1, 2, "half way")
    raise ValueError("no further")


async def test_a_failure_has_the_last_progress() -> None:
    result = await PAR(fails_half_way, boom, on_failure=FailurePolicy.COLLECT).run()
    first, second = result.failures
    assert first.last_progress == "1 of 2 half way"
    assert "Last progress: 1 of 2 half way" in first.detailed
    assert second.last_progress == ""


@pytest.mark.parametrize("done", [None, "a word", [1], float("nan"), 10**5000], ids=range(5))
async def test_whatever_a_process_says_of_its_progress_it_is_shown(done: Any) -> None:
    @Process
    async def says(ctx: ProcessContext) -> None:
        ctx.progress(done, done, "odd")
        raise ValueError("x")

    console = lines()
    with progress(console):
        result = await PAR(says, on_failure=FailurePolicy.COLLECT).run()
    assert result.failures[0].last_progress.endswith("odd")
    assert "says: " in shown(console)
    assert "failed: ValueError: x" in shown(console)


@pytest.mark.parametrize("total", ["a word", [1], float("nan"), float("inf"), 10**5000, -3, 0], ids=range(7))
@pytest.mark.parametrize("done", ["a word", [1], float("nan"), 10**5000, -1, 5], ids=range(6))
def test_whatever_a_process_says_of_its_progress_it_does_not_end_the_table(done: Any, total: Any) -> None:
    console = terminal()
    view = LiveView(console)
    view.on_event(Event("started", "says", "1"))
    view.on_event(Event("progress", "says", "1", done=done, total=total, note="odd"))
    console.print(view._draw())
    view.on_event(Event("ended", "says", "1", result=ProcessResult.ok(1)))
    console.print(view._draw())
    assert re.search(r"says +runs .*odd", shown(console))
    assert re.search(r"says +done", shown(console))


async def test_an_attempt_has_no_progress_of_the_one_before() -> None:
    @Process
    async def second_time(ctx: ProcessContext) -> None:
        if ctx.attempt == 1:
            ctx.progress(1, note="first")
        raise ValueError("x")

    result = await PAR(second_time, on_failure=FailurePolicy.retry(2, base_delay=0.001)).run()
    assert result.failures[0].last_progress == ""
