"""Listening to channels of publish/subscribe: whoever has asked for one hears all that is said there from then on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from stbass.testing import RedisServer
from stbass.transports.redis.address import RedisAddress
from stbass.transports.redis.subscription import Subscription
from tests.support.proxy import Proxy


class _Held:
    """Holds back what a server says of one channel, until it may go on."""

    def __init__(self, channel: bytes) -> None:
        self.channel = channel
        self.is_here, self.may_go_on = asyncio.Event(), asyncio.Event()

    async def __call__(self, chunk: bytes) -> None:
        if self.channel in chunk:
            self.is_here.set()
            await self.may_go_on.wait()


@asynccontextmanager
async def _listening(url: str) -> AsyncIterator[tuple[Subscription, asyncio.Queue[tuple[str, bytes]]]]:
    heard: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()

    async def hear(channel: str, data: bytes) -> None:
        heard.put_nowait((channel, data))

    async def gap(first: bool) -> None:
        """Nothing is kept elsewhere that could be fetched."""

    subscription = Subscription(RedisAddress.parse(url, "url"), "always", hear, gap)
    await subscription.ready()
    try:
        yield subscription, heard
    finally:
        await subscription.close()


async def test_who_listens_to_one_more_channel_goes_on_when_that_stands(server: RedisServer) -> None:
    held = _Held(b"more")
    async with Proxy(server.port, before=held) as proxy, _listening(proxy.url) as (subscription, heard):
        # given that the server's word of it is on its way
        asking = [asyncio.create_task(subscription.also({"more"})) for _ in range(2)]
        await held.is_here.wait()
        # then neither goes on, who has asked for it or who wants it too
        assert not (await asyncio.wait(asking, timeout=0.1))[0]
        held.may_go_on.set()
        await asyncio.gather(*asking)
        assert server.command("PUBLISH", "more", "said") == 1
        assert await heard.get() == ("more", b"said")


async def test_a_channel_that_is_given_up_and_asked_for_again_stands_after_the_second_time(server: RedisServer) -> None:
    async with Proxy(server.port) as proxy, _listening(proxy.url) as (subscription, heard):
        for number in range(50):
            asking = asyncio.create_task(subscription.also({"more"}))
            await asyncio.sleep(0)
            await subscription.no_longer({"more"})
            await asking
            await subscription.also({"more"})
            assert server.command("PUBLISH", "more", number) == 1
            assert await heard.get() == ("more", str(number).encode())
            await subscription.no_longer({"more"})


async def test_who_asks_while_the_connection_is_lost_goes_on_when_it_stands_again(server: RedisServer) -> None:
    async with Proxy(server.port) as proxy, _listening(proxy.url) as (subscription, heard):
        for number in range(10):
            proxy.cut_all()
            await asyncio.gather(*(subscription.also({f"{number}:{one}"}) for one in range(3)), return_exceptions=True)
            await asyncio.gather(*(subscription.also({f"{number}:{one}"}) for one in range(3)))
            assert [server.command("PUBLISH", f"{number}:{one}", "said") for one in range(3)] == [1, 1, 1]
            assert {await heard.get() for _ in range(3)} == {(f"{number}:{one}", b"said") for one in range(3)}


async def test_who_waits_for_a_channel_goes_on_when_the_listening_ends(server: RedisServer) -> None:
    held = _Held(b"more")
    async with Proxy(server.port, before=held) as proxy:
        async with _listening(proxy.url) as (subscription, _):
            asking = asyncio.create_task(subscription.also({"more"}))
            await held.is_here.wait()
        held.may_go_on.set()
        await asking
