"""Spans and metrics over a fleet: the context travels in messages, and nothing is traced where nobody asked for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from stbass import PLACED_PAR, SEQ, Placement, observe, start
from stbass.backends.celery import CeleryBackend
from stbass.placement import BackendRegistry
from stbass.testing import RedisServer
from tests.integration.conftest import Fleet, workers_on
from tests.support import traced_agents
from tests.support.backends import registry_of
from tests.support.traced_agents import as_data, dies_once, failing, leaf, points_here, sends_on, spans_here, sync_leaf

ONE, OTHER = Placement(endpoint="one"), Placement(endpoint="other")


@pytest.fixture(scope="module", autouse=True)
def fleet(server: RedisServer) -> Iterator[Fleet]:
    """Two workers that are traced; each has a worker after it where it is killed."""
    env = {"STBASS_TEST_TRACED": "1", "TEST_LEASE": "1.0"}
    include = ["tests.support.traced_agents"]
    with workers_on(server, "one", "other", env=env, include=include) as made:
        made.options = {"lease": 1.0}
        yield made


@pytest.fixture
def registry(backend: CeleryBackend) -> BackendRegistry:
    return registry_of(backend)


@pytest.fixture(autouse=True)
def traced() -> Iterator[None]:
    traced_agents.EXPORTER.clear()
    traced_agents.instrument()
    yield
    observe.uninstrument()


async def _found(registry: BackendRegistry, trace: int) -> list[dict[str, Any]]:
    """All spans of a trace, here and on both workers."""
    here = [as_data(span) for span in traced_agents.EXPORTER.get_finished_spans()]
    observe.uninstrument()
    asked = await PLACED_PAR((spans_here, ONE), (spans_here, OTHER), registry=registry).run()
    return [span for span in [*here, *(span for part in asked.value for span in part)] if span["trace"] == trace]


def _trace() -> int:
    [root] = [data for span in traced_agents.EXPORTER.get_finished_spans() if (data := as_data(span))["parent"] is None]
    return int(root["trace"])


async def test_one_trace_goes_through_the_producer_and_both_workers(fleet: Fleet, registry: BackendRegistry) -> None:
    composition = PLACED_PAR((SEQ(sends_on).with_name("stages"), ONE), (sync_leaf, OTHER), registry=registry)
    result = await composition.with_name("all").run()
    assert result.is_ok
    found = await _found(registry, _trace())
    by_name: dict[str, list[dict[str, Any]]] = {}
    for span in found:
        by_name.setdefault(span["name"], []).append(span)
    assert {name: len(spans) for name, spans in by_name.items()} == {
        "all": 1,
        "stages": 1,
        "sends_on": 1,
        "PAR": 1,
        "PLACED_PAR": 1,
        "leaf": 2,
        "sync_leaf": 2,
    }
    # Each is inside of what sent it, whichever worker that was on.
    ids = {span["id"]: span["name"] for span in found}
    around = sorted((span["name"], ids.get(span["parent"])) for span in found)
    assert around == [
        ("PAR", "sends_on"),
        ("PLACED_PAR", "sends_on"),
        ("all", None),
        ("leaf", "PAR"),
        ("leaf", "PLACED_PAR"),
        ("sends_on", "stages"),
        ("stages", "all"),
        ("sync_leaf", "PAR"),
        ("sync_leaf", "all"),
    ]
    # The code of each process was in its own span.
    own = {span["id"] for span in found if span["name"] in ("leaf", "sync_leaf")}
    assert {*result.value[0], result.value[1]} == own
    assert {span.get("stbass.worker") for span in by_name["leaf"]} == {worker.name for worker in fleet.workers.values()}
    assert {span["kind"] for span in by_name["stages"]} == {"CONSUMER"}


async def test_a_run_belongs_to_the_trace_in_which_it_was_started(registry: BackendRegistry) -> None:
    with traced_agents.TRACER_PROVIDER.get_tracer("tests").start_as_current_span("request") as request:
        started = await start(leaf, placement=ONE, registry=registry)
        result = await started.result(deadline=30)
    [span] = [one for one in await _found(registry, request.get_span_context().trace_id) if one["name"] == "leaf"]
    assert (span["id"], span["parent"]) == (result.value, request.get_span_context().span_id)
    assert span["stbass.run"] == started.id


async def test_failures_and_figures_of_a_worker(registry: BackendRegistry) -> None:
    await PLACED_PAR((failing, ONE), registry=registry).run()
    found = await _found(registry, _trace())
    assert [(span["status"], span["error.type"]) for span in found if span["name"] == "failing"] == [
        ("ERROR", "builtins.ValueError")
    ]
    assert "hunter2" not in str(found)
    [points] = (await PLACED_PAR((points_here, ONE), registry=registry).run()).value
    ended = [about for about, _ in points["stbass.process.duration"] if about["stbass.process"] == "failing"]
    assert [about["stbass.state"] for about in ended] == ["failed"]


@pytest.mark.slow
async def test_what_is_run_again_after_a_lost_worker_has_a_link_to_where_it_was_sent(
    server: RedisServer, backend: CeleryBackend
) -> None:
    env = {"STBASS_TEST_TRACED": "1", "TEST_LEASE": "1.0"}
    mortal = Placement(endpoint="mortal")
    registry = registry_of(backend)
    with workers_on(server, "mortal", env=env, include=["tests.support.traced_agents"]) as first:
        sent = PLACED_PAR((dies_once, mortal), registry=registry).with_name("all")
        with workers_on(server, "mortal", env=env, include=["tests.support.traced_agents"]) as second:
            result = await sent.run()
            assert result.is_ok
            trace = _trace()
            observe.uninstrument()
            alive = [fleet for fleet in (first, second) if fleet.workers["mortal"].running]
            [there] = (await PLACED_PAR((spans_here, mortal), registry=registry).run()).value
    assert len(alive) == 1
    [span] = [one for one in there if one["trace"] == trace]
    [root] = [as_data(one) for one in traced_agents.EXPORTER.get_finished_spans()]
    assert span["id"] == result.value[0]
    assert (span["parent"], span["links"], span["stbass.attempt"]) == (root["id"], [root["id"]], 2)


async def test_a_producer_that_is_not_traced_sends_no_context(registry: BackendRegistry) -> None:
    observe.uninstrument()
    [span_id] = (await PLACED_PAR((leaf, ONE), registry=registry).run()).value
    asked = await PLACED_PAR((spans_here, ONE), registry=registry).run()
    [span] = [span for span in asked.value[0] if span["id"] == span_id]
    assert (span["parent"], span["links"]) == (None, [])
