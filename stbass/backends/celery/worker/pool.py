"""A Celery worker pool that runs processes on one event loop, and ordinary tasks in threads."""

from __future__ import annotations

import gc
import os
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from celery import signals
from celery.concurrency.base import BasePool, apply_target
from celery.utils.log import get_logger
from celery.worker import state

from stbass._process.sync_threads import shared_threads
from stbass.backends.celery.settings import fleet_of
from stbass.backends.celery.worker.given import GivenMessages
from stbass.backends.celery.worker.runtime import Job, Runtime, current_runtime

__all__ = ["AsyncioPool"]

_log = get_logger(__name__)
_THREADS_MOST = 32
_WITHOUT_EFFECT = {
    "timeout": "a time limit (--time-limit, task_time_limit, time_limit)",
    "soft_timeout": "a soft time limit (--soft-time-limit, task_soft_time_limit, soft_time_limit)",
    "maxtasksperchild": "a number of tasks per child (--max-tasks-per-child, worker_max_tasks_per_child)",
    "max_memory_per_child": "a limit of memory (--max-memory-per-child, worker_max_memory_per_child)",
}
"""What needs a pool of Python processes, by the name that Celery gives it when it calls the pool."""


class AsyncioPool(BasePool):
    """Name it in ``worker_pool``: ``stbass.backends.celery.pool:AsyncioPool``.

    The worker's concurrency bounds how many processes run at once on the event loop; a process that only waits costs a
    few KiB, so thousands are fine. Ordinary Celery tasks in the same worker run as under ``-P threads``.
    """

    runs_processes = True
    signal_safe = False
    body_can_be_buffer = True
    task_join_will_block = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        initargs = self.options.get("initargs") or (None, None)
        self._hostname: str = initargs[1] or "worker"
        self._hub: Any = None
        self._calls: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._runtime: Runtime | None = None
        self._executors: list[ThreadPoolExecutor] = []
        """Of ordinary tasks: the last one is in use, those before it have become too small."""
        self._threads = 0
        self._consumer: Any = None
        self._qos: Any = None
        self._more = 0
        """How many messages more than without lent slots the consumer may have, by what it was last told."""
        self._has_turn = self._is_timed = False
        self._adjusting = False
        self._told: set[str] = set()
        self._is_over = False
        self._given: GivenMessages | None = None
        self.places: Any = None
        """How many messages the worker may hold on its connection of now; whoever takes messages sets it."""

    def on_start(self) -> None:
        self._tell_without_effect(self.options)
        # As Celery's pools do in each of their Python processes; here it is the only one.
        signals.worker_process_init.send(sender=self._hostname)
        _tune_garbage_collection()
        self._runtime = current_runtime(self.app, self._hostname, self.limit)
        self._runtime.on_lent = self._lent
        self._runtime.given = self._given = GivenMessages(self, self._runtime, fleet_of(self.app).refusals)

    def serve(self, consumer: Any) -> None:
        """The consumer of the messages has been started, perhaps anew."""
        self._consumer = consumer
        if self._given is not None:
            self._given.serve(consumer)
        self._lent()

    def _lent(self) -> None:
        if not self._adjusting:
            self._adjusting = True
            self.call_worker(self._adjust_prefetch)

    def _adjust_prefetch(self) -> None:
        """A message that lends its slot is not acknowledged, and must not keep the next from being taken."""
        self._adjusting = False
        qos = None if self._consumer is None else self._consumer.qos
        if qos is None:
            return
        if qos is not self._qos:
            self._qos, self._more = qos, 0
        lent = self.runtime.lent
        more, self._more = lent - self._more, lent
        if more > 0:
            qos.increment_eventually(more)
        elif more < 0:
            qos.decrement_eventually(-more)
        if more and self._hub is not None:
            # Here, in the worker's own thread, and not after the next message.
            qos.update()

    def _tell_without_effect(self, options: Mapping[str, Any]) -> None:
        for name, shown in _WITHOUT_EFFECT.items():
            if options.get(name) and name not in self._told:
                self._told.add(name)
                _log.warning(
                    "%s does nothing on the asyncio pool, which runs everything in one Python process;"
                    " give processes a deadline, or use -P prefork",
                    shown,
                )

    def register_with_event_loop(self, hub: Any) -> None:
        self._hub = hub
        if self._calls:
            # The hub forgets what was to be called in a turn if something before it raises: a connection that breaks.
            hub.call_soon(self._call_all)

    @property
    def runtime(self) -> Runtime:
        """The event loop's runtime; there is one once the pool has started."""
        assert self._runtime is not None
        return self._runtime

    def notice_limits(self, task: Any) -> None:
        """Say once which of a process's limits, as ``celery control`` or an annotation sets them, do nothing."""
        if task.time_limit or task.soft_time_limit:
            self._tell_without_effect({"timeout": task.time_limit, "soft_timeout": task.soft_time_limit})
        if task.rate_limit and "rate_limit" not in self._told:
            self._told.add("rate_limit")
            _log.warning(
                "rate_limit of %s does nothing on the asyncio pool; -c (worker_concurrency) bounds how many run",
                task.name,
            )

    def submit(self, job: Job) -> None:
        """Run a process; one that was given runs already."""
        if self._given is None or not self._given.follow(job):
            self.runtime.submit(job)

    def cancel(self, task_id: str) -> None:
        """Cancel a process, wherever it is between its message and its result."""
        self.runtime.cancel(task_id)

    def call_worker(self, function: Callable[..., None], *args: Any, within: float = 0.0) -> None:
        """Call ``function`` in the worker's own thread, with what else is to be called there in one go.

        Args:
            within: seconds for which it may wait for something else that is to be called there, if this is called on
                the event loop.
        """
        if self._hub is None:
            self._call(function, *args)
            return
        self._calls.append((function, args))
        if not within or not self.runtime.runs_here:
            self._turn_to_calls()
        elif not self._is_timed:
            # One timer for all that wait: nothing waits for longer than it may, but perhaps for less.
            self._is_timed = True
            self.runtime.call_later(within, self._turn_to_calls_in_time)

    def _turn_to_calls_in_time(self) -> None:
        self._is_timed = False
        self._turn_to_calls()

    def _turn_to_calls(self) -> None:
        if self._calls and not self._has_turn:
            self._has_turn = True
            self._hub.call_soon(self._call_all)

    def _call_all(self) -> None:
        # First, so that a call that comes too late for this turn asks for another one.
        self._has_turn = False
        while self._calls:
            function, args = self._calls.popleft()
            self._call(function, *args)

    @staticmethod
    def _call(function: Callable[..., None], *args: Any) -> None:
        try:
            function(*args)
        except Exception:
            _log.exception("a process's message could not be dealt with")

    def on_apply(
        self,
        target: Callable[..., Any],
        args: Any = None,
        kwargs: Any = None,
        callback: Any = None,
        accept_callback: Any = None,
        **options: Any,
    ) -> _Applied:
        """An ordinary task: as Celery's thread pool does it."""
        self._tell_without_effect(options)

        wanted = min(self.limit or _THREADS_MOST, _THREADS_MOST)
        if wanted > self._threads:
            self._threads = wanted
            self._executors.append(ThreadPoolExecutor(wanted, "celery-task"))
        return _Applied(self._executors[-1].submit(apply_target, target, args, kwargs, callback, accept_callback))

    def grow(self, n: int = 1) -> None:
        """``pool_grow`` and ``--autoscale``: so many more may run at once."""
        self._resize(self.limit + n)

    def shrink(self, n: int = 1) -> None:
        """``pool_shrink`` and ``--autoscale``: so many fewer; what runs goes on.

        Raises:
            ValueError: none would be left.
        """
        if self.limit <= n:
            raise ValueError(f"the pool runs {self.limit} at once: it cannot run {n} fewer")
        self._resize(self.limit - n)

    def restart(self) -> None:
        """``pool_restart``: there is no Python process to be started anew."""
        if "restart" not in self._told:
            self._told.add("restart")
            _log.warning(
                "pool_restart does nothing on the asyncio pool, which has no Python processes of its own; start the"
                " worker again"
            )

    def _resize(self, limit: int) -> None:
        self.limit = limit
        self.runtime.resize(limit)

    def terminate_job(self, pid: int, signal: Any = None) -> None:
        """As under ``-P threads``: who asks for it is told so, and the task keeps its state.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "an ordinary task on the asyncio pool runs in a thread, which cannot be ended: it runs to its end"
        )

    def on_stop(self) -> None:
        """Processes may end within the grace, but not on a cold shutdown; the rest is handed back."""
        # Celery stops the pool on a cold shutdown too.
        is_cold = state.should_terminate not in (None, False)
        if self._runtime is not None and is_cold:
            self._close(self._runtime)
            if self._executors:
                self._return_messages()
        # Also on a cold shutdown: Python waits for these threads in any case, and what ends there is acknowledged.
        for executor in self._executors:
            executor.shutdown(cancel_futures=True)
        if self._runtime is not None and not is_cold:
            self._runtime.drain(fleet_of(self.app).settings.grace)
            self._close(self._runtime)

    def _return_messages(self) -> None:
        """Give back the messages of what was broken off now, and not with the connection, which ordinary tasks keep."""
        # First what has ended is acknowledged.
        self._call_all()
        for request in list(state.reserved_requests):
            if hasattr(request, "return_message"):
                request.return_message()

    def on_terminate(self) -> None:
        """Cold shutdown: everything is handed back."""
        if self._runtime is not None:
            self._close(self._runtime)

    def _close(self, runtime: Runtime) -> None:
        runtime.close()
        if not self._is_over:
            self._is_over = True
            signals.worker_process_shutdown.send(sender=self._hostname, pid=os.getpid(), exitcode=0)

    def _get_info(self) -> dict[str, Any]:
        info: dict[str, Any] = super()._get_info()
        running = 0 if self._runtime is None else self._runtime.running
        # Sync processes that were cancelled: a thread cannot be stopped, and ends when what it runs does.
        abandoned = shared_threads().abandoned.value
        blocked = 0.0 if self._runtime is None else round(self._runtime.watch.blocked_for, 1)
        return {
            **info,
            "max-concurrency": self.limit,
            "running": running,
            "abandoned-threads": abandoned,
            "blocked-seconds": blocked,
        }


def _tune_garbage_collection() -> None:
    """Thousands of waiting processes are many live objects: looking through all of them often costs a third of the CPU.

    What is there now, the modules above all, stays as long as the worker; the rest is looked at less often.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 10, 50)


class _Applied:
    """What Celery holds of an applied task."""

    def __init__(self, future: Future[Any]) -> None:
        self._future = future

    def get(self, timeout: float | None = None) -> Any:
        return self._future.result(timeout)

    def wait(self, timeout: float | None = None) -> None:
        self._future.exception(timeout)

    def terminate(self, signal: Any = None) -> None:
        self._future.cancel()
