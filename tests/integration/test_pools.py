"""Pools of Python processes. What every backend does is in the conformance tests."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from stbass import PLACED_PAR, FailurePolicy, Process, observe
from stbass._process.call import Call
from stbass._process.context import ProcessContext
from stbass.backends.pools import ProcessPoolBackend
from stbass.errors import (
    DeadlineExceeded,
    NotTransportable,
    RemoteError,
    WorkerLostError,
)
from stbass.tasklist import Process as TaskList
from tests.support import pool_agents as agents
from tests.support import tasks
from tests.support.backends import THERE, registry_of, run_four, until_set
from tests.support.task_lists import WAYS, Run

COLLECT = FailurePolicy.COLLECT


def exists(pid: int) -> bool:
    """Whether there is such a process that has not ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.fixture
async def pool() -> AsyncIterator[ProcessPoolBackend]:
    async with ProcessPoolBackend(2, patience=5.0) as backend:
        yield backend


async def test_workers_are_other_processes_and_stay(pool: ProcessPoolBackend) -> None:
    first = await run_four(pool, agents.pid)
    second = await run_four(pool, agents.pid)
    assert os.getpid() not in first
    assert set(second) <= set(first)
    assert len(set(first)) <= 2
    assert all(exists(pid) for pid in first)


async def test_a_sync_function_is_killed_at_the_deadline(pool: ProcessPoolBackend) -> None:
    before = set(await run_four(pool, agents.pid))
    began = time.monotonic()
    result = await PLACED_PAR((agents.blocks, THERE), deadline=0.5, registry=registry_of(pool)).run()
    # At once: a thread that cannot be stopped is worth no patience.
    assert time.monotonic() - began < 4
    failure = result.failures[0]
    assert isinstance(failure.error, DeadlineExceeded)
    assert failure.checkpoint == "blocking"
    assert failure.started_at is not None
    after = set(await run_four(pool, agents.pid))
    assert len(before - after) >= 1
    assert not any(exists(pid) for pid in before - after)


async def test_what_never_yields_is_killed_when_patience_ends() -> None:
    async with ProcessPoolBackend(1, patience=0.1) as pool:
        await run_four(pool, agents.pid)
        result = await PLACED_PAR((agents.hogs, THERE), deadline=0.5, registry=registry_of(pool)).run()
        assert isinstance(result.failures[0].error, DeadlineExceeded)
        assert result.failures[0].checkpoint == "hogging"
        assert len(await run_four(pool, agents.pid)) == 4


async def test_a_cancelled_process_cleans_up_and_its_worker_stays(pool: ProcessPoolBackend, tmp_path: Path) -> None:
    (worker,) = {await _value(pool, agents.pid)}
    path = tmp_path / "cleaned"
    waiting = threading.Event()
    with observe.subscribe(lambda event: waiting.set() if event.kind == "checkpoint" else None):
        running = asyncio.ensure_future(pool.execute(agents.Cleans(str(path)), ProcessContext("cleans")))
        await until_set(waiting)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert path.exists()
    assert await _value(pool, agents.pid) == worker


async def _value(backend: ProcessPoolBackend, process: Process) -> Any:
    return (await backend.execute(process, ProcessContext(process.name))).value


async def test_a_worker_that_dies_is_told_with_the_checkpoint(pool: ProcessPoolBackend) -> None:
    result = await PLACED_PAR(
        (agents.dies, THERE), (agents.pid, THERE), on_failure=COLLECT, registry=registry_of(pool)
    ).run()
    failure = result.failures[0]
    assert isinstance(failure.error, WorkerLostError)
    assert "SIGKILL" in str(failure.error)
    assert failure.checkpoint == {"before": "the end"}
    assert result.results[1].is_ok
    assert len(await run_four(pool, agents.pid)) == 4


async def test_an_idle_worker_that_died_is_replaced(pool: ProcessPoolBackend) -> None:
    victim = await _value(pool, agents.pid)
    os.kill(victim, 9)
    assert await asyncio.to_thread(os.waitid, os.P_PID, victim, os.WEXITED | os.WNOWAIT)
    assert await _value(pool, agents.pid) != victim


