"""Channels with a capacity whose ends are killed: what Redis has is what the program had done at one moment."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
from asyncio.subprocess import Process as OSProcess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from stbass.alt import PRI_ALT, SKIP, Guard
from stbass.backends.celery import CeleryBackend, make_app
from stbass.channel import Chan
from stbass.errors import ChannelClosedError
from stbass.placement import PLACED_PAR, Placement
from stbass.testing import RedisServer, Worker
from stbass.transports.redis import RedisTransport
from tests.support.backends import registry_of
from tests.support.proxy import Proxy
from tests.support.talkers import Add, Tell
from tests.support.waiting import until

LEASE = 0.3

# Programs that are killed: each gets the URL, and what its channels share.
PROGRAM = """
import asyncio, json, sys
from stbass.channel import Chan
from stbass.transports.redis import RedisTransport

def say(what):
    print(what, flush=True)

async def in_order(one, other):
    say("begun")
    number = 0
    while True:
        await one.send(number)
        await other.send(number)
        number += 1
        if number % 7 == 0:
            await asyncio.sleep(0)

async def flushed(one):
    number = 0
    while True:
        for _ in range(3):
            await one.send(number)
            number += 1
        await one.flush()
        say(number)

async def slow(one):
    number = 0
    while True:
        await asyncio.sleep(0.002)
        await one.send(number)
        number += 1
        say(number)

async def stage(inp, out):
    say("begun")
    async for value in inp:
        await out.send(value)

async def at_work(inp, out):
    say(await inp.recv())
    await out.send(await inp.recv())
    say(await inp.recv())
    await asyncio.get_running_loop().create_future()

async def acknowledged(inp):
    while True:
        value = await inp.recv()
        await inp.flush()
        say(value)

async def main(name, url, *shared):
    transport = RedisTransport(url, lease=0.3)
    await globals()[name](*[Chan.open(json.loads(one), transport=transport) for one in shared])

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
async def transport(server: RedisServer) -> AsyncIterator[RedisTransport]:
    made = RedisTransport(server.url, lease=LEASE)
    yield made
    await made.aclose()


async def channel(transport: RedisTransport, capacity: int) -> Chan[int]:
    made: Chan[int] = Chan(int, transport=transport, capacity=capacity)
    await made.bound()
    return made


@asynccontextmanager
async def program(name: str, server: RedisServer, *channels: Chan[int]) -> AsyncIterator[OSProcess]:
    """A program in a Python process of its own, killed at the end."""
    shared = [json.dumps(one.share()) for one in channels]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, name, server.url, *shared, stdout=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()


async def line(process: OSProcess) -> Any:
    assert process.stdout is not None
    text = await process.stdout.readline()
    return json.loads(text) if text[:1].isdigit() else text


async def rest(reader: Chan[int]) -> list[int]:
    """What can be received now, as Redis says."""
    found: list[int] = []
    while True:
        value = await PRI_ALT(Guard(reader, handler=lambda value: [value]), Guard(SKIP))
        if value is None:
            return found
        found += value


@pytest.mark.parametrize("seed", range(6))
async def test_nothing_is_there_without_what_the_program_did_before(
    server: RedisServer, transport: RedisTransport, seed: int
) -> None:
    rng = random.Random(seed)
    # given a program that sends each number on one channel, and then on another
    one, other = await channel(transport, 100_000), await channel(transport, rng.choice([5, 64, 100_000]))
    async with asyncio.timeout(20):
        async with program("in_order", server, one, other) as process:
            await line(process)
            await asyncio.sleep(rng.uniform(0, 0.05))  # any moment will do: that is the point
        # when it was killed: then the second channel has what the first has, but perhaps for the last number
        first, second = await rest(one), await rest(other)
    assert first == list(range(len(first)))
    assert second == list(range(len(second)))
    if len(second) < other.capacity:
        assert len(first) - len(second) in (0, 1)
    else:
        assert len(first) - len(second) == 1  # it waited for room there


