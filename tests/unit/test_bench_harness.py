"""The benchmarks' harness: statistics, ratios, targets and tables. What they measure is never asserted."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

from benchmarks import charts, harness
from benchmarks.__main__ import run_all
from benchmarks.charts import chart
from benchmarks.fleet import steepest
from benchmarks.harness import Journal, Row, Sample, SubjectFailed, median_alternating
from benchmarks.peers.driver import percentile
from benchmarks.quiet import CpuTimes, busy_limit, foreign_share, process_tree, read_cpu
from benchmarks.report import plain_table, section_of, write_markdown
from benchmarks.targets import TARGETS, WORK, advantage, is_ours, reached


@pytest.fixture(autouse=True)
def _any_machine_is_quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Readings that say that nobody else runs, so that a test depends on no machine."""
    ticks = iter(range(0, 10_000_000, 100))
    monkeypatch.setattr(harness, "wait_until_quiet", lambda patience: 0.0)
    monkeypatch.setattr(harness, "read_cpu", lambda: CpuTimes(next(ticks), 0, 0))
    harness.journal.clear()
    yield
    harness.journal.clear()


def _from(values: list[float], calls: list[str], name: str) -> Callable[[], float]:
    given = iter(values)

    def measure() -> float:
        calls.append(name)
        return next(given)

    return measure


# Sampling ----------------------------------------------------------------------------------------


def test_subjects_are_sampled_in_turn_and_medians_given_back() -> None:
    # given two subjects
    calls: list[str] = []
    subjects = {"a": _from([5, 1, 3], calls, "a"), "b": _from([20, 60, 40], calls, "b")}
    # when they are sampled three times
    medians = median_alternating(subjects, rounds=3)
    # then neither had all of its samples before the other
    assert calls == ["a", "b", "a", "b", "a", "b"]
    assert medians == {"a": 3, "b": 40}
    assert [sample.value for sample in harness.journal.samples] == [5, 20, 1, 60, 3, 40]


def test_the_command_line_says_how_many_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    # given a command line that asked for two rounds
    monkeypatch.setattr(harness.options, "rounds", 2)
    calls: list[str] = []
    # when a benchmark does not say how many it wants
    median_alternating({"a": _from([1, 2], calls, "a")})
    # then it has two
    assert len(calls) == 2


def test_a_subject_that_fails_twice_is_left_alone_and_reported() -> None:
    # given a subject that fails whenever it is sampled
    def fail() -> float:
        calls.append("bad")
        raise SubjectFailed("no such server")

    calls: list[str] = []
    # when it is sampled beside a good one
    medians = median_alternating({"bad": fail, "good": _from([1, 2, 3], calls, "good")}, rounds=3)
    # then the good one has all its samples, and the failures are not forgotten
    assert medians == {"good": 2}
    assert calls.count("bad") == 2
    assert harness.journal.failures == {"bad": ["no such server"] * 2}


def test_one_failure_costs_a_subject_one_sample() -> None:
    # given a subject that fails the first time
    def measure() -> float:
        calls.append("a")
        if len(calls) == 1:
            raise SubjectFailed("lost a task")
        return float(len(calls))

    calls: list[str] = []
    # when it is sampled three times, then the other two count
    assert median_alternating({"a": measure}, rounds=3) == {"a": 2.5}
    assert harness.journal.failures == {"a": ["lost a task"]}


def test_what_takes_long_has_fewer_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    # given a subject that is slow but for its third sample, and one that is slow but for its second
    monkeypatch.setattr(harness, "LONG", 20.0)
    now = 0.0
    monkeypatch.setattr(harness, "time", SimpleNamespace(monotonic=lambda: now))

    def lasting(*seconds: float) -> Callable[[], float]:
        lasts = iter(seconds)

        def measure() -> float:
            nonlocal now
            took = next(lasts)
            now += took
            return took

        return measure

    subjects = {"slow": lasting(50, 21, 60), "slow at first": lasting(50, 1, 50, 1, 1)}
    # when they are to be sampled five times
    medians = median_alternating(subjects, rounds=5)
    # then the first has three samples, and the other five: making its environment was no part of what it takes
    assert harness.journal.count("slow") == 3
    assert medians == {"slow": 50, "slow at first": 1}


