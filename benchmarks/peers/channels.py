"""Rendezvous and choice beside what others offer. A script of its own, because stbass 0.1.1 and ours share a name.

``python -P channels.py SUBJECT WORK COUNT [WIDTH]``: WORK is ``meet``, ``choose`` (over WIDTH channels) or ``wait``.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any

REPEATS = 9
WAIT_SECONDS = 0.5

Send = Callable[[int], Awaitable[Any]]
Receive = Callable[[], Awaitable[Any]]
Meeting = tuple[Send, Receive]
Choice = tuple[list[Send], Receive]


# By hand -----------------------------------------------------------------------------------------


class Bare:
    """A rendezvous of two futures: no types, no close, no cancellation, one sender and one receiver."""

    def __init__(self) -> None:
        self.receiver: asyncio.Future[int] | None = None
        self.sender: asyncio.Future[None] | None = None
        self.value = 0

    async def send(self, value: int) -> None:
        """Hand it to the receiver, or wait for one."""
        receiver = self.receiver
        if receiver is not None:
            self.receiver = None
            receiver.set_result(value)
            return
        self.value = value
        self.sender = asyncio.get_running_loop().create_future()
        await self.sender

    async def recv(self) -> int:
        """Take it from the sender, or wait for one."""
        sender = self.sender
        if sender is not None:
            self.sender = None
            sender.set_result(None)
            return self.value
        self.receiver = asyncio.get_running_loop().create_future()
        return await self.receiver


def bare_meeting() -> Meeting:
    """Two bare futures."""
    channel = Bare()
    return channel.send, channel.recv


class Queued:
    """A queue of one place, and an event that tells that the value was taken."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[int] = asyncio.Queue(1)
        self.taken = asyncio.Event()

    async def send(self, value: int) -> None:
        """Put it, and wait until it was taken."""
        self.taken.clear()
        await self.queue.put(value)
        await self.taken.wait()

    async def recv(self) -> int:
        """Take it, and say so."""
        value = await self.queue.get()
        self.taken.set()
        return value


def queue_meeting() -> Meeting:
    """``asyncio.Queue(1)`` and an event."""
    channel = Queued()
    return channel.send, channel.recv


def queue_choice(width: int) -> Choice:
    """``asyncio.wait`` over one get per queue; those that lose go on waiting."""
    channels = [Queued() for _ in range(width)]
    getting: dict[asyncio.Future[int], int] = {}
    won: list[asyncio.Future[int]] = []

    def get(place: int) -> None:
        getting[asyncio.ensure_future(channels[place].recv())] = place

    async def choose() -> int:
        if not getting:
            for place in range(width):
                get(place)
        if not won:
            done, _ = await asyncio.wait(getting, return_when=asyncio.FIRST_COMPLETED)
            won.extend(done)
        one = won.pop()
        get(getting.pop(one))
        return one.result()

    return [channel.send for channel in channels], choose


# Packages ----------------------------------------------------------------------------------------


def anyio_meeting() -> Meeting:
    """A memory object stream of size 0."""
    import anyio

    writer, reader = anyio.create_memory_object_stream[int](0)
    return writer.send, reader.receive


def aiochan_meeting() -> Meeting:
    """An unbuffered aiochan."""
    import aiochan

    channel = aiochan.Chan()
    return channel.put, channel.get


def aiochan_choice(width: int) -> Choice:
    """``aiochan.select``."""
    import aiochan

    channels = [aiochan.Chan() for _ in range(width)]

    async def choose() -> Any:
        value, _ = await aiochan.select(*channels)
        return value

    return [channel.put for channel in channels], choose


def stbass_meeting() -> Meeting:
    """A ``Chan``, of whichever stbass this Python has."""
    from stbass.channel import Chan

    channel: Any = Chan(int)
    return channel.send, channel.recv


def stbass_choice(width: int) -> Choice:
    """A new ``ALT`` for each choice, of whichever stbass this Python has."""
    from stbass.alt import ALT, Guard
    from stbass.channel import Chan

    channels: list[Any] = [Chan(int) for _ in range(width)]

    async def choose() -> Any:
        return await ALT(*[Guard(channel) for channel in channels])

    return [channel.send for channel in channels], choose


def stbass_same_choice(width: int) -> Choice:
    """One ``ALT``, awaited for each choice."""
    from stbass.alt import ALT, Guard
    from stbass.channel import Chan

    channels: list[Any] = [Chan(int) for _ in range(width)]
    choice = ALT(*[Guard(channel) for channel in channels])

    async def choose() -> Any:
        return await choice

    return [channel.send for channel in channels], choose


MEETINGS = {
    "bare": bare_meeting,
    "queue": queue_meeting,
    "anyio": anyio_meeting,
    "aiochan": aiochan_meeting,
    "stbass": stbass_meeting,
}
CHOICES = {
    "queue": queue_choice,
    "aiochan": aiochan_choice,
    "stbass": stbass_choice,
    "stbass-again": stbass_same_choice,
}


# Measuring ---------------------------------------------------------------------------------------


async def exchange(sends: list[Send], receive: Receive, count: int) -> float:
    """Seconds for so many values, from one task, over one channel after the other, to another task."""

    async def write() -> None:
        width = len(sends)
        for value in range(count):
            await sends[value % width](value)

    begun = time.perf_counter()
    writing = asyncio.create_task(write())
    total = 0
    for _ in range(count):
        total += await receive()
    await writing
    taken = time.perf_counter() - begun
    if total != count * (count - 1) // 2:
        raise RuntimeError("not every value came once")
    return taken


async def per_second(make: Callable[[], tuple[list[Send], Receive]], count: int) -> float:
    """The median rate of some repeats, after one to warm up."""
    rates = []
    for _ in range(REPEATS + 1):
        sends, receive = make()
        rates.append(count / await exchange(sends, receive, count))
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
    return statistics.median(rates[1:])


async def share_of_cpu(choose: Receive) -> float:
    """How much of one core a choice takes while it waits, in per cent."""
    choosing = asyncio.ensure_future(choose())
    await asyncio.sleep(0)
    begun, used = time.perf_counter(), time.process_time()
    await asyncio.sleep(WAIT_SECONDS)
    share = 100 * (time.process_time() - used) / (time.perf_counter() - begun)
    choosing.cancel()
    await asyncio.gather(choosing, return_exceptions=True)
    return share


def single(make: Callable[[], Meeting]) -> tuple[list[Send], Receive]:
    """A meeting as a choice of one."""
    send, receive = make()
    return [send], receive


async def measure(subject: str, work: str, count: int, width: int) -> float:
    """Values or choices per second, or per cent of a core."""
    if work == "meet":
        return await per_second(lambda: single(MEETINGS[subject]), count)
    if work == "choose":
        return await per_second(lambda: CHOICES[subject](width), count)
    _, choose = CHOICES[subject](width)
    return await share_of_cpu(choose)


def main(subject: str, work: str, count: int, width: int = 1) -> None:
    """Measure and print."""
    value = asyncio.run(measure(subject, work, count, width))
    versions = {subject: version(subject)} if subject in ("anyio", "aiochan") else {}
    print(json.dumps({"values": {"value": value}, "versions": versions}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
