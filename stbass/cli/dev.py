"""``stbass dev``: everything that a program on a fleet needs, on this machine, in one terminal."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import Any

from rich.console import Console
from rich.text import Text

from stbass._values.ids import new_id
from stbass.cli.exits import Exit
from stbass.cli.look import Found
from stbass.errors import ConfigurationError
from stbass.testing._guarded import GuardedProcess, SubprocessError
from stbass.testing.fake_llm import FakeLLM
from stbass.testing.redis_server import RedisServer, free_port

__all__ = ["run_dev"]

_COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "red")
_READY_SECONDS = 60.0
_END_SECONDS = 15.0
_MOST_PROCESSES = 20

News = tuple[str, str | int | None]
"""An endpoint, and a line of its worker or, when that has ended, its turn; or :data:`_CHANGED`, and what did."""


class _Stop(Exception):
    """A signal asked for the end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)


def run_dev(
    endpoints: list[str],
    include: list[str],
    concurrency: int | None,
    app: str,
    redis_url: str | None,
    port: int,
) -> int:
    """Start Redis (unless one is given, or the application has one elsewhere), a fake LLM (unless ``STBASS_LLM_URL``
    names a server) and a worker per endpoint; show their logs as one; start the workers again when a Python file
    changes; and end all when a signal comes or a worker ends by itself. Gives back the exit code.

    Raises:
        ConfigurationError: the application cannot be used, its servers cannot be reached, or a port is taken.
    """
    console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _raise_stop)
    redis_port = port or free_port()
    environment = {"STBASS_BROKER_URL": redis_url or f"redis://127.0.0.1:{redis_port}/0"}
    environment["STBASS_RESULT_BACKEND"] = environment["STBASS_BROKER_URL"]
    try:
        with ExitStack() as stack:
            llm = FakeLLM(latency=0.2, port=port and port + 1) if "STBASS_LLM_URL" not in os.environ else None
            found = _look(app, include, environment)
            if redis_url is None and found.reads_environment:
                _check_free(redis_port)
                stack.enter_context(RedisServer(port=redis_port))
            if llm is not None:
                _check_free(port and port + 1)
                environment["STBASS_LLM_URL"] = stack.enter_context(llm).url
            if redis_url is not None or not found.reads_environment:
                _check_reached(app, environment)
            session = _Session(console, endpoints, include, concurrency, app, environment)
            stack.callback(session.end)
            stack.enter_context(_watching(session.news))
            session.start(found)
            session.show_all(found, embedded=redis_url is None)
            return session.follow()
    except _Stop as stop:
        # A console of its own: the signal may have come in the middle of a line of the other one.
        Console(file=sys.stderr, highlight=False).print(f"Everything has ended ({stop}).")
        return Exit.OK


class _Session:
    """The workers, their log, and what follows from changes of files."""

    def __init__(
        self,
        console: Console,
        endpoints: list[str],
        include: list[str],
        concurrency: int | None,
        app: str,
        environment: Mapping[str, str],
    ) -> None:
        self.news: SimpleQueue[News] = SimpleQueue()
        self._console = console
        self._endpoints = list(dict.fromkeys(endpoints))
        self._include = include
        self._concurrency = concurrency
        self._app = app
        self._environment = environment
        self._workers: dict[str, GuardedProcess] = {}
        self._turn = 0
        """How often workers were started: the end of one of an earlier turn is no news."""

    def start(self, found: Found) -> None:
        """Start a worker per endpoint, at the same time; returns when all of them consume.

        Raises:
            ConfigurationError: no endpoint is known.
            SubprocessError: a worker did not start.
        """
        endpoints = self._endpoints or found.endpoints
        if not endpoints:
            raise ConfigurationError(
                f"the application {self._app!r} names no endpoint; name those to serve: stbass dev -e anthropic"
            )
        self._turn += 1
        width = max(map(len, endpoints))
        with ThreadPoolExecutor(len(endpoints)) as threads:
            starting = [threads.submit(self._start_worker, endpoint, width) for endpoint in endpoints]
        for one in starting:
            one.result()

    def _start_worker(self, endpoint: str, width: int) -> None:
        name = f"dev-{new_id()[:13]}@{socket.gethostname()}"
        command = [sys.executable, "-m", "stbass.cli", "worker", "-A", self._app, "-e", endpoint, "-n", name]
        command += [] if self._concurrency is None else ["-c", str(self._concurrency)]
        for module in self._include:
            command += ["-I", module]
        # Short, so that a restart is quick; what runs is handed to the worker that comes after.
        environment = {"STBASS_GRACE": "1", **os.environ, **self._environment}
        turn, label, started = self._turn, f"{endpoint:<{width}}", threading.Event()

        def put(line: str | None) -> None:
            # What a worker writes when it starts is shown only if it does not, and at its end nobody needs it.
            if line is None or (started.is_set() and turn == self._turn):
                self.news.put((label, turn if line is None else line))

        worker = GuardedProcess(command, name=f"the worker of {endpoint}", env=environment, on_line=put)
        self._workers[endpoint] = worker
        worker.wait_for_log(f"{name} ready.", _READY_SECONDS)
        started.set()

    def end(self) -> None:
        """End all workers, in good order if they can."""
        workers, self._workers = list(self._workers.values()), {}
        if workers:
            with ThreadPoolExecutor(len(workers)) as threads:
                threads.map(_end, workers)

    def show_all(self, found: Found, *, embedded: bool) -> None:
        """One screen: what runs, and what a program needs to use it."""
        say = self._console.print
        processes = found.processes[:_MOST_PROCESSES]
        if len(found.processes) > len(processes):
            processes.append(f"and {len(found.processes) - len(processes)} more")
        broker, embedded = self._environment["STBASS_BROKER_URL"], embedded and found.reads_environment
        say("[bold]Ready.[/bold] Ctrl-C ends everything.")
        say(f"  application  {self._app}", markup=False)
        say(f"  endpoints    {', '.join(self._endpoints or found.endpoints)}", markup=False)
        for number, process in enumerate(processes or ["none; name modules that have some with --include"]):
            say(f"  {'' if number else 'processes':<11}  {process}", markup=False)
        if found.reads_environment:
            ends = " (ends with this, and all that is in it)" if embedded else ""
            say(f"  broker       {found.broker}{ends}", markup=False)
        else:
            say(
                f"  broker       {found.broker}: {self._app} does not read STBASS_BROKER_URL ({broker}),"
                " so its own is used, and no Redis was started",
                markup=False,
            )
        watched = f"when a Python file in {os.getcwd()} changes" if _CAN_WATCH else _NO_WATCH
        say(f"  restarts     {watched}", markup=False)
        say("In the terminal of your program:")
        for name, value in self._environment.items():
            if name == "STBASS_LLM_URL" or (name == "STBASS_BROKER_URL" and found.reads_environment):
                say(f"  export {name}={value}", markup=False)

    def follow(self) -> int:
        """Show what workers write, and start them again when files change, until one ends; gives back the exit code."""
        colours: dict[str, str] = {}
        while True:
            label, line = self.news.get()
            if label == _CHANGED:
                self._restart(str(line))
            elif isinstance(line, str):
                colour = colours.setdefault(label, _COLOURS[len(colours) % len(_COLOURS)])
                self._console.print(Text.assemble((f"{label} | ", colour), line.rstrip("\n")))
            elif line == self._turn:
                self._say_red(f"The worker of {label.rstrip()} has ended, so everything ends.")
                return Exit.FAILED

    def _say_red(self, text: str) -> None:
        self._console.print(text, style="red", markup=False)

    def _restart(self, files: str) -> None:
        began = time.monotonic()
        try:
            found = _look(self._app, self._include, self._environment)
        except ConfigurationError as error:
            self._say_red(f"{files} changed, and the workers stay as they are: {error}")
            return
        self._turn += 1
        self.end()
        try:
            self.start(found)
        except SubprocessError as error:
            self._turn += 1
            self.end()
            self._say_red(f"{files} changed, and no worker runs until a file changes again: {error}")
            return
        took = f"{time.monotonic() - began:.1f} s"
        known = ", ".join(found.processes[:_MOST_PROCESSES]) or "no process"
        self._console.print(f"{files} changed: the workers have started again ({took}), and know {known}", markup=False)


