"""The common part of every driver: start the workers, see them all at work, measure, print one JSON object.

Uses the standard library only, because it runs with the Python of each peer's own environment.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

__all__ = ["AsyncSubject", "Subject", "main", "percentile", "processor_seconds", "redis_url"]

WORKER_START = 60.0
"""Seconds within which all worker processes must be seen at work."""
WORKS = ("batch", "trip", "gap", "late", "idle")
"""What can be measured: a batch; single round trips; how long the producer's event loop does not answer; how late a
deadline is answered; what workers and waiters cost while nothing happens."""
SMALL = 300
"""A batch of fewer tasks is repeated until this many have run."""
RESULT = 60.0
"""Seconds after which a result that has not come is an error, which says more than a driver that is ended."""
TICK = 0.001
"""Seconds between two looks at the event loop."""


def redis_url() -> str:
    """Where the driver and its workers find Redis."""
    return os.environ["BENCH_REDIS_URL"]


class Subject(ABC):
    """One system under measurement. A no-op task gives back the id of the process that ran it.

    Args:
        variant: what the subject is asked to be, for example the pool.
        processes: worker processes.
        work: one of :data:`WORKS`.
        seconds: how long a task of the batch waits; 0 for no-ops.
    """

    packages: Sequence[str] = ()

    def __init__(self, variant: str, processes: int, work: str, seconds: float) -> None:
        self.variant = variant
        self.processes = processes
        self.work = work
        self.seconds = seconds

    @abstractmethod
    def commands(self) -> list[list[str]]:
        """Command lines of the workers, each without the Python in front."""

    @abstractmethod
    def batch(self, count: int, seconds: float) -> list[int]:
        """Submit ``count`` tasks that wait so long, and wait for the last result; gives back the results."""

    def open(self) -> None:  # noqa: B027 - most subjects have nothing to open
        """Connect."""

    def close(self) -> None:  # noqa: B027 - nor to close
        """Disconnect."""

    def trips(self, count: int) -> list[float]:
        """Seconds of each of ``count`` no-ops there and back, one after another."""
        taken = []
        for _ in range(count):
            begun = time.perf_counter()
            self.batch(1, 0)
            taken.append(time.perf_counter() - begun)
        return taken

    def longest_gap(self, count: int, seconds: float) -> float:
        """Seconds for which the producer's event loop did not run while a batch was in flight."""
        raise NotImplementedError

    def lateness(self, deadline: float) -> float:
        """Seconds after its deadline at which the answer to a process that takes longer arrives."""
        raise NotImplementedError

    def idle(self, workers: Sequence[int], seconds: float) -> dict[str, float]:
        """What the worker processes and a waiting producer cost over so many seconds."""
        raise NotImplementedError


class AsyncSubject(Subject):
    """A subject whose producer is asynchronous; all of its calls run on one event loop."""

    def open(self) -> None:
        """Make the loop and connect."""
        self.runner = asyncio.Runner()
        self.runner.run(self.aopen())

    def close(self) -> None:
        """Disconnect and end the loop."""
        self.runner.run(self.aclose())
        self.runner.close()

    async def aopen(self) -> None:
        """Connect."""

    async def aclose(self) -> None:
        """Disconnect."""

    @abstractmethod
    async def abatch(self, count: int, seconds: float) -> list[int]:
        """See :meth:`batch`."""

    async def atrips(self, count: int) -> list[float]:
        """See :meth:`trips`."""
        taken = []
        for _ in range(count):
            begun = time.perf_counter()
            await self.abatch(1, 0)
            taken.append(time.perf_counter() - begun)
        return taken

    def batch(self, count: int, seconds: float) -> list[int]:
        """Run :meth:`abatch`."""
        return self.runner.run(self.abatch(count, seconds))

    def trips(self, count: int) -> list[float]:
        """Run :meth:`atrips`."""
        return self.runner.run(self.atrips(count))

    def longest_gap(self, count: int, seconds: float) -> float:
        """Run a batch beside a ticker."""
        return self.runner.run(gap_beside(self, count, seconds))


async def gap_beside(subject: AsyncSubject, count: int, seconds: float) -> float:
    """The longest time for which the event loop did not answer while a batch was in flight, in seconds."""
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        last = time.perf_counter()
        while True:
            # Not at every turn: a ticker that never lets the loop rest takes a core from the workers.
            await asyncio.sleep(TICK)
            now = time.perf_counter()
            longest = max(longest, now - last - TICK)
            last = now

    ticker = asyncio.create_task(tick())
    await asyncio.sleep(0)
    try:
        await subject.abatch(count, seconds)
    finally:
        ticker.cancel()
    return longest


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * round(share * 1000) // 1000) - 1)]


