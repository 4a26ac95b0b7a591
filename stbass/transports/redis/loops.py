"""What belongs to one event loop, such as a connection, kept once for each."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

__all__ = ["PerLoop"]


class _Closing(Protocol):
    closing: bool


T = TypeVar("T", bound=_Closing)


class PerLoop(Generic[T]):
    """At most one open client for each event loop. A forked child must not use its parent's, and starts with none."""

    def __init__(self) -> None:
        self._clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, T] = weakref.WeakKeyDictionary()
        self._pid = os.getpid()

    def get(self, make: Callable[[], T]) -> T:
        """The running event loop's, made if there is none.

        Raises:
            RuntimeError: there is no running event loop.
        """
        loop = asyncio.get_running_loop()
        if self._pid != os.getpid():
            self._clients, self._pid = weakref.WeakKeyDictionary(), os.getpid()
        found = self._clients.get(loop)
        if found is None or found.closing:
            found = self._clients[loop] = make()
        return found

    def pop(self) -> T | None:
        """Take out the running event loop's, if there is one."""
        return self._clients.pop(asyncio.get_running_loop(), None) if self._pid == os.getpid() else None
