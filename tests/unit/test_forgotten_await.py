"""What a process begins with its context and does not await; and what a sync process, which cannot await, does."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from stbass import PAR, SEQ, Chan, FailurePolicy, Process
from stbass.errors import ProcessFailed
from stbass.process import ProcessContext

COLLECT = FailurePolicy.COLLECT


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


async def _error(process: Any, **channels: Chan[Any]) -> BaseException:
    result = await PAR(process.with_channels(**channels), on_failure=COLLECT).run()
    return result.failures[0].error


@pytest.mark.parametrize("name", ["send", "recv"])
async def test_a_forgotten_await_is_an_error_of_that_process(name: str) -> None:
    async def forgets(ctx: ProcessContext) -> str:
        ctx.send("ch", 1) if name == "send" else ctx.recv("ch")
        return "done"

    error = await _error(Process(forgets), ch=Chan(int))
    assert isinstance(error, ProcessFailed)
    assert str(error) == (
        f"process 'forgets' called ctx.{name}('ch') without await, so nothing moved: write await ctx.{name}('ch')"
    )


async def test_what_it_gives_back_without_await_is_no_success() -> None:
    async def helper() -> int:
        return 1

    async def gives(ctx: ProcessContext) -> Any:
        return helper()

    async def sends(ctx: ProcessContext) -> Any:
        return ctx.send("ch", 1)

    error = await _error(Process(gives))
    assert isinstance(error, TypeError)
    assert str(error).startswith("process 'gives' gave test_what_it_gives_back_without_await_is_no_success.<locals>")
    assert str(error).endswith("helper() without await, so nothing happened: await it")
    assert "_send() without await" in str(await _error(Process(sends), ch=Chan(int)))


async def test_it_is_found_among_many_and_in_a_stage() -> None:
    @Process
    async def passes(ctx: ProcessContext) -> None:
        for value in range(200):
            await ctx.send("output", value)
        ctx.send("output", 7)
        ctx.send("output", 8)

    result = await SEQ(passes, on_failure=COLLECT).run()
    assert "ctx.send('output') without await, and did so 2 times" in str(result.results[0].failure.error)


async def test_what_is_handed_on_is_not_forgotten() -> None:
    channel: Chan[int] = Chan(int)

    @Process
    async def hands_on(ctx: ProcessContext) -> str:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ctx.recv("ch"), 0)
        cancelled = asyncio.ensure_future(ctx.recv("ch"))
        cancelled.cancel()
        await asyncio.wait((cancelled,))
        unused = ctx.recv("ch")
        unused.close()
        both = [ctx.send("ch", 1), channel.recv()]
        await asyncio.gather(*both)
        ctx.begun = asyncio.create_task(ctx.send("ch", 2))  # type: ignore[attr-defined]
        return "done"

    result = await PAR(hands_on.with_channels(ch=channel)).run()
    assert result.value == ["done"]
    assert await channel.recv() == 2


async def test_its_own_error_goes_first() -> None:
    async def fails(ctx: ProcessContext) -> None:
        ctx.send("ch", 1).close()
        raise LookupError("gone")

    assert isinstance(await _error(Process(fails), ch=Chan(int)), LookupError)


# Sync processes -----------------------------------------------------------------------------------


def _passes(ctx: ProcessContext) -> int:
    value: int = ctx.recv("input")
    ctx.send("output", value + 1)
    return value


async def test_a_sync_process_talks_over_channels() -> None:
    channel: Chan[int] = Chan(int)

    @Process
    def sends(ctx: ProcessContext) -> None:
        for value in range(50):
            ctx.send("ch", value)

    @Process
    def receives(ctx: ProcessContext) -> list[int]:
        return [ctx.recv("ch") for _ in range(50)]

    result = await PAR(sends.with_channels(ch=channel), receives.with_channels(ch=channel), deadline=60).run()
    assert result.value == [None, list(range(50))]
    assert (await SEQ(*[Process(_passes)] * 3).run(1)).value == 4


async def test_what_a_sync_process_gets_wrong_is_raised_in_it() -> None:
    def wrong(ctx: ProcessContext) -> None:
        with pytest.raises(KeyError, match="has no channel"):
            ctx.recv("other")
        ctx.send("ch", "no number")

    assert "expects int" in str(await _error(Process(wrong), ch=Chan(int)))


async def test_a_sync_process_that_waits_ends_with_its_process() -> None:
    channel: Chan[int] = Chan(int)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    @Process
    def waits(ctx: ProcessContext) -> None:
        try:
            ctx.recv("ch")
        finally:
            loop.call_soon_threadsafe(ended.set)

    result = await PAR(waits.with_channels(ch=channel), deadline=0.1, on_failure=COLLECT).run()
    assert not result.is_ok
    async with asyncio.timeout(30):
        await ended.wait()
    # Nobody takes what is sent later.
    assert channel.stats.waiting is None
