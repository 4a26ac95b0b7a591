"""A pool of Python processes, for work that computes, and for work that must be killed if it does not end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Self

from stbass._engine.backend import ExecutionBackend
from stbass._engine.limiter import Limiter, take_slot
from stbass._process.context import emit_event, failure_of, own_channels
from stbass._process.sync_threads import SyncThreads
from stbass._values.checks import checked_count, checked_wait
from stbass.backends._loop_end import LoopEnd
from stbass.backends._pool_protocol import sendable
from stbass.backends._pool_spawn import PoolWorker
from stbass.errors import NotTransportable, WorkerLostError

if TYPE_CHECKING:
    from stbass._process.context import Composable, ProcessContext
    from stbass._values.outcome import ProcessResult

__all__ = ["ProcessPoolBackend"]


class ProcessPoolBackend(ExecutionBackend):
    """Runs each process in a Python process of its own; at most ``max_workers`` at once, the rest wait in order.

    A process that is cancelled, or whose deadline passes, has ``patience`` seconds to clean up; then its worker is
    killed, as it is at once if a sync function still runs there. A worker that dies fails its process with
    ``WorkerLostError``. Checkpoints outlive the worker.

    Processes, values and errors go there and back by pickle, so they have to be defined at the top level of a module.
    Workers are spawned, not forked: a script needs ``if __name__ == "__main__":`` around what it runs. Bound channels
    cannot go there.

    Workers start when they are needed, and end with :meth:`aclose`, at the end of ``async with``, with the event loop
    that used them last, or with this Python process. The pool can be used again after that.

    Args:
        max_workers: how many Python processes; by default as many as there are processors.
        patience: seconds between the cancellation of a process and the death of its worker.
        name: for people.

    Raises:
        TypeError: ``max_workers`` is not a whole number.
        ValueError: ``max_workers`` is less than 1, or ``patience`` less than 0.
    """

    enforces_limit = True

    def __init__(self, max_workers: int | None = None, *, patience: float = 0.5, name: str = "processes") -> None:
        self._limit = (os.cpu_count() or 1) if max_workers is None else checked_count(max_workers, "max_workers", 1)
        self._limiter = Limiter(self._limit)
        self._patience = checked_wait(patience, "patience")
        self._name = name
        self._lock = threading.Lock()
        self._workers: set[PoolWorker] = set()
        self._idle: list[PoolWorker] = []
        # For calls that block: starting a Python process, and waiting for its end. Not the event loop's own threads,
        # which would live as long as that loop.
        self._helpers: SyncThreads | None = None
        self._spawning: set[asyncio.Future[PoolWorker]] = set()
        self._loop_end = LoopEnd(self.aclose)
        # In case nobody closes it. At the end of the program, workers are killed in _pool_spawn.
        weakref.finalize(self, _kill_all, self._workers).atexit = False

    async def execute(self, process: Composable, ctx: ProcessContext) -> ProcessResult:
        """Run it in a worker, as soon as one is free.

        Raises:
            NotTransportable: the process, or its input, cannot be pickled, or it has channels.
        """
        body = _packed(process, ctx)
        await self._loop_end.watch()
        slot = await take_slot(self._limiter)
        try:
            worker = await self._free_worker()
            try:
                result = await self._run(worker, body, ctx)
            finally:
                await self._put_back(worker)
        finally:
            slot.leave()
        emit_event(ctx, "ended", result=result)
        return result

    def check(self, process: Composable, ctx: ProcessContext) -> None:
        """Check that it can go to another Python process.

        Raises:
            NotTransportable: it cannot.
        """
        _packed(process, ctx)

    async def health_check(self) -> bool:
        """Whether a worker is alive, or can be started."""
        await self._loop_end.watch()
        with self._lock:
            if any(worker.alive for worker in self._workers):
                return True
        try:
            worker = await self._free_worker()
        except OSError:
            return False
        await self._put_back(worker)
        return True

    @property
    def concurrency_limit(self) -> int:
        """How many workers there can be."""
        return self._limit

    @property
    def name(self) -> str:
        """The name that was given; ``processes`` by default."""
        return self._name

    async def aclose(self) -> None:
        """Kill all workers. Processes that still run there fail with ``WorkerLostError``."""
        with self._lock:
            idle, self._idle = self._idle, []
            busy = [worker for worker in self._workers if worker not in idle]
            self._workers.clear()
        for worker in busy:
            worker.signal_end()
        loop = asyncio.get_running_loop()
        # A worker that nobody waits for any more becomes idle when it has started, and here none may be left.
        if spawning := [future for future in self._spawning if future.get_loop() is loop]:
            await asyncio.wait(spawning)
            with self._lock:
                idle += self._idle
                self._workers.difference_update(self._idle)
                self._idle.clear()
        for worker in idle:
            await worker.end(self._threads())
        helpers, self._helpers = self._helpers, None
        if helpers is not None:
            helpers.shutdown()
        await self._loop_end.forget()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"ProcessPoolBackend({self._limit}, patience={self._patience!r}, name={self._name!r})"

    async def _free_worker(self) -> PoolWorker:
        with self._lock:
            while self._idle:
                worker = self._idle.pop()
                if worker.alive:
                    return worker
                self._workers.discard(worker)
                worker.kill()
        # In a thread: starting a Python process takes a while, in which others should go on.
        spawning = asyncio.get_running_loop().run_in_executor(self._threads(), PoolWorker)
        self._spawning.add(spawning)
        spawning.add_done_callback(self._spawning.discard)
        try:
            worker = await asyncio.shield(spawning)
        except asyncio.CancelledError:
            spawning.add_done_callback(self._keep)
            raise
        with self._lock:
            self._workers.add(worker)
        return worker

    def _threads(self) -> SyncThreads:
        with self._lock:
            if self._helpers is None:
                self._helpers = SyncThreads(f"stbass-{self._name}")
            return self._helpers

    def _keep(self, spawning: asyncio.Future[PoolWorker]) -> None:
        """Keep a worker whose caller was cancelled meanwhile: the next caller gets it."""
        if not spawning.cancelled() and spawning.exception() is None:
            with self._lock:
                self._workers.add(spawning.result())
                self._idle.append(spawning.result())

    async def _put_back(self, worker: PoolWorker) -> None:
        with self._lock:
            if worker.free and worker in self._workers:
                self._idle.append(worker)
                return
            self._workers.discard(worker)
        await worker.end(self._helpers)

    async def _run(self, worker: PoolWorker, body: bytes, ctx: ProcessContext) -> ProcessResult:
        conversation = asyncio.ensure_future(worker.converse(body, ctx))
        cancel: asyncio.CancelledError | None = None
        try:
            await asyncio.wait((conversation,))
        except asyncio.CancelledError as error:
            cancel = error
            # A second cancellation means: at once.
            with contextlib.suppress(asyncio.CancelledError):
                if await worker.cancel():
                    await asyncio.wait((conversation,), timeout=self._patience)
        conversation.cancel()  # unless it has ended
        # This is short: it only has to let go of the sockets.
        await asyncio.wait((conversation,))
        if conversation.cancelled():
            result = None
        elif isinstance(conversation.exception(), ConnectionError):
            await worker.end(self._helpers)
            lost = WorkerLostError(
                f"process {ctx.process_name!r} was lost: {worker.epitaph}", worker=worker.name, attempt=ctx.attempt
            )
            result = failure_of(lost, ctx)
        else:
            result = conversation.result()
        if result is not None:
            return result
        # If nobody cancelled it from here, the process itself has raised CancelledError.
        raise asyncio.CancelledError if cancel is None else cancel


def _packed(process: Composable, ctx: ProcessContext) -> bytes:
    channels = {**own_channels(ctx), **process.bound_channels}
    if channels:
        raise NotTransportable(
            f"process {process.name!r} cannot go to another Python process: it has channels ({', '.join(channels)}),"
            " and a pool of processes brings none. Place it on threads, or on a fleet with channels over Redis"
        )
    return sendable(process, f"process {process.name!r}")


def _kill_all(workers: Iterable[PoolWorker]) -> None:
    for worker in list(workers):
        worker.kill()
