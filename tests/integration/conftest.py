"""A fleet for the integration tests: one Redis and one worker per endpoint, for a whole module."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

from stbass.backends.celery import CeleryBackend, make_app
from stbass.placement import BackendRegistry
from stbass.testing import RedisServer, Worker
from tests.support.backends import registry_of

if TYPE_CHECKING:
    from tests.support.mcp_server import Server

_KEPT = ("took:", "free:", "idle:", "given:", "ended:", "since", "swept", "runs")
APP = "tests.support.worker_app"


@dataclass
class Fleet:
    """A Redis, and the workers on it by endpoint."""

    server: RedisServer
    workers: dict[str, Worker]
    conf: dict[str, Any] = field(default_factory=dict)
    """Settings of the producer's application, for the fixture ``backend``."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the backend, for the same."""

    @property
    def env(self) -> dict[str, str]:
        return {"STBASS_BROKER_URL": self.server.url, "STBASS_RESULT_BACKEND": self.server.url}

    def app(self, **conf: Any) -> Celery:
        return make_app("tests", broker_url=self.server.url, **conf)

    def keys(self) -> set[str]:
        """Every key in Redis but results, kombu's own, and the few that a fleet keeps for itself."""
        answer = self.server.command("KEYS", "*")
        names = answer if isinstance(answer, list) else str(answer).split("\n")
        kept = ("celery-", "_kombu", *(f"stbass:{name}" for name in _KEPT))
        return {name for name in map(str, names) if name and not name.startswith(kept)}


@contextmanager
def workers_on(
    server: RedisServer, *endpoints: str, env: Mapping[str, str] | None = None, **options: Any
) -> Iterator[Fleet]:
    """A worker for each of these endpoints, with these options; ``env`` is what they need beside the server's URL."""
    made = Fleet(server, {})
    with ExitStack() as stack:
        for endpoint in endpoints:
            worker = Worker(APP, endpoint, env={**made.env, **(env or {})}, **options)
            made.workers[endpoint] = stack.enter_context(worker)
        yield made
        # Celery's AsyncResult unsubscribes when it is collected, which it must be while the server is there.
        gc.collect()


@pytest.fixture(scope="module")
def fleet(server: RedisServer, request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """A fleet for the module, whose ``INCLUDE`` and ``FUNCTIONS`` say what it runs; not to be harmed."""
    include, functions = (getattr(request.module, name, ()) for name in ("INCLUDE", "FUNCTIONS"))
    env = {"TEST_FUNCTIONS": ",".join(functions)}
    with workers_on(server, "anthropic", "local:8080", env=env, include=include) as made:
        yield made


@pytest.fixture
async def backend(fleet: Fleet) -> AsyncIterator[CeleryBackend]:
    """A backend on the fleet, closed at the end of the test."""
    async with aclosing(CeleryBackend(fleet.app(**fleet.conf), **fleet.options)) as made:
        yield made


@pytest.fixture(scope="module")
def mcp_server() -> Iterator[Server]:
    """An MCP server over HTTP, for the module."""
    from tests.support.mcp_server import serving

    with serving("http") as made:
        yield made


@pytest.fixture
def registry(backend: CeleryBackend) -> BackendRegistry:
    """A registry in which the fleet's endpoints are known."""
    return registry_of(backend, "anthropic", "local:*", "nowhere")
