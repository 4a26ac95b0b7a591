"""pytest-celery's clusters on local processes, with workers that run processes of stbass."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from pytest_celery import CeleryTestSetup, CeleryTestWorker, CeleryWorkerCluster

from stbass.backends.celery import CeleryBackend, make_app
from stbass.placement import BackendRegistry
from stbass.testing.pytest_celery_local import (
    LocalTestWorker,
    LocalWorkerContainer,
    celery_backend,
    celery_broker,
    default_redis_backend,
    default_redis_backend_cls,
    default_redis_broker,
    default_redis_broker_cls,
    default_worker_cls,
    default_worker_container,
    docker_client,
    local_worker,
)
from tests.support.backends import registry_of

# Fixtures that this module imports are its own, and so win over pytest-celery's.
__all__ = [
    "celery_backend",
    "celery_broker",
    "default_redis_backend",
    "default_redis_backend_cls",
    "default_redis_broker",
    "default_redis_broker_cls",
    "default_worker_cls",
    "default_worker_container",
    "docker_client",
]

ROOT = Path(__file__).parents[2]


class ClusterWorker(LocalWorkerContainer):
    """A worker of ``tests.support.cluster_app``; subclasses say which queue, and what is special about it."""

    queue = "anthropic"
    options: tuple[str, ...] = ()
    variables: Mapping[str, str] = {}

    @classmethod
    def command(cls, *args: str, **_options: Any) -> list[str]:
        """What runs."""
        program = ["celery", "-A", "tests.support.cluster_app", "worker", "--loglevel", cls.log_level()]
        return [*program, "-n", f"{cls.worker_name()}@%h", "-Q", cls.queue, "--without-mingle", *cls.options, *args]

    @classmethod
    def worker_queue(cls) -> str:
        """What it consumes."""
        return cls.queue

    @classmethod
    def initial_env(cls, celery_worker_cluster_config: dict[str, Any], initial: Any = None) -> dict[str, str]:
        """Broker and backend, and the way to the tests' modules."""
        given: dict[str, str] = super().initial_env(celery_worker_cluster_config, {**cls.variables, **(initial or {})})
        return {**given, "PYTHONPATH": str(ROOT)}

    @classmethod
    def initial_content(cls, *_args: Any, **_options: Any) -> dict[str, bytes]:
        """Nothing: its application lies in the repository."""
        return {}


class ClusterSetup(CeleryTestSetup):
    """A set-up whose application is a producer's."""

    signing_key: str | None = None

    @classmethod
    def create_setup_app(cls, celery_setup_config: dict[str, Any], celery_setup_app_name: str) -> Celery:
        """The producer's application."""
        return make_app(celery_setup_app_name, **celery_setup_config, stbass_signing_key=cls.signing_key)


@pytest.fixture
def celery_setup_cls() -> type[ClusterSetup]:
    return ClusterSetup


@pytest.fixture
def default_worker_container_cls() -> type[ClusterWorker]:
    return ClusterWorker


@pytest.fixture
def second_worker_cls() -> type[ClusterWorker] | None:
    """What the cluster's second worker is, if it has one."""
    return None


@pytest.fixture
def celery_worker_cluster(
    celery_worker: CeleryTestWorker,
    second_worker_cls: type[ClusterWorker] | None,
    celery_worker_cluster_config: dict[str, Any],
    celery_setup_app: Celery,
) -> Iterator[CeleryWorkerCluster]:
    """The worker that pytest-celery makes, and a second one if the test's module names its class."""
    if second_worker_cls is None:
        yield CeleryWorkerCluster(celery_worker)
        return
    second: AbstractContextManager[ClusterWorker] = local_worker(
        second_worker_cls, second_worker_cls.initial_env(celery_worker_cluster_config)
    )
    with second as container:
        yield CeleryWorkerCluster(celery_worker, LocalTestWorker(container, celery_setup_app))


@pytest.fixture
async def backend(celery_setup: CeleryTestSetup) -> AsyncIterator[CeleryBackend]:
    """A backend on the cluster."""
    made = CeleryBackend(celery_setup.app)
    yield made
    await made.aclose()


@pytest.fixture
def registry(backend: CeleryBackend) -> BackendRegistry:
    """A registry in which every endpoint is a queue of the cluster."""
    return registry_of(backend)
