"""Channels over Redis beside other backends and other ways to a server: threads, pools, late processes, Sentinel."""

from __future__ import annotations

import asyncio
import functools
from pathlib import Path

import pytest

from stbass._process.context import ProcessContext
from stbass.backends.celery import CeleryBackend, make_app
from stbass.backends.processes import ProcessPoolBackend
from stbass.backends.threads import ThreadBackend
from stbass.channel import Chan
from stbass.errors import ChannelTopologyError, NotTransportable
from stbass.par import PAR
from stbass.placement import PLACED_PAR, Placement
from stbass.process import Process
from stbass.replicator import SEQ_FOR
from stbass.testing import RedisServer
from stbass.testing.redis_server import find_redis_server, free_port
from stbass.transports.redis import RedisTransport
from stbass.transports.redis.address import RedisAddress
from tests.support.backends import registry_of
from tests.support.sentinel import answers
from tests.support.talkers import Add, Produce, collect, produce_there
from tests.support.waiting import until

THERE = Placement(endpoint="there")


async def test_a_process_in_a_thread_talks_to_one_here(server: RedisServer) -> None:
    # given channels in Redis, which any event loop reaches
    transport = RedisTransport(server.url)
    out: Chan[int] = Chan(int, transport=transport)
    back: Chan[int] = Chan(int, transport=transport, capacity=4)
    async with ThreadBackend(2) as threads, asyncio.timeout(20):
        registry = registry_of(threads, "there")
        result = await PLACED_PAR(
            Produce(50).with_channels(out=out),
            (Add(1).with_channels(inp=out, out=back), THERE),
            collect.with_channels(inp=back),
            registry=registry,
            deadline=15,
        ).run()
    assert result.failures == []
    assert result.value[2] == list(range(1, 51))
    await transport.aclose()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (
            ThreadBackend,
            r"channel 'out' is in the memory of one event loop. Make it with transport=RedisTransport\(url\)",
        ),
        (
            ProcessPoolBackend,
            r"it has channels \(out\), .* Place it on threads, or on a fleet with channels over Redis",
        ),
    ],
)
async def test_a_backend_that_channels_do_not_reach_says_so_before_anything_starts(
    make: type[ThreadBackend] | type[ProcessPoolBackend], reason: str
) -> None:
    started = []

    @Process
    async def starts(ctx: ProcessContext) -> None:
        started.append(ctx.process_name)

    numbers: Chan[int] = Chan(int)
    async with make(1) as backend, asyncio.timeout(20):
        registry = registry_of(backend, "there")
        with pytest.raises(NotTransportable, match=reason):
            await PLACED_PAR(
                starts,
                collect.with_channels(inp=numbers),
                (Produce(3).with_channels(out=numbers), THERE),
                registry=registry,
            ).run()
    assert started == []


async def test_a_process_that_is_made_late_finds_its_channel_in_use_and_says_what_to_do(server: RedisServer) -> None:
    """What a factory makes is not known before it is called: then its channel cannot be moved any more."""
    backend = CeleryBackend(make_app("tests", broker_url=server.url, result_backend=server.url))
    registry = registry_of(backend, "there")
    numbers: Chan[int] = Chan(int, name="numbers")

    def make(index: int, ctx: ProcessContext) -> Process:
        return produce_there.with_channels(out=numbers)

    async with asyncio.timeout(20):
        result = await PAR(collect.with_channels(inp=numbers), SEQ_FOR(1, make), registry=registry).run()

    errors = [failure.error for failure in result.failures]
    while any(isinstance(error, ExceptionGroup) for error in errors):
        errors = [one for error in errors for one in getattr(error, "exceptions", [error])]
    assert any(
        isinstance(error, ChannelTopologyError)
        and "channel 'numbers' cannot be moved" in str(error)
        and "a receiver waits in it. Place the processes before they use it, or make it with transport=" in str(error)
        for error in errors
    ), errors
    await backend.aclose()


async def test_a_channel_whose_server_sentinel_knows(tmp_path: Path) -> None:
    with RedisServer() as master:
        port = free_port()
        config = tmp_path / "sentinel.conf"
        config.write_text(f"port {port}\nsentinel monitor mymaster 127.0.0.1 {master.port} 1\n")
        sentinel = await asyncio.create_subprocess_exec(
            str(find_redis_server()), str(config), "--sentinel", stdout=asyncio.subprocess.DEVNULL
        )
        try:
            await until(functools.partial(answers, port))
            address = RedisAddress.parse(f"sentinel://127.0.0.1:{port}/0", "url", {"master_name": "mymaster"})
            here, there = RedisTransport(address), RedisTransport(address)
            writer: Chan[int] = Chan(int, transport=here)
            await writer.bound()
            reader: Chan[int] = Chan.open(writer.share(), transport=there)
            async with asyncio.timeout(10):
                for number in range(10):
                    sending = asyncio.create_task(writer.send(number))
                    assert await reader.recv() == number
                    await sending
            await here.aclose()
            await there.aclose()
        finally:
            sentinel.kill()
            await sentinel.wait()