def test_a_machine_that_is_never_quiet_costs_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    # given others that are always at work, and 30 seconds to wait for them, 20 before each sample
    readings = iter(range(0, 10_000, 100))
    monkeypatch.setattr(harness, "read_cpu", lambda: CpuTimes(at := next(readings), at, 0))
    monkeypatch.setattr(harness, "options", harness.Options(spare=30.0))
    patience: list[float] = []

    def waited(seconds: float) -> float:
        patience.append(seconds)
        return seconds

    monkeypatch.setattr(harness, "wait_until_quiet", waited)
    # when a subject is sampled three times
    median_alternating({"a": _from([1, 2, 3, 4], [], "a")}, rounds=3)
    # then the first sample was taken once more, and nothing after that waited
    assert patience == [20, 10, 0, 0]
    assert [sample.busy for sample in harness.journal.samples] == [True] * 3


def test_an_error_of_the_benchmark_itself_is_not_swallowed() -> None:
    # given a benchmark with a mistake in it
    def broken() -> float:
        raise ZeroDivisionError

    # when it is sampled, then the mistake comes out
    with pytest.raises(ZeroDivisionError):
        median_alternating({"broken": broken}, rounds=1)


def test_a_disturbed_sample_is_taken_again_and_the_quieter_one_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    # given others at work during the first sample and not during the second
    readings = iter([CpuTimes(0, 0, 0), CpuTimes(100, 50, 0), CpuTimes(200, 50, 0), CpuTimes(300, 50, 0)])
    monkeypatch.setattr(harness, "read_cpu", lambda: next(readings))
    # when a subject is sampled once
    medians = median_alternating({"a": _from([9, 1], [], "a")}, rounds=1)
    # then the second counts
    assert medians == {"a": 1}
    assert [sample.busy for sample in harness.journal.samples] == [False]


def test_disturbed_samples_count_only_when_there_are_no_others() -> None:
    # given samples of which one was disturbed, and samples that all were
    mixed = [Sample("a", 1, 0.0, False), Sample("a", 100, 0.9, True), Sample("a", 3, 0.0, False)]
    all_disturbed = [Sample("a", 5, 0.9, True), Sample("a", 7, 0.9, True)]
    # then their medians are those of what can be trusted most
    assert harness.median(mixed) == 2
    assert harness.median(all_disturbed) == 6


@pytest.mark.parametrize(("share", "expected"), [(0.5, 150), (0.99, 297), (1.0, 300)])
def test_percentile(share: float, expected: float) -> None:
    # given 300 values out of order, then the percentile is one of them
    assert percentile([float(value) for value in range(300, 0, -1)], share) == expected


def test_growth_is_found_wherever_it_is() -> None:
    # given costs that fall and then grow, only grow, and only fall
    assert steepest([100, 10, 5, 20]) == 4
    assert steepest([1, 2, 3]) == 3
    assert steepest([3, 2, 1]) == 1


# A quiet machine ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("used", "own", "expected"),
    [
        pytest.param(50, 50, 0.0, id="all of it ours"),
        pytest.param(50, 20, 0.3, id="the rest is foreign"),
        pytest.param(50, 53, 0.0, id="ours counted more finely than the machine"),
    ],
)
def test_foreign_share(used: int, own: int, expected: float) -> None:
    assert foreign_share(CpuTimes(1000, 400, 300), CpuTimes(1100, 400 + used, 300 + own)) == pytest.approx(expected)


