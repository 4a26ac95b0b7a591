"""What a fleet carries, computed from what one process costs."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.growth import Costs, Fleet, carried, costs_of, growth_table
from benchmarks.harness import Journal, Row
from benchmarks.report import section_of, write_markdown

COSTS = Costs(producer=100e-6, server=50e-6, worker=200e-6)


@pytest.mark.parametrize(
    ("fleet", "rate"),
    [
        pytest.param(Fleet(1, 1, 1), 5_000, id="one worker"),
        pytest.param(Fleet(1, 1, 10), 10_000, id="one producer"),
        pytest.param(Fleet(10, 1, 100), 20_000, id="one server"),
        pytest.param(Fleet(100, 10, 1000), 200_000, id="ten servers"),
    ],
)
def test_many_in_flight_fill_the_part_that_is_full_first(fleet: Fleet, rate: float) -> None:
    found, _ = carried(COSTS, fleet, 50_000, 0.0)
    assert found == pytest.approx(rate, rel=0.03)
    assert found <= rate


def test_one_in_flight_waits_for_nobody() -> None:
    assert carried(COSTS, Fleet(3, 2, 5), 1, 0.0)[1] == pytest.approx(350e-6)


def test_as_many_are_in_flight_as_end_in_the_time_that_each_is_under_way() -> None:
    rate, under_way = carried(COSTS, Fleet(2, 1, 4), 1_000, 0.5)
    assert rate * under_way == pytest.approx(1_000)
    assert under_way > 0.5


def test_what_waits_long_is_limited_by_how_many_wait() -> None:
    assert carried(COSTS, Fleet(1, 1, 1), 100, 10.0)[0] == pytest.approx(10, rel=0.01)


def test_the_table_is_made_of_what_the_benchmark_wrote(tmp_path: Path) -> None:
    # given a page of results as the benchmark writes it
    figures = {"producer": 100.0, "worker": 1200.0, "server": 50.0}
    rows = [Row(f"G1 {part} CPU", "stbass", value, "µs", False) for part, value in figures.items()]
    page = tmp_path / "results.md"
    write_markdown(page, [section_of("G1", rows, Journal())], {}, "1 round")
    # when its costs are read
    costs = costs_of(page.read_text())
    # then they are the ones that were written, and one worker is the narrow place until there are more
    assert (costs.producer, costs.server, costs.worker) == pytest.approx((100e-6, 50e-6, 1200e-6))
    lines = growth_table(costs).splitlines()
    assert lines[2].startswith("| 1 | 1 | 1 | 833/s |")
    assert lines[2].endswith("| workers |")
    assert lines[5].startswith("| 10 | 1 | 100 |")
    assert lines[5].endswith("| servers |")


def test_costs_that_were_not_measured_are_said() -> None:
    with pytest.raises(LookupError, match="python -m benchmarks G1 measures it"):
        costs_of("# Benchmarks\n")
