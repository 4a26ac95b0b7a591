"""arq: asyncio workers that poll a sorted set."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from arq import create_pool
from arq.connections import RedisSettings

from benchmarks.peers.driver import RESULT, AsyncSubject, redis_url

_POLL = float(os.environ.get("BENCH_ARQ_POLL", "0.01"))


async def noop(_: dict[str, Any]) -> int:
    """Do nothing."""
    return os.getpid()


async def wait(_: dict[str, Any], seconds: float) -> int:
    """Wait as a call to a model does."""
    await asyncio.sleep(seconds)
    return os.getpid()


class WorkerSettings:
    """Read by the arq command."""

    functions = (noop, wait)
    redis_settings = RedisSettings.from_dsn(redis_url())
    max_jobs = int(os.environ.get("BENCH_ARQ_JOBS", "100"))
    poll_delay = _POLL


class Arq(AsyncSubject):
    """No variants: its workers read how often to poll and how many jobs to run at once from the environment."""

    packages = ("arq", "redis", "hiredis")

    def commands(self) -> list[list[str]]:
        """One command per process."""
        return [["-m", "arq", f"{__name__}.WorkerSettings"]] * self.processes

    async def aopen(self) -> None:
        """Connect."""
        self.pool = await create_pool(WorkerSettings.redis_settings)

    async def aclose(self) -> None:
        """Disconnect."""
        await self.pool.aclose()

    async def abatch(self, count: int, seconds: float) -> list[int]:
        """Submit all at once, then ask for each."""
        enqueue = self.pool.enqueue_job
        jobs = await asyncio.gather(*(enqueue("wait", seconds) if seconds else enqueue("noop") for _ in range(count)))
        return [await job.result(timeout=RESULT, poll_delay=_POLL) for job in jobs if job is not None]


SUBJECT = Arq
