"""Channels over Redis when connections are cut, servers restart, and processes die."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import subprocess
import sys

import pytest

from stbass.alt import ALT, Guard
from stbass.channel import Chan
from stbass.errors import BackendUnavailableError, ChannelClosedError, ChannelTopologyError, StateLostError
from stbass.testing import RedisServer, check_transport
from stbass.transports.redis import RedisTransport
from tests.support.ends import ends
from tests.support.proxy import Direction, Proxy
from tests.support.waiting import until


async def write(channel: Chan[int], count: int) -> None:
    for number in range(count):
        await channel.send(number)
    await channel.aclose()


async def choose(channel: Chan[int], count: int) -> list[int]:
    choice = ALT(Guard(channel))
    return [await choice for _ in range(count)]


def keys(server: RedisServer) -> object:
    return server.command("KEYS", "*")


@pytest.mark.parametrize("capacity", [0, 4])
@pytest.mark.parametrize("side", ["writer", "reader"])
@pytest.mark.parametrize("direction", ["to server", "to client"])
async def test_a_connection_cut_at_every_stage_in_turn(
    server: RedisServer, direction: Direction, side: str, capacity: int
) -> None:
    # given the number of stages of an undisturbed conversation of one end: greeting, joining, binding, values, closing
    count = 4

    async def talk(proxy: Proxy) -> list[int]:
        urls = (proxy.url, server.url) if side == "writer" else (server.url, proxy.url)
        async with asyncio.timeout(10), ends(*urls, capacity=capacity) as (writer, reader):
            writer.bind_writer("w")
            reader.bind_reader("r")
            await writer.bound()
            await reader.bound()
            writer.unbind_writer()
            writer.bind_writer("another")
            async with asyncio.TaskGroup() as group:
                group.create_task(write(writer, count))
                found = [value async for value in reader]
            reader.unbind_reader()
            return found

    async with Proxy(server.port) as undisturbed:
        assert await talk(undisturbed) == list(range(count))

    # when each of them in turn is the one at which the connection is cut, before it or after
    for stage in range(1, undisturbed.chunks[direction] + 1):
        for after in (False, True):
            async with Proxy(server.port, cut_at=(direction, stage), after=after) as proxy:
                # then every value arrives once, in order
                assert await talk(proxy) == list(range(count)), f"cut at {stage}, {after=}"


@pytest.mark.slow
@pytest.mark.timeout(300)  # on a busy machine, few choices come to their end between two cuts
async def test_choices_through_a_proxy_that_cuts_again_and_again(server: RedisServer) -> None:
    rng = random.Random(7)
    async with Proxy(server.port) as proxy, ends(proxy.url, proxy.url) as (writer, reader), asyncio.timeout(280):

        async def cut() -> None:
            while True:
                await asyncio.sleep(rng.expovariate(1 / 0.05))
                proxy.cut_all()

        async def send() -> None:
            for number in range(300):
                await ALT(Guard(writer, send=number))

        cutting = asyncio.create_task(cut())
        sending = asyncio.create_task(send())
        assert await choose(reader, 300) == list(range(300))
        await sending
        cutting.cancel()
        await asyncio.wait((cutting,))
    assert proxy.cuts > 3


@pytest.mark.parametrize("capacity", [0, 64])
async def test_ten_thousand_values_in_order_through_a_killed_and_restarted_redis(capacity: int) -> None:
    # Written before it is answered, and never put off because the disk is busy: a killed server has lost nothing.
    with RedisServer(persistent=True, args=("--appendfsync", "no")) as server:
        async with asyncio.timeout(120), ends(server.url, server.url, capacity=capacity) as (writer, reader):
            received: list[int] = []
            writing = asyncio.create_task(write(writer, 10_000))
            async for value in reader:
                received.append(value)
                if value in (2000, 6000):
                    await asyncio.to_thread(server.kill)
                    await asyncio.to_thread(server.restart)
            await writing
        assert received == list(range(10_000))
        assert keys(server) == []


async def test_redis_restarted_empty_ends_everything_in_flight_with_an_error_that_says_so() -> None:
    with RedisServer() as server:
        async with ends(server.url, server.url) as (writer, reader), asyncio.timeout(10):
            receiving = asyncio.create_task(reader.recv())
            await writer.writable()
            await asyncio.to_thread(server.restart, empty=True)
            with pytest.raises(StateLostError, match="restarted without its data"):
                await receiving


async def test_redis_down_at_the_start_is_told_at_once() -> None:
    with RedisServer(password="secret") as server:
        url = server.url
    async with asyncio.timeout(5):
        with pytest.raises(BackendUnavailableError, match="cannot be reached") as caught:
            await Chan(int, transport=RedisTransport(url)).send(1)
    assert "secret" not in str(caught.value)


async def test_a_server_whose_first_connections_are_forgotten(server: RedisServer) -> None:
    async def sent(deaf: int, *, known: bool) -> str:
        async with Proxy(server.port, deaf=deaf) as proxy:
            options = {"socket_connect_timeout": 1.0}
            transport = RedisTransport(proxy.url, options=options, known=known)
            try:
                channel: Chan[int] = Chan(int, transport=transport, capacity=1)
                await channel.send(1)
                await channel.flush()
                return "sent"
            except BackendUnavailableError as error:
                return str(error)
            finally:
                await transport.aclose()

    # given a server that was there a moment ago, and ones that nobody knows
    async with asyncio.timeout(60):
        known, unknown, never = await asyncio.gather(sent(4, known=True), sent(2, known=False), sent(99, known=False))
    # then who knows it tries again for long, who does not twice; and one that never speaks is told
    assert (known, unknown) == ("sent", "sent")
    assert "cannot be reached (no answer)" in never


@pytest.mark.parametrize(
    ("name", "rounds"),
    [
        ("random_cancellations", 5_000),  # with a capacity, and without
        ("random_cancellations_of_choices", 2_000),
        pytest.param("random_cancellations_of_choices", 10_000, marks=[pytest.mark.slow, pytest.mark.timeout(300)]),
    ],
)
async def test_ten_thousand_random_cancellations(server: RedisServer, name: str, rounds: int) -> None:
    # Each send is cancelled at some moment, and each of at least as many receives.
    await check_transport(lambda: RedisTransport(server.url), only=(name,), rounds=rounds, seconds=280, seed=5)


READER = """
import asyncio, json, sys
from stbass.channel import Chan
from stbass.transports.redis import RedisTransport
from stbass.transports.redis.rendezvous import Rendezvous

