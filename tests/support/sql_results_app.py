"""An application that was there before stbass and keeps its results in a database."""

from __future__ import annotations

import os

from celery import Celery

from stbass.backends.celery import POOL, install

app = Celery("books", broker=os.environ["STBASS_BROKER_URL"], backend=os.environ.get("TEST_RESULTS"))
install(app)
app.conf.update(
    task_default_queue="books",
    stbass_result_backend=os.environ.get("STBASS_RESULT_BACKEND"),
    include=["tests.support.agents"],
    worker_pool=POOL if os.environ.get("STBASS_POOL", "asyncio") == "asyncio" else os.environ["STBASS_POOL"],
)


@app.task(name="books.add")
def add(left: int, right: int) -> int:
    """An ordinary task."""
    return left + right


@app.task(name="books.note", ignore_result=True)
def note(text: str, path: str) -> None:
    """An ordinary task without a result."""
    with open(path, "a") as file:
        file.write(text)