async def test_events_and_progress_come_back(pool: ProcessPoolBackend) -> None:
    seen: list[observe.Event] = []
    with observe.subscribe(seen.append):
        await PLACED_PAR((agents.reports, THERE), registry=registry_of(pool)).run()
    seen = [event for event in seen if event.name == "reports"]
    assert [event.kind for event in seen] == ["queued", "started", "progress", "checkpoint", "ended"]
    assert seen[2].note == "half"
    assert seen[1].worker is not None
    assert seen[1].worker.startswith("process ")


async def test_what_cannot_come_back_is_told(pool: ProcessPoolBackend) -> None:
    odd = await pool.execute(agents.fails_oddly, ProcessContext("odd"))
    error = odd.failure.error
    assert isinstance(error, RemoteError)
    assert error.type_name == "tests.support.pool_agents:OddError"
    assert odd.failure.checkpoint == 3
    assert "fails_oddly" in odd.failure.traceback_str
    lock = await pool.execute(agents.gives_lock, ProcessContext("lock"))
    assert isinstance(lock.failure.error, NotTransportable)
    assert "lock" in str(lock.failure.error)


async def test_a_checkpoint_that_is_refused_leaves_the_last_one(pool: ProcessPoolBackend) -> None:
    failure = (await pool.execute(agents.saves_a_lock, ProcessContext("saves"))).failure
    assert isinstance(failure.error, NotTransportable)
    assert failure.checkpoint == "good"


async def test_cancelling_while_a_worker_starts_leaves_it_to_the_next() -> None:
    before = set(multiprocessing.active_children())
    async with ProcessPoolBackend(1) as pool:
        running = asyncio.ensure_future(pool.execute(agents.pid, ProcessContext("pid")))
        await asyncio.sleep(0)  # its first step, which is to start a worker
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert isinstance(await _value(pool, agents.pid), int)
    assert set(multiprocessing.active_children()) <= before


async def test_closing_kills_workers_and_fails_what_runs(pool: ProcessPoolBackend, tmp_path: Path) -> None:
    pid = await _value(pool, agents.pid)
    waiting = threading.Event()
    with observe.subscribe(lambda event: waiting.set() if event.kind == "checkpoint" else None):
        running = asyncio.ensure_future(pool.execute(agents.Cleans(str(tmp_path / "x")), ProcessContext("cleans")))
        await until_set(waiting)
    await pool.aclose()
    assert isinstance((await running).failure.error, WorkerLostError)
    assert not exists(pid)


def test_workers_end_with_the_event_loop() -> None:
    backend = ProcessPoolBackend(2)
    for _ in range(2):
        pids = asyncio.run(run_four(backend, agents.pid))
        assert not any(exists(pid) for pid in pids)


PROGRAM = """
import asyncio, sys
from stbass.backends.pools import ProcessPoolBackend
from stbass._process.context import ProcessContext
from tests.support.pool_agents import pid

if __name__ == "__main__":
    loop = asyncio.new_event_loop()
    pool = ProcessPoolBackend(1)
    print(loop.run_until_complete(pool.execute(pid, ProcessContext("pid"))).value)
    # Neither the pool nor the loop is closed.
"""


def test_workers_end_with_the_program(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )
    assert not exists(int(done.stdout))


async def test_a_call_goes_to_a_pool_of_processes() -> None:
    async with ProcessPoolBackend(1) as backend:
        pid, _ = (await backend.execute(Call(tasks.where), ProcessContext("call"))).value
    assert pid != os.getpid()


@pytest.mark.parametrize("run", WAYS)
def test_a_task_can_be_placed_on_a_pool_of_processes(run: Run) -> None:
    process = TaskList("pool", "parallel", registry=registry_of(ProcessPoolBackend(1)))
    process.add_task(tasks.where, placement=THERE)
    [(pid, _)] = run(process)
    assert pid != os.getpid()
