"""``PARResult.group``: a GroupResult that costs nothing until somebody waits on it."""

from __future__ import annotations

import gc
import tracemalloc

from celery.result import GroupResult

from stbass._values.endpoint import Placement
from stbass.backends.celery import CeleryBackend
from stbass.placement import PLACED_PAR, BackendRegistry
from tests.integration.conftest import Fleet
from tests.support.agents import Fail, Give
from tests.support.backends import registry_of


async def test_a_group_subscribes_to_nothing_by_itself_and_can_be_waited_for(fleet: Fleet) -> None:
    # given a group of processes on a fleet
    app = fleet.app()
    backend = CeleryBackend(app)
    registry = registry_of(backend, "anthropic")
    result = await PLACED_PAR(
        *[(Give(number), Placement(endpoint="anthropic")) for number in range(3)], registry=registry
    ).run()
    await backend.aclose()

    # then Celery's own result consumer has not been touched: it would block, and again when the group is collected
    assert isinstance(result.group, GroupResult)
    assert app.backend.result_consumer.subscribed_to == set()

    # and foreign code can wait for it all the same
    assert result.group.get(timeout=10) == [0, 1, 2]


async def test_what_never_starts_is_not_kept(backend: CeleryBackend, registry: BackendRegistry) -> None:
    # given three groups of which only the first process starts: it fails, and that halts the others
    size, where = 50_000, Placement(endpoint="anthropic")
    big = "x" * size

    async def halt() -> int:
        members = [(Give(big), where) for _ in range(99)]
        result = await PLACED_PAR((Fail(), where), *members, limit=1, registry=registry).run()
        return sum("not started" in one.failure.summary for one in result.results)

    assert await halt() == 99
    gc.collect()
    tracemalloc.start()
    try:
        # when two more of them have ended
        assert [await halt() for _ in range(2)] == [99, 99]
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    # then what was encoded for the others is gone
    assert kept < 10 * size
