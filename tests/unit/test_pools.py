"""Event loops in threads, and Python processes. What every backend does is in the conformance tests."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from stbass import PAR, PLACED_PAR, BackendRegistry, Chan, FailurePolicy, Placement, Process, observe
from stbass._process.context import ProcessContext
from stbass.backends.pools import ProcessPoolBackend, ThreadBackend
from stbass.errors import DeadlineExceeded, NotTransportable, RemoteError, WorkerLostError
from tests.support import pool_agents as agents

THERE = Placement(endpoint="there")
COLLECT = FailurePolicy.COLLECT


def registry_of(backend: Any) -> BackendRegistry:
    registry = BackendRegistry()
    registry.register("there", backend)
    return registry


def exists(pid: int) -> bool:
    """Whether there is such a process that has not ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def until(event: threading.Event) -> None:
    """Wait for an event of another thread."""
    assert await asyncio.to_thread(event.wait, 5)


# Threads -----------------------------------------------------------------------------------------


@pytest.fixture
async def threads() -> AsyncIterator[ThreadBackend]:
    async with ThreadBackend(2, name="t") as backend:
        yield backend


async def test_threads_are_others_and_as_many_as_wanted(threads: ThreadBackend) -> None:
    gate = threading.Barrier(2, timeout=5)

    @Process
    async def meets(ctx: ProcessContext) -> str:
        gate.wait()  # blocks its event loop, so two of them have to be there
        return threading.current_thread().name

    result = await PLACED_PAR((meets, THERE), (meets, THERE), registry=registry_of(threads)).run()
    assert sorted(result.value) == ["stbass-t-0", "stbass-t-1"]
    run = result.results[0].run
    assert run is not None
    assert run.worker == "t"


async def test_a_blocking_process_holds_up_nobody_here(threads: ThreadBackend) -> None:
    release = threading.Event()

    @Process
    async def blocks_its_loop(ctx: ProcessContext) -> bool:
        return release.wait(5)

    running = asyncio.ensure_future(PLACED_PAR((blocks_its_loop, THERE), registry=registry_of(threads)).run())
    await asyncio.sleep(0)
    release.set()
    assert (await running).value == [True]


async def test_a_sync_function_is_abandoned_at_the_deadline(threads: ThreadBackend) -> None:
    release = threading.Event()

    @Process
    def waits(ctx: ProcessContext) -> None:
        ctx.checkpoint("waits")
        release.wait(5)

    began = time.monotonic()
    result = await PLACED_PAR((waits, THERE), deadline=0.1, registry=registry_of(threads)).run()
    assert time.monotonic() - began < 3
    release.set()
    assert isinstance(result.failures[0].error, DeadlineExceeded)
    assert result.failures[0].checkpoint == "waits"


async def test_a_cancellation_is_awaited_there(threads: ThreadBackend) -> None:
    started, cleaned = threading.Event(), threading.Event()

    @Process
    async def cleans(ctx: ProcessContext) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            cleaned.set()

    running = asyncio.ensure_future(threads.execute(cleans, ProcessContext("cleans")))
    await until(started)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert cleaned.is_set()


async def test_what_a_process_makes_of_its_cancellation_counts(threads: ThreadBackend) -> None:
    started = threading.Event()

    @Process
    async def finishes(ctx: ProcessContext) -> str:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "finished anyway"
        return ""

    running = asyncio.ensure_future(threads.execute(finishes, ProcessContext("finishes")))
    await until(started)
    running.cancel()
    assert (await running).value == "finished anyway"


async def test_a_channel_in_memory_is_refused_before_anything_starts(threads: ThreadBackend) -> None:
    words: Chan[str] = Chan(str, name="words")
    with pytest.raises(NotTransportable, match="channel 'words'"):
        await PLACED_PAR((agents.pid.with_channels(words=words), THERE), registry=registry_of(threads)).run()


async def test_channels_inside_a_composition_go_with_it(threads: ThreadBackend) -> None:
    words: Chan[str] = Chan(str)

    @Process
    async def says(ctx: ProcessContext) -> None:
        await ctx.send("words", threading.current_thread().name)

    @Process
    async def hears(ctx: ProcessContext) -> Any:
        return await ctx.recv("words")

    both = PAR(says.with_channels(words=words), hears.with_channels(words=words))
    result = await PLACED_PAR((both, THERE), registry=registry_of(threads)).run()
    assert result.value == [[None, "stbass-t-0"]]


def names() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def test_threads_end_with_the_event_loop() -> None:
    backend = ThreadBackend(2, name="ends")
    for _ in range(2):  # and start again with the next
        asyncio.run(_run_some(backend, agents.thread_name))
        assert not any("ends" in name for name in names())


async def _run_some(backend: Any, process: Process) -> Any:
    return (await PLACED_PAR(*[(process, THERE)] * 4, registry=registry_of(backend)).run()).value


async def test_threads_are_shared_by_event_loops(threads: ThreadBackend) -> None:
    results = await asyncio.gather(
        *(asyncio.to_thread(asyncio.run, _run_some(threads, agents.thread_name)) for _ in range(3)),
        _run_some(threads, agents.thread_name),
    )
    assert {name for result in results for name in result} <= {"stbass-t-0", "stbass-t-1"}


