"""A program whose sync code blocks, in every front end: ``python -m tests.support.blocking interrupt`` (or ``end``).

Under ``interrupt`` there is a Ctrl-C as soon as the code blocks; under ``end`` another process fails, or a deadline
passes. Each case says ``NAME: OUTCOME`` when whoever ran it goes on. One that holds up its caller, or the end of the
program, ends it with a traceback.
"""

from __future__ import annotations

import asyncio
import faulthandler
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from stbass import PAR, PLACED_PAR, SEQ, Process
from stbass.backends.pools import ProcessPoolBackend
from stbass.backends.threads import ThreadBackend
from stbass.dataflow import Component, LocalProcess
from stbass.process import ProcessContext
from stbass.result import RetryPolicy
from stbass.tasklist import Process as TaskList
from stbass.workflow import BaseProcess, ProcessConfig, ProcessType, Workflow
from tests.support.backends import THERE, registry_of

blocked: queue.SimpleQueue[threading.Event] = queue.SimpleQueue()
"""Gets the event that ends the case, each time that something blocks."""
over = threading.Event()


def say(what: str) -> None:
    """Tell whoever reads."""
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def press_ctrl_c() -> None:
    """As soon as something blocks; and again after a second, for one that came just before a wait is not heard."""
    while True:
        case = blocked.get()
        while not case.is_set():
            # At the main thread, as Linux does it: not every system with its calls prefers that to other threads.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            case.wait(1)


def block(*_: object) -> None:
    """Block for longer than anybody waits."""
    blocked.put(over)
    while True:
        time.sleep(0.05)


def fail(*_: object) -> None:
    """Fail, once something blocks."""
    time.sleep(0.2)
    raise LookupError("gone")


async def waits() -> None:
    """A coroutine among sync tasks."""
    await asyncio.sleep(0)


blocks = Process(block)
fails = Process(fail)


@Process
def blocks_elsewhere(ctx: ProcessContext) -> None:
    """Block in another Python process: this one is told by an event."""
    ctx.progress(1)
    time.sleep(600)


class Blocks(BaseProcess):
    """A node that blocks."""

    def process(self, input_data: Any) -> None:
        """Block."""
        block()


class Fails(BaseProcess):
    """A node that fails."""

    def process(self, input_data: Any) -> None:
        """Fail."""
        fail()


def tasks(strategy: str, *functions: Callable[..., Any], **options: Any) -> TaskList:
    """A list of these."""
    made = TaskList("list", strategy, max_workers=4, **options)
    for function in functions:
        made.add_task(function)
    return made


def nodes(kind: ProcessType, *more: BaseProcess, **config: Any) -> Workflow:
    """A workflow with a node that blocks."""
    made = Workflow(max_threads=4)
    for process in (Blocks(ProcessConfig(kind, "blocks", **config)), *more):
        process.register_to(made)
    return made


class Waits(Component):
    """A source beside one that blocks."""

    destroyed = False

    async def step(self) -> None:
        await asyncio.sleep(600)

    async def destroy(self) -> None:
        await asyncio.sleep(0.01)
        Waits.destroyed = True


def component(method: str) -> Callable[[], None]:
    """Runs a component that blocks in one of its methods, and looks whether the other one is destroyed."""

    def run() -> None:
        async def main() -> None:
            source: Any = type("Source", (Component,), {"step": lambda self: None, method: block})
            async with LocalProcess([Waits(name="waits"), source(name="blocks")], []) as process:
                if method == "destroy":
                    return
                await process.run()

        Waits.destroyed = False
        try:
            asyncio.run(main())
        finally:
            assert Waits.destroyed or method == "destroy"

    return run


async def in_a_loop(run: Callable[[], Any]) -> None:
    """What blocks the event loop that it is called in."""
    run()


async def placed(backend: Any, *processes: Any, **options: Any) -> Any:
    """These on a backend."""
    async with backend:
        return await PLACED_PAR(
            *[(process, THERE) for process in processes], registry=registry_of(backend), **options
        ).run()


RETRY = RetryPolicy(2, base_delay=0.01)
THREAD, ASYNC = ProcessType.THREAD, ProcessType.ASYNC

