"""A server that answers and refuses for some seconds: channels wait it out, and lose, double or reorder nothing."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from stbass.alt import ALT, Guard
from stbass.channel import Chan
from stbass.errors import BackendUnavailableError
from stbass.testing import RedisServer
from stbass.timer import TIMER, TimerExpired
from stbass.transports.redis import RedisTransport
from tests.support.ends import ends
from tests.support.proxy import Proxy
from tests.support.refusals import REFUSALS
from tests.support.waiting import until

EVERY = [pytest.param(name, marks=() if name == "OOM" else pytest.mark.slow) for name in REFUSALS]
SECONDS = 1.5
"""For so long the server refuses: longer than a lease."""
LEASE = 1.0
COUNT = 600


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "data"
    made.mkdir()
    return made


@pytest.fixture
def own_server(folder: Path) -> Iterator[RedisServer]:
    """A server that is to be harmed."""
    with RedisServer(data_dir=folder) as started:
        yield started


@contextlib.contextmanager
def refusing(server: RedisServer, folder: Path, name: str) -> Iterator[None]:
    """Let it refuse for as long as this lasts."""
    with redis.Redis.from_url(server.url) as client:
        REFUSALS[name].begin(client, folder)
        try:
            yield
        finally:
            REFUSALS[name].end(client, folder)


async def write(channel: Chan[int], choose: bool) -> None:
    for number in range(COUNT):
        if choose:
            await ALT(Guard(channel, send=number))
        else:
            await channel.send(number)
    await channel.aclose()


async def read(channel: Chan[int], choose: bool, received: list[int]) -> None:
    if choose:
        while len(received) < COUNT:
            received.append(await ALT(Guard(channel)))
    else:
        while len(received) < COUNT:
            received.append(await channel.recv())


@pytest.mark.parametrize(
    ("capacity", "writes", "reads"),
    [
        (0, "send", "recv"),
        pytest.param(0, "choose", "recv", marks=pytest.mark.slow),
        (0, "choose", "choose"),
        (16, "send", "recv"),
        pytest.param(16, "choose", "choose", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", EVERY)
async def test_a_conversation_goes_on_when_the_server_does(
    own_server: RedisServer,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    capacity: int,
    writes: str,
    reads: str,
) -> None:
    # given a writer and a reader in the middle of their conversation
    received: list[int] = []
    async with asyncio.timeout(60), ends(own_server.url, capacity=capacity, lease=LEASE) as (writer, reader):
        writing = asyncio.create_task(write(writer, writes == "choose"))
        reading = asyncio.create_task(read(reader, reads == "choose", received))
        await until(lambda: len(received) > 50, timeout=30)
        # when the server refuses for some time
        with refusing(own_server, folder, name):
            await asyncio.sleep(SECONDS)  # this is how long it refuses
            assert len(received) < COUNT
            assert not writing.done()
        # then they go on where they were
        await writing
        await reading
        assert received == list(range(COUNT))
        # and each of the two that was refused something has told it once, and once when it was over
        told = [line for line in caplog.messages if "refuses for now" in line]
        assert 1 <= len(told) <= 2
        await until(lambda: len([line for line in caplog.messages if "is well again" in line]) == len(told), timeout=30)
        words = rf"cannot use channels: Redis at .* refuses for now .*({REFUSALS[name].words}|UNBLOCKED)"
        assert all(re.match(words, line) for line in told), told
    assert own_server.command("KEYS", "*") == []


async def test_a_server_that_refuses_connections_after_commands_is_not_well_in_between(
    own_server: RedisServer, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def lines(words: str) -> list[str]:
        return [line for line in caplog.messages if words in line]

    # given a writer whose server is a replica by now
    async with asyncio.timeout(60), ends(own_server.url, capacity=16, lease=LEASE) as (writer, reader):
        await writer.send(0)
        assert await reader.recv() == 0
        with refusing(own_server, folder, "READONLY"):
            await writer.send(1)
            await until(lambda: lines("refuses for now"), timeout=30)
            # when that serves nothing at all, new connections neither
            own_server.command("CONFIG", "SET", "replica-serve-stale-data", "no")
            await asyncio.sleep(SECONDS)  # this is how long it refuses
        # then it is one trouble, with one end
        assert await reader.recv() == 1
        await until(lambda: lines("is well again"), timeout=30)
        told = lines("refuses for now")
        await until(lambda: len(lines("is well again")) == len(told), timeout=30)
        assert len(told) <= 2, told


@pytest.mark.parametrize("capacity", [0, 2])
@pytest.mark.parametrize("name", EVERY)
async def test_deadlines_and_cancellations_hold_while_the_server_refuses(
    own_server: RedisServer, folder: Path, name: str, capacity: int
) -> None:
    async with asyncio.timeout(60), ends(own_server.url, capacity=capacity, lease=LEASE) as (writer, reader):
        # given a channel on which a value has gone through, and which is full if it has room for some
        receiving = asyncio.create_task(reader.recv())
        await writer.send(0)
        assert await receiving == 0
        for number in range(capacity):
            await writer.send(number + 1)
        await writer.flush()
        # when the server refuses until all of this has happened: whatever waited for its end would never end
        with refusing(own_server, folder, name):
            for _ in range(2):
                if not capacity:
                    with pytest.raises(TimeoutError):
                        await asyncio.wait_for(reader.recv(), 0.2)
                    assert isinstance(await ALT(Guard(reader), Guard(TIMER(0.2))), TimerExpired)
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(writer.send(77), 0.2)
                assert isinstance(await ALT(Guard(writer, send=78), Guard(TIMER(0.2))), TimerExpired)
                sending = asyncio.create_task(writer.send(79))
                await asyncio.sleep(0)
                sending.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await sending
            another: Chan[int] = Chan(int, transport=RedisTransport(own_server.url))
            another.bind_writer("w")
            # (Rules that never let us do anything are an error at once.)
            waits = (another.bound, lambda: another.send(1), lambda: ALT(Guard(another, send=1)))
            for wait in () if name == "NOPERM" else waits:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(wait(), 0.2)
            sending = asyncio.create_task(writer.send(capacity + 1))
        # then nothing that was given up has happened, and what was not has
        found = [await reader.recv() for _ in range(capacity + 1)]
        await sending
        assert found == [number + 1 for number in range(capacity + 1)]


@pytest.mark.parametrize("capacity", [0, 2])
async def test_a_channel_is_made_bound_and_closed_when_the_server_lets_it(
    own_server: RedisServer, folder: Path, capacity: int
) -> None:
    transport = RedisTransport(own_server.url, lease=LEASE)
    channel: Chan[int] = Chan(int, capacity=capacity, transport=transport)
    async with asyncio.timeout(60):
        # given a server that is full from the start
        with refusing(own_server, folder, "OOM"):
            channel.bind_writer("w")
            channel.bind_reader("r")
            binding = asyncio.create_task(channel.bound())
            sending = asyncio.create_task(channel.send(1))
            receiving = asyncio.create_task(channel.recv())
            await asyncio.sleep(SECONDS)  # this is how long it refuses
            assert not any(task.done() for task in (binding, sending, receiving))
        # then all is done when it is not
        await binding
        await sending
        assert await receiving == 1
        # and the same at the end
        with refusing(own_server, folder, "NOREPLICAS"):
            if capacity:
                await channel.send(2)
            closing = asyncio.create_task(channel.aclose())
            await asyncio.sleep(SECONDS)  # as above
            assert not closing.done()
        await closing
        assert [value async for value in channel] == [2] * bool(capacity)
        await transport.aclose()
    assert own_server.command("KEYS", "*") == []


async def test_leases_are_renewed_in_a_server_that_is_full(own_server: RedisServer, folder: Path) -> None:
    async with asyncio.timeout(60), ends(own_server.url, lease=LEASE) as (writer, reader):
        writer.bind_writer("w")
        await writer.bound()
        sending = asyncio.create_task(writer.send(1))
        await reader.readable()
        parties = f"stbass:chan:{{{writer.share()['link']['id']}}}:parties"
        first = dict(own_server.command("HGETALL", parties))
        with refusing(own_server, folder, "OOM"):
            # (A receive is refused, so that they know of it.)
            receiving = asyncio.create_task(reader.recv())
            await until(
                lambda: all(
                    float(until_when) > float(first[party]) + 3000 * LEASE
                    for party, until_when in dict(own_server.command("HGETALL", parties)).items()
                ),
                timeout=30,
            )
        assert await receiving == 1
        await sending


async def test_rules_that_stay_changed_are_an_error_after_a_while(own_server: RedisServer, folder: Path) -> None:
    transport = RedisTransport(own_server.url, give_up=0.5)
    channel: Chan[int] = Chan(int, transport=transport)
    async with asyncio.timeout(30):
        await channel.bound()
        forever = pytest.raises(BackendUnavailableError, match="refused: NOPERM")
        with refusing(own_server, folder, "NOPERM"), forever:
            await channel.aclose()
        await transport.aclose()


async def test_a_command_that_the_server_never_does_fails_what_it_concerns(own_server: RedisServer) -> None:
    transport = RedisTransport(own_server.url)
    channel: Chan[int] = Chan(int, transport=transport)
    async with asyncio.timeout(30):
        await channel.bound()
        own_server.command("ACL", "SETUSER", "default", "-blmove")
        with pytest.raises(BackendUnavailableError, match=r"refused: .*blmove"):
            await channel.recv()
        own_server.command("ACL", "SETUSER", "default", "+blmove")
        receiving = asyncio.create_task(channel.recv())
        await channel.send(1)
        assert await receiving == 1
        await transport.aclose()


@pytest.mark.parametrize("taken", [False, True])
async def test_values_keep_their_order_when_the_way_there_is_cut_between_two_refusals(
    own_server: RedisServer, folder: Path, taken: bool
) -> None:
    def only_the_first(chunk: bytes) -> bytes:
        """Of two refusals let the first through, and nothing after it."""
        place = chunk.find(b"-OOM")
        if place < 0:
            return chunk
        proxy.forget_all()
        return chunk[: chunk.index(b"\r\n", place) + 2]

    proxy = Proxy(own_server.port, change=only_the_first)
    third = RedisTransport(own_server.url, lease=LEASE)
    async with (
        asyncio.timeout(60),
        proxy,
        ends(proxy.url, own_server.url, capacity=16, lease=LEASE) as (writer, reader),
    ):
        # given values that were sent one after the other, of which the first is known to be refused
        await writer.send(0)
        assert await reader.recv() == 0
        await reader.flush()
        with refusing(own_server, folder, "OOM"):
            await writer.send(1)
            await writer.send(2)
            link: Any = writer.link
            await until(lambda: link.state.put_back, timeout=30)
        received = []
        if taken:
            # (another end takes the writer's place meanwhile)
            other: Chan[int] = Chan.open(writer.share(), transport=third)
            await other.send(100)
            await other.flush()
            received.append(await reader.recv())
        # when the connection is made anew
        proxy.cut_all()
        await writer.send(3)
        await writer.flush()
        # then they come in order, each of them once
        received += [await reader.recv() for _ in range(3)]
        await writer.send(4)
        assert [*received, await reader.recv()] == [*([100] if taken else []), 1, 2, 3, 4]
        await third.aclose()
