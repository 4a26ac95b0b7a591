"""What agents need to live with: retries by kind that go on, on every backend and on a fleet."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from typing import Any

import pytest

from stbass import PAR, PLACED_PAR, SEQ, FailurePolicy, Placement
from stbass.backends.celery import CeleryBackend
from stbass.backends.pools import ProcessPoolBackend, ThreadBackend
from stbass.errors import RemoteError
from stbass.placement import BackendRegistry, LocalBackend
from tests.integration.conftest import Fleet
from tests.support.agents import hidden_error
from tests.support.backends import registry_of
from tests.support.living import GoesOn, RateLimited, Unauthorised, unauthorised

INCLUDE = ("tests.support.living",)

THERE = Placement(endpoint="anthropic")
KINDS = ("local", "threads", "processes", "celery")


@pytest.fixture(params=KINDS)
async def everywhere(request: pytest.FixtureRequest, fleet: Fleet) -> AsyncIterator[BackendRegistry]:
    """A registry in which every placement is one kind of backend."""
    if request.param == "local":
        yield registry_of(LocalBackend())
        return
    made: ThreadBackend | ProcessPoolBackend | CeleryBackend
    if request.param == "celery":
        made = CeleryBackend(fleet.app())
    else:
        made = ThreadBackend(2) if request.param == "threads" else ProcessPoolBackend(1)
    async with aclosing(made):
        yield registry_of(made)


async def test_a_kind_that_no_retry_helps_is_tried_once(everywhere: BackendRegistry) -> None:
    policy = FailurePolicy.retry(5, "constant", 0.01, unless=(Unauthorised,))
    result = await PLACED_PAR((unauthorised, THERE), on_failure=policy, registry=everywhere).run()
    [failed] = result.results
    assert isinstance(failed.failure.error, Unauthorised)
    assert failed.failure.checkpoint == 1


@pytest.mark.parametrize("inside", [False, True], ids=["placed", "composition"])
async def test_a_retried_attempt_goes_on_and_waits_as_long_as_it_was_told(
    everywhere: BackendRegistry, inside: bool
) -> None:
    policy = FailurePolicy.retry(5, "constant", 0.01, on=(RateLimited,))
    process = GoesOn(3, {"retry-after-ms": "200"})
    if inside:
        # The policy goes where the composition does.
        composition = PLACED_PAR((PAR(process, on_failure=policy), THERE), registry=everywhere)
    else:
        composition = PLACED_PAR((process, THERE), on_failure=policy, registry=everywhere)
    result = await SEQ(composition).run()
    found = result.value[0][0] if inside else result.value[0]
    assert found == [1, 2, 3]
    elapsed = result.results[0].elapsed
    assert elapsed is not None
    assert elapsed >= timedelta(milliseconds=390)


@pytest.mark.parametrize(("kinds", "attempts"), [({"on": "HiddenError"}, 2), ({"unless": "HiddenError"}, 1)])
async def test_a_class_that_only_the_worker_knows_is_known_by_its_name(
    registry: BackendRegistry, kinds: dict[str, Any], attempts: int
) -> None:
    policy = FailurePolicy.retry(2, "constant", 0.01, **kinds)
    result = await PLACED_PAR((hidden_error, THERE), on_failure=policy, registry=registry).run()
    [failed] = result.results
    assert isinstance(failed.failure.error, RemoteError)
    assert failed.run is not None
    assert failed.run.attempt == attempts