async def test_closing_cancels_what_runs() -> None:
    backend = ThreadBackend(1)
    started = threading.Event()

    @Process
    async def waits(ctx: ProcessContext) -> None:
        started.set()
        await asyncio.Event().wait()

    running = asyncio.ensure_future(PLACED_PAR((waits, THERE), registry=registry_of(backend)).run())
    await until(started)
    await backend.aclose()
    assert "nobody cancelled it" in str((await running).failures[0].error)


# Python processes --------------------------------------------------------------------------------


@pytest.fixture
async def pool() -> AsyncIterator[ProcessPoolBackend]:
    async with ProcessPoolBackend(2, patience=5.0) as backend:
        yield backend


async def test_workers_are_other_processes_and_stay(pool: ProcessPoolBackend) -> None:
    first = await _run_some(pool, agents.pid)
    second = await _run_some(pool, agents.pid)
    assert os.getpid() not in first
    assert set(second) <= set(first)
    assert len(set(first)) <= 2
    assert all(exists(pid) for pid in first)


async def test_a_sync_function_is_killed_at_the_deadline(pool: ProcessPoolBackend) -> None:
    before = set(await _run_some(pool, agents.pid))
    began = time.monotonic()
    result = await PLACED_PAR((agents.blocks, THERE), deadline=0.5, registry=registry_of(pool)).run()
    # At once: a thread that cannot be stopped is worth no patience.
    assert time.monotonic() - began < 4
    failure = result.failures[0]
    assert isinstance(failure.error, DeadlineExceeded)
    assert failure.checkpoint == "blocking"
    assert failure.started_at is not None
    after = set(await _run_some(pool, agents.pid))
    assert len(before - after) >= 1
    assert not any(exists(pid) for pid in before - after)


async def test_what_never_yields_is_killed_when_patience_ends() -> None:
    async with ProcessPoolBackend(1, patience=0.1) as pool:
        await _run_some(pool, agents.pid)
        result = await PLACED_PAR((agents.hogs, THERE), deadline=0.5, registry=registry_of(pool)).run()
        assert isinstance(result.failures[0].error, DeadlineExceeded)
        assert result.failures[0].checkpoint == "hogging"
        assert len(await _run_some(pool, agents.pid)) == 4


async def test_a_cancelled_process_cleans_up_and_its_worker_stays(pool: ProcessPoolBackend, tmp_path: Path) -> None:
    (worker,) = {await _value(pool, agents.pid)}
    path = tmp_path / "cleaned"
    waiting = threading.Event()
    with observe.subscribe(lambda event: waiting.set() if event.kind == "checkpoint" else None):
        running = asyncio.ensure_future(pool.execute(agents.Cleans(str(path)), ProcessContext("cleans")))
        await until(waiting)
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
    assert len(await _run_some(pool, agents.pid)) == 4


async def test_an_idle_worker_that_died_is_replaced(pool: ProcessPoolBackend) -> None:
    victim = await _value(pool, agents.pid)
    os.kill(victim, 9)
    assert await asyncio.to_thread(os.waitid, os.P_PID, victim, os.WEXITED | os.WNOWAIT)
    assert await _value(pool, agents.pid) != victim


async def test_events_and_progress_come_back(pool: ProcessPoolBackend) -> None:
    seen: list[observe.Event] = []
    with observe.subscribe(seen.append):
        await pool.execute(agents.reports, ProcessContext("reports"))
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


@pytest.mark.parametrize(
    "make",
    [
        lambda: Process(lambda ctx: 1),
        lambda: agents.pid.with_channels(c=Chan(int)),
        lambda: PAR(agents.pid, agents.pid.with_channels(c=Chan(int))),
        lambda: agents.Cleans(threading.Lock()),  # type: ignore[arg-type]
    ],
)
async def test_what_cannot_go_is_refused_before_anything_starts(
    pool: ProcessPoolBackend, make: Callable[[], Any]
) -> None:
    with pytest.raises(NotTransportable):
        await PLACED_PAR((agents.pid, THERE), (make(), THERE), registry=registry_of(pool)).run()
    assert pool._workers == set()


async def test_cancelling_while_a_worker_starts_leaves_it_to_the_next() -> None:
    async with ProcessPoolBackend(1) as pool:
        running = asyncio.ensure_future(pool.execute(agents.pid, ProcessContext("pid")))
        await asyncio.sleep(0)  # its first step, which is to start a worker
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert isinstance(await _value(pool, agents.pid), int)
        await pool.aclose()
        assert pool._workers == set()


async def test_closing_kills_workers_and_fails_what_runs(pool: ProcessPoolBackend, tmp_path: Path) -> None:
    pid = await _value(pool, agents.pid)
    waiting = threading.Event()
    with observe.subscribe(lambda event: waiting.set() if event.kind == "checkpoint" else None):
        running = asyncio.ensure_future(pool.execute(agents.Cleans(str(tmp_path / "x")), ProcessContext("cleans")))
        await until(waiting)
    await pool.aclose()
    assert isinstance((await running).failure.error, WorkerLostError)
    assert not exists(pid)


def test_workers_end_with_the_event_loop() -> None:
    backend = ProcessPoolBackend(2)
    for _ in range(2):
        pids = asyncio.run(_run_some(backend, agents.pid))
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


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: ThreadBackend(0), ValueError),
        (lambda: ThreadBackend(2, concurrency_limit=True), TypeError),
        (lambda: ProcessPoolBackend(0), ValueError),
        (lambda: ProcessPoolBackend(1, patience=-1), ValueError),
    ],
)
def test_wrong_arguments_are_refused_when_made(make: Callable[[], Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        make()
