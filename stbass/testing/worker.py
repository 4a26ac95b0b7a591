"""A Celery worker in a subprocess, for tests and for development, that ends with this Python process at the latest."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from stbass._values.ids import new_id
from stbass.errors import StbassError
from stbass.testing._guarded import GuardedProcess, GuardedProgram
from stbass.testing._started import StartedInContext

__all__ = ["Worker"]

_READY_SECONDS = 30.0
_LEVELS_WITH_READY = ("DEBUG", "INFO")


class Worker(GuardedProgram, StartedInContext):
    """``celery -A app worker`` in a process group of its own, as a context manager (``with`` and ``async with``).

    However this Python process ends, the worker ends too. Leaving the context kills the whole group; use
    :meth:`terminate` before that for a warm shutdown.

    Args:
        app: what ``celery -A`` takes.
        queues: what the worker consumes.
        pool: ``asyncio``, ``prefork``, ``threads`` or ``solo``; None leaves it to the application.
        concurrency: how many processes may run at once; None leaves it to the application.
        env: environment variables beside those of this Python process, for example ``STBASS_BROKER_URL``.
        include: modules whose processes the worker may run, beside those of the application.
        loglevel: ``DEBUG`` or ``INFO`` (a worker says that it is ready on no other level).
        args: more arguments for ``celery worker``.
        cwd: where modules are looked for first; None means here.
        on_line: called, in a thread, with each line that the worker writes, and with None when no more will come.
        name: of the worker, as ``celery worker -n`` takes it; None makes one.

    Raises:
        ValueError: no queue is named, or the log level hides that the worker is ready.
    """

    def __init__(
        self,
        app: str = "stbass.app",
        *queues: str,
        pool: str | None = None,
        concurrency: int | None = None,
        env: Mapping[str, str] | None = None,
        include: Sequence[str] = (),
        loglevel: str = "INFO",
        args: Sequence[str] = (),
        cwd: str | Path | None = None,
        on_line: Callable[[str | None], None] | None = None,
        name: str | None = None,
    ) -> None:
        if not queues:
            raise ValueError("name at least one queue, e.g. Worker('stbass.app', 'anthropic')")
        if loglevel.upper() not in _LEVELS_WITH_READY:
            raise ValueError(f"loglevel must be one of {', '.join(_LEVELS_WITH_READY)}, got {loglevel!r}")
        self.queues = queues
        """The queues that it consumes."""
        self.name = name or f"stbass-{new_id()[:13]}@{socket.gethostname()}"
        """The worker's name, as Celery and results show it."""
        self._env = {**os.environ, **(env or {})}
        self._cwd = cwd
        self._on_line = on_line
        self._command = [sys.executable, "-m", "celery", "-A", app, "worker", "-Q", ",".join(queues), "-n", self.name]
        self._command += ["--without-gossip", "--without-mingle", "--loglevel", loglevel.upper()]
        if pool is not None:
            # The application's setting wins over `-P prefork`, which Celery cannot tell from its default.
            self._env["STBASS_POOL"] = pool
            if pool != "asyncio":
                self._command += ["-P", pool]
        if concurrency is not None:
            self._command += ["-c", str(concurrency)]
        if include:
            self._command += ["-I", ",".join(include)]
        self._command += args

    def __repr__(self) -> str:
        state = "running" if self.running else "not running"
        return f"<Worker {self.name} on {', '.join(self.queues)}, {state}>"

    @property
    def pid(self) -> int:
        """Process id of the worker's main process.

        Raises:
            StbassError: it was never started.
        """
        return self._started().pid

    def start(self, timeout: float = _READY_SECONDS) -> Self:
        """Start it, and return when it consumes its queues.

        Raises:
            StbassError: it runs already.
            SubprocessError: it ended, or was not ready within ``timeout`` seconds; the message has the end of its log.
        """
        if self.running:
            raise StbassError(f"the worker {self.name} runs already")
        self._process = process = GuardedProcess(
            self._command, name=f"worker {self.name}", env=self._env, cwd=self._cwd, on_line=self._on_line
        )
        try:
            process.wait_for_log(f"{self.name} ready.", timeout)
        except BaseException:
            process.kill()
            raise
        return self

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the worker's main process."""
        self._started().send_signal(number)

    def terminate(self, timeout: float | None = None) -> int | None:
        """SIGTERM: the worker's warm shutdown. With a ``timeout``, wait that many seconds for its exit code.

        Raises:
            SubprocessError: it still runs after ``timeout`` seconds.
        """
        process = self._started()
        process.send_signal(signal.SIGTERM)
        return None if timeout is None else process.wait(timeout)

    def kill(self) -> None:
        """SIGKILL for the worker and everything it started; returns when all of it is gone. Idempotent."""
        if self._process is not None:
            self._process.kill()

    def restart(self) -> Self:
        """Kill it if it runs, and start it again under the same name."""
        self.kill()
        return self.start()

    _leave = kill

    def _not_started(self) -> str:
        return f"the worker {self.name} has not been started; use `with Worker(…) as worker:` or start()"