async def main(url, shared):
    channel = Chan.open(json.loads(shared), transport=RedisTransport(url, lease=0.5))
    channel.bind_reader("the one that dies")
    await channel.bound()
    def stop(self, settled, *, streaming):
        print(self.state.moved[0].value, flush=True)
    Rendezvous._send_ack = stop
    await channel.recv()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_value_that_a_killed_reader_took_and_did_not_acknowledge_goes_to_the_next_once(
    server: RedisServer,
) -> None:
    import json

    async with ends(server.url, server.url, lease=0.5) as (writer, reader), asyncio.timeout(20):
        sending = asyncio.create_task(writer.send(1))
        # given a reader in another Python process that has moved the value and not acknowledged it
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", READER, server.url, json.dumps(writer.share()), stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"1\n"
        assert not sending.done()

        # when it is killed
        process.send_signal(signal.SIGKILL)
        await process.wait()

        # then the next reader waits for the end of its lease, and gets the value, once
        reader.bind_reader("the next one")
        began = asyncio.get_running_loop().time()
        assert await reader.recv() == 1
        await sending
        assert asyncio.get_running_loop().time() - began < 10
        more = asyncio.create_task(reader.recv())
        await writer.writable()
        await writer.send(2)
        assert await more == 2


async def test_the_error_for_a_second_reader_names_the_first_and_since_when(server: RedisServer) -> None:
    async with ends(server.url, server.url) as (writer, reader):
        writer.bind_reader("first")
        await writer.bound()
        reader.bind_reader("second")
        with pytest.raises(ChannelTopologyError, match=r"already has a reader: 'first' at .*, since .* UTC; 'second'"):
            await reader.bound()


async def test_everything_is_gone_after_the_close(server: RedisServer) -> None:
    server.command("FLUSHALL")
    async with ends(server.url, server.url, capacity=3) as (writer, reader):
        await writer.send(1)
        await writer.send(2)
        await writer.aclose()
        assert [value async for value in reader] == [1, 2]
        await reader.aclose()
        with contextlib.suppress(ChannelClosedError):
            await reader.recv()
    assert keys(server) == []


@pytest.mark.parametrize("kind", ["normal", "pubsub"])
@pytest.mark.parametrize("capacity", [0, 1, 5])
async def test_connections_that_the_server_closes_between_two_operations(
    server: RedisServer, capacity: int, kind: str
) -> None:
    # given a channel on which a value has gone through
    transport = RedisTransport(server.url)
    channel = Chan(int, name="idle", transport=transport, capacity=capacity)

    async def goes_through(value: int) -> None:
        receiving = asyncio.ensure_future(channel.recv()) if not capacity else None
        await channel.send(value)
        assert await (channel.recv() if receiving is None else receiving) == value

    async with asyncio.timeout(60):
        await goes_through(0)
        for value in range(1, 6):
            # when the server closes its connections before anything more is said on them
            server.command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
            # then the next value goes through all the same: that there is room was not lost with them
            await goes_through(value)
    channel.close()
    await transport.aclose()


@pytest.mark.parametrize("capacity", [0, 8])
async def test_a_reader_whose_connection_is_forgotten_while_it_waits_there(server: RedisServer, capacity: int) -> None:
    async with (
        asyncio.timeout(60),
        Proxy(server.port) as proxy,
        ends(server.url, proxy.url, capacity=capacity, lease=1.5) as (writer, reader),
    ):
        # given a reader that waits for a value, on a connection of its own
        waiting = asyncio.create_task(reader.recv())
        await until(lambda: "blmove" in server.command("CLIENT", "LIST"), timeout=30)
        # when a firewall forgets that one, which nobody is told of, and none other
        connections = iter(range(9))
        proxy.forget_all(lambda: next(connections) == 1)
        sending = asyncio.create_task(writer.send(1))
        # then the value comes
        assert await waiting == 1
        await sending
        waiting = asyncio.create_task(reader.recv())
        await writer.send(2)
        assert await waiting == 2


@pytest.mark.parametrize("capacity", [0, 8])
async def test_a_reader_whose_connection_is_forgotten_while_values_come(server: RedisServer, capacity: int) -> None:
    async with (
        asyncio.timeout(60),
        Proxy(server.port) as proxy,
        ends(server.url, proxy.url, capacity=capacity, lease=1.5) as (writer, reader),
    ):
        writing = asyncio.create_task(write(writer, 300))
        received = []
        async for value in reader:
            received.append(value)
            if value in (20, 100):
                # All connections but the first, on which other answers would be missed.
                connections = iter(range(99))
                proxy.forget_all(lambda: next(connections) > 0)  # noqa: B023 - called at once
        await writing
    assert received == list(range(300))
