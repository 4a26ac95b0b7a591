"""``stbass dev``: everything that a program on a fleet needs, on this machine, in one terminal."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import ExitStack
from functools import partial
from queue import SimpleQueue
from types import FrameType

import celery  # noqa: F401  what is missing is found here, before anything has started, and not by a worker
from rich.console import Console
from rich.text import Text

from stbass.cli.exits import Exit
from stbass.testing.fake_llm import FakeLLM
from stbass.testing.redis_server import RedisServer
from stbass.testing.worker import Worker

__all__ = ["run_dev"]

_COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "red")


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
    """Start Redis (unless one is given), a fake LLM (unless ``STBASS_LLM_URL`` names a server) and a worker per
    endpoint, show their logs as one, and end all of them when a signal comes or one of them ends. Gives back the exit
    code.
    """
    console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
    lines: SimpleQueue[tuple[str, str | None]] = SimpleQueue()
    endpoints = list(dict.fromkeys(endpoints))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _raise_stop)
    try:
        with ExitStack() as stack:
            environment = {"STBASS_BROKER_URL": redis_url or stack.enter_context(RedisServer(port=port)).url}
            environment["STBASS_RESULT_BACKEND"] = environment["STBASS_BROKER_URL"]
            if "STBASS_LLM_URL" not in os.environ:
                environment["STBASS_LLM_URL"] = stack.enter_context(FakeLLM(latency=0.2)).url
            for endpoint in endpoints:
                put = partial(_put, lines, endpoint)
                worker = Worker(app, endpoint, concurrency=concurrency, env=environment, include=include, on_line=put)
                stack.enter_context(worker)
            console.print("[bold]Ready.[/bold] In another terminal, before your program:")
            for name, value in environment.items():
                console.print(f"  export {name}={value}")
            console.print("Ctrl-C ends everything.")
            _show(console, lines, endpoints)
            console.print("[red]A worker has ended, so everything ends.[/red]")
            return Exit.FAILED
    except _Stop as stop:
        # A console of its own: the signal may have come in the middle of a line of the other one.
        Console(file=sys.stderr, highlight=False).print(f"Everything has ended ({stop}).")
        return Exit.OK


def _raise_stop(number: int, _frame: FrameType | None) -> None:
    # Once: a second Ctrl-C must not cut the ending short and leave something behind.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Stop(number)


def _put(lines: SimpleQueue[tuple[str, str | None]], endpoint: str, line: str | None) -> None:
    lines.put((endpoint, line))


def _show(console: Console, lines: SimpleQueue[tuple[str, str | None]], endpoints: list[str]) -> None:
    """Print lines as they come, until a worker writes no more."""
    width = max(map(len, endpoints))
    while True:
        endpoint, line = lines.get()
        if line is None:
            return
        colour = _COLOURS[endpoints.index(endpoint) % len(_COLOURS)]
        console.print(Text.assemble((f"{endpoint:<{width}} | ", colour), line.rstrip("\n")))
