"""An application to which stbass comes first, and then its settings, its tasks and its schedule."""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery

from stbass.backends.celery import POOL, install

app = Celery("shop")
install(app)


class Settings:
    """The application's configuration, read when it is needed."""

    broker_url = os.environ["STBASS_BROKER_URL"]
    result_backend = os.environ["STBASS_RESULT_BACKEND"]
    task_default_queue = "shop"
    worker_pool = POOL if os.environ.get("STBASS_POOL", "asyncio") == "asyncio" else os.environ["STBASS_POOL"]
    include = ("tests.support.agents", "tests.support.puppets")


app.config_from_object(Settings)


@app.on_after_configure.connect
def schedule(sender: Celery, **_details: Any) -> None:
    """Celery's usual way to say what is to happen regularly."""
    sender.add_periodic_task(0.2, tick.s(), name="tick")


@app.task(name="shop.tick")
def tick() -> None:
    """Happens regularly."""
    app.backend.client.incr("shop:ticks")


@app.task(name="shop.dawdle")
def dawdle(seconds: float, key: str) -> str:
    """Take a time, then write down that it ran to its end."""
    app.backend.client.rpush(key, "starts")
    time.sleep(seconds)
    app.backend.client.rpush(key, "ends")
    return "done"
