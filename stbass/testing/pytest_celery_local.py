"""pytest-celery's clusters on local processes instead of containers: no Docker, and a test starts in about a second.

In the ``conftest.py`` of the tests that use ``celery_setup``::

    from stbass.testing.pytest_celery_local import *

What that overrides are pytest-celery's leaves: the fixtures that make containers. Its clusters, nodes, ``celery_setup``
and whatever is built on them stay as they are. The broker and the result backend are Redis, each a server of its own;
the worker is ``celery worker``, with the application, the tasks and the command that the fixtures
``default_worker_app``, ``default_worker_tasks``, ``default_worker_command`` and so on say. For a worker of your own::

    class Worker(LocalWorkerContainer):
        @classmethod
        def command(cls, *args, **kwargs):
            return ["celery", "-A", "stbass.app", "worker", "-n", f"{cls.worker_name()}@%h", "-Q", cls.worker_queue()]

        @classmethod
        def worker_queue(cls):
            return "anthropic"

    @pytest.fixture
    def default_worker_container_cls():
        return Worker

More workers: :func:`local_worker` in a fixture of your own, and ``celery_worker_cluster`` overridden as pytest-celery's
documentation shows. A test that means the worker in a thread of ``celery.contrib.pytest`` imports it from there:
pytest-celery has another fixture of the same name, ``celery_worker``.

What differs from containers: nothing is isolated, the processes share files, users and the loopback network with the
test. Whatever asks for a container of another kind fails at once and says so, and so nothing waits for a Docker engine.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from stbass.errors import ConfigurationError, MissingDependencyError
from stbass.testing._container import LocalContainer
from stbass.testing._guarded import SubprocessError
from stbass.testing.redis_server import find_redis_server, on_free_port

try:
    import psutil
    from pytest_celery import (
        DEFAULT_WORKER_VOLUME,
        CeleryTestContainer,
        CeleryTestWorker,
        CeleryWorkerContainer,
        RedisContainer,
        RedisTestBackend,
        RedisTestBroker,
    )
    from pytest_docker_tools.exceptions import ContainerFailed
    from pytest_docker_tools.exceptions import TimeoutError as ContainerTimeout
except ImportError as error:
    raise MissingDependencyError(
        f"stbass.testing.pytest_celery_local needs pytest-celery ({error}): pip install 'pytest-celery[redis]'"
    ) from error

__all__ = [
    "LocalRedisContainer",
    "LocalTestWorker",
    "LocalWorkerContainer",
    "celery_backend",
    "celery_broker",
    "default_redis_backend",
    "default_redis_backend_cls",
    "default_redis_broker",
    "default_redis_broker_cls",
    "default_worker_cls",
    "default_worker_container",
    "default_worker_container_cls",
    "docker_client",
    "local_redis",
    "local_worker",
]

_REDIS_PORT = "6379/tcp"


class _LocalWrapper(CeleryTestContainer):
    """What pytest-celery wraps around a container, around a process."""

    _container: LocalContainer

    def ready(self) -> bool:
        """Whether it runs; it was waited for when it was started.

        Raises:
            ContainerFailed: it has ended.
        """
        if self.status == "exited":
            raise ContainerFailed(self, f"{self.name} has ended. The end of its log:\n{self.logs()[-2000:]}")
        running: bool = self.status == "running"
        return running

    def wait_for_log(self, text: str, timeout: float, *, count: int = 1) -> None:
        """Wait until ``text`` stands in ``count`` lines of what it has written since it was last started.

        Raises:
            SubprocessError: it ended, or ``timeout`` seconds passed, before that.
        """
        self._container.wait_for_log(text, timeout, count=count)

    def wait(self, timeout: float) -> int:
        """Wait until it has ended; gives back its exit code (128 + n: by signal n).

        Raises:
            SubprocessError: it still runs after ``timeout`` seconds.
        """
        return self._container.wait(timeout)

    @property
    def pid(self) -> int:
        """Id of its main process.

        Raises:
            StbassError: it does not run.
        """
        return self._container.pid

    def teardown(self) -> None:
        """Kill its whole process group. Idempotent."""
        self._container.end()

    def _wait_port(self, port: str) -> int:
        found: int = self.ports[port][0]
        return found


class LocalRedisContainer(_LocalWrapper, RedisContainer):
    """A Redis server on a loopback port."""

    @property
    def hostname(self) -> str:
        """Where it listens, for other processes as for this one."""
        return "127.0.0.1"

    @property
    def url(self) -> str:
        """``redis://…`` for workers."""
        return f"{self.prefix()}{self.hostname}:{self.port}/{self.vhost}"

    @property
    def host_url(self) -> str:
        """The same, for the test."""
        return self.url


