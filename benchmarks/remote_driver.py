"""One conversation between two Python processes over Redis: ``python -m benchmarks.remote_driver SUBJECT COUNT URL``.

The process that is started is the writer; it starts the reader. It prints values per second as JSON.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from urllib.parse import urlsplit

import redis.asyncio

from stbass.channel import Chan
from stbass.transports.redis import RedisTransport

__all__ = ["SUBJECTS"]

BATCH = 1000


# Ours --------------------------------------------------------------------------------------------


async def our_writer(url: str, count: int, capacity: int) -> float:
    """Send so many values, and one before."""
    transport = RedisTransport(url, namespace="bench")
    channel: Chan[int] = Chan(int, name="values", capacity=capacity, transport=transport)
    await channel.send(-1)
    begun = time.perf_counter()
    for number in range(count):
        await channel.send(number)
    await channel.aclose()
    back: Chan[int] = Chan(int, name="back", transport=transport)
    received = await back.recv()
    taken = time.perf_counter() - begun
    if received != count + 1:
        raise RuntimeError(f"{received} values were received, of {count + 1}")
    await back.aclose()
    await transport.aclose()
    return taken


async def our_reader(url: str, count: int, capacity: int) -> None:
    """Receive until the channel is closed, and tell how many came."""
    transport = RedisTransport(url, namespace="bench")
    channel: Chan[int] = Chan(int, name="values", capacity=capacity, transport=transport)
    received = 0
    async for _ in channel:
        received += 1
    back: Chan[int] = Chan(int, name="back", transport=transport)
    await back.send(received)
    await transport.aclose()


# Two redis-py clients, RPUSH + BLPOP each way ----------------------------------------------------


async def their_writer(url: str, count: int, capacity: int) -> float:
    """Push a value, wait for its acknowledgement."""
    client = redis.asyncio.Redis.from_url(url, socket_timeout=None)
    for number in range(count + 1):
        if number == 1:
            begun = time.perf_counter()
        await client.rpush("values", str(number))
        await client.blpop(["acks"])
    taken = time.perf_counter() - begun
    await client.aclose()
    return taken


async def their_reader(url: str, count: int, capacity: int) -> None:
    """Wait for a value, push an acknowledgement."""
    client = redis.asyncio.Redis.from_url(url, socket_timeout=None)
    for _ in range(count + 1):
        await client.blpop(["values"])
        await client.rpush("acks", "1")
    await client.aclose()


# The same by hand, on blocking sockets -----------------------------------------------------------


class Wire:
    """A blocking socket that knows two commands."""

    def __init__(self, url: str) -> None:
        where = urlsplit(url)
        self._socket = socket.create_connection((where.hostname or "127.0.0.1", where.port or 6379))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def push_and_wait(self, to: bytes, of: bytes) -> None:
        """RPUSH and BLPOP in one write, and both answers."""
        push = b"*3\r\n$5\r\nRPUSH\r\n$6\r\n%b\r\n$1\r\n1\r\n" % to
        self._socket.sendall(push + b"*3\r\n$5\r\nBLPOP\r\n$6\r\n%b\r\n$1\r\n0\r\n" % of)
        data = b""
        while data.count(b"\r\n") < 6:
            data += self._socket.recv(4096)

    def wait(self, of: bytes) -> None:
        """BLPOP."""
        self._socket.sendall(b"*3\r\n$5\r\nBLPOP\r\n$6\r\n%b\r\n$1\r\n0\r\n" % of)
        data = b""
        while data.count(b"\r\n") < 5:
            data += self._socket.recv(4096)

    def push(self, to: bytes) -> None:
        """RPUSH."""
        self._socket.sendall(b"*3\r\n$5\r\nRPUSH\r\n$6\r\n%b\r\n$1\r\n1\r\n" % to)
        self._socket.recv(4096)


async def raw_writer(url: str, count: int, capacity: int) -> float:
    """See :class:`Wire`."""
    wire = Wire(url)
    wire.push_and_wait(b"values", b"ackses")
    begun = time.perf_counter()
    for _ in range(count):
        wire.push_and_wait(b"values", b"ackses")
    return time.perf_counter() - begun


async def raw_reader(url: str, count: int, capacity: int) -> None:
    """See :class:`Wire`."""
    wire = Wire(url)
    wire.wait(b"values")
    for _ in range(count):
        wire.push_and_wait(b"ackses", b"values")
    wire.push(b"ackses")


# One client, in batches --------------------------------------------------------------------------


async def batches(url: str, count: int, capacity: int) -> float:
    """RPUSH and LPOP of 1,000 values at a time."""
    client = redis.asyncio.Redis.from_url(url)
    values = [str(number) for number in range(BATCH)]
    begun = time.perf_counter()
    for _ in range(count // BATCH):
        await client.rpush("values", *values)
        await client.lpop("values", BATCH)
    taken = time.perf_counter() - begun
    await client.aclose()
    return taken


async def nobody(url: str, count: int, capacity: int) -> None:
    """There is no other end."""


SUBJECTS: dict[str, tuple[Callable[..., object], Callable[..., object], int]] = {
    "stbass": (our_writer, our_reader, 0),
    "stbass capacity": (our_writer, our_reader, 64),
    "redis-py": (their_writer, their_reader, 0),
    "sockets": (raw_writer, raw_reader, 0),
    "batches": (batches, nobody, 0),
}
"""By name: the writer, which gives the seconds that it took; the reader; the channel's capacity."""


def main(subject: str, count: int, url: str, role: str = "writer") -> None:
    """Be the writer or the reader."""
    write, read, capacity = SUBJECTS[subject]
    if role == "reader":
        asyncio.run(read(url, count, capacity))  # type: ignore[arg-type]
        return
    other = subprocess.Popen([sys.executable, "-m", "benchmarks.remote_driver", subject, str(count), url, "reader"])
    taken: float = asyncio.run(write(url, count, capacity))  # type: ignore[arg-type]
    if other.wait(30):
        raise RuntimeError("the reader failed")
    versions = {name: version(name) for name in ("stbass-celery", "redis", "hiredis")}
    print(json.dumps({"values": {"value": count / taken}, "versions": versions}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
