"""``stbass demo`` shows what it promises, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stbass.testing._guarded import GuardedProcess
from tests.os_processes import descendants_of, wait_until_gone

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "stbass.cli", "demo"]

pytestmark = pytest.mark.acceptance


@pytest.fixture(scope="module")
def demo() -> tuple[int, str, str]:
    """The demo, run once: its exit code, standard output and standard error."""
    # What this terminal is set to must not matter to the demo.
    environment = {**os.environ, "STBASS_BROKER_URL": "redis://127.0.0.1:1/0", "STBASS_SIGNING_KEY": "0123456789abcdef"}
    done = subprocess.run(COMMAND, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)
    return done.returncode, done.stdout, done.stderr


def test_it_ends_well(demo: tuple[int, str, str]) -> None:
    code, out, err = demo
    assert code == 0, out + err


def test_it_shows_progress_of_every_agent_as_it_goes(demo: tuple[int, str, str]) -> None:
    _, _, err = demo
    for name in ("reason about the sky", "classify reviews", "embed reviews", "summarize reviews"):
        waits, runs, done = (err.index(f"{name}: {what}") for what in ("waits for ", "runs on ", "done"))
        assert waits < runs < done
    assert re.search(r"reason about the sky: checkpoint \{'step': 2,", err)


def test_it_shows_results_and_where_they_come_from(demo: tuple[int, str, str]) -> None:
    _, out, _ = demo
    results = out[: out.index("failures;")]
    assert results.count(" ok ") == 4
    assert results.count("opus @ anthropic") == results.count("haiku @ anthropic") == 2
    assert "nomic @ local:8080" in results
    # A cell goes over several lines: what stands between them is not part of it.
    outcome = "".join(line.split("│")[5].strip() + " " for line in results.splitlines() if line.count("│") == 6)
    assert "'It never came.': 'bad'" in outcome
    assert len(set(re.findall(r"stbass-[0-9a-f-]+@\S+", results))) == 2


def test_it_shows_the_missed_deadline_with_checkpoint_and_place(demo: tuple[int, str, str]) -> None:
    _, out, _ = demo
    [section] = re.findall(r"\nreason about everything\n((?:  .*\n)+)", out)
    assert re.search(r"error +DeadlineExceeded: ", section)
    assert re.search(r"ran on +stbass-\S+@\S+, opus @ anthropic", section)
    [step] = re.findall(r"checkpoint +\{'step': (\d+),", section)
    assert 1 <= int(step) < 40


def test_it_shows_the_failure_with_checkpoint_and_place(demo: tuple[int, str, str]) -> None:
    _, out, _ = demo
    [section] = re.findall(r"\nclassify with a gap\n((?:  .*\n)+)", out)
    assert "error      ValueError: text 4 of 5 is empty" in section
    assert re.search(r"ran on +stbass-\S+@\S+, haiku @ anthropic", section)
    assert "checkpoint {'classified': 3, 'of': 5}" in section


def test_two_fail_and_no_more(demo: tuple[int, str, str]) -> None:
    _, out, _ = demo
    assert "\n2 failures; what the others found is kept (COLLECT):" in out


# A shell that is not interactive has what it starts in the background ignore SIGINT.
IN_THE_BACKGROUND = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]


@pytest.mark.parametrize(
    ("how", "code", "around"),
    [
        pytest.param(None, 0, [], marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, [], marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, IN_THE_BACKGROUND, marks=pytest.mark.slow),
        (signal.SIGKILL, 137, []),
    ],
)
def test_however_it_ends_it_leaves_nothing_behind(how: signal.Signals | None, code: int, around: list[str]) -> None:
    process = GuardedProcess([*around, *COMMAND], name="demo", cwd=ROOT)
    try:
        process.wait_for_log("checkpoint", 60)
        started = descendants_of(process.pid)
        assert len(started) >= 3  # Redis and two workers, with what watches over them
        if how is not None:
            process.send_signal(how)
        assert process.wait(60) == code
        assert all(wait_until_gone(pid) for pid in started)
    finally:
        process.kill()
