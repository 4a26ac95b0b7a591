"""What processes return, take and raise on a real worker: as it is, or with a failure from which one can go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pydantic
import pytest

from stbass import PAR, SEQ
from stbass._process.context import Composable
from stbass._values.endpoint import Placement
from stbass.backends.celery import CeleryBackend
from stbass.errors import NotTransportable
from stbass.observe import events
from stbass.placement import PLACED_PAR, BackendRegistry
from stbass.result import FailurePolicy, ProcessResult
from stbass.testing import RedisServer
from stbass.wire import Opaque, RemoteResponse
from tests.integration.conftest import Fleet, workers_on
from tests.support.travellers import Rich, rich
from tests.support.valued import (
    SECRET,
    Plan,
    Refused,
    Steps,
    badly_planned,
    everything,
    locked,
    long_history,
    planned,
    refused,
)


@pytest.fixture(scope="module")
def valued(server: RedisServer) -> Iterator[Fleet]:
    with workers_on(server, "valued", env={"VALUED_ON": "worker"}, include=["tests.support.valued"]) as made:
        yield made


@pytest.fixture
async def registry(valued: Fleet) -> AsyncIterator[BackendRegistry]:
    backend = CeleryBackend(valued.app())
    made = BackendRegistry()
    made.register("valued", backend)
    yield made
    await backend.aclose()


async def outcome(process: Composable, registry: BackendRegistry) -> ProcessResult:
    async with asyncio.timeout(60):
        par = PLACED_PAR((process, Placement(endpoint="valued")), registry=registry, on_failure=FailurePolicy.COLLECT)
        return (await par.run()).results[0]


async def test_a_model_of_many_types_arrives_as_itself(registry: BackendRegistry) -> None:
    found = (await outcome(everything, registry)).value

    assert type(found) is Rich
    assert found == rich()
    assert found.key.get_secret_value() == "k"
    assert found.at.utcoffset() == rich().at.utcoffset()


async def test_what_is_nested_deep_runs_there_or_is_refused_with_a_sentence(registry: BackendRegistry) -> None:
    def nested(depth: int) -> Any:
        inner: Any = everything
        for index in range(depth):
            inner = (PAR, SEQ)[index % 2](inner)
        return inner

    assert (await outcome(nested(20), registry)).is_ok
    with pytest.raises(NotTransportable, match="nested"):
        await outcome(nested(98), registry)


async def test_output_that_does_not_validate_leaves_its_errors_and_the_checkpoint(registry: BackendRegistry) -> None:
    failure = (await outcome(badly_planned, registry)).failure

    assert repr(failure.error) == "RuntimeError('the answer does not fit')"
    cause = failure.error.__cause__
    assert isinstance(cause, pydantic.ValidationError)
    assert [one["loc"] for one in cause.errors()] == [("title",), ("steps",)]
    assert failure.checkpoint == {"step": 3, "token": SECRET}
    assert "badly_planned" in failure.traceback_str


async def test_a_result_that_cannot_travel_leaves_its_type_its_text_and_the_checkpoint(
    registry: BackendRegistry,
) -> None:
    failure = (await outcome(locked, registry)).failure

    error = failure.error
    assert isinstance(error, NotTransportable)
    assert error.path == 'result["lock"]'
    assert error.value_type == "builtins:dict"
    assert error.value_text.startswith("{'answer': 'forty-two', 'password': '***', 'lock': <unlocked _thread.lock")
    assert "forty-two" in failure.detailed
    assert failure.checkpoint == {"step": 3}


async def test_a_history_of_20_mb_leaves_the_same(registry: BackendRegistry) -> None:
    failure = (await outcome(long_history, registry)).failure

    error = failure.error
    assert isinstance(error, NotTransportable)
    assert "STBASS_MAX_MESSAGE_BYTES" in str(error)
    assert error.value_type == "builtins:list"
    assert "'role': 'user'" in error.value_text
    assert SECRET not in error.value_text
    assert failure.checkpoint == {"step": 3}


async def test_a_model_whose_class_differs_at_the_two_ends_is_told_by_class_and_field(
    registry: BackendRegistry,
) -> None:
    name = "tests.support.valued:Plan"

    # From a worker, where it has a field that it has not here
    value = (await outcome(planned, registry)).value
    assert (type(value["plan"]), value["rest"]) == (Opaque, 1)
    assert value["plan"].data == {"title": "a", "steps": 3}
    assert value["plan"].reason == (
        f"{name} as it was sent has field 'steps', which {name} here has not (here: title, owner)"
    )

    # To a worker, where a process wants a field that it has not
    failure = (await outcome(Steps(Plan(title="a")), registry)).failure  # type: ignore[call-arg,unused-ignore]
    assert isinstance(failure.error, AttributeError)
    assert "which has no attribute 'steps'" in str(failure.error)
    assert f"{name} as it was sent has field 'owner', which {name} here has not" in str(failure.error)
    assert f"and has no field 'steps', which {name} here must have (here: title, steps)" in str(failure.error)


async def test_a_secret_shows_neither_in_the_failure_nor_in_events_nor_in_the_workers_log(
    registry: BackendRegistry, valued: Fleet
) -> None:
    seen: list[events.Event] = []
    with events.subscribe(seen.append):
        failure = (await outcome(refused, registry)).failure

    error: Any = failure.error
    assert type(error) is Refused
    assert (error.status_code, type(error.response)) == (401, RemoteResponse)
    assert (error.response.url, error.response.headers["X-Request-Id"]) == ("https://h/?api_key=***", "r1")
    assert [event.note for event in seen if event.note] == ["asking with api_key=***"]
    worker = valued.workers["valued"]
    await asyncio.to_thread(worker.wait_for_log, "refused with Authorization: ***", 30)
    for text in (failure.detailed, repr(failure), repr(vars(error)), worker.log):
        assert SECRET not in text
