"""A worker of one's own: started when it is ready, ended as it is told to, and never left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stbass.errors import StbassError
from stbass.testing import RedisServer, SubprocessError, Worker
from tests.conftest import MakeWorker
from tests.os_processes import descendants_of, wait_until_gone

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def test_the_application_works_as_it_stands(redis_url: str, redis_server: RedisServer) -> None:
    lines: list[str | None] = []
    with Worker("celery_app", "anthropic", env={"STBASS_BROKER_URL": redis_url}, on_line=lines.append) as worker:
        assert worker.running
        assert f"{worker.name} ready." in worker.log
        assert "stbass.execute" in worker.log
        assert redis_server.command("PUBSUB", "NUMSUB", "stbass:queue:anthropic")[1] >= 0
        pid = worker.pid
    assert wait_until_gone(pid)
    assert "".join(line for line in lines if line is not None) == worker.log
    assert lines[-1] is None


def test_a_warm_shutdown_ends_with_exit_code_0(make_worker: MakeWorker) -> None:
    worker = make_worker("anthropic")
    assert worker.terminate(timeout=15) == 0
    assert "Warm shutdown" in worker.log


def test_a_kill_takes_the_children_too(make_worker: MakeWorker) -> None:
    worker = make_worker("anthropic", pool="prefork", concurrency=2)
    children = descendants_of(worker.pid)
    assert len(children) >= 2
    worker.kill()
    assert worker.exit_code is not None
    assert worker.exit_code != 0
    assert all(wait_until_gone(child) for child in children)


@pytest.mark.slow
def test_it_restarts_under_the_same_name(make_worker: MakeWorker) -> None:
    worker = make_worker("anthropic")
    name, pid = worker.name, worker.pid
    worker.restart()
    assert worker.name == name
    assert worker.pid != pid
    assert worker.running


def test_two_workers_have_names_of_their_own() -> None:
    assert Worker("celery_app", "anthropic").name != Worker("celery_app", "anthropic").name


def test_one_that_ends_at_the_start_is_an_error_with_its_log(redis_url: str) -> None:
    worker = Worker("celery_app", "anthropic", env={"STBASS_BROKER_URL": redis_url, "STBASS_LEASE": "soon"})
    with pytest.raises(SubprocessError, match="STBASS_LEASE='soon'") as caught:
        worker.start()
    assert caught.value.exit_code not in (0, None)
    assert not worker.running


def test_one_that_is_not_ready_in_time_is_an_error_and_is_not_left_behind() -> None:
    worker = Worker("celery_app", "anthropic", env={"STBASS_BROKER_URL": "redis://127.0.0.1:1/0"})
    with pytest.raises(SubprocessError, match="within 3 s") as caught:
        worker.start(timeout=3)
    assert caught.value.exit_code is None
    assert wait_until_gone(worker.pid)


def test_waiting_for_what_it_never_writes_is_bounded(make_worker: MakeWorker) -> None:
    worker = make_worker("anthropic")
    worker.wait_for_log("ready.")
    with pytest.raises(SubprocessError, match=r"did not write 'no such line' within 0\.1 s"):
        worker.wait_for_log("no such line", timeout=0.1)
    worker.kill()
    with pytest.raises(SubprocessError, match="ended before it wrote"):
        worker.wait_for_log("no such line", timeout=30)


def test_what_cannot_work_is_refused_before_anything_starts() -> None:
    with pytest.raises(ValueError, match="at least one queue"):
        Worker("celery_app")
    with pytest.raises(ValueError, match="loglevel"):
        Worker("celery_app", "anthropic", loglevel="ERROR")
    with pytest.raises(StbassError, match="has not been started"):
        Worker("celery_app", "anthropic").terminate()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_when_the_process_that_started_it_is_killed(how: signal.Signals, redis_url: str) -> None:
    code = f"""
import signal
from stbass.testing import Worker
worker = Worker("celery_app", "anthropic", env={{"STBASS_BROKER_URL": {redis_url!r}}}).start()
print(worker.pid, flush=True)
signal.pause()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.send_signal(how)
        parent.wait(10)
    assert wait_until_gone(pid)
