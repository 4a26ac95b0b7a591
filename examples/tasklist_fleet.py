"""The same list of plain functions, some of them called by real workers, which it starts itself.

Run it with ``python -m examples.tasklist_fleet``; it needs
``pip install "stbass-celery[celery]"`` and a ``redis-server``.
"""

from __future__ import annotations

import os
from pathlib import Path

from examples.tasklist_functions import ask, count_words
from stbass import BackendRegistry, Placement
from stbass.backends.celery import CeleryBackend, make_app
from stbass.tasklist import Process
from stbass.testing import RedisServer, Worker

ROOT = Path(__file__).parents[1]
ANTHROPIC = Placement(model="opus", endpoint="anthropic")
LOCAL = Placement(endpoint="local:8080")


def main() -> None:
    """Start a Redis and a worker per endpoint, and run the list."""
    with RedisServer() as redis:
        env = {
            "STBASS_BROKER_URL": redis.url,
            "STBASS_RESULT_BACKEND": redis.url,
            # Whose functions the workers may call.
            "STBASS_FUNCTIONS": "examples.tasklist_functions",
        }
        with (
            Worker("celery_app", "anthropic", env=env, cwd=ROOT),
            Worker("celery_app", "local:8080", env=env, cwd=ROOT) as local,
        ):
            registry = BackendRegistry()
            registry.register("*", CeleryBackend(make_app(broker_url=redis.url)))
            process = Process("questions", "parallel", registry=registry, deadline=30)
            process.add_task(ask, "Why is the sky blue?", placement=ANTHROPIC)
            process.add_task(ask, "Why is the grass green?", placement=ANTHROPIC)
            process.add_task(count_words, "counted on a worker", placement=LOCAL)
            process.add_task(count_words, "counted here")
            sky, grass, there, here = process.execute()
            print(sky)
            print(grass)
            print(f"{there[0]} words on the worker of local:8080: {there[1] == local.pid}")
            print(f"{here[0]} words here: {here[1] == os.getpid()}")
            print(process.status)


if __name__ == "__main__":
    main()
