"""Programs in subprocesses, which end with this Python process at the latest, and whose log can be waited for."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from stbass.errors import StbassError

__all__ = ["GuardedProcess", "GuardedProgram", "SubprocessError"]

_LOG_LINES = 20_000
_END_SECONDS = 10.0

# The guard is a shell in a process group of its own. It starts the program, and beside it a subshell that does nothing
# but read the pipe whose other end is here. However this process ends, by SIGKILL too, the kernel closes that end, the
# subshell wakes and kills the group. The program prints its own pid first: after `exec` it is the program's.
_GUARD = """
exec 3<&0
(read -r _ <&3; kill -KILL 0) >/dev/null 2>&1 &
sh -c 'echo $$; exec "$@"' program "$@" 3<&- </dev/null
exit $?
"""


class SubprocessError(StbassError):
    """A subprocess did not do what was waited for.

    ``log`` is the end of what it wrote, ``exit_code`` what it ended with, or None while it runs.
    """

    log: str = ""
    exit_code: int | None = None


class _Log:
    """The last lines that a program wrote, filled by a thread, and a way to wait for the next ones."""

    def __init__(self, on_line: Callable[[str | None], None] | None) -> None:
        self.on_line = on_line
        self.changed = threading.Condition()
        self.lines: deque[str] = deque(maxlen=_LOG_LINES)
        self.written = 0
        self.ended = False

    def read(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                text = line.decode(errors="replace")
                with self.changed:
                    self.lines.append(text)
                    self.written += 1
                    self.changed.notify_all()
                if self.on_line is not None:
                    self.on_line(text)
        with self.changed:
            self.ended = True
            self.changed.notify_all()
        if self.on_line is not None:
            self.on_line(None)

    def wait_for(self, text: str, count: int, timeout: float) -> str:
        """``"found"``, ``"ended"`` or ``"late"``."""
        deadline = time.monotonic() + timeout
        found = seen = 0
        with self.changed:
            while True:
                new = min(self.written - seen, len(self.lines))
                found += sum(text in self.lines[index] for index in range(-new, 0))
                seen = self.written
                if found >= count:
                    return "found"
                if self.ended:
                    return "ended"
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return "late"
                self.changed.wait(remaining)


class GuardedProcess:
    """A running program with everything it starts, in one process group, which ends with this process at the latest.

    Args:
        argv: the program and its arguments.
        name: what to call it in errors.
        env: its whole environment; None means this process's.
        cwd: its working directory; None means this process's.
        on_line: called, in a thread, with each line that it writes, and with None when no more will come.

    Raises:
        SubprocessError: it could not be started at all.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        name: str,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        on_line: Callable[[str | None], None] | None = None,
    ) -> None:
        self.name = name
        guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "guard", *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=None if env is None else dict(env),
            cwd=cwd,
            start_new_session=True,
        )
        self._guard = guard
        self._finalizer = weakref.finalize(self, _end_group, guard)
        assert guard.stdout is not None
        first = guard.stdout.readline().strip()
        if not first.isdigit():
            self._finalizer()
            raise SubprocessError(f"{name} could not be started: {first.decode(errors='replace')}")
        self.pid = int(first)
        """Process id of the program itself."""
        # The thread holds the log and not this object, which can so be collected, and ends its group then.
        self._log = _Log(on_line)
        self._reader = threading.Thread(target=self._log.read, args=(guard.stdout,), name=f"log of {name}", daemon=True)
        self._reader.start()

    @property
    def running(self) -> bool:
        """Whether the program still runs."""
        return self._guard.poll() is None

    @property
    def exit_code(self) -> int | None:
        """What it ended with (128 + n: by signal n), or None while it runs."""
        code = self._guard.poll()
        return None if code is None else _as_of_a_shell(code)

    @property
    def log(self) -> str:
        """What it has written so far, standard output and standard error together."""
        with self._log.changed:
            return "".join(self._log.lines)

    def log_tail(self, lines: int = 30) -> str:
        """The last lines of the log."""
        return "".join(self.log.splitlines(keepends=True)[-lines:])

    def wait_for_log(self, text: str, timeout: float, *, count: int = 1) -> None:
        """Wait until ``text`` stands in ``count`` lines of the log.

        Raises:
            SubprocessError: the program ended, or ``timeout`` seconds passed, before that.
        """
        outcome = self._log.wait_for(text, count, timeout)
        if outcome == "ended":
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._guard.wait(_END_SECONDS)  # its output ends a moment before it does
            raise self.error(f"ended before it wrote {text!r}")
        if outcome == "late":
            raise self.error(f"did not write {text!r} within {timeout:g} s")

    def wait(self, timeout: float) -> int:
        """Wait until the program has ended; gives back its exit code (128 + n: by signal n).

        Raises:
            SubprocessError: it still runs after ``timeout`` seconds.
        """
        try:
            return _as_of_a_shell(self._guard.wait(timeout))
        except subprocess.TimeoutExpired:
            raise self.error(f"did not end within {timeout:g} s") from None

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the program, not to what it started. One that has ended gets none."""
        # The guard ends with the program, so a guard that runs means that the pid is still the program's.
        if self.running:
            os.kill(self.pid, number)

    def end(self, number: signal.Signals, timeout: float) -> None:
        """End the program by a signal, and everything it started; returns when all of it is gone.

        Raises:
            SubprocessError: it still ran after ``timeout`` seconds, and was killed.
        """
        try:
            self.send_signal(number)
            self.wait(timeout)
        finally:
            self.kill()

    def kill(self) -> None:
        """SIGKILL for the program and everything it started; returns when all of it is gone."""
        self._finalizer()
        self._reader.join(_END_SECONDS)

    def error(self, what: str) -> SubprocessError:
        """An error that says what this process did, whether it still runs, and the end of its log."""
        code, tail = self.exit_code, self.log_tail()
        state = "it still runs" if code is None else f"exit code {code}"
        return SubprocessError(
            f"{self.name} {what} ({state}). The end of its log:\n{tail.rstrip() or '(empty)'}",
            log=tail,
            exit_code=code,
        )


class GuardedProgram:
    """A program that can be started again after it has ended: one :class:`GuardedProcess` after the other."""

    _process: GuardedProcess | None = None

    @property
    def running(self) -> bool:
        """Whether its main process runs."""
        return self._process is not None and self._process.running

    @property
    def exit_code(self) -> int | None:
        """What it ended with (128 + n: by signal n), or None while it runs or before it started."""
        return None if self._process is None else self._process.exit_code

    @property
    def log(self) -> str:
        """What it has written since it was last started."""
        return "" if self._process is None else self._process.log

    def wait_for_log(self, text: str, timeout: float = 10.0, *, count: int = 1) -> None:
        """Wait until ``text`` stands in ``count`` lines of what it has written since it was last started.

        Raises:
            SubprocessError: it ended, or ``timeout`` seconds passed, before that.
        """
        self._started().wait_for_log(text, timeout, count=count)

    def wait(self, timeout: float) -> int:
        """Wait until its main process has ended; gives back the exit code (128 + n: by signal n).

        Raises:
            SubprocessError: it still runs after ``timeout`` seconds.
        """
        return self._started().wait(timeout)

    def _started(self) -> GuardedProcess:
        if self._process is None:
            raise StbassError(self._not_started())
        return self._process

    def _not_started(self) -> str:
        """What to say to somebody who wants something of it before it was started."""
        raise NotImplementedError


def _as_of_a_shell(code: int) -> int:
    # The guard gives the program's code as a shell does. When it is killed with the program, this is its own.
    return code if code >= 0 else 128 - code


def _end_group(guard: subprocess.Popen[bytes]) -> None:
    """Kill the guard's whole group."""
    # The subshell stays in the group until the pipe closes, below: until then its number cannot be anyone else's.
    os.killpg(guard.pid, signal.SIGKILL)
    guard.wait()
    if guard.stdin is not None:
        guard.stdin.close()