class LocalWorkerContainer(_LocalWrapper, CeleryWorkerContainer):
    """A Celery worker. Subclasses say which, as with pytest-celery's own class."""


class LocalTestWorker(CeleryTestWorker):
    """A worker node that waits for its log without looking again and again."""

    def wait_for_log(self, log: str, message: str = "", timeout: float = 60) -> None:
        """Wait until ``log`` stands in a line of what the worker has written since it was last started.

        Raises:
            TimeoutError: pytest-docker-tools' own; the worker ended, or ``timeout`` seconds passed, before that.
        """
        try:
            self.container.wait_for_log(log, timeout)
        except SubprocessError as error:
            raise ContainerTimeout(f"{message}: {error}" if message else str(error)) from error

    def get_running_processes_info(
        self, columns: list[str] | None = None, filters: dict[str, str] | None = None
    ) -> list[dict[str, Any]]:
        """Of the worker and of what it has started; see pytest-celery."""
        names = columns or ["pid", "name", "username", "cmdline", "cpu_percent", "memory_percent", "create_time"]
        worker = psutil.Process(self.container.pid)
        own = {worker.pid, *(child.pid for child in worker.children(recursive=True))}
        found = [process.info for process in psutil.process_iter(names) if process.pid in own]
        return [info for info in found if all(info.get(key) == value for key, value in (filters or {}).items())]


RedisKind = TypeVar("RedisKind", bound=LocalRedisContainer)
WorkerKind = TypeVar("WorkerKind", bound=LocalWorkerContainer)


@contextmanager
def local_redis(
    kind: type[RedisKind], command: Sequence[str] | None = None, env: Mapping[str, str] | None = None
) -> Iterator[RedisKind]:
    """A Redis server that ends with the context.

    Args:
        kind: the class around it.
        command: what a container would run; the program and the port in it are replaced. ``kind.command()`` by default.
        env: environment variables beside those of this Python process.

    Raises:
        ConfigurationError: the class is one for containers.
        MissingDependencyError: there is no server program; the message says how to get one.
        SubprocessError: it did not start; the message has the end of its log.
    """
    _check_kind(kind, LocalRedisContainer)
    options = list(kind.command() if command is None else command)[1:]
    with tempfile.TemporaryDirectory(prefix="stbass-redis-", ignore_cleanup_errors=True) as directory:

        def start(port: int) -> LocalContainer:
            return LocalContainer(
                [str(find_redis_server()), *options, "--port", str(port), "--bind", "127.0.0.1", "--dir", directory],
                ready="Ready to accept connections",
                name="redis",
                env=env,
                ports={_REDIS_PORT: port},
            ).start()

        process = on_free_port(start)
        try:
            yield kind(process)
        finally:
            process.end()


