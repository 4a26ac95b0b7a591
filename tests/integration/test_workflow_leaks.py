"""A hundred workflows in a row, of every kind and with every end: nothing of them is left behind."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from stbass.workflow import ProcessType, Workflow, WorkflowError, WorkflowPoolManager
from tests.support.nodes import Failing, Give, Node, Waits
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
ROUNDS = 100


async def one(number: int, *, with_processes: bool) -> None:
    """One workflow: in turn it completes, fails, is cancelled, or misses its deadline."""
    workflow = Workflow(max_threads=2, max_processes=1)
    Give("give").register_to(workflow)
    Node("thread", ProcessType.THREAD).register_to(workflow, ["give"])
    Waits("waiting thread", 0.0, ProcessType.THREAD).register_to(workflow, ["give"])
    if with_processes:
        Node("process", ProcessType.PROCESS).register_to(workflow, ["give"])
    end = number % 4
    if end == 1:
        Failing("fails", ProcessType.THREAD).register_to(workflow, ["thread"])
    elif end:
        Waits("waits", 60.0, ProcessType.THREAD).register_to(workflow, ["thread"])
    if end == 0:
        assert all(result.success for result in (await workflow.execute()).values())
    elif end == 1:
        with pytest.raises(WorkflowError, match="fails"):
            await workflow.execute()
    elif end == 2:
        running = asyncio.create_task(workflow.execute())
        await asyncio.sleep(0.02)  # at some moment while it runs
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    else:
        with pytest.raises(WorkflowError, match="deadline"):
            await workflow.execute(deadline=0.02)


def left() -> tuple[int, int, set[str]]:
    """File descriptors, child processes and threads that there are."""
    gc.collect()
    here = psutil.Process()
    threads = {thread.name for thread in threading.enumerate()}
    return len(list(Path("/proc/self/fd").iterdir())), len(here.children(recursive=True)), threads


def more_than(before: tuple[int, int, set[str]]) -> bool:
    descriptors, children, threads = left()
    return descriptors > before[0] or children > before[1] or not threads <= before[2]


@pytest.mark.slow
async def test_a_hundred_workflows_leave_nothing_behind() -> None:
    # Given what the first workflow starts once for all: the tracker of multiprocessing.
    for number in range(4):
        await one(number, with_processes=True)
    before = left()
    # When a hundred more run
    for number in range(ROUNDS):
        await one(number, with_processes=number % 5 == 0)
    # Then there is not a thread, process or file descriptor more, once those have ended that were left in a thread
    # (or less, if what another test had left was still there)
    await until(lambda: not more_than(before), timeout=60)
    manager = WorkflowPoolManager.get_instance()
    assert (manager.open_pools, manager.abandoned_threads) == ([], 0)


PROGRAM = """
import asyncio, time
from stbass.tasklist import Process
from stbass.workflow import BaseProcess, ProcessConfig, ProcessType

class Stuck(BaseProcess):
    def process(self, input_data):
        time.sleep(600)

print(asyncio.run(Stuck(ProcessConfig(ProcessType.THREAD, timeout=0.1)).run()).error_type)
tasks = Process("stuck", "parallel", deadline=0.1)
tasks.add_task(time.sleep, 600)
try:
    tasks.execute()
except TimeoutError as error:
    print(type(error).__name__)
"""


def test_an_abandoned_thread_does_not_hold_up_the_end_of_the_program() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=30, cwd=ROOT, check=False
    )
    assert (done.stdout.split(), done.stderr) == (["DeadlineExceeded"] * 2, "")
