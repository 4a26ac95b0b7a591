"""The local processes that stand in for pytest-celery's containers."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from pytest_celery import CeleryTestSetup, CeleryWorkerContainer
from pytest_docker_tools.exceptions import ContainerFailed

from stbass.errors import ConfigurationError, StbassError
from stbass.testing import SubprocessError, pytest_celery_local
from stbass.testing.pytest_celery_local import LocalRedisContainer, local_redis, local_worker
from tests.acceptance.conftest import ROOT, ClusterWorker
from tests.os_processes import descendants_of, wait_until_gone

pytestmark = pytest.mark.acceptance


class PreforkWorker(ClusterWorker):
    options = ("-P", "prefork", "-c", "2")
    variables = {"TEST_POOL": "prefork"}  # noqa: RUF012


def _environment(broker: LocalRedisContainer, backend: LocalRedisContainer) -> dict[str, str]:
    config = {
        "celery_broker_cluster_config": {"urls": [broker.url]},
        "celery_backend_cluster_config": {"urls": [backend.url]},
    }
    return PreforkWorker.initial_env(config)


def test_a_worker_answers_as_a_container_does(celery_setup: CeleryTestSetup) -> None:
    node = celery_setup.worker
    container = node.container
    assert celery_setup.ready(docker=True, control=True)
    assert re.fullmatch("[0-9a-f]{64}", container.id)
    assert container.name == f"celery_test_worker-{container.id[:12]}"
    assert node.hostname() == f"celery_test_worker@{container.id[:12]}"
    assert f"{node.hostname()} ready." in node.logs()
    assert container.env["CELERY_BROKER_URL"] == celery_setup.broker.config()["url"]
    container.reload()
    state = container.attrs["State"]
    assert (container.status, state["Status"], state["Running"]) == ("running", "running", True)
    assert container.attrs["Config"]["Cmd"][:2] == ["celery", "-A"]
    assert [info["pid"] for info in node.get_running_processes_info(["pid"])] == [container.pid]

    # A command beside it, in its environment and with its Python.
    code, output = container.exec_run(
        ["python", "-c", "import os, sys; print(os.environ['CELERY_BROKER_URL']); sys.exit(3)"]
    )
    assert (code, output.decode().strip()) == (3, container.env["CELERY_BROKER_URL"])
    code, output = container.exec_run("celery --version")
    assert (code, b"5." in output) == (0, True)

    pid = container.pid
    node.kill()
    assert (container.status, container.attrs["State"]["ExitCode"]) == ("exited", 128 + signal.SIGKILL)
    assert wait_until_gone(pid)
    with pytest.raises(ContainerFailed, match="has ended"):
        container.ready()
    with pytest.raises(StbassError, match="does not run"):
        container.kill()

    node.restart()
    assert container.status == "running"
    assert container.pid != pid
    # As Docker's: what it wrote before is still there.
    assert node.logs().count(f"{node.hostname()} ready.") == 2
    answer = celery_setup.app.send_task("tests.add", (1, 2), queue=node.worker_queue)
    assert answer.get(timeout=10) == 3

    with pytest.raises(ValueError, match="SIGNONE"):
        container.kill("SIGNONE")
    container.kill("TERM")
    assert container.wait(15) == 0
    with pytest.raises(AssertionError, match="did not log"):
        node.assert_log_exists("this is never written", timeout=5)


@pytest.mark.slow
def test_broker_and_backend_are_servers_of_their_own(celery_setup: CeleryTestSetup) -> None:
    broker, backend = celery_setup.broker, celery_setup.backend
    assert broker.config()["port"] != backend.config()["port"]
    assert broker.config()["url"] == broker.config()["host_url"] == celery_setup.app.conf.broker_url
    assert backend.config()["host_url"] == celery_setup.app.conf.result_backend
    assert broker.container.client.ping()
    assert broker.container.ports["6379/tcp"] == [broker.config()["port"]]
    broker.container.client.set("key", "value")
    broker.restart()
    # The same address, and empty: it was told to save nothing.
    assert broker.config()["host_url"] == celery_setup.app.conf.broker_url
    assert broker.container.client.get("key") is None


def test_teardown_kills_whole_process_groups() -> None:
    with local_redis(LocalRedisContainer) as broker, local_redis(LocalRedisContainer) as backend:
        env = _environment(broker, backend)
        with local_worker(PreforkWorker, env) as worker:
            started = [worker.pid, *descendants_of(worker.pid)]
            assert len(started) == 3
        assert all(wait_until_gone(pid) for pid in started)

        with local_worker(PreforkWorker, env) as worker:
            started = [worker.pid, *descendants_of(worker.pid)]
            # Stopped children cannot notice that their parent has died.
            for pid in started[1:]:
                os.kill(pid, signal.SIGSTOP)
            os.kill(worker.pid, signal.SIGKILL)
            assert worker.wait(10) == 128 + signal.SIGKILL
            worker.teardown()
            worker.teardown()
        assert all(wait_until_gone(pid) for pid in started)
        servers = [broker.pid, backend.pid]
    assert all(wait_until_gone(pid) for pid in servers)


def test_what_does_not_start_says_why() -> None:
    class NoSuchModule(ClusterWorker):
        @classmethod
        def command(cls, *_args: str, **_options: object) -> list[str]:
            return ["celery", "-A", "no_such_module", "worker"]

    with pytest.raises(SubprocessError, match="no_such_module"), local_worker(NoSuchModule, {}):
        pass
    with (
        pytest.raises(SubprocessError, match="no-such-option"),
        local_redis(LocalRedisContainer, ["redis-server", "--no-such-option", "1"]),
    ):
        pass
    with (
        pytest.raises(ConfigurationError, match="subclass of LocalWorkerContainer"),
        local_worker(CeleryWorkerContainer, {}),
    ):
        pass


@pytest.mark.slow
def test_a_suite_for_containers_runs_as_documented_and_asks_no_docker_engine(tmp_path: Path) -> None:
    line = "    from stbass.testing.pytest_celery_local import *"
    assert pytest_celery_local.__doc__ is not None
    assert line in pytest_celery_local.__doc__
    (tmp_path / "conftest.py").write_text(line.strip())
    (tmp_path / "test_stock.py").write_text(
        textwrap.dedent(
            """
            from pytest_celery import add

            def test_good(celery_setup):
                assert celery_setup.ready(ping=True, control=True, docker=True)
                assert len(celery_setup) == 3
                assert add.s(1, 2).apply_async(queue=celery_setup.worker.worker_queue).get(timeout=10) == 3
                celery_setup.worker.assert_log_exists("succeeded")

            def test_bad(celery_rabbitmq_broker):
                pass
            """
        )
    )
    with socket.create_server(("127.0.0.1", 0)) as docker:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", "."]
        address = f"tcp://127.0.0.1:{docker.getsockname()[1]}"
        env = {**os.environ, "DOCKER_HOST": address, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert not select.select([docker], [], [], 0)[0]
    assert "1 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert "this test asks for a Docker container" in done.stdout
