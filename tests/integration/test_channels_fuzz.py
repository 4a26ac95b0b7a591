"""Ten thousand pieces of garbage on the keys and messages of channels: refused, counted, and the next value arrives."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Any

import msgspec
import pytest

from stbass.alt import ALT, Guard
from stbass.channel import Chan
from stbass.errors import StbassError
from stbass.testing import RedisServer
from stbass.timer import TIMER, TimerExpired
from stbass.transports.redis import RedisTransport
from stbass.transports.redis.entries import Codec
from stbass.wire import Signer

KEY = b"k" * 32
LIMIT = 2000


def base_of(channel: Chan[Any]) -> str:
    return f"stbass:chan:{{{channel.share()['link']['id']}}}"


def clear_garbage(rng: random.Random, capacity: int) -> bytes:
    """What is no element, or no JSON, or of a kind that this channel does not have."""
    kind = b"s" if capacity else b"b1;"
    return rng.choice(
        (
            lambda: rng.randbytes(rng.randrange(1, 60)).replace(b"b", b"?"),
            lambda: b"%d%b%d" % (rng.randrange(1, 20), kind, rng.randrange(100)),
            lambda: b"%d" % rng.randrange(10**20),
            lambda: b"%ds{" % rng.randrange(1, 9),
            lambda: b"%db2;[1]\n{" % rng.randrange(1, 9),
            lambda: b"%db%d;1" % (rng.randrange(1, 9), rng.randrange(2, 10**6)),
            lambda: b'1s{"~":"process","r":"os:system"}',
            lambda: b'1b1;{"~":"process","r":"os:system"}',
            lambda: b"%db1;1" % rng.randrange(10**9, 10**15),
            lambda: b"1s" + b"[" * rng.randrange(100, 3000),
            lambda: b"1b1;" + b"7" * rng.randrange(LIMIT + 1, 3 * LIMIT),
            lambda: b"\x80\x04\x95cos\nsystem\n.",
        )
    )()


def damaged(rng: random.Random, element: bytes) -> bytes:
    """A signed element, of which something is changed."""
    if rng.random() < 0.5:
        return element[: rng.randrange(1, len(element))]
    at = rng.randrange(len(element))
    return element[:at] + bytes([element[at] ^ (1 << rng.randrange(7))]) + element[at + 1 :]


@pytest.mark.parametrize("capacity", [0, 16])
@pytest.mark.parametrize("signed", [False, True])
async def test_elements(server: RedisServer, caplog: pytest.LogCaptureFixture, signed: bool, capacity: int) -> None:
    key = KEY if signed else None
    rng = random.Random(capacity)
    here = RedisTransport(server.url, signing_key=key, max_message_bytes=LIMIT)
    there = RedisTransport(server.url, signing_key=key, max_message_bytes=LIMIT)
    writer: Chan[int] = Chan(int, transport=here, capacity=capacity)
    await writer.bound()
    reader: Chan[int] = Chan.open(writer.share(), transport=there)
    reader.bind_reader("reader")
    await reader.bound()
    base = base_of(writer)
    offers = f"{base}:offers:{server.command('HGET', base, 'epoch')}"
    good = Codec("", writer.share()["link"]["id"], Signer(KEY), LIMIT)

    def garbage() -> bytes:
        if not signed:
            return clear_garbage(rng, capacity)
        if rng.random() < 0.3:
            return clear_garbage(rng, capacity)
        number = rng.randrange(1, 60)
        if not capacity:
            return damaged(rng, good.entry(number, b"s", b"5"))
        return damaged(rng, next(good.batches(number, [b"5"] * rng.randrange(1, 4))))

    # when values are sent, with garbage between them: 2,500 pieces, for each of four kinds of channel
    received = []
    with caplog.at_level(logging.WARNING):
        async with asyncio.timeout(30):
            for number in range(25):
                server.command("RPUSH", offers, *[garbage() for _ in range(100)])
                sending = asyncio.create_task(writer.send(number))
                received.append(await reader.recv())
                await sending

    # then exactly they arrive, what was refused is counted, and told of once for each kind
    assert received == list(range(25))
    refused = there.client().refused
    # (With a capacity, an element whose number was there already is one that came by two ways, not garbage.)
    assert sum(refused.values()) > (1500 if capacity else 2000), refused
    assert set(refused) <= {"value", "signature"}
    told = [record for record in caplog.records if "refused a value" in record.message]
    assert len(told) == len(refused)
    await writer.aclose()
    await here.aclose()
    await there.aclose()
    assert server.command("KEYS", "*") == []


async def test_messages(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(1)
    transport = RedisTransport(server.url)
    channel: Chan[int] = Chan(int, transport=transport)
    await channel.bound()
    inbox = f"stbass:chan:to:{transport.client().id}"
    kinds = ["ack", "look", "closed!", "claim", "no", "gave", "deny", "lost", "free", "held", "ask", "", "x" * 500]
    values: list[Any] = [None, -1, 2**63, 1.5, "w", "r", "x", b"\xff", [], {}, [[[]]], float("nan"), True]

    def message() -> bytes:
        if rng.random() < 0.2:
            return rng.randbytes(rng.randrange(40))
        whole = msgspec.msgpack.encode(
            [rng.choice([1, 1, 1, 2, -1, "1", None]), rng.choice(kinds), *rng.choices(values, k=rng.randrange(5))]
        )
        return whole if rng.random() < 0.6 else whole[: rng.randrange(len(whole))]

    # when ten thousand messages of a stranger come while values are sent
    with caplog.at_level(logging.WARNING):
        async with asyncio.timeout(30):
            for number in range(20):
                for _ in range(5):
                    sent = "local n = 0 for _, m in ipairs(ARGV) do redis.call('PUBLISH', KEYS[1], m) end"
                    server.command("EVAL", sent, 1, inbox, *[message() for _ in range(100)])
                sending = asyncio.create_task(channel.send(number))
                assert await channel.recv() == number
                await sending

    # then they are counted, and told of once
    assert transport.client().refused["message"] > 3000
    assert len([record for record in caplog.records if "refused a message" in record.message]) == 1
    await transport.aclose()


PARTS = ["", ":parties", ":arms", ":props", ":offers:{epoch}", ":taken:{epoch}"]


@pytest.mark.parametrize("capacity", [0, 4])
@pytest.mark.parametrize("part", PARTS)
async def test_keys_of_a_wrong_type(server: RedisServer, part: str, capacity: int) -> None:
    # given a channel in use, and another one
    transport = RedisTransport(server.url)
    channel: Chan[int] = Chan(int, transport=transport, capacity=capacity)
    other: Chan[int] = Chan(int, transport=transport)
    for one in (channel, other):
        sending = asyncio.create_task(one.send(1))
        assert await one.recv() == 1
        await sending
    base = base_of(channel)
    key = base + part.format(epoch=server.command("HGET", base, "epoch"))

    # when one of its keys is replaced by one of another type
    server.command("DEL", key)
    server.command("SET", key, "theirs")

    # then whatever uses it ends, with an error of ours or as if nothing were; nothing hangs
    async def recv() -> object:
        return await channel.recv()

    operations: list[Any] = [
        lambda: channel.send(2),
        recv,
        lambda: ALT(Guard(channel, send=3), Guard(TIMER(0.1))),
        lambda: ALT(Guard(channel), Guard(TIMER(0.1))),
        channel.bound,
        channel.flush,
    ]
    outcomes = []
    async with asyncio.timeout(10):
        for operation in operations:
            try:
                async with asyncio.timeout(0.5):
                    outcomes.append(await operation())
            except (StbassError, TimeoutError) as error:
                outcomes.append(error)
    for outcome in outcomes:
        if isinstance(outcome, StbassError) and not isinstance(outcome, TimerExpired):
            assert "another program uses the name" in str(outcome) or "closed" in str(outcome), outcome
    # and the other is unharmed, the stranger's key too
    async with asyncio.timeout(5):
        sending = asyncio.create_task(other.send(2))
        assert await other.recv() == 2
        await sending
    assert server.command("GET", key) == "theirs"
    server.command("DEL", key)
    channel.close()
    await transport.aclose()
    server.command("FLUSHALL")
