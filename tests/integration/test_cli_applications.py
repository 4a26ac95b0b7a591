"""Applications of one's own under ``stbass worker`` and ``stbass dev``, and those that cannot be used."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stbass.testing._guarded import GuardedProcess
from tests.os_processes import command_of, descendants_of

ROOT = Path(__file__).parents[2]
STBASS = [sys.executable, "-m", "stbass.cli"]
AGENTS = """
from stbass.process import Process, ProcessContext

@Process
async def greet(ctx: ProcessContext, name: str) -> str:
    return f"Hello {name}"
"""
APPLICATION = """
from celery import Celery
from stbass import BackendRegistry
from stbass.backends.celery import CeleryBackend, install

app = Celery("shop", broker={url!r}, backend={url!r}, include=["agents"])
registry = BackendRegistry()
install(app, registry=registry)
registry.register("desk", CeleryBackend(app))
registry.register("pool:*", CeleryBackend(app))
"""


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def refused(cwd: Path, *arguments: str, **more: str) -> str:
    """The one line with which the command line refuses these arguments."""
    done = subprocess.run(
        [*STBASS, *arguments], env=environment(**more), cwd=cwd, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 3, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@contextmanager
def running(cwd: Path, *arguments: str, **more: str) -> Iterator[GuardedProcess]:
    process = GuardedProcess([*STBASS, *arguments], name="stbass", env=environment(**more), cwd=cwd)
    try:
        yield process
    finally:
        process.kill()


@pytest.fixture
def project(tmp_path: Path, redis_url: str) -> Path:
    """A folder with an application whose broker is the session's Redis, whatever the environment says."""
    (tmp_path / "agents.py").write_text(AGENTS)
    (tmp_path / "shop.py").write_text(APPLICATION.format(url=redis_url))
    return tmp_path


# Refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", [["worker"], pytest.param(["dev", "--port", "0"], marks=pytest.mark.slow)], ids=["worker", "dev"]
)
def test_an_application_that_cannot_be_used(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "shop.py").write_text("def f():\n    return 1 / 0\nf()\n")
    line = refused(tmp_path, *command, "-e", "desk", "-A", "shop")
    place = f"{tmp_path / 'shop.py'}, line 2 (return 1 / 0),"
    assert line == f"stbass: --app 'shop': {place} raises ZeroDivisionError: division by zero\n"


def test_a_module_with_two_applications_needs_the_name_of_one(tmp_path: Path) -> None:
    text = APPLICATION.format(url="redis://127.0.0.1:1/0")
    (tmp_path / "agents.py").write_text(AGENTS)
    # given two, neither of which has the name that Celery looks for first
    (tmp_path / "two.py").write_text(f"{text}\nfirst, second = app, Celery('second')\ndel app\n")
    line = refused(tmp_path, "worker", "-e", "desk", "-A", "two")
    assert "this module has several Celery applications, first, second; say which one: --app two:first" in line
    # and two of which one has
    (tmp_path / "shops.py").write_text(f"{text}\nother = Celery('other')\n")
    assert "Redis at redis://127.0.0.1:1/0 cannot be reached" in status(tmp_path, "shops")
    # and one that is named
    assert "Redis at redis://127.0.0.1:1/0 cannot be reached" in status(tmp_path, "two:first")


