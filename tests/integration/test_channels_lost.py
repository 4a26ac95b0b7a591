"""Channels whose workers die, and channels as random programs use them."""

from __future__ import annotations

import asyncio
import signal

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stbass._channels.memory import MEMORY
from stbass._channels.transport import Transport
from stbass.alt import ALT, Guard
from stbass.backends.celery import CeleryBackend, make_app
from stbass.channel import Chan
from stbass.errors import ChannelClosedError
from stbass.placement import PLACED_PAR, Placement
from stbass.testing import RedisServer, Worker
from stbass.transports.redis import RedisTransport
from tests.support.backends import registry_of
from tests.support.talkers import Take

PLACE = Placement(endpoint="anthropic")
APP = "tests.support.worker_app"


async def test_a_reader_on_a_killed_worker_is_replaced_by_its_next_attempt() -> None:
    with RedisServer() as server:
        env = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url, "TEST_LEASE": "1"}
        backend = CeleryBackend(make_app("tests", broker_url=server.url, stbass_lease=1.0), lease=1.0)
        registry = registry_of(backend, "anthropic")
        inp: Chan[int] = Chan(int, transport=backend.transport())
        with Worker(APP, "anthropic", env=env) as first:
            async with asyncio.timeout(40):
                # given a reader that has taken two values and waits
                running = asyncio.create_task(
                    PLACED_PAR((Take(2, wait=False).with_channels(inp=inp), PLACE), registry=registry).run()
                )
                await inp.send(1)
                # when its worker is killed in the middle of its conversation, and another comes
                first.send_signal(signal.SIGKILL)
                first.kill()
                with Worker(APP, "anthropic", env=env):
                    # then the next attempt takes the dead one's place, and what is sent from now on
                    await inp.send(2)
                    await inp.send(3)
                    result = await running
        assert result.failures == []
        assert result.value == [[2, 3]]
        await inp.aclose()
        await backend.aclose()


# A program: for each channel, how many values its writer sends, with which capacity, and what its reader does.
PROGRAMS = st.lists(
    st.tuples(st.integers(0, 6), st.sampled_from([0, 0, 1, 3]), st.sampled_from(["loop", "choose", "close early"])),
    min_size=1,
    max_size=3,
)


async def outcome(program: list[tuple[int, int, str]], here: Transport, there: Transport | None) -> list[object]:
    """What comes of a program, with its readers' ends on another transport or in memory."""
    ends = []
    for index, (_, capacity, _) in enumerate(program):
        writer: Chan[int] = Chan(int, name=f"c{index}", capacity=capacity, transport=here)
        await writer.bound()
        ends.append((writer, writer if there is None else Chan.open(writer.share(), transport=there)))

    async def write(index: int) -> str:
        writer, count = ends[index][0], program[index][0]
        try:
            for number in range(count):
                if program[index][2] == "choose":
                    await ALT(Guard(writer, send=number))
                else:
                    await writer.send(number)
        except ChannelClosedError:
            return "closed by the reader"
        await writer.aclose()
        return "all sent"

    async def read(index: int) -> list[int]:
        reader, how = ends[index][1], program[index][2]
        found: list[int] = []
        try:
            while how != "close early" or len(found) < 2:
                found.append(await (ALT(Guard(reader)) if how == "choose" else reader.recv()))
        except ChannelClosedError:
            return found
        await reader.aclose()
        return found

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        writing = [group.create_task(write(index)) for index in range(len(program))]
        reading = [group.create_task(read(index)) for index in range(len(program))]
    # With a capacity, whether the writer hears of an early close is a matter of time.
    told = [
        "either" if how == "close early" and capacity else task.result()
        for task, (_, capacity, how) in zip(writing, program, strict=True)
    ]
    return [told, [task.result() for task in reading]]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(program=PROGRAMS)
def test_a_program_has_the_same_outcome_in_memory_and_over_redis(
    server: RedisServer, program: list[tuple[int, int, str]]
) -> None:
    async def over_redis() -> list[object]:
        here, there = RedisTransport(server.url), RedisTransport(server.url)
        try:
            return await outcome(program, here, there)
        finally:
            await here.aclose()
            await there.aclose()

    assert asyncio.run(over_redis()) == asyncio.run(outcome(program, MEMORY, None))
    assert server.command("KEYS", "*") == []


async def test_a_close_overtakes_no_value_that_is_on_its_way(server: RedisServer) -> None:
    # The answers to two questions, on two connections, may come in any order; it shows once in a hundred times.
    program = [(4, 1, "loop"), (5, 3, "loop")]
    expected = await outcome(program, MEMORY, None)
    for _ in range(60):
        here, there = RedisTransport(server.url), RedisTransport(server.url)
        try:
            assert await outcome(program, here, there) == expected
        finally:
            await here.aclose()
            await there.aclose()
