"""What the conformance checks of transports work with."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, TypeAlias, TypeVar

from stbass._channels.transport import Transport
from stbass.alt import PRI_ALT, SKIP, Guard
from stbass.channel import Chan
from stbass.errors import NotTransportable, StbassError
from stbass.testing._checks import name_of_check, require

__all__ = ["TRANSPORT_CHECKS", "Make", "TransportBench", "TransportCheck", "check", "is_empty", "raises", "skipped"]

R = TypeVar("R")

Make: TypeAlias = Callable[[], Transport | Awaitable[Transport] | AbstractAsyncContextManager[Transport]]


class TransportBench:
    """What a check works with: channels on the transport, each as its two ends.

    Where a transport can share its channels, every channel is made on one instance and opened on another, as if in two
    Python processes; where it cannot, both ends are the same object.

    Args:
        make: gives a new instance of the transport.
        rng: where all that is random comes from.
        rounds: how many values go through a check that counts.
        stack: gives back at the end what was made.
    """

    def __init__(self, make: Make, rng: random.Random, rounds: int, stack: AsyncExitStack) -> None:
        self._make = make
        self._stack = stack
        self._tasks: list[asyncio.Future[Any]] = []
        self.rng = rng
        self.rounds = rounds
        self.here: Transport
        self.there: Transport
        self.shares = False
        """Whether the two ends are on two instances."""
        self.pause = 0.0
        """Seconds that one rendezvous takes."""

    async def start(self) -> None:
        """Make the transport, and find out how it behaves."""
        self.here = self.there = await self.another()
        try:
            Chan(int, transport=self.here).share()
        except NotTransportable:
            self.shares = False
        else:
            self.shares = True
            self.there = await self.another()
        # So that pauses fall into the middle of a rendezvous.
        writer, reader = self.ends()
        begun = time.perf_counter()
        for value in range(10):
            await asyncio.gather(writer.send(value), reader.recv())
        self.pause = (time.perf_counter() - begun) / 10
        await writer.aclose()

    async def another(self) -> Transport:
        """One more instance of the transport, which is closed at the end."""
        made = self._make()
        if isinstance(made, AbstractAsyncContextManager):
            return await self._stack.enter_async_context(made)
        transport = made if isinstance(made, Transport) else await made
        require(isinstance(transport, Transport), f"make() gave {transport!r}, which is not a Transport")
        self._stack.push_async_callback(transport.aclose)
        return transport

    def ends(self, type_spec: Any = int, *, capacity: int = 0, name: str | None = None) -> tuple[Chan[Any], Chan[Any]]:
        """The writer's and the reader's end of a new channel."""
        writer: Chan[Any] = Chan(type_spec, name=name, capacity=capacity, transport=self.here)
        if not self.shares:
            return writer, writer
        return writer, Chan.open(writer.share(), transport=self.there)

    def spawn(self, work: Awaitable[R]) -> asyncio.Future[R]:
        """Do it beside; it is cancelled at the end if it still runs."""
        task = asyncio.ensure_future(work)
        self._tasks.append(task)
        return task

    async def stop(self) -> None:
        """Cancel what was spawned and still runs."""
        running = [task for task in self._tasks if not task.done()]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    async def cancelled_somewhere(self, work: Awaitable[Any]) -> tuple[bool, Any]:
        """Do this in a task that is cancelled after a random time: whether it came to its end, and its result."""
        task = self.spawn(work)
        if self.rng.random() < 0.5:
            for _ in range(self.rng.randrange(6)):
                await asyncio.sleep(0)
        else:
            await asyncio.wait((task,), timeout=self.rng.expovariate(1 / self.pause))
        task.cancel()
        await asyncio.wait((task,))
        return (False, None) if task.cancelled() else (True, task.result())


TransportCheck: TypeAlias = Callable[[TransportBench], Awaitable[None]]

TRANSPORT_CHECKS: dict[str, TransportCheck] = {}
"""Every check by its name."""


def check(function: TransportCheck) -> TransportCheck:
    """Add a check; its name is the function's."""
    TRANSPORT_CHECKS[name_of_check(function)] = function
    return function


async def raises(error: type[StbassError], work: Awaitable[Any]) -> StbassError:
    """The error that this raises.

    Raises:
        AssertionError: it raises none.
    """
    try:
        result = await work
    except error as found:
        return found
    raise AssertionError(f"{error.__name__} was not raised; the result is {result!r}")


async def skipped(guard: Guard) -> bool:
    """Whether a choice between this guard and SKIP takes SKIP, so that the guard is not ready now."""
    choice = PRI_ALT(guard, Guard(SKIP))
    await choice
    return choice.chosen is not guard


async def is_empty(reader: Chan[Any]) -> bool:
    """Whether nothing can be received now, as a choice sees it."""
    return await skipped(Guard(reader))
