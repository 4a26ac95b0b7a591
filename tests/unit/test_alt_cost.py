"""A choice that waits costs nothing, and one that is awaited again does not look at what did not change."""

from __future__ import annotations

import asyncio
import gc
import selectors
import time
import weakref
from typing import Any

import pytest

from stbass._channels.memory import MemoryLink
from stbass._channels.transport import Arm
from stbass.alt import ALT, PRI_ALT, SKIP, Guard
from stbass.channel import Chan
from stbass.timer import TIMER, TimerExpired
from stbass.transports import LinkSpec, MemoryTransport


class CountingSelector(selectors.DefaultSelector):
    """Counts how often the event loop goes round."""

    turns = 0

    def select(self, timeout: float | None = None) -> Any:
        self.turns += 1
        return super().select(timeout)


class CountingLink(MemoryLink):
    """Counts what choices ask of it."""

    asked: int
    __slots__ = ("asked",)

    def __init__(self, spec: LinkSpec) -> None:
        super().__init__(spec)
        self.asked = 0

    def try_take(self) -> Any:
        self.asked += 1
        return super().try_take()

    def ready(self, arm: Arm) -> bool:
        self.asked += 1
        return super().ready(arm)

    def attach(self, arm: Arm) -> None:
        self.asked += 1
        super().attach(arm)

    def resume(self, arm: Arm) -> None:
        self.asked += 1
        super().resume(arm)


class CountingTransport(MemoryTransport):
    def link(self, spec: LinkSpec) -> MemoryLink:
        return CountingLink(spec)


def asked(channels: list[Chan[int]]) -> int:
    total = 0
    for channel in channels:
        assert isinstance(channel.link, CountingLink)
        total += channel.link.asked
    return total


@pytest.mark.parametrize("choose", [ALT, PRI_ALT])
def test_waiting_does_not_turn_the_loop(choose: Any) -> None:
    selector = CountingSelector()
    allowed = False

    async def wait() -> tuple[int, float]:
        one, two = Chan(int), Chan(int)
        before, cpu = selector.turns, time.process_time()
        guards = [Guard(one), Guard(two, lambda: allowed), Guard(one, send=1), Guard(TIMER(0.2))]
        assert isinstance(await choose(*guards), TimerExpired)
        return selector.turns - before, time.process_time() - cpu

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        turns, cpu = runner.run(wait())
    assert turns <= 4
    assert cpu < 0.1


@pytest.mark.parametrize("choose", [ALT, PRI_ALT])
async def test_awaited_again_it_looks_only_where_something_changed(choose: Any) -> None:
    costs = {}
    for count in (2, 64, 512):
        channels = [Chan(int, transport=CountingTransport()) for _ in range(count)]
        choice = choose(*map(Guard, channels))
        for _ in range(2):
            await asyncio.gather(choice, channels[-1].send(0))
        before = asked(channels)
        for value in range(100):
            channel = channels[value * 7 % count]
            received, _ = await asyncio.gather(choice, channel.send(value))
            assert received == value
        costs[count] = asked(channels) - before
    assert costs[2] == costs[64] == costs[512] <= 300, costs


async def test_all_ready_costs_no_more() -> None:
    channels = [Chan(int, transport=CountingTransport()) for _ in range(64)]
    sending = [asyncio.create_task(channel.send(value)) for value, channel in enumerate(channels)]
    choice = ALT(*map(Guard, channels))
    received = [await choice, await choice]
    before = asked(channels)
    received += [await choice for _ in range(62)]
    assert sorted(received) == list(range(64))
    assert asked(channels) - before < 62 * 4
    await asyncio.gather(*sending)


async def test_what_changed_between_two_awaits_is_seen() -> None:
    for choose in (ALT, PRI_ALT):
        channels = [Chan(int) for _ in range(5)]
        choice = choose(*map(Guard, channels), Guard(SKIP))
        for _ in range(3):
            assert await choice is None
        sending = asyncio.create_task(channels[3].send(3))
        await channels[3].readable()
        assert await choice == 3
        await sending
        assert await choice is None
        sending = asyncio.create_task(channels[4].send(4))
        await channels[4].readable()
        sending.cancel()
        await asyncio.wait((sending,))
        assert await choice is None


async def test_an_output_guard_awaited_again_sees_receivers_that_came_meanwhile() -> None:
    for choose in (ALT, PRI_ALT):
        channels = [Chan(int) for _ in range(3)]
        choice = choose(*(Guard(channel, send=place) for place, channel in enumerate(channels)), Guard(SKIP))
        for _ in range(2):
            assert await choice is None
        receiving = asyncio.create_task(channels[2].recv())
        await channels[2].writable()
        assert await choice == 2
        assert await receiving == 2


async def test_a_choice_that_is_dropped_leaves_its_channels() -> None:
    channel = Chan(int)
    choice = ALT(Guard(channel), Guard(SKIP))
    for _ in range(3):
        await choice
    assert channel.used  # it is attached
    gone = weakref.ref(choice)
    del choice
    gc.collect()
    assert gone() is None
    assert not channel.used


def test_a_choice_goes_on_in_another_loop() -> None:
    channel, other = Chan(int), Chan(int)
    choice = ALT(Guard(channel), Guard(other))

    async def use() -> list[int]:
        values = []
        for value in range(4):
            choosing = asyncio.create_task(choice)
            await channel.writable()
            await channel.send(value)
            values.append(await choosing)
        return values

    for _ in range(2):
        assert asyncio.run(asyncio.wait_for(use(), 5)) == [0, 1, 2, 3]


async def test_choices_made_anew_leave_nothing_behind() -> None:
    channel, other = Chan(int), Chan(int)
    for value in range(100):
        await asyncio.gather(ALT(Guard(channel), Guard(other)), channel.send(value))
        await ALT(Guard(other), Guard(other, send=1), Guard(SKIP))
    assert not other.used


@pytest.mark.parametrize("choose", [ALT, PRI_ALT])
async def test_a_choice_made_anew_asks_each_channel_twice_at_most(choose: Any) -> None:
    channels = [Chan(int, transport=CountingTransport()) for _ in range(64)]
    for value in range(10):
        # given nobody who sends, the choice asks each channel, and attaches to it
        before = asked(channels)
        choosing = asyncio.create_task(choose(*map(Guard, channels)))
        await channels[value].writable()
        await channels[value].send(value)
        assert await choosing == value
        assert asked(channels) - before <= 2 * 64 + 4
        # given somebody who sends already, it only asks
        sending = asyncio.create_task(channels[value].send(value))
        await channels[value].readable()
        before = asked(channels)
        assert await choose(*map(Guard, channels)) == value
        assert asked(channels) - before <= 64 + 4
        await sending
