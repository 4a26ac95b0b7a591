"""The checks that every transport passes: values, the end of a channel, cancellation, and who holds its sides."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from stbass.alt import Guard
from stbass.channel import Chan, SequentialProtocol
from stbass.errors import (
    ChannelClosedError,
    ChannelProtocolError,
    ChannelTopologyError,
    ChannelTypeError,
    NotTransportable,
)
from stbass.testing._transport_bench import Bench, check, is_empty, raises, require, skipped

__all__: list[str] = []


# A value moves -----------------------------------------------------------------------------------


@check
async def send_returns_when_received(bench: Bench) -> None:
    """A send waits until a receiver has the value."""
    writer, reader = bench.ends()
    sending = bench.spawn(writer.send(1))
    await reader.readable()
    require(not sending.done(), "send returned before anybody received")
    require(await reader.recv() == 1, "another value was received")
    await sending


@check
async def receiver_first(bench: Bench) -> None:
    """A receiver that waits gets the next value."""
    writer, reader = bench.ends(str)
    receiving = bench.spawn(reader.recv())
    await writer.writable()
    await writer.send("x")
    require(await receiving == "x", "another value was received")


@check
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


@check
async def nothing_is_a_value(bench: Bench) -> None:
    """None and what is empty arrive like any other value."""
    writer, reader = bench.ends(list[int] | dict[str, int] | str | None)
    values: tuple[Any, ...] = (None, "", [], {}, [0])
    for value in values:
        sending = bench.spawn(writer.send(value))
        received = await reader.recv()
        require(received == value and type(received) is type(value), f"{value!r} arrived as {received!r}")
        await sending


@check
async def wrong_type_is_seen_by_nobody(bench: Bench) -> None:
    """A value that does not fit raises at the sender, and the channel goes on."""
    writer, reader = bench.ends()
    error = await raises(ChannelTypeError, writer.send("1"))
    require((error.__dict__["expected"], error.__dict__["actual"]) == ("int", "str"), f"{error.__dict__}")
    require(await is_empty(reader), "the value was offered")
    sending = bench.spawn(writer.send(1))
    require(await reader.recv() == 1, "the channel does not go on")
    await sending


@check
async def sequence_moves_when_received(bench: Bench) -> None:
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
async def capacity_bounds(bench: Bench) -> None:
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
async def accepted_values_outlive_the_close(bench: Bench) -> None:
    """What a channel with a capacity has accepted can be received after its close."""
    writer, reader = bench.ends(capacity=3)
    await writer.send(0)
    await writer.send(1)
    await writer.aclose()
    require([value async for value in reader] == [0, 1], "accepted values were lost")


@check
async def flush_returns(bench: Bench) -> None:
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
async def close_wakes_the_sender(bench: Bench) -> None:
    """A waiting sender is told of the close, and its value is withdrawn."""
    writer, reader = bench.ends()
    sending = bench.spawn(writer.send(1))
    await reader.readable()
    await reader.aclose()
    await raises(ChannelClosedError, sending)
    await raises(ChannelClosedError, reader.recv())


@check
async def close_wakes_the_receiver(bench: Bench) -> None:
    """A waiting receiver is told of the close."""
    writer, reader = bench.ends()
    receiving = bench.spawn(reader.recv())
    await writer.writable()
    await writer.aclose()
    error = await raises(ChannelClosedError, receiving)
    require(error.__dict__["channel_name"] == reader.name, "the error does not say which channel")


@check
async def close_again_does_nothing(bench: Bench) -> None:
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
async def cancelled_send_delivers_nothing(bench: Bench) -> None:
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


@check
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


@check
async def random_closes(bench: Bench) -> None:
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
        error = await raises(ChannelTopologyError, third(channel, side))
        require(holder in str(error) and "third" in str(error), f"{error} does not name both")
    writer.unbind_writer()
    await writer.bound()
    writer.bind_writer("third")
    await writer.bound()


@check
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


@check
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


@check
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

    error = await raises(ChannelTopologyError, bind())
    require("int" in str(error) and "str" in str(error), f"{error} does not name both types")
