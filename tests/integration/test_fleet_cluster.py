"""A Redis Cluster is refused at the start, by name, whoever meets it: producer, worker or channel."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from stbass import PLACED_PAR, Chan
from stbass._process.context import ProcessContext
from stbass._values.endpoint import Placement
from stbass.backends.celery import CeleryBackend, make_app
from stbass.errors import BackendUnavailableError
from stbass.placement import BackendRegistry
from stbass.testing import RedisServer, Worker
from stbass.testing._guarded import SubprocessError
from stbass.testing.redis_server import free_port
from stbass.transports.redis import RedisTransport
from tests.integration.conftest import APP
from tests.support.agents import Give
from tests.support.servers import WHEELS

REFUSED = "it is a Redis Cluster, which stbass does not support; use a single server, or Sentinel for failover"


@pytest.fixture(scope="module", params=[pytest.param(None, id="default"), *WHEELS])
def cluster(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A node that has all slots: everything works that uses one key at a time."""
    # The nodes of a cluster talk to each other on a port that is higher by 10,000.
    while (port := free_port()) > 55_535:
        pass
    with RedisServer(program=request.param, port=port, args=("--cluster-enabled", "yes")) as server:
        server.command("CLUSTER ADDSLOTS", *range(16384))
        yield server


async def test_a_producer_refuses_a_cluster(cluster: RedisServer) -> None:
    backend = CeleryBackend(make_app("tests", broker_url=cluster.url), queue="q")
    registry = BackendRegistry()
    registry.register("*", backend)
    async with asyncio.timeout(10):
        with pytest.raises(BackendUnavailableError, match=REFUSED):
            await backend.execute(Give(1), ProcessContext("give"))
        with pytest.raises(BackendUnavailableError, match=REFUSED):
            await PLACED_PAR((Give(1), Placement(endpoint="q")), registry=registry).run()
        with pytest.raises(BackendUnavailableError, match=REFUSED):
            await backend.workers()
        assert not await backend.health_check()
    await backend.aclose()


async def test_a_channel_refuses_a_cluster(cluster: RedisServer) -> None:
    transport = RedisTransport(cluster.url)
    async with asyncio.timeout(10):
        with pytest.raises(BackendUnavailableError, match=REFUSED):
            await Chan(int, name="c", transport=transport).send(1)
    await transport.aclose()


@pytest.mark.parametrize("what", ["the broker", "the result backend"])
def test_a_worker_refuses_a_cluster(cluster: RedisServer, what: str) -> None:
    with RedisServer() as plain:
        broker, results = (cluster, plain) if what == "the broker" else (plain, cluster)
        env = {"STBASS_BROKER_URL": broker.url, "STBASS_RESULT_BACKEND": results.url}
        worker = Worker(APP, "q", env=env)
        with pytest.raises(SubprocessError) as caught:
            worker.start()
        assert worker.exit_code == 1
        assert f"{what} " in caught.value.log
        assert REFUSED in caught.value.log
        assert "MOVED" not in caught.value.log
        assert "CROSSSLOT" not in caught.value.log