def test_no_time_between_two_readings_is_no_foreign_work() -> None:
    assert foreign_share(CpuTimes(10, 5, 1), CpuTimes(10, 5, 1)) == 0.0


def test_a_short_sample_is_judged_less_strictly_than_a_long_one() -> None:
    # given windows of 10 and of 1,000 ticks, of which some are always miscounted
    assert busy_limit(CpuTimes(0, 0, 0), CpuTimes(10, 0, 0)) > busy_limit(CpuTimes(0, 0, 0), CpuTimes(1000, 0, 0))


def test_a_process_tree_holds_all_descendants_and_nobody_else() -> None:
    # given 1 → 2 → 3, 2 → 4, and 1 → 5
    assert process_tree({1: 0, 2: 1, 3: 2, 4: 2, 5: 1}, 2) == {2, 3, 4}


def test_what_this_process_uses_is_its_own() -> None:
    # given a reading, when this process has worked for some ticks, then they are counted as its own
    before = read_cpu()
    end = os.times().user + 0.1
    while os.times().user < end:
        sum(range(1000))
    assert read_cpu().own >= before.own + 5


# Ratios and targets ------------------------------------------------------------------------------


def test_a_shorter_time_is_the_better_one() -> None:
    ours, peer = Row("F1", "stbass", 0.5, "s", False), Row("F1", "peer", 2.0, "s", False)
    assert advantage(ours, peer) == 4
    assert advantage(peer, ours) == 0.25


def test_a_higher_rate_is_the_better_one() -> None:
    ours, peer = Row("C1", "stbass", 200, "values/s"), Row("C1", "peer", 100, "values/s")
    assert advantage(ours, peer) == 2


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        ("stbass", True),
        ("stbass, two workers", True),
        ("stbassoon", False),
        ("stbass 0.1.1", False),
        ("stock Celery", False),
    ],
)
def test_what_is_ours(subject: str, expected: bool) -> None:
    assert is_ours(Row("F1", subject, 1, "s")) is expected


@pytest.mark.parametrize(
    ("ours", "huey", "expected"),
    [
        pytest.param(0.15, 0.4, True, id="fifteen times stock and ahead of all"),
        pytest.param(0.15, 0.1, False, id="behind another"),
        pytest.param(0.3, 0.9, False, id="less than fifteen times stock"),
    ],
)
def test_the_target_of_the_fleet(ours: float, huey: float, expected: bool) -> None:
    # given stock Celery at 2.5 s
    rows = [
        Row("F1", "stbass", ours, "s", False),
        Row("F1", "stock Celery prefork 2", 2.5, "s", False),
        Row("F1", "huey", huey, "s", False),
    ]
    assert reached("F1", rows) is expected


def test_a_target_that_lacks_its_peer_is_neither_reached_nor_missed() -> None:
    # given ours alone: nothing to be fifteen times faster than
    assert reached("F1", [Row("F1", "stbass", 0.1, "s", False)]) is None
    # and a benchmark without a target
    assert reached("Z9", [Row("Z9", "stbass", 0.1, "s", False)]) is None


def test_an_absolute_target_needs_no_peer() -> None:
    assert reached("F5", [Row("F5", "stbass", 12, "ms", False)]) is True
    assert reached("F5", [Row("F5", "stbass", 25, "ms", False)]) is False


def test_every_target_belongs_to_a_benchmark_that_is_described() -> None:
    assert {bench.split()[0] for bench in TARGETS} <= set(WORK)


# Tables ------------------------------------------------------------------------------------------


def _rows() -> list[Row]:
    return [
        Row("F5", "stock Celery threads 100", 5000, "ms", False),
        Row("F5", "stbass", 10, "ms", False, "a | b"),
    ]