class Workers:
    """The worker processes of one subject, in the driver's own process group."""

    def __init__(self, commands: Sequence[Sequence[str]]) -> None:
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by stop()
        self.running = [
            subprocess.Popen([sys.executable, *command], stdout=self.log, stderr=subprocess.STDOUT)
            for command in commands
        ]

    def stop(self) -> None:
        """Ask them to end, and end those that do not."""
        for worker in self.running:
            worker.terminate()
        end = time.monotonic() + 5
        for worker in self.running:
            try:
                worker.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        self.log.close()

    def said(self) -> str:
        """The end of what they printed."""
        self.log.seek(0)
        return self.log.read()[-4000:]


def warm_up(subject: Subject, workers: Workers) -> None:
    """Send no-ops until every worker process has answered one."""
    seen: set[int] = set()
    end = time.monotonic() + WORKER_START
    while len(seen) < subject.processes:
        if time.monotonic() > end:
            raise TimeoutError(
                f"{len(seen)} of {subject.processes} worker processes answered within {WORKER_START:g} s"
            )
        ended = [worker for worker in workers.running if worker.poll() is not None]
        if ended:
            raise RuntimeError(f"a worker ended with exit code {ended[0].returncode}")
        seen |= set(subject.batch(100, 0))


def memory(pids: Sequence[int], field: str) -> int:
    """Bytes of memory of processes: ``VmRSS`` now, ``VmHWM`` at most since the mark was reset."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                total += int(line.split()[1]) * 1024
    return total


def processor_seconds(pid: int) -> float:
    """Processor time of a process's living threads, to the nanosecond (``/proc/<pid>/stat`` counts hundredths)."""
    used = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            used += int((thread / "schedstat").read_text().split()[0])
    return used / 1e9


def measure(subject: Subject, workers: Workers, work: str, count: int, seconds: float) -> dict[str, float]:
    """Do the work once and give back its figures, in seconds and bytes."""
    if work == "trip":
        subject.trips(count // 5)
        taken = subject.trips(count)
        return {"median": statistics.median(taken), "p99": percentile(taken, 0.99)}
    if work == "late":
        return {"median": statistics.median(subject.lateness(seconds) for _ in range(count))}
    if work == "gap":
        subject.batch(count, 0)
        return {"longest": subject.longest_gap(count, seconds)}
    pids = [worker.pid for worker in workers.running]
    if work == "idle":
        return subject.idle(pids, seconds)
    # Before the warm-up: what that makes a worker keep is part of what so many processes weigh.
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the highest mark starts again from here
    idle = memory(pids, "VmRSS")
    subject.batch(count, 0)
    taken = []
    everyone = [os.getpid(), *pids]
    before = [processor_seconds(pid) for pid in everyone]
    # A small batch is over too soon for one to be representative.
    for _ in range(max(1, SMALL // count)):
        begun = time.perf_counter()
        results = subject.batch(count, seconds)
        taken.append(time.perf_counter() - begun)
        if len(results) != count:
            raise RuntimeError(f"{len(results)} results of {count} tasks")
    spent = [processor_seconds(pid) - earlier for pid, earlier in zip(everyone, before, strict=True)]
    each = len(taken) * count
    return {
        "total": statistics.median(taken),
        "bytes_each": (memory(pids, "VmHWM") - idle) / count,
        "producer_cpu": spent[0] / each,
        "worker_cpu": sum(spent[1:]) / each,
    }


def main(subject_class: type[Subject], argv: Sequence[str]) -> None:
    """Measure one subject as the command line says and print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", choices=WORKS, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--variant", default="")
    arguments = parser.parse_args(argv)
    subject = subject_class(arguments.variant, arguments.processes, arguments.work, arguments.seconds)
    with ExitStack() as stack:
        workers = Workers(subject.commands())
        stack.callback(workers.stop)
        try:
            subject.open()
            stack.callback(subject.close)
            warm_up(subject, workers)
            values = measure(subject, workers, arguments.work, arguments.count, arguments.seconds)
        except BaseException:
            print(workers.said(), file=sys.stderr)
            raise
    print(json.dumps({"values": values, "versions": {name: version(name) for name in subject.packages}}))
