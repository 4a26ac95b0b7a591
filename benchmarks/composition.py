"""P: composition. PAR and SEQ beside a task group, a loop of awaits and stbass 0.1.1; and how long the import takes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import (
    ROOT,
    Row,
    SubjectFailed,
    child_environment,
    median_alternating,
    peer_python,
    rows_of,
    run_driver,
    versions,
)

__all__ = ["p1", "p2", "p3"]

SCRIPT = str(ROOT / "benchmarks" / "peers" / "composition.py")
OLD = ("stbass==0.1.1",)
TIMEOUT = 120.0


def sampler(subject: str, python: Path, work: str, count: int) -> Callable[[], float]:
    """A callable that takes one sample, in microseconds per process."""
    # Ours is found by path; the earlier release must be found where it is installed, under the same name.
    path = {} if python != Path(sys.executable) else {"PYTHONPATH": str(ROOT)}
    command = [str(python), "-P", SCRIPT, subject, work, str(count)]

    def sample() -> float:
        answer = run_driver(command, timeout=TIMEOUT, environment=child_environment(**path))
        return float(answer["values"]["total"]) / count * 1e6

    return sample


def subjects(by_hand: str, work: str, count: int) -> dict[str, Callable[[], float]]:
    """Ours, by hand, and the earlier release."""
    here = Path(sys.executable)
    versions["stbass 0.1.1"] = "0.1.1"
    return {
        "stbass": sampler("stbass", here, work, count),
        by_hand: sampler("hand", here, work, count),
        "stbass 0.1.1": sampler("stbass", peer_python("stbass-0.1.1", OLD), work, count),
    }


def p1() -> list[Row]:
    """PAR of 1,000 no-ops; of 1,000 and 4,000 that end one by one, which must cost the same for each process."""
    rows = rows_of("P1", median_alternating(subjects("TaskGroup", "par", 1000)), "µs each", higher_is_better=False)
    fewer = median_alternating(subjects("TaskGroup", "one-by-one", 1000))
    more = median_alternating(subjects("TaskGroup", "one-by-one", 4000))
    rows += rows_of("P1 one by one", more, "µs each", higher_is_better=False)
    growth = {subject: more[subject] / fewer[subject] for subject in more if subject in fewer}
    return rows + rows_of("P1 growth", growth, "x", higher_is_better=False)


def p2() -> list[Row]:
    """SEQ of 1,000 stages that pass a value on.

    The target is that of stages that take a turn of the event loop, as stages that wait for anything do. A loop over
    coroutines that never wait costs no more than function calls; it stands beside, for what it is worth.
    """
    turn = median_alternating(subjects("loop of awaits", "seq-turn", 1000))
    bare = median_alternating(subjects("loop of awaits", "seq", 1000))
    return [
        *rows_of("P2", turn, "µs each", higher_is_better=False),
        *rows_of("P2 without waiting", bare, "µs each", higher_is_better=False),
    ]


def _seconds(command: list[str]) -> float:
    begun = time.perf_counter()
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
        env=child_environment(PYTHONPATH=str(ROOT)),
    )
    taken = time.perf_counter() - begun
    if done.returncode:
        raise SubjectFailed(f"{command[-1]!r}: exit code {done.returncode}: {done.stderr[-200:]}")
    return taken


def _import_milliseconds() -> float:
    """The wall time of the import alone, taken inside a fresh interpreter."""
    code = "import time; t = time.perf_counter(); import stbass; print(time.perf_counter() - t)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
        env=child_environment(),
    )
    if done.returncode:
        raise SubjectFailed(done.stderr[-200:])
    return float(done.stdout) * 1000


def p3() -> list[Row]:
    """``import stbass`` in a fresh interpreter, and ``stbass --help`` from start to end."""
    command = [str(Path(sys.executable).with_name("stbass")), "--help"]
    measures: dict[str, Callable[[], float]] = {
        "stbass": _import_milliseconds,
        "stbass --help": lambda: _seconds(command) * 1000,
    }
    for measure in measures.values():
        try:
            measure()  # compiles what has not been compiled yet
        except (SubjectFailed, FileNotFoundError):
            continue
    medians = median_alternating(measures)
    return [
        Row("P3 import" if subject == "stbass" else "P3 help", subject, value, "ms", False)
        for subject, value in medians.items()
    ]
