"""What harms the fleet: one fault after the other, chosen by a seeded generator, some of them at the same time."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from stbass.testing import RedisServer, Worker
from tests.support.proxy import Proxy

__all__ = ["Faults", "Harm"]


_ANSWER_SECONDS = 10.0
"""``socket_timeout``, by default."""
_START_SECONDS = 120.0
"""For a worker: it waits for a server that is away."""


@dataclass(frozen=True, slots=True)
class Harm:
    """What was done to a worker (``killed``, ``stopped``, ``paused``), or to the server or its connections (pid 0)."""

    what: str
    pid: int
    begin: float
    end: float


class Faults:
    """Harms a fleet until it is told to leave off.

    Args:
        server: its Redis, which keeps its data.
        workers: its workers. One at least is always left in peace.
        proxy: through which all of them, and the producer, reach the Redis.
        rng: chooses what is done, to whom, when and for how long.
        lease: of its processes, in seconds.
    """

    def __init__(
        self, server: RedisServer, workers: list[Worker], proxy: Proxy, rng: random.Random, lease: float
    ) -> None:
        self._server, self._proxy, self._rng, self._lease = server, proxy, rng, lease
        self._workers, self._well = workers, list(workers)
        self._tasks: set[asyncio.Task[None]] = set()
        self._server_lock = asyncio.Lock()
        self.harms: list[Harm] = []
        """What was done to workers."""
        self.troubles: list[Harm] = []
        """What was done to the server and to connections."""
        self.died: list[str] = []
        """Workers that ended though nobody had done anything to them: the last that they said."""
        self._of_workers: dict[str, Callable[[Worker], Awaitable[None]]] = {
            "worker killed (SIGKILL)": self._kill,
            "worker paused (SIGSTOP, SIGCONT)": self._pause,
            "worker stopped warm (SIGTERM)": self._stop_warm,
            "worker stopped cold (SIGQUIT)": self._stop_cold,
        }
        self._of_servers: dict[str, Callable[[], Awaitable[None]]] = {
            "writes refused (maxmemory)": self._refuse_writes,
            "Redis killed and restarted": self._kill_server,
            "Redis stopped and restarted": self._restart_server,
        }
        self._of_connections: dict[str, Callable[[], None]] = {
            "connections cut": self._cut,
            "connections dropped silently": self._drop,
        }
        self.counts: Counter[str] = Counter(
            dict.fromkeys((*self._of_workers, *self._of_servers, *self._of_connections), 0)
        )
        # Each of them once, so that also a short run has all; later what is quickly over comes more often.
        self._deck = list(self.counts)
        self._rng.shuffle(self._deck)

    async def run(self, seconds: float) -> None:
        """Do harm for so long, and return when all of it is over and every worker runs."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            await asyncio.sleep(min(self._rng.uniform(0.5, 2.5), max(0.0, ends - time.monotonic())))
            self._next()
        while self._tasks:
            await asyncio.gather(*self._tasks)
        for worker in self._workers:
            await self._look_after(worker)

    def _next(self) -> None:
        if not self._deck:
            self._deck = [*self.counts, *list(self._of_workers) * 2, *self._of_connections]
            self._rng.shuffle(self._deck)
        name = self._deck.pop()
        if name in self._of_connections:
            self.counts[name] += 1
            self._of_connections[name]()
            # One that was dropped silently is given up when no answer has come for long.
            self.troubles.append(Harm(name, 0, time.time(), time.time() + _ANSWER_SECONDS))
        elif name in self._of_workers and len(self._well) > 1:
            worker = self._well.pop(self._rng.randrange(len(self._well)))
            self._do(name, self._harm(worker, self._of_workers[name]))
        elif name in self._of_servers and not self._server_lock.locked():
            self._do(name, self._harm_server(name))
        else:
            self._deck.insert(0, name)

    def _do(self, name: str, harm: Awaitable[None]) -> None:
        self.counts[name] += 1
        task = asyncio.ensure_future(harm)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is None:
            self._tasks.discard(task)  # one that failed stays, for who waits for it

    # Workers -----------------------------------------------------------------------------------------

    async def _harm(self, worker: Worker, how: Callable[[Worker], Awaitable[None]]) -> None:
        await self._look_after(worker)
        await how(worker)
        if not worker.running:
            await asyncio.to_thread(worker.start, _START_SECONDS)
        self._well.append(worker)

    async def _look_after(self, worker: Worker) -> None:
        if not worker.running:
            self.died.append(f"{worker.name} ended by itself ({worker.exit_code}): ...{worker.log[-2000:]}")
            await asyncio.to_thread(worker.start, _START_SECONDS)

    async def _kill(self, worker: Worker) -> None:
        pid, begin = worker.pid, time.time()
        await asyncio.to_thread(worker.kill)
        self.harms.append(Harm("killed", pid, begin, time.time()))

    async def _pause(self, worker: Worker) -> None:
        pid, begin = worker.pid, time.time()
        worker.send_signal(signal.SIGSTOP)
        await asyncio.sleep(self._rng.uniform(0.2, 3 * self._lease))
        worker.send_signal(signal.SIGCONT)
        self.harms.append(Harm("paused", pid, begin, time.time()))

    async def _stop_warm(self, worker: Worker) -> None:
        await self._stop(worker, signal.SIGTERM)

    async def _stop_cold(self, worker: Worker) -> None:
        await self._stop(worker, signal.SIGQUIT)

    async def _stop(self, worker: Worker, number: signal.Signals) -> None:
        pid, begin = worker.pid, time.time()
        worker.send_signal(number)
        await asyncio.to_thread(worker.wait, _START_SECONDS)
        self.harms.append(Harm("stopped", pid, begin, time.time()))

    # The server --------------------------------------------------------------------------------------

    async def _harm_server(self, name: str) -> None:
        async with self._server_lock:
            begin = time.time()
            await self._of_servers[name]()
            self.troubles.append(Harm(name, 0, begin, time.time()))

    async def _refuse_writes(self) -> None:
        await asyncio.to_thread(self._server.command, "CONFIG SET", "maxmemory", "1")
        await asyncio.sleep(self._rng.uniform(0.5, 2 * self._lease))
        await asyncio.to_thread(self._server.command, "CONFIG SET", "maxmemory", "0")

    async def _kill_server(self) -> None:
        await asyncio.to_thread(self._server.kill)
        await asyncio.sleep(self._rng.uniform(0.0, 2.0))
        await asyncio.to_thread(self._server.start)

    async def _restart_server(self) -> None:
        await asyncio.to_thread(self._server.restart)

    # Connections -------------------------------------------------------------------------------------

    def _cut(self) -> None:
        self._proxy.cut_all(self._some)

    def _drop(self) -> None:
        self._proxy.forget_all(self._some)

    def _some(self) -> bool:
        return self._rng.random() < 0.3
