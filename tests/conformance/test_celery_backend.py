"""The Celery backend passes the same conformance checks as every other backend."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from stbass.backends.celery import CeleryBackend, make_app
from stbass.testing import RedisServer, Worker
from stbass.testing.backends import BACKEND_CHECKS, check_backend
from stbass.testing.runs import RUN_CHECKS, check_runs


@pytest.fixture(scope="module", params=["asyncio", "threads"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A Redis with a worker that knows the checks' processes."""
    with RedisServer() as server:
        env = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url}
        agents = ["stbass.testing.backend_agents"]
        concurrency = None if request.param == "asyncio" else 16
        with Worker(
            "tests.support.worker_app", "check", env=env, include=agents, pool=request.param, concurrency=concurrency
        ):
            yield server.url


@pytest.mark.parametrize("name", BACKEND_CHECKS)
async def test_the_celery_backend(url: str, name: str) -> None:
    @asynccontextmanager
    async def make() -> AsyncIterator[CeleryBackend]:
        backend = CeleryBackend(make_app("check", broker_url=url), queue="check")
        yield backend
        await backend.aclose()

    await check_backend(make, only=[name])


@pytest.mark.parametrize("name", RUN_CHECKS)
async def test_runs_of_the_celery_backend(url: str, name: str) -> None:
    @asynccontextmanager
    async def make() -> AsyncIterator[CeleryBackend]:
        backend = CeleryBackend(make_app("check", broker_url=url), queue="check")
        yield backend
        await backend.aclose()

    await check_runs(make, only=[name])
