"""The checks that every transport passes: choice."""

from __future__ import annotations

import asyncio
from typing import Any

from stbass.alt import ALT, PRI_ALT, SKIP, Guard
from stbass.channel import Chan
from stbass.errors import ChannelClosedError
from stbass.testing._transport_bench import Bench, check, is_empty, raises, require, skipped
from stbass.timer import TIMER, TimerExpired

__all__: list[str] = []


@check
async def losers_stay_blocked(bench: Bench) -> None:
    """A choice takes one value; the other sender waits on, and its value comes later."""
    writers, readers = zip(*(bench.ends() for _ in range(2)), strict=True)
    sending = [bench.spawn(writer.send(value)) for value, writer in enumerate(writers)]
    for reader in readers:
        await reader.readable()
    first = await ALT(*(Guard(reader) for reader in readers))
    await sending[first]
    require(not sending[1 - first].done(), "the loser's sender went on")
    require(await readers[1 - first].recv() == 1 - first, "the loser's value was lost")
    await sending[1 - first]


@check
async def first_in_order_wins(bench: Bench) -> None:
    """PRI_ALT takes the first that is ready."""
    writers, readers = zip(*(bench.ends() for _ in range(3)), strict=True)
    for value in (1, 2):
        bench.spawn(writers[value].send(value))
        await readers[value].readable()
    require(await PRI_ALT(*(Guard(reader) for reader in readers)) == 1, "not the first that was ready")
    require(await PRI_ALT(*(Guard(reader) for reader in reversed(readers))) == 2, "not the one that was ready")


@check
async def a_choice_is_woken(bench: Bench) -> None:
    """A choice that waits gets a value that comes later; each of its channels still works after it."""
    writers, readers = zip(*(bench.ends() for _ in range(3)), strict=True)
    for value, writer in enumerate(writers):
        choosing = bench.spawn(ALT(*(Guard(reader) for reader in readers)))
        await writer.writable()
        await writer.send(value)
        require(await choosing == value, "another value came")
    for value, (writer, reader) in enumerate(zip(writers, readers, strict=True)):
        sending = bench.spawn(writer.send(value))
        require(await reader.recv() == value, "a channel is disturbed after a choice")
        await sending


@check
async def a_choice_again_and_again(bench: Bench) -> None:
    """One choice, awaited for every value."""
    writers, readers = zip(*(bench.ends() for _ in range(3)), strict=True)
    choice = ALT(*(Guard(reader) for reader in readers))

    async def write(writer: Chan[Any], offset: int) -> None:
        for value in range(offset, bench.rounds, 3):
            await writer.send(value)

    for offset, writer in enumerate(writers):
        bench.spawn(write(writer, offset))
    received = [await choice for _ in range(bench.rounds)]
    require(sorted(received) == list(range(bench.rounds)), f"received {received}")


@check
async def skip_when_nothing_is_ready(bench: Bench) -> None:
    """SKIP wins if no channel is ready, and only then."""
    writer, reader = bench.ends()
    require(await is_empty(reader), "a value came from nowhere")
    sending = bench.spawn(writer.send(1))
    await reader.readable()
    require(await ALT(Guard(SKIP), Guard(reader)) == 1, "SKIP won although a value was there")
    await sending


@check
async def a_timer_ends_the_wait(bench: Bench) -> None:
    """A choice that times out leaves its channels as they were."""
    writer, reader = bench.ends()
    expired = await ALT(Guard(reader), Guard(TIMER(seconds=bench.pause)))
    require(isinstance(expired, TimerExpired), f"got {expired!r}")
    sending = bench.spawn(writer.send(1))
    await reader.readable()
    require(await PRI_ALT(Guard(reader), Guard(TIMER(seconds=0))) == 1, "the value was lost")
    await sending


