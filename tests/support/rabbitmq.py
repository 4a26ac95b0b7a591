"""A RabbitMQ server of one's own, on loopback, that ends with this Python process at the latest."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from stbass.testing._guarded import GuardedProcess
from stbass.testing.redis_server import free_port

__all__ = ["RabbitMQ", "find_rabbitmq"]

# On Debian the program on PATH is a wrapper that wants to be root; what it calls runs as anybody.
_DEBIAN = Path("/usr/lib/rabbitmq/bin")
_START_SECONDS = 60.0
_STOP_SECONDS = 30.0
_CTL_SECONDS = 60.0


class RabbitMQ:
    """A node with a folder, ports, a name and a cookie of its own; its data is kept over :meth:`restart`.

    Args:
        programs: the folder of ``rabbitmq-server`` and ``rabbitmqctl``.
    """

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._folder = Path(tempfile.mkdtemp(prefix="stbass-rabbitmq-"))
        self._names: GuardedProcess | None = None
        self._process: GuardedProcess | None = None
        self.port = free_port()
        (self._folder / "plugins").write_text("[].\n")
        self._env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "LC_ALL": "C.UTF-8",
            # The cookie is made there.
            "HOME": str(self._folder),
            "ERL_EPMD_PORT": str(free_port()),
            "RABBITMQ_NODENAME": f"stbass-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(self._folder / "data"),
            "RABBITMQ_LOG_BASE": str(self._folder / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._folder / "plugins"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_CONFIG_FILE": str(self._folder / "none"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self._folder / "none.config"),
            # Of how long a message may be unacknowledged; by default it is looked at once a minute.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-rabbit channel_tick_interval 500",
        }

    @property
    def url(self) -> str:
        """``amqp://…`` for clients."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def start(self) -> Self:
        """Start it, and return when it takes connections."""
        if self._names is None:
            # Nodes start this by themselves where there is none, and leave it behind.
            command = ["epmd", "-port", self._env["ERL_EPMD_PORT"], "-address", "127.0.0.1"]
            self._names = GuardedProcess(command, name="epmd", env=self._env)
        command = [str(self._programs / "rabbitmq-server")]
        self._process = GuardedProcess(command, name="rabbitmq-server", env=self._env, cwd=self._folder)
        self._process.wait_for_log("Server startup complete", _START_SECONDS)
        return self

    def stop(self) -> None:
        """End it, orderly."""
        process, self._process = self._process, None
        if process is not None:
            process.end(signal.SIGTERM, _STOP_SECONDS)

    def kill(self) -> None:
        """SIGKILL; its data stays."""
        assert self._process is not None
        self._process.kill()

    def control(self, *args: str) -> str:
        """What ``rabbitmqctl`` says.

        Raises:
            subprocess.CalledProcessError: it failed.
        """
        command = [str(self._programs / "rabbitmqctl"), "--quiet", *args]
        done = subprocess.run(command, env=self._env, capture_output=True, text=True, timeout=_CTL_SECONDS, check=True)
        return done.stdout

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
            if self._names is not None:
                self._names.kill()
            shutil.rmtree(self._folder)


def find_rabbitmq() -> Path | None:
    """The folder of its programs; None if it is not installed."""
    found = shutil.which("rabbitmq-server")
    for folder in (_DEBIAN, *([] if found is None else [Path(found).resolve().parent])):
        if (folder / "rabbitmq-server").exists() and (folder / "rabbitmqctl").exists() and shutil.which("epmd"):
            return folder
    return None
