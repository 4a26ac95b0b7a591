"""The data of a channel disappears from the server while its ends talk, or wait: both are told what happened."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from stbass.alt import ALT, Guard
from stbass.channel import Chan
from stbass.errors import BackendUnavailableError, ChannelClosedError, StateLostError
from stbass.testing import RedisServer
from stbass.transports.redis import RedisTransport
from tests.support.ends import ends
from tests.support.proxy import Proxy
from tests.support.waiting import until

TOLD = 30.0
"""Seconds within which both ends must know."""
LEASE = 1.0
"""Of the ends; they ask three times in a lease, and every 10 s at least, whether all is there."""
DELETED = "is not in Redis at .* any more: its data was deleted .* or evicted .*appendonly yes.*noeviction"
RESTARTED = "is not in Redis at .* any more: the server was restarted without its data or with older data"


harmed = partial(ends, lease=LEASE, expected=(StateLostError,))
"""Ends whose data is lost may say so once more when they are closed."""


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """A server that is to be harmed."""
    with RedisServer() as started:
        yield started


def base_of(channel: Chan[int]) -> str:
    return f"stbass:chan:{{{channel.share()['link']['id']}}}"


def delete(server: RedisServer, *patterns: str) -> None:
    """Delete keys, in one step: of a channel that is in use, they have other names a moment later."""
    script = "for _, p in ipairs(ARGV) do for _, k in ipairs(redis.call('KEYS', p)) do redis.call('DEL', k) end end"
    server.command("EVAL", script, 0, *patterns)


def evict(server: RedisServer) -> None:
    # One setting at a time: Redis 6.2 takes no more.
    server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-random")
    server.command("CONFIG", "SET", "maxmemory", "1")
    server.command("CONFIG", "SET", "maxmemory", "0")


def kill(server: RedisServer) -> None:
    server.kill()
    server.restart(empty=True)


HOW: dict[str, tuple[Callable[[RedisServer], object], str]] = {
    "FLUSHALL": (lambda server: server.command("FLUSHALL"), DELETED),
    "FLUSHDB ASYNC": (lambda server: server.command("FLUSHDB", "ASYNC"), DELETED),
    "restart": (lambda server: server.restart(empty=True), RESTARTED),
    "kill": (kill, RESTARTED),
    "DEL": (lambda server: delete(server, "stbass:chan:*"), DELETED),
    "evicted": (evict, DELETED),
}


@pytest.mark.parametrize("capacity", [0, 64])
@pytest.mark.parametrize("how", HOW)
async def test_both_ends_of_a_conversation_are_told(own_server: RedisServer, how: str, capacity: int) -> None:
    # given a conversation without an end
    received: list[int] = []

    async def write() -> None:
        number = 0
        while True:
            await writer.send(number)
            number += 1
            if number % 50 == 0:
                await asyncio.sleep(0)

    async def read() -> None:
        async for value in reader:
            received.append(value)  # noqa: PERF401 - it is looked at meanwhile

    async with harmed(own_server.url, capacity=capacity) as (writer, reader):
        talking = [asyncio.create_task(write()), asyncio.create_task(read())]
        await until(lambda: len(received) > 200, timeout=30)
        # when the data disappears
        empty, words = HOW[how]
        await asyncio.to_thread(empty, own_server)
        # then both fail, whoever of them was about to do something, and the reader has had no gap
        async with asyncio.timeout(TOLD):
            for task in talking:
                with pytest.raises(StateLostError, match=words):
                    await task
        assert received == list(range(len(received)))


@pytest.mark.parametrize("waits", ["recv", "send", "choose to receive", "choose to send", "full", "nothing"])
async def test_an_end_that_waits_is_told(own_server: RedisServer, waits: str) -> None:
    async with harmed(own_server.url, capacity=2 if waits == "full" else 0) as (writer, reader):
        waiting: dict[str, Callable[[], asyncio.Task[object]]] = {
            "recv": lambda: asyncio.create_task(reader.recv()),
            "send": lambda: asyncio.create_task(writer.send(1)),
            "choose to receive": lambda: asyncio.create_task(as_coroutine(ALT(Guard(reader)))),
            "choose to send": lambda: asyncio.create_task(as_coroutine(ALT(Guard(writer, send=1)))),
            "full": lambda: asyncio.create_task(fill(writer)),
            "nothing": lambda: asyncio.create_task(asyncio.sleep(0)),
        }
        task = waiting[waits]()
        if waits == "full":
            await until(lambda: own_server.command("HGET", base_of(writer), "offered") == "2", timeout=30)
        elif waits == "nothing":
            await task
        else:
            await (writer.writable() if "rec" in waits else reader.readable())
        own_server.command("FLUSHALL")
        async with asyncio.timeout(TOLD):
            if waits != "nothing":
                with pytest.raises(StateLostError, match=DELETED):
                    await task
            # and so is whoever uses it later
            with pytest.raises(StateLostError, match=DELETED):
                await writer.send(3)
            with pytest.raises(StateLostError, match=DELETED):
                await writer.bound()


async def as_coroutine(choice: ALT) -> object:
    return await choice


async def fill(channel: Chan[int]) -> None:
    while True:
        await channel.send(1)


@pytest.mark.parametrize("part", ["", ":parties", ":offers:*", ":taken:*"])
@pytest.mark.parametrize("capacity", [0, 8])
async def test_one_key_after_the_other(own_server: RedisServer, capacity: int, part: str) -> None:
    # given values that were sent, some of them received
    sent: list[int] = []
    async with harmed(own_server.url, capacity=capacity) as (writer, reader):

        async def write(first: int) -> None:
            for number in range(first, 40, 1 if capacity else 4):
                await writer.send(number)
                sent.append(number)
            await writer.aclose()

        writing = [asyncio.create_task(write(first)) for first in range(1 if capacity else 4)]
        received = [await reader.recv() for _ in range(10)]
        base = base_of(writer)
        await until(lambda: own_server.command("KEYS", base + ":offers:*"), timeout=30)
        # when one of the keys is deleted
        delete(own_server, base + part)
        # then nothing was in it that is needed, or both are told
        lost = []
        async with asyncio.timeout(TOLD):
            try:
                async for value in reader:
                    received.append(value)  # noqa: PERF401 - what came before the error counts
            except StateLostError as error:
                lost.append(error)
            for task in writing:
                try:
                    await task
                except StateLostError as error:
                    lost.append(error)
                except ChannelClosedError:
                    pass  # the first of several writers has closed it
        if part in ("", ":offers:*"):
            assert lost
        if not lost:
            assert set(sent) <= set(received)
        assert len(received) == len(set(received))


@pytest.mark.parametrize("capacity", [0, 8])
@pytest.mark.parametrize("part", [":arms", ":props"])
async def test_choices_that_the_server_has_forgotten_are_told_to_it_again(
    own_server: RedisServer, part: str, capacity: int
) -> None:
    async with (
        harmed(own_server.url, capacity=capacity) as (writer, reader),
        asyncio.timeout(2 * TOLD),
    ):
        # given choices that wait, at the one side, then at both
        for number in range(2):
            choosing = asyncio.create_task(as_coroutine(ALT(Guard(reader))))
            await until(lambda: own_server.command("EXISTS", base_of(writer) + ":arms"), timeout=30)
            # when the server forgets what it knows of them
            delete(own_server, base_of(writer) + part)
            # then they find each other all the same
            await (as_coroutine(ALT(Guard(writer, send=number))) if number else writer.send(number))
            assert await choosing == number


async def test_a_reader_of_a_closed_channel_that_lost_the_rest_does_not_end_as_if_it_had_all(
    own_server: RedisServer,
) -> None:
    async with (
        harmed(own_server.url, capacity=2000) as (writer, reader),
        asyncio.timeout(TOLD + 30),
    ):
        # given a reader that has received a value, and a writer that has sent the rest and closed
        reader.bind_reader("r")
        await writer.send(0)
        assert await reader.recv() == 0
        for number in range(1, 2000):
            await writer.send(number)
        await writer.aclose()
        # when the data disappears before the reader goes on
        own_server.command("FLUSHALL")
        # then what had come can be received, and the end only if that was all
        received, lost = [0], None
        try:
            async for value in reader:
                received.append(value)  # noqa: PERF401 - what came before the error counts
        except StateLostError as error:
            lost = error
        assert received == list(range(len(received)))
        # (That all of them came is not known without the end of the channel.)
        assert len(received) == 2000 or lost is not None


@pytest.mark.parametrize("capacity", [0, 4])
async def test_ends_that_bind_anew_are_a_new_conversation_and_the_old_ones_are_told(
    own_server: RedisServer, capacity: int
) -> None:
    # given a writer and a reader that find each other by name
    transports = [RedisTransport(own_server.url, namespace="shop", lease=LEASE) for _ in range(4)]
    writer, reader, new_writer, new_reader = (
        Chan(int, name="orders", capacity=capacity, transport=transport) for transport in transports
    )
    async with asyncio.timeout(2 * TOLD):
        receiving = asyncio.create_task(reader.recv())
        await writer.send(1)
        assert await receiving == 1
        waiting = asyncio.create_task(reader.recv())
        await writer.writable()
        # when the data disappears between two values, and two others come at once
        own_server.command("FLUSHALL")
        receiving = asyncio.create_task(new_reader.recv())
        await new_writer.send(10)
        assert await receiving == 10
        # then the old ones take no part in it
        with pytest.raises(StateLostError, match=DELETED):
            await writer.send(2)
            await writer.flush()
        with pytest.raises(StateLostError, match=DELETED):
            await waiting
        # and do not harm it
        await writer.aclose()
        receiving = asyncio.create_task(new_reader.recv())
        await new_writer.send(11)
        assert await receiving == 11
        await new_writer.aclose()
        for transport in transports:
            with contextlib.suppress(StateLostError):
                await transport.aclose()


@pytest.mark.parametrize("first", ["writer", "reader"])
async def test_a_server_that_came_back_with_older_data(own_server: RedisServer, first: str) -> None:
    # given data on disk that is older than what the two ends know
    async with (
        Proxy(own_server.port) as proxy,
        harmed(*(own_server.url, proxy.url)[:: 1 if first == "writer" else -1]) as (writer, reader),
        asyncio.timeout(TOLD + 30),
    ):
        for number in range(20):
            receiving = asyncio.create_task(reader.recv())
            await writer.send(number)
            assert await receiving == number
            if number == 10:
                own_server.command("SAVE")
        receiving = asyncio.create_task(reader.recv())
        await writer.writable()
        own_server.kill()
        proxy.deaf = 1_000_000
        # when the server comes back with it, and one end has found out before the other reaches it
        await asyncio.to_thread(own_server.start)
        await until(lambda: not own_server.command("EXISTS", base_of(writer)), timeout=30)
        proxy.deaf = 0
        proxy.cut_all()
        # then nobody goes on as if nothing were, and both say the same
        with pytest.raises(StateLostError, match=RESTARTED):
            await receiving
        with pytest.raises(StateLostError, match=RESTARTED):
            await writer.send(20)
    assert own_server.command("KEYS", "*") == []


async def test_a_writer_that_misses_nothing_is_told_that_its_reader_does(own_server: RedisServer) -> None:
    # given a server whose data on disk has all that the writer has done, and less than its reader
    async with (
        Proxy(own_server.port) as proxy,
        harmed(own_server.url, proxy.url, capacity=8) as (writer, reader),
        asyncio.timeout(TOLD + 30),
    ):
        await writer.send(1)
        assert await reader.recv() == 1
        await writer.send(2)
        own_server.command("SAVE")
        assert await reader.recv() == 2
        receiving = asyncio.create_task(reader.recv())
        await until(lambda: own_server.command("HGET", base_of(writer), "done") == "2", timeout=30)
        own_server.kill()
        proxy.deaf = 1_000_000
        await asyncio.to_thread(own_server.start)
        # when the writer goes on, and its reader finds that it knows more than the server
        await writer.send(3)
        await writer.flush()
        proxy.deaf = 0
        proxy.cut_all()
        # then both are told, and why
        with pytest.raises(StateLostError, match=RESTARTED):
            await receiving
        with pytest.raises(StateLostError, match=RESTARTED):
            while True:
                await writer.send(4)
                await writer.flush()


async def test_a_reader_that_blocks_its_loop_for_longer_than_its_lease_finds_the_end(own_server: RedisServer) -> None:
    transport = RedisTransport(own_server.url, lease=0.2)
    writer: Chan[int] = Chan(int, transport=transport)
    await writer.bound()
    shared = writer.share()

    # given a reader that does something long with the last value, and blocks its event loop with it
    async def read() -> list[int]:
        there = RedisTransport(own_server.url, lease=0.2)
        received = []
        async for value in Chan.open(shared, transport=there):
            received.append(value)
            while own_server.command("KEYS", "stbass:chan:*"):
                time.sleep(0.01)  # noqa: ASYNC251 - its lease ends meanwhile, and a second more
        await there.aclose()
        return received

    async with asyncio.timeout(60):
        reading = asyncio.create_task(asyncio.to_thread(asyncio.run, read()))
        await writer.send(1)
        # when the channel is closed, and nothing of it is left
        await writer.aclose()
        await transport.aclose()
        # then it was told that the channel is closed, and ends as it should
        assert await reading == [1]


async def test_a_process_ends_though_several_channels_are_gone_of_which_it_has_values(own_server: RedisServer) -> None:
    # given a process that has fetched two values of each of two channels, and received one
    there, here = RedisTransport(own_server.url), RedisTransport(own_server.url)
    scope = there.scope("reader")
    writers = [Chan(int, capacity=8, transport=here) for _ in range(2)]
    readers = [Chan.open(one.share(), transport=scope) for one in writers]
    for one in writers:
        await one.send(1)
        await one.send(2)
    assert [await one.recv() for one in readers] == [1, 1]
    await scope.flush()
    for one in readers:
        await one.readable()
    # when both are gone, and it receives what it has fetched
    delete(own_server, "stbass:chan:*")
    assert [await one.recv() for one in readers] == [2, 2]
    # then neither waits for what becomes of the other
    async with asyncio.timeout(TOLD):
        await scope.aclose()
        await there.aclose()
        with contextlib.suppress(StateLostError):
            await here.aclose()


@pytest.mark.parametrize("waits", [False, True])
async def test_a_channel_that_was_ended_is_closed_on_whichever_connection_its_end_is_found(
    own_server: RedisServer, waits: bool
) -> None:
    # given a reader to whom nothing is told for a while, but what it asks for on the connection of its blocking move
    told = asyncio.Event()

    async def before(chunk: bytes) -> None:
        if b"closed" in chunk:
            await told.wait()

    async with (
        Proxy(own_server.port, before=before) as proxy,
        ends(own_server.url, proxy.url, capacity=8) as (writer, reader),
    ):
        await writer.send(1)
        assert await reader.recv() == 1
        receiving = asyncio.ensure_future(reader.recv())
        if waits:
            await until(lambda: "wait" in str(own_server.command("HKEYS", base_of(writer))))
        # when somebody ends the channel
        assert isinstance(writer.transport, RedisTransport)
        await writer.transport.purge([str(writer.described()["link"]["id"])])
        if waits:
            receiving.cancel()
        asyncio.get_running_loop().call_later(0.2, told.set)
        with pytest.raises(ChannelClosedError):
            await (reader.recv() if waits else receiving)


async def test_what_a_process_has_left_behind_cannot_join_a_channel_anew(own_server: RedisServer) -> None:
    # given a process that has ended, and a task of it that has not
    transport = RedisTransport(own_server.url)
    scope = transport.scope("careless")
    mine: Chan[int] = Chan(int, capacity=8, transport=RedisTransport(own_server.url))
    its: Chan[int] = Chan.open(mine.share(), transport=scope)
    await its.send(1)
    await scope.aclose()
    # when that goes on with a channel
    for use in (its.send(2), its.recv(), its.bound(), as_coroutine(ALT(Guard(its)))):
        with pytest.raises(BackendUnavailableError, match="process 'careless' has ended, and its ends"):
            await use
    await its.aclose()
    # then nobody is at its end
    assert own_server.command("HLEN", f"{base_of(mine)}:parties") == 1
    assert await mine.recv() == 1
    await transport.aclose()
    await mine.transport.aclose()
