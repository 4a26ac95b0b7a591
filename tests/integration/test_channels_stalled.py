"""A program that stands still for longer than its lease, while another takes one of its places, and then goes on.

It has not heard of that when it goes on, and what it does is told to Redis: all of it, or nothing.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from asyncio.subprocess import Process as OSProcess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from stbass.alt import PRI_ALT, SKIP, Guard
from stbass.channel import Chan
from stbass.testing import RedisServer
from stbass.transports.redis import RedisTransport

LEASE = 0.3

# It stands still, event loop and all, while it waits for a line.
PROGRAM = """
import asyncio, json, sys
from stbass.alt import PRI_ALT, SKIP, Guard
from stbass.channel import Chan
from stbass.errors import ChannelTopologyError
from stbass.transports.redis import RedisTransport

def stand_still():
    print("stands still", flush=True)
    sys.stdin.readline()

async def one_input(inp, out):
    await out.send(await inp.recv())
    await out.flush()
    value = await inp.recv()
    stand_still()
    await out.send(value)
    await out.flush()

async def fetched(*channels):
    while not all(channel.link.state.moved for channel in channels):
        await asyncio.sleep(0.01)

async def two_inputs(inp, other, out):
    await out.send(await inp.recv() + await other.recv())
    await out.flush()
    await fetched(inp, other)
    value = [await inp.recv(), await other.recv()]
    stand_still()
    await out.send(sum(value))
    await out.flush()

async def only_received(inp, other, out):
    await out.send(await inp.recv() + await other.recv())
    await out.flush()
    await fetched(inp, other)
    await inp.recv()
    await other.recv()
    stand_still()
    await inp.recv()
    await inp.flush()

async def two_outputs(inp, out, other):
    value = await inp.recv()
    await out.send(value)
    await other.send(value)
    await other.flush()
    value = await inp.recv()
    stand_still()
    await out.send(value)
    await other.send(value)
    await out.flush()
    await other.flush()

async def without_capacity(inp, out):
    await out.send(await inp.recv())
    value = await inp.recv()
    stand_still()
    await out.send(value)

async def chosen(inp, out):
    await out.send(await inp.recv())
    value = await inp.recv()
    stand_still()
    while await PRI_ALT(Guard(out, send=value), Guard(SKIP, handler=lambda _: "not yet")) == "not yet":
        pass

async def twice(inp, out):
    await out.send(await inp.recv())
    await out.flush()
    value = await inp.recv()
    stand_still()
    for _ in range(2):
        try:
            await out.send(value)
            await out.flush()
        except ChannelTopologyError:
            pass
    await out.send(value)

async def main(name, attempt, url, *shared):
    transport = RedisTransport(url, lease=0.3)
    if int(attempt):
        transport = transport.scope("stage")
        transport.belongs_to([("stage", int(attempt))])
    try:
        await globals()[name](*[Chan.open(json.loads(one), transport=transport) for one in shared])
        print("sent", flush=True)
    except ChannelTopologyError as error:
        print(error, flush=True)
    sys.stdin.readline()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
async def transport(server: RedisServer) -> AsyncIterator[RedisTransport]:
    made = RedisTransport(server.url, lease=LEASE)
    yield made
    await made.aclose()


async def channel(transport: RedisTransport, capacity: int = 8) -> Chan[int]:
    made: Chan[int] = Chan(int, transport=transport, capacity=capacity)
    await made.bound()
    return made


