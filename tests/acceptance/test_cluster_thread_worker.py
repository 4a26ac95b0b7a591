"""Celery's own worker for tests, in a thread of the test: the fixture that pytest-celery's of the same name hides."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from celery import Celery
from celery.contrib.pytest import celery_worker
from celery.worker import WorkController

from stbass._process.context import ProcessContext
from stbass.backends.celery import CeleryBackend, install
from stbass.testing import RedisServer
from tests.support.agents import Fail, Unregistered, whoami

__all__ = ["celery_worker"]


@pytest.fixture(scope="session")
def celery_config(redis_server: RedisServer) -> dict[str, Any]:
    return {
        "broker_url": redis_server.url,
        "result_backend": redis_server.url,
        "include": ["tests.support.agents"],
        "task_default_queue": "in-a-thread",
    }


@pytest.fixture(scope="session")
def celery_worker_parameters() -> dict[str, Any]:
    return {"perform_ping_check": False}


@pytest.fixture
def celery_app(celery_app: Celery) -> Celery:
    """An application that somebody has, which runs processes too."""
    return install(celery_app)


async def test_processes_run_in_the_worker_of_celery_contrib_pytest(
    celery_app: Celery, celery_worker: WorkController
) -> None:
    assert isinstance(celery_worker, WorkController)
    backend = CeleryBackend(celery_app, queue="in-a-thread")
    async with asyncio.timeout(10):
        here = await backend.execute(whoami, ProcessContext("whoami"))
        failed = await backend.execute(Fail("point"), ProcessContext("fail"))
    assert here.value["pid"] == os.getpid()
    assert isinstance(failed.failure.error, Unregistered)
    assert failed.failure.checkpoint == "point"
    await backend.aclose()
