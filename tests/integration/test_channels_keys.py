"""What channels keep in Redis: exactly what is written down, for as long as it says, and nothing after the end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import re
import signal
import subprocess
import sys
from asyncio.subprocess import Process as OSProcess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from stbass.alt import ALT, Guard
from stbass.channel import Chan
from stbass.errors import ChannelTopologyError
from stbass.testing import RedisServer
from stbass.timer import TIMER, TimerExpired
from stbass.transports.redis import RedisTransport, keys
from tests.support.waiting import until

LEASE, TTL = 0.4, 2.0
LONG = 10.0

# Holds an end in some way, says so, and is killed or stopped.
PROGRAM = """
import asyncio, json, sys
from stbass.alt import ALT, Guard
from stbass.channel import Chan
from stbass.transports.redis import RedisTransport

async def main(what, url, lease, ttl, shared):
    channel = Chan.open(json.loads(shared), transport=RedisTransport(url, lease=float(lease), ttl=float(ttl)))
    channel.bind_reader("the dead") if what == "recv" else channel.bind_writer("the dead")
    await channel.bound()
    work = {"recv": channel.recv, "send": lambda: channel.send(1), "choose": lambda: ALT(Guard(channel, send=1))}
    if what == "hold":
        await channel.send(1)
        await channel.flush()
    else:
        working = asyncio.create_task(work[what]())
        await (channel.writable() if what == "recv" else channel.readable())
    print("there", flush=True)
    await asyncio.get_running_loop().create_future()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    with RedisServer() as started:
        yield started


