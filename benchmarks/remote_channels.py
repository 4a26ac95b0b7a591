"""C: channels over Redis between two Python processes, beside what can be done with Redis lists by hand."""

from __future__ import annotations

import sys
from collections.abc import Callable

from redis import Redis

from benchmarks.harness import Row, child_environment, median_alternating, rows_of, run_driver
from benchmarks.targets import TARGETS, Target, beats
from stbass.testing import RedisServer

__all__ = ["c3", "c4"]

TIMEOUT = 60.0
VALUES = 5_000
MANY = 100_000
REDIS_PY = "redis-py RPUSH + BLPOP"
SOCKETS = "raw blocking sockets"
RENDEZVOUS = "rendezvous (C3)"
BATCHES = "redis-py batches of 1,000"

TARGETS["C4"] = Target("≥ 10 x C3", (beats("rendezvous", 10),))


def sampler(server: RedisServer, subject: str, count: int) -> Callable[[], float]:
    """A callable that takes one sample, in values per second, on an empty database."""

    def sample() -> float:
        with Redis.from_url(server.url) as client:
            client.flushall()
        command = [sys.executable, "-m", "benchmarks.remote_driver", subject, str(count), server.url]
        answer = run_driver(command, timeout=TIMEOUT, environment=child_environment())
        return float(answer["values"]["value"])

    return sample


def c3() -> list[Row]:
    """Values a second that meet a receiver in another process, one after the other."""
    with RedisServer() as server:
        medians = median_alternating(
            {
                "stbass": sampler(server, "stbass", VALUES),
                REDIS_PY: sampler(server, "redis-py", VALUES),
                SOCKETS: sampler(server, "sockets", VALUES),
            }
        )
    notes = {
        REDIS_PY: "two asyncio clients, no close, no cancellation, one reader that dies loses a value",
        SOCKETS: "two blocking processes, nothing but the two commands",
    }
    return rows_of("C3", medians, "values/s", higher_is_better=True, notes=notes)


def c4() -> list[Row]:
    """The same through a channel with a capacity of 64."""
    with RedisServer() as server:
        medians = median_alternating(
            {
                "stbass": sampler(server, "stbass capacity", MANY),
                RENDEZVOUS: sampler(server, "stbass", VALUES),
                BATCHES: sampler(server, "batches", 10 * MANY),
            }
        )
    notes = {RENDEZVOUS: "ours, without a capacity", BATCHES: "one client, no other end"}
    return rows_of("C4", medians, "values/s", higher_is_better=True, notes=notes)
