"""How a soak counts."""

from __future__ import annotations

import pytest

from tests.soak.faults import Harm
from tests.soak.tally import Pipeline, Tally
from tests.soak.work import Noted

LEASE = 5.0


RUNS = [
    Noted("start", "job", 1, 1, 98.0),
    Noted("end", "job", 1, 1, 100.0),
    Noted("start", "job", 2, 3, 105.0),
    Noted("end", "job", 2, 3, 106.0),
]
TROUBLE = Harm("writes refused", 0, 99.0, 103.0)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (Harm("killed", 1, 100.5, 100.6), "its worker was killed before it was stored"),
        (Harm("paused", 1, 90.0, 99.9), "its worker was paused for longer than the lease before it was stored"),
        (Harm("killed", 1, 110.0, 110.1), "without a reason"),
        (Harm("killed", 1, 90.0, 90.1), "without a reason"),
        (Harm("killed", 2, 100.5, 100.6), "without a reason"),
        (Harm("paused", 1, 99.0, 100.5), "without a reason"),
        (Harm("stopped", 1, 99.0, 101.0), "without a reason"),
    ],
)
def test_what_ran_to_its_end_twice_has_a_reason_or_not(harm: Harm, reason: str) -> None:
    tally = Tally(LEASE, stored={"job": 2})
    tally.explain(RUNS, [harm], [])
    assert dict(tally.ended_twice) == {reason: 1}
    assert bool(tally.faults()) == (reason == "without a reason")


def test_what_ran_to_its_end_once_needs_none() -> None:
    tally = Tally(LEASE)
    tally.explain(RUNS[:2], [Harm("killed", 1, 100.5, 100.6)], [])
    assert not tally.ended_twice


def test_a_worker_that_is_stopped_stores_first_if_it_can() -> None:
    tally = Tally(LEASE)
    tally.stored["job"] = 2
    tally.explain(RUNS, [Harm("stopped", 1, 99.0, 101.0)], [TROUBLE])
    [reason] = tally.ended_twice
    assert "stopped before it was stored, while Redis" in reason


def test_each_fault_is_told() -> None:
    tally = Tally(LEASE, sent=4, failures=["one"], hung=1, broken=["jobs"])
    tally.results.update({"a": 1, "b": 2})
    tally.pipelines = [Pipeline(5, [0, 2, 1, 1]), Pipeline(1, [0], ended=True)]
    assert tally.faults() == [
        "2 processes without a result",
        "1 results too many",
        "1 processes that failed",
        "1 processes that hung",
        "1 parts of the producer that failed or did not end",
        "2 values lost",
        "1 values doubled",
        "1 pipelines that did not end",
        "a pipeline not in order: [0, 2, 1, 1]",
    ]
