"""Arguments on real workers: they arrive with the process, are validated there, and nothing is sent in vain."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from stbass import PAR, PLACED_PAR, SEQ, BackendRegistry, FailurePolicy, Placement
from stbass.backends.celery import CeleryBackend
from stbass.backends.pools import ProcessPoolBackend, ThreadBackend
from stbass.errors import NotTransportable, ProcessRefused
from stbass.testing import RedisServer
from tests.integration.conftest import Fleet, workers_on
from tests.support.argued import (
    Order,
    Point,
    Titled,
    added,
    blocking,
    described,
    fetch,
    forgetful,
    nothing,
    numbered,
    ran,
    resident,
    shipped,
    summarise,
)
from tests.support.backends import registry_of

THERE = Placement(endpoint="argued")
LONG = 60.0


@pytest.fixture(scope="module")
def argued(server: RedisServer) -> Iterator[Fleet]:
    with workers_on(server, "argued", env={"ARGUED_ON": "worker"}, include=["tests.support.argued"]) as made:
        yield made


@pytest.fixture(params=["celery", "threads", "processes"])
async def registry(argued: Fleet, request: pytest.FixtureRequest) -> AsyncIterator[BackendRegistry]:
    made: CeleryBackend | ThreadBackend | ProcessPoolBackend
    if request.param == "celery":
        made = CeleryBackend(argued.app())
    else:
        made = ThreadBackend(2) if request.param == "threads" else ProcessPoolBackend(1)
    yield registry_of(made, "argued")
    await made.aclose()


@pytest.fixture
async def fleet_registry(argued: Fleet) -> AsyncIterator[BackendRegistry]:
    backend = CeleryBackend(argued.app())
    yield registry_of(backend, "argued")
    await backend.aclose()


async def test_arguments_arrive(registry: BackendRegistry) -> None:
    result = await PLACED_PAR(
        (summarise("a", depth=3, api_key="k").with_name("x"), THERE),
        (blocking(1), THERE),
        (described((1, 2), {3}, at=Point(1, 2)), THERE),
        (shipped({"number": 3}, Point(1, 2)), THERE),  # type: ignore[arg-type]
        (Titled("t", options=Order(number=1)), THERE),
        (PAR(fetch("a"), SEQ(fetch("b"), summarise)), THERE),
        registry=registry,
        deadline=LONG,
    ).run()
    assert result.value == [
        "a at 3 with k",
        2,
        (((1, 2), {3}), {"at": Point(1, 2)}),
        "Order 3 Point(x=1, y=2)",
        "t",
        ["page of a", "page of b at 2 with none"],
    ]


async def test_the_input_of_a_placed_stage_is_its_argument(registry: BackendRegistry) -> None:
    placed = PLACED_PAR((summarise.with_arguments(depth=3), THERE), (blocking(1), THERE))
    result = await SEQ(fetch("a"), placed, registry=registry, deadline=LONG).run()
    assert result.value == ["page of a at 3 with none", 2]
    wrong = await SEQ(nothing, PLACED_PAR((added.with_arguments(1), THERE)), registry=registry, deadline=LONG).run()
    assert "process 'added': the argument `right` must be int, got 'nothing'" in wrong.failures[0].summary


async def test_a_retry_there_has_the_arguments(registry: BackendRegistry) -> None:
    policy = FailurePolicy.retry(2, base_delay=0)
    result = await PLACED_PAR((forgetful("a"), THERE), registry=registry, on_failure=policy, deadline=LONG).run()
    assert result.value == ["a, attempt 2"]


async def test_missing_ones_are_told_before_anything_is_sent(registry: BackendRegistry) -> None:
    ran.clear()
    with pytest.raises(TypeError, match="summarise needs `url`"):
        await PAR(nothing, PLACED_PAR((summarise, THERE)), registry=registry, deadline=LONG).run()
    assert ran == []


async def test_one_that_cannot_travel_is_told_before_anything_is_sent(fleet_registry: BackendRegistry) -> None:
    ran.clear()
    pair = described(1, lock=threading.Lock()), THERE
    with pytest.raises(NotTransportable, match=r"\.lock: _thread\.lock cannot travel") as caught:
        await PLACED_PAR(nothing, pair, registry=fleet_registry, deadline=LONG).run()
    assert (caught.value.path or "").endswith(".lock")
    # also of a stage whose turn comes later
    with pytest.raises(NotTransportable, match=r"values: _thread\.lock cannot travel"):
        await SEQ(nothing, resident(threading.Lock()), registry=fleet_registry, deadline=LONG).run()
    assert ran == []


async def test_they_are_validated_where_they_arrive(fleet_registry: BackendRegistry) -> None:
    # given a worker whose version of the function takes a number, and a text for it
    result = await PLACED_PAR(
        (numbered("three"), THERE),
        registry=fleet_registry,
        on_failure=FailurePolicy.COLLECT,
        deadline=LONG,
    ).run()
    error = result.failures[0].error
    assert isinstance(error, ProcessRefused)
    assert "process 'numbered': the argument `number` must be int, got 'three'" in str(error)