def _end(worker: GuardedProcess) -> None:
    # One that does not end is killed.
    with suppress(SubprocessError):
        worker.end(signal.SIGTERM, _END_SECONDS)


def _look(app: str, include: list[str], environment: Mapping[str, str]) -> Found:
    """What the application is like now.

    Raises:
        ConfigurationError: it cannot be used; the message says why.
    """
    done = subprocess.run(
        [sys.executable, "-m", "stbass.cli.look", app, *include],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    if done.returncode != 0 or not lines:
        raise ConfigurationError(f"--app {app!r}: looking at it ended with {done.returncode}: {done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(lines[-1])
    if "error" in answer:
        raise ConfigurationError(answer["error"])
    return Found(**answer)


def _check_reached(app: str, environment: Mapping[str, str]) -> None:
    """That servers which others started answer, before workers wait for them without a word.

    Raises:
        ConfigurationError: they do not; the message is that of ``stbass status``.
    """
    done = subprocess.run(
        [sys.executable, "-m", "stbass.cli", "status", "-A", app],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ConfigurationError(done.stderr.strip().removeprefix("stbass: "))


def _check_free(port: int) -> None:
    """That nothing listens there; 0 is any free one.

    Raises:
        ConfigurationError: something does.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigurationError(
                f"port {port} cannot be used ({error.strerror}): does another stbass dev run? Name another one"
                " with --port, or a Redis that runs with --redis"
            ) from error


_CHANGED = ""
"""In the place of an endpoint: files have changed."""
_CAN_WATCH = find_spec("watchfiles") is not None
_NO_WATCH = "never: pip install 'stbass-celery[demo]' to have it restart when a file changes"


@contextmanager
def _watching(news: SimpleQueue[News]) -> Iterator[None]:
    """Tell of Python files that change in this directory, while the context lasts."""
    if not _CAN_WATCH:
        yield
        return
    stop, set_up = threading.Event(), threading.Event()
    thread = threading.Thread(target=_watch, args=(Path.cwd(), news, set_up, stop), name="watch files", daemon=True)
    thread.start()
    # What changes from here on is noticed.
    set_up.wait(_READY_SECONDS)
    try:
        yield
    finally:
        stop.set()
        thread.join(_END_SECONDS)


def _watch(directory: Path, news: SimpleQueue[News], set_up: threading.Event, stop: threading.Event) -> None:
    from watchfiles import PythonFilter, watch

    told = watch(
        directory,
        watch_filter=PythonFilter(),
        stop_event=stop,
        raise_interrupt=False,
        rust_timeout=500,
        yield_on_timeout=True,
    )
    for changes in told:
        set_up.set()
        files = sorted({os.path.relpath(path, directory) for _, path in changes})
        if files:
            news.put((_CHANGED, ", ".join(files[:3]) + (", …" if len(files) > 3 else "")))


def _raise_stop(number: int, _frame: FrameType | None) -> None:
    # Once: a second Ctrl-C must not cut the ending short and leave something behind.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Stop(number)
