"""The pytest plug-in: fixtures for programs on a fleet. It is there wherever stbass is installed.

=====================  ================================================================================================
fixture                gives
=====================  ================================================================================================
``stbass_redis``       a :class:`~stbass.testing.RedisServer`, one for the whole session, emptied for each test
``stbass_worker``      ``stbass_worker("anthropic", include=["my_agents"])``: a started :class:`~stbass.testing.Worker`
                       on that Redis, a process of its own, killed at the end of the test
``stbass_registry``    a :class:`~stbass.BackendRegistry` in which every endpoint is a queue on that Redis
``stbass_memory``      a :class:`~stbass.BackendRegistry` in which every endpoint is one
                       :class:`~stbass.testing.MemoryBackend`: no Redis, no workers
=====================  ================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from stbass.placement import BackendRegistry
    from stbass.testing.redis_server import RedisServer
    from stbass.testing.worker import Worker

__all__ = ["stbass_memory", "stbass_redis", "stbass_registry", "stbass_worker"]

# Every run of pytest loads this module, so each fixture imports what it needs.


@pytest.fixture(scope="session")
def _stbass_redis_server() -> Iterator[RedisServer]:
    from stbass.testing.redis_server import RedisServer

    with RedisServer() as server:
        yield server


@pytest.fixture
def stbass_redis(_stbass_redis_server: RedisServer) -> RedisServer:
    """A Redis server on loopback, empty at the start of the test. One that the test has stopped is started again."""
    if not _stbass_redis_server.running:
        _stbass_redis_server.restart(empty=True)
    _stbass_redis_server.command("FLUSHALL")
    return _stbass_redis_server


@pytest.fixture
def stbass_worker(stbass_redis: RedisServer) -> Iterator[Callable[..., Worker]]:
    """``stbass_worker(*endpoints, include=…, env=…, …)``: a worker that consumes these endpoints when it is given back.

    It takes what :class:`~stbass.testing.Worker` takes, ``app=`` by name. Several calls start several workers.
    """
    from stbass.testing.worker import Worker

    workers: list[Worker] = []

    def start(*endpoints: str, app: str = "stbass.app", env: dict[str, str] | None = None, **options: Any) -> Worker:
        address = {"STBASS_BROKER_URL": stbass_redis.url, "STBASS_RESULT_BACKEND": stbass_redis.url}
        worker = Worker(app, *endpoints, env={**address, **(env or {})}, **options)
        workers.append(worker)
        return worker.start()

    yield start
    for worker in workers:
        worker.kill()


@pytest.fixture
def stbass_registry(stbass_redis: RedisServer) -> BackendRegistry:
    """A registry in which every endpoint is a queue on ``stbass_redis``."""
    from stbass.backends.celery import CeleryBackend, make_app
    from stbass.placement import BackendRegistry

    registry = BackendRegistry()
    registry.register("*", CeleryBackend(make_app("stbass_tests", broker_url=stbass_redis.url)))
    return registry


@pytest.fixture
def stbass_memory() -> BackendRegistry:
    """A registry in which every endpoint is one :class:`~stbass.testing.MemoryBackend`."""
    from stbass.placement import BackendRegistry
    from stbass.testing.memory import MemoryBackend

    registry = BackendRegistry()
    registry.register("*", MemoryBackend())
    return registry
