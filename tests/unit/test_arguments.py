"""Processes of functions that take more than their context."""

from __future__ import annotations

import copy
import inspect
import pickle
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import pytest

from stbass import PAR, PAR_FOR, PLACED_PAR, SEQ, SEQ_FOR, Chan, FailurePolicy, Placement, Process
from stbass.errors import NotTransportable
from stbass.process import ProcessContext
from stbass.wire import dumps, loads_process
from tests.support.argued import (
    Order,
    Point,
    Titled,
    added,
    blocking,
    described,
    fetch,
    forgetful,
    nothing,
    ran,
    several,
    shipped,
    summarise,
)

if TYPE_CHECKING:
    from decimal import Decimal

SECRET = "sk-0123456789abcdef"


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()


def value_of(process: Any) -> Any:
    return PAR(process).run_sync().results[0].value


# Binding -----------------------------------------------------------------------------------------


def test_calling_a_process_gives_a_copy_with_the_arguments() -> None:
    made = summarise("a", depth=3)
    assert value_of(made) == "a at 3 with none"
    assert made.name == "summarise"
    assert summarise.arguments == ((), {})
    assert value_of(summarise("b")) == "b at 2 with none"


def test_a_sync_function_takes_arguments_too() -> None:
    assert PAR(blocking(1), blocking(1, 5), blocking(left=3)).run_sync().value == [2, 6, 4]


def test_arguments_are_put_together_as_by_partial() -> None:
    assert value_of(described.with_arguments(1)(2, a=1).with_arguments(3, a=2, b=3)) == ((1, 2, 3), {"a": 2, "b": 3})


def test_copies_keep_the_arguments() -> None:
    made = summarise("a").with_name("other").optional().with_channels(x=Chan(int)).with_arguments(depth=5)
    assert (made.name, made.is_optional, set(made.bound_channels)) == ("other", True, {"x"})
    for one in (made, copy.copy(made), copy.deepcopy(made)):
        assert value_of(one) == "a at 5 with none"


def test_a_process_without_arguments_is_copied_by_a_call() -> None:
    made = nothing()
    assert made is not nothing
    assert value_of(made) == "nothing"


def test_a_subclass_keeps_its_constructor() -> None:
    with pytest.raises(TypeError, match="not called"):
        Titled("x")()
    assert value_of(Titled("x")) == "x"


def test_a_retry_has_the_arguments_too() -> None:
    result = PAR(forgetful("a"), on_failure=FailurePolicy.retry(2, base_delay=0)).run_sync()
    assert result.value == ["a, attempt 2"]


# Wrong ones --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: summarise(3), ["summarise", "`url`", "must be str", "got 3"]),  # type: ignore[arg-type]
        (lambda: summarise("a", depth="3"), ["`depth`", "must be int", "got '3'"]),  # type: ignore[arg-type]
        (lambda: summarise.with_arguments("a", depth=True), ["`depth`", "must be int", "got True"]),
        (lambda: summarise("a", "b"), ["summarise('a', 'b')", "too many", "(url, *, depth=…, api_key=…)"]),  # type: ignore[call-arg, arg-type]
        (lambda: summarise("a", dept=3), ["summarise('a', dept=3)", "'dept'", "depth=…"]),  # type: ignore[call-arg]
        (lambda: summarise("a")(url="b"), ["summarise(url='b')", "multiple values", "'url'"]),  # type: ignore[call-arg]
        (lambda: nothing(3), ["nothing(3)", "no arguments"]),  # type: ignore[call-arg]
        (lambda: shipped({"number": "x"}), ["`order`", "must be Order", "number"]),  # type: ignore[arg-type]
        (lambda: summarise.with_name("other")(3), ["'other'", "`url`"]),  # type: ignore[arg-type]
        (lambda: nothing(ProcessContext("x")), ["not called with a context"]),  # type: ignore[call-arg]
    ],
)
def test_wrong_and_surplus_arguments_are_told_when_they_are_bound(make: Callable[[], Any], said: list[str]) -> None:
    with pytest.raises(TypeError) as caught:
        make()
    assert all(one in str(caught.value) for one in said), caught.value