INTERRUPTED: dict[str, Callable[[], Any]] = {
    "par": lambda: PAR(blocks).run_sync(),
    "par again": lambda: PAR(blocks, on_failure=RETRY).run_sync(),
    "par with a deadline": lambda: PAR(blocks, deadline=600).run_sync(),
    "seq": lambda: SEQ(blocks).run_sync(),
    "nested": lambda: PAR(SEQ(PAR(blocks))).run_sync(),
    "threads": lambda: asyncio.run(placed(ThreadBackend(1), blocks)),
    "tasks in order": lambda: tasks("sequential", block).execute(),
    "tasks in order, one a coroutine": lambda: tasks("sequential", waits, block).execute(),
    "tasks in order, again": lambda: tasks("sequential", block, on_failure=RETRY).execute(),
    "tasks in order, in a loop": lambda: asyncio.run(in_a_loop(tasks("sequential", block).execute)),
    "tasks in order, awaited": lambda: asyncio.run(tasks("sequential", block).execute_async()),
    "tasks at once": lambda: tasks("parallel", block, waits).execute(),
    "tasks at once, again": lambda: tasks("parallel", block, on_failure=RETRY).execute(),
    "tasks at once, in a loop": lambda: asyncio.run(in_a_loop(tasks("parallel", block).execute)),
    "tasks at once, awaited": lambda: asyncio.run(tasks("parallel", block).execute_async()),
    "tasks half and half": lambda: tasks("hybrid", waits, block).execute(),
    "tasks with a deadline": lambda: tasks("sequential", block, deadline=600).execute(),
    "node on the loop": lambda: asyncio.run(nodes(ASYNC).execute()),
    "node on the loop, with a timeout": lambda: asyncio.run(nodes(ASYNC, timeout=600).execute()),
    "node in a thread": lambda: asyncio.run(nodes(THREAD).execute()),
    "node by itself": lambda: asyncio.run(Blocks(ProcessConfig()).run(None)),
    "node by itself, in a thread": lambda: asyncio.run(Blocks(ProcessConfig(THREAD)).run(None)),
    "step of a component": component("step"),
    "init of a component": component("init"),
    "destroy of a component": component("destroy"),
}

ENDED: dict[str, Callable[[], Any]] = {
    "par: halt": lambda: PAR(blocks, fails).run_sync(),
    "par: deadline": lambda: PAR(blocks, deadline=0.2).run_sync(),
    "seq: deadline": lambda: SEQ(blocks, deadline=0.2).run_sync(),
    "nested: halt": lambda: PAR(SEQ(PAR(blocks)), fails).run_sync(),
    "threads: halt": lambda: asyncio.run(placed(ThreadBackend(1), blocks, fails)),
    "threads: deadline": lambda: asyncio.run(placed(ThreadBackend(1), blocks, deadline=0.2)),
    "processes: deadline": lambda: asyncio.run(placed(ProcessPoolBackend(1), blocks_elsewhere, deadline=1)),
    "tasks in order: deadline": lambda: tasks("sequential", block, deadline=0.2).execute(),
    "tasks in order, one a coroutine: deadline": lambda: tasks("sequential", waits, block, deadline=0.2).execute(),
    "tasks at once: halt": lambda: tasks("parallel", block, fail).execute(),
    "tasks at once, again: halt": lambda: tasks("parallel", block, fail, on_failure=RETRY).execute(),
    "tasks at once, awaited: halt": lambda: asyncio.run(tasks("parallel", block, fail).execute_async()),
    "tasks at once, in a loop: halt": lambda: asyncio.run(in_a_loop(tasks("parallel", block, fail).execute)),
    "tasks at once: deadline": lambda: tasks("parallel", block, block, deadline=0.2).execute(),
    "tasks half and half: halt": lambda: tasks("hybrid", waits, waits, block, fail).execute(),
    "nodes: halt": lambda: asyncio.run(nodes(THREAD, Fails(ProcessConfig(THREAD))).execute()),
    "nodes: deadline": lambda: asyncio.run(nodes(ASYNC).execute(deadline=0.2)),
    "node: timeout": lambda: asyncio.run(nodes(THREAD, timeout=0.2).execute()),
    "node by itself: timeout": lambda: asyncio.run(Blocks(ProcessConfig(timeout=0.2)).run(None)),
}


def meet() -> None:
    """More sync processes than there are processors meet at a barrier, with all those threads left behind."""
    meeting = threading.Barrier(8)

    def at_it(*_: object) -> bool:
        return meeting.wait(60) >= 0

    class Meets(BaseProcess):
        def process(self, input_data: Any) -> bool:
            return at_it()

    made = Workflow(max_threads=8)
    for index in range(8):
        Meets(ProcessConfig(THREAD, f"meets{index}")).register_to(made)
    assert PAR(*[Process(at_it)] * 8).run_sync().is_ok
    assert asyncio.run(placed(ThreadBackend(), *[Process(at_it)] * 8)).is_ok
    at_once = TaskList("list", "parallel", max_workers=8)
    for _ in range(8):
        at_once.add_task(at_it)
    assert at_once.execute() == [True] * 8
    assert all(result.data for result in asyncio.run(made.execute()).values())
    say("met")


def main(which: str) -> None:
    """Run the cases, then what needs threads of its own."""
    global over
    if which == "interrupt":
        threading.Thread(target=press_ctrl_c, daemon=True).start()
    for name, run in (INTERRUPTED if which == "interrupt" else ENDED).items():
        faulthandler.dump_traceback_later(60, exit=True)
        over = threading.Event()
        outcome = "returned"
        try:
            run()
        except BaseException as error:
            outcome = type(error).__name__
        over.set()
        say(f"{name}: {outcome}")
    faulthandler.dump_traceback_later(60, exit=True)
    meet()
    # It stays set: the end of the program is bounded too.


if __name__ == "__main__":
    main(sys.argv[1])
