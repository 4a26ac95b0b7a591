"""Connections that were closed, or that a firewall forgot, while nothing was said on them; and many callers at once."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import pytest
import redis

from stbass import PLACED_PAR, Chan
from stbass._process.context import ProcessContext
from stbass._values.endpoint import Placement
from stbass.backends.celery import CeleryBackend, make_app
from stbass.errors import ConfigurationError
from stbass.placement import BackendRegistry
from stbass.testing import RedisServer, Worker
from stbass.transports.redis import RedisTransport
from stbass.transports.redis.address import ConnectionOptions, RedisAddress
from stbass.transports.redis.script_call import ScriptCall
from tests.integration.conftest import APP
from tests.support.agents import Give
from tests.support.proxy import Proxy
from tests.support.waiting import until

QUICK = {"socket_timeout": 2.0, "health_check_interval": 1.0}
"""So that the test need not wait for as long as the defaults say."""


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as made:
        yield made


def fleet(url: str, **options: Any) -> CeleryBackend:
    given: dict[str, Any] = {"broker_transport_options": options, "result_backend_transport_options": options}
    return CeleryBackend(make_app("tests", broker_url=url, **given), queue="idle", lease=3.0)


def worker(url: str, **options: Any) -> Worker:
    env = {"STBASS_BROKER_URL": url, "STBASS_RESULT_BACKEND": url, "TEST_LEASE": "3"}
    return Worker(APP, "idle", env={**env, "TEST_OPTIONS": json.dumps(options)})


@pytest.fixture
async def backend(server: RedisServer) -> AsyncIterator[CeleryBackend]:
    made = fleet(server.url)
    yield made
    await made.aclose()


def registry_of(backend: CeleryBackend) -> BackendRegistry:
    made = BackendRegistry()
    made.register("*", backend)
    return made


def connections(server: RedisServer) -> int:
    return len(server.command("CLIENT LIST"))


async def give(backend: CeleryBackend, value: object, seconds: float = 0.0) -> object:
    result = await backend.execute(Give(value, seconds=seconds), ProcessContext("give"))
    return result.value


@pytest.mark.parametrize("how", ["killed", pytest.param("timed out", marks=pytest.mark.slow)])
async def test_connections_that_were_closed_while_idle_are_made_anew_silently(
    server: RedisServer, backend: CeleryBackend, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="stbass")
    idle = Placement(endpoint="idle")
    registry = registry_of(backend)
    transport = RedisTransport(server.url)
    channel = Chan(int, name="idle", transport=transport)
    with worker(server.url):
        # Several connections in the pool.
        assert await asyncio.gather(*(give(backend, n, 0.1) for n in range(6))) == list(range(6))
        assert (await asyncio.gather(channel.send(0), channel.recv()))[1] == 0
        for again in range(3):
            if how == "killed":
                server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            else:
                server.command("CONFIG", "SET", "timeout", "1")
                # Nobody tells when the server has closed them; those of the worker come back by themselves.
                await asyncio.sleep(2.5)
            group = await PLACED_PAR((Give(again), idle), registry=registry, deadline=10.0).run()
            assert group.is_ok
            assert await give(backend, again) == again
            assert await backend.workers()
            assert (await asyncio.gather(channel.send(again), channel.recv()))[1] == again
            assert await backend.health_check()
    await transport.aclose()
    assert [record for record in caplog.records if "cannot be reached" in record.getMessage()] == []


async def test_a_producer_whose_connections_a_firewall_forgot(server: RedisServer) -> None:
    async with Proxy(server.port) as proxy:
        backend = fleet(proxy.url, **QUICK)
        transport = RedisTransport(backend.settings.backend, lease=3.0)
        channel = Chan(int, name="forgotten", transport=transport)
        async with worker(server.url):
            assert await give(backend, "before") == "before"
            await asyncio.gather(channel.send(1), channel.recv())
            waits = asyncio.create_task(give(backend, "meanwhile", 1.0))
            reads = asyncio.create_task(channel.recv())
            await until(lambda: server.command("ZCARD", "stbass:leases") == 1)
            proxy.forget_all()
            began = time.monotonic()
            async with asyncio.timeout(20):
                # It ended while nobody heard it; and what is sent now arrives.
                assert await waits == "meanwhile"
                assert await give(backend, "after") == "after"
                await asyncio.gather(channel.send(5), reads)
            assert reads.result() == 5
            assert time.monotonic() - began < 15
            assert await backend.health_check()
        await transport.aclose()
        await backend.aclose()


@pytest.mark.parametrize("command", [("GET", "key"), ("SET", "key", b"x" * 30_000_000)], ids=["read", "written"])
async def test_a_server_that_does_not_answer_is_given_up_in_time(server: RedisServer, command: tuple[Any, ...]) -> None:
    client = RedisAddress.parse(server.url, "the test", {"socket_timeout": 1.5}).async_client()
    assert await client.ping()
    os.kill(server.pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(30):
            with pytest.raises(redis.TimeoutError):
                await client.execute_command(*command)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    # The next command has a connection of its own, and as much time again.
    assert await client.ping()
    # What takes long is not what does not answer.
    await asyncio.gather(*(client.blpop(["nothing"], timeout=1) for _ in range(3)))
    assert await client.ping()
    await client.aclose()


async def test_a_server_that_goes_away_before_the_first_process_is_sent_is_waited_for(
    server: RedisServer, backend: CeleryBackend, caplog: pytest.LogCaptureFixture
) -> None:
    client = backend.client()
    await client.patiently(client.redis.ping)
    server.stop()
    sending = asyncio.ensure_future(give(backend, 1))
    await until(lambda: sending.done() or "cannot send processes" in caplog.text, timeout=30)
    server.start()
    await until(lambda: sending.done() or server.command("LLEN", "idle") == 1, timeout=30)
    assert not sending.done()
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)


async def test_connections_that_could_not_be_made_do_not_count(server: RedisServer) -> None:
    client = RedisAddress.parse(server.url, "the test", {"max_connections": 2}).async_client()
    server.stop()
    for _ in range(5):
        with pytest.raises(redis.ConnectionError):
            await client.ping()
    server.start()
    before = connections(server)
    # More callers than connections: they wait for one another, and are not told that there are too many.
    assert await asyncio.gather(*(client.echo(str(n)) for n in range(50))) == [b"%d" % n for n in range(50)]
    assert connections(server) - before <= 2
    await client.aclose()


async def test_a_connection_is_used_again_without_a_word_and_made_anew_when_it_was_closed(server: RedisServer) -> None:
    client = RedisAddress.parse(server.url, "the test").async_client()
    double = ScriptCall(client, "return ARGV[1] * 2")
    assert [await double([1]), await double(["2"]), await double([b"3"])] == [2, 4, 6]
    number = await client.client_id()
    assert await double([4]) == 8
    assert await client.client_id() == number
    # The server closes it, and then forgets its scripts; nobody is told of either.
    server.command("CLIENT", "KILL", "ID", number)
    assert await double([5]) == 10
    after = await client.client_id()
    assert after > number
    server.command("SCRIPT", "FLUSH")
    assert [await double([6]), await double([7])] == [12, 14]
    with pytest.raises(redis.ResponseError, match="arithmetic"):
        await double(["none"])
    assert await double([8]) == 16
    assert await client.client_id() == after
    assert connections(server) == 2  # with the one that asks
    await client.aclose()
    await until(lambda: connections(server) == 1)


async def test_an_answer_that_nobody_waits_for_any_more_is_not_taken_for_another(server: RedisServer) -> None:
    client = RedisAddress.parse(server.url, "the test", {"max_connections": 2}).async_client()
    echo = ScriptCall(client, "return ARGV[1]")
    assert await echo(["first"]) == b"first"
    for number in range(20):
        calls = [asyncio.create_task(echo([f"{number}-{one}"])) for one in range(4)]
        for _ in range(number % 7):
            await asyncio.sleep(0)
        calls[0].cancel()
        calls[2].cancel()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [answers[1], answers[3]] == [f"{number}-1".encode(), f"{number}-3".encode()]
    await client.aclose()


async def _forgotten_worker(server: RedisServer, within: float, **options: Any) -> None:
    async with Proxy(server.port) as proxy:
        backend = fleet(server.url)
        async with worker(proxy.url, **options) as deaf:
            assert await backend.health_check()
            assert await give(backend, "before") == "before"
            proxy.forget_all()
            began = time.monotonic()
            # The server does not know it yet, and counts the worker among those who listen.
            assert not await backend.health_check()
            async with asyncio.timeout(within):
                assert await give(backend, "after") == "after"
                while not await backend.health_check():
                    pass
            assert time.monotonic() - began < within
            assert deaf.running
        await backend.aclose()


async def test_a_worker_whose_connections_a_firewall_forgot_hears_again(server: RedisServer) -> None:
    await _forgotten_worker(server, 15, **QUICK)


@pytest.mark.slow
async def test_a_worker_whose_connections_a_firewall_forgot_hears_again_within_30_s_by_default(
    server: RedisServer,
) -> None:
    await _forgotten_worker(server, 30)


async def test_a_thousand_callers_at_once_on_one_event_loop(server: RedisServer, backend: CeleryBackend) -> None:
    registry, idle = registry_of(backend), Placement(endpoint="idle")
    with worker(server.url):
        before = connections(server)
        groups = await asyncio.gather(
            *(PLACED_PAR((Give(n), idle), registry=registry, deadline=60.0).run() for n in range(1000))
        )
        assert [group.results[0].value for group in groups] == list(range(1000))
        # The worker opens some of its own when it has work for the first time.
        assert connections(server) - before <= ConnectionOptions().max_connections + 10
        assert len(await asyncio.gather(*(backend.workers() for _ in range(200)))) == 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("socket_timeout", "soon"),
        ("socket_timeout", 0),
        ("health_check_interval", -1),
        ("max_connections", 0),
        ("max_connections", 2.5),
        ("socket_keepalive", "no"),
        ("socket_keepalive_options", [1]),
        ("global_keyprefix", 7),
    ],
)
def test_a_wrong_transport_option_is_named(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=f"transport option {name} of broker_url is"):
        RedisAddress.parse("redis://localhost", "broker_url", {name: value})


def test_transport_options_and_settings_of_celery_hold() -> None:
    app = make_app(
        "tests",
        broker_url="redis://localhost/1",
        broker_transport_options={"socket_timeout": 3, "max_connections": 5, "socket_keepalive_options": {4: 60}},
        redis_socket_timeout=7.0,
        redis_retry_on_timeout=True,
        result_backend_transport_options={"health_check_interval": 0},
    )
    settings = CeleryBackend(app).settings
    assert settings.broker is not None
    assert settings.broker.options == ConnectionOptions(
        socket_timeout=3, max_connections=5, socket_keepalive_options=((4, 60),)
    )
    assert settings.backend.options == ConnectionOptions(
        socket_timeout=7.0, retry_on_timeout=True, health_check_interval=0
    )


async def test_a_worker_that_hears_nothing_of_what_it_has_claimed_is_no_lost_worker(server: RedisServer) -> None:
    lost = asyncio.Event()

    def lose(chunk: bytes) -> bytes:
        if lost.is_set() or not server.command("ZCARD", "stbass:leases"):
            return chunk
        proxy.forget_all()
        lost.set()
        return b""

    proxy = Proxy(server.port, change=lose)
    backend = CeleryBackend(make_app("tests", broker_url=server.url), queue="idle", lease=3.0, max_attempts=1)
    async with asyncio.timeout(120), proxy, aclosing(backend), worker(proxy.url):
        # given a process that may lose no worker, and is claimed by one that does not hear of that
        running = asyncio.create_task(backend.execute(Give("done"), ProcessContext("give")))
        await lost.wait()
        # when the connection turns out to be lost
        proxy.cut_all()
        # then it runs there
        result = await running
        assert (result.is_ok, result.value) == (True, "done")
        assert server.command("ZCARD", "stbass:leases") == 0