@contextmanager
def local_worker(
    kind: type[WorkerKind],
    env: Mapping[str, str],
    command: Sequence[str] | None = None,
    content: Mapping[str, bytes] | None = None,
) -> Iterator[WorkerKind]:
    """A Celery worker that consumes its queues when the context is entered, and ends with it.

    Args:
        kind: the class around it.
        env: environment variables beside those of this Python process, as ``kind.initial_env`` makes them.
        command: what to run; ``kind.command()`` by default.
        content: files for its working directory, by their path there, as ``kind.initial_content`` makes them.

    Raises:
        ConfigurationError: the class is one for containers.
        SubprocessError: it did not start; the message has the end of its log.
    """
    _check_kind(kind, LocalWorkerContainer)
    with ExitStack() as stack:
        directory = None
        if content:
            name = tempfile.TemporaryDirectory(prefix="stbass-worker-", ignore_cleanup_errors=True)
            directory = Path(stack.enter_context(name))
            for path, text in content.items():
                (directory / path).parent.mkdir(parents=True, exist_ok=True)
                (directory / path).write_bytes(text)
        process = LocalContainer(
            kind.command() if command is None else command,
            ready=f"{kind.worker_name()}@%h ready.",
            name=kind.worker_name(),
            env={**env, "PYTHONPATH": _python_path(env, directory)},
            cwd=directory,
        )
        stack.callback(process.end)
        yield kind(process.start())


def _python_path(env: Mapping[str, str], directory: Path | None) -> str:
    """PYTHONPATH of a container, with the directory in which the worker's files are here."""
    inside = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    here = [] if directory is None else [str(directory)]
    paths = [path for path in inside if path != DEFAULT_WORKER_VOLUME["bind"]]
    return os.pathsep.join([*here, *paths, *filter(None, [os.environ.get("PYTHONPATH")])])


def _check_kind(kind: object, base: type) -> None:
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise ConfigurationError(f"{kind!r} is for containers: make it a subclass of {base.__name__}")


# Fixtures ----------------------------------------------------------------------------------------


@pytest.fixture
def default_redis_broker_cls() -> type[LocalRedisContainer]:
    """The class around the broker."""
    return LocalRedisContainer


@pytest.fixture
def default_redis_backend_cls() -> type[LocalRedisContainer]:
    """The class around the result backend."""
    return LocalRedisContainer


@pytest.fixture
def default_redis_broker(
    default_redis_broker_cls: type[LocalRedisContainer],
    default_redis_broker_command: list[str],
    default_redis_broker_env: dict[str, str],
) -> Iterator[LocalRedisContainer]:
    """The broker."""
    with local_redis(default_redis_broker_cls, default_redis_broker_command, default_redis_broker_env) as redis:
        yield redis


@pytest.fixture
def default_redis_backend(
    default_redis_backend_cls: type[LocalRedisContainer],
    default_redis_backend_command: list[str],
    default_redis_backend_env: dict[str, str],
) -> Iterator[LocalRedisContainer]:
    """The result backend."""
    with local_redis(default_redis_backend_cls, default_redis_backend_command, default_redis_backend_env) as redis:
        yield redis


@pytest.fixture
def celery_broker(celery_redis_broker: RedisTestBroker) -> RedisTestBroker:
    """Redis, and not once more for each broker whose package is installed."""
    return celery_redis_broker


@pytest.fixture
def celery_backend(celery_redis_backend: RedisTestBackend) -> RedisTestBackend:
    """Redis, and not once more for each backend whose package is installed."""
    return celery_redis_backend


@pytest.fixture
def default_worker_container_cls() -> type[LocalWorkerContainer]:
    """The class around the worker."""
    return LocalWorkerContainer


@pytest.fixture
def default_worker_cls() -> type[LocalTestWorker]:
    """The class of the worker's node."""
    return LocalTestWorker


@pytest.fixture
def default_worker_container(
    default_worker_container_cls: type[LocalWorkerContainer],
    default_worker_command: list[str],
    default_worker_env: dict[str, str],
    default_worker_initial_content: dict[str, bytes],
) -> Iterator[LocalWorkerContainer]:
    """The worker."""
    with local_worker(
        default_worker_container_cls, default_worker_env, default_worker_command, default_worker_initial_content
    ) as worker:
        yield worker


@pytest.fixture(scope="session")
def docker_client() -> None:
    """What every fixture of pytest-docker-tools starts with: there is none."""
    pytest.fail(
        "this test asks for a Docker container, and stbass.testing.pytest_celery_local has none:"
        " it stands in for the Redis broker, the Redis backend and the worker only",
        pytrace=False,
    )
