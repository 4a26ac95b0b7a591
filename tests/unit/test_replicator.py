"""The same process many times over."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stbass import PAR_FOR, SEQ_FOR, FailurePolicy, LocalBackend, Placement, Process
from stbass._process.context import ProcessContext
from stbass.errors import DeadlineExceeded, NotTransportable
from stbass.wire import dumps, loads_process
from tests.support.backends import registry_of
from tests.support.compose import Gate, add_one, boom, echo, give


class Worker(Process):
    def __init__(self, index: int) -> None:
        self.index = index

    async def run(self, ctx: ProcessContext) -> str:
        return f"{ctx.process_name}:{self.index}"


def make_worker(index: int, ctx: ProcessContext) -> Process:
    return Worker(index)


async def square(index: int, ctx: ProcessContext) -> int:
    return index * index


async def test_an_async_function_is_the_body() -> None:
    result = await PAR_FOR(4, square).run()
    assert result.value == [0, 1, 4, 9]
    names = [one.run.process_name for one in result.results if one.run is not None]
    assert names == ["square[0]", "square[1]", "square[2]", "square[3]"]


async def test_a_plain_function_makes_processes_bodies_or_values() -> None:
    assert (await PAR_FOR(2, make_worker).run()).value == ["Worker[0]:0", "Worker[1]:1"]
    assert (await PAR_FOR(2, lambda index, ctx: square(index + 1, ctx)).run()).value == [1, 4]
    assert (await PAR_FOR(2, lambda index, ctx: index * 10).run()).value == [0, 10]


async def test_a_body_has_its_own_context() -> None:
    result = await PAR_FOR(2, lambda index, ctx: named(ctx)).run()
    assert result.value == ["replica[0]", "replica[1]"]


async def named(ctx: ProcessContext) -> str:
    return ctx.process_name


async def test_a_process_is_replicated_as_it_is() -> None:
    assert (await PAR_FOR(3, give(7)).run()).value == [7, 7, 7]
    assert (await SEQ_FOR(3, add_one).run(0)).value == 3


async def test_the_count_can_be_found_when_it_runs() -> None:
    items = ["a"]
    replicated = PAR_FOR(lambda: len(items), lambda index, ctx: items[index])
    items.append("b")
    assert (await replicated.run()).value == ["a", "b"]
    assert (await PAR_FOR(0, square).run()).value == []


async def test_limit_and_deadline() -> None:
    gate = Gate()
    replicated = PAR_FOR(5, lambda index, ctx: gate.process(str(index)), limit=2, deadline=0.05)
    result = await replicated.run()
    assert gate.most == 2
    assert all(isinstance(failure.error, DeadlineExceeded) for failure in result.failures)
    assert len(result.failures) == 5


async def test_a_failing_replica_halts_or_not() -> None:
    async def odd_fails(index: int, ctx: ProcessContext) -> int:
        if index % 2:
            raise ValueError(index)
        return index

    assert (await PAR_FOR(4, odd_fails, on_failure=FailurePolicy.COLLECT).run()).value == [0, 2]
    halted = await PAR_FOR(4, odd_fails).run()
    assert [one.is_ok for one in halted.results] == [True, False, False, False]


async def test_a_factory_that_raises_fails_its_replica() -> None:
    def picky(index: int, ctx: ProcessContext) -> Process:
        if index == 1:
            raise KeyError(index)
        return give(index)

    result = await PAR_FOR(3, picky, on_failure=FailurePolicy.COLLECT).run()
    assert result.value == [0, 2]
    assert isinstance(result.failures[0].error, KeyError)
    sequence = await SEQ_FOR(3, picky, on_failure=FailurePolicy.COLLECT).run()
    assert [one.is_ok for one in sequence.results] == [True, False, True]


async def test_coroutines_that_never_start_are_closed() -> None:
    # An unawaited coroutine is an error in these tests.
    result = await PAR_FOR(3, lambda index, ctx: boom.run(ctx)).run()
    assert len(result.failures) == 3


async def test_each_attempt_calls_the_factory_again() -> None:
    calls: list[int] = []

    async def body(index: int, ctx: ProcessContext) -> int:
        if ctx.attempt < 3:
            raise ValueError
        return ctx.attempt

    def factory(index: int, ctx: ProcessContext) -> Any:
        calls.append(index)
        return body(index, ctx)

    result = await PAR_FOR(2, factory, on_failure=FailurePolicy.retry(3, base_delay=0)).run()
    assert result.value == [3, 3]
    assert sorted(calls) == [0, 0, 0, 1, 1, 1]


async def test_an_async_factory_of_processes_is_told_apart() -> None:
    async def wrong(index: int, ctx: ProcessContext) -> Process:
        return give(index)

    result = await PAR_FOR(1, wrong).run()
    assert "plain function" in str(result.failures[0].error)


async def test_made_processes_run_where_they_are_placed() -> None:
    class Counting(LocalBackend):
        opened = 0
        ran = 0

        async def open_group(self, group_id: str, members: Any) -> Any:
            self.opened += len(members)
            return "handle"

        async def execute(self, process: Any, ctx: ProcessContext) -> Any:
            self.ran += 1
            return await super().execute(process, ctx)

    backend = Counting()
    registry = registry_of(backend, "here")

    @Process(placement=Placement(endpoint="here"))
    async def placed(ctx: ProcessContext) -> None: ...

    result = await PAR_FOR(3, lambda index, ctx: placed, registry=registry).run()
    assert (backend.opened, backend.ran, result.group) == (3, 3, "handle")
    await SEQ_FOR(2, lambda index, ctx: placed, registry=registry).run()
    assert backend.ran == 5


async def test_a_sequence_asks_its_factory_when_the_turn_has_come() -> None:
    order: list[str] = []

    @Process
    async def runs(ctx: ProcessContext) -> None:
        order.append("run")

    def factory(index: int, ctx: ProcessContext) -> Process:
        order.append("ask")
        return runs

    await SEQ_FOR(2, factory).run()
    assert order == ["ask", "run", "ask", "run"]
    assert (await SEQ_FOR(2, lambda index, ctx: echo).run("x")).value == "x"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((-1, square), ValueError),
        ((True, square), TypeError),
        (("3", square), TypeError),
        ((3, Worker), TypeError),
        ((3, None), TypeError),
    ],
)
@pytest.mark.parametrize("kind", [PAR_FOR, SEQ_FOR])
def test_wrong_arguments_are_refused_when_made(kind: Any, arguments: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        kind(*arguments)


async def test_a_count_that_is_none_is_told_when_it_runs() -> None:
    with pytest.raises(ValueError, match="count of PAR_FOR"):
        await PAR_FOR(lambda: -1, square).run()


# Travelling --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [PAR_FOR, SEQ_FOR])
async def test_it_travels_as_its_replicas(kind: Any) -> None:
    message = dumps(kind(3, make_worker, deadline=5.0))
    again: Any = loads_process(message, allowed=None)
    assert (type(again), dumps(again)) == (kind, message)
    results = (await again.run()).results
    assert [one.run.process_name for one in results if one.run is not None] == ["Worker[0]", "Worker[1]", "Worker[2]"]
    assert results[2].value == "Worker[2]:2"
    again = loads_process(dumps(kind(2, give(1))), allowed=None)
    given = (await again.run()).results
    assert [one.run.process_name for one in given if one.run is not None] == ["give[0]", "give[1]"]


@pytest.mark.parametrize(
    "factory", [square, lambda index, ctx: square(index + 1, ctx), lambda index, ctx: 1, lambda index, ctx: 1 / 0]
)
def test_what_cannot_travel_says_what_to_do(factory: Any) -> None:
    with pytest.raises(NotTransportable, match="factory"):
        dumps(PAR_FOR(2, factory))


async def test_it_composes() -> None:
    async with asyncio.timeout(5):
        assert (await SEQ_FOR(2, PAR_FOR(2, give(1))).run()).value == [1, 1]
