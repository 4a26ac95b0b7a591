"""Results and failures: unchanged by the trip, and never lost, whatever hangs on them."""

from __future__ import annotations

import json
import threading
import zoneinfo
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stbass._values.endpoint import Placement
from stbass._values.policy import FailurePolicy, RetryPolicy
from stbass._values.waits import ChannelWait, ChannelWaits
from stbass.errors import NotTransportable, RemoteError, WireError
from stbass.process import ProcessContext
from stbass.result import Failure, ProcessResult, RunInfo
from stbass.wire import (
    REMOTE_TRACEBACK,
    Opaque,
    dump_result,
    dumps,
    load_result,
    loads,
    result_or_failure,
)
from tests.support.wire_samples import Point, Researcher, hello

NOW = datetime(2025, 3, 4, 5, 6, 7, 89, tzinfo=UTC)

moments = st.datetimes(timezones=st.just(UTC)) | st.datetimes(
    timezones=st.sampled_from([timezone(timedelta(hours=2)), zoneinfo.ZoneInfo("Europe/Berlin"), None])
)
words = st.text(st.characters(codec=None, exclude_categories=[]), max_size=8)
data_values = st.recursive(
    st.none() | st.integers() | words | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
placements = st.builds(
    Placement,
    st.none() | words,
    st.none() | words,
    st.none() | st.dictionaries(words, data_values, max_size=2),
)
errors = st.one_of(
    st.builds(ValueError, words, data_values),
    st.builds(KeyError, words),
    st.builds(OSError, st.integers(1, 40), words, words),
    st.builds(lambda text: ExceptionGroup("g", [ValueError(text), KeyError(text)]), words),
)
seconds = st.floats(0, 3e9)
a_wait = st.builds(ChannelWait, words, st.sampled_from(["send", "receive", "choose"]), seconds, seconds)
waits = st.builds(ChannelWaits, st.integers(1, 10**6), seconds, st.lists(a_wait, max_size=3).map(tuple))
runs = st.builds(
    RunInfo,
    words,
    words,
    st.none() | moments,
    st.none() | moments,
    st.none() | st.timedeltas(),
    st.none() | words,
    st.integers(1, 10),
    st.none() | placements,
    waits=st.none() | waits,
)
failures = st.builds(
    Failure,
    errors,
    process_name=words,
    process_id=words,
    started_at=st.none() | moments,
    failed_at=moments,
    placement=st.none() | placements,
    parent_process=st.none() | words,
    channel_state=st.dictionaries(words, data_values, max_size=2),
    checkpoint=data_values,
    traceback_str=words,
)
elapsed = st.none() | st.timedeltas()
results = st.builds(
    lambda value, time, run: ProcessResult(True, value, None, time, run), data_values, elapsed, st.none() | runs
) | st.builds(
    lambda failure, time, run: ProcessResult(False, None, failure, time, run), failures, elapsed, st.none() | runs
)


def assert_same(found: ProcessResult, sent: ProcessResult) -> None:
    assert repr(found) == repr(sent)
    assert (found.elapsed, repr(found.run)) == (sent.elapsed, repr(sent.run))
    if sent.is_ok:
        assert found.value == sent.value


@given(results)
@settings(max_examples=100, deadline=None)
def test_any_result_arrives_unchanged(result: ProcessResult) -> None:
    assert_same(load_result(dump_result(result)), result)
    inside = loads(dumps({"r": [result]}))["r"][0]
    assert_same(inside, result)
    assert load_result(result_or_failure(result)) is not None


async def test_what_execute_gives_back_arrives_unchanged() -> None:
    ctx = ProcessContext("hello", placement=Placement(model="m"))
    for process in (hello, Researcher({"a": (1,)})):
        result = await process.execute(ctx)
        assert result.run is not None

        assert_same(load_result(dump_result(result)), result)


@pytest.mark.parametrize("value", [None, 0, "text", [1, {"a": 2.5}], {"~": 1}, (1,), Point(1), float("nan"), "\ud800"])
def test_a_success_arrives_with_its_value(value: Any) -> None:
    result = ProcessResult(True, value, None, timedelta(milliseconds=3), RunInfo("p", "id", NOW, NOW, None, "w", 2))

    found = load_result(dump_result(result))

    assert found.is_ok
    assert_same(found, result) if value == value else None
    assert repr(found.value) == repr(value)


def test_a_result_is_compact() -> None:
    result = ProcessResult(True, "done", None, timedelta(milliseconds=3), RunInfo("p", "id", NOW, NOW, None, "w", 2))

    assert json.loads(dump_result(result)) == {
        "ok": True,
        "v": "done",
        "t": 3000,
        "run": ["p", "id", NOW.isoformat(), NOW.isoformat(), None, "w", 2],
    }


@pytest.mark.parametrize(
    "value",
    [
        Placement(),
        Placement("m", "e", {"k": (1, {2})}),
        RetryPolicy(5, "linear", 0.5, 9.0, 0.25),
        FailurePolicy.HALT,
        FailurePolicy.retry(2),
        RunInfo(),
        RunInfo("p", "i", NOW, None, timedelta(1), "w", 3, Placement("m")),
        Failure(ValueError("x"), failed_at=NOW),
        ProcessResult.ok((1,)),
        ProcessResult.fail(ValueError("x"), checkpoint={1}, failed_at=NOW),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_parts_of_outcomes_are_values_too(value: Any) -> None:
    found = loads(dumps([value]))[0]

    assert type(found) is type(value)
    assert repr(found) == repr(value)


def test_a_policy_is_the_member_itself() -> None:
    assert loads(dumps(FailurePolicy.COLLECT)) is FailurePolicy.COLLECT


# The traceback -----------------------------------------------------------------------------------


def test_the_error_of_a_failure_has_the_failures_traceback() -> None:
    result = ProcessResult.fail(ValueError("x"), traceback_str="Traceback: all of it")

    found = load_result(dump_result(result))

    assert found.failure.traceback_str == "Traceback: all of it"
    assert getattr(found.failure.error, REMOTE_TRACEBACK) == "Traceback: all of it"
    assert dump_result(result).count(b"all of it") == 1
    with pytest.raises(ValueError, match="x") as caught:
        _ = found.value
    assert caught.value is found.failure.error


async def test_an_error_from_far_away_keeps_its_first_traceback_through_a_composition() -> None:
    # Given a failure that has travelled once, as a child's has
    first = load_result(dump_result(ProcessResult.fail(ValueError("deep"), traceback_str="from worker 1")))

    # When it travels again inside the group of a failed composition
    outer = ProcessResult.fail(BaseExceptionGroup("all", [first.failure.error]), traceback_str="from worker 2")
    found = load_result(dump_result(outer))

    # Then each error has its own
    group: Any = found.failure.error
    assert getattr(group, REMOTE_TRACEBACK) == "from worker 2"
    assert getattr(group.exceptions[0], REMOTE_TRACEBACK) == "from worker 1"


# What cannot travel ------------------------------------------------------------------------------


def test_of_a_failure_only_the_part_that_cannot_travel_is_replaced() -> None:
    lock = threading.Lock()
    text = Opaque("_thread:lock", repr(lock))
    ring: list[Any] = [1]
    ring.append(ring)
    failure = Failure(
        ValueError("x", lock),
        process_name="p",
        placement=Placement("m", config={"a": 1, "lock": lock}),
        channel_state={"c": {"sent": 3, "held": lock}},
        checkpoint={"done": [1, 2], "conn": lock, "ring": ring, "point": Point(lock)},
    )

    found = load_result(dump_result(ProcessResult(False, None, failure))).failure

    assert found.error.args == ("x", text)
    assert found.placement == Placement("m", config={"a": 1, "lock": text})
    assert found.channel_state == {"c": {"sent": 3, "held": text}}
    assert found.checkpoint["done"] == [1, 2]
    assert found.checkpoint["conn"] == text
    assert found.checkpoint["ring"][0] == 1
    assert found.checkpoint["ring"][1].type_name == "builtins:list"
    assert found.checkpoint["point"] == Point(text)


def test_a_moment_in_somebody_elses_zone_arrives_as_the_same_moment() -> None:
    class Zone(type(UTC).__base__):  # type: ignore[misc]
        def utcoffset(self, moment: Any) -> timedelta:
            return timedelta(hours=5)

        def dst(self, moment: Any) -> None:
            return None

        def tzname(self, moment: Any) -> str:
            return "mine"

    started = datetime(2024, 1, 1, tzinfo=Zone())
    found = load_result(dump_result(ProcessResult.fail(ValueError(), started_at=started))).failure

    assert found.started_at == started


def test_a_value_that_cannot_travel_is_an_error_with_its_place() -> None:
    result = ProcessResult.ok({"conn": [1, threading.Lock()]})

    with pytest.raises(NotTransportable) as caught:
        dump_result(result)

    assert caught.value.path == 'value["conn"][1]'
    with pytest.raises(NotTransportable) as caught:
        dumps([result])
    assert caught.value.path == 'value[0].value["conn"][1]'


def test_a_value_that_cannot_travel_becomes_a_failure_that_says_so() -> None:
    run = RunInfo("p", "id", NOW, NOW + timedelta(seconds=1), timedelta(1), "w", 2)
    result = ProcessResult(True, {"conn": threading.Lock()}, None, timedelta(seconds=1), run)

    found = load_result(result_or_failure(result))

    assert found.is_fail
    assert isinstance(found.failure.error, NotTransportable)
    assert found.failure.error.path == 'value["conn"]'
    assert (found.failure.process_name, found.failure.process_id, found.failure.started_at) == ("p", "id", NOW)
    assert (found.elapsed, found.run) == (result.elapsed, run)


def test_a_value_that_is_too_large_becomes_a_failure_that_says_so() -> None:
    found = load_result(result_or_failure(ProcessResult.ok("x" * 2000), limit=1000))

    with pytest.raises(NotTransportable, match=r"1,000 bytes.*STBASS_MAX_MESSAGE_BYTES"):
        _ = found.value


def test_a_failure_that_is_too_large_becomes_a_smaller_one_of_the_same_text() -> None:
    failure = Failure(
        ValueError("disk full", "y" * 5000),
        process_name="p",
        process_id="id",
        started_at=NOW,
        failed_at=NOW,
        parent_process="PAR",
        checkpoint="x" * 5000,
        traceback_str="line\n" * 5000,
    )

    found = load_result(result_or_failure(ProcessResult(False, None, failure), limit=1000)).failure

    assert isinstance(found.error, RemoteError)
    assert found.error.type_name == "builtins:ValueError"
    assert str(found.error).startswith("builtins.ValueError: ('disk full'")
    assert "1,000 bytes" in found.error.__notes__[0]
    assert (found.process_name, found.process_id, found.started_at, found.failed_at) == ("p", "id", NOW, NOW)
    assert found.parent_process == "PAR"
    assert found.checkpoint is None
    assert found.traceback_str.startswith("line\nline")


def test_a_result_that_can_travel_is_the_same_either_way() -> None:
    result = ProcessResult.ok([1])

    assert result_or_failure(result) == dump_result(result)


# Malformed ---------------------------------------------------------------------------------------

GOOD_FAILURE = json.loads(dump_result(ProcessResult.fail(ValueError("x"), started_at=NOW, placement=Placement("m"))))


@pytest.mark.parametrize("text", ["", "5", "[]", "null", "{}", '{"ok": 1, "v": 2}', '{"ok": true}', '{"ok": false}'])
def test_what_is_not_a_result_is_refused(text: str) -> None:
    with pytest.raises(WireError):
        load_result(text)


@pytest.mark.parametrize(
    "change",
    [
        {"t": "x"},
        {"t": 10**30},
        {"run": []},
        {"run": {}},
        {"run": [1, "i", None, None, None, None, 1]},
        {"run": ["n", "i", "yesterday", None, None, None, 1]},
        {"run": ["n", "i", "2024-01-01T00:00:00", None, None, None, 1]},
        {"run": ["n", "i", {"~": "tuple", "v": []}, None, None, None, 1]},
        {"run": ["n", "i", None, None, "x", None, 1]},
        {"run": ["n", "i", None, None, None, 5, 1]},
        {"run": ["n", "i", None, None, None, None, "1"]},
        {"run": ["n", "i", None, None, None, None, 1, 5]},
        *[
            {"run": ["n", "i", None, None, None, None, 1, None, None, waits]}
            for waits in (
                5,
                [1, 1.0],
                ["1", 1.0, []],
                [1, -1.0, []],
                [1, 1e300, []],
                [17, 1.0, [["c", "send", 0.0, 1.0]] * 17],
                [1, 1.0, [["c", "wait", 0.0, 1.0]]],
                [1, 1.0, [["c", "send", 0.0, 1e300]]],
                [1, 1.0, [["c", "send", "0", 1.0]]],
            )
        ],
        {"f": {"x": 1}},
        {"f": None},
    ],
    ids=str,
)
def test_a_malformed_result_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        load_result(json.dumps(GOOD_FAILURE | change))


@pytest.mark.parametrize(
    "change",
    [
        {"error": 5},
        {"error": {"~": "tuple", "v": []}},
        {"name": 5},
        {"id": None},
        {"failed": None},
        {"failed": 5},
        {"failed": "soon"},
        {"started": [1]},
        {"placement": "here"},
        {"placement": {"~": "placement", "v": [1]}},
        {"placement": {"~": "placement", "v": [5, None, None]}},
        {"parent": 5},
        {"channels": []},
        {"traceback": 5},
    ],
    ids=str,
)
def test_a_malformed_failure_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        load_result(json.dumps(GOOD_FAILURE | {"f": GOOD_FAILURE["f"] | change}))


@pytest.mark.parametrize("parts", [[0], ["3"], [3, "never"], [3, "linear", -1], [3, "linear", 1.0, None, 2], [1] * 9])
def test_a_malformed_policy_is_refused(parts: list[Any]) -> None:
    with pytest.raises(WireError):
        loads(json.dumps({"~": "retry", "v": parts}))
