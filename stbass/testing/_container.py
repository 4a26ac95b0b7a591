"""A program in a subprocess that answers as a Docker container does, for tools that expect one."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from stbass._values.ids import new_id
from stbass.errors import StbassError
from stbass.testing._guarded import GuardedProcess, GuardedProgram, SubprocessError

__all__ = ["ExecResult", "LocalContainer"]

_EXEC_SECONDS = 60.0
_SHORT_ID = 12


class ExecResult(NamedTuple):
    """What a command in the container ended with, and what it wrote."""

    exit_code: int
    output: bytes


class LocalContainer(GuardedProgram):
    """A program that runs here, and answers as docker-py's ``Container`` does.

    Nothing is isolated: the program shares network, files and users with this Python process. It runs in a process
    group of its own, and all of the group ends with this Python process at the latest.

    Args:
        command: the program and its arguments; ``%h`` in them becomes the container's host name, as Celery has it.
        ready: what it writes to its log when it is ready; ``%h`` as in the command.
        name: what to call it, before a number that makes it unique.
        env: its environment, beside that of this Python process.
        cwd: its working directory.
        ports: ``{"6379/tcp": 40001}``: the TCP ports that it listens on, by the name they have in a container.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        ready: str,
        name: str,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        ports: Mapping[str, int] | None = None,
    ) -> None:
        self.id = (new_id() + new_id()).replace("-", "")
        """64 hexadecimal digits, as Docker's; the first 12 are the host name."""
        self.name = f"{name}-{self.id[:_SHORT_ID]}"
        """Its name; no other container has it."""
        self._command = [part.replace("%h", self.hostname) for part in command]
        self._ready = ready.replace("%h", self.hostname)
        # The programs of this Python's environment (celery, python) before others of the same name.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        self._own_env = dict(env or {})
        self._env = {**os.environ, "PATH": path, **self._own_env}
        self._cwd = cwd
        self._ports = dict(ports or {})
        self._earlier = ""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}, {self.status}>"

    # What docker-py's containers have ------------------------------------------------------------

    @property
    def status(self) -> str:
        """``created``, ``running`` or ``exited``: of this moment, without a :meth:`reload`."""
        if self._process is None:
            return "created"
        return "running" if self.running else "exited"

    @property
    def hostname(self) -> str:
        """The first 12 digits of the id."""
        return self.id[:_SHORT_ID]

    @property
    def attrs(self) -> dict[str, Any]:
        """What ``docker inspect`` would tell, as far as it applies."""
        running = self.status == "running"
        code = self.exit_code
        return {
            "Id": self.id,
            "Name": f"/{self.name}",
            "Config": {
                "Hostname": self.hostname,
                "Cmd": list(self._command),
                "Env": [f"{key}={value}" for key, value in self._own_env.items()],
            },
            "State": {
                "Status": self.status,
                "Running": running,
                "Pid": self.pid if running else 0,
                "ExitCode": code or 0,
            },
            "HostConfig": {"PortBindings": {}},
            "NetworkSettings": {
                "Networks": {"host": {"IPAddress": "127.0.0.1"}},
                "Ports": {
                    inside: [{"HostIp": "127.0.0.1", "HostPort": str(port)}] for inside, port in self._ports.items()
                },
            },
        }

    def reload(self) -> None:
        """Nothing: what a Docker client would fetch anew is always of this moment here."""

    def logs(self) -> bytes:
        """What it has written since it was first started, over restarts."""
        return (self._earlier + self.log).encode()

    def kill(self, signal: str | int | None = None) -> None:
        """Send a signal to the program. SIGKILL, the default, goes to all that it has started too, and is waited for.

        Args:
            signal: such as ``"SIGTERM"``, ``"TERM"`` or ``15``.

        Raises:
            StbassError: it does not run.
            ValueError: there is no such signal.
        """
        number = _signal(signal)
        process = self._process
        if process is None or not process.running:
            raise StbassError(f"container {self.name} does not run")
        if number == _signal("KILL"):
            process.kill()
        else:
            process.send_signal(number)

    def stop(self, timeout: float = 10) -> None:
        """SIGTERM, and after ``timeout`` seconds SIGKILL; returns when all of it is gone. Idempotent."""
        process = self._process
        if process is None:
            return
        try:
            process.send_signal(_signal("TERM"))
            with contextlib.suppress(SubprocessError):  # that it took too long; then it is killed
                process.wait(timeout)
        finally:
            process.kill()

    def restart(self, timeout: float = 10) -> None:
        """:meth:`stop` it, and start it again; returns when it is ready."""
        self.stop(timeout)
        self.start()

    def exec_run(
        self, cmd: str | Sequence[str], *, environment: Mapping[str, str] | None = None, workdir: str | None = None
    ) -> ExecResult:
        """Run another command beside the program, with its environment and in its directory.

        Raises:
            SubprocessError: it did not end within a minute.
        """
        argv = shlex.split(cmd) if isinstance(cmd, str) else list(cmd)
        env = {**self._env, **(environment or {})}
        process = GuardedProcess(argv, name=f"{argv[0]} in {self.name}", env=env, cwd=workdir or self._cwd)
        try:
            code = process.wait(_EXEC_SECONDS)
        finally:
            process.kill()
        return ExecResult(code, process.log.encode())

    # What docker-py's containers do not have -----------------------------------------------------

    def start(self, timeout: float | None = 30.0) -> Self:
        """Start it, and return when it is ready; with ``timeout=None`` at once.

        Raises:
            StbassError: it runs already.
            SubprocessError: it ended, or was not ready within ``timeout`` seconds; the message has the end of its log.
        """
        if self.status == "running":
            raise StbassError(f"container {self.name} runs already")
        self._earlier = self.logs().decode()
        self._process = GuardedProcess(self._command, name=self.name, env=self._env, cwd=self._cwd)
        if timeout is not None:
            try:
                self.wait_ready(timeout)
            except BaseException:
                self.end()
                raise
        return self

    def wait_ready(self, timeout: float = 30.0) -> None:
        """Wait until it is ready.

        Raises:
            SubprocessError: it ended, or ``timeout`` seconds passed, before that.
        """
        self.wait_for_log(self._ready, timeout)

    @property
    def pid(self) -> int:
        """Id of the program's process.

        Raises:
            StbassError: it does not run.
        """
        if self.status != "running":
            raise StbassError(f"container {self.name} does not run")
        return self._started().pid

    def end(self) -> None:
        """Kill the whole process group, however far it had come. Idempotent."""
        if self._process is not None:
            self._process.kill()

    def _not_started(self) -> str:
        return f"container {self.name} has not been started"


def _signal(given: str | int | None) -> signal.Signals:
    if given is None:
        return signal.Signals.SIGKILL
    try:
        if isinstance(given, int) or given.isdigit():
            return signal.Signals(int(given))
        return signal.Signals[given if given.startswith("SIG") else f"SIG{given}"]
    except (KeyError, ValueError):
        raise ValueError(f"there is no signal {given!r}") from None