@check
async def output_guard_wants_a_receiver(bench: Bench) -> None:
    """An output guard is ready when a receiver waits, and not before."""
    writer, reader = bench.ends()
    require(await skipped(Guard(writer, send=1)), "it won without a receiver")
    receiving = bench.spawn(reader.recv())
    await writer.writable()
    won = await PRI_ALT(Guard(writer, send=1), Guard(SKIP))
    require(won == 1 and await receiving == 1, "it did not win although a receiver waited")
    choosing = bench.spawn(ALT(Guard(writer, send=2)))
    require(await reader.recv() == 2 and await choosing == 2, "it was not woken by a receiver")


@check
async def two_choices_meet_once(bench: Bench) -> None:
    """Two choices that could meet on two channels, either way round, meet on exactly one."""
    one_writer, one_reader = bench.ends(str)
    two_writer, two_reader = bench.ends(str)
    for _ in range(max(1, bench.rounds // 4)):
        left = bench.spawn(ALT(Guard(one_writer, send="one"), Guard(two_reader)))
        right = await ALT(Guard(one_reader), Guard(two_writer, send="two"))
        require(await left == right, f"one side says {left.result()!r}, the other {right!r}")
    require(await is_empty(one_reader) and await is_empty(two_reader), "something is left over")


@check
async def a_ring_of_choices_goes_on(bench: Bench) -> None:
    """Each of a ring of choices offers to the next and takes from the one before: one pair meets, nobody hangs."""
    writers, readers = zip(*(bench.ends() for _ in range(3)), strict=True)
    for _ in range(max(1, bench.rounds // 8)):
        ring = [bench.spawn(ALT(Guard(writers[place], send=place), Guard(readers[place - 1]))) for place in range(3)]
        done, _ = await asyncio.wait(ring, return_when=asyncio.FIRST_COMPLETED)
        meeting = done.pop().result()
        pair = {meeting, (meeting + 1) % 3}
        for place in pair:
            require(await ring[place] == meeting, "two choices disagree about where they met")
        alone = ({0, 1, 2} - pair).pop()
        require(not ring[alone].done(), "three choices met")
        await writers[alone - 1].send(-1)
        require(await ring[alone] == -1, "the third choice does not go on")


@check
async def beside_memory(bench: Bench) -> None:
    """One choice over a channel of this transport, a channel in memory and a timer, both ways."""
    writer, reader = bench.ends()
    memory: Chan[int] = Chan(int)
    choice = ALT(Guard(reader), Guard(memory), Guard(TIMER(seconds=3600)))
    for value in range(max(2, bench.rounds // 10)):
        source = writer if bench.rng.random() < 0.5 else memory
        choosing = bench.spawn(choice)
        await source.send(value)
        require(await choosing == value, "another value came")
    for end in (writer, memory):
        choosing = bench.spawn(ALT(Guard(writer, send=7), Guard(memory, send=7)))
        received = await (reader if end is writer else memory).recv()
        require(received == 7 == await choosing, "the output did not happen once")


@check
async def a_choice_hears_of_the_close(bench: Bench) -> None:
    """A closed channel ends a choice that waits, and is ready for one that starts."""
    writer, reader = bench.ends()
    choosing = bench.spawn(ALT(Guard(reader), Guard(TIMER(seconds=3600))))
    await writer.writable()
    await writer.aclose()
    await raises(ChannelClosedError, choosing)
    await raises(ChannelClosedError, PRI_ALT(Guard(reader), Guard(SKIP)))


@check
async def random_cancellations_of_choices(bench: Bench) -> None:
    """The same with choices at both ends."""
    writers, readers = zip(*(bench.ends() for _ in range(3)), strict=True)
    sent: list[int] = []
    received: list[int] = []

    async def write() -> None:
        for value in range(bench.rounds):
            happened, _ = await bench.cancelled_somewhere(ALT(*(Guard(one, send=value) for one in writers)))
            if happened:
                sent.append(value)
        for one in writers:
            await one.aclose()

    writing = bench.spawn(write())
    while True:
        try:
            happened, value = await bench.cancelled_somewhere(ALT(*(Guard(one) for one in readers)))
        except ChannelClosedError:
            break
        if happened:
            received.append(value)
    await writing
    require(received == sent, f"reported as sent {sent}, received {received}")