async def test_what_was_flushed_is_there(server: RedisServer, transport: RedisTransport) -> None:
    for count in (1, 5):
        one = await channel(transport, 100_000)
        async with asyncio.timeout(20):
            async with program("flushed", server, one) as process:
                for _ in range(count):
                    told = await line(process)
            found = await rest(one)
        assert len(found) >= told
        assert found == list(range(len(found)))


async def test_a_send_after_a_pause_is_there_when_it_has_returned(
    server: RedisServer, transport: RedisTransport
) -> None:
    for count in (1, 2, 10):
        one = await channel(transport, 100_000)
        async with asyncio.timeout(20):
            async with program("slow", server, one) as process:
                for _ in range(count):
                    told = await line(process)
            assert len(await rest(one)) >= told


@pytest.mark.parametrize(
    ("kills", "count"), [(3, 15_000), pytest.param(100, 300_000, marks=[pytest.mark.slow, pytest.mark.timeout(1000)])]
)
async def test_a_stage_that_is_killed_again_and_again_hands_on_every_value_once(
    server: RedisServer, transport: RedisTransport, kills: int, count: int
) -> None:
    rng = random.Random(2)
    # given a stage between two channels, of which the second never is full
    inp, out = await channel(transport, 64), await channel(transport, count)

    async def feed() -> None:
        for number in range(count):
            await inp.send(number)

    received: list[int] = []

    async def collect() -> None:
        # the stage that hands on the last one is not killed
        while not received or received[-1] != count - 1:
            received.append(await out.recv())

    # (A hundred programs are started, each of which takes seconds on a busy machine.)
    async with asyncio.timeout(900):
        feeding, collecting = asyncio.create_task(feed()), asyncio.create_task(collect())
        killed = 0
        while not collecting.done() and killed < kills:
            async with program("stage", server, inp, out) as process:
                await line(process)
                await asyncio.wait((collecting,), timeout=rng.uniform(0.02, 0.2))
                # when it is killed at any moment, and another takes its places
            killed += 1
        async with program("stage", server, inp, out):
            await asyncio.gather(feeding, collecting)

    # then all were handed on in order, none was lost, and none twice
    twice = len(received) - len(set(received))
    print(f"{count} values, {killed} kills: {count - len(set(received))} lost, {twice} twice")  # noqa: T201 - for -rP
    assert killed > kills / 2
    assert received == list(range(count))


async def test_the_value_that_a_killed_stage_was_at_work_on_goes_to_the_next(
    server: RedisServer, transport: RedisTransport
) -> None:
    inp, out = await channel(transport, 1), await channel(transport, 64)
    async with asyncio.timeout(20):
        async with program("at_work", server, inp, out) as process:
            # given a stage that has handed on the second value, and has the third
            for number in range(3):
                await inp.send(number)
            assert await line(process) == 0
            assert await out.recv() == 1
            assert await line(process) == 2
            # then what it has received makes room for the next
            await inp.send(3)
            await inp.flush()
        # when it is killed, then the next gets what was not handed on, and nothing else
        inp.bind_reader("the next one")
        assert [await inp.recv(), await inp.recv()] == [2, 3]
        assert await rest(out) == []


async def test_a_stage_that_loses_its_connections_while_it_has_a_value_gets_it_once(
    server: RedisServer, transport: RedisTransport
) -> None:
    writer = await channel(transport, 4)
    async with Proxy(server.port) as proxy, asyncio.timeout(20):
        there = RedisTransport(proxy.url, lease=LEASE)
        reader: Chan[int] = Chan.open(writer.share(), transport=there)
        received = []
        for number in range(20):
            await writer.send(number)
            # when both connections are cut, and what was under way may come once more
            received.append(await reader.recv())
            proxy.cut_all()
        assert received == list(range(20))
        await there.aclose()
    assert await rest(writer) == []


