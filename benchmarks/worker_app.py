"""The Celery application of our workers and of our producer."""

from __future__ import annotations

import json
import os

from benchmarks.peers.driver import redis_url
from stbass.backends.celery import make_app

app = make_app(
    broker_url=redis_url(),
    result_backend=redis_url(),
    include=["benchmarks.agents"],
    stbass_limits=json.loads(os.environ.get("BENCH_LIMITS", "{}")),
)

if os.environ.get("BENCH_TRACED"):
    import benchmarks.traced  # noqa: F401 - it traces from here on
