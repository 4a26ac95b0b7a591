"""Limits how many processes run in one place at once, over all event loops, threads and compositions together.

Each process that runs there holds a slot. Whoever only waits while processes of its own run elsewhere lends its slot
meanwhile, and takes one again, in turn, before its own code goes on. A composition, or a process that runs one, can
therefore place its processes where it runs itself, even where the limit is 1: nobody holds a slot while waiting for
another.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from stbass._channels.waiting import resolve
from stbass._values.checks import is_whole
from stbass._values.texts import value_text
from stbass.errors import ConfigurationError

if TYPE_CHECKING:
    from stbass._engine.backend import ExecutionBackend

__all__ = ["Limiter", "Slot", "limiter_of", "take_slot"]

# One lock for all limiters: it is held for microseconds, and several of them may be concerned at once.
_lock = threading.RLock()


class _Waiter:
    __slots__ = ("admitted", "future", "loop")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self.loop.create_future()
        self.admitted = False

    def admit(self) -> None:
        try:
            self.loop.call_soon_threadsafe(resolve, self.future)
        except RuntimeError:
            return  # its event loop was closed while it waited: nobody is there any more
        self.admitted = True


class Limiter:
    """Admits as many slots at a time as its limit allows, first come, first served. None: any number."""

    __slots__ = ("__weakref__", "inside", "limit", "waiting")

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.inside = 0
        self.waiting: deque[Slot] = deque()

    def resize(self, limit: int | None) -> None:
        """So many from now on; whoever has a slot keeps it."""
        with _lock:
            self.limit = limit
            self._admit()

    def take(self, most: int) -> int:
        """Take up to so many places at once, for whoever comes together; how many. None if somebody waits for one."""
        with _lock:
            free = 0 if self.waiting else most if self.limit is None else min(most, self.limit - self.inside)
            self.inside += max(0, free)
        return max(0, free)

    def give_back(self, number: int) -> None:
        """Give back places; whoever waited longest gets them."""
        with _lock:
            self.inside -= number
            self._admit()

    def _admit(self) -> None:
        while self.waiting and (self.limit is None or self.inside < self.limit):
            slot = self.waiting.popleft()
            if slot._admit_all():
                self.inside += 1
            else:
                slot._emptied()

    def _refresh(self) -> None:
        """Look what the limit is now."""


_UNLIMITED = Limiter(None)


class _BackendLimiter(Limiter):
    """As the backend's latest ``concurrency_limit`` says."""

    __slots__ = ("_backend",)

    def __init__(self, backend: ExecutionBackend) -> None:
        super().__init__(1)
        # A strong reference: while the limiter exists, no other backend can have this one's id.
        self._backend = backend

    def _refresh(self) -> None:
        limit = _limit_of(self._backend)
        if limit != self.limit:
            self.resize(limit)


# A limiter exists as long as there is a slot of it, held, lent or waited for.
_limiters: weakref.WeakValueDictionary[int, Limiter] = weakref.WeakValueDictionary()


def _limit_of(backend: ExecutionBackend) -> int | None:
    # Anybody may have written the backend, so its answer is checked.
    limit: Any = None if backend.enforces_limit else backend.concurrency_limit
    if limit is None or limit == sys.maxsize:
        return None
    if not is_whole(limit) or limit < 1:
        raise ConfigurationError(
            f"backend {backend.name!r}: concurrency_limit is None or a whole number of at least 1,"
            f" not {value_text(limit)}"
        )
    return int(limit)


def limiter_of(backend: ExecutionBackend) -> Limiter | None:
    """The limiter of a backend; None if it has no limit, or enforces it itself.

    Raises:
        ConfigurationError: its limit is not a number of at least 1.
    """
    limit = _limit_of(backend)
    if limit is None:
        return None
    with _lock:
        found = _limiters.get(id(backend))
        if found is None:
            found = _limiters[id(backend)] = _BackendLimiter(backend)
    return found


async def take_slot(limiter: Limiter) -> Slot:
    """Wait for a slot and take it. If the wait is cancelled, none is taken."""
    slot = Slot(limiter)
    await slot.enter()
    return slot


