"""A cluster whose worker has Celery's own prefork pool."""

from __future__ import annotations

import asyncio

import pytest
from pytest_celery import CeleryTestSetup

from stbass._values.endpoint import Placement
from stbass.errors import DeadlineExceeded, ProcessCancelled
from stbass.placement import PLACED_PAR, BackendRegistry
from stbass.result import FailurePolicy
from tests.acceptance.conftest import ClusterWorker
from tests.support.puppets import Puppet, Puppeteer

pytestmark = pytest.mark.acceptance

STOCK = Placement(endpoint="stock")


class PreforkWorker(ClusterWorker):
    queue = "stock"
    options = ("-P", "prefork", "-c", "3")
    variables = {"TEST_POOL": "prefork"}  # noqa: RUF012


@pytest.fixture
def default_worker_container_cls() -> type[ClusterWorker]:
    return PreforkWorker


async def test_processes_run_under_a_stock_prefork_worker(
    celery_setup: CeleryTestSetup, registry: BackendRegistry, puppeteer: Puppeteer
) -> None:
    worker = celery_setup.worker
    puppets = [(Puppet(puppeteer.port).with_name(name), STOCK) for name in ("good", "bad", "late")]
    collecting = PLACED_PAR(*puppets, on_failure=FailurePolicy.COLLECT, deadline=2.0, registry=registry)
    running = asyncio.create_task(collecting.run())
    async with asyncio.timeout(15):
        hands = {hand.name: hand for hand in await puppeteer.wait_for(3)}
        # Each in a child process of its own.
        assert {hand.parent for hand in hands.values()} == {worker.container.pid}
        assert len({hand.pid for hand in hands.values()}) == 3
        hands["good"].order("return", (1, 2))
        hands["bad"].order("checkpoint", "one")
        hands["bad"].order("raise", "no")
        hands["late"].order("checkpoint", "two")
        good, bad, late = (await running).results
        assert await hands["late"].ended() == "cancelled"
    assert good.value == [1, 2]
    assert isinstance(bad.failure.error, LookupError)
    assert bad.failure.checkpoint == "one"
    assert isinstance(late.failure.error, DeadlineExceeded)
    assert (late.failure.error.phase, late.failure.checkpoint) == ("running", "two")

    # HALT cancels a coroutine in another child process; an ordinary task runs beside it all.
    halting = asyncio.create_task(PLACED_PAR(*puppets[:2], registry=registry).run())
    async with asyncio.timeout(15):
        first, second = (await puppeteer.wait_for(5))[3:]
        answer = celery_setup.app.send_task("tests.add", (1, 2), queue="stock")
        assert await asyncio.to_thread(answer.get, timeout=10) == 3
        first.order("raise", "no")
        assert await second.ended() == "cancelled"
        halted = await halting
    errors = {failure.process_name: failure.error for failure in halted.failures}
    assert isinstance(errors[second.name], ProcessCancelled)
