"""Celery with tasks that are coroutines: with a pool of somebody else's, or with a Celery of somebody else's."""

from __future__ import annotations

import asyncio
import os
from typing import Any, ClassVar

from benchmarks.peers.celery import StockCelery, app


@app.task
async def noop() -> int:
    """Do nothing."""
    return os.getpid()


@app.task
async def wait(seconds: float) -> int:
    """Wait as a call to a model does."""
    await asyncio.sleep(seconds)
    return os.getpid()


class CoroutineCelery(StockCelery):
    """Variants as of stock Celery; ``custom`` is the pool that ``CELERY_CUSTOM_WORKER_POOL`` names."""

    packages = (*StockCelery.packages, *filter(None, [os.environ.get("BENCH_CELERY_WITH")]))
    noop: ClassVar[Any] = noop
    wait: ClassVar[Any] = wait

    def commands(self) -> list[list[str]]:
        """One worker per process."""
        [command] = super().commands()
        return [[*command, "-n", f"coroutines{number}@%h"] for number in range(self.processes)]


SUBJECT = CoroutineCelery
