"""What to do about failures: try again, and learn from many of them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from stbass import FailurePolicy, FailureReport, Process, ProcessResult
from stbass._process.context import ProcessContext
from stbass.errors import WorkerLostError
from stbass.failure import FailureAggregator, retry_process
from tests.support.compose import give


def flaky(failures: int) -> Process:
    @Process
    async def sometimes(ctx: ProcessContext) -> int:
        if ctx.attempt <= failures:
            raise ValueError(f"attempt {ctx.attempt}")
        return ctx.attempt

    return sometimes


def failed(name: str, error: BaseException) -> ProcessResult:
    return ProcessResult.fail(error, process_name=name)


async def test_retry_process() -> None:
    policy = FailurePolicy.retry(5, base_delay=0)
    assert (await retry_process(flaky(4), ProcessContext("p"), policy)).value == 5
    assert (await retry_process(flaky(5), ProcessContext("p"), policy)).is_fail
    with pytest.raises(TypeError, match="RetryPolicy"):
        await retry_process(give(1), ProcessContext("p"), FailurePolicy.COLLECT)  # type: ignore[arg-type]


async def test_retry_process_never_sleeps_past_the_deadline() -> None:
    ctx = ProcessContext("p", deadline=datetime.now(UTC) + timedelta(seconds=30))
    async with asyncio.timeout(5):
        result = await retry_process(flaky(1), ctx, FailurePolicy.retry(3, "constant", 60.0))
    assert "attempt 1" in str(result.failure.error)


async def test_a_further_attempt_goes_on_where_the_last_one_saved_a_checkpoint() -> None:
    resumed: list[object] = []

    @Process
    async def loses(ctx: ProcessContext) -> None:
        resumed.append(ctx.resumed_from)
        if ctx.attempt < 3:
            ctx.checkpoint(f"of attempt {ctx.attempt}")
        raise WorkerLostError if ctx.attempt == 1 else ValueError

    result = await retry_process(loses, ProcessContext("p"), FailurePolicy.retry(4, base_delay=0))
    # The third saved none, so that the fourth goes on from where the second was.
    assert resumed == [None, "of attempt 1", "of attempt 2", "of attempt 2"]
    assert result.failure.checkpoint == "of attempt 2"


async def test_a_cancellation_ends_the_retries() -> None:
    started = asyncio.Event()

    @Process
    async def fails(ctx: ProcessContext) -> None:
        started.set()
        raise ValueError

    trying = asyncio.ensure_future(retry_process(fails, ProcessContext("p"), FailurePolicy.retry(3, "constant", 60.0)))
    await started.wait()
    trying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trying


def test_an_aggregator_takes_reports_together() -> None:
    first = FailureReport.of([ProcessResult.ok(), failed("a", ValueError()), failed("b", ValueError())])
    second = FailureReport.of([failed("b", KeyError())])
    aggregator = FailureAggregator()
    aggregator.add_report(first)
    aggregator.add_report(second)
    assert aggregator.overall_summary() == "Across 2 reports: 4 processes, 1 succeeded, 3 failed"
    assert aggregator.worst_processes() == ["b", "a"]
    assert aggregator.worst_processes(1) == ["b"]
    with pytest.raises(TypeError):
        aggregator.add_report(ProcessResult.ok())  # type: ignore[arg-type]