def test_a_section_has_ours_first_with_target_and_verdict() -> None:
    # given two rows and a journal with one disturbed sample of ours
    journal = Journal([Sample("stbass", 10, 0.01, False), Sample("stbass", 30, 0.4, True)])
    # when they are set against each other
    section = section_of("F5", _rows(), journal)
    # then
    ours, peer = section.lines
    assert ours == (
        "F5",
        "stbass",
        "10 ms",
        "",
        "≤ 20 ms",
        "yes",
        "2, foreign CPU ≤ 40%, 1 while busy left out",
        "a | b",
    )
    assert peer[:4] == ("F5", "stock Celery threads 100", "5,000 ms", "500 x better")
    assert not section.missed
    assert section.remarks == [
        "2 samples, 1 of them taken while the machine was busy; others used at most 40% of it during a sample."
    ]


def test_a_missed_target_and_a_faster_peer_are_said() -> None:
    rows = [Row("F5", "stbass", 40, "ms", False), Row("F5", "peer", 10, "ms", False)]
    section = section_of("F5", rows, Journal())
    assert section.missed
    assert section.lines[0][5] == "NO"
    assert section.lines[1][3] == "4 x WORSE"


def test_a_subject_that_could_not_be_measured_is_said(tmp_path: Path) -> None:
    # given a peer that failed each time, beside two that were measured, and one that failed once
    journal = Journal(
        [Sample("arq", 10, 0.0, False)], failures={"huey": ["no such module"] * 2, "arq": ["lost a task"]}
    )
    # when the page is written
    section = section_of("F5", _rows(), journal)
    page = tmp_path / "results.md"
    write_markdown(page, [section], {}, "1 round")
    # then the first has a line of its own, which no chart takes for a figure
    assert section.lines[-1] == ("F5", "huey", "did not run", "", "", "", "", "no such module")
    assert section.remarks[0] == "arq failed 1 times beside 1 samples: lost a task"
    drawn = chart(page.read_text(), "F5")
    assert "huey did not run: no such module" in drawn
    assert drawn.count("<rect") == 2


@pytest.mark.parametrize(("subject", "sound"), [("stbass, two workers", False), ("huey", True)])
def test_only_what_is_missing_of_ours_makes_a_run_unsound(subject: str, sound: bool) -> None:
    # given a benchmark in which one subject fails
    def bench() -> list[Row]:
        harness.journal.failures[subject] = ["no such module"]
        return _rows()

    # when it runs, then it is sound unless that was one of ours
    assert run_all({"F5": bench})[1] is sound


def test_a_run_that_is_ended_keeps_what_it_has_measured(tmp_path: Path) -> None:
    # given a benchmark that measured something, and one that is interrupted
    def measured() -> list[Row]:
        harness.versions["huey"] = "3.5"
        return _rows()

    def interrupted() -> list[Row]:
        raise KeyboardInterrupt

    page = tmp_path / "results.md"
    # when they run one after the other
    with pytest.raises(KeyboardInterrupt):
        run_all({"F5": measured, "F8": interrupted}, page)
    # then the first is on the page
    assert "## F5" in page.read_text()
    # and a section names the versions of what it measured, and of nothing before it
    run_all({"P1": _rows}, page)
    _, _, of_the_last = page.read_text().partition("## P1")
    assert "stbass-celery" in of_the_last
    assert "huey" not in of_the_last


def test_columns_are_aligned() -> None:
    text = plain_table(section_of("F5", _rows(), Journal()).lines)
    headings, first, second = text.splitlines()
    assert headings.index("figure") == first.index("10 ms") == second.index("5,000 ms")


def test_the_page_keeps_what_was_not_measured_again(tmp_path: Path) -> None:
    # given a page with F5 and P1
    page = tmp_path / "results.md"
    first = section_of("F5", _rows(), Journal())
    other = section_of("P1", [Row("P1", "TaskGroup", 5, "µs each", False)], Journal())
    write_markdown(page, [other, first], {"celery": "5.7.0"}, "5 rounds")
    # when F5 alone is measured again
    again = section_of("F5", [Row("F5", "stbass", 7, "ms", False)], Journal())
    write_markdown(page, [again], {"celery": "5.8.0"}, "3 rounds")
    # then its section is the new one, the other is as it was, in the order of the targets
    text = page.read_text()
    assert text.index("## F5") < text.index("## P1")
    assert text.count("## F5") == 1
    assert "7 ms" in text
    assert "5,000 ms" not in text
    assert "celery 5.7.0" in text
    assert "celery 5.8.0" in text
    assert "cores" in text


