"""Limits how many processes run on a backend at once, over all event loops, threads and compositions together.

Each process that runs on the backend holds a slot. A composition that was sent there only waits while its processes run
elsewhere, so it lends out its slot meanwhile, and takes one again before a process of its own runs in its place. A
composition can therefore place its processes on the backend that it runs on itself, even one with a limit of 1: nobody
holds a slot while waiting for another.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from stbass._channels.waiting import resolve
from stbass._values.checks import is_whole
from stbass.errors import ConfigurationError

if TYPE_CHECKING:
    from stbass._engine.backend import ExecutionBackend

__all__ = ["Limiter", "Slot", "enter", "take_slot"]

_limiters: dict[int, Limiter] = {}
# One lock for all limiters: it is held for microseconds, and keeps a limiter from vanishing while somebody enters.
_lock = threading.Lock()


class _Waiter:
    __slots__ = ("admitted", "future", "loop")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self.loop.create_future()
        self.admitted = False


class Limiter:
    """Admits as many at a time as the backend's latest ``concurrency_limit`` allows, first come, first served.

    It exists as long as somebody holds a slot or waits for one.
    """

    __slots__ = ("backend", "inside", "limit", "waiting")

    def __init__(self, backend: ExecutionBackend) -> None:
        # A strong reference: while the limiter exists, no other backend can have this one's id.
        self.backend = backend
        self.limit = 1
        self.inside = 0
        self.waiting: deque[_Waiter] = deque()

    def leave(self) -> None:
        """Give a slot back; whoever waited longest gets it."""
        with _lock:
            self.inside -= 1
            self._admit()

    def _admit(self) -> None:
        while self.waiting and self.inside < self.limit:
            waiter = self.waiting.popleft()
            try:
                waiter.loop.call_soon_threadsafe(resolve, waiter.future)
            except RuntimeError:
                continue  # its event loop was closed while it waited: nobody is there any more
            waiter.admitted = True
            self.inside += 1
        if not self.inside and not self.waiting:
            _limiters.pop(id(self.backend), None)

    def _give_up(self, waiter: _Waiter) -> None:
        with _lock:
            if waiter.admitted:
                self.inside -= 1
            else:
                self.waiting.remove(waiter)
            self._admit()


async def enter(backend: ExecutionBackend) -> Limiter | None:
    """Wait for a slot on ``backend`` and take it. If the wait is cancelled, no slot is taken.

    Returns:
        The limiter to leave; None if the backend has no limit, or enforces it itself.

    Raises:
        ConfigurationError: its limit is not a number of at least 1.
    """
    # Anybody may have written the backend, so its answer is checked.
    limit: Any = None if backend.enforces_limit else backend.concurrency_limit
    if limit is None or limit == sys.maxsize:
        return None
    if not is_whole(limit) or limit < 1:
        raise ConfigurationError(
            f"backend {backend.name!r}: concurrency_limit is None or a whole number of at least 1, not {limit!r}"
        )
    return await take_slot(backend, limit)


async def take_slot(backend: ExecutionBackend, limit: int) -> Limiter:
    """Wait for one of ``limit`` slots on ``backend`` and take it. If the wait is cancelled, no slot is taken."""
    with _lock:
        limiter = _limiters.get(id(backend))
        if limiter is None:
            limiter = _limiters[id(backend)] = Limiter(backend)
        limiter.limit = limit
        if limiter.waiting:
            limiter._admit()  # the limit may have grown
        if not limiter.waiting and limiter.inside < limit:
            limiter.inside += 1
            return limiter
        waiter = _Waiter()
        limiter.waiting.append(waiter)
    try:
        await waiter.future
    except asyncio.CancelledError:
        limiter._give_up(waiter)
        raise
    return limiter


class Slot:
    """A composition's slot on a backend, shared by its processes that run there in its place.

    It is held while at least one process uses it. When none does, the next process waits for a new slot.
    """

    __slots__ = ("_backend", "_entering", "_limiter", "users")

    def __init__(self, limiter: Limiter) -> None:
        self._limiter: Limiter | None = limiter
        self._backend = limiter.backend
        self._entering = asyncio.Lock()
        self.users = 1
        """How many processes use it; at first the composition itself, until it has started its own."""

    async def enter(self) -> None:
        """Begin to use the slot; if nobody uses it at present, wait for the limiter first."""
        if self.users:
            self.users += 1
            return
        # Whoever comes meanwhile waits for the same slot, not another: these processes may need to talk to each other.
        async with self._entering:
            if not self.users:
                self._limiter = await enter(self._backend)
            self.users += 1

    def leave(self) -> None:
        """Stop using the slot."""
        self.users -= 1
        if not self.users and self._limiter is not None:
            self._limiter.leave()
