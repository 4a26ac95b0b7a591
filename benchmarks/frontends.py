"""D: front ends. Workflows beside graphlib and a task group; task lists beside an executor's map."""

from __future__ import annotations

import sys
from collections.abc import Callable

from benchmarks.harness import ROOT, Row, child_environment, median_alternating, rows_of, run_driver

__all__ = ["d2", "d3"]

SCRIPT = str(ROOT / "benchmarks" / "peers" / "frontends.py")
TIMEOUT = 120.0
NODES = 1_000
TASKS = 10_000


def sampler(subject: str, work: str, count: int) -> Callable[[], float]:
    """A callable that takes one sample, in microseconds per node or task."""
    command = [sys.executable, "-P", SCRIPT, subject, work]

    def sample() -> float:
        answer = run_driver(command, timeout=TIMEOUT, environment=child_environment(PYTHONPATH=str(ROOT)))
        return float(answer["values"]["total"]) / count * 1e6

    return sample


def d2() -> list[Row]:
    """A workflow of 1,000 nodes in 10 layers, each of which depends on three of the layer before; made anew, too."""
    hand = "graphlib + TaskGroup"
    rows: list[Row] = []
    for bench, work in (("D2", "workflow"), ("D2 with making it", "workflow-built")):
        subjects = {"stbass": sampler("stbass", work, NODES), hand: sampler("hand", work, NODES)}
        rows += rows_of(bench, median_alternating(subjects), "µs a node", higher_is_better=False)
    return rows


def d3() -> list[Row]:
    """A list of 10,000 no-op tasks, filled and executed in parallel."""
    subjects = {
        "stbass": sampler("stbass", "tasklist", TASKS),
        "ThreadPoolExecutor.map": sampler("hand", "tasklist", TASKS),
    }
    return rows_of("D3", median_alternating(subjects), "µs a task", higher_is_better=False)
