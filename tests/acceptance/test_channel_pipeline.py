"""`make channels`: the example of four stages on four workers, run as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.acceptance


def test_the_pipeline_gives_the_same_here_and_on_four_workers() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.channel_pipeline"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stdout.splitlines()

    # in memory, on the workers, and there with room in each channel
    runs = [line for line in lines if "values through four stages" in line]
    where = [re.search(r"channels on (\w+)", line) for line in runs]
    assert [found and found[1] for found in where] == ["MemoryTransport", "RedisTransport", "RedisTransport"], lines

    # each stage tells where it ran, and what came to it: four workers, in four Python processes
    told = [re.fullmatch(r"  (\w+): 200 values in process (\d+)(, 1440 in all)?", line) for line in lines[2:6]]
    assert all(told), lines
    assert [found[1] for found in told if found] == ["reader", "splitter", "measurer", "adder"]
    assert len({found[2] for found in told if found}) == 4
    assert lines[-1] == "keys of channels that are left in Redis: 0"
