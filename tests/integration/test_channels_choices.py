"""Choices over Redis when connections are cut and servers restart: they meet once, or they time out."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from asyncio.subprocess import Process as OSProcess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from stbass.alt import ALT, Guard
from stbass.channel import Chan
from stbass.testing import RedisServer
from stbass.transports.redis import RedisTransport
from tests.support.proxy import Direction, Proxy

ROUNDS = 150

# Chooses again and again between sending on one channel and receiving on another, until both are closed or it has met
# so often. Each meeting is one line: what moved. It says when a choice timed out.
CHOOSER = """
import asyncio, json, sys
from stbass.alt import ALT, Guard
from stbass.channel import Chan
from stbass.errors import ChannelClosedError
from stbass.timer import TIMER, TimerExpired
from stbass.transports.redis import RedisTransport

async def main(name, url, rounds, out, inp):
    transport = RedisTransport(url, lease=3)
    out, inp = [Chan.open(json.loads(one), transport=transport) for one in (out, inp)]
    met = number = 0
    while met < int(rounds):
        number += 1
        outcome = await ALT(Guard(out, send=name + str(number)), Guard(inp), Guard(TIMER(8)))
        met += not isinstance(outcome, TimerExpired)
        print("time is up" if isinstance(outcome, TimerExpired) else outcome, flush=True)
    await transport.aclose()

asyncio.run(main(*sys.argv[1:]))
"""


@asynccontextmanager
async def choosers(server_url: str, *urls: str) -> AsyncIterator[tuple[OSProcess, OSProcess]]:
    """Two Python processes that choose against each other: what one sends the other receives, both ways."""
    transport = RedisTransport(server_url)
    channels: list[Chan[str]] = [Chan(str, transport=transport) for _ in range(2)]
    for channel in channels:
        await channel.bound()
    there, back = (json.dumps(channel.share()) for channel in channels)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(transport.aclose)
        processes = []
        for name, url, ends in (("a", urls[0], (there, back)), ("b", urls[1], (back, there))):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", CHOOSER, name, url, str(ROUNDS), *ends, stdout=subprocess.PIPE
            )
            stack.push_async_callback(ended, process)
            processes.append(process)
        yield processes[0], processes[1]


async def ended(process: OSProcess) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()


async def lines(process: OSProcess, each: Callable[[int], Awaitable[None]] | None = None) -> list[str]:
    """What a process says until its end; ``each`` is awaited after each line."""
    assert process.stdout is not None
    found: list[str] = []
    async for line in process.stdout:
        found.append(line.decode().strip())
        if each is not None:
            await each(len(found))
    assert await process.wait() == 0
    return found


def meetings(said: list[str]) -> list[str]:
    return [line for line in said if line != "time is up"]


async def test_two_processes_meet_each_time(server: RedisServer) -> None:
    async with asyncio.timeout(60), choosers(server.url, server.url, server.url) as (one, other):
        first, second = await asyncio.gather(lines(one), lines(other))
    assert first == second
    assert len(first) == ROUNDS
    assert len(set(first)) == ROUNDS
    assert {line[0] for line in first} == {"a", "b"}


async def test_two_processes_meet_through_restarts_of_redis() -> None:
    with RedisServer(persistent=True, args=("--appendfsync", "no")) as server:

        async def restart(count: int) -> None:
            if count in (20, 70):
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.restart)

        async with asyncio.timeout(120), choosers(server.url, server.url, server.url) as (one, other):
            first, second = await asyncio.gather(lines(one, restart), lines(other))
        assert meetings(first) == meetings(second)
        assert len(set(meetings(first))) == ROUNDS


@pytest.mark.slow
@pytest.mark.parametrize("pause", [0.15, 0.04])
async def test_two_processes_meet_through_connections_that_are_cut(server: RedisServer, pause: float) -> None:
    rng = random.Random(1)
    async with Proxy(server.port) as proxy, Proxy(server.port) as another:

        async def cut() -> None:
            while True:
                await asyncio.sleep(rng.expovariate(1 / pause))  # at any moment: that is the point
                rng.choice((proxy, another)).cut_all()

        async with asyncio.timeout(120), choosers(server.url, proxy.url, another.url) as (one, other):
            cutting = asyncio.create_task(cut())
            try:
                first, second = await asyncio.gather(lines(one), lines(other))
            finally:
                cutting.cancel()
                await asyncio.wait((cutting,))
        assert proxy.cuts + another.cuts > 2
    assert meetings(first) == meetings(second)
    assert len(set(meetings(first))) == ROUNDS


@pytest.mark.slow
@pytest.mark.parametrize("guards", ["in", "out", "both"])
async def test_choices_through_restarts_of_redis(guards: str) -> None:
    """A choice on one side or on both, values in order."""
    count = 2000
    with RedisServer(persistent=True, args=("--appendfsync", "no")) as server:
        here, there = RedisTransport(server.url), RedisTransport(server.url)
        writer: Chan[int] = Chan(int, transport=here)
        await writer.bound()
        reader: Chan[int] = Chan.open(writer.share(), transport=there)

        async def write() -> None:
            for number in range(count):
                await (writer.send(number) if guards == "in" else ALT(Guard(writer, send=number)))

        received: list[int] = []
        async with asyncio.timeout(60):
            writing = asyncio.create_task(write())
            while len(received) < count:
                received.append(await (reader.recv() if guards == "out" else ALT(Guard(reader))))
                if received[-1] in (300, 1200):
                    await asyncio.to_thread(server.kill)
                    await asyncio.to_thread(server.restart)
            await writing
        assert received == list(range(count))
        await here.aclose()
        await there.aclose()


@pytest.mark.parametrize(
    ("guards", "count"), [("in", 3), ("out", 3), ("both", 1), pytest.param("both", 3, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("side", ["writer", "reader"])
@pytest.mark.parametrize("direction", ["to server", "to client"])
async def test_a_choice_whose_connection_is_cut_at_every_stage_in_turn(
    server: RedisServer, direction: Direction, side: str, guards: str, count: int
) -> None:
    async def talk(proxy: Proxy) -> list[int]:
        urls = (proxy.url, server.url) if side == "writer" else (server.url, proxy.url)
        here, there = (RedisTransport(url) for url in urls)
        writer: Chan[int] = Chan(int, transport=here)

        async def write() -> None:
            for number in range(count):
                await (writer.send(number) if guards == "in" else ALT(Guard(writer, send=number)))

        try:
            async with asyncio.timeout(10), asyncio.TaskGroup() as group:
                await writer.bound()
                reader: Chan[int] = Chan.open(writer.share(), transport=there)
                group.create_task(write())
                found = [await (reader.recv() if guards == "out" else ALT(Guard(reader))) for _ in range(count)]
            await writer.aclose()
        finally:
            await here.aclose()
            await there.aclose()
        return found

    # given how many stages an undisturbed conversation has
    async with Proxy(server.port) as undisturbed:
        assert await talk(undisturbed) == list(range(count))

    # when each of them in turn is the one at which the connection is cut, before it or after
    for stage in range(1, undisturbed.chunks[direction] + 1):
        for after in (False, True):
            async with Proxy(server.port, cut_at=(direction, stage), after=after) as proxy:
                # then every value arrives once, in order
                assert await talk(proxy) == list(range(count)), f"cut at {stage}, {after=}"
