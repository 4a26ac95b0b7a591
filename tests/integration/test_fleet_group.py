"""``PARResult.group``: a GroupResult that costs nothing until somebody waits on it."""

from __future__ import annotations

from celery.result import GroupResult

from stbass._values.endpoint import Placement
from stbass.backends.celery import CeleryBackend
from stbass.placement import PLACED_PAR, BackendRegistry
from tests.integration.conftest import Fleet
from tests.support.agents import Give


async def test_a_group_subscribes_to_nothing_by_itself_and_can_be_waited_for(fleet: Fleet) -> None:
    # given a group of processes on a fleet
    app = fleet.app()
    backend = CeleryBackend(app)
    registry = BackendRegistry()
    registry.register("anthropic", backend)
    result = await PLACED_PAR(
        *[(Give(number), Placement(endpoint="anthropic")) for number in range(3)], registry=registry
    ).run()
    await backend.aclose()

    # then Celery's own result consumer has not been touched: it would block, and again when the group is collected
    assert isinstance(result.group, GroupResult)
    assert app.backend.result_consumer.subscribed_to == set()

    # and foreign code can wait for it all the same
    assert result.group.get(timeout=10) == [0, 1, 2]