def status(cwd: Path, app: str) -> str:
    command = [*STBASS, "status", "-A", app]
    done = subprocess.run(command, env=environment(), cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    return done.stderr


def test_a_module_that_raises_is_told_with_its_line(project: Path) -> None:
    (project / "broken.py").write_text("import os\nos.environ['NO_SUCH_KEY_OF_MINE']\n")
    line = refused(project, "worker", "-e", "desk", "-A", "shop", "--include", "broken")
    assert "--include 'broken': " in line
    assert "broken.py, line 2 (os.environ['NO_SUCH_KEY_OF_MINE']), raises KeyError: 'NO_SUCH_KEY_OF_MINE'" in line


def test_dev_without_an_endpoint_says_what_to_write(tmp_path: Path) -> None:
    assert "the application 'stbass.app' names no endpoint; name those to serve: stbass dev -e" in refused(
        tmp_path, "dev", "--port", "0"
    )


def test_dev_says_that_the_servers_of_others_cannot_be_reached(tmp_path: Path) -> None:
    # given a Redis that is named and not there, and an application whose own broker is not
    (tmp_path / "shop.py").write_text(
        "from celery import Celery\nfrom stbass.backends.celery import install\n"
        "app = Celery('shop', broker='redis://127.0.0.1:1/0', backend='redis://127.0.0.1:1/0')\ninstall(app)\n"
    )
    for which in (["--redis", "redis://127.0.0.1:1/0"], ["-A", "shop"]):
        # then it says so at once, and not when a worker has waited for it for a minute
        line = refused(tmp_path, "dev", "-e", "desk", "--port", "0", *which)
        assert "Redis at redis://127.0.0.1:1/0 cannot be reached" in line


@pytest.mark.slow
def test_dev_says_that_its_port_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refused(tmp_path, "dev", "-e", "desk", "--port", str(port))
    assert f"port {port} cannot be used (Address already in use)" in line
    assert "--port" in line


# Used --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pool", "children"), [([], 0), (["--pool", "prefork"], 2)], ids=["asyncio", "prefork"])
def test_a_worker_has_one_event_loop_unless_it_is_told_otherwise(project: Path, pool: list[str], children: int) -> None:
    with running(project, "worker", "-A", "shop", "-e", "desk", "-c", "2", "-n", "mine@here", *pool) as worker:
        worker.wait_for_log("mine@here ready.", 60)
        assert "at most 2 at once" in worker.log
        assert "agents:greet" in worker.log
        assert len([pid for pid in descendants_of(worker.pid) if "python" in command_of(pid)[0]]) == children


def test_dev_serves_the_endpoints_of_the_application_on_its_own_broker(project: Path, redis_url: str) -> None:
    with running(project, "dev", "-A", "shop", "--port", "0") as dev:
        dev.wait_for_log("export STBASS_LLM_URL=", 90)
        assert "endpoints    desk\n" in dev.log
        assert "processes    agents:greet\n" in dev.log
        where = redis_url.removeprefix("redis://").partition("/")[0]
        assert f"{where}" in dev.log
        assert "shop does not read STBASS_BROKER_URL" in dev.log
        assert "no Redis was started" in dev.log
        assert "export STBASS_BROKER_URL" not in dev.log
        assert not [pid for pid in descendants_of(dev.pid) if "server" in command_of(pid)[0]]
        # What a worker writes when it starts has not come before that, and all of it is one screen.
        assert len(dev.log.splitlines()) < 20


@pytest.mark.slow
def test_dev_starts_its_workers_again_when_a_file_changes(tmp_path: Path) -> None:
    # given workers that know one process
    agents = tmp_path / "agents.py"
    agents.write_text(AGENTS)
    with running(tmp_path, "dev", "-e", "desk", "-I", "agents", "--port", "0") as dev:
        dev.wait_for_log("export STBASS_LLM_URL=", 90)
        assert f"when a Python file in {tmp_path} changes" in dev.log
        # when a file cannot be imported, then they stay as they are,
        agents.write_text(f"{AGENTS}\ndef (\n")
        dev.wait_for_log("agents.py changed, and the workers stay as they are: ", 60)
        dev.wait_for_log("raises SyntaxError", 10)
        # and when it has one more process, then they know it.
        agents.write_text(AGENTS + AGENTS.replace("greet", "part"))
        dev.wait_for_log("agents.py changed: the workers have started again", 90)
        dev.wait_for_log("and know agents:greet, agents:part", 10)
        dev.send_signal(signal.SIGINT)
        assert dev.wait(60) == 0
