"""What each benchmark is to reach, and whether it does."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.harness import Row

__all__ = [
    "TARGETS",
    "WORK",
    "Target",
    "advantage",
    "at_least",
    "at_most",
    "beats",
    "beats_all",
    "is_our_subject",
    "is_ours",
    "reached",
]

Check = Callable[[Row, Sequence[Row]], bool | None]
"""Given our row and the peers', whether a condition holds; None if what it compares with was not measured."""


@dataclass(frozen=True, slots=True)
class Target:
    """A target in words and as conditions that must all hold."""

    text: str
    checks: tuple[Check, ...]


def is_ours(row: Row) -> bool:
    """Whether a row is ours."""
    return is_our_subject(row.subject)


def is_our_subject(subject: str) -> bool:
    """Whether a subject is ours: ``stbass``, alone or with a variant; the earlier release is a peer."""
    return re.match(r"stbass\b", subject) is not None and "0.1.1" not in subject


def advantage(ours: Row, peer: Row) -> float:
    """How many times better ours is than the peer's: above 1 ours is ahead, whichever way the unit counts."""
    better, worse = (ours.value, peer.value) if ours.higher_is_better else (peer.value, ours.value)
    return better / worse if worse else float("inf")


def at_most(limit: float) -> Check:
    """Ours is no more than ``limit``."""
    return lambda ours, _: ours.value <= limit


def at_least(limit: float) -> Check:
    """Ours is no less than ``limit``."""
    return lambda ours, _: ours.value >= limit


def beats(peer: str, times: float) -> Check:
    """Ours is at least ``times`` as good as every peer whose name contains ``peer``."""

    def check(ours: Row, peers: Sequence[Row]) -> bool | None:
        named = [row for row in peers if peer.casefold() in row.subject.casefold()]
        return all(advantage(ours, row) >= times for row in named) if named else None

    return check


def beats_all(times: float = 1.0) -> Check:
    """Ours is at least ``times`` as good as every peer."""
    return beats("", times)


def reached(bench: str, rows: Sequence[Row]) -> bool | None:
    """Whether our figures reach the target of ``bench``; None if there is no target or something it needs is missing.

    With several rows of ours, the best one counts.
    """
    target = TARGETS.get(bench)
    if target is None:
        return None
    of_bench = [row for row in rows if row.bench == bench]
    peers = [row for row in of_bench if not is_ours(row)]
    answers = [_all_hold([check(ours, peers) for check in target.checks]) for ours in of_bench if is_ours(ours)]
    if True in answers:
        return True
    return False if False in answers else None


def _all_hold(answers: Sequence[bool | None]) -> bool | None:
    if False in answers:
        return False
    return None if None in answers else True


WORK = {
    "F1": "1,000 no-op processes, submit to last result, two worker processes",
    "F2": "one no-op there and back",
    "F3": "1,000 processes that wait 0.5 s",
    "F4": "10,000 processes that wait 1 s",
    "F5": "longest gap of the producer's event loop, 1,000 in flight",
    "F6": "cost per process, 100 to 100,000 in one PLACED_PAR",
    "F7": "idle worker, idle waiter",
    "F8": "how late a deadline of 0.3 s is answered",
    "C1": "in-memory rendezvous",
    "C2": "choice over 2, 8, 64 channels",
    "C3": "rendezvous over Redis between two processes",
    "C4": "the same with capacity=64",
    "P1": "PAR of 1,000 no-ops; of 4,000 that end one by one",
    "P2": "SEQ of 1,000 stages",
    "P3": "import stbass; stbass --help",
    "D1": "dataflow, items/s through 2 and 10 components",
    "D2": "workflow of 1,000 nodes in 10 layers",
    "D3": "tasklist, 10,000 no-op tasks, parallel",
    "R3": "10,000 processes of 0.1 s, 50 at once; 1,000 no-ops at 100/s",
    "W1": "values as bytes and back: a chat of 100 messages, 10,000 floats, 1,000 dataclasses",
}
"""What each benchmark does."""

TARGETS: dict[str, Target] = {
    "F1": Target("≥ 15 x stock Celery, and faster than every other", (beats("Celery prefork", 15), beats_all())),
    "F2 median": Target("≤ 1 ms, half of stock, ahead of all", (at_most(1.0), beats("Celery prefork", 2), beats_all())),
    "F2 p99": Target("≤ 1.8 ms", (at_most(1.8),)),
    "F3": Target("≤ 0.8 s", (at_most(0.8),)),
    "F4 one worker": Target("≤ 2.5 s", (at_most(2.5),)),
    "F4 two workers": Target("≤ 2.7 s", (at_most(2.7),)),
    "F4 memory": Target("< 20 KiB each", (at_most(20.0),)),
    "F5": Target("≤ 20 ms", (at_most(20.0),)),
    "F6": Target("flat within 1.3 x", (at_most(1.3),)),
    "F7 worker CPU": Target("< 0.5 %", (at_most(0.5),)),
    "F7 worker commands": Target("< 2 a second", (at_most(2.0),)),
    "F7 waiter CPU": Target("< 0.5 %", (at_most(0.5),)),
    "F7 waiter commands": Target("< 2 a second", (at_most(2.0),)),
    "F8": Target("≤ 30 ms", (at_most(30.0),)),
    "R3": Target("≤ 1.2 x one worker of concurrency 50", (beats("one worker of concurrency 50", 1 / 1.2),)),
    "R3 rate": Target("within 5 % of 100/s", (at_least(95.0), at_most(105.0))),
    "C1": Target("≥ 0.8 x bare futures", (beats("bare futures", 0.8),)),
    "C3": Target("≥ 1.5 x redis-py", (beats("redis-py", 1.5),)),
    "P1": Target("≤ 2.5 x TaskGroup", (beats("TaskGroup", 1 / 2.5),)),
    "P1 one by one": Target("≤ 2.5 x TaskGroup", (beats("TaskGroup", 1 / 2.5),)),
    "P1 growth": Target("linear: ≤ 1.5 x a process from 1,000 to 4,000", (at_most(1.5),)),
    "P2": Target("≤ 6 x the loop; ≥ 5 x stbass 0.1.1", (beats("loop", 1 / 6), beats("0.1.1", 5))),
    "P3 import": Target("< 150 ms", (at_most(150.0),)),
    "P3 help": Target("< 300 ms", (at_most(300.0),)),
    "D1 2 components": Target("≥ 10 x plugboard", (beats("plugboard", 10),)),
    "D1 10 components": Target("≥ 10 x plugboard", (beats("plugboard", 10),)),
    "D1 start": Target("< 20 ms", (at_most(20.0),)),
    "D1 import": Target("< 500 ms", (at_most(500.0),)),
    "D2": Target("≤ 4 x graphlib and a task group", (beats("graphlib", 1 / 4),)),
    "D3": Target("≤ 1.5 x ThreadPoolExecutor.map", (beats("ThreadPoolExecutor", 1 / 1.5),)),
}
"""By the name of a row's bench. A benchmark that compares in its own way adds its targets here."""
