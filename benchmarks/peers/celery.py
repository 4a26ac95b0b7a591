"""Stock Celery: its Redis transport, its Redis result backend, its pools."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from typing import Any, ClassVar

from celery import Celery, group
from celery.exceptions import TimeoutError as CeleryTimeout

from benchmarks.peers.driver import RESULT, Subject, redis_url

app = Celery("bench", broker=redis_url(), backend=redis_url())


@app.task
def noop() -> int:
    """Do nothing."""
    return os.getpid()


@app.task
def wait(seconds: float) -> int:
    """Wait as a call to a model does."""
    time.sleep(seconds)
    return os.getpid()


class StockCelery(Subject):
    """Variants are ``pool:concurrency``: ``prefork:2``, ``threads:100``."""

    packages: Sequence[str] = ("celery", "kombu", "redis", "hiredis")
    noop: ClassVar[Any] = noop
    wait: ClassVar[Any] = wait

    def commands(self) -> list[list[str]]:
        """One worker; prefork makes its processes itself."""
        pool, concurrency = self.variant.split(":")
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"]
        return [
            [
                "-m",
                "celery",
                "-A",
                type(self).__module__,
                "worker",
                "--pool",
                pool,
                "--concurrency",
                concurrency,
                *quiet,
            ]
        ]

    def batch(self, count: int, seconds: float) -> list[int]:
        """One group, one wait for all of it."""
        signatures = [self.wait.s(seconds) if seconds else self.noop.s() for _ in range(count)]
        results: list[int] = group(signatures).apply_async().get(timeout=RESULT)
        return results

    def trips(self, count: int) -> list[float]:
        """``delay().get()``."""
        taken = []
        for _ in range(count):
            begun = time.perf_counter()
            self.noop.delay().get(timeout=RESULT)
            taken.append(time.perf_counter() - begun)
        return taken

    def longest_gap(self, count: int, seconds: float) -> float:
        """The producer's loop while it submits and gets, which Celery can only do synchronously."""

        async def produce() -> float:
            begun = time.perf_counter()
            tick = asyncio.ensure_future(asyncio.sleep(0.001))
            self.batch(count, seconds)
            await tick
            return time.perf_counter() - begun - 0.001

        return asyncio.run(produce())

    def lateness(self, deadline: float) -> float:
        """A wait with a time-out is what a deadline is in stock Celery."""
        result = self.wait.apply_async((5.0,), expires=deadline)
        begun = time.perf_counter()
        try:
            result.get(timeout=deadline)
        except CeleryTimeout:
            return time.perf_counter() - begun - deadline
        raise RuntimeError("a task of 5 s ended before its deadline")


SUBJECT = StockCelery
