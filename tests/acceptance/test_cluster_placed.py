"""A PLACED_PAR over two endpoints, each with a worker of its own."""

from __future__ import annotations

import asyncio
import sys
import time

import pytest
from pytest_celery import CeleryTestSetup

from stbass._values.endpoint import Placement
from stbass.backends.celery import CeleryBackend
from stbass.errors import DeadlineExceeded, ProcessCancelled
from stbass.placement import PLACED_PAR, BackendRegistry
from stbass.result import FailurePolicy
from stbass.testing._guarded import GuardedProcess
from tests.acceptance.conftest import ROOT, ClusterWorker
from tests.support.puppets import Puppet, Puppeteer

pytestmark = pytest.mark.acceptance

ANTHROPIC = Placement(model="opus", endpoint="anthropic")
LOCAL = Placement(model="nomic", endpoint="local:8080")
DEADLINE = 2.0


class LocalModel(ClusterWorker):
    queue = "local:8080"


@pytest.fixture
def second_worker_cls() -> type[ClusterWorker]:
    return LocalModel


async def test_collect_keeps_what_finished_and_tells_of_each_of_the_others(
    celery_setup: CeleryTestSetup, registry: BackendRegistry, backend: CeleryBackend, puppeteer: Puppeteer
) -> None:
    fast, slow, failing = (Puppet(puppeteer.port).with_name(name) for name in ("fast", "slow", "failing"))
    composition = PLACED_PAR(
        (fast, ANTHROPIC),
        (slow, LOCAL),
        (failing, ANTHROPIC),
        on_failure=FailurePolicy.COLLECT,
        deadline=DEADLINE,
        registry=registry,
    )
    started = time.monotonic()
    running = asyncio.create_task(composition.run())
    async with asyncio.timeout(DEADLINE + backend.deadline_grace):
        (await puppeteer.named("fast")).order("return", {"answer": 42})
        hung = await puppeteer.named("slow")
        hung.order("checkpoint", "half way")
        broken = await puppeteer.named("failing")
        broken.order("checkpoint", [1, 2])
        broken.order("raise", "no such model")
        result = await running
        took = time.monotonic() - started
        assert await hung.ended() == "cancelled"

    assert DEADLINE <= took < DEADLINE + backend.deadline_grace
    assert not result.is_ok
    one, two, three = result.results
    opus, nomic = celery_setup.worker_cluster
    assert one.value == {"answer": 42}
    assert one.run is not None
    assert one.run.worker == opus.hostname()

    late = two.failure
    assert isinstance(late.error, DeadlineExceeded)
    assert (late.error.phase, late.error.worker) == ("running", nomic.hostname())
    assert (late.checkpoint, late.placement, late.process_name) == ("half way", LOCAL, "slow")

    assert isinstance(three.failure.error, LookupError)
    assert (three.failure.checkpoint, three.failure.placement) == ([1, 2], ANTHROPIC)
    assert "puppets.py" in three.failure.traceback_str
    assert [hand.pid for hand in (hung, broken)] == [nomic.container.pid, opus.container.pid]


async def test_halt_cancels_the_rest_on_both_workers(registry: BackendRegistry, puppeteer: Puppeteer) -> None:
    puppets = [
        (Puppet(puppeteer.port).with_name(f"p{number}"), LOCAL if number % 2 else ANTHROPIC) for number in range(8)
    ]
    running = asyncio.create_task(PLACED_PAR(*puppets, registry=registry).run())
    async with asyncio.timeout(10):
        hands = await puppeteer.wait_for(len(puppets))
        failing = await puppeteer.named("p3")
        failing.order("raise", "enough")
        rest = [hand for hand in hands if hand is not failing]
        assert await asyncio.gather(*(hand.ended() for hand in rest)) == ["cancelled"] * 7
        result = await running
    assert isinstance(result.results[3].failure.error, LookupError)
    others = [item for index, item in enumerate(result.results) if index != 3]
    assert all(isinstance(item.failure.error, ProcessCancelled) for item in others)
    assert all("p3" in str(item.failure.error) for item in others)


async def test_attach_gets_the_results_after_the_producer_was_killed(
    celery_setup: CeleryTestSetup, registry: BackendRegistry, puppeteer: Puppeteer
) -> None:
    urls = [celery_setup.broker.config()["host_url"], celery_setup.backend.config()["host_url"]]
    command = [sys.executable, "-m", "tests.support.cluster_producer", *urls, str(puppeteer.port)]
    producer = GuardedProcess(command, name="producer", cwd=ROOT)
    try:
        async with asyncio.timeout(15):
            hands = {hand.name: hand for hand in await puppeteer.wait_for(3)}
            hands["two"].order("checkpoint", {"step": 2})
            await asyncio.to_thread(producer.kill)
    finally:
        producer.kill()
    assert producer.exit_code is not None
    # The producer wrote it before it sent anything.
    [key] = celery_setup.backend.container.client.keys("stbass:group:*")
    group_id = key.rpartition(":")[2]

    attached = asyncio.create_task(PLACED_PAR.attach(group_id, registry=registry))
    async with asyncio.timeout(10):
        hands["one"].order("return", "first")
        hands["two"].order("raise", "went wrong")
        hands["three"].order("return", "third")
        result = await attached
    assert [item.is_ok for item in result.results] == [True, False, True]
    assert [item.value for item in result.results if item.is_ok] == ["first", "third"]
    assert result.failures[0].checkpoint == {"step": 2}
    assert len(puppeteer.hands) == 3
    # It can be done again, and by others: the results are kept.
    again = await PLACED_PAR.attach(group_id, registry=registry)
    assert [item.is_ok for item in again.results] == [True, False, True]


async def test_an_ordinary_task_beside_the_processes(
    celery_setup: CeleryTestSetup, registry: BackendRegistry, puppeteer: Puppeteer
) -> None:
    composition = PLACED_PAR((Puppet(puppeteer.port).with_name("beside"), ANTHROPIC), registry=registry)
    running = asyncio.create_task(composition.run())
    async with asyncio.timeout(10):
        hand = await puppeteer.named("beside")
        answers = [
            celery_setup.app.send_task("tests.add", (n, 1), queue=queue)
            for n, queue in enumerate(["anthropic", "local:8080"])
        ]
        assert [await asyncio.to_thread(answer.get, timeout=5) for answer in answers] == [1, 2]
        hand.order("return", 3)
        assert (await running).value == [3]
