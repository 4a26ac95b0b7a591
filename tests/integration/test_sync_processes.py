"""Sync processes that block: here, and on a worker."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stbass import SEQ
from stbass._process.context import ProcessContext
from stbass._values.endpoint import Placement
from stbass.backends.celery import CeleryBackend
from stbass.backends.pools import ProcessPoolBackend, ThreadBackend
from stbass.errors import DeadlineExceeded
from stbass.placement import PLACED_PAR, BackendRegistry
from stbass.result import FailurePolicy
from stbass.testing import RedisServer
from tests.integration.conftest import Fleet, workers_on
from tests.support.agents import MEETING, block, forget, increment, meet, meet_by_hand
from tests.support.backends import registry_of
from tests.support.blocking import ENDED, INTERRUPTED
from tests.support.waiting import until

ANTHROPIC = Placement(endpoint="anthropic")


BLOCKED = """
import asyncio, os, sys, time
from stbass import PAR, FailurePolicy, Process

@Process
def blocked(ctx):
    print("blocked", flush=True)
    time.sleep(600)

@Process
def quick(ctx):
    return 3

async def main(deadline):
    result = await PAR(blocked, deadline=deadline, on_failure=FailurePolicy.COLLECT).run()
    print(result.is_ok, flush=True)
    if pid := os.fork():
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

asyncio.run(main(%s))
# The child has none of its parent's threads.
os._exit(asyncio.run(PAR(quick).run()).value != [3])
"""


def test_a_sync_process_does_not_hold_up_the_end_of_the_program() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED % 0.3], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.stdout.split(), done.returncode) == (["blocked", "False"], 0), done.stderr


def _is_asleep(pid: int) -> bool:
    threads = list(Path(f"/proc/{pid}/task").iterdir())
    return all(thread.joinpath("stat").read_text().rpartition(")")[2].split()[0] == "S" for thread in threads)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="/proc tells that a program is asleep: only on Linux")
def test_a_sync_process_does_not_hold_up_ctrl_c() -> None:
    program = subprocess.Popen([sys.executable, "-c", BLOCKED % None], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert program.stdout is not None
    assert program.stdout.readline() == b"blocked\n"
    # Python does not see a signal that comes in the microsecond before its event loop falls asleep.
    asyncio.run(until(lambda: _is_asleep(program.pid)))
    program.send_signal(signal.SIGINT)
    _, errors = program.communicate(timeout=30)
    assert program.returncode == -signal.SIGINT
    assert errors.rstrip().endswith(b"KeyboardInterrupt")


def _outcomes(which: str) -> dict[str, str]:
    """What came of each case of a program in which every front end runs sync code that blocks; it has ended."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.blocking", which],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    *lines, last = done.stdout.splitlines()
    # The threads that were left behind have starved nobody, and have not held up the end of the program.
    assert (last, done.returncode) == ("met", 0), done.stderr
    return dict(line.rsplit(": ", 1) for line in lines)


def test_ctrl_c_frees_whoever_runs_sync_code_in_every_front_end() -> None:
    assert _outcomes("interrupt") == dict.fromkeys(INTERRUPTED, "KeyboardInterrupt")


def test_a_deadline_and_a_failure_free_whoever_runs_sync_code_in_every_front_end() -> None:
    told = _outcomes("end")
    assert list(told) == list(ENDED)
    assert {(name.rsplit(": ", 1)[1], outcome) for name, outcome in told.items() if name.startswith("task")} == {
        ("halt", "LookupError"),
        ("deadline", "DeadlineExceeded"),
    }
    assert {told["nodes: halt"], told["nodes: deadline"], told["node: timeout"]} == {"WorkflowError"}


async def test_a_worker_has_as_many_threads_as_it_needs(fleet: Fleet, registry: BackendRegistry) -> None:
    meeting = [(meet.with_name(f"m{n}"), ANTHROPIC) for n in range(MEETING)]
    result = await PLACED_PAR(*meeting, registry=registry, deadline=30.0).run()
    assert result.is_ok
    # and processes that block in threads of the event loop have them too
    meeting = [(meet_by_hand.with_name(f"m{n}"), ANTHROPIC) for n in range(MEETING)]
    assert (await PLACED_PAR(*meeting, registry=registry, deadline=30.0).run()).is_ok


async def test_what_a_worker_abandons_takes_nobodys_place_and_does_not_hold_up_its_stop(tmp_path: Path) -> None:
    log = tmp_path / "log"
    env = {"TEST_GRACE": "0.3", "TEST_BLOCK_LOG": str(log)}
    with RedisServer() as server, workers_on(server, "anthropic", env=env) as fleet:
        worker = fleet.workers["anthropic"]
        app = fleet.app()
        backend = CeleryBackend(app)
        blocked = [(block.with_name(f"b{n}"), ANTHROPIC) for n in range(MEETING)]
        result = await PLACED_PAR(
            *blocked, registry=registry_of(backend), deadline=2.0, on_failure=FailurePolicy.COLLECT
        ).run()
        assert [type(item.failure.error) for item in result.results] == [DeadlineExceeded] * MEETING
        assert len(log.read_text().splitlines()) == MEETING
        # Others are served, and the worker tells how many threads are left behind.
        met = [(meet.with_name(f"m{n}"), ANTHROPIC) for n in range(MEETING)]
        assert (await PLACED_PAR(*met, registry=registry_of(backend), deadline=30.0).run()).is_ok
        stats = await asyncio.to_thread(app.control.inspect([worker.name], timeout=5).stats)
        assert stats[worker.name]["pool"]["abandoned-threads"] == MEETING
        # Stopped, it waits for its grace and no longer, and hands back what runs.
        running = asyncio.create_task(backend.execute(block, ProcessContext("b", placement=ANTHROPIC)))
        await until(lambda: len(log.read_text().splitlines()) == MEETING + 1)
        assert await asyncio.to_thread(worker.terminate, 10) == 0
        await until(lambda: server.command("LLEN", "anthropic") == 1)
        running.cancel()
        await asyncio.wait((running,))
        await backend.aclose()


@pytest.mark.parametrize("where", ["threads", "processes", "fleet"])
async def test_channels_of_sync_processes_and_forgotten_awaits(where: str, registry: BackendRegistry) -> None:
    backend: Any = {"threads": ThreadBackend(1), "processes": ProcessPoolBackend(1)}.get(where)
    found = registry if backend is None else registry_of(backend)
    # A sync process on any backend receives and sends,
    result = await SEQ(PLACED_PAR((SEQ(increment, increment), ANTHROPIC)), registry=found, deadline=60).run(1)
    assert result.value == [3]
    # and an await that is forgotten there fails its process.
    placed = PLACED_PAR((SEQ(forget), ANTHROPIC), registry=found, deadline=60, on_failure=FailurePolicy.COLLECT)
    [failure] = (await placed.run()).failures
    [leaf] = failure.leaves
    assert "process 'forget' called ctx.send('output') without await, so nothing moved: write await ctx.se" in leaf
    if backend is not None:
        await backend.aclose()