async def test_what_was_received_and_flushed_is_not_received_again(
    server: RedisServer, transport: RedisTransport
) -> None:
    inp = await channel(transport, 64)
    for number in range(50):
        await inp.send(number)
    async with asyncio.timeout(20):
        async with program("acknowledged", server, inp) as process:
            for _ in range(10):
                told = await line(process)
        inp.bind_reader("the next one")
        first = await inp.recv()
        # The one that it was about to tell of may be gone too.
        assert first > told
        assert [first, *await rest(inp)] == list(range(first, 50))


async def test_a_reader_that_ends_or_gives_back_its_place_has_received_what_it_received(
    server: RedisServer, transport: RedisTransport
) -> None:
    inp = await channel(transport, 1000)
    for number in range(900):
        await inp.send(number)
    await inp.flush()
    received: list[int] = []

    async def some(ends: bool) -> None:
        there = Chan.open(inp.share(), transport=RedisTransport(server.url))
        received.extend([await there.recv() for _ in range(20)])
        if not ends:
            # when the next one has the place, in the same turn
            there.unbind_reader()
            await there.bound()
            there.bind_reader("the next")
            received.extend([await there.recv() for _ in range(10)])
            await there.flush()
        # when the event loop ends, without a word to the channel

    async with asyncio.timeout(30):
        for number in range(30):
            await asyncio.to_thread(asyncio.run, some(ends=number % 2 == 0))
    # then nothing is received again, and nobody says that it might be
    assert received == list(range(len(received)))
    assert len(received) == 15 * (20 + 30)


@pytest.mark.slow
async def test_a_checkpoint_is_never_ahead_of_what_was_sent() -> None:
    with RedisServer() as server:
        env = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url, "TEST_LEASE": "0.5"}
        backend = CeleryBackend(make_app("tests", broker_url=server.url, stbass_lease=0.5), lease=0.5)
        registry = registry_of(backend, "anthropic")
        out: Chan[int] = Chan(int, transport=backend.transport(), capacity=100_000)
        place = Placement(endpoint="anthropic")
        with Worker("tests.support.worker_app", "anthropic", env=env) as first:
            async with asyncio.timeout(40):
                # given a process that sends numbers, and makes a checkpoint after each
                running = asyncio.create_task(
                    PLACED_PAR((Tell(3000).with_channels(out=out), place), registry=registry).run()
                )
                received = [await out.recv() for _ in range(50)]
                # when its worker is killed, and it goes on elsewhere from its last checkpoint
                first.send_signal(signal.SIGKILL)
                first.kill()
                with Worker("tests.support.worker_app", "anthropic", env=env):
                    result = await running
                    await out.aclose()
                    received += [value async for value in out]
        assert result.failures == []
        [began] = result.value
        # then everything before the checkpoint was received once, and nothing is missing after it
        assert began > 0
        second = 3000 - began
        first_attempt, second_attempt = received[:-second], received[-second:]
        assert second_attempt == list(range(began, 3000))
        assert first_attempt == list(range(len(first_attempt)))
        assert len(first_attempt) >= began
        await backend.aclose()


