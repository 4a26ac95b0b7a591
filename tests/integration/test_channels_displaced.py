"""An end that does not hear what became of its latest value, while another takes its place: it moves once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest

from stbass.alt import PRI_ALT, SKIP, Guard
from stbass.channel import Chan
from stbass.testing import RedisServer
from stbass.transports.redis import RedisTransport
from tests.support.ends import ends
from tests.support.proxy import Proxy
from tests.support.waiting import until

LEASE = 1.0
T = TypeVar("T")


class Scene:
    """A channel with two writers or two readers, of which one has a way to the server that can lose what comes back."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._deaf_from = ("", 0)
        self._lost = asyncio.Event()
        self.proxy = Proxy(server.port, change=self._lose)
        self.writer: Chan[int]
        self.reader: Chan[int]
        self.other: Chan[int]

    async def unheard(self, count: str, doing: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Do something that the server does, as its count says, of which nothing is heard, nor of anything after it."""
        self._deaf_from = count, self._counted(count) + 1
        task = asyncio.create_task(doing)
        await self._lost.wait()
        return task

    @property
    def other_offers(self) -> bool:
        """Whether the other writer has the place, and waits for a reader."""
        link: Any = self.other.link
        return bool(link.state.pending)

    def heard_again(self) -> None:
        """What is forgotten is noticed, and a connection made anew."""
        self._deaf_from = ("", 0)
        self.proxy.cut_all()

    def _counted(self, count: str) -> int:
        key = f"stbass:chan:{{{self.writer.share()['link']['id']}}}"
        return int(self._server.command("HGET", key, count))

    def _lose(self, chunk: bytes) -> bytes:
        count, least = self._deaf_from
        if not count or self._counted(count) < least:
            return chunk
        self.proxy.forget_all()
        self._lost.set()
        return b""


@asynccontextmanager
async def scene(server: RedisServer, capacity: int = 0, *, of_readers: bool = False) -> AsyncIterator[Scene]:
    made = Scene(server)
    there = RedisTransport(server.url, lease=LEASE)
    async with asyncio.timeout(60), made.proxy:
        urls = (server.url, made.proxy.url) if of_readers else (made.proxy.url, server.url)
        async with ends(*urls, capacity=capacity, lease=LEASE) as (made.writer, made.reader):
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
        sending = await here.unheard("offered", here.writer.send(1))
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
    async with scene(server) as here:
        # given a value that was received or not, as the writer does not know, and another writer since then
        sending = await here.unheard("offered", here.writer.send(1))
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


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_value_of_which_the_reader_hears_nothing_is_received_once(server: RedisServer, cancelled: bool) -> None:
    async with scene(server, of_readers=True) as here:
        # given a value that was received, as the reader does not know, and another reader since then
        sending = asyncio.create_task(here.writer.send(1))
        receiving = await here.unheard("acked", here.reader.recv())
        await sending
        others = asyncio.create_task(here.other.recv())
        await here.writer.send(2)
        assert await others == 2
        # when it can be told again, though it may not want the value any more
        if cancelled:
            receiving.cancel()
        here.heard_again()
        # then it has it
        assert await receiving == 1


async def test_a_choice_that_hears_nothing_of_its_offer_has_sent_it_once(server: RedisServer) -> None:
    async with scene(server) as here:
        # given an offer of a choice, taken at once, as the choice does not know, and another writer since then
        receiving = asyncio.create_task(here.reader.recv())
        await here.writer.writable()
        offering = await here.unheard("acked", PRI_ALT(Guard(here.writer, send=1), Guard(SKIP)))
        assert await receiving == 1
        others = asyncio.create_task(here.other.send(100))
        assert await here.reader.recv() == 100
        await others
        # when it can be told again
        here.heard_again()
        # then it has been chosen
        assert await offering == 1
