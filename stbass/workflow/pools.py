"""Threads and Python processes for workflows: shared by the nodes of one, and gone when it ends."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

from stbass._channels.cancellation import to_the_end
from stbass._engine.backend import ExecutionBackend
from stbass._engine.local import LocalBackend
from stbass._process.sync_threads import Counter, SyncThreads
from stbass.backends.processes import ProcessPoolBackend
from stbass.workflow.config import ProcessType

__all__ = ["Pools", "WorkflowPoolManager"]


class Pools:
    """The pools of one workflow.

    Args:
        max_threads: how many threads may work at once; ``min(32, number of CPUs + 4)`` by default.
        max_processes: how many Python processes may; the number of CPUs by default.
        abandoned: counts threads that nobody waits for any more, while they still run.
    """

    def __init__(
        self, max_threads: int | None = None, max_processes: int | None = None, abandoned: Counter | None = None
    ) -> None:
        self.users = 0
        self.threads = SyncThreads("stbass-workflow", abandoned)
        """Where sync code runs."""
        # Its processes run on this event loop, and only wait for those threads: what it has is the limit.
        limit = min(32, (os.cpu_count() or 1) + 4) if max_threads is None else max_threads
        self._threads = LocalBackend(limit, name="workflow")
        self._max_processes = max_processes
        self._processes: ProcessPoolBackend | None = None

    def __getitem__(self, kind: ProcessType) -> ExecutionBackend:
        """The pool for a kind of process.

        Raises:
            KeyError: such processes need none: they run on the event loop.
        """
        if kind is ProcessType.THREAD:
            return self._threads
        if kind is not ProcessType.PROCESS:
            raise KeyError(kind)
        if self._processes is None:
            self._processes = ProcessPoolBackend(self._max_processes, name="workflow")
        return self._processes

    async def aclose(self) -> None:
        """End the threads, except those that were abandoned, and kill the Python processes."""
        self.threads.shutdown()
        processes, self._processes = self._processes, None
        if processes is not None:
            await processes.aclose()


class WorkflowPoolManager:
    """Gives each workflow pools of its own, by its id, from its start to its end.

    Processes that are run by themselves share pools while any of them runs.
    """

    _instance: ClassVar[WorkflowPoolManager | None] = None

    def __init__(self) -> None:
        self._pools: dict[str, Pools] = {}
        self._lock = threading.Lock()
        self._abandoned = Counter()

    @classmethod
    def get_instance(cls) -> WorkflowPoolManager:
        """The one instance."""
        if cls._instance is None:
            cls._instance = cls()
        return cls._instance

    @property
    def open_pools(self) -> list[str]:
        """The ids of the workflows that have pools now."""
        return list(self._pools)

    @property
    def abandoned_threads(self) -> int:
        """How many threads still run although their process has timed out. Each ends when what it runs does."""
        return self._abandoned.value

    def get_or_create_pools(
        self, process_id: str, max_threads: int | None = None, max_processes: int | None = None
    ) -> Pools:
        """The pools of that id. Whoever calls this, and not :meth:`lease`, closes them with :meth:`close_pools`."""
        with self._lock:
            found = self._pools.get(process_id)
            if found is None:
                found = self._pools[process_id] = Pools(max_threads, max_processes, self._abandoned)
            return found

    async def close_pools(self, process_id: str) -> None:
        """Close the pools of that id, if there are any."""
        with self._lock:
            found = self._pools.pop(process_id, None)
        if found is not None:
            # To its end, even if whoever ran the workflow is cancelled meanwhile: nothing is to be left behind.
            _, cancel = await to_the_end(found.aclose())
            if cancel is not None:
                raise cancel

    @asynccontextmanager
    async def lease(
        self, process_id: str, max_threads: int | None = None, max_processes: int | None = None
    ) -> AsyncIterator[Pools]:
        """The pools of that id while the context lasts. Leaving the last such context closes them."""
        pools = self.get_or_create_pools(process_id, max_threads, max_processes)
        pools.users += 1
        try:
            yield pools
        finally:
            pools.users -= 1
            if not pools.users:
                await self.close_pools(process_id)
