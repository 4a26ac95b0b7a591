"""C: channels. Rendezvous and choice in memory, beside bare futures, asyncio's queue, anyio, aiochan, stbass 0.1.1."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import (
    ROOT,
    Row,
    child_environment,
    median_alternating,
    peer_python,
    rows_of,
    run_driver,
    versions,
)
from benchmarks.targets import TARGETS, Target, at_most, beats, beats_all

__all__ = ["c1", "c2"]

SCRIPT = str(ROOT / "benchmarks" / "peers" / "channels.py")
OLD = ("stbass==0.1.1",)
OTHERS = ("aiochan==0.2.7", "anyio>=4.9")
TIMEOUT = 120.0
VALUES = 20_000
CHOICES = 4_000
WIDTHS = (2, 8, 64)
ANEW = "stbass new ALT each time"

TARGETS["C1"] = Target(
    "≥ 0.8 x bare futures, 2 x stbass 0.1.1, ahead of the others",
    (
        beats("bare futures", 0.8),
        beats("stbass 0.1.1", 2),
        beats("asyncio.Queue", 1),
        beats("anyio", 1),
        beats("aiochan", 1),
    ),
)
TARGETS["C2 waiting"] = Target("0 % CPU", (at_most(0.5),))
TARGETS["C2 growth"] = Target(
    "≤ log 64 / log 2 = 6 x from 2 to 64 channels", (at_most(math.log(WIDTHS[-1]) / math.log(WIDTHS[0])),)
)
TARGETS["C2 growth anew"] = Target("≤ 4 x from 2 to 64 channels, with a new ALT each time", (at_most(4.0),))
TARGETS |= {f"C2 over {width}": Target("ahead of all", (beats_all(),)) for width in WIDTHS}


def sampler(subject: str, python: Path, work: str, count: int, width: int = 1) -> Callable[[], float]:
    """A callable that takes one sample: values per second, or per cent of a core."""
    # Ours is found by path; the earlier release must be found where it is installed, under the same name.
    path = {} if python != Path(sys.executable) else {"PYTHONPATH": str(ROOT)}
    command = [str(python), "-P", SCRIPT, subject, work, str(count), str(width)]

    def sample() -> float:
        answer = run_driver(command, timeout=TIMEOUT, environment=child_environment(**path))
        return float(answer["values"]["value"])

    return sample


def c1() -> list[Row]:
    """Values per second through one rendezvous channel, from one task to another."""
    here, old, others = Path(sys.executable), peer_python("stbass-0.1.1", OLD), peer_python("channels", OTHERS)
    versions["stbass 0.1.1"] = "0.1.1"
    subjects = {
        "stbass": ("stbass", here),
        "bare futures": ("bare", here),
        "asyncio.Queue(1) and an event": ("queue", here),
        "anyio stream of size 0": ("anyio", others),
        "aiochan": ("aiochan", others),
        "stbass 0.1.1": ("stbass", old),
    }
    samplers = {name: sampler(subject, python, "meet", VALUES) for name, (subject, python) in subjects.items()}
    return rows_of("C1", median_alternating(samplers), "values/s", higher_is_better=True)


def c2() -> list[Row]:
    """Choices per second over 2, 8 and 64 channels of which one is ready; how that grows; and the CPU of waiting."""
    here, old, others = Path(sys.executable), peer_python("stbass-0.1.1", OLD), peer_python("channels", OTHERS)
    versions["stbass 0.1.1"] = "0.1.1"
    subjects = {
        "stbass": ("stbass-again", here),
        ANEW: ("stbass", here),
        "asyncio.wait over queues": ("queue", here),
        "aiochan select": ("aiochan", others),
        "stbass 0.1.1": ("stbass", old),
    }
    rows: list[Row] = []
    rates: dict[int, dict[str, float]] = {}
    for width in WIDTHS:
        rates[width] = median_alternating(
            {name: sampler(subject, python, "choose", CHOICES, width) for name, (subject, python) in subjects.items()}
        )
        rows += rows_of(f"C2 over {width}", rates[width], "choices/s", higher_is_better=True)
    few, many = rates[WIDTHS[0]], rates[WIDTHS[-1]]
    growth = {name: few[name] / many[name] for name in few if name in many}
    rows += rows_of("C2 growth", growth, "x", higher_is_better=False)
    rows += [Row("C2 growth anew", name, value, "x", False) for name, value in growth.items() if name == ANEW]
    waiting = median_alternating(
        {name: sampler(subject, python, "wait", 0, 8) for name, (subject, python) in subjects.items()}
    )
    return rows + rows_of("C2 waiting", waiting, "% CPU", higher_is_better=False)
