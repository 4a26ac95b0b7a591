"""An application with tasks of its own and processes beside them, for canvases of both; and its schedule."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace
from typing import Any

from celery import Celery

from stbass.backends.celery import install, signature
from tests.support.canvas import noted

__all__ = ["app", "make_shop"]


def make_shop(broker: str, results: str = "", *, key: str = "", lease: float = 10.0, pool: str = "") -> SimpleNamespace:
    """The application, and its tasks by name.

    Args:
        broker: a Redis, where results of processes are too.
        results: where those of tasks are, if not there.
        key: that the fleet signs with.
        lease: seconds.
        pool: of a worker.
    """
    made = install(
        Celery(
            "canvas", broker=broker, backend=results or broker, include=["tests.support.canvas"], set_as_current=False
        )
    )
    made.conf.update(
        include=["tests.support.canvas"],
        task_default_queue="canvas",
        stbass_result_backend=broker,
        stbass_signing_key=key or None,
        stbass_lease=lease,
        stbass_limits={"limited": "1"},
        **({"worker_pool": pool} if pool else {}),
    )

    # Not shared: Celery would give the tasks of the first application to each one that is made later.
    @made.task(name="canvas.add", shared=False)
    def add(left: int, right: int = 10) -> int:
        return left + right

    @made.task(name="canvas.total", shared=False)
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    @made.task(name="canvas.fail", shared=False)
    def fail(text: str) -> None:
        raise LookupError(text)

    @made.task(name="canvas.dawdle", shared=False)
    def dawdle(seconds: float, key: str = "") -> str:
        time.sleep(seconds)
        if key:
            made.backend.client.incr(key)
        return "done"

    @made.task(name="canvas.silent", shared=False, ignore_result=True)
    def silent() -> None: ...

    return SimpleNamespace(app=made, add=add, total=total, fail=fail, dawdle=dawdle, silent=silent)


def _of_worker() -> Celery:
    env = os.environ
    pool = env.get("STBASS_POOL", "asyncio")
    made: Celery = make_shop(
        env["STBASS_BROKER_URL"],
        env.get("TEST_RESULTS", ""),
        key=env.get("TEST_SIGNING_KEY", ""),
        lease=float(env.get("TEST_LEASE", "10")),
        pool="stbass.backends.celery.pool:AsyncioPool" if pool == "asyncio" else pool,
    ).app
    if key := env.get("TEST_SCHEDULED"):

        @made.on_after_finalize.connect(weak=False)
        def schedule(sender: Celery, **_details: Any) -> None:
            sender.add_periodic_task(0.2, signature(noted(key), sender), name="note")

    return made


app = _of_worker() if "STBASS_BROKER_URL" in os.environ else None
