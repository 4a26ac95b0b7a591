"""A fleet for the integration tests: one Redis and one worker per endpoint, for a whole module."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from celery import Celery

from stbass.backends.celery import CeleryBackend, make_app
from stbass.placement import BackendRegistry
from stbass.testing import RedisServer, Worker

APP = "tests.support.worker_app"


@dataclass
class Fleet:
    """A Redis with workers on ``anthropic`` and ``local:8080``."""

    server: RedisServer
    workers: dict[str, Worker]

    @property
    def env(self) -> dict[str, str]:
        return {"STBASS_BROKER_URL": self.server.url, "STBASS_RESULT_BACKEND": self.server.url}

    def app(self, **conf: Any) -> Celery:
        return make_app("tests", broker_url=self.server.url, **conf)

    def keys(self) -> set[str]:
        """Every key in Redis that is not a result or kombu's own."""
        answer = self.server.command("KEYS", "*")
        names = answer if isinstance(answer, list) else str(answer).split("\n")
        return {name for name in map(str, names) if name and not name.startswith(("celery-", "_kombu"))}


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """A fleet for the module; its workers are not to be harmed."""
    with RedisServer() as server:
        env = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url}
        with Worker(APP, "anthropic", env=env) as anthropic, Worker(APP, "local:8080", env=env) as local:
            yield Fleet(server, {"anthropic": anthropic, "local:8080": local})
            # Celery's AsyncResult unsubscribes when it is collected, which it must be while the server is there.
            gc.collect()


@pytest.fixture
async def backend(fleet: Fleet) -> AsyncIterator[CeleryBackend]:
    """A backend on the fleet, closed at the end of the test."""
    made = CeleryBackend(fleet.app())
    yield made
    await made.aclose()


@pytest.fixture
def registry(backend: CeleryBackend) -> BackendRegistry:
    """A registry in which the fleet's endpoints are known."""
    made = BackendRegistry()
    made.register("anthropic", backend)
    made.register("local:*", backend)
    made.register("nowhere", backend)
    return made
