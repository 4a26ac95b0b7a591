"""Choice: what wins, what it gives, and what is left as it was."""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import stbass.errors
from stbass._channels.memory import MemoryLink, MemoryTransport
from stbass.alt import ALT, PRI_ALT, SKIP, AllGuardsDisabledError, Guard
from stbass.channel import (
    Chan,
    ChannelClosedError,
    ChannelProtocolError,
    ChannelTopologyError,
    ChannelTypeError,
    SequentialProtocol,
)
from stbass.timer import DEADLINE, TIMER, TimerExpired
from stbass.transports import LinkSpec

BOTH = pytest.mark.parametrize("choose", [ALT, PRI_ALT])


async def offering(channel: Chan[Any], value: Any) -> asyncio.Task[None]:
    """A task that waits in this send."""
    task = asyncio.create_task(channel.send(value))
    await channel.readable()
    return task


async def cancelled(*tasks: asyncio.Future[Any]) -> None:
    """Cancel these, and wait for their end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# What wins ---------------------------------------------------------------------------------------


@BOTH
async def test_the_ready_one_wins_and_only_it_moves(choose: Any) -> None:
    one, two, three = Chan(int), Chan(int), Chan(int)
    waiting = [await offering(two, 2), await offering(three, 3)]
    value = await choose(Guard(one), Guard(two), Guard(three))
    assert value in (2, 3)
    await waiting[value - 2]
    assert not waiting[3 - value].done()
    assert await (three if value == 2 else two).recv() == 5 - value
    await asyncio.gather(*waiting)


@BOTH
async def test_it_waits_for_whatever_comes(choose: Any) -> None:
    channels = [Chan(int) for _ in range(3)]
    for value, channel in enumerate(channels):
        choosing = asyncio.create_task(choose(*map(Guard, channels)))
        await channel.writable()
        await channel.send(value)
        assert await choosing == value
    # Nothing of it is left in the channels.
    assert [channel.stats.waiting for channel in channels] == [None] * 3


async def test_alt_is_fair() -> None:
    for again in (False, True):
        channels = [Chan(int) for _ in range(4)]
        ready = channels[1:]
        choice = ALT(*map(Guard, channels))
        won: Counter[int] = Counter()
        waiting = {place: await offering(channel, place) for place, channel in enumerate(ready)}
        for _ in range(3000):
            place = await (choice if again else ALT(*map(Guard, channels)))
            won[place] += 1
            await waiting[place]
            waiting[place] = await offering(ready[place], place)
        # Each 1000 times, give or take: a fair one is outside of 7 standard deviations once in 10**11 runs.
        assert all(abs(count - 1000) < 7 * (3000 * 1 / 3 * 2 / 3) ** 0.5 for count in won.values()), won
        await cancelled(*waiting.values())


async def test_pri_alt_takes_the_first_in_order() -> None:
    for again in (False, True):
        channels = [Chan(int) for _ in range(4)]
        choice = PRI_ALT(*map(Guard, channels))
        tasks = [await offering(channels[place], place) for place in (3, 1, 2)]
        order = [await (choice if again else PRI_ALT(*map(Guard, channels))) for _ in range(3)]
        assert order == [1, 2, 3]
        await asyncio.gather(*tasks)


async def test_timers_have_their_place_in_the_order() -> None:
    channel = Chan(int)
    sending = await offering(channel, 1)
    assert await PRI_ALT(Guard(channel), Guard(TIMER(0))) == 1
    await sending
    sending = await offering(channel, 2)
    assert isinstance(await PRI_ALT(Guard(TIMER(0)), Guard(channel)), TimerExpired)
    assert not sending.done()
    await cancelled(sending)


@BOTH
async def test_skip_wins_only_when_nothing_else_is_ready(choose: Any) -> None:
    channel = Chan(int)
    assert await choose(Guard(SKIP, handler=lambda: "nothing"), Guard(channel)) == "nothing"
    for _ in range(20):
        sending = await offering(channel, 1)
        assert await choose(Guard(SKIP), Guard(channel)) == 1
        await sending
    assert await choose(Guard(SKIP)) is None


@BOTH
async def test_chosen_tells_which_guard_won(choose: Any) -> None:
    channel = Chan(int)
    guards = [Guard(channel), Guard(SKIP)]
    choice = choose(*guards)
    assert [choice.chosen] == [None]
    await choice
    assert choice.chosen is guards[1]
    sending = await offering(channel, 1)
    await choice
    assert choice.chosen is guards[0]
    await sending


# Preconditions -----------------------------------------------------------------------------------


@BOTH
async def test_a_false_precondition_takes_a_guard_out(choose: Any) -> None:
    one, two = Chan(int), Chan(int)
    for false in (False, lambda: False):
        waiting = [await offering(one, 1), await offering(two, 2)]
        assert await choose(Guard(one, false), Guard(two, precondition=lambda: True)) == 2
        assert not waiting[0].done()
        await cancelled(*waiting)


@BOTH
async def test_all_disabled(choose: Any) -> None:
    channel = Chan(int)
    assert AllGuardsDisabledError is stbass.errors.AllGuardsDisabledError
    with pytest.raises(AllGuardsDisabledError, match="no guards"):
        await choose()
    with pytest.raises(AllGuardsDisabledError, match="all its 2 guards"):
        await choose(Guard(channel, False), Guard(SKIP, False))
    # Callables could change their mind when a partner comes; but for timers nobody comes.
    with pytest.raises(AllGuardsDisabledError):
        await choose(Guard(TIMER(1), lambda: False), Guard(SKIP, lambda: False))


@BOTH
async def test_a_precondition_is_asked_again_when_a_partner_comes(choose: Any) -> None:
    channel = Chan(int)
    allowed = False
    choosing = asyncio.create_task(choose(Guard(channel, lambda: allowed)))
    await asyncio.sleep(0)
    sending = await offering(channel, 1)
    await asyncio.sleep(0)
    assert not choosing.done()
    allowed = True
    await cancelled(sending)
    await channel.send(2)
    assert await choosing == 2


@BOTH
async def test_recheck_asks_again(choose: Any) -> None:
    channel = Chan(int)
    allowed = False
    choice = choose(Guard(channel, lambda: allowed))
    choice.recheck()  # nobody waits: nothing to do
    sending = await offering(channel, 1)
    choosing = asyncio.create_task(choice)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not choosing.done()
    allowed = True
    choice.recheck()
    assert await choosing == 1
    await sending


async def test_a_precondition_that_raises_ends_the_choice() -> None:
    channel = Chan(int)

    def broken() -> bool:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await ALT(Guard(channel, broken), Guard(channel))
    assert not channel.used


async def test_shut_choices_that_face_each_other_do_not_spin() -> None:
    # Given two choices, each with the guard shut that the other has open.
    one, two = Chan(int), Chan(int)
    asked = 0
    allowed = False

    def ask() -> bool:
        nonlocal asked
        asked += 1
        return allowed

    left = ALT(Guard(one, ask), Guard(two))
    right = ALT(Guard(one, send=1), Guard(two, ask, send=2))
    tasks = [asyncio.create_task(left), asyncio.create_task(right)]
    for _ in range(50):
        await asyncio.sleep(0)
    assert asked < 10
    allowed = True
    left.recheck()
    assert set(await asyncio.gather(*tasks)) <= {1, 2}


# Handlers ----------------------------------------------------------------------------------------


@BOTH
async def test_handlers(choose: Any) -> None:
    async def later(value: int) -> str:
        await asyncio.sleep(0)
        return f"later {value}"

    class Callable:
        def __call__(self, value: int) -> str:
            return f"object {value}"

    handlers: list[tuple[Any, Any]] = [
        (None, 1),
        (lambda: "none", "none"),
        (lambda value: value + 1, 2),
        (lambda value=5: value, 1),
        (lambda *values: values, (1,)),
        (lambda **named: named, {}),
        (later, "later 1"),
        (Callable(), "object 1"),
        (str, "1"),
        (hash, 1),
    ]
    for handler, expected in handlers:
        channel = Chan(int)
        sending = await offering(channel, 1)
        assert await choose(Guard(channel, handler=handler)) == expected
        await sending


async def test_a_handler_that_raises_has_its_value() -> None:
    channel = Chan(int)
    sending = await offering(channel, 1)
    with pytest.raises(ZeroDivisionError):
        await ALT(Guard(channel, handler=lambda value: value / 0))
    await sending
    assert channel.stats.received == 1


# Output guards -----------------------------------------------------------------------------------


@BOTH
async def test_an_output_guard_wants_a_receiver(choose: Any) -> None:
    channel = Chan(int)
    assert await choose(Guard(channel, send=1), Guard(SKIP)) is None
    receiving = asyncio.create_task(channel.recv())
    await channel.writable()
    assert await choose(Guard(channel, send=2, handler=lambda value: ("sent", value))) == ("sent", 2)
    assert await receiving == 2
    choosing = asyncio.create_task(choose(Guard(channel, send=3), Guard(TIMER(60))))
    assert await channel.recv() == 3
    assert await choosing == 3
    assert channel.stats.sent == 2


async def test_none_can_be_sent() -> None:
    channel = Chan(None)
    receiving = asyncio.create_task(channel.recv())
    await channel.writable()
    assert await ALT(Guard(channel, send=None)) is None
    await receiving
    assert channel.stats.sent == 1


async def test_an_output_guard_into_a_buffer_is_ready_while_there_is_room() -> None:
    channel = Chan(int, capacity=1)
    assert await ALT(Guard(channel, send=1), Guard(SKIP)) == 1
    assert await ALT(Guard(channel, send=2), Guard(SKIP)) is None
    choosing = asyncio.create_task(ALT(Guard(channel, send=3)))
    await asyncio.sleep(0)
    assert [await channel.recv(), await choosing, await channel.recv()] == [1, 3, 3]


async def test_an_output_guard_checks_its_value_before_anybody_sees_it() -> None:
    one, two = Chan(int), Chan(float)
    with pytest.raises(ChannelTypeError):
        await ALT(Guard(one, send="x"), Guard(SKIP))
    receiving = asyncio.create_task(two.recv())
    await two.writable()
    assert await ALT(Guard(two, send=1), Guard(one)) == 1.0
    assert isinstance(await receiving, float)


async def test_an_output_guard_keeps_to_the_sequence() -> None:
    channel = Chan(SequentialProtocol(int, str))
    for value in (1, "x"):
        choosing = asyncio.create_task(ALT(Guard(channel, send=value)))
        assert await channel.recv() == value
        await choosing
    with pytest.raises(ChannelProtocolError):
        await ALT(Guard(channel, send=2), Guard(SKIP))


async def test_a_sequence_is_offered_one_value_at_a_time() -> None:
    channel = Chan(SequentialProtocol(int, str))
    sending = await offering(channel, 1)
    with pytest.raises(ChannelTopologyError, match="one is offered at a time"):
        await ALT(Guard(channel, send=1))
    assert await channel.recv() == 1
    await sending
    # While a choice offers the second value, a send has to wait for its turn, and then finds the sequence complete.
    choosing = asyncio.create_task(ALT(Guard(channel, send="x")))
    await channel.readable()
    late = asyncio.create_task(channel.send("y"))
    await asyncio.sleep(0)
    assert await channel.recv() == "x"
    await choosing
    with pytest.raises(ChannelProtocolError):
        await late


class Slow(MemoryLink):
    """A link that is bound when it is let."""

    asked, may = asyncio.Event(), asyncio.Event()

    async def bound(self) -> None:
        self.asked.set()
        await self.may.wait()


class SlowTransport(MemoryTransport):
    def link(self, spec: LinkSpec) -> MemoryLink:
        return Slow(spec)


async def test_a_channel_may_move_while_an_offer_of_the_choice_is_prepared() -> None:
    # given a choice that prepares what it offers, and a channel beside it that nobody uses yet
    Slow.asked, Slow.may = asyncio.Event(), asyncio.Event()
    offered, moving = Chan(SequentialProtocol(int, str), transport=SlowTransport()), Chan(int)
    choosing = asyncio.create_task(ALT(Guard(moving), Guard(offered, send=1)))
    await Slow.asked.wait()
    # when that channel moves to another transport, and somebody sends there
    moving.promote(MemoryTransport())
    Slow.may.set()
    async with asyncio.timeout(30):
        await moving.send(7)
        # then the choice has it
        assert await choosing == 7


# Two choices -------------------------------------------------------------------------------------


@BOTH
async def test_two_choices_meet_once(choose: Any) -> None:
    one, two = Chan(str), Chan(str)
    for _ in range(50):
        left = asyncio.create_task(choose(Guard(one, send="one"), Guard(two)))
        right = asyncio.create_task(choose(Guard(one), Guard(two, send="two")))
        assert await left == await right
    assert one.stats.sent + two.stats.sent == 50
    assert one.stats.waiting is two.stats.waiting is None


async def test_two_choices_that_are_awaited_again_and_again() -> None:
    one, two = Chan(str), Chan(str)
    left = ALT(Guard(one, send="one"), Guard(two))
    right = ALT(Guard(one), Guard(two, send="two"))

    async def repeat(choice: ALT) -> list[str]:
        return [await choice for _ in range(200)]

    assert len({tuple(values) for values in await asyncio.gather(repeat(left), repeat(right))}) == 1


async def test_a_choice_does_not_meet_itself() -> None:
    channel = Chan(int)
    choice = ALT(Guard(channel), Guard(channel, send=1), Guard(TIMER(0.01)))
    for _ in range(3):
        assert isinstance(await choice, TimerExpired)
    assert channel.stats.sent == 0


@BOTH
async def test_readable_and_writable_see_a_choice(choose: Any) -> None:
    for again in (False, True):
        channel = Chan(int)
        reading, writing = choose(Guard(channel)), choose(Guard(channel, send=1))
        if again:
            for _ in range(3):
                await asyncio.gather(reading, writing)
        async with asyncio.timeout(5):
            for choice, ready in ((writing, channel.readable), (reading, channel.writable)):
                watching = asyncio.create_task(ready())
                await asyncio.sleep(0)
                assert not watching.done()
                choosing = asyncio.create_task(choice)
                await watching
                await cancelled(choosing)


# The end -----------------------------------------------------------------------------------------


@BOTH
async def test_a_closed_channel_is_ready_and_raises(choose: Any) -> None:
    one, two = Chan(int, name="one"), Chan(int, name="two")
    choosing = asyncio.create_task(choose(Guard(one), Guard(two)))
    await two.writable()
    two.close()
    with pytest.raises(ChannelClosedError, match="two"):
        await choosing
    guard = Guard(two)
    choice = choose(Guard(one), guard)
    for _ in range(3):
        with pytest.raises(ChannelClosedError):
            await choice
        assert choice.chosen is guard
    with pytest.raises(ChannelClosedError):
        await choose(Guard(two, send=1), Guard(SKIP))


async def test_a_closed_buffer_is_emptied_first() -> None:
    channel = Chan(int, capacity=1)
    await channel.send(1)
    channel.close()
    assert await ALT(Guard(channel)) == 1
    with pytest.raises(ChannelClosedError):
        await ALT(Guard(channel))


# Cancellation ------------------------------------------------------------------------------------


@BOTH
async def test_a_cancelled_choice_takes_nothing(choose: Any) -> None:
    for again in (False, True):
        one, two = Chan(int), Chan(int)
        choice = choose(Guard(one), Guard(two))
        if again:
            for _ in range(2):
                await asyncio.gather(choice, one.send(0))
        choosing = asyncio.create_task(choice)
        await one.writable()
        choosing.cancel()
        # Not even before the cancelled task has run.
        sending = asyncio.create_task(one.send(1))
        await asyncio.wait((choosing,))
        assert choosing.cancelled()
        assert await one.recv() == 1
        await sending


@BOTH
async def test_a_choice_cancelled_with_its_value_in_its_hand_returns_it(choose: Any) -> None:
    channel = Chan(int)
    choosing = asyncio.create_task(choose(Guard(channel, handler=lambda value: value + 1), Guard(TIMER(60))))
    await channel.writable()
    await channel.send(1)
    choosing.cancel()
    assert await choosing == 2


async def test_an_async_handler_is_cancelled_instead() -> None:
    channel = Chan(int)
    seen: list[int] = []

    async def handle(value: int) -> None:
        seen.append(value)
        await asyncio.Event().wait()

    choosing = asyncio.create_task(ALT(Guard(channel, handler=handle)))
    await channel.writable()
    await channel.send(1)
    choosing.cancel()
    await asyncio.wait((choosing,))
    assert choosing.cancelled()
    assert seen == [1]


# A coroutine that can be awaited again -----------------------------------------------------------


@BOTH
async def test_it_goes_where_a_coroutine_goes(choose: Any) -> None:
    channel = Chan(int)
    choice = choose(Guard(channel), Guard(SKIP, handler=lambda: "skip"))
    assert inspect.isawaitable(choice)
    assert asyncio.iscoroutine(choice)
    assert await choice == "skip"
    assert await asyncio.create_task(choice) == "skip"
    assert await asyncio.wait_for(choice, 5) == "skip"
    assert list(await asyncio.gather(choice)) == ["skip"]
    async with asyncio.TaskGroup() as group:
        task = group.create_task(choice)
    assert task.result() == "skip"
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(choose(Guard(channel)), 0.001)
    assert choose.__name__ in repr(choice)


async def test_two_tasks_cannot_await_one_choice() -> None:
    channel = Chan(int)
    choice = ALT(Guard(channel))
    first = asyncio.create_task(choice)
    await channel.writable()
    with pytest.raises(RuntimeError, match="waiting already"):
        await choice
    await channel.send(1)
    assert await first == 1


async def test_a_coroutine_can_be_closed() -> None:
    channel = Chan(int)
    choice = ALT(Guard(channel))
    choice.close()
    choice.send(None)  # it waits now
    assert channel.used
    choice.close()
    assert not channel.used


# Guards ------------------------------------------------------------------------------------------


def test_a_guard_is_of_something_that_can_be_waited_for() -> None:
    for wrong in (3, None, asyncio.Event()):
        with pytest.raises(TypeError, match="a guard waits for"):
            Guard(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="sent to"):
        Guard(TIMER(1), send=1)
    assert Guard(SKIP).is_eligible
    assert not Guard(SKIP, precondition=lambda: False).is_eligible


async def test_a_choice_is_of_guards() -> None:
    with pytest.raises(TypeError, match="takes guards"):
        await ALT(Chan(int))  # type: ignore[arg-type]


async def test_timers_as_guards() -> None:
    channel = Chan(int)
    timer = TIMER(seconds=0.01, name="patience")
    expired = await ALT(Guard(channel), Guard(timer))
    assert isinstance(expired, TimerExpired)
    assert expired.timer_name == "patience"
    assert timer.is_expired
    for zone in (None, UTC):
        deadline = DEADLINE(datetime.now(zone) + timedelta(seconds=0.01))
        assert await PRI_ALT(Guard(channel), Guard(deadline, handler=lambda e: e.deadline)) == deadline.target
        assert deadline.is_expired
    assert isinstance(await ALT(Guard(channel), Guard(DEADLINE(datetime.now() - timedelta(days=1)))), TimerExpired)


async def test_the_nearest_timer_wins() -> None:
    won = await ALT(*(Guard(TIMER(seconds, name=str(seconds))) for seconds in (60, 0.01, float("inf"), 30)))
    assert won.timer_name == "0.01"


async def test_a_timer_counts_anew_in_each_choice() -> None:
    channel = Chan(int)
    choice = ALT(Guard(channel), Guard(timer := TIMER(1.0)))

    async def write() -> None:
        for value in range(4):
            await TIMER(0.3)
            await channel.send(value)

    async with asyncio.TaskGroup() as group:
        group.create_task(write())
        assert [await choice for _ in range(4)] == [0, 1, 2, 3]
        assert not timer.is_expired
        assert isinstance(await choice, TimerExpired)