def test_values_are_what_a_channel_of_the_annotation_would_give() -> None:
    assert value_of(shipped({"number": 3}, Point(1, 2))) == "Order 3 Point(x=1, y=2)"  # type: ignore[arg-type]
    assert value_of(shipped(Order(number=4))) == "Order 4 None"

    @Process
    async def chosen(ctx: ProcessContext, kind: Literal["a", "b"], weights: list[float]) -> list[float]:
        return weights

    assert value_of(chosen("a", [1, 2.5])) == [1.0, 2.5]
    with pytest.raises(TypeError, match="`kind` must be"):
        chosen("c", [])  # type: ignore[arg-type]


def test_annotations_that_cannot_be_checked_admit_anything() -> None:
    @Process
    async def anything(ctx: ProcessContext, price: Decimal, there: Chan[int]) -> Any:
        return price

    # The name is imported for type checkers only.
    assert value_of(anything("no decimal", Chan(int))) == "no decimal"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: PAR(nothing, summarise), "summarise needs `url`: write summarise(url=…)"),
        (lambda: PAR(nothing, added.with_arguments(1)), "added needs `right`: write added(right=…)"),
        (lambda: PLACED_PAR(nothing, (summarise, Placement("x"))), "summarise needs `url`"),
        (lambda: PAR(nothing, PAR(nothing, summarise)), "summarise needs `url`"),
        (lambda: PAR_FOR(2, summarise), "summarise needs `url`"),
        (lambda: PAR_FOR(2, lambda index, ctx: summarise if index else nothing), "needs `url`"),
        (lambda: SEQ(summarise, nothing), "summarise needs `url`"),
        (lambda: SEQ(PAR(nothing, summarise), nothing), "summarise needs `url`"),
        (lambda: PAR(nothing, SEQ(summarise)), "summarise needs `url`"),
        (lambda: SEQ_FOR(2, summarise), "summarise needs `url`"),
        (lambda: PAR(nothing, blocking), "blocking needs `left`"),
    ],
)
async def test_missing_arguments_are_told_before_anything_starts(make: Callable[[], Any], said: str) -> None:
    composition = make()
    with pytest.raises(TypeError) as caught:
        await composition.run()
    assert said in str(caught.value)
    assert ran == []


@pytest.mark.parametrize(
    "make",
    [
        lambda: PAR(nothing, added),
        lambda: SEQ(nothing, added),
        lambda: SEQ(nothing, PAR(nothing, added)),
        lambda: PLACED_PAR((added, Placement("x"))),
        lambda: PAR_FOR(2, added),
        lambda: SEQ_FOR(2, added),
    ],
)
def test_two_missing_arguments_are_told_when_the_composition_is_made(make: Callable[[], Any]) -> None:
    with pytest.raises(TypeError, match=r"added needs `left` and `right`: write added\(left=…, right=…\)"):
        make()


async def test_a_process_that_is_executed_by_itself_says_what_it_lacks() -> None:
    result = await summarise.execute(ProcessContext("x"))
    assert "summarise needs `url`" in str(result.failure.error)


# The input of a stage ----------------------------------------------------------------------------


def test_the_input_of_a_stage_is_its_first_argument_that_is_free() -> None:
    assert SEQ(fetch("a"), summarise.with_arguments(depth=3)).run_sync().value == "page of a at 3 with none"
    assert SEQ(blocking(1), added.with_arguments(5)).run_sync().value == 7
    assert SEQ(blocking(1), added.with_arguments(right=5)).run_sync().value == 7
    assert SEQ(summarise).run_sync("a").value == "a at 2 with none"
    assert SEQ(nothing, SEQ(summarise)).run_sync().value == "nothing at 2 with none"


def test_the_input_reaches_through_a_par_in_between() -> None:
    result = SEQ(fetch("a"), PAR(summarise, PAR(fetch, nothing), summarise("b"))).run_sync()
    assert result.value == ["page of a at 2 with none", ["page of page of a", "nothing"], "b at 2 with none"]
    assert SEQ(blocking(1), PAR_FOR(2, lambda index, ctx: added.with_arguments(index))).run_sync().value == [2, 3]
    assert SEQ_FOR(3, blocking).run_sync(1).value == 4


