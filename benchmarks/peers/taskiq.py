"""taskiq: asyncio workers; over a plain list, or over a stream that acknowledges."""

from __future__ import annotations

import asyncio
import os

from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend, RedisStreamBroker

from benchmarks.peers.driver import RESULT, AsyncSubject, redis_url

_make = RedisStreamBroker if os.environ.get("BENCH_TASKIQ") == "stream" else ListQueueBroker
broker = _make(redis_url()).with_result_backend(RedisAsyncResultBackend(redis_url()))


@broker.task
async def noop() -> int:
    """Do nothing."""
    return os.getpid()


@broker.task
async def wait(seconds: float) -> int:
    """Wait as a call to a model does."""
    await asyncio.sleep(seconds)
    return os.getpid()


class Taskiq(AsyncSubject):
    """The variant is how often, in seconds, the producer asks for a result; there is no way to be told."""

    packages = ("taskiq", "taskiq-redis", "redis", "hiredis")

    def commands(self) -> list[list[str]]:
        """One command makes all the processes."""
        many = ["--max-async-tasks", "1000", "--log-level", "ERROR"]
        return [["-m", "taskiq", "worker", f"{__name__}:broker", "--workers", str(self.processes), *many]]

    async def aopen(self) -> None:
        """Connect."""
        await broker.startup()

    async def aclose(self) -> None:
        """Disconnect."""
        await broker.shutdown()

    async def abatch(self, count: int, seconds: float) -> list[int]:
        """Submit all at once, then ask for each."""
        tasks = await asyncio.gather(*(wait.kiq(seconds) if seconds else noop.kiq() for _ in range(count)))
        every = float(self.variant)
        return [(await task.wait_result(check_interval=every, timeout=RESULT)).return_value for task in tasks]


SUBJECT = Taskiq
