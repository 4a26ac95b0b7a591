"""A process that the fleet has given up, and that goes on beside its next attempt: nothing of it counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from stbass.channel import Chan
from stbass.errors import ChannelClosedError, ChannelTopologyError
from stbass.testing import RedisServer
from stbass.transports.redis import RedisTransport
from tests.support.waiting import until


@pytest.fixture
async def transport(server: RedisServer) -> AsyncIterator[RedisTransport]:
    # A lease that nobody waits for.
    made = RedisTransport(server.url, lease=600)
    yield made
    await made.aclose()


class Attempt:
    """An attempt at a stage, with its own ends of channels, in a worker of its own."""

    def __init__(self, server: RedisServer, number: int, *inside: tuple[str, int], run: str = "stage") -> None:
        self._transport = RedisTransport(server.url, lease=600)
        self.scope = self._transport.scope("stage")
        self.scope.belongs_to([(run, number), *inside])

    def end(self, channel: Chan[int]) -> Chan[int]:
        return Chan.open(channel.share(), transport=self.scope)

    @property
    def paused(self) -> bool:
        """Whether the server refuses for now what it asks."""
        return self._transport.client().paused

    async def ends(self) -> None:
        """As a worker that has lost it: whatever it holds is left."""
        self.scope.break_off()
        await self.scope.leave()
        await self._transport.aclose()


async def channel(transport: RedisTransport, capacity: int = 8) -> Chan[int]:
    made: Chan[int] = Chan(int, transport=transport, capacity=capacity)
    await made.bound()
    return made


@pytest.mark.parametrize("capacity", [0, 8])
@pytest.mark.parametrize("bound", [False, True])
async def test_a_later_attempt_has_the_writers_place_at_once_and_for_good(
    server: RedisServer, transport: RedisTransport, capacity: int, bound: bool
) -> None:
    out = await channel(transport, capacity)
    first, second = Attempt(server, 1), Attempt(server, 2)
    old, new = first.end(out), second.end(out)
    async with asyncio.timeout(10):
        # given an attempt that has the place, and lives
        if bound:
            old.bind_writer("stage")
        sending = asyncio.create_task(old.send(1))
        assert await out.recv() == 1
        await sending
        # when the next one sends
        sending = asyncio.create_task(new.send(2))
        assert await out.recv() == 2
        await sending
        # then the first one cannot send any more, nor when the next one has ended
        with pytest.raises(ChannelTopologyError, match="'stage' has been started again"):
            await old.send(3)
            await old.flush()
        await second.ends()
        with pytest.raises(ChannelTopologyError, match="'stage' has been started again"):
            await old.send(4)
            await old.flush()
        await first.ends()
        third = Attempt(server, 3)
        sending = asyncio.create_task(third.end(out).send(5))
        assert await out.recv() == 5
        await sending
        await third.ends()


@pytest.mark.parametrize("capacity", [0, 8])
async def test_a_later_attempt_has_the_readers_place_at_once_and_for_good(
    server: RedisServer, transport: RedisTransport, capacity: int
) -> None:
    inp = await channel(transport, capacity)
    first, second = Attempt(server, 1), Attempt(server, 2)
    old, new = first.end(inp), second.end(inp)
    async with asyncio.timeout(10):
        # given an attempt that has the place, waits there, and lives
        waiting = asyncio.create_task(old.recv())
        await until(lambda: server.command("HGET", f"stbass:chan:{{{inp.share()['link']['id']}}}", "wait") == "1")
        # when the next one receives
        receiving = asyncio.create_task(new.recv())
        # then the first one is told
        with pytest.raises(ChannelTopologyError, match="'stage' has been started again"):
            await waiting
        await inp.send(1)
        assert await receiving == 1
        with pytest.raises(ChannelTopologyError, match="'stage' has been started again"):
            await old.recv()
        await second.ends()
        with pytest.raises(ChannelTopologyError, match="'stage' has been started again"):
            await old.recv()
        await first.ends()


async def test_what_an_earlier_attempt_has_sent_away_is_earlier_too(
    server: RedisServer, transport: RedisTransport
) -> None:
    out = await channel(transport)
    # given a process that an attempt has sent, and one that the next attempt has sent instead
    first, second = Attempt(server, 1, ("around", 1), run="one"), Attempt(server, 1, ("around", 2), run="other")
    # and one that has nothing to do with them
    stranger = Attempt(server, 1, ("elsewhere", 1), run="another")
    async with asyncio.timeout(10):
        old, new = first.end(out), second.end(out)
        old.bind_writer("one")
        await old.send(1)
        await old.flush()
        beside = stranger.end(out)
        with pytest.raises(ChannelTopologyError, match="already has a writer"):
            await beside.send(0)
            await beside.flush()
        await new.send(2)
        await new.flush()
        with pytest.raises(ChannelTopologyError, match="has been started again"):
            await old.send(3)
            await old.flush()
        await out.aclose()
        assert [value async for value in out] == [1, 2]
        for attempt in (first, second, stranger):
            await attempt.ends()


@pytest.mark.parametrize("capacity", [0, 8])
@pytest.mark.parametrize("ends", [False, True])
async def test_a_process_that_is_handed_over_leaves_its_channels_open(
    server: RedisServer, transport: RedisTransport, capacity: int, ends: bool
) -> None:
    out = await channel(transport, capacity)
    first, second = Attempt(server, 1), Attempt(server, 2)
    async with asyncio.timeout(60):
        # given a process that its worker is about to cancel, and that closes what it writes to on the way
        async with first.end(out) as old:
            sending = asyncio.create_task(old.send(1))
            assert await out.recv() == 1
            await sending
            first.scope.break_off()
        with pytest.raises(ChannelClosedError):
            await old.send(2)
        if ends:
            # when it ends by itself after all, then the channel is closed
            await first.scope.aclose()
            with pytest.raises(ChannelClosedError):
                await out.recv()
        else:
            # when the next attempt goes on, then it can
            await first.ends()
            sending = asyncio.create_task(second.end(out).send(2))
            assert await out.recv() == 2
            await sending
        await second.ends()


async def test_what_was_sent_before_a_process_is_handed_over_goes_with_what_it_received(
    server: RedisServer, transport: RedisTransport
) -> None:
    inp, out = await channel(transport), await channel(transport)
    for number in (1, 2, 3):
        await inp.send(number)
    await inp.flush()
    first, second = Attempt(server, 1), Attempt(server, 2)
    async with asyncio.timeout(60):
        old_inp, old_out = first.end(inp), first.end(out)
        await old_out.send(await old_inp.recv())
        await old_out.flush()
        value = await old_inp.recv()
        # given a stage that has sent what it made of a value, which the server refuses for now
        server.command("CONFIG", "SET", "maxmemory", "1")
        await old_out.send(value)
        refused = asyncio.create_task(old_out.flush())
        await until(lambda: first.paused, timeout=30)
        # when it is handed over, and the server is well again
        first.scope.break_off()
        leaving = asyncio.create_task(first.scope.leave())
        server.command("CONFIG", "SET", "maxmemory", "0")
        await leaving
        await asyncio.gather(refused, return_exceptions=True)
        # then the next one gets what comes after that, and nothing twice
        assert await second.end(inp).recv() == 3
        assert [await out.recv(), await out.recv()] == [1, 2]
        await first.ends()
        await second.ends()
