"""Timelines and reports of results: what they say, and that no name or error can break them."""

from __future__ import annotations

import asyncio
import gc
import pickle
import re
import weakref
from collections import Counter
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

import pytest
from rich.cells import cell_len

from stbass import ALT, PAR, SEQ, Chan, FailurePolicy, FailureReport, Guard, Placement, ProcessResult
from stbass._values.waits import MOST_WAITS, WaitTally
from stbass.process import Process, ProcessContext
from stbass.result import Failure, RetryPolicy, RunInfo, Span, Timeline
from stbass.runs import RunEvent

BEGAN = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOSTILE = "<b>&\x1b[31m|`\ud83d\n🎉 " + "x" * 10_000


@Process
async def nap(ctx: ProcessContext, seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


@Process
async def broken(ctx: ProcessContext) -> None:
    raise ValueError("no such page")


def _at(seconds: float) -> datetime:
    return BEGAN + timedelta(seconds=seconds)


def _ran(name: str, queued: float, started: float, ended: float, **fields: object) -> ProcessResult:
    span = timedelta(seconds=started - queued)
    run = RunInfo(name, "1", _at(started), _at(ended), span, **fields)  # type: ignore[arg-type]
    return ProcessResult(True, 1, None, _at(ended) - _at(started), run)


def _failed(name: str, error: BaseException, ended: float) -> ProcessResult:
    return ProcessResult(False, None, Failure(error, name, "2", None, _at(ended)))


AROUND = RunInfo("all", "0", BEGAN, _at(10))


async def test_it_says_how_long_each_waited_and_ran_and_how_it_ended() -> None:
    result = await PAR(
        nap(0), broken, nap(30), nap(30).with_name("next"), on_failure=FailurePolicy.COLLECT, deadline=0.5, limit=3
    ).run()
    timeline = result.timeline()
    # then every process has its span, in order, with its state
    assert [(span.name, span.state) for span in timeline.spans] == [
        ("nap", "done"),
        ("broken", "failed"),
        ("nap", "too late"),
        ("next", "too late"),
    ]
    assert timeline.spans[1].error == "ValueError: no such page"
    assert timeline.spans[2].ran >= timedelta(seconds=0.4)
    assert timeline.deadline_at is not None
    assert timeline.started_at is not None
    assert timedelta(seconds=0.4) < timeline.deadline_at - timeline.started_at < timedelta(seconds=0.6)
    assert re.fullmatch(r"4 processes in \d+(\.\d+)? m?s: 1 done, 1 failed, 2 too late", timeline.summary)


async def test_the_stages_of_a_sequence_do_not_wait_for_each_other() -> None:
    result = await SEQ(nap(0.05), nap(0.05).with_name("second")).run()
    assert [span.waited for span in result.timeline().spans] == [timedelta(), timedelta()]
    assert [span.name for span in result.timeline().spans] == ["nap", "second"]


async def test_what_ran_inside_of_a_composition_comes_after_it_named_by_its_path() -> None:
    inner = PAR(nap(0.05).with_name("left"), broken.optional()).with_name("both")
    failing = PAR(nap(0), broken, on_failure=FailurePolicy.COLLECT).with_name("bad")
    result = await PAR(SEQ(nap(0.05), inner).with_name("line"), failing, on_failure=FailurePolicy.COLLECT).run()
    spans = result.timeline().spans
    assert [(span.name, span.state) for span in spans] == [
        ("line", "done"),
        ("line/nap", "done"),
        ("line/both", "done"),
        ("line/both/left", "done"),
        ("line/both/broken", "failed"),
        ("bad", "failed"),
        ("bad/nap", "done"),
        ("bad/broken", "failed"),
    ]
    line, first, both, left = spans[:4]
    assert line.started_at is not None
    assert line.started_at <= first.queued_at < first.ended_at <= both.queued_at <= left.queued_at < left.ended_at
    assert first.waited == timedelta()
    assert len({span.process_id for span in spans}) == 8
    # Pools send results pickled.
    sent = pickle.loads(pickle.dumps(result.results[0]))
    assert Timeline.of([sent], result.run).spans == spans[:5]


async def test_of_a_long_path_the_end_is_shown() -> None:
    inner = SEQ(nap(0).with_name("summarise")).with_name("z" * 50)
    result = await PAR(SEQ(inner).with_name("y" * 50)).run()
    span = result.timeline().spans[-1]
    assert (len(span.name), span.name[:2], span.name[-12:]) == (60, "…z", "zz/summarise")
    assert "z/summarise " in result.timeline().to_text(80)
    assert "z/summarise<" in result.timeline().to_svg()


class _Large:
    """A value that knows whether it is kept."""


@Process
async def make_large(ctx: ProcessContext) -> _Large:
    return _Large()


@Process
async def watch(ctx: ProcessContext) -> weakref.ref[_Large]:
    return weakref.ref(await ctx.recv("input"))


async def test_what_was_passed_on_inside_of_a_composition_is_not_kept_for_its_timeline() -> None:
    result = await PAR(SEQ(make_large, watch)).run()
    gc.collect()
    assert result.value[0]() is None
    assert [span.name for span in result.timeline().spans] == ["SEQ", "SEQ/make_large", "SEQ/watch"]


async def test_of_a_composition_that_was_tried_again_the_last_attempt_is_shown() -> None:
    tried: list[int] = []

    @Process
    async def second_time(ctx: ProcessContext) -> None:
        tried.append(1)
        if len(tried) == 1:
            raise ValueError("not yet")

    policy = RetryPolicy(max_attempts=2, base_delay=0, jitter=0)
    result = await PAR(SEQ(second_time), on_failure=policy).run()
    assert [(span.name, span.attempt, span.state) for span in result.timeline().spans] == [
        ("SEQ", 2, "done"),
        ("SEQ/second_time", 1, "done"),
    ]


def test_text_has_a_bar_for_waiting_and_one_for_running() -> None:
    place = Placement(endpoint="anthropic")
    timeline = Timeline.of(
        [
            _ran("draft", 0, 5, 10, worker="w1@host", placement=place, attempt=2),
            _ran("check", 0, 0, 2.5),
            _failed("never", ValueError("gone"), 5),
        ],
        AROUND,
        deadline=7.5,
    )
    assert timeline.to_text(43).splitlines() == [
        "all: 3 processes in 10 s: 2 done, 1 failed",
        "draft ············█████████████        5 s",
        "check ███████           |            2.5 s",
        "never ············      |       ✗      5 s",
        "      ValueError: gone",
    ]
    assert timeline.spans[0].text == ("draft: done, waited 5 s, ran 5 s, attempt 2, @ anthropic, worker w1@host")
    assert timeline.spans[2].text == "never: failed, waited 5 s, never started, ValueError: gone"


def test_pictures_are_well_formed_whatever_the_names_and_errors_are() -> None:
    results = [_ran(HOSTILE, 0, 1, 2, worker=HOSTILE), _failed(HOSTILE, ValueError(f"{HOSTILE} password=hunter2"), 3)]
    timeline, report = Timeline.of(results, RunInfo(HOSTILE, "0", BEGAN, _at(3))), FailureReport.of(results)
    ElementTree.fromstring(timeline.to_svg())
    for page in (timeline.to_html(), report.to_html(), timeline._repr_html_(), report._repr_html_()):
        page.encode()
        assert "<b>" not in page
        assert "hunter2" not in page
        assert "\x1b" not in page
    for text in (timeline.to_text(80), report.to_markdown()):
        text.encode()
        assert "hunter2" not in text
        assert "\x1b" not in text
        assert max(map(len, timeline.to_text(80).splitlines()[1:])) <= 80


def test_a_picture_shows_on_a_bar_what_is_known_of_it() -> None:
    picture = ElementTree.fromstring(Timeline.of([_ran("draft", 0, 5, 10, worker="w1")], AROUND, 8).to_svg())
    spaces = {"svg": "http://www.w3.org/2000/svg"}
    titles = [found.text for found in picture.iterfind(".//svg:title", spaces)]
    assert titles == ["all: 1 process in 10 s: 1 done", "draft: done, waited 5 s, ran 5 s, worker w1", "the deadline"]
    widths = [float(found.attrib["width"]) for found in picture.iterfind(".//svg:rect", spaces)]
    assert widths == [350.0, 350.0]


# How wide letters of DejaVu Sans, one of the widest fonts that browsers take, are: of their size.
EMS = {"W": 0.99, "w": 0.82, "m": 0.97, "a": 0.61, "i": 0.28, "宽": 1.0, "🚀": 1.17, "…": 1.0, "/": 0.34}


@pytest.mark.parametrize("sign", ["W", "m", "a", "i", "宽", "🚀", "a/"])
def test_no_label_in_a_picture_reaches_the_bars(sign: str) -> None:
    spans = Timeline.of([_ran(sign * 60, 0, 1, 2, worker="w" * 60)], AROUND).spans
    picture = ElementTree.fromstring(Timeline(spans).to_svg())
    spaces = {"svg": "http://www.w3.org/2000/svg"}
    label = picture.find(".//svg:g/svg:text", spaces)
    bars = [float(found.attrib["x"]) for found in picture.iterfind(".//svg:rect", spaces)]
    assert label is not None
    assert label.text is not None
    assert label.text.startswith("…" if "/" in sign else sign)
    assert 4 + sum(EMS[one] * 11 for one in label.text if one != " ") < min(bars)


def test_a_terminal_is_not_too_narrow_for_wide_letters_and_errors() -> None:
    error = ValueError("宽" * 100)
    placed = Failure(error, "🚀 " * 30, "2", None, _at(2), Placement(endpoint="e" * 50))
    results = [_failed("宽" * 60, error, 1), ProcessResult(False, None, placed)]
    timeline = Timeline.of(results, RunInfo("all", "0", BEGAN, _at(3)))
    for width in (100, 60, 40, 32, 0):
        lines = timeline.to_text(width).splitlines()[1:]
        assert max(map(cell_len, lines)) <= max(width, 32)
        assert sum("ValueError: 宽" in line for line in lines) == (1 if width == 60 else 2)
        assert all("…" in line for line in lines)


def _told(*events: tuple[str, str, str, str | None]) -> list[RunEvent]:
    """Events, a second apart: what happened, to which path, whose id it is, and the error."""
    return [
        RunEvent(str(number), kind, None, path.rpartition("/")[2], path, one, "w", 1, _at(number), error)  # type: ignore[arg-type]
        for number, (kind, path, one, error) in enumerate(events)
    ]


def test_what_is_inside_of_what_has_ended_runs_no_more() -> None:
    # given a run that is cancelled while a composition in it runs, whose members tell nothing of it
    events = _told(
        ("started", "all", "1", None),
        ("started", "all/PAR", "2", None),
        ("queued", "all/PAR/a", "3", None),
        ("started", "all/PAR/b", "4", None),
        ("ended", "all/PAR/b", "4", "[b] ValueError: x"),
        ("started", "all/PAR/c", "5", None),
        ("ended", "all", "1", "[all] ProcessCancelled: told to"),
    )
    spans = Timeline.of_events(events).spans
    assert [(one.name, one.state, one.ended_at) for one in spans] == [
        ("all", "cancelled", _at(6)),
        ("all/PAR", "cancelled", _at(6)),
        ("all/PAR/a", "cancelled", _at(6)),
        ("all/PAR/b", "failed", _at(4)),
        ("all/PAR/c", "cancelled", _at(6)),
    ]
    assert spans[2].started_at is None
    # while it goes on, they run
    assert [one.state for one in Timeline.of_events(events[:-1]).spans] == ["running"] * 3 + ["failed", "running"]


def test_what_a_worker_ran_that_was_lost_ended_with_it() -> None:
    events = _told(
        ("started", "all", "1", None),
        ("started", "all/a", "2", None),
        ("retried", "all", "1", None),
        ("started", "all", "1", None),
        ("started", "all/a", "3", None),
        ("ended", "all", "1", "[all] WorkerLostError: it died"),
    )
    spans = Timeline.of_events(events).spans
    assert [(one.process_id, one.state, one.ended_at, one.error) for one in spans[1:]] == [
        ("2", "failed", _at(2), "its worker was lost"),
        ("3", "failed", _at(5), "its worker was lost"),
    ]


def test_of_two_of_one_name_nobody_knows_whose_parts_have_ended() -> None:
    events = _told(
        ("started", "all", "1", None),
        ("started", "all/PAR", "2", None),
        ("started", "all/PAR", "3", None),
        ("started", "all/PAR/a", "4", None),
        ("ended", "all/PAR", "2", None),
    )
    assert [one.state for one in Timeline.of_events(events).spans] == ["running", "done", "running", "running"]


def test_the_timeline_of_very_many_that_are_under_way_takes_no_time_that_grows_with_their_square() -> None:
    # given 10,000 replicas of one name, each with a part that runs: looking at each pair would take minutes
    events = _told(
        ("started", "all", "0", None),
        *(("started", "all/PAR", f"{number}", None) for number in range(1, 10_001)),
        *(("ended", "all/PAR", f"{number}", None) for number in range(1, 10_001)),
        *(("started", "all/PAR/a", f"a{number}", None) for number in range(10_000)),
        ("ended", "all", "0", None),
    )
    states = Counter(one.state for one in Timeline.of_events(events).spans)
    assert states == {"done": 10_001, "cancelled": 10_000}


def test_of_very_many_those_that_failed_and_the_longest_are_shown() -> None:
    results = [_ran(f"p{number}", 0, 0, 1 + number / 10_000) for number in range(9_999)]
    results.insert(5_000, _failed("bad", ValueError("gone"), 0.5))
    timeline = Timeline.of(results, AROUND)
    lines = timeline.to_text(100, most=3).splitlines()
    assert [line.split()[0] for line in lines if "█" in line or "·" in line] == ["bad", "p9997", "p9998"]
    assert lines[-1] == "and 9,997 more: 9,997 done"
    assert len(timeline.to_html()) < 3_000_000
    assert "and 9,000 more: 9,000 done" in timeline.to_html()


def test_nothing_and_no_time_at_all() -> None:
    nothing = Timeline([])
    assert (nothing.to_text(80), repr(nothing)) == ("nothing ran", "<Timeline: nothing ran>")
    ElementTree.fromstring(nothing.to_svg())
    # One of which nobody knows when it ran is left out.
    assert Timeline.of([ProcessResult.ok(1)]).spans == ()
    moment = Span("p", "1", "", 1, BEGAN, BEGAN, BEGAN, "done")
    assert "1 process in 0 s: 1 done" in Timeline([moment]).to_text(80)
    ElementTree.fromstring(Timeline([moment]).to_svg())


async def test_a_notebook_shows_results_as_a_picture_and_a_table() -> None:
    result = await PAR(nap(0), broken, on_failure=FailurePolicy.COLLECT).run()
    shown = result._repr_html_()
    assert "<svg" in shown
    assert "<td>ValueError: no such page</td>" in shown


def test_a_report_as_markdown_says_who_failed_where_and_what_to_do() -> None:
    place = Placement(endpoint="anthropic", model="opus")
    failures = [
        ProcessResult(False, None, Failure(ValueError("a|b"), "fetch", "1", BEGAN, BEGAN, place)) for _ in range(2)
    ]
    assert FailureReport.of([ProcessResult.ok(1), *failures]).to_markdown().splitlines()[:6] == [
        "3 processes: 1 succeeded, 2 failed",
        "",
        "| Process | Error | Where |",
        "| --- | --- | --- |",
        "| fetch | ValueError: a\\|b | opus \\@ anthropic |",
        "| fetch | ValueError: a\\|b | opus \\@ anthropic |",
    ]


def test_a_report_and_a_failure_in_a_terminal_are_text_and_nothing_else() -> None:
    failure = Failure(ValueError("\x1b[2J two\nlines\x9b \ud83d"), "a\x1b]0;name\x07\r", "1", BEGAN, BEGAN)
    assert failure.summary.isprintable()
    report = FailureReport.of([ProcessResult(False, None, failure)])
    said = report.summary().splitlines()
    assert all(line.isprintable() for line in said)
    assert "ValueError:  [2J two lines" in said[-1]


# Waits in channels -------------------------------------------------------------------------------


@Process
async def waits_three_times(ctx: ProcessContext) -> None:
    channel = ctx.get_channel("channel")
    await channel.recv()
    await ALT(Guard(channel))
    await channel.send(3)


@Process
async def keeps_it_waiting(ctx: ProcessContext) -> None:
    channel = ctx.get_channel("channel")
    for sends in (True, True, False):
        await (channel.writable() if sends else channel.readable())
        await asyncio.sleep(0.05)
        await (channel.send(1) if sends else channel.recv())


async def test_a_timeline_shows_what_waited_in_a_channel() -> None:
    # given a process that waits in a receive, a choice and a send, at somebody who does not
    numbers: Chan[int] = Chan(int, name="numbers")
    result = await PAR(
        waits_three_times.with_channels(channel=numbers), keeps_it_waiting.with_channels(channel=numbers)
    ).run()
    # when its timeline is drawn
    timeline = result.timeline()
    # then its waits are there, apart from the time that it ran
    waits = timeline.spans[0].waits
    assert waits is not None
    assert [(one.channel, one.direction) for one in waits.longest] == [
        ("numbers", direction) for direction in ("receive", "choose", "send")
    ]
    assert all(one.seconds >= 0.045 for one in waits.longest)
    assert waits.count == 3
    assert waits.seconds == sum(one.seconds for one in waits.longest)
    first, second, third = timeline.spans[0].in_channels
    assert timeline.spans[0].started_at <= first[0] < first[1] <= second[0] < second[1] <= third[0]  # type: ignore[operator]
    bar = timeline.to_text(100).splitlines()[1]
    assert bar.count("░") > 30
    assert "of it in channels (3 times; longest" in timeline.spans[0].text
    ElementTree.fromstring(timeline.to_svg())
    assert timeline.to_svg().count('stroke-width="6"') >= 1


async def test_the_wait_of_a_choice_that_is_awaited_again_names_its_channels() -> None:
    @Process
    async def chooses_twice(ctx: ProcessContext) -> None:
        choice = ALT(Guard(ctx.get_channel("one")), Guard(ctx.get_channel("other")))
        await choice
        await choice

    @Process
    async def keeps_the_choice_waiting(ctx: ProcessContext) -> None:
        for name in ("one", "other"):
            await ctx.get_channel(name).writable()
            await asyncio.sleep(0.05)
            await ctx.send(name, 1)

    bound: dict[str, Chan[int]] = {"one": Chan(int, name="one"), "other": Chan(int, name="other")}
    result = await PAR(chooses_twice.with_channels(**bound), keeps_the_choice_waiting.with_channels(**bound)).run()
    waits = result.timeline().spans[0].waits
    assert waits is not None
    assert [(one.channel, one.direction) for one in waits.longest] == [("one, other", "choose")] * 2


async def test_what_need_not_wait_in_channels_has_waited_in_none() -> None:
    ahead: Chan[int] = Chan(int, capacity=2)

    @Process
    async def sends_and_receives(ctx: ProcessContext) -> None:
        await ctx.send("ahead", 1)
        await ctx.get_channel("ahead").recv()

    result = await PAR(sends_and_receives.with_channels(ahead=ahead)).run()
    assert result.timeline().spans[0].waits is None


def test_of_very_many_waits_the_longest_are_kept_apart_and_the_rest_is_a_sum() -> None:
    tally = WaitTally()
    for number in range(10_000):
        tally.add(HOSTILE, "receive", number * 2.0, 0.5 + number % 100)
    waits = tally.so_far()
    assert (waits.count, len(waits.longest)) == (10_000, MOST_WAITS)
    assert waits.seconds == 10_000 * 0.5 + 100 * sum(range(100))
    assert {one.seconds for one in waits.longest} == {99.5}
    assert [one.began for one in waits.longest] == sorted(one.began for one in waits.longest)
    # and no name of a channel breaks a drawing
    run = RunInfo("process", "1", _at(0), _at(20_000), waits=waits)
    timeline = Timeline.of([ProcessResult(True, 1, None, timedelta(seconds=20_000), run)])
    ElementTree.fromstring(timeline.to_svg())
    assert "\x1b" not in timeline.to_html()
    assert len(timeline.spans[0].text) < 300


async def test_a_wait_that_a_cancellation_ends_is_there_too() -> None:
    @Process
    async def waits_in_vain(ctx: ProcessContext) -> None:
        await ctx.recv("silent")

    silent: Chan[int] = Chan(int, name="silent")
    silent.mark_outside()
    result = await PAR(waits_in_vain.with_channels(silent=silent), deadline=0.1, on_failure=FailurePolicy.COLLECT).run()
    [span] = result.timeline().spans
    assert span.state == "too late"
    assert span.waits is not None
    assert [one.channel for one in span.waits.longest] == ["silent"]
