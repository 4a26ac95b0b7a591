"""The conformance checks themselves: they find what is wrong, and name it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from stbass._channels.memory import MemoryLink
from stbass.testing import check_transport
from stbass.testing.transports import TRANSPORT_CHECKS
from stbass.transports import Arm, Happened, LinkSpec, MemoryTransport


class ForgetsToWithdraw(MemoryLink):
    """A cancelled offer stays on offer."""

    async def withdraw(self, waiter: asyncio.Future[Any]) -> Happened | None:
        happened = await super().withdraw(waiter)
        if happened is None and not self.closed:
            self._buffer.append(1)
        return happened


class SleepsThroughTheClose(MemoryLink):
    """A close wakes nobody."""

    def close(self) -> None:
        self.closed = True


class NeverTellsArms(MemoryLink):
    """A choice is not told that a sender came."""

    def attach(self, arm: Arm) -> None:
        return None

    def detach(self, arm: Arm) -> None:
        return None


class Doubles(MemoryLink):
    """A value comes twice."""

    doubled = False

    def try_take(self) -> Any:
        value = super().try_take()
        if value in (10, 11) and not self.doubled:
            self.doubled = True
            self._buffer.append(value)
        return value


# A task that nobody keeps may be gone before anybody looks.
LEFT: list[asyncio.Future[Any]] = []


class LeavesTask(MemoryLink):
    """Something goes on running after the end."""

    def close(self) -> None:
        super().close()
        LEFT.append(asyncio.ensure_future(asyncio.Event().wait()))


class Holds(MemoryTransport):
    def __init__(self, kind: type[MemoryLink]) -> None:
        self.kind = kind

    def link(self, spec: LinkSpec) -> MemoryLink:
        return self.kind(spec)


@pytest.mark.parametrize(
    ("kind", "name", "reason"),
    [
        (ForgetsToWithdraw, "cancelled_send_delivers_nothing", "still offered"),
        (SleepsThroughTheClose, "close_wakes_the_receiver", "TimeoutError"),
        (NeverTellsArms, "a_choice_is_woken", "TimeoutError"),
        (Doubles, "values_in_order", "received"),
        (LeavesTask, "nothing_is_a_value", "tasks are left"),
    ],
)
async def test_it_names_what_failed(kind: type[MemoryLink], name: str, reason: str) -> None:
    with pytest.raises(ExceptionGroup, match=f"1 of 1 checks failed: {name}") as caught:
        await check_transport(lambda: Holds(kind), only=(name,), rounds=30, seconds=0.5)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    LEFT.clear()
    (failure,) = caught.value.exceptions
    assert isinstance(failure, AssertionError)
    assert str(failure).startswith(name)
    assert reason in str(failure)
    assert failure.__cause__ is not None


async def test_it_takes_what_makes_a_transport_in_any_form() -> None:
    closed: list[str] = []

    class Closes(MemoryTransport):
        async def aclose(self) -> None:
            closed.append("transport")

    async def later() -> Closes:
        return Closes()

    @asynccontextmanager
    async def around() -> AsyncIterator[Closes]:
        yield Closes()
        closed.append("context")

    for make in (Closes, later, around):
        await check_transport(make, only=("receiver_first",))
    assert closed == ["transport", "transport", "context"]


async def test_it_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match=r"no such check: nonsense; there are .*random_cancellations"):
        await check_transport(MemoryTransport, only=("nonsense",))
    assert len(TRANSPORT_CHECKS) >= 30