class Program:
    """A program in a Python process of its own."""

    def __init__(self, process: OSProcess) -> None:
        self.process = process

    async def line(self) -> str:
        assert self.process.stdout is not None
        return (await self.process.stdout.readline()).decode().strip()

    async def goes_on(self) -> str:
        """What becomes of it."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        return await self.line()


@asynccontextmanager
async def program(name: str, attempt: int, server: RedisServer, *channels: Chan[int]) -> AsyncIterator[Program]:
    shared = [json.dumps(one.share()) for one in channels]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, name, str(attempt), server.url, *shared),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        yield Program(process)
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()


@asynccontextmanager
async def next_one(server: RedisServer, attempt: int, *channels: Chan[int]) -> AsyncIterator[list[Chan[int]]]:
    """Ends of whoever takes over."""
    there = RedisTransport(server.url, lease=LEASE)
    scope = there.scope("stage")
    if attempt:
        scope.belongs_to([("stage", attempt)])
    yield [Chan.open(one.share(), transport=scope) for one in channels]
    await scope.aclose()
    await there.aclose()


async def rest(reader: Chan[int]) -> list[int]:
    """What can be received now, as Redis says."""
    found: list[int] = []
    while True:
        value = await PRI_ALT(Guard(reader, handler=lambda value: [value]), Guard(SKIP))
        if value is None:
            return found
        found += value


def lost(text: str) -> bool:
    """Whether an error says that what was received here goes to somebody else."""
    return "receives once more what was received here" in text or "goes to somebody else" in text


# An attempt at a process of a fleet, whose next attempt takes over; or a program of one's own.
attempts = pytest.mark.parametrize("attempt", [1, 0], ids=["of a fleet", "of one's own"])


@attempts
@pytest.mark.parametrize("name", ["one_input", "without_capacity", "chosen"])
async def test_what_is_made_of_a_value_that_goes_to_somebody_else_is_not_sent(
    server: RedisServer, transport: RedisTransport, name: str, attempt: int
) -> None:
    inp, out = await channel(transport), await channel(transport, 8 if name == "one_input" else 0)
    for number in (1, 2, 3):
        await inp.send(number)
    async with asyncio.timeout(60), program(name, attempt, server, inp, out) as stalled:
        # given a stage that has the places of both its channels, and stands still with a value
        assert await out.recv() == 1
        assert await stalled.line() == "stands still"
        async with next_one(server, attempt and 2, inp, out) as (next_inp, next_out):
            # when somebody else gets the value, and has not sent anything yet
            assert await next_inp.recv() == 2
            reading = asyncio.create_task(out.recv())
            # then the stage cannot send it
            assert lost(await stalled.goes_on())
            await next_out.send(20)
            assert await reading == 20
            assert await next_inp.recv() == 3
    assert await rest(out) == []


@attempts
@pytest.mark.parametrize("name", ["two_inputs", "only_received"])
async def test_nothing_is_acknowledged_on_one_input_if_another_is_lost(
    server: RedisServer, transport: RedisTransport, name: str, attempt: int
) -> None:
    inp, other, out = await channel(transport), await channel(transport), await channel(transport)
    for number in (1, 2, 3):
        await inp.send(number)
    for number in (10, 20):
        await other.send(number)
    async with asyncio.timeout(60), program(name, attempt, server, inp, other, out) as stalled:
        assert await out.recv() == 11
        # given a stage that stands still with a value of each of two channels
        assert await stalled.line() == "stands still"
        async with next_one(server, attempt and 2, inp, other, out) as (next_inp, next_other, _):
            # when somebody else has taken its place at one of them
            assert await next_other.recv() == 20
            told = await stalled.goes_on()
            # then it has neither sent anything nor acknowledged the other
            if attempt or name == "two_inputs":
                assert lost(told)
            if attempt:
                assert await next_inp.recv() == 2
        assert await rest(out) == []


@attempts
async def test_nothing_is_sent_or_acknowledged_if_the_place_of_one_output_is_lost_for_good(
    server: RedisServer, transport: RedisTransport, attempt: int
) -> None:
    inp, out, other = await channel(transport), await channel(transport), await channel(transport)
    for number in (1, 2, 3):
        await inp.send(number)
    async with asyncio.timeout(60), program("two_outputs", attempt, server, inp, out, other) as stalled:
        assert [await out.recv(), await other.recv()] == [1, 1]
        assert await stalled.line() == "stands still"
        async with next_one(server, attempt and 2, inp, out, other) as (next_inp, next_out, _):
            # given that somebody else is the writer of one of two channels
            next_out.bind_writer("stage")
            await next_out.bound()
            # when it goes on, and sends on both
            told = await stalled.goes_on()
            if attempt:
                # then it has sent on neither, and the value that it did it for comes to the next attempt
                assert "has been started again" in told
                assert await rest(other) == []
                assert await next_inp.recv() == 2
            else:
                # then it knows
                assert "already has a writer" in told
        assert await rest(out) == []


async def test_a_writers_place_that_is_got_back_loses_nothing(server: RedisServer, transport: RedisTransport) -> None:
    inp, out = await channel(transport), await channel(transport)
    for number in (1, 2, 3):
        await inp.send(number)
    async with asyncio.timeout(60), program("one_input", 0, server, inp, out) as stalled:
        assert await out.recv() == 1
        assert await stalled.line() == "stands still"
        # given that another program has used the channel meanwhile, for as long as it took
        async with next_one(server, 0, out) as (between,):
            await between.send(10)
            await between.flush()
            # when the stage goes on
            assert await stalled.goes_on() == "sent"
    # then it has sent what it had, and acknowledged what it made that of
    assert await rest(out) == [10, 2]
    assert await rest(inp) == [3]


@attempts
async def test_who_goes_on_though_he_was_told(server: RedisServer, transport: RedisTransport, attempt: int) -> None:
    inp, out = await channel(transport), await channel(transport)
    for number in (1, 2, 3):
        await inp.send(number)
    async with asyncio.timeout(60), program("twice", attempt, server, inp, out) as stalled:
        assert await out.recv() == 1
        assert await stalled.line() == "stands still"
        async with next_one(server, attempt and 2, inp) as (next_inp,):
            assert await next_inp.recv() == 2
            told = await stalled.goes_on()
            # A process of a fleet is run again, and only that counts. A program of one's own may know better.
            assert lost(told) if attempt else told == "sent"
        assert len(await rest(out)) == (0 if attempt else 1)
