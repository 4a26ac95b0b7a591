"""The rows of ``stbass top``."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from stbass.backends.celery.fleet_status import EndpointStatus, FleetStatus, WorkerHealth
from stbass.backends.celery.keys import FailedProcess, RunningProcess, WorkerAnswer
from stbass.cli.runs import event_line
from stbass.cli.top_rows import endpoint_rows, failure_rows, fleet_summary, process_rows
from stbass.runs import RunEvent, RunStatus


def fleet(*answers: WorkerAnswer) -> FleetStatus:
    endpoints = [EndpointStatus("llm", 2, 1, 10_000, "50", 7, 3, 12.0), EndpointStatus("nobody", queued=1)]
    workers = [WorkerHealth("w1", ["llm"], 500), WorkerHealth("w2", ["llm"], 500, "it has not answered within 1 s")]
    return FleetStatus(endpoints, workers, {}, list(answers))


def test_processes_of_all_workers_stand_in_one_order_and_runs_that_wait_after_them() -> None:
    status = fleet(
        WorkerAnswer(
            "w1", "w1", oldest=[RunningProcess("a", "young", "llm", 1, 2.0), RunningProcess("b", "x", "llm", 2, 1.0)]
        ),
        WorkerAnswer("w2", "w2", oldest=[RunningProcess("c", "old", "llm", 1, 400.0, 59.0, "1 of 2", "{}", "r", True)]),
    )
    waiting = RunStatus("queued", None, 0, queued_at=datetime.now(UTC) - timedelta(seconds=30.2))
    rows = list(process_rows(status, {"order-1": ("report", waiting)}))
    assert [row.cells["process"] for row in rows] == ["old", "young", "x", "report"]
    assert [rows[0].cells[name] for name in ("age", "left", "progress", "run", "worker")] == [
        "7 min",
        "59 s",
        "1 of 2",
        "r",
        "w2",
    ]
    assert rows[2].cells["state"] == "attempt 2"
    assert (rows[3].run, rows[3].cells["state"], rows[3].cells["age"]) == ("order-1", "queued", "30 s")
    assert rows[0].details == [
        "process old (c), attempt 1",
        "on w2, endpoint llm, for 7 min, 59 s to its deadline",
        "run r",
        "progress 1 of 2",
        "checkpoint {}",
    ]


def test_failures_stand_with_the_latest_first_and_not_for_ever() -> None:
    failed = [FailedProcess(str(ago), "p", "llm", 1, f"E{ago}", ago=ago) for ago in (500.0, 5.0, 700.0)]
    rows = list(failure_rows(fleet(WorkerAnswer("w1", "w1", failed=failed))))
    assert [row.cells["error"] for row in rows] == ["E5.0", "E500.0"]


def test_what_was_not_started_and_what_was_lost_is_said_so() -> None:
    [row] = failure_rows(
        fleet(WorkerAnswer("w1", "w1", failed=[FailedProcess("1", "p", "llm", 0, "too late", ago=5.0)]))
    )
    assert row.details[0] == "process p (1), not started, failed 5 s ago"
    at = datetime(2026, 1, 1, tzinfo=UTC)
    again = RunEvent("7", "retried", None, "p", "run/p", "1", "w", 2, at)
    assert event_line(again).endswith("  run/p: is tried again, because its worker was lost")
    assert event_line(replace(again, error="[p] ValueError: x")).endswith("run/p: is tried again, [p] ValueError: x")


def test_texts_of_strangers_stand_in_one_line_and_have_an_end() -> None:
    evil = "[bold]x[/]\n\x1b[31m💥" + "y" * 10_000
    status = fleet(
        WorkerAnswer(
            evil,
            "w1",
            oldest=[RunningProcess("a", evil, evil, 1, 1.0, None, evil, evil, evil)],
            failed=[FailedProcess("a", evil, evil, 1, evil, evil)],
        )
    )
    for row in (*process_rows(status, {}), *failure_rows(status)):
        for text in row.cells.values():
            assert text.isprintable()
            assert len(text) <= 200
        assert all(text.isprintable() and len(text) <= 2000 for text in row.details)


def test_endpoints_that_are_not_well_are_marked_and_all_is_summed_up() -> None:
    status = fleet()
    assert [row.state for row in endpoint_rows(status)] == ["bad", "bad"]
    assert next(endpoint_rows(status)).details == [
        "endpoint llm: 10000 running, limit 50, 7 queued, 3 of them for the limit",
        "worker w1 (500 at once): is well",
        "worker w2 (500 at once): it has not answered within 1 s",
    ]
    assert fleet_summary(status) == "2 workers (1 not well), 10,000 running, 8 queued"


def test_a_row_is_found_by_what_is_in_it() -> None:
    row = next(process_rows(fleet(WorkerAnswer("w1", "w1", oldest=[RunningProcess("a", "Straße", "llm", 1, 1.0)])), {}))
    assert [row.has(text) for text in ("strasse", "LLM", "", "no")] == [True, True, True, False]