@pytest.mark.parametrize("stop", [pytest.param("handed back", marks=pytest.mark.slow), "lease lost"])
async def test_a_stage_that_is_broken_off_leaves_the_value_that_it_was_at_work_on(stop: str) -> None:
    lease = 1.0
    with RedisServer() as server:
        env = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url, "TEST_LEASE": str(lease)}
        backend = CeleryBackend(make_app("tests", broker_url=server.url, stbass_lease=lease), lease=lease)
        inp, out = (Chan(int, transport=backend.transport(), capacity=capacity) for capacity in (8, 1))
        stage = (Add(10).with_channels(inp=inp, out=out), Placement(endpoint="anthropic"))

        def waits_for_room() -> bool:
            """The stage has handed on one value, and has received another."""
            bases = [key for key in server.command("KEYS", "stbass:chan:*") if key.endswith("}")]
            known = [server.command("HMGET", base, "offered", "acked") for base in bases]
            return sorted((offered, acked or "0") for offered, acked in known if offered) == [("1", "0"), ("8", "2")]

        def attempts() -> list[str]:
            return [server.command("HGET", key, "attempt") for key in server.command("KEYS", "stbass:run:*")]

        async with asyncio.timeout(60):
            with Worker("tests.support.worker_app", "anthropic", env=env, include=["tests.support.talkers"]) as first:
                # given a stage that waits for room, with a value in hand
                running = asyncio.create_task(PLACED_PAR(stage, registry=registry_of(backend, "anthropic")).run())
                for number in range(8):
                    await inp.send(number)
                await inp.aclose()
                await until(waits_for_room, timeout=30)
                # when it is broken off, and another worker goes on with it
                with Worker("tests.support.worker_app", "anthropic", env=env, include=["tests.support.talkers"]):
                    if stop == "handed back":
                        first.send_signal(signal.SIGQUIT)
                        await until(lambda: first.exit_code is not None, timeout=30)
                    else:
                        first.send_signal(signal.SIGSTOP)
                        await until(lambda: attempts() == ["2"], timeout=30)
                        first.send_signal(signal.SIGCONT)
                        # By the fleet, or by the channels, whichever comes first.
                        told = ("stopping it here", "has been started again", "has taken the place")
                        await until(lambda: any(text in first.log for text in told), timeout=30)
                    # then nothing is lost
                    received = [value async for value in out]
                    await running
        assert received == list(range(10, 18))
        await backend.aclose()


async def test_what_is_made_of_a_value_is_not_there_without_it_while_the_connection_is_made_anew(
    server: RedisServer, transport: RedisTransport
) -> None:
    # given a stage that is at work on a value, and hears nothing more
    hears = asyncio.Event()
    hears.set()

    async def before(chunk: bytes) -> None:
        await hears.wait()

    inp, out = await channel(transport, 8), await channel(transport, 8)
    async with asyncio.timeout(60), Proxy(server.port, before=before) as proxy:
        there = RedisTransport(proxy.url)
        scope = there.scope("stage")
        its_inp, its_out = (Chan.open(one.share(), transport=scope) for one in (inp, out))
        for number in range(3):
            await inp.send(number)
        await its_out.send(await its_inp.recv())
        assert await out.recv() == 0
        assert await its_inp.recv() == 1
        base, made_of_it = (f"stbass:chan:{{{one.share()['link']['id']}}}" for one in (inp, out))
        epoch = server.command("HGET", base, "epoch")
        hears.clear()
        # when it loses the connection on which values come, asks for new lists, and sends what it has made
        connections = iter(range(9))
        proxy.cut_all(lambda: next(connections) > 0)
        await until(lambda: server.command("HGET", base, "epoch") != epoch, timeout=30)
        await its_out.send(1)
        await until(lambda: server.command("HGET", made_of_it, "offered") == "2", timeout=30)
        # then whoever took its place now would not get that value once more
        assert server.command("HGET", base, "done") == "2"
        # and it goes on itself
        hears.set()
        assert await its_inp.recv() == 2
        await its_out.send(2)
        assert [await out.recv(), await out.recv()] == [1, 2]
        await inp.aclose()
        with pytest.raises(ChannelClosedError):
            await its_inp.recv()
        await scope.aclose()
        await there.aclose()


async def test_a_worker_that_closes_its_connections_gives_back_what_its_processes_were_at_work_on(
    server: RedisServer, transport: RedisTransport
) -> None:
    # given a process that was broken off with a value, and that has not left its channels when its worker ends
    inp = await channel(transport, 8)
    there = RedisTransport(server.url)
    scope = there.scope("stage")
    its_inp = Chan.open(inp.share(), transport=scope)
    await inp.send(1)
    await inp.send(2)
    assert [await its_inp.recv(), await its_inp.recv()] == [1, 2]
    scope.break_off()
    # when the worker closes its connections
    async with asyncio.timeout(30):
        await there.aclose()
        # then the next attempt gets that value
        next_inp = Chan.open(inp.share(), transport=RedisTransport(server.url))
        assert await next_inp.recv() == 2
    await next_inp.transport.aclose()
