"""Event loops in threads, for processes that would block the caller's event loop."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import sys
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

from stbass._channels.memory import MEMORY
from stbass._channels.waiting import resolve
from stbass._engine.backend import ExecutionBackend
from stbass._process.contained import execute_contained
from stbass._process.context import frame_of, own_channels
from stbass._process.sync_threads import SyncThreads
from stbass._values.checks import checked_count, checked_limit
from stbass.backends._loop_end import LoopEnd
from stbass.channel import Chan
from stbass.errors import BackendUnavailableError, NotTransportable

if TYPE_CHECKING:
    from stbass._channels.transport import Transport
    from stbass._process.context import Composable, ProcessContext
    from stbass._values.outcome import ProcessResult

__all__ = ["ThreadBackend"]


class ThreadBackend(ExecutionBackend):
    """Runs each process on one of several event loops, each in a thread of its own.

    A process that blocks holds up only its own thread. Sync functions run in other threads; one that is cancelled is
    abandoned, since a thread cannot be stopped. A channel in memory belongs to one event loop, so it cannot lead to
    another thread.

    Threads start with the first process, and end with :meth:`aclose`, at the end of ``async with``, or with the event
    loop that used them last. They can be used again after that.

    Args:
        threads: how many event loops; by default as many as there are processors.
        concurrency_limit: how many processes may run here at once; None: any number.
        name: for people.

    Raises:
        TypeError: an argument is not a whole number.
        ValueError: it is less than 1.
    """

    def __init__(
        self, threads: int | None = None, *, concurrency_limit: int | None = None, name: str = "threads"
    ) -> None:
        self._count = (os.cpu_count() or 1) if threads is None else checked_count(threads, "threads", 1)
        self._limit = checked_limit(concurrency_limit, "concurrency_limit")
        self._name = name
        self._lock = threading.Lock()
        self._threads: list[_LoopThread] = []
        self._loop_end = LoopEnd(self.aclose)

    def check(self, process: Composable, ctx: ProcessContext) -> None:
        """Check that its channels reach another thread.

        Raises:
            NotTransportable: one is in the memory of the event loop here.
        """
        for name, channel in {**own_channels(ctx), **process.bound_channels}.items():
            if channel.transport is MEMORY:
                raise NotTransportable(
                    f"process {process.name!r} cannot run in another thread: its channel {name!r} is in the memory of"
                    " one event loop. Make it with transport=RedisTransport(url), or place what talks over it as one"
                    " composition"
                )

    async def execute(self, process: Composable, ctx: ProcessContext) -> ProcessResult:
        """Run it in a thread.

        Raises:
            NotTransportable: one of its channels does not reach there.
        """
        self.check(process, ctx)
        await self._loop_end.watch()
        frame = frame_of(ctx)
        if frame.worker is None:
            # Which thread it is says little to people; the backend's name tells it apart from the event loop outside.
            frame.worker = self._name
        with self._lock:
            # Another one only when none is free: each costs a thread and three file descriptors.
            if len(self._threads) < self._count and all(thread.load for thread in self._threads):
                self._threads.append(_LoopThread(f"stbass-{self._name}-{len(self._threads)}"))
            thread = min(self._threads, key=lambda one: one.load)
            thread.load += 1
        channels = {**own_channels(ctx), **process.bound_channels}
        shared = {name: (channel.described(), channel.transport) for name, channel in channels.items()}
        try:
            return await thread.run(lambda: _execute(process, ctx, shared))
        finally:
            with self._lock:
                thread.load -= 1

    async def health_check(self) -> bool:
        """Always true: threads start when they are needed."""
        return True

    @property
    def concurrency_limit(self) -> int:
        """The limit that was given; without one, ``sys.maxsize``."""
        return sys.maxsize if self._limit is None else self._limit

    @property
    def name(self) -> str:
        """The name that was given; ``threads`` by default."""
        return self._name

    async def aclose(self) -> None:
        """Cancel what still runs, and end the threads. Sync functions that still run are abandoned."""
        with self._lock:
            threads, self._threads = self._threads, []
        for thread in threads:
            await thread.close()
        await self._loop_end.forget()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"ThreadBackend({self._count}, concurrency_limit={self._limit!r}, name={self._name!r})"


async def _execute(
    process: Composable, ctx: ProcessContext, shared: Mapping[str, tuple[Mapping[str, Any], Transport]]
) -> ProcessResult:
    """Run it in the thread, with ends of its channels that belong to the event loop there."""
    if not shared:
        return await execute_contained(process, ctx)
    ends = {name: Chan.open(what, transport=transport) for name, (what, transport) in shared.items()}
    result = await execute_contained(process.with_channels(**ends), ctx)
    for end in ends.values():
        await end.flush()
    return result


class _LoopThread:
    """An event loop that runs in a thread."""

    def __init__(self, name: str) -> None:
        self.load = 0
        self.loop = asyncio.new_event_loop()
        self._sync = SyncThreads(f"{name}-sync")
        self.loop.set_default_executor(self._sync)
        self._tasks: set[asyncio.Task[ProcessResult]] = set()
        # Guards `_closed`, so that closing finds, and cancels, all that was scheduled before.
        self._lock = threading.Lock()
        self._closed = False
        # A daemon: at the end of the program nobody is left who wants its results.
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self._run_until_stopped()
        finally:
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()

    def _run_until_stopped(self) -> None:
        while True:
            try:
                self.loop.run_forever()
                return
            except (SystemExit, KeyboardInterrupt):
                # Of a process inside a composition: asyncio lets it through, and execute_contained makes a failure of
                # it. The thread has other processes to run.
                continue

    async def run(self, execute: Callable[[], Any]) -> ProcessResult:
        """Await ``execute()`` there. A cancellation here is passed on, and its end is awaited."""
        here = asyncio.get_running_loop()
        done: asyncio.Future[None] = here.create_future()
        started: list[asyncio.Task[ProcessResult]] = []

        def start() -> None:
            task = self.loop.create_task(execute())
            started.append(task)
            self._tasks.add(task)
            task.add_done_callback(end)

        def end(task: asyncio.Task[ProcessResult]) -> None:
            self._tasks.discard(task)
            # That loop is closed if it did not wait for what it had started: then nobody is left to tell.
            with contextlib.suppress(RuntimeError):
                here.call_soon_threadsafe(resolve, done)

        def cancel() -> None:
            started[0].cancel()

        with self._lock:
            if self._closed:
                raise BackendUnavailableError("the ThreadBackend was closed while a process was being sent to it")
            self.loop.call_soon_threadsafe(start, context=contextvars.copy_context())
        while not done.done():
            try:
                await asyncio.shield(done)
            except asyncio.CancelledError:
                # It comes after `start`, so there is a task by then.
                self.loop.call_soon_threadsafe(cancel)
        return started[0].result()

    async def close(self) -> None:
        """Cancel what runs, and return when the thread has ended."""
        here = asyncio.get_running_loop()
        ended: asyncio.Future[None] = here.create_future()

        async def wind_up() -> None:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            # What they have left behind, such as connections of channels, ends with the event loop.
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            for left in rest:
                left.cancel()
            await asyncio.gather(*rest, return_exceptions=True)
            self._sync.shutdown()
            here.call_soon_threadsafe(resolve, ended)
            self.loop.stop()

        with self._lock:
            self._closed = True
            asyncio.run_coroutine_threadsafe(wind_up(), self.loop)
        await asyncio.shield(ended)
        self._thread.join()
