"""TIMER and DEADLINE on their own."""

from __future__ import annotations

import asyncio
import math
import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from stbass.process import Process, ProcessContext
from stbass.seq import SEQ
from stbass.timer import DEADLINE, TIMER, TimerExpired


async def test_a_timer_waits_so_long() -> None:
    timer = TIMER(seconds=0.03, name="patience")
    begun = time.monotonic()
    expired = await timer
    assert time.monotonic() - begun >= 0.03
    assert expired.timer_name == "patience"
    assert expired.elapsed >= timedelta(seconds=0.03)
    assert expired.deadline - expired.started_at == timedelta(seconds=0.03)
    assert expired.started_at.tzinfo is not None
    assert expired.last_checkpoint is None


async def test_a_timer_tells_how_far_it_is() -> None:
    timer = TIMER(60)
    assert (timer.seconds, timer.remaining, timer.is_expired) == (60, timedelta(seconds=60), False)
    waiting = asyncio.ensure_future(timer)
    await asyncio.sleep(0)
    assert timedelta(seconds=50) < timer.remaining < timedelta(seconds=60)
    waiting.cancel()
    await asyncio.wait((waiting,))
    assert timer.is_expired is False


async def test_a_timer_counts_anew() -> None:
    timer = TIMER(0.01)
    for _ in range(2):
        assert (await timer).elapsed >= timedelta(seconds=0.01)
        assert (timer.is_expired, timer.remaining) == (True, timedelta(0))
    waiting = asyncio.ensure_future(timer)
    await asyncio.sleep(0)
    assert timer.is_expired is False
    await waiting


def test_what_remains_can_be_asked_outside_of_a_loop() -> None:
    timer = TIMER(0.001)
    asyncio.run(asyncio.wait_for(timer, 5))
    assert timer.remaining == timedelta(0)
    assert TIMER(math.inf).remaining == timedelta.max


@pytest.mark.parametrize("seconds", [-1, math.nan, -math.inf])
def test_a_timer_needs_a_length_of_time(seconds: float) -> None:
    with pytest.raises(ValueError, match="0 or more"):
        TIMER(seconds=seconds)


def test_names_are_made_up() -> None:
    assert TIMER(1).name != TIMER(1).name
    assert DEADLINE(datetime.now()).name.startswith("deadline_")
    assert "60" in repr(TIMER(60))
    assert "datetime" in repr(DEADLINE(datetime.now()))


@pytest.mark.parametrize("zone", [None, UTC, timezone(timedelta(hours=-7))])
async def test_a_deadline_is_a_point_in_time(zone: Any) -> None:
    target = datetime.now(zone) + timedelta(seconds=0.05)
    deadline = DEADLINE(target, name="end")
    assert [deadline.is_expired] == [False]
    assert timedelta(0) < deadline.remaining <= timedelta(seconds=0.05)
    assert 0 < deadline.seconds <= 0.05
    expired = await deadline
    assert isinstance(expired, TimerExpired)
    assert (expired.deadline, expired.timer_name) == (target, "end")
    assert expired.started_at.tzinfo == target.tzinfo
    assert expired.started_at < target
    assert deadline.is_expired
    assert deadline.seconds == 0
    # It has passed: nothing more to wait for.
    assert (await deadline).elapsed < timedelta(seconds=0.04)
    assert deadline.remaining < timedelta(0)


def test_a_deadline_passes_without_being_waited_for() -> None:
    assert DEADLINE(datetime.now(UTC) - timedelta(hours=1)).is_expired
    assert not DEADLINE(datetime.now(UTC) + timedelta(hours=1)).is_expired


@pytest.mark.parametrize("target", [5, 5.0, "2030-01-01", None])
def test_a_deadline_is_a_datetime(target: Any) -> None:
    with pytest.raises(TypeError, match="TIMER"):
        DEADLINE(target)


async def test_the_checkpoint_of_the_running_process() -> None:
    @Process
    async def waits(ctx: ProcessContext) -> Any:
        ctx.checkpoint("step 2")
        return (await TIMER(0)).last_checkpoint

    assert (await SEQ(waits).run()).value == "step 2"
