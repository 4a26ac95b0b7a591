"""Threads for functions that block. Any of them may be left behind: Python cannot stop a thread."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import os
import queue
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from stbass._values.texts import text_of

__all__ = ["Counter", "OneThread", "SyncThreads", "shared_threads"]

_IDLE_SECONDS = 10.0

R = TypeVar("R")
Call = tuple["Future[Any]", Callable[[], Any]]


class Counter:
    """A number that several threads change."""

    def __init__(self) -> None:
        self.value = 0
        self._lock = threading.Lock()

    def add(self, amount: int) -> None:
        """Change it."""
        with self._lock:
            self.value += amount


def _holdable(error: BaseException) -> BaseException:
    """The error, as it can go through a future into a coroutine.

    For StopIteration Python 3.11 never wakes who waits, and GeneratorExit closes every coroutine on its way.
    """
    if not issubclass(type(error), (StopIteration, GeneratorExit)):
        return error
    made = RuntimeError(f"the function raised {text_of(error)}")
    made.__cause__ = error
    return made


class SyncThreads(ThreadPoolExecutor):
    """As many threads as there are calls at a time: whoever makes the calls bounds them.

    A call that nobody waits for any more goes on in its thread. It takes no other call's place (as it would in a pool
    of a fixed size), and does not hold up the end of the program (as a thread of :mod:`concurrent.futures` does).
    Threads that are free serve the next call, and end when none comes for a while. If the operating system has no more
    threads to give, calls wait for those that are there.

    Args:
        name: the beginning of the threads' names.
        abandoned: counts the calls that still run although whoever made them with :meth:`call` or :meth:`call_plain`
            was cancelled.
        idle: seconds for which a free thread waits for the next call.
    """

    def __init__(self, name: str, abandoned: Counter | None = None, *, idle: float = _IDLE_SECONDS) -> None:
        # Of the base class only the type is used: an event loop takes no other executor for its default.
        super().__init__(1, name)
        self.abandoned = Counter() if abandoned is None else abandoned
        self._idle = idle
        self._free: list[_Thread] = []
        self._waiting: deque[Call] = deque()
        self._state = threading.Lock()
        self._count = self._running = 0
        self._closed = False

    async def call(self, function: Callable[..., Any], /, *args: Any) -> Any:
        """Call it in a thread, with the caller's context variables. Cancelling this leaves the call to itself.

        If the function gives back an awaitable, that is awaited on an event loop of its own in the same thread, and
        cancelled when this is.
        """
        return await self._make(_AbandonableCall(partial(function, *args), self.abandoned))

    async def call_plain(self, function: Callable[..., Any], /, *args: Any) -> Any:
        """The same, but an awaitable that the function gives back is the caller's to await."""
        return await self._make(_AbandonableCall(partial(function, *args), self.abandoned, awaits=False))

    def call_waiting(self, function: Callable[..., Any], /, *args: Any) -> Any:
        """As :meth:`call`, but wait for it in this thread. An error here, such as Ctrl-C, leaves the call to itself."""
        made = _AbandonableCall(partial(function, *args), self.abandoned)
        future = self.submit(contextvars.copy_context().run, made)
        try:
            return future.result()
        except BaseException:
            if not future.done():
                made.abandon()
            raise

    @property
    def running(self) -> int:
        """How many calls run now, abandoned ones too."""
        return self._running

    async def _make(self, made: _AbandonableCall) -> Any:
        context = contextvars.copy_context()
        try:
            return await asyncio.get_running_loop().run_in_executor(self, context.run, made)
        except asyncio.CancelledError:
            made.abandon()
            raise

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        """Call it in a thread.

        Raises:
            RuntimeError: it was shut down, or not even one thread can be started.
        """
        future: Future[R] = Future()
        call = future, lambda: fn(*args, **kwargs)
        with self._state:
            if self._closed:
                raise RuntimeError("cannot call a function in a thread of an executor that was shut down")
            if self._free:
                thread = self._free.pop()
            else:
                thread = _Thread(f"{self._thread_name_prefix}-{self._count}", self._give_back, self._retire, self._idle)
                try:
                    thread.start()
                except RuntimeError:
                    if not self._running:
                        raise
                    self._waiting.append(call)
                    return future
                self._count += 1
            self._running += 1
            thread.calls.put(call)
        return future

    def _give_back(self, thread: _Thread) -> bool:
        """``thread`` is free. Whether it is still wanted."""
        with self._state:
            if self._waiting:
                thread.calls.put(self._waiting.popleft())
                return True
            self._running -= 1
            if not self._closed:
                self._free.append(thread)
            return not self._closed

    def _retire(self, thread: _Thread) -> bool:
        """``thread`` has waited for long. Whether it may end: no call is on its way to it."""
        with self._state:
            if thread not in self._free:
                return False
            self._free.remove(thread)
            return True

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads that are free; the others end with their call.

        There is nothing to wait for but what runs, and that may have been abandoned: whatever the arguments say, this
        does not wait for it.
        """
        with self._state:
            self._closed = True
            free, self._free = self._free, []
        for thread in free:
            thread.calls.put(None)
            thread.join()


_shared: SyncThreads | None = None
_shared_lock = threading.Lock()


def shared_threads() -> SyncThreads:
    """Where sync processes run, on every event loop of this Python process.

    Not in those of the event loop (``asyncio.to_thread``): they are few, and the end of the program waits for them.
    """
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = SyncThreads("stbass-sync")
        return _shared


def _after_fork() -> None:
    global _shared, _shared_lock
    # A child has none of its parent's threads, and must not wait for a lock that one of them held.
    _shared, _shared_lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class OneThread:
    """Makes calls one after another in one thread: what they use (a file, a database connection) needs no lock.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._thread = _Thread(name, lambda _: True, lambda _: False, None)
        self._thread.start()

    async def call(self, function: Callable[..., R], *args: object) -> R:
        """Call it. If whoever waits for it is cancelled, the call is still made to its end, and its value is lost."""
        return await asyncio.shield(self.begin(function, *args))

    def begin(self, function: Callable[..., R], *args: object) -> asyncio.Future[R]:
        """Call it, and give back what can be awaited."""
        made: Future[R] = Future()
        self._thread.calls.put((made, partial(function, *args)))
        future = asyncio.wrap_future(made)
        # If the process has ended by then, nobody comes to hear of a failure, and asyncio need not report it.
        future.add_done_callback(_heard)
        return future

    def end(self) -> None:
        """No more calls; the thread ends when those that were made have ended."""
        self._thread.calls.put(None)


