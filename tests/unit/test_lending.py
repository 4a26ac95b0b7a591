"""A process that waits for others lends its slot; and what it runs in its own code is a part of it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

import stbass
from stbass import PAR, PLACED_PAR, SEQ, BackendRegistry, Chan, LocalBackend, Placement, Process
from stbass._engine.limiter import Limiter, Slot
from stbass._process.context import ProcessContext
from stbass._process.sync_threads import shared_threads
from stbass.backends.pools import ThreadBackend
from stbass.errors import DeadlineExceeded
from stbass.tasklist import Process as TaskList
from tests.unit.test_placement import busy_limiters, registry_with

HERE = Placement(endpoint="here")


@pytest.fixture
def registry() -> BackendRegistry:
    """One place, for one process at a time."""
    return registry_with(here=LocalBackend(1))


@Process
async def leaf(ctx: ProcessContext) -> str | None:
    await asyncio.sleep(0)
    return ctx.parent


@Process
async def asks(ctx: ProcessContext) -> int:
    answer: int = await ctx.recv("answer")
    return answer


def outer(body: Callable[[ProcessContext], Awaitable[Any]]) -> Process:
    """A process with this code."""
    return Process(body)


async def run(registry: BackendRegistry, *processes: Any, **options: Any) -> Any:
    """Run them all in that place; a lent slot that does not come is a hang."""
    async with asyncio.timeout(20):
        result = await PLACED_PAR(*((one, HERE) for one in processes), registry=registry, **options).run()
    assert busy_limiters() == []
    return result


async def _placed(ctx: ProcessContext) -> Any:
    return (await PLACED_PAR((leaf, HERE), (leaf, HERE)).run()).value


async def _in_sequence(ctx: ProcessContext) -> Any:
    return (await SEQ(leaf, PLACED_PAR((leaf, HERE)), leaf).run()).is_ok


async def _with_own_context(ctx: ProcessContext) -> Any:
    return (await PLACED_PAR((leaf, HERE), leaf).execute(ctx)).is_ok


async def _another_process(ctx: ProcessContext) -> Any:
    return (await outer(_placed).execute(ctx.child("another"))).is_ok


async def _two_at_once(ctx: ProcessContext) -> Any:
    return [one.is_ok for one in await asyncio.gather(*(PLACED_PAR((leaf, HERE)).run() for _ in range(3)))]


async def _a_list(ctx: ProcessContext) -> Any:
    for strategy in ("parallel", "sequential"):
        tasks = TaskList("tasks", strategy)
        tasks.add_task(len, "ab")
        tasks.add_task(len, "abc", placement=HERE)
        assert await tasks.execute_async() == [2, 3]


async def _over_again(ctx: ProcessContext) -> Any:
    for _ in range(5):
        assert (await PLACED_PAR((leaf, HERE)).run()).is_ok


@pytest.mark.parametrize(
    "body", [_placed, _in_sequence, _with_own_context, _another_process, _two_at_once, _a_list, _over_again]
)
async def test_a_process_can_wait_for_others_in_its_own_place(registry: BackendRegistry, body: Any) -> None:
    result = await run(registry, outer(body), outer(body))
    assert result.is_ok, [failure.detailed for failure in result.failures]


async def _one_after_another_at_once(ctx: ProcessContext) -> Any:
    async def later(turns: int) -> Any:
        for _ in range(turns):
            await asyncio.sleep(0)
        return await PLACED_PAR((leaf, HERE), leaf).run()

    # Some begin to wait while others are over, or wait for the place themselves.
    return [one.is_ok for one in await asyncio.gather(*(later(turns) for turns in (0, 1, 5, 20, 50)))]


async def _a_run(ctx: ProcessContext) -> Any:
    return (await (await stbass.start(leaf, placement=HERE)).result()).is_ok


async def _events_of_a_run(ctx: ProcessContext) -> Any:
    run = await stbass.start(leaf, placement=HERE)
    return [event.kind async for event in run.events()] == ["queued", "started", "ended"]


async def _a_person_s_answer(ctx: ProcessContext) -> Any:
    run = await stbass.start(asks.with_channels(answer=Chan(int)), placement=HERE)
    await run.send("answer", 7)
    return (await run.result()).value == 7


@pytest.mark.parametrize(
    "body", [_one_after_another_at_once, _a_run, _events_of_a_run, _a_person_s_answer], ids=lambda body: body.__name__
)
async def test_whatever_it_waits_for_in_its_own_place_comes(registry: BackendRegistry, body: Any) -> None:
    result = await run(registry, *[outer(body)] * 3)
    assert result.value in ([True] * 3, [[True] * 5] * 3)


async def test_what_is_left_behind_keeps_no_place(registry: BackendRegistry) -> None:
    gate, left = asyncio.Event(), []
    registry.register("there", LocalBackend())

    @Process
    async def waits(ctx: ProcessContext) -> None:
        await gate.wait()

    async def leaves(ctx: ProcessContext) -> None:
        left.append(asyncio.ensure_future(PLACED_PAR((waits, Placement(endpoint="there"))).run()))
        await asyncio.sleep(0)

    await run(registry, outer(leaves))
    gate.set()
    await asyncio.gather(*left)
    await run(registry, leaf)


async def test_one_that_is_cancelled_while_it_waits_for_its_place_again_gives_it_back(
    registry: BackendRegistry,
) -> None:
    gate, there = asyncio.Event(), asyncio.Event()

    @Process
    async def holds(ctx: ProcessContext) -> None:
        there.set()
        await gate.wait()

    async with asyncio.timeout(20):
        waiting = asyncio.ensure_future(PLACED_PAR((outer(_placed), HERE), registry=registry).run())
        holding = asyncio.ensure_future(PLACED_PAR((holds, HERE), registry=registry).run())
        await there.wait()
        for _ in range(50):  # until what it has waited for is over
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        gate.set()
        await holding
    await run(registry, leaf)


async def test_sync_code_can_too(registry: BackendRegistry) -> None:
    @Process
    def waits(ctx: ProcessContext) -> list[Any]:
        return PLACED_PAR((leaf, HERE), (leaf, HERE)).run_sync().value

    assert (await run(registry, waits, waits)).value == [["PLACED_PAR"] * 2] * 2
    assert shared_threads().abandoned.value == 0


async def test_it_goes_on_in_turn(registry: BackendRegistry) -> None:
    order: list[str] = []

    @Process
    async def waits(ctx: ProcessContext) -> None:
        order.append(f"{ctx.process_name} waits")
        await PLACED_PAR((leaf, HERE)).run()
        order.append(f"{ctx.process_name} goes on")

    await run(registry, *(waits.with_name(name) for name in "abc"))
    # All three had begun before the first of those that they wait for had its turn.
    assert order == [f"{name} {what}" for what in ("waits", "goes on") for name in "abc"]


async def test_never_more_than_the_limit_run(registry: BackendRegistry) -> None:
    inside = most = 0

    def comes(number: int) -> None:
        nonlocal inside, most
        inside += number
        most = max(most, inside)

    @Process
    async def works(ctx: ProcessContext) -> None:
        comes(1)
        await asyncio.sleep(0.001)
        comes(-1)

    async def waits(ctx: ProcessContext) -> None:
        for _ in range(3):
            comes(1)
            await asyncio.sleep(0.001)
            comes(-1)
            await PLACED_PAR((works, HERE), works, (PAR(works, PLACED_PAR((works, HERE))), HERE)).run()

    # Those that are not placed run beside each other in the place of their composition.
    await run(registry, *[outer(waits)] * 4)
    assert most <= 2


async def test_between_stages_that_run_in_its_place_nobody_comes(registry: BackendRegistry) -> None:
    order: list[str] = []

    @Process
    async def stage(ctx: ProcessContext) -> None:
        order.append(ctx.process_name)
        await asyncio.sleep(0)

    def named(name: str) -> SEQ:
        one, two, three = (stage.with_name(f"{name}{number}") for number in range(3))
        return SEQ(one, PAR(two, SEQ(two)), three)

    await run(registry, named("a"), named("b"))
    assert order == ["a0", "a1", "a1", "a2", "b0", "b1", "b1", "b2"]


async def test_one_that_is_cancelled_while_it_waits_for_its_turn_ends_at_once(registry: BackendRegistry) -> None:
    gate, cleaned = asyncio.Event(), asyncio.Event()

    @Process
    async def holds(ctx: ProcessContext) -> None:
        await gate.wait()

    async def waits(ctx: ProcessContext) -> None:
        try:
            # When this is over, `holds` has the slot.
            await PLACED_PAR((leaf, HERE)).run()
        finally:
            cleaned.set()

    running = asyncio.ensure_future(PLACED_PAR((outer(waits), HERE), (holds, HERE), registry=registry).run())
    waiting = asyncio.ensure_future(PLACED_PAR((outer(waits), HERE), registry=registry, deadline=0.2).run())
    result = await asyncio.wait_for(waiting, 20)
    assert isinstance(result.failures[0].error, DeadlineExceeded)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert cleaned.is_set()
    assert busy_limiters() == []


# What it is a part of ------------------------------------------------------------------------------


async def test_a_composition_in_a_process_inherits_what_is_around_it(registry: BackendRegistry) -> None:
    seen: list[ProcessContext] = []

    @Process
    async def notes(ctx: ProcessContext) -> None:
        seen.append(ctx)

    async def runs(ctx: ProcessContext) -> None:
        assert (await PAR(notes, SEQ(notes)).run()).is_ok
        assert (await PLACED_PAR((notes, HERE), deadline=1000).run()).is_ok
        assert (await PAR(notes, deadline=5).run()).is_ok

    assert (await run(registry, outer(runs).with_name("agent"), deadline=50)).is_ok
    assert [one.parent for one in seen] == ["PAR", "SEQ", "PLACED_PAR", "PAR"]
    assert all(one.remaining is not None and 5 < one.remaining <= 50 for one in seen[:3])
    assert seen[3].remaining is not None
    assert seen[3].remaining <= 5


async def test_its_own_registry_wins(registry: BackendRegistry) -> None:
    other = registry_with(here=ThreadBackend(1, name="other"))

    async def runs(ctx: ProcessContext) -> Any:
        result = await PLACED_PAR((leaf, HERE), registry=other).run()
        assert result.results[0].run is not None
        return result.results[0].run.worker

    assert (await run(registry, outer(runs))).value == ["other"]


async def test_outside_of_a_process_nothing_is_inherited() -> None:
    assert (await PAR(leaf).run()).value == ["PAR"]

    async def runs(ctx: ProcessContext) -> None:
        """Nothing."""

    await PAR(outer(runs), deadline=5).run()

    @Process
    async def free(ctx: ProcessContext) -> Any:
        return ctx.remaining

    assert (await PAR(free).run()).value == [None]


# The slot itself -----------------------------------------------------------------------------------


@pytest.fixture
def limiter() -> Iterator[Limiter]:
    made = Limiter(1)
    yield made
    assert (made.inside, list(made.waiting)) == (0, [])


async def test_those_who_wait_for_one_slot_get_it_together(limiter: Limiter) -> None:
    first, shared = Slot(limiter), Slot(limiter)
    await first.enter()
    waiting = [asyncio.ensure_future(shared.enter()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.gather(waiting[0], return_exceptions=True)
    first.leave()
    await asyncio.wait_for(asyncio.gather(*waiting[1:]), 20)
    assert (shared.users, limiter.inside) == (2, 1)
    shared.leave()
    shared.leave()


async def test_a_slot_that_is_closed_lets_go_what_it_left_behind(limiter: Limiter) -> None:
    first, slot = Slot(limiter), Slot(limiter)
    await first.enter()
    behind = asyncio.ensure_future(slot.enter())
    await asyncio.sleep(0)
    slot.close()
    await asyncio.wait_for(behind, 20)
    first.close()
    assert limiter.inside == 0
    slot.leave()
    first.leave()
    # Nor is anything left where they were in the meantime.
    assert not any(one.inside for one in gc.get_objects() if type(one) is Limiter)


async def test_who_is_in_a_hurry_does_not_wait(limiter: Limiter) -> None:
    first, slot = Slot(limiter), Slot(limiter)
    await first.enter()
    waiting = asyncio.ensure_future(slot.enter())
    await asyncio.sleep(0)
    slot.enter_now()
    await asyncio.wait_for(waiting, 20)
    assert (slot.users, limiter.inside) == (2, 2)
    for one in (slot, slot, first):
        one.leave()
