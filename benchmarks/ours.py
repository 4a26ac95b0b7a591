"""The driver of our own fleet, beside those of the peers."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Sequence

from benchmarks.agents import Wait, noop
from benchmarks.idle import cost_of
from benchmarks.peers.driver import AsyncSubject, redis_url
from benchmarks.worker_app import app
from stbass import PLACED_PAR, BackendRegistry, FailurePolicy, Placement
from stbass._process.context import ProcessContext
from stbass.backends.celery import CeleryBackend

PLACE = Placement(endpoint="bench")


class Ours(AsyncSubject):
    """``make_app`` as it comes; the variant is how many processes a worker holds at once, its default if empty."""

    packages = ("stbass-celery", "celery", "kombu", "redis", "hiredis")

    def commands(self) -> list[list[str]]:
        """One command per worker process, with the pool that ``make_app`` names."""
        command = ["-m", "celery", "-A", "benchmarks.worker_app", "worker", "-Q", "bench", "--loglevel", "WARNING"]
        # The same as stock Celery is given; it changes nothing for what is measured.
        command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        if self.variant:
            command += ["--concurrency", self.variant]
        return [[*command, "-n", f"bench{number}@%h"] for number in range(self.processes)]

    async def aopen(self) -> None:
        """Name the place; if asked to, spare the garbage collector what the imports have made."""
        if os.environ.get("BENCH_FROZEN"):
            gc.collect()
            gc.freeze()
        self.backend = CeleryBackend(app)
        self.registry = BackendRegistry()
        self.registry.register("bench", self.backend)

    async def abatch(self, count: int, seconds: float) -> list[int]:
        """One PLACED_PAR."""
        process = Wait(seconds) if seconds else noop
        pairs = [(process, PLACE)] * count
        result = await PLACED_PAR(*pairs, registry=self.registry).run()
        if not result.is_ok:
            raise RuntimeError(f"{len(result.failures)} of {count} failed, first: {result.failures[0].summary}")
        return [one.value for one in result.results]

    async def atrips(self, count: int) -> list[float]:
        """``CeleryBackend.execute``, one after another."""
        taken = []
        for _ in range(count):
            begun = time.perf_counter()
            result = await self.backend.execute(noop, ProcessContext("noop", placement=PLACE))
            taken.append(time.perf_counter() - begun)
            if not result.is_ok:
                raise RuntimeError(result.failure.summary)
        return taken

    def lateness(self, deadline: float) -> float:
        """A PLACED_PAR with a deadline."""
        return self.runner.run(self._late(deadline))

    async def _late(self, deadline: float) -> float:
        par = PLACED_PAR(
            (Wait(5.0), PLACE), registry=self.registry, deadline=deadline, on_failure=FailurePolicy.COLLECT
        )
        begun = asyncio.get_running_loop().time()
        result = await par.run()
        late = asyncio.get_running_loop().time() - begun - deadline
        if result.is_ok or not isinstance(result.failures[0].error, TimeoutError):
            raise RuntimeError(f"expected a deadline failure, got {result.results[0]!r}")
        return late

    def idle(self, workers: Sequence[int], seconds: float) -> dict[str, float]:
        """First with nothing at all in flight, then with one process that the producer waits for."""
        return self.runner.run(self._idle(workers, seconds))

    async def _idle(self, workers: Sequence[int], seconds: float) -> dict[str, float]:
        at_rest = await cost_of(redis_url(), workers, seconds)
        waiting = asyncio.create_task(self.abatch(1, seconds + 2))
        await asyncio.sleep(1)  # what it takes to send it is not part of the waiting
        me = os.getpid()
        # The workers are children of this program.
        meanwhile = await cost_of(redis_url(), [me], seconds, beside=workers)
        await waiting
        return {
            "worker_cpu": max(cpu for cpu, _ in at_rest.values()),
            "worker_commands": max(commands for _, commands in at_rest.values()),
            "waiter_cpu": meanwhile[me][0],
            "waiter_commands": meanwhile[me][1],
        }


SUBJECT = Ours
