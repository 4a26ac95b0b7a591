"""An application that was there before stbass: its own task, route and settings."""

from __future__ import annotations

import os

from celery import Celery

from stbass.backends.celery import install

app = Celery("existing", broker=os.environ["STBASS_BROKER_URL"], backend=os.environ["STBASS_RESULT_BACKEND"])
app.conf.update(
    task_routes={"existing.*": {"queue": "own"}},
    task_default_queue="existing-default",
    worker_prefetch_multiplier=3,
    include=["tests.support.agents"],
)
_BEFORE = dict(app.conf.changes)


@app.task(name="existing.multiply")
def multiply(left: int, right: int) -> int:
    """A task of its own."""
    return left * right


install(app)

CHANGED = {name: value for name, value in app.conf.changes.items() if _BEFORE.get(name) != value}
"""What :func:`install` changed in the configuration."""
