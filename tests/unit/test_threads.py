"""Event loops in threads, and what no pool of Python processes accepts. What every backend does: tests/conformance."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from stbass import PAR, PLACED_PAR, Chan, FailurePolicy, Process
from stbass._process.context import ProcessContext
from stbass.backends.pools import ProcessPoolBackend, ThreadBackend
from stbass.errors import DeadlineExceeded, NotTransportable
from tests.support import pool_agents as agents
from tests.support.backends import THERE, registry_of, run_four, until_set

COLLECT = FailurePolicy.COLLECT


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
        return release.wait(30)

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
    assert time.monotonic() - began < 20
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
    await until_set(started)
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
    await until_set(started)
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
        asyncio.run(run_four(backend, agents.thread_name))
        assert not any("ends" in name for name in names())


async def test_threads_are_shared_by_event_loops(threads: ThreadBackend) -> None:
    results = await asyncio.gather(
        *(asyncio.to_thread(asyncio.run, run_four(threads, agents.thread_name)) for _ in range(3)),
        run_four(threads, agents.thread_name),
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
    await until_set(started)
    await backend.aclose()
    assert "nobody cancelled it" in str((await running).failures[0].error)


# What is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: Process(lambda ctx: 1),
        lambda: agents.pid.with_channels(c=Chan(int)),
        lambda: PAR(agents.pid, agents.pid.with_channels(c=Chan(int))),
        lambda: agents.Cleans(threading.Lock()),  # type: ignore[arg-type]
    ],
)
async def test_what_cannot_go_to_a_python_process_is_refused_before_anything_starts(make: Callable[[], Any]) -> None:
    before = multiprocessing.active_children()
    async with ProcessPoolBackend(2) as pool:
        with pytest.raises(NotTransportable):
            await PLACED_PAR((agents.pid, THERE), (make(), THERE), registry=registry_of(pool)).run()
        assert multiprocessing.active_children() == before


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
