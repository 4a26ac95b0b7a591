"""The worker application of the fleet's tests: an application with a task of its own beside the processes."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from stbass import PLACED_PAR, SEQ, BackendRegistry, Placement
from stbass.backends.celery import CeleryBackend, make_app
from tests.support.agents import noop

_SETTINGS: dict[str, Any] = {
    name: float(os.environ[variable])
    for name, variable in (
        ("stbass_lease", "TEST_LEASE"),
        ("stbass_grace", "TEST_GRACE"),
        ("result_expires", "TEST_RESULT_EXPIRES"),
        ("worker_soft_shutdown_timeout", "TEST_SOFT_SHUTDOWN"),
        ("broker_connection_max_retries", "TEST_CONNECTION_TRIES"),
    )
    if variable in os.environ
}
_SETTINGS |= {"stbass_limits": json.loads(os.environ.get("TEST_LIMITS", "{}"))}
if queue_type := os.environ.get("TEST_QUEUE_TYPE"):
    _SETTINGS |= {"task_default_queue_type": queue_type}
_SETTINGS |= {"worker_pool_restarts": "TEST_POOL_RESTARTS" in os.environ}

# Celery cannot tell `-P prefork` from its default, so the setting decides.
_POOL = {"worker_pool": os.environ["STBASS_POOL"]} if os.environ.get("STBASS_POOL", "asyncio") != "asyncio" else {}

_FOLDER = os.environ.get("TEST_BROKER_FOLDER")
_BROKER: dict[str, Any] = (
    {
        "broker_transport_options": {
            "data_folder_in": f"{_FOLDER}/queue",
            "data_folder_out": f"{_FOLDER}/queue",
            "control_folder": f"{_FOLDER}/control",
        }
    }
    if _FOLDER
    else {}
)

if master := os.environ.get("TEST_MASTER"):
    _BROKER = {
        "broker_transport_options": {"master_name": master},
        "result_backend_transport_options": {"master_name": master},
    }

if prefix := os.environ.get("TEST_PREFIX"):
    _BROKER = {
        "broker_transport_options": {"global_keyprefix": prefix},
        "result_backend_transport_options": {"global_keyprefix": prefix},
    }

if options := os.environ.get("TEST_OPTIONS"):
    _BROKER = {name: json.loads(options) for name in ("broker_transport_options", "result_backend_transport_options")}

_ACCEPT = {"accept_content": accept.split(",")} if (accept := os.environ.get("TEST_ACCEPT")) else {}

app = make_app(
    "tests",
    broker_url=os.environ["STBASS_BROKER_URL"],
    result_backend=os.environ["STBASS_RESULT_BACKEND"],
    include=["tests.support.agents", "tests.support.talkers"],
    stbass_signing_key=os.environ.get("TEST_SIGNING_KEY"),
    stbass_registry=os.environ.get("TEST_REGISTRY"),
    task_acks_late="TEST_ACKS_LATE" in os.environ,
    stbass_functions=[name for name in os.environ.get("TEST_FUNCTIONS", "").split(",") if name],
    **_SETTINGS,
    **_POOL,
    **_BROKER,
    **_ACCEPT,
)


@app.task(name="tests.add")
def add(left: int, right: int) -> int:
    """An ordinary Celery task."""
    return left + right


@app.task(name="tests.waits")
def waits(endpoint: str, seconds: float, through: str | None = None) -> list[str]:
    """An ordinary task that waits for a process, perhaps through one that is elsewhere; the errors of that."""
    registry = BackendRegistry()
    registry.register("*", CeleryBackend(app, grace=1.0))
    waited = PLACED_PAR((noop, Placement(endpoint=endpoint)), registry=registry, deadline=seconds)
    if through is not None:
        waited = PLACED_PAR((SEQ(noop, waited), Placement(endpoint=through)), registry=registry, deadline=seconds)
    result = waited.run_sync()
    return [type(failure.error).__name__ for failure in result.failures]


@app.task(name="tests.until_told", acks_late=True)
def until_told(log: str, let_go: str) -> str:
    """An ordinary task that writes when it starts, and waits for a file."""
    with Path(log).open("a") as lines:
        lines.write("started\n")
    while not Path(let_go).exists():
        time.sleep(0.01)
    return "done"


@app.task(name="tests.thread", bind=True)
def thread(task: object) -> str:
    """Where an ordinary task runs."""
    return threading.current_thread().name
