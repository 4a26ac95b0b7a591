"""An application with kombu's four lists per queue, one for each priority, that processes may be sent to."""

from __future__ import annotations

import os
import time
from pathlib import Path

from celery import Celery

from stbass.backends.celery import install

app = Celery("prioritised", broker=os.environ["STBASS_BROKER_URL"], backend=os.environ["STBASS_RESULT_BACKEND"])
app.conf.update(
    include=["tests.support.agents"], stbass_lease=float(os.environ["TEST_LEASE"]), worker_prefetch_multiplier=1
)


@app.task(name="prioritised.note")
def note(path: str, line: str, seconds: float = 0.0) -> None:
    """Write down that it ran."""
    time.sleep(seconds)
    with Path(path).open("a") as file:
        file.write(f"{line}\n")


install(app)
