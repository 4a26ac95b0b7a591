"""Fixtures that every tier of the tests shares."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stbass.testing import RedisServer, Worker
from tests.support.postgres_server import PostgresServer
from tests.support.puppets import Puppeteer
from tests.support.rabbitmq import RabbitMQ, find_rabbitmq
from tests.support.state_backends import DURABLE, Kind, kind_of

MakeWorker = Callable[..., Worker]

# A shell that is not interactive has what it starts in the background ignore SIGINT, and so would all that the tests
# start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
async def puppeteer() -> AsyncIterator[Puppeteer]:
    """Where the test's puppets report."""
    async with Puppeteer() as made:
        yield made


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis server for the whole session. Don't stop or restart it: for that, start one of your own."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A Redis server for the module, whose tests may do to it what they like as long as it runs afterwards.

    The one that the others use too, but for tests that are marked ``on_every_server``.
    """
    with RedisServer(program=getattr(request, "param", None)) as made:
        yield made


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQ]:
    """A RabbitMQ server for the whole session; whoever stops it or changes a setting puts that back."""
    programs = find_rabbitmq()
    if programs is None:
        pytest.skip("rabbitmq-server is not installed: apt install rabbitmq-server, or brew install rabbitmq")
    with RabbitMQ(programs) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server for the whole session. Don't stop or restart it: for that, start one of your own."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """The URL of the session's PostgreSQL, without tables at the start of the test."""
    postgres_server.wipe()
    return postgres_server.url()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of the session's Redis, empty at the start of the test."""
    redis_server.command("FLUSHALL")
    return redis_server.url


@pytest.fixture(params=DURABLE)
def durable(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    """Each kind of state backend that outlives the process, with nothing stored yet."""
    return kind_of(request.param, request, tmp_path)


@pytest.fixture
def make_worker(redis_url: str) -> Iterator[MakeWorker]:
    """``make_worker("anthropic", app=…, include=…, …)``: a started worker on the session's Redis, killed at the end."""
    workers: list[Worker] = []

    def make(*queues: str, app: str = "celery_app", env: dict[str, str] | None = None, **options: Any) -> Worker:
        broker = {"STBASS_BROKER_URL": redis_url, "STBASS_RESULT_BACKEND": redis_url}
        worker = Worker(app, *queues, env={**broker, **(env or {})}, **options)
        workers.append(worker)
        return worker.start()

    yield make
    for worker in workers:
        worker.kill()
