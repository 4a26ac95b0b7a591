"""Threads for sync code: shared by those who wait, left behind by those who are cancelled, and one of one's own."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar

import pytest

from stbass._process.sync_threads import OneThread, SyncThreads

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