def test_the_page_begins_with_every_target_and_whether_it_is_reached(tmp_path: Path) -> None:
    # given a page with F5 and W1, which has no target
    page = tmp_path / "results.md"
    of_wire = section_of("W1", [Row("W1 chat read", "stbass", 1, "ms", False)], Journal())
    write_markdown(page, [section_of("F5", _rows(), Journal()), of_wire], {}, "1 round")
    # when F5 is measured again, and worse
    write_markdown(page, [section_of("F5", [Row("F5", "stbass", 25, "ms", False)], Journal())], {}, "1 round")
    # then the first table has it once, with the last figure
    text = page.read_text()
    first = text[text.index("## Targets") : text.index("## F5")]
    assert [line for line in first.splitlines() if line.startswith("| F")] == ["| F5 | 25 ms | ≤ 20 ms | NO |"]
    assert "W1" not in first
    assert text.count("## Targets") == 1


def test_the_page_escapes_what_would_break_its_table(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    write_markdown(page, [section_of("F5", _rows(), Journal())], {}, "1 round")
    assert "a \\| b" in page.read_text()


def test_a_chart_has_a_bar_for_each_subject_and_says_where_and_when(tmp_path: Path) -> None:
    # given what was measured, of two benches, with a peer whose name has to be escaped
    page = tmp_path / "results.md"
    rows = [
        Row("F2 median", "stbass", 2.0, "ms", False),
        Row("F2 median", "a|b <c>", 8.0, "ms", False),
        Row("F2 p99", "stbass", 1500.0, "ms", False),
    ]
    write_markdown(page, [section_of("F2", rows, Journal())], {"celery": "5.7.0"}, "5 rounds")
    # when
    drawn = ElementTree.fromstring(chart(page.read_text(), "F2"))
    # then
    name = "{http://www.w3.org/2000/svg}"
    bars = [(round(float(bar.attrib["width"])), bar.attrib["fill"]) for bar in drawn.iter(f"{name}rect")]
    ours = bars[0][1]
    assert [(width, colour == ours) for width, colour in bars] == [(82, True), (330, False), (330, True)]
    texts = " ".join(text.text or "" for text in drawn.iter(f"{name}text"))
    for part in (
        "F2 median, ms",
        "a|b <c> 8 (ours is 4 x better)",
        "F2 p99, ms",
        "1,500",
        "cores",
        str(date.today().year),
    ):
        assert part in texts
    with pytest.raises(LookupError, match="python -m benchmarks F1 measures it"):
        chart(page.read_text(), "F1")


def test_a_chart_in_a_file_of_its_own_can_be_read_on_any_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a page of results
    page, picture = tmp_path / "results.md", tmp_path / "f5.svg"
    write_markdown(page, [section_of("F5", _rows(), Journal())], {}, "1 round")
    monkeypatch.setattr(charts, "RESULTS", page)
    monkeypatch.setattr(sys, "argv", ["charts", "F5", str(picture)])
    # when its chart is written
    charts.main()
    # then it has a ground of its own
    ground = ElementTree.parse(picture).getroot()[0]
    assert (ground.attrib["width"], ground.attrib["fill"]) == ("100%", "#fff")


# Drivers -----------------------------------------------------------------------------------------


def test_the_versions_of_what_is_measured_can_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_REDIS_URL", "redis://127.0.0.1:1/0")
    from benchmarks.ours import Ours

    assert all(version(name) for name in Ours.packages)