def _heard(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


class _AbandonableCall:
    """A call to be made in a thread, that knows whether it has ended."""

    def __init__(self, function: Callable[[], Any], abandoned: Counter, *, awaits: bool = True) -> None:
        self._function = function
        self._awaits = awaits
        self._abandoned = abandoned
        self._lock = threading.Lock()
        self._waiting: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None
        self._runs = False
        self._left = False

    def __call__(self) -> Any:
        with self._lock:
            if self._left:
                return None
            self._runs = True
        try:
            value = self._function()
            if self._awaits and inspect.isawaitable(value):
                with asyncio.Runner() as runner:
                    return runner.run(self._wait_for(value))
            return value
        except StopIteration as error:
            # The one error that a future does not take.
            raise RuntimeError(f"a function raised {error!r}") from error
        finally:
            self._end()

    def _end(self) -> None:
        with self._lock:
            self._runs = False
            if self._left:
                self._abandoned.add(-1)

    async def _wait_for(self, value: Awaitable[Any]) -> Any:
        task = asyncio.current_task()
        assert task is not None
        with self._lock:
            if self._left:
                task.cancel()
            self._waiting = task.get_loop(), task
        try:
            return await value
        finally:
            with self._lock:
                self._waiting = None

    def abandon(self) -> None:
        """Nobody waits for it any more. What can be cancelled in it is."""
        with self._lock:
            self._left = True
            if self._runs:
                self._abandoned.add(1)
            if self._waiting is not None:
                loop, task = self._waiting
                loop.call_soon_threadsafe(task.cancel)


class _Thread(threading.Thread):
    """Makes the calls in its queue, in order, until it is told to end with None.

    Args:
        free: called after each call, before its caller knows of it; false ends the thread.
        retire: called when no call has come for ``idle`` seconds; true ends the thread.
        idle: None: it waits for ever.
    """

    def __init__(
        self, name: str, free: Callable[[_Thread], bool], retire: Callable[[_Thread], bool], idle: float | None
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._is_wanted = free
        self._retires = retire
        self._idle = idle

    def run(self) -> None:
        wanted = True
        while wanted:
            try:
                call = self.calls.get(timeout=self._idle)
            except queue.Empty:
                if self._retires(self):
                    return
                continue
            if call is None:
                return
            future, function = call
            # Not kept while it waits for the next call.
            del call
            wanted = self._serve(future, function)
            del future, function

    def _serve(self, future: Future[Any], function: Callable[[], Any]) -> bool:
        if not future.set_running_or_notify_cancel():
            return self._is_wanted(self)
        try:
            value = function()
        except BaseException as error:
            # Free before the caller knows: then a shutdown after the last call finds every thread.
            wanted = self._is_wanted(self)
            future.set_exception(_holdable(error))
        else:
            wanted = self._is_wanted(self)
            future.set_result(value)
        return wanted
