"""Threads for sync code: shared by those who wait, left behind by those who are cancelled, and one of one's own."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from contextvars import ContextVar
from typing import Any

import pytest

from stbass import PAR, FailurePolicy, Process
from stbass._process.call import Call
from stbass._process.context import Composable
from stbass._process.sync_threads import OneThread, SyncThreads, shared_threads

MANY = min(32, (os.cpu_count() or 1) + 4) + 3
"""More than asyncio has threads."""

variable: ContextVar[int] = ContextVar("variable", default=0)


async def test_a_call_has_the_callers_context_and_a_free_thread_serves_the_next() -> None:
    with SyncThreads("some") as threads:
        variable.set(3)
        assert await threads.call(variable.get) == 3
        assert await threads.call(threading.get_ident) == await threads.call(threading.get_ident)
    with pytest.raises(RuntimeError, match="shut down"):
        await threads.call(int)


async def test_a_call_that_is_cancelled_goes_on_and_is_counted_until_it_ends() -> None:
    loop, started, let_go, ended = asyncio.get_running_loop(), asyncio.Event(), threading.Event(), threading.Event()

    def blocks() -> None:
        loop.call_soon_threadsafe(started.set)
        let_go.wait(30)
        ended.set()

    with SyncThreads("some") as threads:
        call = asyncio.ensure_future(threads.call(blocks))
        await started.wait()
        call.cancel()
        await asyncio.wait((call,))
        assert (call.cancelled(), threads.abandoned.value) == (True, 1)
        [thread] = [one for one in threading.enumerate() if one.name.startswith("some-")]
        let_go.set()
        assert await asyncio.to_thread(ended.wait, 30)
    await asyncio.to_thread(thread.join, 30)
    assert threads.abandoned.value == 0


async def test_what_is_awaited_in_the_thread_is_cancelled_there() -> None:
    loop, started, cancelled = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    async def waits() -> None:
        loop.call_soon_threadsafe(started.set)
        try:
            await asyncio.Future()
        finally:
            cancelled.set()

    with SyncThreads("some") as threads:
        call = asyncio.ensure_future(threads.call(waits))
        await started.wait()
        call.cancel()
        await asyncio.wait((call,))
        assert await asyncio.to_thread(cancelled.wait, 30)


async def test_one_thread_makes_calls_in_order_and_to_their_end() -> None:
    let_go = threading.Event()
    order: list[int] = []
    thread = OneThread("mine")
    first = asyncio.ensure_future(thread.call(let_go.wait, 30))
    await asyncio.sleep(0)
    first.cancel()
    later = [thread.begin(order.append, number) for number in range(3)]
    let_go.set()
    await asyncio.gather(*later)
    thread.end()
    assert order == [0, 1, 2]
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_threads_that_are_free_end_after_a_while() -> None:
    with SyncThreads("brief", idle=0.01) as threads:
        at_once = threading.Barrier(5)
        found = await asyncio.gather(*(threads.call(_at, at_once) for _ in range(5)))
        assert len(set(found)) == 5
        for thread in found:
            await asyncio.to_thread(thread.join, 10)
            assert not thread.is_alive()
        # and the next call has one all the same
        assert await threads.call(threading.current_thread) not in found


def _at(barrier: threading.Barrier) -> threading.Thread:
    barrier.wait(30)
    return threading.current_thread()


async def test_calls_wait_for_threads_if_the_system_has_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def refused(thread: threading.Thread) -> None:
        if thread.name.startswith("few-") and sum(one.name.startswith("few-") for one in threading.enumerate()) >= 2:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refused)
    with SyncThreads("few") as threads:
        at_once = threading.Barrier(2)
        found = await asyncio.gather(*(threads.call(_at, at_once) for _ in range(6)))
        assert len(set(found)) == 2
        assert threads.running == 0


async def test_stop_iteration_is_an_error_like_any_other() -> None:
    with SyncThreads("some") as threads, pytest.raises(RuntimeError, match="StopIteration"):
        await threads.call(next, iter(()))


def _sync(name: str, function: Any) -> Composable:
    return Process(lambda ctx: function()).with_name(name)


@pytest.mark.parametrize("kind", [_sync, lambda name, function: Call(function)])
async def test_sync_processes_have_as_many_threads_as_they_need(kind: Any) -> None:
    meeting = threading.Barrier(MANY)
    result = await PAR(*[kind(f"p{n}", lambda: meeting.wait(20) >= 0) for n in range(MANY)], deadline=30).run()
    assert result.is_ok


@pytest.mark.parametrize("kind", [_sync, lambda name, function: Call(function)])
async def test_what_is_abandoned_takes_nobodys_place(kind: Any) -> None:
    let_go = threading.Event()
    before = shared_threads().abandoned.value
    # when processes that block are left at their deadline, and others because one of them failed
    late = PAR(
        *[kind(f"late{n}", lambda: let_go.wait(60)) for n in range(MANY)],
        deadline=0.2,
        on_failure=FailurePolicy.COLLECT,
    )
    halted = PAR(*[kind(f"halted{n}", lambda: let_go.wait(60)) for n in range(MANY)], kind("fails", lambda: 1 // 0))
    started = time.monotonic()
    assert [item.is_ok for item in (await late.run()).results] == [False] * MANY
    assert not (await halted.run()).is_ok
    # then those who waited are free at once
    assert time.monotonic() - started < 5
    assert MANY < shared_threads().abandoned.value - before <= 2 * MANY
    # and others are served: processes, and who uses the threads of the event loop
    assert (await PAR(kind("quick", lambda: "done"), deadline=10).run()).value == ["done"]
    async with asyncio.timeout(10):
        await asyncio.to_thread(int)
    let_go.set()
    async with asyncio.timeout(10):
        while shared_threads().abandoned.value > before:  # noqa: ASYNC110 - the threads cannot wake us
            await asyncio.sleep(0.01)
