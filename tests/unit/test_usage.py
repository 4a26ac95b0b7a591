"""What processes use: counted per process, composition and run, and held to a budget."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from stbass import PAR, PAR_FOR, SEQ, SEQ_FOR, Budget, FailurePolicy, FailureReport, Process, Usage, wire
from stbass._process.context import ProcessContext
from stbass.errors import BudgetExceeded, ProcessCancelled
from stbass.result import Failure
from tests.support.compose import give


def using(tokens: int, cost: float = 0.0, name: str = "uses", model: str | None = None) -> Process:
    @Process(name=name)
    async def uses(ctx: ProcessContext) -> int:
        ctx.usage(tokens_in=tokens - tokens // 2, tokens_out=tokens // 2, cost=cost, model=model)
        return tokens

    return uses


@Process
async def for_ever(ctx: ProcessContext) -> None:
    await asyncio.Event().wait()


@Process
async def spends(ctx: ProcessContext) -> None:
    while True:
        ctx.usage(tokens_out=10)
        await asyncio.sleep(0)


async def test_it_is_counted_per_process_composition_and_run() -> None:
    result = await SEQ(using(3), PAR(using(10, 0.1), using(20, 0.2)), give(1)).run()
    assert [one.usage.tokens for one in result.results] == [3, 30, 0]
    assert result.usage == Usage(17, 16, 0.3)
    assert result.run is not None
    assert result.run.usage == result.usage
    assert "usage" not in FailureReport.of(result.results).summary().splitlines()[0]


async def test_it_is_counted_per_model_too() -> None:
    result = await PAR(using(10, 1, model="opus"), using(4, model="opus"), using(2, model="haiku"), using(1)).run()
    assert result.usage.tokens == 17
    assert {name: used.tokens for name, used in result.usage.models.items()} == {"opus": 14, "haiku": 2}
    assert result.usage.to_dict()["models"] == {
        "opus": {"tokens_in": 7, "tokens_out": 7, "cost": 1.0},
        "haiku": {"tokens_in": 1, "tokens_out": 1, "cost": 0.0},
    }


async def test_costs_add_up_as_people_reckon() -> None:
    result = await PAR(*(using(1, 0.1) for _ in range(10))).run()
    assert result.usage.cost == 1.0


async def test_what_a_process_runs_in_its_own_code_is_its_own() -> None:
    @Process
    async def outer(ctx: ProcessContext) -> Usage:
        ctx.usage(tokens_in=1)
        await PAR(using(10), using(20)).run()
        return ctx.used

    result = await PAR(outer).run()
    assert result.value[0].tokens == result.results[0].usage.tokens == result.usage.tokens == 31


async def test_every_attempt_counts() -> None:
    @Process
    async def flaky(ctx: ProcessContext) -> None:
        ctx.usage(tokens_in=5)
        if ctx.attempt < 3:
            raise ValueError

    result = await PAR(flaky, on_failure=FailurePolicy.retry(3, base_delay=0)).run()
    assert result.results[0].usage.tokens == result.usage.tokens == 15


async def test_a_failure_says_what_was_used() -> None:
    @Process
    async def fails(ctx: ProcessContext) -> None:
        ctx.usage(tokens_in=1200, tokens_out=300, cost=0.0125)
        raise ValueError

    result = await PAR(fails).run()
    assert "Usage: 1200 tokens in, 300 out, cost 0.0125" in result.failures[0].detailed
    report = FailureReport.of(result.results)
    assert report.to_dict()["usage"] == {"tokens_in": 1200, "tokens_out": 300, "cost": 0.0125}
    assert "1200 tokens in" in report.summary()


async def test_threads_count_too() -> None:
    @Process
    def blocks(ctx: ProcessContext) -> None:
        def use() -> None:
            for _ in range(500):
                ctx.usage(tokens_in=1)

        threads = [threading.Thread(target=use) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert (await PAR(blocks, blocks.with_name("other")).run()).usage.tokens == 4000


@pytest.mark.parametrize(
    "given",
    [
        {"tokens_in": -1},
        {"tokens_out": 1.5},
        {"tokens_in": True},
        {"tokens_in": None},
        {"tokens_in": "12"},
        {"tokens_in": 2**60},
        {"cost": -0.1},
        {"cost": math.nan},
        {"cost": math.inf},
        {"cost": Decimal("NaN")},
        {"cost": "1"},
        {"cost": None},
        {"model": 3},
    ],
    ids=str,
)
async def test_what_cannot_be_used_is_refused(given: dict[str, Any]) -> None:
    ctx = ProcessContext("p")
    with pytest.raises((TypeError, ValueError), match="|".join([*given, "anybody"])):
        ctx.usage(**given)
    assert not ctx.used


def test_money_can_be_a_decimal() -> None:
    ctx = ProcessContext("p")
    ctx.usage(cost=Decimal("0.25"))  # type: ignore[arg-type]
    assert ctx.used.cost == 0.25


# Budgets ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        Budget,
        lambda: Budget(tokens=0),
        lambda: Budget(tokens=-5),
        lambda: Budget(tokens=1.5),  # type: ignore[arg-type]
        lambda: Budget(tokens=True),
        lambda: Budget(cost=0),
        lambda: Budget(cost=math.nan),
        lambda: Budget(cost=math.inf),
        lambda: Budget(cost="1"),  # type: ignore[arg-type]
        lambda: PAR(budget=100),  # type: ignore[arg-type]
        lambda: SEQ(budget={"tokens": 1}),  # type: ignore[arg-type]
    ],
)
def test_bad_budgets_are_refused_at_once(make: Callable[[], object]) -> None:
    with pytest.raises((TypeError, ValueError), match=r"[Bb]udget|tokens|cost"):
        make()


async def test_a_budget_that_is_used_up_ends_all_that_runs() -> None:
    async with asyncio.timeout(30):
        result = await PAR(spends, for_ever, using(5), budget=Budget(tokens=100)).run()
    spent, waited, done = result.results
    for one in (spent, waited):
        error = one.failure.error
        assert isinstance(error, BudgetExceeded)
        assert error.budget == Budget(tokens=100)
        assert error.used.tokens >= 100
    assert done.value == 5
    assert 100 <= result.usage.tokens < 120
    assert "the budget of 100 tokens is used up" in str(spent.failure.error)


async def test_a_budget_of_money() -> None:
    result = await SEQ(*(using(1, 0.4, name=f"stage {n}") for n in range(5)), budget=Budget(cost=1)).run()
    assert [one.is_ok for one in result.results] == [True, True, False]
    with pytest.raises(BudgetExceeded, match="a cost of 1 is used up"):
        _ = result.value


async def test_what_has_not_started_does_not_start() -> None:
    started: list[int] = []

    @Process
    async def late(ctx: ProcessContext) -> None:
        started.append(1)

    result = await PAR(spends, late, limit=1, on_failure=FailurePolicy.COLLECT, budget=Budget(tokens=30)).run()
    assert [type(one.failure.error) for one in result.results] == [BudgetExceeded, BudgetExceeded]
    assert not started


async def test_a_budget_within_a_composition_ends_that_alone() -> None:
    inner = PAR(spends, for_ever, budget=Budget(tokens=50))
    result = await PAR(inner, using(1000), on_failure=FailurePolicy.COLLECT).run()
    failed, done = result.results
    assert isinstance(failed.failure.error, BudgetExceeded)
    assert isinstance(failed.failure.error.__cause__, BaseExceptionGroup)
    assert done.value == 1000


async def test_a_budget_around_ends_what_is_within() -> None:
    async with asyncio.timeout(30):
        result = await PAR(SEQ(PAR(for_ever)), SEQ(spends), budget=Budget(tokens=50)).run()
    assert [type(one.failure.error) for one in result.results] == [BudgetExceeded] * 2


async def test_a_budget_holds_for_what_a_process_runs_in_its_own_code() -> None:
    @Process
    async def outer(ctx: ProcessContext) -> None:
        await PAR(spends).run()

    async with asyncio.timeout(30):
        result = await PAR(outer, budget=Budget(tokens=50)).run()
    assert isinstance(result.results[0].failure.error, BudgetExceeded)


async def test_a_budget_that_is_used_up_is_not_tried_again() -> None:
    attempts: list[int] = []

    @Process
    async def spends_at_once(ctx: ProcessContext) -> None:
        attempts.append(ctx.attempt)
        ctx.usage(tokens_in=60)
        raise ValueError

    policy = FailurePolicy.retry(9, base_delay=0, on=(Exception,))
    result = await PAR(spends_at_once, on_failure=policy, budget=Budget(tokens=100)).run()
    assert attempts == [1, 2]
    assert isinstance(result.results[0].failure.error, BudgetExceeded)
    # Of a composition that is tried again all attempts together have one budget.
    attempts.clear()
    await PAR(PAR(spends_at_once, budget=Budget(tokens=100)), on_failure=policy).run()
    assert attempts == [1, 1]


async def test_a_thread_is_told_when_it_uses_more() -> None:
    told = threading.Event()

    @Process
    def blocks(ctx: ProcessContext) -> None:
        try:
            while True:
                ctx.usage(tokens_in=1)
        except BudgetExceeded:
            told.set()
            raise

    async with asyncio.timeout(30):
        result = await PAR(blocks, for_ever, budget=Budget(tokens=50)).run()
    assert told.wait(30)
    assert [type(one.failure.error) for one in result.results] == [BudgetExceeded] * 2
    assert result.usage.tokens == 50


async def test_every_composition_takes_a_budget() -> None:
    budget = Budget(tokens=15)
    for made in (
        PAR(using(10), using(10), budget=budget),
        SEQ(using(10), using(10), budget=budget),
        PAR_FOR(2, lambda index, ctx: using(10), budget=budget),
        SEQ_FOR(2, lambda index, ctx: using(10), budget=budget),
    ):
        result = await made.run()
        assert [type(failure.error) for failure in result.failures] == [BudgetExceeded]


async def test_a_cancellation_from_outside_stays_one() -> None:
    running = asyncio.create_task(PAR(for_ever, budget=Budget(tokens=5)).run())
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_halt_stays_what_it_is_beside_a_budget() -> None:
    @Process
    async def fails(ctx: ProcessContext) -> None:
        raise ValueError

    result = await PAR(fails, for_ever, budget=Budget(tokens=5)).run()
    assert [type(one.failure.error) for one in result.results] == [ValueError, ProcessCancelled]


# On the wire ------------------------------------------------------------------------------------


async def test_it_travels() -> None:
    result = (await PAR(using(10, 0.5, model="opus")).run()).results[0]
    assert wire.load_result(wire.result_or_failure(result)).usage == result.usage
    failure = Failure(ValueError(), usage=result.usage)
    assert wire.loads(wire.dumps(failure)).usage == result.usage
    error = BudgetExceeded("used up", budget=Budget(cost=1.5), used=result.usage)
    assert wire.loads(wire.dumps(error)).budget == Budget(cost=1.5)
    made = wire.loads_process(wire.dumps(PAR(give(1), budget=Budget(tokens=7))), allowed=None)
    assert made.parts()["budget"] == Budget(tokens=7)  # type: ignore[attr-defined]
