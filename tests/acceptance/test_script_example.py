"""examples/script: a script that waits, and one that follows a run; interrupted, killed, started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from stbass.testing import RedisServer, Worker
from stbass.testing._guarded import GuardedProcess
from tests.support.site import ROOT
from tests.support.waiting import until

TEXT = "A report on {}. It is written word by word, as a model would write it, and every reader sees all of it."

pytestmark = pytest.mark.acceptance


@pytest.fixture(scope="module")
def environment(server: RedisServer) -> Iterator[dict[str, str]]:
    """That of a script whose fleet writes drafts."""
    settings = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url, "PYTHONPATH": str(ROOT)}
    with Worker("stbass.app", "reports", env=settings, include=["examples.web.report"], cwd=ROOT):
        yield {**os.environ, **settings}


def script(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_a_script_waits_for_what_it_has_placed(environment: dict[str, str]) -> None:
    done = script(environment, "examples.script.waits", "tides", "moons")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"{topic}: {TEXT.format(topic)}" for topic in ("tides", "moons")]


async def test_ctrl_c_cancels_what_a_script_waits_for(server: RedisServer, environment: dict[str, str]) -> None:
    topics = [" ".join(["very"] * 1000), "moons"]  # a minute of words
    command = [sys.executable, "-m", "examples.script.waits", *topics]
    waiting = GuardedProcess(command, name="the script", env=environment, cwd=ROOT)
    try:
        await until(lambda: server.command("ZCARD", "stbass:leases"), timeout=30)
        waiting.send_signal(signal.SIGINT)
        assert waiting.wait(30) == 128 + signal.SIGINT
        await until(lambda: server.command("ZCARD", "stbass:leases") == 0, timeout=30)
    finally:
        waiting.kill()


def test_a_run_outlives_the_script_that_started_it(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "examples.script.follows", "order-7", "tides"]
    follows = GuardedProcess(command, name="the script", env=environment, cwd=ROOT)
    follows.wait_for_log("tides.", 60)
    assert follows.log.startswith("started\nA\nreport\n")
    follows.kill()
    done = script(environment, "examples.script.follows", "order-7", "tides")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["found", *TEXT.format("tides").split()]