class Slot:
    """A slot, shared by all that runs in it: by a process, or by those of a composition that run in its place.

    It is held while somebody uses it. When nobody does it is free for others, and the next who enters waits for a new
    one; whoever else enters meanwhile waits for the same, not another: they may need to talk to each other.

    Args:
        limiter: of the place where it is.
        around: the slot of the message in a worker in which this runs, if any. It is used for as long as this one is.
        users: how many use it already, by whoever has taken the place for them.
    """

    __slots__ = ("_around", "_limiter", "_waiters", "users")

    def __init__(self, limiter: Limiter, around: Slot | None = None, users: int = 0) -> None:
        self._limiter = limiter
        self._around = around
        self._waiters: list[_Waiter] | None = None
        self.users = users

    @property
    def message(self) -> Slot | None:
        """The slot of the message in a worker in which this runs, if any."""
        return self._around

    @property
    def is_closed(self) -> bool:
        """Whether whoever it was taken for has ended."""
        return self._limiter is _UNLIMITED

    async def enter(self) -> None:
        """Begin to use it; if nobody uses it at present, wait in turn."""
        self._limiter._refresh()
        with _lock:
            waiter = self._enter_or_wait()
        if waiter is not None:
            try:
                await waiter.future
            except BaseException:
                self._give_up(waiter)
                raise
        if self._around is not None:
            # Last, and held by nobody who waits for the other one: two who want both cannot wait for each other.
            try:
                await self._around.enter()
            except BaseException:
                self._leave()
                raise

    def enter_now(self) -> None:
        """Begin to use it at once, over the limit if need be: for what has to end, and is soon gone."""
        with _lock:
            if not self.users:
                if self._waiters is None:
                    self._wanted()
                else:
                    self._limiter.waiting.remove(self)
                    self._admit_all()
                self._limiter.inside += 1
            self.users += 1
        if self._around is not None:
            self._around.enter_now()

    def join(self) -> None:
        """One more begins to use it, beside somebody who does."""
        with _lock:
            self.users += 1
        if self._around is not None:
            self._around.join()

    def leave(self) -> None:
        """Stop using it; the last one gives the place back."""
        self._leave()
        if self._around is not None:
            self._around.leave()

    def close(self) -> None:
        """Whoever it was taken for has ended. What has been left behind in it goes on without."""
        with _lock:
            limiter, self._limiter = self._limiter, _UNLIMITED
            if self._waiters is not None:
                limiter.waiting.remove(self)
                self._admit_all()
            elif self.users:
                limiter.give_back(1)
            else:
                self._wanted()
            if self.users:
                self._limiter.inside += 1

    def _leave(self) -> None:
        with _lock:
            self.users -= 1
            if not self.users:
                self._emptied()
                self._limiter.give_back(1)

    def _enter_or_wait(self) -> _Waiter | None:
        if self.users:
            self.users += 1
            return None
        if self._waiters is None:
            self._wanted()
            if self._limiter.take(1):
                self.users = 1
                return None
            self._waiters = []
            self._limiter.waiting.append(self)
        waiter = _Waiter()
        self._waiters.append(waiter)
        return waiter

    def _admit_all(self) -> bool:
        """A place has become free: whether somebody who waits for this slot is still there."""
        waiters, self._waiters = self._waiters or [], None
        for waiter in waiters:
            waiter.admit()
        self.users += sum(waiter.admitted for waiter in waiters)
        return self.users > 0

    def _give_up(self, waiter: _Waiter) -> None:
        with _lock:
            if waiter.admitted:
                self._leave()
                return
            assert self._waiters is not None
            self._waiters.remove(waiter)
            if not self._waiters:
                self._waiters = None
                self._limiter.waiting.remove(self)
                self._emptied()
                # Whoever came after it may be next.
                self._limiter.give_back(0)

    # For slots of messages: under the lock, and quick.

    def _wanted(self) -> None:
        """It is wanted again, after nobody did."""

    def _emptied(self) -> None:
        """Nobody uses it any more, nor waits for it."""