@asynccontextmanager
async def program(
    what: str, own_server: RedisServer, channel: Chan[Any], *, lease: float = LEASE, ttl: float = TTL
) -> AsyncIterator[OSProcess]:
    """Another Python process with an end of the channel; killed at the end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, what, own_server.url, str(lease), str(ttl), json.dumps(channel.share())),
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            assert await process.stdout.readline() == b"there\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def written_down() -> tuple[dict[str, str], set[str]]:
    """From the text of the data model: the type of each key, by what follows the base; and the fields of the hash."""
    text = keys.__doc__ or ""
    found = re.findall(r"^``<base>(\S*)``\n    (\w+)", text, re.M)
    model = {name.replace("<epoch>", "N"): kind for name, kind in found}
    fields = text[text.index("The fields:") : text.index("``<base>:parties``")]
    names = {name for line in re.findall(r"^    ``(.+)``", fields, re.M) for name in re.findall(r"[\w.]+", line)}
    return model, names | {f"r.{field.split('.')[1]}" for field in names if field.startswith("w.")} | {"r"}


def seen(own_server: RedisServer) -> dict[str, str]:
    """The type of each key that is there now; each has its tag, and a time to live that is not too long."""
    found = {}
    for key in own_server.command("KEYS", "*"):
        named = re.fullmatch(r"stbass:chan:\{([^{}]+)\}(.*)", key)  # what is in braces is the hash tag
        assert named, key
        part = named[2]
        kind, ttl = own_server.command("TYPE", key), own_server.command("PTTL", key)
        if kind == "none":
            continue  # a proposal that was answered meanwhile
        # One that was shared before it was there is remembered for a minute.
        remembered = not part and own_server.command("HEXISTS", key, "closed")
        assert 0 < ttl <= (60 if remembered else LONG) * 1000, (key, ttl)
        found[re.sub(r":\d+$", ":N", part)] = str(kind)
    return found


async def test_the_keys_and_fields_are_those_that_are_written_down_and_each_has_a_time_to_live(
    own_server: RedisServer,
) -> None:
    model, fields = written_down()
    assert set(model) == {"", ":parties", ":arms", ":props", ":offers:N", ":taken:N"}
    transport = RedisTransport(own_server.url, lease=LEASE, ttl=LONG)
    there: dict[str, str] = {}
    used: set[str] = set()

    def look() -> bool:
        there.update(seen(own_server))
        for key in own_server.command("KEYS", "stbass:chan:{*}"):
            if key.endswith("}"):
                used.update(own_server.command("HKEYS", key))
        return True

    async with asyncio.timeout(120):
        # given an end here and one elsewhere: values that wait, ...
        for capacity in (0, 3):
            one: Chan[int] = Chan(int, capacity=capacity, transport=transport)
            await one.bound()
            async with program("hold" if capacity else "send", own_server, one):
                look()
                if capacity:
                    one.bind_writer("second")
                    with pytest.raises(ChannelTopologyError, match=r"has a writer: 'the dead' at .+:\d+, since .* UTC"):
                        await one.bound()
                    look()
                one.bind_reader("here")
                assert await one.recv() == 1
                look()
            # ... and another that wants the place of one that is dead
            one.bind_writer("here")
            look()
            await one.bound()
            await one.aclose()
        # a channel that is shared before it is there
        loose: Chan[int] = Chan(int, transport=transport)
        loose.share()
        sending = asyncio.create_task(loose.send(1))
        await loose.readable()
        look()
        assert await loose.recv() == 1
        await sending
        await loose.aclose()
        # choices on both sides, of which one does not answer
        choice: Chan[int] = Chan(int, transport=transport)
        await choice.bound()
        async with program("choose", own_server, choice, lease=5, ttl=LONG) as process:
            process.send_signal(signal.SIGSTOP)
            choosing: asyncio.Task[Any] = asyncio.create_task(ALT(Guard(choice), Guard(TIMER(2))))
            await until(lambda: look() and ":props" in there)
            assert isinstance(await choosing, TimerExpired)
        # offers that cannot wait
        receiving = asyncio.create_task(choice.recv())
        choice.bind_writer("here")
        await choice.bound()
        await ALT(Guard(choice, send=5))
        assert await receiving == 5
        look()
        # an offer that is taken back
        sending = asyncio.create_task(choice.send(6))
        await choice.readable()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        look()
        await choice.aclose()
    await transport.aclose()

    # then every kind of key was there, and none that is not written down
    assert there == model
    used = {re.sub(r"^(had\..\.).+", r"\1", field) for field in used}
    assert used <= fields, used - fields
    assert {"w.since", "r.who", "loose", "had.w.", "ask.w", "wait", "wd", "now"} <= used


@pytest.mark.parametrize("what", ["recv", "send", "choose", "hold"])
async def test_a_closed_channel_is_gone_when_the_lease_of_a_killed_end_is_over(
    own_server: RedisServer, what: str
) -> None:
    # (It has a day to live otherwise.)
    transport = RedisTransport(own_server.url, lease=LEASE)
    channel: Chan[int] = Chan(int, capacity=4 if what == "hold" else 0, transport=transport)
    await channel.bound()
    async with program(what, own_server, channel, ttl=86400) as process:
        # given an end that is killed, and nobody knows it yet
        process.kill()
        await process.wait()
        # when the other one takes what there is, and closes
        if what == "hold":
            assert await channel.recv() == 1
        await channel.aclose()
        await transport.aclose()
    # then nothing is left soon
    await until(lambda: own_server.command("KEYS", "*") == [], timeout=LEASE + 2)


@pytest.mark.parametrize("what", ["recv", "hold"])
async def test_of_a_channel_of_which_all_ends_were_killed_nothing_is_left_after_its_time_to_live(
    own_server: RedisServer, what: str
) -> None:
    transport = RedisTransport(own_server.url, lease=LEASE, ttl=TTL)
    channel: Chan[int] = Chan(int, capacity=4, transport=transport)
    await channel.bound()
    async with program(what, own_server, channel):
        await transport.aclose()
        assert own_server.command("KEYS", "*") != []
    await until(lambda: own_server.command("KEYS", "*") == [], timeout=TTL + 2)


@pytest.mark.parametrize("waits", [True, False])
async def test_a_writer_that_was_killed_frees_its_place_within_two_leases_and_what_it_offered_is_nobodys(
    own_server: RedisServer, waits: bool
) -> None:
    transport = RedisTransport(own_server.url, lease=LEASE)
    channel: Chan[int] = Chan(int, transport=transport)
    await channel.bound()
    async with program("send" if waits else "choose", own_server, channel) as process:
        process.kill()
        await process.wait()
        # when another takes its place
        channel.bind_writer("the next")
        began = asyncio.get_running_loop().time()
        async with asyncio.timeout(10):
            await channel.bound()
            assert asyncio.get_running_loop().time() - began < 8
            # then its values come, and not the dead one's
            sending = asyncio.create_task(channel.send(2))
            assert await channel.recv() == 2
            await sending
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.05):
            pytest.fail(f"received {await channel.recv()}")
    await transport.aclose()


async def test_an_end_that_nobody_used_goes_while_values_of_another_are_under_way(
    own_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    transport = RedisTransport(own_server.url)
    try:
        channel: Chan[int] = Chan(int, capacity=8, transport=transport)
        unused: Chan[int] = Chan(int, capacity=8, transport=transport)
        unused.bind_reader("nobody")
        await asyncio.gather(unused.bound(), channel.send(0))
        await channel.flush()
        await channel.send(1)
        # when (in a cycle, so that references to it are dead before it says that it is gone)
        cycle: list[Any] = [unused]
        cycle.append(cycle)
        del unused, cycle
        gc.collect()
        # then
        assert [error.exc_value for error in unraisable] == []
        assert [await channel.recv(), await channel.recv()] == [0, 1]
    finally:
        await transport.aclose()
