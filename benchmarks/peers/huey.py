"""huey: a list without acknowledgement, workers that are processes or threads."""

from __future__ import annotations

import os
import time

from huey import RedisHuey

from benchmarks.peers.driver import RESULT, Subject, redis_url

# Results that wake the waiter cost huey throughput and save it most of a round trip: each work is given what suits it.
huey = RedisHuey("bench", url=redis_url(), notify_result=os.environ.get("BENCH_HUEY_NOTIFY") == "1")


@huey.task()
def noop() -> int:
    """Do nothing."""
    return os.getpid()


@huey.task()
def wait(seconds: float) -> int:
    """Wait as a call to a model does."""
    time.sleep(seconds)
    return os.getpid()


class Huey(Subject):
    """Variants are ``process:workers`` and ``thread:workers``; threads are per process of ours."""

    packages = ("huey", "redis", "hiredis")

    def commands(self) -> list[list[str]]:
        """One consumer with processes, or as many consumers as processes with threads each."""
        kind, workers = self.variant.split(":")
        command = [
            "-m",
            "huey.bin.huey_consumer",
            f"{__name__}.huey",
            "-k",
            kind,
            "-w",
            workers,
            "-q",
            "-n",
            "-g",
            "TERM",
        ]
        return [command] if kind == "process" else [command] * self.processes

    def batch(self, count: int, seconds: float) -> list[int]:
        """Submit each, then get each."""
        results = [wait(seconds) if seconds else noop() for _ in range(count)]
        return [result.get(blocking=True, timeout=RESULT, max_delay=0.01) for result in results]


SUBJECT = Huey