def test_an_argument_that_is_not_required_is_not_filled() -> None:
    assert SEQ(nothing, blocking(5)).run_sync().value == 6


def test_of_several_values_the_first_is_the_argument() -> None:
    assert SEQ(several, fetch).run_sync().value == "page of first"


def test_an_input_that_does_not_fit_fails_the_stage() -> None:
    result = SEQ(blocking(1), summarise).run_sync()
    assert str(result.failures[0].error) == "process 'summarise': the argument `url` must be str, got 2"
    assert ran == []


def test_after_a_failure_that_is_collected_the_argument_is_none() -> None:
    result = SEQ(forgetful("a"), summarise, on_failure=FailurePolicy.COLLECT).run_sync()
    assert "`url` must be str, got None" in str(result.failures[1].error)


def test_none_is_an_input_where_the_annotation_admits_it() -> None:
    @Process
    async def perhaps(ctx: ProcessContext, url: str | None) -> str | None:
        return url

    assert SEQ(perhaps).run_sync().value is None
    with pytest.raises(TypeError, match="perhaps needs `url`"):
        PAR(perhaps).run_sync()


async def test_a_channel_called_input_gives_it_too() -> None:
    @Process
    async def says(ctx: ProcessContext) -> None:
        await ctx.send("out", "a")

    channel = Chan[str]("c")
    result = await PAR(says.with_channels(out=channel), fetch.with_channels(input=channel)).run()
    assert result.value == [None, "page of a"]


# Travelling --------------------------------------------------------------------------------------


def test_arguments_travel_beside_the_reference() -> None:
    made = summarise("a", depth=3).with_name("other").optional()
    arrived: list[Any] = [loads_process(dumps(made), allowed=None), pickle.loads(pickle.dumps(made))]
    for one in arrived:
        assert (one.name, one.is_optional, one.arguments) == ("other", True, (("a",), {"depth": 3}))
    found: Any = loads_process(dumps(SEQ(described((1, 2), at=Point(1, 2)))), allowed=None)
    assert found.members[0][0].arguments == (((1, 2),), {"at": Point(1, 2)})


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (lambda lock: described(1, lock), "process.values"),
        (lambda lock: described(lock=[lock]), "process.lock[0]"),
        (lambda lock: SEQ(described(named={"a": lock})), 'process.processes[0].named["a"]'),
        (Titled, "process.title"),
        (lambda lock: Titled("x", options=lock), "process.options"),
    ],
)
def test_an_argument_that_cannot_travel_is_named(make: Callable[[Any], Any], path: str) -> None:
    with pytest.raises(NotTransportable) as caught:
        dumps(make(threading.Lock()), what="process")
    assert caught.value.path == path


# What people see ---------------------------------------------------------------------------------


def test_arguments_are_shown_shortened_and_without_secrets() -> None:
    assert repr(summarise("a", depth=3)) == "<process summarise('a', depth=3)>"
    assert repr(nothing) == "<process nothing>"
    assert repr(Titled("x", options=[1])) == "<process Titled('x', options=[1])>"
    assert len(repr(summarise("a" * 10_000))) < 150
    assert len(repr(described(*range(10_000)))) < 150
    placed = Titled("x", options=Placement("opus", config={"seed": 8472}))
    for process in (summarise("a", api_key=SECRET), Titled("x", SECRET), described({"password": "8472"}), placed):
        assert SECRET not in repr(process)
        assert "8472" not in repr(process)


def test_errors_show_no_secrets() -> None:
    wrong: list[Callable[[], Any]] = [
        lambda: summarise("a", api_key=8472),  # type: ignore[arg-type]
        lambda: summarise("a", 3, api_key="8472"),  # type: ignore[call-arg]
        lambda: summarise({"password": "8472"}),  # type: ignore[arg-type]
    ]
    for make in wrong:
        with pytest.raises(TypeError) as caught:
            make()
        assert "8472" not in str(caught.value)


def test_a_process_is_still_documented_as_its_function() -> None:
    assert inspect.unwrap(summarise) is summarise.function
