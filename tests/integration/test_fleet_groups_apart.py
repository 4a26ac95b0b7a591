"""A group whose processes went to several applications, attached to from another program."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from stbass import PLACED_PAR, BackendRegistry, Placement
from stbass.backends.celery import CeleryBackend
from stbass.errors import BackendUnavailableError
from stbass.result import FailurePolicy
from stbass.testing import RedisServer
from tests.integration.conftest import Fleet, workers_on
from tests.support.agents import Fail, Give
from tests.support.waiting import until

ONE, TWO, THREE = (Placement(endpoint=name) for name in ("one", "two", "three"))


@pytest.fixture(scope="module")
def fleets(server: RedisServer) -> Iterator[tuple[Fleet, Fleet]]:
    """Two applications, each with a server of its own."""
    with RedisServer() as other, workers_on(server, "one,two") as first, workers_on(other, "three") as second:
        yield first, second


@pytest.fixture
async def backends(fleets: tuple[Fleet, Fleet]) -> AsyncIterator[dict[str, CeleryBackend]]:
    """Two backends on the first application, one on the second."""
    async with contextlib.AsyncExitStack() as stack:
        app = fleets[0].app()
        made = {
            "one": CeleryBackend(app, queue="one"),
            "two": CeleryBackend(app, queue="two"),
            "three": CeleryBackend(fleets[1].app()),
        }
        for backend in made.values():
            stack.push_async_callback(backend.aclose)
        yield made


def registry_with(backends: dict[str, CeleryBackend], *names: str) -> BackendRegistry:
    """A registry with some of them."""
    registry = BackendRegistry()
    for name in names:
        registry.register(name, backends[name])
    return registry


async def test_attach_finds_what_went_to_several_applications(backends: dict[str, CeleryBackend]) -> None:
    registry = registry_with(backends, "one", "two", "three")
    pairs: list[Any] = [(Give(number), (ONE, TWO, THREE)[number % 3]) for number in range(100)]
    pairs += [(Fail("half way").optional(), THREE), Give("here")]
    result = await PLACED_PAR(*pairs, registry=registry, on_failure=FailurePolicy.COLLECT, deadline=60).run()
    group_id = result.group.id

    # with all backends: all, in order
    found = await PLACED_PAR.attach(group_id, registry=registry, deadline=60)
    assert [one.value for one in found.results[:100]] == list(range(100))
    assert found.results[100].failure.checkpoint == "half way"
    assert "ran in the program that started the group" in str(found.results[101].failure.error)
    # one backend of an application knows what went there by another
    found = await PLACED_PAR.attach(group_id, registry=registry_with(backends, "two", "three"), deadline=60)
    assert [one.value for one in found.results[:100]] == list(range(100))

    # without one of the applications: an error that says what is missing
    missing = r"102 processes, and 34 of them are not known here: 'Give' on @ three \(celery:\*\)"
    with pytest.raises(LookupError, match=missing):
        await PLACED_PAR.attach(group_id, registry=registry_with(backends, "one", "two"))
    with pytest.raises(LookupError, match="and 67 of them"):
        await PLACED_PAR.attach(group_id, backend=backends["three"])


async def test_attach_while_they_run(backends: dict[str, CeleryBackend]) -> None:
    registry = registry_with(backends, "one", "three")
    composition = PLACED_PAR((Give(1, seconds=1.0), ONE), (Give(2, seconds=1.0), THREE), registry=registry)
    opened: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    class Telling(CeleryBackend):
        async def execute(self, process: Any, ctx: Any) -> Any:
            if not opened.done():
                opened.set_result(ctx._frame.group)
            return await super().execute(process, ctx)

    registry.register("one", backends["one"].failing(Telling))
    running = asyncio.ensure_future(composition.run())
    found = await PLACED_PAR.attach(await opened, registry=registry, deadline=60)
    assert found.value == [1, 2] == (await running).value


async def test_a_server_that_is_away_is_the_error(fleets: tuple[Fleet, Fleet]) -> None:
    with RedisServer() as server:
        away = CeleryBackend(Fleet(server, {}).app(), queue="three")
        backend = CeleryBackend(fleets[0].app(), queue="one")
        registry = BackendRegistry()
        registry.register("one", backend)
        registry.register("three", away)
        # Its workers are nowhere, so it is only sent.
        running = asyncio.ensure_future(PLACED_PAR((Give(1), ONE), (Give(2), THREE), registry=registry).run())
        [key] = await until(lambda: server.command("KEYS", "stbass:group:*"), timeout=30)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await away.aclose()
    with pytest.raises(BackendUnavailableError):
        await PLACED_PAR.attach(key.rpartition(":")[2], registry=registry)
    await away.aclose()
    await backend.aclose()
