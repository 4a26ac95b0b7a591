"""Chan on its own: meeting, binding, the end, what it tells, moving to another transport."""

from __future__ import annotations

import asyncio
import pickle
import threading
from datetime import UTC, datetime
from typing import Any, assert_type, get_type_hints

import pytest

import stbass.errors
from stbass._channels.memory import MemoryLink
from stbass.channel import (
    Chan,
    ChannelClosedError,
    ChannelProtocolError,
    ChannelTopologyError,
    ChannelTypeError,
    SequentialProtocol,
)
from stbass.errors import NotTransportable, WireError
from stbass.transports import LinkSpec, MemoryTransport


class OtherMemory(MemoryTransport):
    """Another transport than the default one; it remembers what it made."""

    scheme = "other"

    def __init__(self) -> None:
        self.made: list[LinkSpec] = []

    def link(self, spec: LinkSpec) -> MemoryLink:
        self.made.append(spec)
        return super().link(spec)


async def settle(*tasks: asyncio.Task[Any]) -> None:
    """Cancel these, and wait for their end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# Making one --------------------------------------------------------------------------------------


def test_the_four_errors_are_those_of_the_package() -> None:
    for name in ("ChannelTypeError", "ChannelTopologyError", "ChannelClosedError", "ChannelProtocolError"):
        assert getattr(stbass.channel, name) is getattr(stbass.errors, name)


def test_name_is_made_up_and_kept() -> None:
    first, second = Chan(int), Chan(int)
    assert first.name != second.name
    assert first.name == first.name
    assert Chan(int, name="orders").name == "orders"


def test_subscript_makes_a_channel_of_that_type() -> None:
    channel = Chan[int]("orders", capacity=2)
    assert_type(channel, Chan[int])
    assert (channel.type_spec, channel.name, channel.capacity) == (int, "orders", 2)
    assert Chan[list[int]](name="lists").type_spec == list[int]
    assert isinstance(channel, Chan)


def test_subscript_is_an_annotation() -> None:
    def worker(source: Chan[int]) -> Chan[str | None]: ...  # type: ignore[empty-body]

    expected: dict[str, Any] = {"source": Chan[int], "return": Chan[str | None]}
    assert get_type_hints(worker) == expected


def test_type_checkers_know_what_it_carries() -> None:
    assert_type(Chan(int), Chan[int])
    assert_type(Chan(list[int], name="x"), Chan[list[int]])
    assert_type(Chan[int | None]("x"), Chan[int | None])
    assert_type(Chan(SequentialProtocol(int, str)), Chan[Any])


@pytest.mark.parametrize("capacity", [-1, 1.0, True, "2", None])
def test_capacity_must_be_a_count(capacity: Any) -> None:
    with pytest.raises(ValueError, match="capacity"):
        Chan(int, capacity=capacity)


def test_text_is_not_a_type() -> None:
    with pytest.raises(TypeError, match=r"Chan\[orders\]\(name\)"):
        Chan("orders")


def test_repr_tells_name_type_and_state() -> None:
    channel = Chan(int | None, name="orders")
    assert repr(channel) == "<Chan 'orders' of int | None, memory, open>"
    channel.close()
    assert "closed" in repr(channel)


# Meeting -----------------------------------------------------------------------------------------


async def test_send_waits_for_a_receiver() -> None:
    channel = Chan(int)
    sending = asyncio.create_task(channel.send(1))
    await channel.readable()
    assert not sending.done()
    assert await channel.recv() == 1
    await sending


async def test_senders_are_served_in_the_order_they_came() -> None:
    channel = Chan(int)
    async with asyncio.TaskGroup() as group:
        for value in range(5):
            group.create_task(channel.send(value))
        assert [await channel.recv() for _ in range(5)] == [0, 1, 2, 3, 4]


async def test_receivers_are_served_in_the_order_they_came() -> None:
    channel = Chan(int)
    receiving = [asyncio.create_task(channel.recv()) for _ in range(5)]
    await channel.writable()
    for value in range(5):
        await channel.send(value)
    assert await asyncio.gather(*receiving) == [0, 1, 2, 3, 4]


async def test_a_value_may_itself_be_a_future() -> None:
    channel: Chan[Any] = Chan(asyncio.Future)
    promise: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    sending = asyncio.create_task(channel.send(promise))
    assert await channel.recv() is promise
    await sending
    assert not promise.done()


async def test_capacity_lets_that_many_go_ahead() -> None:
    channel = Chan(int, capacity=2)
    await channel.send(0)
    await channel.send(1)
    third = asyncio.create_task(channel.send(2))
    fourth = asyncio.create_task(channel.send(3))
    await channel.readable()
    assert await channel.recv() == 0
    await third
    assert not fourth.done()
    assert [await channel.recv() for _ in range(3)] == [1, 2, 3]
    await fourth


async def test_a_waiting_receiver_does_not_go_through_the_buffer() -> None:
    channel = Chan(int, capacity=1)
    receiving = asyncio.create_task(channel.recv())
    await asyncio.sleep(0)
    assert channel.stats.waiting == "receiver"
    await channel.send(1)
    await channel.send(2)  # there is room, because 1 went past it
    assert await receiving == 1
    assert await channel.recv() == 2


async def test_iteration_ends_at_the_close() -> None:
    channel = Chan(int)

    async def write() -> None:
        async with channel:
            for value in range(3):
                await channel.send(value)

    async with asyncio.TaskGroup() as group:
        group.create_task(write())
        assert [value async for value in channel] == [0, 1, 2]
    assert "closed" in repr(channel)


# The end -----------------------------------------------------------------------------------------


async def test_close_wakes_everybody_who_waits() -> None:
    for side in ("send", "recv"):
        channel = Chan(int, name="orders")
        waiting = [asyncio.create_task(channel.send(1) if side == "send" else channel.recv()) for _ in range(3)]
        await (channel.readable() if side == "send" else channel.writable())
        channel.close()
        channel.close()
        for error in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(error, ChannelClosedError)
            assert error.channel_name == "orders"
            assert "orders" in str(error)


async def test_a_closed_channel_refuses() -> None:
    channel = Chan(int)
    channel.close()
    with pytest.raises(ChannelClosedError):
        await channel.send(1)
    with pytest.raises(ChannelClosedError):
        await channel.recv()
    await channel.readable()
    await channel.writable()
    await channel.aclose()


async def test_an_offered_value_is_withdrawn_at_the_close() -> None:
    channel = Chan(int)
    sending = asyncio.create_task(channel.send(1))
    await channel.readable()
    channel.close()
    with pytest.raises(ChannelClosedError):
        await channel.recv()
    with pytest.raises(ChannelClosedError):
        await sending
    assert channel.stats.sent == 0


async def test_a_receiver_that_has_its_value_keeps_it_at_the_close() -> None:
    channel = Chan(int)
    receiving = asyncio.create_task(channel.recv())
    await channel.writable()
    await channel.send(1)
    channel.close()
    assert await receiving == 1


# What it tells -----------------------------------------------------------------------------------


async def test_stats() -> None:
    channel = Chan(int)
    assert channel.stats.as_dict() == {"sent": 0, "received": 0, "waiting": None, "last_at": None}

    def state() -> tuple[int, int, str | None, bool]:
        stats = channel.stats
        return stats.sent, stats.received, stats.waiting, channel.used

    assert state() == (0, 0, None, False)
    sending = asyncio.create_task(channel.send(1))
    await channel.readable()
    assert state() == (0, 0, "sender", True)

    before = datetime.now(UTC)
    await channel.recv()
    await sending
    assert state() == (1, 1, None, True)
    last_at = channel.stats.last_at
    assert last_at is not None
    assert abs((last_at - before).total_seconds()) < 5
    assert channel.stats.as_dict()["last_at"] == last_at.isoformat()

    receiving = asyncio.create_task(channel.recv())
    await channel.writable()
    assert state() == (1, 1, "receiver", True)
    await settle(receiving)
    assert state() == (1, 1, None, True)


async def test_stats_of_a_buffer() -> None:
    channel = Chan(int, capacity=3)
    await channel.send(1)
    await channel.send(2)
    await channel.recv()
    assert (channel.stats.sent, channel.stats.received) == (2, 1)


# Binding -----------------------------------------------------------------------------------------


def test_binding() -> None:
    channel = Chan(int, name="orders")

    def state() -> tuple[bool, bool, bool]:
        return channel.writer_attached, channel.reader_attached, channel.is_bound

    assert state() == (False, False, False)
    channel.bind_writer("producer-1")
    assert state() == (True, False, False)
    channel.bind_reader("consumer-1")
    assert state() == (True, True, True)


@pytest.mark.parametrize("side", ["writer", "reader"])
def test_a_second_one_is_refused(side: str) -> None:
    channel = Chan(int, name="orders")
    bind = channel.bind_writer if side == "writer" else channel.bind_reader
    unbind = channel.unbind_writer if side == "writer" else channel.unbind_reader
    bind("first")
    bind("first")  # the same one is not a second
    with pytest.raises(ChannelTopologyError) as caught:
        bind("second")
    for word in ("orders", side, "first", "second"):
        assert word in str(caught.value)
    unbind()
    unbind()
    bind("second")


# Elsewhere ---------------------------------------------------------------------------------------


async def test_promote_moves_an_unused_channel() -> None:
    other = OtherMemory()
    channel = Chan(int | None, name="orders", capacity=1)
    channel.bind_reader("consumer")
    channel.promote(other)
    channel.promote(other)  # there already
    assert channel.transport is other
    assert [(spec.name, spec.capacity, spec.type_name) for spec in other.made] == [("orders", 1, "int | None")]
    assert channel.reader_attached
    with pytest.raises(ChannelTopologyError):
        channel.bind_reader("another")
    await channel.send(1)
    assert await channel.recv() == 1


async def test_promote_refuses_a_channel_in_use() -> None:
    other = OtherMemory()

    carried = Chan(int, capacity=1)
    await carried.send(1)
    with pytest.raises(ChannelTopologyError, match="carried 1 values"):
        carried.promote(other)

    awaited = Chan(int)
    receiving = asyncio.create_task(awaited.recv())
    await awaited.writable()
    with pytest.raises(ChannelTopologyError, match="a receiver waits"):
        awaited.promote(other)
    await settle(receiving)
    awaited.promote(other)  # nobody waits any more, and nothing was sent

    closed = Chan(int)
    closed.close()
    with pytest.raises(ChannelTopologyError, match="closed"):
        closed.promote(other)
    assert [spec.name for spec in other.made] == [awaited.name]


def test_memory_is_not_shared() -> None:
    channel = Chan(int, name="orders")
    with pytest.raises(NotTransportable, match=r"'orders'.*RedisTransport"):
        channel.share()
    with pytest.raises(NotTransportable, match="pickled"):
        pickle.dumps(channel)
    shared = {"transport": "memory", "name": "orders", "capacity": 0, "type": "int", "link": {}}
    with pytest.raises(ChannelTopologyError, match="no other end"):
        Chan.open(shared, transport=MemoryTransport())


@pytest.mark.parametrize(
    "change",
    [
        {"name": None},
        {"capacity": "1"},
        {"type": 3},
        {"type": []},
        {"type": ["list", {}]},
        {"link": 1},
        {"transport": 1},
    ],
)
def test_only_what_was_shared_is_opened(change: dict[str, Any]) -> None:
    shared: dict[str, Any] = {"transport": "memory", "name": "orders", "capacity": 0, "type": "int", "link": {}}
    for broken in (shared | change, {}, None, [shared]):
        with pytest.raises(WireError):
            Chan.open(broken, transport=MemoryTransport())  # type: ignore[arg-type]


def test_a_transport_opens_only_its_own() -> None:
    shared = {"transport": "redis", "name": "orders", "capacity": 0, "type": "int", "link": {}}
    with pytest.raises(ChannelTopologyError, match="runs on 'redis'"):
        Chan.open(shared, transport=MemoryTransport())


# Event loops -------------------------------------------------------------------------------------


def test_a_channel_serves_one_loop_after_another() -> None:
    channel = Chan(int)

    async def exchange() -> int:
        async with asyncio.TaskGroup() as group:
            group.create_task(channel.send(1))
            return await channel.recv()

    assert asyncio.run(exchange()) == 1
    assert asyncio.run(exchange()) == 1


def test_waiters_of_a_loop_that_has_ended_are_forgotten() -> None:
    channel = Chan(int)
    abandoned = asyncio.new_event_loop()
    waiting = abandoned.create_task(channel.recv())
    abandoned.run_until_complete(channel.writable())
    abandoned.close()

    async def exchange() -> int:
        async with asyncio.TaskGroup() as group:
            group.create_task(channel.send(2))
            return await channel.recv()

    assert asyncio.run(exchange()) == 2
    assert not waiting.done()


async def test_another_loop_is_refused_while_somebody_waits() -> None:
    channel = Chan(int, name="orders")
    receiving = asyncio.create_task(channel.recv())
    await channel.writable()
    refused: list[BaseException] = []

    def elsewhere() -> None:
        for operation in (channel.send(1), channel.writable()):
            try:
                asyncio.run(operation)
            except ChannelTopologyError as error:
                refused.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    await asyncio.to_thread(thread.join)
    assert [("another event loop" in str(error), "orders" in str(error)) for error in refused] == [(True, True)] * 2
    await channel.send(2)
    assert await receiving == 2


def test_protocol_errors_name_the_channel() -> None:
    async def exhaust() -> None:
        channel = Chan(SequentialProtocol(int), name="orders", capacity=1)
        await channel.send(1)
        with pytest.raises(ChannelProtocolError, match="orders"):
            await channel.send(2)
        with pytest.raises(ChannelTypeError, match="orders"):
            await Chan(int, name="orders").send("x")  # type: ignore[arg-type]

    asyncio.run(exhaust())
