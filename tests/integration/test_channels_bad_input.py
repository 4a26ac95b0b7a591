"""What channels over Redis do not take: an error that says so, and nobody else is harmed."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
from collections.abc import AsyncIterator

import pytest

from stbass.channel import Chan
from stbass.errors import (
    BackendUnavailableError,
    ChannelTopologyError,
    ConfigurationError,
    NotTransportable,
    StbassError,
)
from stbass.testing import RedisServer
from stbass.testing.redis_server import free_port
from stbass.transports.redis import RedisTransport
from tests.support.proxy import Proxy


@pytest.fixture
async def named(server: RedisServer) -> AsyncIterator[RedisTransport]:
    transport = RedisTransport(server.url, namespace="shop")
    yield transport
    await transport.aclose()


async def there_and_back(writer: Chan[int], reader: Chan[int]) -> int:
    async with asyncio.timeout(30):
        sending = asyncio.create_task(writer.send(7))
        received = await reader.recv()
        await sending
        return received


@pytest.mark.parametrize("name", ["a b", "{x}", "ключ", "a/b:c*?[]", "\n\0", "\ud800", "x" * 5000])
async def test_a_name_with_odd_characters(server: RedisServer, named: RedisTransport, name: str) -> None:
    other = RedisTransport(server.url, namespace="shop")
    writer: Chan[int] = Chan(int, name=name, transport=named)
    reader: Chan[int] = Chan(int, name=name, transport=other)
    assert await there_and_back(writer, reader) == 7
    await writer.aclose()
    await other.aclose()


async def test_types_that_differ_are_told_when_the_second_end_is_bound(
    server: RedisServer, named: RedisTransport
) -> None:
    other = RedisTransport(server.url, namespace="shop")
    writer: Chan[int] = Chan(int, name="orders", transport=named)
    reader: Chan[str] = Chan(str, name="orders", transport=other)
    writer.bind_writer("w")
    await writer.bound()
    reader.bind_reader("r")
    with pytest.raises(ChannelTopologyError, match="'orders': this end carries str, the other end int"):
        await reader.bound()
    await other.aclose()


async def test_a_value_over_the_limit_is_seen_by_nobody(server: RedisServer) -> None:
    transport = RedisTransport(server.url, max_message_bytes=100)
    channel: Chan[str] = Chan(str, transport=transport, capacity=1)
    with pytest.raises(NotTransportable, match="100 bytes"):
        await channel.send("x" * 200)
    await channel.send("x")
    assert await channel.recv() == "x"
    await transport.aclose()


async def test_a_foreign_key_under_our_name(server: RedisServer, named: RedisTransport) -> None:
    server.command("SET", "stbass:chan:{shop:taken}", "theirs")
    with pytest.raises(ChannelTopologyError, match="another program uses the name"):
        await Chan(int, name="taken", transport=named).send(1)
    assert server.command("GET", "stbass:chan:{shop:taken}") == "theirs"
    fine: Chan[int] = Chan(int, name="fine", transport=named)
    assert await there_and_back(fine, fine) == 7


async def test_an_old_redis_is_told_by_its_version(server: RedisServer) -> None:
    def older(chunk: bytes) -> bytes:
        return re.sub(rb"redis_version:\d+\.\d", b"redis_version:6.0", chunk)

    async with Proxy(server.port, change=older) as proxy:
        transport = RedisTransport(proxy.url)
        with pytest.raises(BackendUnavailableError, match=r"it is version 6.0.*needs Redis 6.2"):
            await Chan(int, transport=transport).send(1)
        await transport.aclose()


async def test_a_redis_that_refuses_the_command() -> None:
    with RedisServer(args=("--rename-command", "BLMOVE", "")) as server:
        transport = RedisTransport(server.url)
        with pytest.raises(BackendUnavailableError, match=r"refused: .*BLMOVE"):
            async with asyncio.timeout(30):
                await Chan(int, transport=transport).recv()
        await transport.aclose()


@pytest.mark.parametrize(
    "rule", ["-blmove", "-evalsha", "-script", "-subscribe", "-info", "resetchannels", "resetkeys"]
)
async def test_a_redis_whose_rules_forbid_what_channels_need(server: RedisServer, rule: str) -> None:
    server.command("ACL SETUSER", "narrow", "on", ">secret", "~*", "&*", "+@all", rule)
    try:
        transport = RedisTransport(f"redis://narrow:secret@127.0.0.1:{server.port}/0")
        async with asyncio.timeout(30):
            with pytest.raises(BackendUnavailableError, match=r"refused.*(NOPERM|permission)") as caught:
                await Chan(int, transport=transport).recv()
        assert "secret" not in str(caught.value)
        await transport.aclose()
    finally:
        server.command("ACL DELUSER", "narrow")


@pytest.mark.skipif(
    "STBASS_OLD_REDIS" not in os.environ,
    reason="STBASS_OLD_REDIS names no redis-server older than 6.2; the test before this one pretends to have one",
)
async def test_a_redis_that_is_really_old() -> None:
    port = free_port()
    old = await asyncio.create_subprocess_exec(
        os.environ["STBASS_OLD_REDIS"], "--port", str(port), "--save", "", stdout=asyncio.subprocess.PIPE
    )
    try:
        assert old.stdout is not None
        async with asyncio.timeout(10):
            while b"Ready to accept connections" not in await old.stdout.readline():
                pass
        transport = RedisTransport(f"redis://127.0.0.1:{port}/0")
        with pytest.raises(BackendUnavailableError, match=r"it is version \d.*needs Redis 6.2"):
            await Chan(int, transport=transport).send(1)
        await transport.aclose()
    finally:
        old.kill()
        await old.wait()


@pytest.mark.parametrize("key", [None, b"k" * 32])
async def test_garbage_in_our_list_is_dropped_and_counted_and_the_next_value_arrives(
    server: RedisServer, caplog: pytest.LogCaptureFixture, key: bytes | None
) -> None:
    # given a reader that waits
    here, there = RedisTransport(server.url, signing_key=key), RedisTransport(server.url, signing_key=key)
    writer: Chan[int] = Chan(int, transport=here)
    await writer.bound()
    reader: Chan[int] = Chan.open(writer.share(), transport=there)
    receiving = asyncio.create_task(reader.recv())
    await writer.writable()
    base = f"stbass:chan:{{{writer.share()['link']['id']}}}"
    offers = f"{base}:offers:{server.command('HGET', base, 'epoch')}"

    # when garbage is put where values are
    rng = random.Random(3)
    garbage = [rng.randbytes(rng.randrange(40)) or b"?" for _ in range(1000)]
    garbage += [b"", b"s", b"12", b"12s", b'12s{"', b"12z1", b'12s{"~":"process","r":"os:system"}', b"-1s1", b"1e9s1"]
    with caplog.at_level(logging.WARNING):
        server.command("RPUSH", offers, *garbage)
        async with asyncio.timeout(20):
            await writer.send(5)
            assert await receiving == 5

    # then it was refused, counted, and told of once for each kind
    assert sum(there.client().refused.values()) >= 1000
    assert len([record for record in caplog.records if "refused a value" in record.message]) <= 2
    await here.aclose()
    await there.aclose()


async def test_messages_of_a_stranger_are_refused(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    transport = RedisTransport(server.url)
    channel: Chan[int] = Chan(int, transport=transport)
    await channel.bound()
    for message in (
        b"",
        b"\x91\x01",
        b"\xc1",
        b"\x92\x01\xa5claim",
        b"\x93\x01\xa3ack\xa1x",
        b"\x94\x01\xa3ack\x01\xa1x",
    ):
        server.command("PUBLISH", f"stbass:chan:to:{transport.client().id}", message)
    assert await there_and_back(channel, channel) == 7
    assert transport.client().refused["message"] >= 5
    await transport.aclose()


@pytest.mark.parametrize(
    "arguments",
    [
        {"lease": 0},
        {"lease": "1"},
        {"ttl": 1},
        {"give_up": -1},
        {"namespace": ""},
        {"max_message_bytes": 0},
        {"signing_key": b"short"},
    ],
)
def test_wrong_arguments(arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        RedisTransport("redis://127.0.0.1:1/0", **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("url", ["http://x", "", 7, None])
def test_a_url_that_is_none_of_redis(url: object) -> None:
    with pytest.raises(ConfigurationError):
        RedisTransport(url)  # type: ignore[arg-type]


@pytest.mark.parametrize("shared", [{}, {"id": ""}, {"id": 3, "new": False, "namespace": None}, {"id": "x", "new": 1}])
async def test_what_does_not_name_a_channel(server: RedisServer, shared: dict[str, object]) -> None:
    whole = Chan(int, transport=RedisTransport(server.url)).share() | {"link": shared}
    with pytest.raises(StbassError, match="does not name a channel"):
        Chan.open(whole, transport=RedisTransport(server.url))
