"""The checks that every transport passes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from stbass.alt import ALT, PRI_ALT, SKIP, Guard
from stbass.channel import Chan, SequentialProtocol
from stbass.errors import (
    ChannelClosedError,
    ChannelProtocolError,
    ChannelTopologyError,
    ChannelTypeError,
    NotTransportable,
)
from stbass.testing._checks import require
from stbass.testing._transport_bench import TransportBench, check, is_empty, raises, skipped
from stbass.timer import TIMER, TimerExpired

__all__: list[str] = []


# A value moves -----------------------------------------------------------------------------------


@check
async def send_returns_when_received(bench: TransportBench) -> None:
    """A send waits until a receiver has the value."""
    writer, reader = bench.ends()
    sending = bench.spawn(writer.send(1))
    await reader.readable()
    require(not sending.done(), "send returned before anybody received")
    require(await reader.recv() == 1, "another value was received")
    await sending


@check
async def receiver_first(bench: TransportBench) -> None:
    """A receiver that waits gets the next value."""
    writer, reader = bench.ends(str)
    receiving = bench.spawn(reader.recv())
    await writer.writable()
    await writer.send("x")
    require(await receiving == "x", "another value was received")


@check
async def values_in_order(bench: TransportBench) -> None:
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


@check
async def nothing_is_a_value(bench: TransportBench) -> None:
    """None and what is empty arrive like any other value."""
    writer, reader = bench.ends(list[int] | dict[str, int] | str | None)
    values: tuple[Any, ...] = (None, "", [], {}, [0])
    for value in values:
        sending = bench.spawn(writer.send(value))
        received = await reader.recv()
        require(received == value and type(received) is type(value), f"{value!r} arrived as {received!r}")
        await sending


@check
async def wrong_type_is_seen_by_nobody(bench: TransportBench) -> None:
    """A value that does not fit raises at the sender, and the channel goes on."""
    writer, reader = bench.ends()
    error = await raises(ChannelTypeError, writer.send("1"))
    require((error.__dict__["expected"], error.__dict__["actual"]) == ("int", "str"), f"{error.__dict__}")
    require(await is_empty(reader), "the value was offered")
    sending = bench.spawn(writer.send(1))
    require(await reader.recv() == 1, "the channel does not go on")
    await sending


@check
async def sequence_moves_when_received(bench: TransportBench) -> None:
    """The position in a sequential protocol moves with a rendezvous, and with nothing else."""
    writer, reader = bench.ends(SequentialProtocol(int, str))
    sending = bench.spawn(writer.send(1))
    await reader.readable()
    sending.cancel()
    await asyncio.wait((sending,))
    await raises(ChannelTypeError, writer.send("too early"))
    for value in (2, "two"):
        sending = bench.spawn(writer.send(value))
        require(await reader.recv() == value, "another value was received")
        await sending
    await raises(ChannelProtocolError, writer.send(3))


@check
async def capacity_bounds(bench: TransportBench) -> None:
    """A channel with a capacity accepts that many values, and no more."""
    writer, reader = bench.ends(capacity=2)
    await writer.send(0)
    await writer.send(1)
    third = bench.spawn(writer.send(2))
    await reader.readable()
    require(await skipped(Guard(writer, send=9)), "a full channel accepted a value")
    require(not third.done(), "a full channel accepted a value")
    require([await reader.recv() for _ in range(3)] == [0, 1, 2], "other values were received")
    await third


@check
async def accepted_values_outlive_the_close(bench: TransportBench) -> None:
    """What a channel with a capacity has accepted can be received after its close."""
    writer, reader = bench.ends(capacity=3)
    await writer.send(0)
    await writer.send(1)
    await writer.aclose()
    require([value async for value in reader] == [0, 1], "accepted values were lost")


@check
async def flush_returns(bench: TransportBench) -> None:
    """After a flush nothing has changed for the two ends, whatever was sent and received before it."""
    for capacity in (0, 3):
        writer, reader = bench.ends(capacity=capacity)
        await writer.flush()
        for value in range(2):
            sending = bench.spawn(writer.send(value))
            require(await reader.recv() == value, "another value was received")
            await sending
        await reader.flush()
        if capacity:
            await writer.send(2)
            await writer.flush()
            await reader.readable()
            await reader.flush()
            require(await reader.recv() == 2, "a value was lost by a flush")
        await writer.flush()
        require(await is_empty(reader), "a value was doubled by a flush")


# The end -----------------------------------------------------------------------------------------


@check
async def close_wakes_the_sender(bench: TransportBench) -> None:
    """A waiting sender is told of the close, and its value is withdrawn."""
    writer, reader = bench.ends()
    sending = bench.spawn(writer.send(1))
    await reader.readable()
    await reader.aclose()
    await raises(ChannelClosedError, sending)
    await raises(ChannelClosedError, reader.recv())


@check
async def close_wakes_the_receiver(bench: TransportBench) -> None:
    """A waiting receiver is told of the close."""
    writer, reader = bench.ends()
    receiving = bench.spawn(reader.recv())
    await writer.writable()
    await writer.aclose()
    error = await raises(ChannelClosedError, receiving)
    require(error.__dict__["channel_name"] == reader.name, "the error does not say which channel")


@check
async def close_again_does_nothing(bench: TransportBench) -> None:
    """A closed channel stays closed, for both ends."""
    writer, reader = bench.ends()
    writer.close()
    writer.close()
    await writer.aclose()
    await reader.aclose()
    require(writer.closed and reader.closed, "it does not say that it is closed")
    await raises(ChannelClosedError, writer.send(1))
    await raises(ChannelClosedError, reader.recv())
    require([value async for value in reader] == [], "a closed channel gave a value")


# Cancellation ------------------------------------------------------------------------------------


@check
async def cancelled_send_delivers_nothing(bench: TransportBench) -> None:
    """A cancelled send withdraws its value."""
    writer, reader = bench.ends()
    sending = bench.spawn(writer.send(1))
    await reader.readable()
    sending.cancel()
    await asyncio.wait((sending,))
    require(sending.cancelled(), "the send was not cancelled")
    require(await is_empty(reader), "the value is still offered")
    sending = bench.spawn(writer.send(2))
    require(await reader.recv() == 2, "the cancelled value was delivered")
    await sending


@check
async def cancelled_recv_loses_nothing(bench: TransportBench) -> None:
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


@check
async def random_cancellations(bench: TransportBench) -> None:
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


@check
async def random_closes(bench: TransportBench) -> None:
    """Whichever end closes whenever: a value is received if its send says so, and only then."""
    for number in range(max(10, bench.rounds // 4)):
        writer, reader = bench.ends()

        async def after(seconds: float, operation: Coroutine[Any, Any, Any]) -> str:
            await asyncio.sleep(seconds)
            try:
                await operation
            except ChannelClosedError:
                return "closed"
            return "done"

        # Sometimes known to the server before, so that only the operations race.
        if number % 2:
            await writer.bound()
            await reader.bound()
        operations = (writer.send(number), reader.recv(), bench.rng.choice((writer, reader)).aclose())
        outcomes = await asyncio.gather(
            *[after(bench.rng.expovariate(1 / bench.pause), operation) for operation in operations]
        )
        require(outcomes[0] == outcomes[1], f"sent: {outcomes[0]}, received: {outcomes[1]}")


# Ends --------------------------------------------------------------------------------------------


@check
async def one_writer_one_reader(bench: TransportBench) -> None:
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
        error = await raises(ChannelTopologyError, third(channel, side))
        require(holder in str(error) and "third" in str(error), f"{error} does not name both")
    writer.unbind_writer()
    await writer.bound()
    writer.bind_writer("third")
    await writer.bound()


@check
async def counts(bench: TransportBench) -> None:
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


@check
async def shares_or_says_why_not(bench: TransportBench) -> None:
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


@check
async def types_differ(bench: TransportBench) -> None:
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

    error = await raises(ChannelTopologyError, bind())
    require("int" in str(error) and "str" in str(error), f"{error} does not name both types")


# Choice ------------------------------------------------------------------------------------------


@check
async def losers_stay_blocked(bench: TransportBench) -> None:
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
async def first_in_order_wins(bench: TransportBench) -> None:
    """PRI_ALT takes the first that is ready."""
    writers, readers = zip(*(bench.ends() for _ in range(3)), strict=True)
    for value in (1, 2):
        bench.spawn(writers[value].send(value))
        await readers[value].readable()
    require(await PRI_ALT(*(Guard(reader) for reader in readers)) == 1, "not the first that was ready")
    require(await PRI_ALT(*(Guard(reader) for reader in reversed(readers))) == 2, "not the one that was ready")


@check
async def a_choice_is_woken(bench: TransportBench) -> None:
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
async def a_choice_again_and_again(bench: TransportBench) -> None:
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
async def skip_when_nothing_is_ready(bench: TransportBench) -> None:
    """SKIP wins if no channel is ready, and only then."""
    writer, reader = bench.ends()
    require(await is_empty(reader), "a value came from nowhere")
    sending = bench.spawn(writer.send(1))
    await reader.readable()
    require(await ALT(Guard(SKIP), Guard(reader)) == 1, "SKIP won although a value was there")
    await sending


@check
async def a_timer_ends_the_wait(bench: TransportBench) -> None:
    """A choice that times out leaves its channels as they were."""
    writer, reader = bench.ends()
    expired = await ALT(Guard(reader), Guard(TIMER(seconds=bench.pause)))
    require(isinstance(expired, TimerExpired), f"got {expired!r}")
    sending = bench.spawn(writer.send(1))
    await reader.readable()
    require(await PRI_ALT(Guard(reader), Guard(TIMER(seconds=0))) == 1, "the value was lost")
    await sending


@check
async def output_guard_wants_a_receiver(bench: TransportBench) -> None:
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
async def two_choices_meet_once(bench: TransportBench) -> None:
    """Two choices that could meet on two channels, either way round, meet on exactly one."""
    one_writer, one_reader = bench.ends(str)
    two_writer, two_reader = bench.ends(str)
    for _ in range(max(1, bench.rounds // 4)):
        left = bench.spawn(ALT(Guard(one_writer, send="one"), Guard(two_reader)))
        right = await ALT(Guard(one_reader), Guard(two_writer, send="two"))
        require(await left == right, f"one side says {left.result()!r}, the other {right!r}")
    require(await is_empty(one_reader) and await is_empty(two_reader), "something is left over")


@check
async def a_ring_of_choices_goes_on(bench: TransportBench) -> None:
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
async def beside_memory(bench: TransportBench) -> None:
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
async def a_choice_hears_of_the_close(bench: TransportBench) -> None:
    """A closed channel ends a choice that waits, and is ready for one that starts."""
    writer, reader = bench.ends()
    choosing = bench.spawn(ALT(Guard(reader), Guard(TIMER(seconds=3600))))
    await writer.writable()
    await writer.aclose()
    await raises(ChannelClosedError, choosing)
    await raises(ChannelClosedError, PRI_ALT(Guard(reader), Guard(SKIP)))


@check
async def random_cancellations_of_choices(bench: TransportBench) -> None:
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
