"""Outcomes: results, failures, policies, reports."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, is_dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stbass import Failure, FailurePolicy, FailureReport, Placement, ProcessResult
from stbass.result import RetryPolicy, RunInfo
from stbass.timer import TimerExpired

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def failed(name: str, error: BaseException, at: float = 0.0, started: float | None = None) -> ProcessResult:
    return ProcessResult.fail(
        error,
        process_name=name,
        failed_at=NOON + timedelta(seconds=at),
        started_at=None if started is None else NOON + timedelta(seconds=started),
    )


# Results -----------------------------------------------------------------------------------------


def test_a_success() -> None:
    result = ProcessResult.ok(3)
    assert (result.is_ok, result.is_fail, result.value) == (True, False, 3)
    assert (result.elapsed, result.run) == (None, None)
    with pytest.raises(AttributeError, match="success"):
        _ = result.failure
    assert ProcessResult.ok().value is None


def test_a_failure_raises_its_error_as_value() -> None:
    error = ValueError("x")
    result = ProcessResult.fail(error, process_name="p", checkpoint=1)
    assert (result.is_ok, result.is_fail) == (False, True)
    assert (result.failure.error, result.failure.process_name, result.failure.checkpoint) == (error, "p", 1)
    with pytest.raises(ValueError, match="x") as raised:
        _ = result.value
    assert raised.value is error


def test_a_failure_needs_an_exception_and_known_fields() -> None:
    with pytest.raises(TypeError, match="RuntimeError"):
        ProcessResult.fail("text")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        ProcessResult.fail(ValueError(), nonsense=1)


def test_results_are_frozen_dataclasses_equal_by_content() -> None:
    result = ProcessResult.ok([1])
    assert is_dataclass(result)
    with pytest.raises(FrozenInstanceError):
        result.value = 3  # type: ignore[misc, assignment]
    assert result == ProcessResult.ok([1])
    assert result != ProcessResult.ok([2])
    assert result != 1
    error = ValueError()
    assert ProcessResult.fail(error, process_id="1", failed_at=NOON) == ProcessResult.fail(
        error, process_id="1", failed_at=NOON
    )
    assert hash(ProcessResult.ok(1)) == hash(ProcessResult.ok(1))


def test_results_are_pickled_with_their_times() -> None:
    run = RunInfo("p", "1", NOON, NOON + timedelta(seconds=1), None, "w", 2, Placement(model="m"))
    result = ProcessResult(True, [1], None, timedelta(seconds=1), run)
    again = pickle.loads(pickle.dumps(result))
    assert (again, again.elapsed, again.run) == (result, result.elapsed, result.run)


def test_results_show_what_they_are() -> None:
    assert repr(ProcessResult.ok("x")) == "ProcessResult.ok('x')"
    assert repr(ProcessResult.fail(ValueError("y"))).startswith("ProcessResult.fail(Failure(error=ValueError('y')")


# Failures ----------------------------------------------------------------------------------------


def test_a_failures_defaults() -> None:
    failure = Failure(ValueError("x"))
    assert (failure.process_name, failure.elapsed, failure.channel_state) == ("unknown", None, {})
    assert failure.process_id != Failure(ValueError()).process_id
    assert failure.summary == "[unknown] ValueError: x"


def test_elapsed_mixes_times_with_and_without_a_zone() -> None:
    failure = Failure(ValueError(), started_at=datetime.now() - timedelta(seconds=1), failed_at=datetime.now(UTC))
    assert failure.elapsed is not None
    assert timedelta(seconds=0.9) < failure.elapsed < timedelta(seconds=60)


def test_detailed_says_all_that_is_known() -> None:
    failure = Failure(
        ValueError("x"),
        process_name="p",
        process_id="id",
        started_at=NOON,
        failed_at=NOON + timedelta(seconds=2),
        placement=Placement(model="m", endpoint="e"),
        parent_process="parent",
        channel_state={"c": {"sent": 1}},
        checkpoint={"at": 3},
        traceback_str="Traceback: there\n",
        worker="w1@host",
        last_progress="3 of 10 reading",
        attempt=2,
        run="order-42",
    )
    for part in (
        "Attempt: 2",
        "Run: order-42",
        "Worker: w1@host",
        "Last progress: 3 of 10 reading",
        "p (id)",
        "ValueError: x",
        "0:00:02",
        "parent",
        "m @ e",
        "c: {'sent': 1}",
        "{'at': 3}",
        "there",
    ):
        assert part in failure.detailed


# Policies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backoff", "delays"),
    [("exponential", [2, 4, 8, 16]), ("linear", [2, 4, 6, 8]), ("constant", [2, 2, 2, 2])],
)
def test_backoffs(backoff: Any, delays: list[float]) -> None:
    policy = FailurePolicy.retry(5, backoff, 2.0)
    assert [policy.delay_for(attempt) for attempt in range(4)] == delays


@pytest.mark.parametrize(
    "arguments",
    [
        {"backoff": "fibonacci"},
        {"max_attempts": 0},
        {"max_attempts": True},
        {"base_delay": -1},
        {"base_delay": float("nan")},
        {"max_delay": -1},
        {"jitter": 1.5},
    ],
)
def test_a_wrong_policy_is_refused_when_made(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        RetryPolicy(**arguments)


@given(
    attempt=st.integers(0, 10_000),
    base=st.floats(0, 1e6),
    bound=st.floats(0, 1e6),
    jitter=st.floats(0, 1),
    backoff=st.sampled_from(["exponential", "linear", "constant"]),
)
def test_delays_stay_within_their_bounds(attempt: int, base: float, bound: float, jitter: float, backoff: Any) -> None:
    policy = RetryPolicy(3, backoff, base, bound, jitter)
    assert 0 <= policy.delay_for(attempt) <= bound
    plain = RetryPolicy(3, backoff, base)
    assert plain.delay_for(attempt) <= plain.delay_for(attempt + 1)


def test_a_negative_attempt_is_refused() -> None:
    with pytest.raises(ValueError, match="attempt"):
        RetryPolicy().delay_for(-1)


# Reports -----------------------------------------------------------------------------------------


def test_a_report_counts() -> None:
    report = FailureReport()
    assert (report.failure_rate, report.slowest_failure, report.common_failure_types) == (0.0, None, {})
    report.add(ProcessResult.ok())
    report.add(failed("a", ValueError("x"), at=3, started=0))
    report.add(failed("b", ValueError("y"), at=9, started=8))
    report.add(failed("c", KeyError("z"), at=20))
    assert (report.total_processes, report.succeeded, report.failed, report.failure_rate) == (4, 1, 3, 0.75)
    assert report.common_failure_types == {"ValueError": 2, "KeyError": 1}
    assert report.slowest_failure is not None
    assert report.slowest_failure.process_name == "a"
    assert report.to_dict() == {
        "total_processes": 4,
        "succeeded": 1,
        "failed": 3,
        "failure_rate": 0.75,
        "failures": [
            {"process_name": "a", "error_type": "ValueError", "error_message": "x"},
            {"process_name": "b", "error_type": "ValueError", "error_message": "y"},
            {"process_name": "c", "error_type": "KeyError", "error_message": "'z'"},
        ],
    }
    assert "75.0%" in report.summary()
    assert "ValueError (2)" in report.summary()


def test_both_kinds_of_timeouts_repeat() -> None:
    expired = TimerExpired(NOON, NOON, timedelta(seconds=1), "t")
    report = FailureReport.of(
        [failed("slow", TimeoutError(), 0), failed("slow", expired, 10), failed("once", TimeoutError(), 20)]
    )
    patterns = report.pattern_analysis()
    assert patterns["repeat_timeouts"] == ["slow"]
    assert not patterns["cascade_failures"]
    advice = report.recommendations()
    assert any("slow" in one and "2/3" in one for one in advice)
    assert any("once" in one and "1/3" in one for one in advice)


def test_errors_repeat() -> None:
    report = FailureReport.of(
        [failed("a", ValueError(), 0), failed("a", ValueError(), 10), failed("b", KeyError(), 20)]
    )
    assert report.pattern_analysis()["repeat_errors"] == [("a", "ValueError")]
    (advice,) = report.recommendations()
    assert "a" in advice
    assert "ValueError" in advice


@pytest.mark.parametrize(("gap", "cascade"), [(0.099, True), (0.1, False)])
def test_failures_close_together_are_a_cascade(gap: float, cascade: bool) -> None:
    # The order in which they were added does not matter.
    report = FailureReport.of(
        [failed("a", ValueError(), 50 + gap), failed("b", KeyError(), 0), failed("c", OSError(), 50)]
    )
    assert report.pattern_analysis()["cascade_failures"] is cascade
    assert any("COLLECT" in one for one in report.recommendations()) is cascade
