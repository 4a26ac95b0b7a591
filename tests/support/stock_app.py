"""An application that knows nothing of stbass, to compare with."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from celery import Celery

app = Celery("stock", broker=os.environ["STBASS_BROKER_URL"], backend=os.environ["STBASS_RESULT_BACKEND"])
app.conf.update(
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    worker_soft_shutdown_timeout=float(os.environ.get("TEST_SOFT_SHUTDOWN", "0")),
)


@app.task(name="stock.until_told")
def until_told(started: str, let_go: str) -> str:
    """Write that it has started, then wait for a file."""
    Path(started).touch()
    while not Path(let_go).exists():
        time.sleep(0.01)
    return "done"


@app.task(name="stock.echo")
def echo(value: Any) -> Any:
    """What it is given."""
    return value
