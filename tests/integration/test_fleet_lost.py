"""Workers that are taken for dead, or nearly so, and live: nothing is lost and nothing runs twice for it."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from stbass._process.context import ProcessContext
from stbass.backends.celery import CeleryBackend, keys, make_app
from stbass.backends.celery.envelope import Envelope
from stbass.backends.celery.settings import read_settings
from stbass.backends.celery.worker.runtime import Job, Outcome, Runtime
from stbass.testing import RedisServer, Worker
from tests.integration.conftest import APP
from tests.support.proxy import Proxy
from tests.support.puppets import Puppet, Puppeteer
from tests.support.waiting import until

LEASE = 4.0
"""Long enough for a lease to be renewed over a second connection, when the first one does not answer."""
ANSWER = 6.0
"""Seconds after which a connection is given up by what stores results: longer than a lease."""


@pytest.fixture
async def backend(server: RedisServer) -> AsyncIterator[CeleryBackend]:
    server.command("FLUSHALL")
    app = make_app("tests", broker_url=server.url, stbass_lease=LEASE)
    async with aclosing(CeleryBackend(app, queue="q", lease=LEASE)) as made:
        yield made


def worker_at(url: str) -> Worker:
    env = {"STBASS_BROKER_URL": url, "STBASS_RESULT_BACKEND": url, "TEST_LEASE": str(LEASE)}
    env["TEST_OPTIONS"] = json.dumps({"socket_timeout": ANSWER})
    return Worker(APP, "q", env=env, include=["tests.support.puppets"])


async def test_a_message_that_somebody_is_about_to_put_back_is_not_acknowledged(
    server: RedisServer, puppeteer: Puppeteer, backend: CeleryBackend
) -> None:
    async with worker_at(server.url) as worker, asyncio.timeout(60):
        running = asyncio.create_task(backend.execute(Puppet(puppeteer.port), ProcessContext("puppet")))
        await puppeteer.named("puppet")
        # given a worker that does not renew its lease, which somebody finds who is stopped in the middle of it
        worker.send_signal(signal.SIGSTOP)
        found: list[Any] = []

        def find() -> bool:
            found.extend(server.command("EVAL", keys.SWEEP, 0, 60_000, 200)[0])
            return bool(found)

        await until(find, timeout=30)
        # when the worker goes on, and hears that the process is not its own any more
        worker.send_signal(signal.SIGCONT)
        await asyncio.to_thread(worker.wait_for_log, "stopping it here", 30.0)
        await puppeteer.wait_for(1)
        assert await puppeteer.hands[0].ended() == "cancelled"
        # then the message is still there for who found it, also after all that it has acknowledged is written
        await backend.execute(Puppet(0).with_name("refused"), ProcessContext("refused"))
        await until(lambda: server.command("HLEN", "unacked") == 1, timeout=30)
        # and it is run when the one who found it, too, is taken for dead
        server.command("ZADD", "stbass:leases", 1, found[0][0])
        hand = await puppeteer.named("puppet", attempt=2)
        hand.order("return", "in the end")
        assert (await running).value == "in the end"
        await until(lambda: server.command("HLEN", "unacked") == 0, timeout=30)


@pytest.mark.slow
async def test_what_has_ended_is_not_run_again_while_its_result_cannot_be_stored(
    server: RedisServer, puppeteer: Puppeteer, backend: CeleryBackend
) -> None:
    async with Proxy(server.port) as proxy, worker_at(proxy.url) as worker, asyncio.timeout(90):
        running = asyncio.create_task(backend.execute(Puppet(puppeteer.port), ProcessContext("puppet")))
        hand = await puppeteer.named("puppet")
        async with worker_at(server.url):
            # when a firewall forgets the worker's connections, and the process ends: the lease is renewed over a new
            # connection long before the one by which results are stored is given up
            proxy.forget_all()
            hand.order("return", "once")
            assert await hand.ended() == "returned"
            assert (await running).value == "once"
            await until(lambda: server.command("HLEN", "unacked") == 0, timeout=30)
        assert worker.running
    assert [(one.name, one.attempt) for one in puppeteer.hands] == [("puppet", 1)]


def test_a_message_that_comes_while_the_worker_ends_is_left_to_another_one(server: RedisServer) -> None:
    settings = read_settings(make_app("tests", broker_url=server.url).conf)
    runtime = Runtime(settings, "ends", b"celery-task-meta-")
    runtime.close()
    done: list[Outcome] = []
    # It is no fault of the message, which would be refused for it, and acknowledged.
    runtime.submit(Job(Envelope("id", "q", "late", 1.0), {}, "tag", None, done.append))
    assert done == []
    assert server.command("LLEN", "stbass:refused") == 0
