"""D1: networks of stateful components. Ours beside plugboard, in one environment: Python is the same for both."""

from __future__ import annotations

import subprocess
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
)

__all__ = ["d1"]

SCRIPT = str(ROOT / "benchmarks" / "peers" / "dataflow.py")
PEER = ("plugboard==0.9.0",)
PEER_PYTHONS = ("3.12", "3.13")
"""What the peer runs on; its package is not for older ones."""
TIMEOUT = 120.0
FIGURES = (
    ("D1 2 components", "2", "items/s", True, 1.0),
    ("D1 10 components", "10", "items/s", True, 1.0),
    ("D1 start", "start", "ms", False, 1000.0),
    ("D1 import", "import", "ms", False, 1000.0),
)
"""What a row is called, what the script calls the work, the unit, whether more is better, and units per value."""


def python_for_peer() -> Path | None:
    """A Python that the peer runs on; None if this machine has none."""
    done = subprocess.run(
        [str(ROOT / ".ci" / "find-python"), *PEER_PYTHONS], capture_output=True, text=True, timeout=60, check=False
    )
    return Path(done.stdout.strip()) if done.returncode == 0 else None


def sampler(subject: str, python: Path, work: str, scale: float) -> Callable[[], float]:
    """A callable that takes one sample."""
    command = [str(python), "-P", SCRIPT, subject, work]

    def sample() -> float:
        answer = run_driver(command, timeout=TIMEOUT, environment=child_environment(PYTHONPATH=str(ROOT)))
        return float(answer["values"]["value"]) * scale

    return sample


def d1() -> list[Row]:
    """Items per second from a source to a sink, with nothing and with eight components between; start-up; import.

    Everything is as each library has it by default: connectors in memory, and state in memory.
    """
    found = python_for_peer()
    python = Path(sys.executable) if found is None else peer_python("plugboard", PEER, python=found)
    subjects = ["stbass"] if found is None else ["stbass", "plugboard"]
    note = f"no Python {' or '.join(PEER_PYTHONS)} here for plugboard" if found is None else ""
    rows: list[Row] = []
    for bench, work, unit, higher_is_better, scale in FIGURES:
        samplers = {subject: sampler(subject, python, work, scale) for subject in subjects}
        if work == "import":
            for sample in samplers.values():
                sample()  # compiles what has not been compiled yet
        medians = median_alternating(samplers)
        rows += rows_of(bench, medians, unit, higher_is_better=higher_is_better, notes={"stbass": note})
    return rows
