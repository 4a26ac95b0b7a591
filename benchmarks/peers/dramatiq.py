"""dramatiq: acknowledged, threads in processes, results on lists that can be waited for."""

from __future__ import annotations

import os
import time

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks.peers.driver import RESULT, Subject, redis_url

broker = RedisBroker(url=redis_url())
broker.add_middleware(Results(backend=RedisBackend(url=redis_url())))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def noop() -> int:
    """Do nothing."""
    return os.getpid()


@dramatiq.actor(store_results=True)
def wait(seconds: float) -> int:
    """Wait as a call to a model does."""
    time.sleep(seconds)
    return os.getpid()


class Dramatiq(Subject):
    """The variant is the number of threads per process."""

    packages = ("dramatiq", "redis", "hiredis")

    def commands(self) -> list[list[str]]:
        """One command makes all the processes."""
        return [["-m", "dramatiq", __name__, "--processes", str(self.processes), "--threads", self.variant]]

    def batch(self, count: int, seconds: float) -> list[int]:
        """Submit each, then get each."""
        messages = [wait.send(seconds) if seconds else noop.send() for _ in range(count)]
        return [message.get_result(block=True, timeout=int(RESULT * 1000)) for message in messages]


SUBJECT = Dramatiq
