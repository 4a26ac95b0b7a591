"""Cancelling a send or a receive: it happened at both sides, or at none."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

import pytest

from stbass._channels.cancellation import owed
from stbass.alt import ALT, PRI_ALT, Guard
from stbass.channel import Chan, ChannelClosedError, ChannelTypeError, SequentialProtocol


async def waiting(work: Coroutine[Any, Any, Any], channel: Chan[Any], side: str) -> asyncio.Task[Any]:
    """A task that waits in this send or receive."""
    task = asyncio.create_task(work)
    await (channel.readable() if side == "send" else channel.writable())
    return task


# Before the meeting: nothing happens -------------------------------------------------------------


async def test_a_cancelled_send_is_never_delivered() -> None:
    channel = Chan(int)
    first = await waiting(channel.send(1), channel, "send")
    second = await waiting(channel.send(2), channel, "send")
    first.cancel()
    # Not even before the cancelled task has run.
    assert await channel.recv() == 2
    await second
    await asyncio.wait((first,))
    assert first.cancelled()
    assert channel.stats.sent == 1


async def test_a_cancelled_receive_takes_nothing() -> None:
    channel = Chan(int)
    first = await waiting(channel.recv(), channel, "recv")
    second = await waiting(channel.recv(), channel, "recv")
    first.cancel()
    await channel.send(1)
    assert await second == 1
    await asyncio.wait((first,))
    assert first.cancelled()


async def test_a_cancelled_send_into_a_full_buffer_is_never_delivered() -> None:
    channel = Chan(int, capacity=1)
    await channel.send(0)
    first = asyncio.create_task(channel.send(1))
    second = asyncio.create_task(channel.send(2))
    await asyncio.sleep(0)
    first.cancel()
    assert [await channel.recv(), await channel.recv()] == [0, 2]
    await second


async def test_those_who_were_cancelled_leave_no_trace() -> None:
    channel = Chan(int)
    for side in ("send", "recv"):
        tasks = [asyncio.create_task(channel.send(1) if side == "send" else channel.recv()) for _ in range(100)]
        await asyncio.sleep(0)
        for task in reversed(tasks):
            task.cancel()
        await asyncio.wait(tasks)
        assert channel.stats.waiting is None
        assert not channel.used


async def test_a_sequence_waits_for_its_place() -> None:
    channel = Chan(SequentialProtocol(int, str))
    first = await waiting(channel.send(1), channel, "send")
    # The second has its turn only when the first is done: then it is wrong, or right.
    wrong = asyncio.create_task(channel.send(2))
    right = asyncio.create_task(channel.send("x"))
    await asyncio.sleep(0)
    assert await channel.recv() == 1
    await first
    with pytest.raises(ChannelTypeError):
        await wrong
    assert await channel.recv() == "x"
    await right


async def test_cancelling_the_first_of_a_sequence_leaves_its_place_to_the_next() -> None:
    channel = Chan(SequentialProtocol(int, str))
    first = await waiting(channel.send(1), channel, "send")
    second = asyncio.create_task(channel.send(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await channel.recv() == 2
    await second


# After the meeting: it has happened --------------------------------------------------------------


async def test_a_receiver_cancelled_with_the_value_in_its_hand_returns_it() -> None:
    channel = Chan(int)
    receiving = await waiting(channel.recv(), channel, "recv")
    await channel.send(1)
    assert receiving.cancel()
    assert await receiving == 1


async def test_a_sender_cancelled_after_its_value_was_taken_returns() -> None:
    channel = Chan(int)
    sending = await waiting(channel.send(1), channel, "send")
    assert await channel.recv() == 1
    assert sending.cancel()
    await sending
    assert channel.stats.sent == 1


async def test_the_cancellation_comes_at_the_next_wait() -> None:
    channel = Chan(int)
    seen: list[Any] = []

    async def read() -> None:
        seen.append(await channel.recv())
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            seen.append(error.args)
            raise

    reading = await waiting(read(), channel, "recv")
    await channel.send(1)
    reading.cancel("because")
    await asyncio.wait((reading,))
    assert reading.cancelled()
    assert seen == [1, ("because",)]
    assert not owed


async def test_a_busy_channel_does_not_hold_a_cancellation_off() -> None:
    # Given a receiver that has its next value before it has run, in every turn of the loop.
    channel = Chan(int)
    loop = asyncio.get_running_loop()
    received: list[int] = []
    turns = 0

    async def read() -> None:
        while True:
            received.append(await channel.recv())

    def offer() -> None:
        nonlocal turns
        turns += 1
        channel.link.try_offer(turns)
        if turns == 10:
            # When it is cancelled with a value in its hand
            reading.cancel()
        if turns < 1000:
            loop.call_soon(offer)

    reading = asyncio.create_task(read())
    await channel.writable()
    offer()
    await asyncio.wait((reading,))
    # Then it has that one, and is cancelled instead of being served for ever.
    assert reading.cancelled()
    assert received == list(range(1, 11))


async def test_a_time_out_that_comes_with_the_value_leaves_nothing_behind() -> None:
    channel = Chan(int)
    loop = asyncio.get_running_loop()
    scopes: list[asyncio.Timeout] = []
    go_on = asyncio.Event()

    async def read() -> tuple[int, int]:
        async with asyncio.timeout(None) as scope:
            scopes.append(scope)
            value = await channel.recv()
        await go_on.wait()  # a cancellation that nobody wants any more would be raised here
        task = asyncio.current_task()
        assert task is not None
        return value, task.cancelling()

    reading = await waiting(read(), channel, "recv")
    scopes[0].reschedule(loop.time())  # it is over before the receiver runs again
    await channel.send(1)
    for _ in range(5):
        await asyncio.sleep(0)
    assert scopes[0].expired()
    go_on.set()
    assert await reading == (1, 0)


async def test_a_time_out_that_comes_with_the_value_still_ends_the_block() -> None:
    channel = Chan(int)
    loop = asyncio.get_running_loop()
    scopes: list[asyncio.Timeout] = []
    received: list[int] = []

    async def read() -> None:
        async with asyncio.timeout(None) as scope:
            scopes.append(scope)
            received.append(await channel.recv())
            await asyncio.Event().wait()

    reading = await waiting(read(), channel, "recv")
    scopes[0].reschedule(loop.time())
    await channel.send(1)
    with pytest.raises(TimeoutError):
        await reading
    assert received == [1]


async def test_a_task_group_that_fails_ends_the_receiver() -> None:
    channel = Chan(int)
    received: list[int] = []
    starting = asyncio.Event()

    async def read() -> None:
        starting.set()
        while True:
            received.append(await channel.recv())

    async def fail() -> None:
        await starting.wait()
        await channel.writable()
        await channel.send(1)
        raise ValueError("broken")

    async with asyncio.timeout(5):
        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(read())
                group.create_task(fail())
    assert received == [1]


async def test_wait_for_gets_the_value_or_leaves_it() -> None:
    channel = Chan(int)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(channel.recv(), 0.001)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(channel.send(1), 0.001)
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.wait_for(channel.send(2), 5))
        assert await asyncio.wait_for(channel.recv(), 5) == 2


# Whatever comes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [0, 3])
@pytest.mark.parametrize("seed", range(2))
async def test_ten_thousand_cancellations(capacity: int, seed: int) -> None:
    """Several senders and receivers, plain and by choice, each cancelled at a random moment."""
    rng = random.Random(seed)
    channels = [Chan(int, name=str(place), capacity=capacity) for place in range(2)]
    sent: list[int] = []
    received: list[int] = []
    counts = {"cancelled": 0, "happened": 0, "cancelled too late": 0}
    numbers = iter(range(10**9))
    done = asyncio.Event()

    async def cancelled_somewhere(work: Coroutine[Any, Any, Any]) -> tuple[bool, Any]:
        task = asyncio.create_task(work)
        for _ in range(rng.randrange(5)):
            await asyncio.sleep(0)
        asked = task.cancel()
        await asyncio.wait((task,))
        if task.cancelled():
            counts["cancelled"] += 1
            if counts["cancelled"] >= 10_000:
                done.set()
            return False, None
        counts["cancelled too late" if asked else "happened"] += 1
        return True, task.result()

    def send(value: int) -> Coroutine[Any, Any, Any]:
        match rng.randrange(3):
            case 0:
                return rng.choice(channels).send(value)
            case 1:
                return ALT(*(Guard(channel, send=value) for channel in channels))
            case _:
                return PRI_ALT(*(Guard(channel, send=value) for channel in channels))

    def receive(own: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, Any]:
        match rng.randrange(3):
            case 0:
                return rng.choice(channels).recv()
            case 1:
                return ALT(*map(Guard, channels))
            case _:
                return own

    async def write() -> None:
        while not done.is_set():
            value = next(numbers)
            if (await cancelled_somewhere(send(value)))[0]:
                sent.append(value)

    async def read(own: Coroutine[Any, Any, Any]) -> None:
        while True:
            try:
                happened, value = await cancelled_somewhere(receive(own))
            except ChannelClosedError:
                return
            if happened:
                received.append(value)

    kept = [ALT(*map(Guard, channels)), PRI_ALT(*map(Guard, channels))]
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        readers = [group.create_task(read(own)) for own in kept]
        await asyncio.gather(*(write() for _ in range(3)))
        for channel in channels:
            channel.close()
    # What a buffer had accepted when its last reader went was not lost: it is still there.
    for channel in channels:
        received += [value async for value in channel]

    assert all(reader.done() for reader in readers)
    assert sorted(received) == sorted(sent)
    assert len(set(received)) == len(received)
    assert counts["cancelled"] >= 10_000
    assert counts["happened"] > 100
    assert counts["cancelled too late"] > 100, counts
    assert not owed
