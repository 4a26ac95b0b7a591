"""Two fleets on one server, told apart by database or by key prefix; and a user who may use only that prefix."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from stbass import PLACED_PAR, Chan
from stbass._process.context import ProcessContext
from stbass._values.endpoint import Placement
from stbass._values.policy import FailurePolicy
from stbass.backends.celery import CeleryBackend, make_app
from stbass.errors import ConfigurationError, NotConsumedError
from stbass.placement import BackendRegistry
from stbass.testing import RedisServer, Worker
from stbass.transports.redis import RedisTransport
from tests.integration.conftest import APP
from tests.support.agents import Give, Steps, whoami
from tests.support.servers import on_every_server
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
ODD = "fleet [1]*'\\:"
"""Nothing in a prefix is special, neither to a pattern nor to a script."""


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with RedisServer(program=getattr(request, "param", None)) as made:
        yield made


class Side:
    """One of the fleets."""

    def __init__(self, server: RedisServer, *, database: int = 0, prefix: str = "", user: str = "") -> None:
        self.url = f"redis://{user and f'{user}:secret@'}127.0.0.1:{server.port}/{database}"
        self.prefix = prefix

    def app(self) -> Any:
        options = {"global_keyprefix": self.prefix}
        return make_app(
            "tests",
            broker_url=self.url,
            stbass_lease=1.0,
            broker_transport_options=options,
            result_backend_transport_options=options,
        )

    def worker(self) -> Worker:
        env = {"STBASS_BROKER_URL": self.url, "STBASS_RESULT_BACKEND": self.url, "TEST_PREFIX": self.prefix}
        return Worker(APP, "shared", env={**env, "TEST_LEASE": "1"})

    @asynccontextmanager
    async def backend(self) -> AsyncIterator[CeleryBackend]:
        made = CeleryBackend(self.app(), queue="shared", lease=1.0)
        try:
            yield made
        finally:
            await made.aclose()


@pytest.mark.parametrize("how", [pytest.param("databases", marks=pytest.mark.slow), "prefixes"])
async def test_two_fleets_see_nothing_of_each_other(server: RedisServer, how: str) -> None:
    if how == "databases":
        with_worker, without = Side(server), Side(server, database=1)
    else:
        with_worker, without = Side(server, prefix=ODD), Side(server, prefix="b:")
    async with with_worker.backend() as ours, without.backend() as theirs:
        with with_worker.worker() as worker:
            assert await ours.health_check()
            assert [one.worker for one in await ours.workers()] == [worker.name]
            assert not await theirs.health_check()
            assert await theirs.workers() == []
            assert not await CeleryBackend(without.app()).health_check()
            # A process of theirs is not run here, and theirs says why.
            registry = BackendRegistry()
            registry.register("*", theirs)
            lonely = PLACED_PAR(
                (Give(1), Placement(endpoint="shared")),
                registry=registry,
                deadline=1.0,
                on_failure=FailurePolicy.COLLECT,
            )
            [result] = (await lonely.run()).results
            assert isinstance(result.failure.error, NotConsumedError)
            # Their producers look for lost workers too, and leave ours alone.
            waits = asyncio.create_task(theirs.execute(Give(2), ProcessContext("give")))
            steps = (await ours.execute(Steps(3, 1.0), ProcessContext("steps"))).value
            assert steps["attempt"] == 1
            waits.cancel()
            await asyncio.gather(waits, return_exceptions=True)
            # What is cancelled there is not cancelled here.
            ctx = ProcessContext("steps")
            running = asyncio.create_task(ours.execute(Steps(2, 0.5), ctx))
            await theirs.client().withdraw([ctx.process_id])
            assert (await running).is_ok


@on_every_server
@pytest.mark.slow
async def test_a_fleet_whose_user_may_use_only_its_prefix(server: RedisServer) -> None:
    server.command(
        "ACL", "SETUSER", "fleet", "on", ">secret", "resetkeys", "~mine:*", "resetchannels", "&mine:*", "+@all"
    )
    server.command("SET", "theirs", "1")
    side = Side(server, prefix="mine:", user="fleet")
    async with side.backend() as backend:
        registry = BackendRegistry()
        registry.register("*", backend)
        with side.worker() as worker:
            assert await backend.health_check()
            placed = [(Steps(n, 0.05), Placement(endpoint="shared")) for n in range(1, 6)]
            group = await PLACED_PAR(*placed, registry=registry, deadline=20.0).run()
            assert group.is_ok
            transport = RedisTransport(backend.settings.backend)
            channel = Chan(int, name="numbers", transport=transport, capacity=2)
            sent = asyncio.create_task(_send(channel, 20))
            assert [await channel.recv() for _ in range(20)] == list(range(20))
            await sent
            await transport.aclose()
            answers = await asyncio.to_thread(backend._app.control.ping, timeout=2.0)
            assert [name for answer in answers for name in answer] == [worker.name]
            assert await asyncio.to_thread(backend._app.control.inspect(timeout=2.0).active_queues)
            # A worker that dies is found, and what it ran goes to the next.
            running = asyncio.create_task(backend.execute(Steps(3, 1.0), ProcessContext("steps")))
            await until(lambda: server.command("ZCARD", "mine:stbass:leases") == 1)
            worker.kill()
            await asyncio.to_thread(worker.start)
            assert (await asyncio.wait_for(running, 20)).value["attempt"] == 2
            assert "NOPERM" not in worker.log
    assert [key for key in server.command("KEYS", "*") if not key.startswith("mine:")] == ["theirs"]
    log = server.command("ACL", "LOG")
    assert log == [], log


async def test_the_deployed_application_takes_its_prefix_from_the_environment(server: RedisServer) -> None:
    env = {"STBASS_BROKER_URL": server.url, "STBASS_KEY_PREFIX": ODD, "STBASS_INCLUDE": "tests.support.agents"}
    side = Side(server, prefix=ODD)
    with Worker("celery_app", "shared", env=env) as worker:
        async with side.backend() as backend:
            assert (await backend.execute(Give(7), ProcessContext("give"))).value == 7
            found = await backend.workers()
    assert [one.worker for one in found] == [worker.name]
    assert [key for key in server.command("KEYS", "*") if not key.startswith(ODD)] == []


async def test_channels_of_two_prefixes_are_apart(server: RedisServer) -> None:
    mine, alike, theirs = (
        RedisTransport(server.url, prefix=prefix, namespace="shop", lease=5) for prefix in (ODD, ODD, "theirs:")
    )
    channels = [Chan(int, name="orders", transport=one, capacity=4) for one in (mine, alike, theirs)]
    for number, channel in enumerate((channels[0], channels[2])):
        await channel.send(number)
    assert await channels[1].recv() == 0
    keys = server.command("KEYS", "*")
    assert keys
    assert {key.startswith((ODD, "theirs:")) for key in keys} == {True}
    for transport in (mine, alike, theirs):
        await transport.aclose()


async def test_channels_take_the_options_that_celery_takes(server: RedisServer) -> None:
    transport = RedisTransport(server.url, options={"global_keyprefix": "a:", "socket_timeout": 3})
    address = transport.options.address
    assert (address.prefix, address.options.socket_timeout) == ("a:", 3)
    assert RedisTransport("sentinel://one:26379", options={"master_name": "main"}).options.address.master_name == "main"
    with pytest.raises(ConfigurationError, match="or in options= of RedisTransport"):
        RedisTransport("sentinel://one:26379")
    with pytest.raises(ConfigurationError, match="has its prefix and options"):
        RedisTransport(address, prefix="b:")
    wrong: Any = 7
    for given in ({"prefix": wrong}, {"options": {"socket_timeout": "long"}}):
        with pytest.raises(ConfigurationError, match="the transport option"):
            RedisTransport(server.url, **given)


async def _send(channel: Chan[int], count: int) -> None:
    for n in range(count):
        await channel.send(n)


async def test_one_composition_places_its_parts_on_two_servers(server: RedisServer) -> None:
    # given what the page how-far.md shows, with the addresses of two servers, and a worker on each
    [code] = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "how-far.md").read_text(), re.DOTALL | re.MULTILINE)
    with RedisServer() as second:
        for address, each in (("10.0.0.1:6379", server), ("10.0.0.2:6379", second)):
            code = code.replace(address, f"127.0.0.1:{each.port}")
        names: dict[str, Any] = {}
        exec(code, names)  # noqa: S102 - the page is ours
        envs = [{"STBASS_BROKER_URL": each.url, "STBASS_RESULT_BACKEND": each.url} for each in (server, second)]
        with Worker(APP, "anthropic", env=envs[0]) as here, Worker(APP, "local:8080", env=envs[1]) as there:
            # when one composition has a part at each
            parts = [(whoami, Placement(endpoint=endpoint)) for endpoint in ("anthropic", "local:8080")]
            group = await PLACED_PAR(*parts, registry=names["registry"], deadline=30.0).run()
    # then each ran on the worker of its server
    assert [result.value["pid"] for result in group.results] == [here.pid, there.pid]
