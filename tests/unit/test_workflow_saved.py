"""A workflow as JSON, and going on from it."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest

from stbass._values.endpoint import Placement
from stbass.workflow import BaseProcess, ProcessConfig, ProcessState, Workflow, WorkflowError
from tests.support.nodes import Give

ran: list[str] = []


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    ran.clear()


class Counts(BaseProcess):
    """Notes that it ran, and fails if it is told to."""

    failing: ClassVar[set[str]] = set()

    def __init__(self, name: str, value: Any = None) -> None:
        super().__init__(ProcessConfig(process_id=name))
        self.value = value

    def process(self, input_data: Any) -> Any:
        name = str(self.config.process_id)
        ran.append(name)
        if name in self.failing:
            raise OSError("disk full")
        return {"value": self.value, "given": {key: result.data for key, result in (input_data or {}).items()}}


def flow(value: Any = 1) -> Workflow:
    workflow = Workflow(process_id="flow")
    Counts("one", value).register_to(workflow)
    Counts("two").register_to(workflow, ["one"])
    Counts("three").register_to(workflow, ["two"], required=False, placement=Placement(endpoint="anywhere"))
    return workflow


async def test_to_json_says_where_each_node_stands() -> None:
    workflow = flow()
    waiting = json.loads(workflow.to_json())
    assert (waiting["format"], waiting["process_id"]) == ("stbass.workflow/1", "flow")
    assert [(node["process_id"], node["state"], node["result"]) for node in waiting["nodes"]] == [
        ("one", "waiting", None),
        ("two", "waiting", None),
        ("three", "waiting", None),
    ]
    Counts.failing = {"two"}
    with pytest.raises(WorkflowError):
        await workflow.execute()
    one, two, three = json.loads(workflow.to_json(indent=2))["nodes"]
    assert one["state"] == "completed"
    assert one["result"]["data"] == {"value": 1, "given": {}}
    assert datetime.fromisoformat(one["start_time"]) <= datetime.fromisoformat(one["end_time"])
    assert (two["state"], two["dependencies"], two["last_error"]) == ("failed", ["one"], "OSError: disk full")
    assert (two["result"]["error_type"], two["result"]["success"]) == ("OSError", False)
    assert (three["state"], three["required"], three["placement"]) == ("skipped", False, "@ anywhere")
    assert "\n" in workflow.to_json(indent=2)
    assert "\n" not in workflow.to_json()


async def test_after_a_resume_only_the_rest_runs_and_its_input_is_exact() -> None:
    value = {"when": datetime(2026, 1, 2, tzinfo=UTC), "set": {1, 2}, (1, 2): b"\xff"}
    Counts.failing = {"two"}
    first = flow(value)
    with pytest.raises(WorkflowError):
        await first.execute()
    text = first.to_json()
    ran.clear()
    Counts.failing = set()
    second = flow()
    assert second.resume(text) is second
    results = await second.execute()
    assert ran == ["two", "three"]
    assert results["one"].data["value"] == value
    assert results["two"].data["given"]["one"]["value"] == value
    assert list(results) == ["one", "two", "three"]
    assert all(result.success for result in results.values())
    one = second.nodes["one"].process.metadata
    assert (one.state, one.progress, one.result) == (ProcessState.COMPLETED, 1.0, results["one"])
    assert results["one"].start_time == first.results["one"].start_time
    assert results["one"].execution_time == first.results["one"].execution_time


async def test_a_resume_is_for_the_next_run_only() -> None:
    Counts.failing = set()
    first = flow()
    await first.execute()
    second = flow().resume(first.to_json().encode())
    ran.clear()
    await second.execute()
    assert ran == []
    await second.execute()
    assert ran == ["one", "two", "three"]


async def test_a_completed_node_stays_so_whatever_its_dependencies_do() -> None:
    Counts.failing = {"maybe"}
    workflow = Workflow()
    Counts("maybe").register_to(workflow, required=False)
    Counts("after").register_to(workflow, ["maybe"])
    await workflow.execute()
    ran.clear()
    results = await workflow.resume(workflow.to_json()).execute()
    assert ran == ["maybe"]
    assert results["after"].success


async def test_of_data_that_cannot_be_written_a_text_is_kept_and_its_node_runs_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    workflow = Workflow()
    Give("lock", [threading.Lock()]).register_to(workflow)
    Give("plain", 1).register_to(workflow)
    await workflow.execute()
    text = workflow.to_json()
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert "node 'lock' has completed, but its data cannot be kept" in record.getMessage()
    assert "'plain'" not in caplog.text
    lock, plain = json.loads(text)["nodes"]
    assert "lock" in lock["result"]["omitted"]
    assert (lock["result"]["data"], plain["result"]["omitted"]) == (None, None)
    workflow.resume(text)
    assert workflow.results.keys() == {"plain"}
    assert (await workflow.execute())["lock"].success


def other() -> Workflow:
    workflow = Workflow(process_id="other")
    Counts("one").register_to(workflow)
    Counts("two").register_to(workflow)
    Counts("three").register_to(workflow, ["two"])
    return workflow


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not what to_json"),
        ("\ud800", "not what to_json"),
        ("[" * 100_000, "not what to_json"),
        ('{"format": "stbass.workflow/1"}', "not what to_json"),
        (flow().to_json().replace("stbass.workflow/1", "stbass.workflow/9"), "its format is 'stbass.workflow/9'"),
        (flow().to_json().replace('"three"', '"four"'), "only the workflow has 'three'"),
        (Workflow().to_json(), "only the workflow has 'one', 'three', 'two'"),
        (other().to_json(), "node 'two' depends on 'one' here, and on nothing there"),
    ],
)
def test_what_is_not_of_this_workflow_is_refused(text: str, message: str) -> None:
    workflow = flow()
    with pytest.raises(ValueError, match=f"workflow 'flow' cannot be resumed from this: .*{message}"):
        workflow.resume(text)
    assert workflow.results == {}


def test_a_node_that_only_the_text_has_is_refused() -> None:
    workflow = Workflow(process_id="flow")
    with pytest.raises(ValueError, match="only the text has 'one', 'three', 'two'"):
        workflow.resume(flow().to_json())


async def test_data_that_was_tampered_with_is_refused() -> None:
    Counts.failing = set()
    workflow = flow()
    await workflow.execute()
    saved = json.loads(workflow.to_json())
    saved["nodes"][0]["result"]["data"] = {"~": "process", "r": "os:system"}
    with pytest.raises(ValueError, match="the data of node 'one'"):
        workflow.resume(json.dumps(saved))
