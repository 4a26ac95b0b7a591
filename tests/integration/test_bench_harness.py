"""The drivers of the benchmarks: Python processes that measure one subject each."""

from __future__ import annotations

import asyncio
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import harness
from benchmarks.harness import SubjectFailed, run_driver
from benchmarks.idle import cost_of
from benchmarks.quiet import CpuTimes
from stbass.testing import RedisServer


@pytest.fixture(autouse=True)
def _any_machine_is_quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Readings that say that nobody else runs, so that a test depends on no machine."""
    ticks = iter(range(0, 10_000_000, 100))
    monkeypatch.setattr(harness, "wait_until_quiet", lambda patience: 0.0)
    monkeypatch.setattr(harness, "read_cpu", lambda: CpuTimes(next(ticks), 0, 0))
    harness.journal.clear()
    yield
    harness.journal.clear()


def _run(code: str, timeout: float = 20) -> dict[str, object]:
    return run_driver([sys.executable, "-c", code], timeout=timeout, environment=os.environ)


def test_a_driver_answers_with_its_last_line() -> None:
    answer = {"values": {"total": 1.5}, "versions": {"one": "1.0"}}
    assert _run(f"print('by the way'); print({json.dumps(answer)!r})") == answer
    assert harness.versions.pop("one") == "1.0"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise RuntimeError('no worker')", "exit code 1: RuntimeError: no worker"),
        ("pass", "printed nothing"),
        # No path of the machine is written into the results.
        (f"raise ImportError({str(harness.ROOT)!r} + '/.venvs/one')", "exit code 1: ImportError: .venvs/one"),
    ],
)
def test_a_driver_that_fails_says_why(code: str, message: str) -> None:
    with pytest.raises(SubjectFailed, match=message):
        _run(code)


def test_what_a_driver_started_ends_with_it(tmp_path: Path) -> None:
    # given a driver that leaves behind a process with a named pipe open
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    code = (
        "import subprocess, sys;"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(600)'];"
        f"subprocess.Popen(sleep, stdout=open({str(pipe)!r}, 'w'));"
        "print('{}')"
    )
    # when it has answered
    assert _run(code) == {}
    # then nobody holds the pipe any more: its reader sees the end
    assert select.select([reader], [], [], 10)[0]
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_what_a_worker_sends_is_no_part_of_what_the_program_that_started_it_costs(server: RedisServer) -> None:
    code = f"from redis import Redis; r = Redis.from_url({server.url!r})\nprint(1, flush=True)\nwhile True: r.ping()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()
            me = os.getpid()
            _, commands = asyncio.run(cost_of(server.url, [me], 0.5))[me]
            _, own = asyncio.run(cost_of(server.url, [me], 0.5, beside=[child.pid]))[me]
        finally:
            child.kill()
    assert commands > 10
    assert own <= 10
