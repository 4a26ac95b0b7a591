"""A Redis that stays away: what waits fails after a time that can be set, and says what is not known."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from stbass.alt import ALT, Guard
from stbass.channel import Chan
from stbass.errors import BackendUnavailableError
from stbass.testing import RedisServer
from stbass.transports.redis import RedisTransport

GIVE_UP = 0.6
UNKNOWN = r"cannot be reached .*tried for . s\), so whether the last operations took place is not known"


@pytest.fixture
def lasting_server() -> Iterator[RedisServer]:
    with RedisServer(persistent=True, args=("--appendfsync", "no")) as started:
        yield started


@pytest.mark.parametrize("what", ["send", "recv", "choose to send", "choose to receive", "close", "bind"])
async def test_what_waits_fails_when_redis_stays_away(lasting_server: RedisServer, what: str) -> None:
    # given a channel whose server dies while something waits
    transport = RedisTransport(lasting_server.url, give_up=GIVE_UP)
    channel: Chan[int] = Chan(int, transport=transport)
    await channel.bound()
    loop = asyncio.get_running_loop()
    if what not in ("close", "bind"):
        operations: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
            "send": lambda: channel.send(1),
            "recv": channel.recv,
            "choose to send": lambda: ALT(Guard(channel, send=1)),
            "choose to receive": lambda: ALT(Guard(channel)),
        }
        waiting: asyncio.Task[Any] = asyncio.create_task(operations[what]())
        # The other side sees it.
        await (channel.writable() if what in ("recv", "choose to receive") else channel.readable())
    lasting_server.kill()
    began = loop.time()
    if what == "close":
        waiting = asyncio.create_task(channel.aclose())
    elif what == "bind":
        channel.bind_reader("r")
        waiting = asyncio.create_task(channel.bound())

    # then it ends after that time, and says what nobody knows
    async with asyncio.timeout(10):
        # (A choice had not begun anything.)
        with pytest.raises(BackendUnavailableError, match="cannot be reached" if "choose" in what else UNKNOWN):
            await waiting
    assert GIVE_UP <= loop.time() - began < GIVE_UP + 5
    await transport.aclose()


async def test_values_that_were_accepted_and_may_be_lost_are_told_of(lasting_server: RedisServer) -> None:
    transport = RedisTransport(lasting_server.url, give_up=GIVE_UP)
    channel: Chan[int] = Chan(int, transport=transport, capacity=8)
    await channel.send(1)
    await channel.flush()
    lasting_server.kill()
    await channel.send(2)
    async with asyncio.timeout(10):
        with pytest.raises(BackendUnavailableError, match=r"values that channel .* had accepted may be lost: .*tried"):
            await channel.flush()
        with pytest.raises(BackendUnavailableError, match="may be lost"):
            await channel.send(3)
        # and once that was told, it goes on when the server is back
        lasting_server.restart()
        await channel.send(4)
        await channel.flush()
        assert await channel.recv() == 1
    await transport.aclose()


async def test_a_transport_that_cannot_write_what_was_accepted_says_so_when_it_is_closed(
    lasting_server: RedisServer,
) -> None:
    transport = RedisTransport(lasting_server.url, give_up=GIVE_UP)
    channel: Chan[int] = Chan(int, transport=transport, capacity=8)
    await channel.send(1)
    await channel.flush()
    lasting_server.kill()
    await channel.send(2)
    async with asyncio.timeout(10):
        with pytest.raises(BackendUnavailableError, match="may be lost"):
            await transport.aclose()


async def test_a_server_that_comes_back_in_time_has_everything(lasting_server: RedisServer) -> None:
    transport = RedisTransport(lasting_server.url, give_up=20)
    channel: Chan[int] = Chan(int, transport=transport, capacity=8)
    await channel.send(1)
    await channel.flush()
    lasting_server.kill()
    await channel.send(2)
    flushing = asyncio.create_task(channel.flush())
    async with asyncio.timeout(10):
        await asyncio.to_thread(lasting_server.restart)
        await flushing
        assert [await channel.recv(), await channel.recv()] == [1, 2]
    await transport.aclose()


async def test_a_process_whose_server_stayed_away_can_end_when_it_is_back(lasting_server: RedisServer) -> None:
    # given a process that has received of two channels what the server has not heard of when it dies
    transport = RedisTransport(lasting_server.url, give_up=GIVE_UP, lease=60)
    others = [RedisTransport(lasting_server.url) for _ in range(2)]
    writers = [Chan(int, transport=one, capacity=8) for one in others]
    scope = transport.scope("reader")
    readers = [Chan.open(one.share(), transport=scope) for one in writers]
    for writer in writers:
        await writer.send(1)
        await writer.send(2)
    assert [await reader.recv() for reader in readers] == [1, 1]
    await scope.flush()
    for reader in readers:
        await reader.readable()
    lasting_server.kill()
    assert [await reader.recv() for reader in readers] == [2, 2]
    for reader in readers:
        with pytest.raises(BackendUnavailableError, match="cannot be reached"):
            await reader.recv()
    # when it is back
    await asyncio.to_thread(lasting_server.restart)
    # then neither channel waits for the other
    async with asyncio.timeout(30):
        await scope.aclose()
        for one in (transport, *others):
            await one.aclose()
