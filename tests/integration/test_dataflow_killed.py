"""Jobs that are killed (SIGKILL) at random steps, several times, and still give what one gives that never died."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.dataflow_graphs import SHAPES, came_out, make

ROOT = Path(__file__).parents[2]


def program(shape: str, path: Path, seed: int, kill_at: int) -> subprocess.CompletedProcess[str]:
    """Run it to its end, whatever that is."""
    arguments = [shape, str(path), "Job_12345678", str(seed), str(kill_at)]
    return subprocess.run(
        [sys.executable, "-m", "tests.support.dataflow_graphs", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def expected(shape: str) -> list[Any]:
    async with make(shape, 60, None) as process:
        await process.run()
        return json.loads(json.dumps(came_out(shape, process)))  # type: ignore[no-any-return]


# Each takes seconds; the shapes that are left to the slow tests are broken off in-process many times in the unit tests.
USUAL = ("chain", "cycle", "events")


@pytest.mark.parametrize(
    "shape", [shape if shape in USUAL else pytest.param(shape, marks=pytest.mark.slow) for shape in SHAPES]
)
async def test_killed_at_random_steps_it_gives_the_same(shape: str, tmp_path: Path) -> None:
    dice = random.Random(shape)
    path = tmp_path / "state.db"
    deaths = 0
    for seed in range(40):
        # The first ones die early, so that there are several; the last ones hardly ever.
        done = program(shape, path, seed, dice.randint(5, 60 + 30 * seed))
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        deaths += 1
    assert json.loads(done.stdout) == await expected(shape)
    assert deaths >= 2
    # and once it has ended, it says so
    again = program(shape, path, 0, 0)
    assert again.returncode == 1
    assert "JobFinishedError" in again.stderr
