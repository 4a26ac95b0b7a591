"""The checks that every transport passes, by name."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from stbass.alt import ALT, PRI_ALT, SKIP, Guard
from stbass.channel import Chan, SequentialProtocol
from stbass.errors import (
    ChannelClosedError,
    ChannelProtocolError,
    ChannelTopologyError,
    ChannelTypeError,
    NotTransportable,
    StbassError,
)
from stbass.testing._transport_bench import Bench, Check, require
from stbass.timer import TIMER, TimerExpired

__all__ = ["TRANSPORT_CHECKS"]

TRANSPORT_CHECKS: dict[str, Check] = {}


def _check(function: Check) -> Check:
    TRANSPORT_CHECKS[getattr(function, "__name__", repr(function))] = function
    return function


async def _raises(error: type[StbassError], work: Awaitable[Any]) -> StbassError:
    try:
        result = await work
    except error as found:
        return found
    raise AssertionError(f"{error.__name__} was not raised; the result is {result!r}")


async def _is_empty(reader: Chan[Any]) -> bool:
    """Whether nothing can be received now, as a choice sees it."""
    choice = PRI_ALT(Guard(reader), Guard(SKIP))
    await choice
    return choice.chosen is not None and choice.chosen.channel is SKIP


# A value moves -----------------------------------------------------------------------------------


@_check
async def send_returns_when_received(bench: Bench) -> None:
    """A send waits until a receiver has the value."""
    writer, reader = bench.ends()
    sending = bench.spawn(writer.send(1))
    await reader.readable()
    require(not sending.done(), "send returned before anybody received")
    require(await reader.recv() == 1, "another value was received")
    await sending


@_check
async def receiver_first(bench: Bench) -> None:
    """A receiver that waits gets the next value."""
    writer, reader = bench.ends(str)
    receiving = bench.spawn(reader.recv())
    await writer.writable()
    await writer.send("x")
    require(await receiving == "x", "another value was received")


@_check
async def values_in_order(bench: Bench) -> None:
    """Every value arrives once, in order."""
    writer, reader = bench.ends()

    async def write() -> None:
        for value in range(bench.rounds):
            await writer.send(value)
        await writer.aclose()

    writing = bench.spawn(write())
    received = [value async for value in reader]
    await writing
    require(received == list(range(bench.rounds)), f"received {received}")


@_check
async def nothing_is_a_value(bench: Bench) -> None:
    """None and what is empty arrive like any other value."""
    writer, reader = bench.ends(list[int] | dict[str, int] | str | None)
    values: tuple[Any, ...] = (None, "", [], {}, [0])
    for value in values:
        sending = bench.spawn(writer.send(value))
        received = await reader.recv()
        require(received == value and type(received) is type(value), f"{value!r} arrived as {received!r}")
        await sending


@_check
async def wrong_type_is_seen_by_nobody(bench: Bench) -> None:
    """A value that does not fit raises at the sender, and the channel goes on."""
    writer, reader = bench.ends()
    error = await _raises(ChannelTypeError, writer.send("1"))
    require((error.__dict__["expected"], error.__dict__["actual"]) == ("int", "str"), f"{error.__dict__}")
    require(await _is_empty(reader), "the value was offered")
    sending = bench.spawn(writer.send(1))
    require(await reader.recv() == 1, "the channel does not go on")
    await sending


@_check
async def sequence_moves_when_received(bench: Bench) -> None:
    """The position in a sequential protocol moves with a rendezvous, and with nothing else."""
    writer, reader = bench.ends(SequentialProtocol(int, str))
    sending = bench.spawn(writer.send(1))
    await reader.readable()
    sending.cancel()
    await asyncio.wait((sending,))
    await _raises(ChannelTypeError, writer.send("too early"))
    for value in (2, "two"):
        sending = bench.spawn(writer.send(value))
        require(await reader.recv() == value, "another value was received")
        await sending
    await _raises(ChannelProtocolError, writer.send(3))


@_check
async def capacity_bounds(bench: Bench) -> None:
    """A channel with a capacity accepts that many values, and no more."""
    writer, reader = bench.ends(capacity=2)
    await writer.send(0)
    await writer.send(1)
    third = bench.spawn(writer.send(2))
    await reader.readable()
    choice = PRI_ALT(Guard(writer, send=9), Guard(SKIP))
    await choice
    require(choice.chosen is not None and choice.chosen.channel is SKIP, "a full channel accepted a value")
    require(not third.done(), "a full channel accepted a value")
    require([await reader.recv() for _ in range(3)] == [0, 1, 2], "other values were received")
    await third


@_check
async def accepted_values_outlive_the_close(bench: Bench) -> None:
    """What a channel with a capacity has accepted can be received after its close."""
    writer, reader = bench.ends(capacity=3)
    await writer.send(0)
    await writer.send(1)
    await writer.aclose()
    require([value async for value in reader] == [0, 1], "accepted values were lost")


# The end -----------------------------------------------------------------------------------------


@_check
async def close_wakes_the_sender(bench: Bench) -> None:
    """A waiting sender is told of the close, and its value is withdrawn."""
    writer, reader = bench.ends()
    sending = bench.spawn(writer.send(1))
    await reader.readable()
    await reader.aclose()
    await _raises(ChannelClosedError, sending)
    await _raises(ChannelClosedError, reader.recv())


@_check
async def close_wakes_the_receiver(bench: Bench) -> None:
    """A waiting receiver is told of the close."""
    writer, reader = bench.ends()
    receiving = bench.spawn(reader.recv())
    await writer.writable()
    await writer.aclose()
    error = await _raises(ChannelClosedError, receiving)
    require(error.__dict__["channel_name"] == reader.name, "the error does not say which channel")


@_check
async def close_again_does_nothing(bench: Bench) -> None:
    """A closed channel stays closed, for both ends."""
    writer, reader = bench.ends()
    writer.close()
    writer.close()
    await writer.aclose()
    await reader.aclose()
    require(writer.closed and reader.closed, "it does not say that it is closed")
    await _raises(ChannelClosedError, writer.send(1))
    await _raises(ChannelClosedError, reader.recv())
    require([value async for value in reader] == [], "a closed channel gave a value")


# Cancellation ------------------------------------------------------------------------------------


@_check
async def cancelled_send_delivers_nothing(bench: Bench) -> None:
    """A cancelled send withdraws its value."""
    writer, reader = bench.ends()
    sending = bench.spawn(writer.send(1))
    await reader.readable()
    sending.cancel()
    await asyncio.wait((sending,))
    require(sending.cancelled(), "the send was not cancelled")
    require(await _is_empty(reader), "the value is still offered")
    sending = bench.spawn(writer.send(2))
    require(await reader.recv() == 2, "the cancelled value was delivered")
    await sending


@_check
async def cancelled_recv_loses_nothing(bench: Bench) -> None:
    """A cancelled receive takes no value with it."""
    writer, reader = bench.ends()
    receiving = bench.spawn(reader.recv())
    await writer.writable()
    receiving.cancel()
    await asyncio.wait((receiving,))
    require(receiving.cancelled(), "the receive was not cancelled")
    sending = bench.spawn(writer.send(1))
    require(await reader.recv() == 1, "the value was lost")
    await sending


@_check
async def random_cancellations(bench: Bench) -> None:
    """Whatever is cancelled whenever: received is exactly what was reported as sent, in order."""
    for capacity in (0, 2):
        writer, reader = bench.ends(capacity=capacity)
        sent: list[int] = []
        received: list[int] = []

        async def write(writer: Chan[Any] = writer, sent: list[int] = sent) -> None:
            for value in range(bench.rounds):
                happened, _ = await bench.cancelled_somewhere(writer.send(value))
                if happened:
                    sent.append(value)
            await writer.aclose()

        writing = bench.spawn(write())
        while True:
            try:
                happened, value = await bench.cancelled_somewhere(reader.recv())
            except ChannelClosedError:
                break
            if happened:
                received.append(value)
        await writing
        require(received == sent, f"capacity {capacity}: reported as sent {sent}, received {received}")


@_check
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


# Choice ------------------------------------------------------------------------------------------


@_check
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


@_check
async def first_in_order_wins(bench: Bench) -> None:
    """PRI_ALT takes the first that is ready."""
    writers, readers = zip(*(bench.ends() for _ in range(3)), strict=True)
    for value in (1, 2):
        bench.spawn(writers[value].send(value))
        await readers[value].readable()
    require(await PRI_ALT(*(Guard(reader) for reader in readers)) == 1, "not the first that was ready")
    require(await PRI_ALT(*(Guard(reader) for reader in reversed(readers))) == 2, "not the one that was ready")


@_check
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


@_check
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


@_check
async def skip_when_nothing_is_ready(bench: Bench) -> None:
    """SKIP wins if no channel is ready, and only then."""
    writer, reader = bench.ends()
    require(await _is_empty(reader), "a value came from nowhere")
    sending = bench.spawn(writer.send(1))
    await reader.readable()
    require(await ALT(Guard(SKIP), Guard(reader)) == 1, "SKIP won although a value was there")
    await sending


@_check
async def a_timer_ends_the_wait(bench: Bench) -> None:
    """A choice that times out leaves its channels as they were."""
    writer, reader = bench.ends()
    expired = await ALT(Guard(reader), Guard(TIMER(seconds=bench.pause)))
    require(isinstance(expired, TimerExpired), f"got {expired!r}")
    sending = bench.spawn(writer.send(1))
    await reader.readable()
    require(await PRI_ALT(Guard(reader), Guard(TIMER(seconds=0))) == 1, "the value was lost")
    await sending


@_check
async def output_guard_wants_a_receiver(bench: Bench) -> None:
    """An output guard is ready when a receiver waits, and not before."""
    writer, reader = bench.ends()
    choice = PRI_ALT(Guard(writer, send=1), Guard(SKIP))
    await choice
    require(choice.chosen is not None and choice.chosen.channel is SKIP, "it won without a receiver")
    receiving = bench.spawn(reader.recv())
    await writer.writable()
    require(await choice == 1 and await receiving == 1, "it did not win although a receiver waited")
    choosing = bench.spawn(ALT(Guard(writer, send=2)))
    require(await reader.recv() == 2 and await choosing == 2, "it was not woken by a receiver")


@_check
async def two_choices_meet_once(bench: Bench) -> None:
    """Two choices that could meet on two channels, either way round, meet on exactly one."""
    one_writer, one_reader = bench.ends(str)
    two_writer, two_reader = bench.ends(str)
    for _ in range(max(1, bench.rounds // 4)):
        left = bench.spawn(ALT(Guard(one_writer, send="one"), Guard(two_reader)))
        right = await ALT(Guard(one_reader), Guard(two_writer, send="two"))
        require(await left == right, f"one side says {left.result()!r}, the other {right!r}")
    require(await _is_empty(one_reader) and await _is_empty(two_reader), "something is left over")


@_check
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


@_check
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


@_check
async def a_choice_hears_of_the_close(bench: Bench) -> None:
    """A closed channel ends a choice that waits, and is ready for one that starts."""
    writer, reader = bench.ends()
    choosing = bench.spawn(ALT(Guard(reader), Guard(TIMER(seconds=3600))))
    await writer.writable()
    await writer.aclose()
    await _raises(ChannelClosedError, choosing)
    await _raises(ChannelClosedError, PRI_ALT(Guard(reader), Guard(SKIP)))


# Ends --------------------------------------------------------------------------------------------


@_check
async def one_writer_one_reader(bench: Bench) -> None:
    """A second writer or reader is refused, and the error names both; a side that is given back is free."""
    writer, reader = bench.ends()
    writer.bind_writer("first")
    reader.bind_reader("second")
    await writer.bound()
    await reader.bound()
    require(writer.writer_attached and reader.reader_attached, "it does not say that its sides are held")

    async def third(channel: Chan[Any], side: str) -> None:
        channel.bind_writer("third") if side == "writer" else channel.bind_reader("third")
        await channel.bound()

    for side, holder, channel in (("writer", "first", reader), ("reader", "second", writer)):
        error = await _raises(ChannelTopologyError, third(channel, side))
        require(holder in str(error) and "third" in str(error), f"{error} does not name both")
    writer.unbind_writer()
    await writer.bound()
    writer.bind_writer("third")
    await writer.bound()


@_check
async def counts(bench: Bench) -> None:
    """Statistics tell what happened."""
    writer, reader = bench.ends()
    require(not writer.used, "a new channel says that it is used")
    sending = bench.spawn(writer.send(1))
    await reader.readable()
    require(writer.stats.waiting == "sender", f"a sender waits, and the channel says {writer.stats.waiting}")
    await reader.recv()
    await sending
    require((writer.stats.sent, reader.stats.received) == (1, 1), f"{writer.stats}, {reader.stats}")
    require(writer.used and writer.stats.last_at is not None, "a used channel says that it is not")


@_check
async def shares_or_says_why_not(bench: Bench) -> None:
    """A channel is opened from what was shared; or sharing and opening are refused with the reason."""
    channel: Chan[list[int]] = Chan(list[int], transport=bench.here)
    if not bench.shares:
        try:
            channel.share()
        except NotTransportable as error:
            require(repr(channel.name) in str(error), f"{error} does not say which channel")
            return
        raise AssertionError("share() worked once, and then did not")
    other = Chan.open(channel.share(), transport=await bench.another())
    require((other.name, other.type_spec, other.capacity) == (channel.name, list[int], 0), f"opened {other!r}")


@_check
async def types_differ(bench: Bench) -> None:
    """A reader whose type is not the writer's is told when it is bound."""
    if not bench.shares:
        return
    writer: Chan[int] = Chan(int, transport=bench.here)
    writer.bind_writer("writer")
    await writer.bound()
    shared = writer.share()
    reader = Chan.open({**shared, "type": "str"}, transport=bench.there)

    async def bind() -> None:
        reader.bind_reader("reader")
        await reader.bound()

    error = await _raises(ChannelTopologyError, bind())
    require("int" in str(error) and "str" in str(error), f"{error} does not name both types")
