"""streaq: asyncio workers that read a Redis stream; it needs Redis 7, for its functions."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from streaq import Worker
from streaq.task import Task

from benchmarks.peers.driver import RESULT, AsyncSubject, redis_url

worker = Worker(redis_url=redis_url(), concurrency=int(os.environ.get("BENCH_STREAQ_JOBS", "16")))
ASKED_AT_ONCE = 50
"""Each result takes a subscription of a tenth of a second, on a connection of its own; its pool has 64 of these."""


@worker.task
async def noop() -> int:
    """Do nothing."""
    return os.getpid()


@worker.task
async def wait(seconds: float) -> int:
    """Wait as a call to a model does."""
    await asyncio.sleep(seconds)
    return os.getpid()


class Streaq(AsyncSubject):
    """No variants: its workers read from the environment how many tasks to run at once."""

    packages = ("streaq", "coredis")

    def commands(self) -> list[list[str]]:
        """One command per process."""
        return [["-m", "streaq", "run", f"{__name__}:worker"]] * self.processes

    async def aopen(self) -> None:
        """Connect, in a task of its own: what opened the connections must close them."""
        opened, self.closing = asyncio.Event(), asyncio.Event()

        async def connected() -> None:
            async with worker:
                opened.set()
                await self.closing.wait()

        self.connection = asyncio.create_task(connected())
        waiter = asyncio.create_task(opened.wait())
        await asyncio.wait([self.connection, waiter], return_when=asyncio.FIRST_COMPLETED)
        if not opened.is_set():
            waiter.cancel()
            await self.connection  # says why it could not

    async def aclose(self) -> None:
        """Disconnect."""
        self.closing.set()
        await self.connection

    async def abatch(self, count: int, seconds: float) -> list[int]:
        """Submit all at once, then wait to be told of each result."""
        tasks = [wait.enqueue(seconds) if seconds else noop.enqueue() for _ in range(count)]
        await worker.enqueue_many(tasks)
        at_once = asyncio.Semaphore(ASKED_AT_ONCE)

        async def result(task: Task[Any, int]) -> int:
            async with at_once:
                answer = await task.result(timeout=int(RESULT))
            worker_process: int = answer.result
            return worker_process

        return await asyncio.gather(*(result(task) for task in tasks))


SUBJECT = Streaq
