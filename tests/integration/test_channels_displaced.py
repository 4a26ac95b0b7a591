"""A writer that does not hear what became of its latest value, while another takes its place: it is sent once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from stbass.channel import Chan
from stbass.testing import RedisServer
from stbass.transports.redis import RedisTransport
from tests.support.ends import ends
from tests.support.proxy import Proxy
from tests.support.waiting import until

LEASE = 1.0


class Scene:
    """A channel with two writers, of which one has a way to the server that can lose what comes back."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._deaf_from: int | None = None
        self._lost = asyncio.Event()
        self.proxy = Proxy(server.port, change=self._lose)
        self.writer: Chan[int]
        self.other: Chan[int]
        self.reader: Chan[int]

    async def unheard(self, value: int) -> asyncio.Task[None]:
        """Send a value, of which the writer does not hear that the server has it, nor anything after that."""
        self._deaf_from = self._offered() + 1
        sending = asyncio.create_task(self.writer.send(value))
        await self._lost.wait()
        return sending

    @property
    def other_offers(self) -> bool:
        """Whether the other writer has the place, and waits for a reader."""
        link: Any = self.other.link
        return bool(link.state.pending)

    def heard_again(self) -> None:
        """The writer notices that, and connects anew."""
        self._deaf_from = None
        self.proxy.cut_all()

    def _offered(self) -> int:
        key = f"stbass:chan:{{{self.writer.share()['link']['id']}}}"
        return int(self._server.command("HGET", key, "offered"))

    def _lose(self, chunk: bytes) -> bytes:
        if self._deaf_from is None or self._offered() < self._deaf_from:
            return chunk
        self.proxy.forget_all()
        self._lost.set()
        return b""


@asynccontextmanager
async def scene(server: RedisServer, capacity: int) -> AsyncIterator[Scene]:
    made = Scene(server)
    there = RedisTransport(server.url, lease=LEASE)
    async with (
        asyncio.timeout(60),
        made.proxy,
        ends(made.proxy.url, server.url, capacity=capacity, lease=LEASE) as (made.writer, made.reader),
    ):
        made.other = Chan.open(made.writer.share(), transport=there)
        first = asyncio.create_task(made.writer.send(0))
        assert await made.reader.recv() == 0
        await first
        for channel in (made.writer, made.reader):
            await channel.flush()
        yield made
        await there.aclose()


@pytest.mark.parametrize("capacity", [0, 16])
@pytest.mark.parametrize("received", [True, False])
async def test_a_value_of_which_the_writer_hears_nothing_is_sent_once(
    server: RedisServer, capacity: int, received: bool
) -> None:
    async with scene(server, capacity) as here:
        # given a value that has arrived, as the writer does not know, and another writer since then
        sending = await here.unheard(1)
        came = [await here.reader.recv()] if received else []
        others = asyncio.create_task(here.other.send(100))
        if received or capacity:
            came += [await here.reader.recv() for _ in range(2 - len(came))]
            await others
        else:
            # (who waits for a reader does not give way, but when its lease is over)
            await until(lambda: here.other_offers, timeout=30)
            came.append(await here.reader.recv())
            await others
        # when the writer can be told again, and goes on
        here.heard_again()
        last = asyncio.create_task(here.writer.send(2))
        came += [await here.reader.recv() for _ in range(3 - len(came))]
        await asyncio.gather(sending, last)
        await here.writer.flush()
        # then each has come once
        assert sorted(came) == [1, 2, 100], came
        assert came.index(1) < came.index(2)
        await here.writer.aclose()
        assert [value async for value in here.reader] == []


@pytest.mark.parametrize("received", [True, False])
async def test_a_cancelled_send_of_which_the_writer_hears_nothing_has_happened_or_not(
    server: RedisServer, received: bool
) -> None:
    async with scene(server, 0) as here:
        # given a value that was received or not, as the writer does not know, and another writer since then
        sending = await here.unheard(1)
        came = [await here.reader.recv()] if received else []
        others = asyncio.create_task(here.other.send(100))
        came.append(await here.reader.recv() if received else 0)
        if received:
            await others
        else:
            await until(lambda: here.other_offers, timeout=30)
        # when the send is cancelled, and the writer can be told again
        sending.cancel()
        here.heard_again()
        # then what the program hears is what has happened
        await asyncio.wait({sending})
        assert sending.cancelled() is not received
        if not received:
            assert await here.reader.recv() == 100
            await others
        last = asyncio.create_task(here.writer.send(2))
        assert await here.reader.recv() == 2
        await last
