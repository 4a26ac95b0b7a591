"""Threads for sync functions, of which any may be abandoned."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

__all__ = ["SyncThreads"]

R = TypeVar("R")
Call = tuple["Future[Any]", Callable[[], Any]]


class SyncThreads(ThreadPoolExecutor):
    """As many threads as there are calls at a time: whoever makes the calls bounds them.

    A call that nobody waits for any more goes on in its thread, as threads cannot be stopped. It takes no other call's
    place (as it would in a pool of a fixed size), and does not hold up the end of the program (as a thread of
    :mod:`concurrent.futures` does). Threads that are free serve the next call.
    """

    def __init__(self, name: str) -> None:
        # Of the base class only the type is used: an event loop takes no other executor for its default.
        super().__init__(1, name)
        self._free: list[_Thread] = []
        self._state = threading.Lock()
        self._count = 0
        self._closed = False

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        """Call it in a thread.

        Raises:
            RuntimeError: it was shut down.
        """
        future: Future[R] = Future()
        with self._state:
            if self._closed:
                raise RuntimeError("cannot call a function in a thread of an executor that was shut down")
            if self._free:
                thread = self._free.pop()
            else:
                thread = _Thread(self, f"{self._thread_name_prefix}-{self._count}")
                self._count += 1
                thread.start()
        thread.calls.put((future, lambda: fn(*args, **kwargs)))
        return future

    def give_back(self, thread: _Thread) -> bool:
        """``thread`` is free. Whether it is still wanted."""
        with self._state:
            if not self._closed:
                self._free.append(thread)
            return not self._closed

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads that are free; the others end with their call.

        No call is ever waiting for a thread, so there is nothing to wait for or to cancel but what runs, and that may
        have been abandoned: whatever the arguments say, this does not wait for it.
        """
        with self._state:
            self._closed = True
            free, self._free = self._free, []
        for thread in free:
            thread.calls.put(None)
            thread.join()


class _Thread(threading.Thread):
    def __init__(self, owner: SyncThreads, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._owner = owner

    def run(self) -> None:
        wanted = True
        while wanted and (call := self.calls.get()) is not None:
            future, function = call
            # Not kept while it waits for the next call.
            del call
            wanted = self._serve(future, function)
            del future, function

    def _serve(self, future: Future[Any], function: Callable[[], Any]) -> bool:
        if not future.set_running_or_notify_cancel():
            return self._owner.give_back(self)
        try:
            value = function()
        except BaseException as error:
            # Free before the caller knows: then a shutdown after the last call finds every thread.
            wanted = self._owner.give_back(self)
            future.set_exception(error)
        else:
            wanted = self._owner.give_back(self)
            future.set_result(value)
        return wanted
