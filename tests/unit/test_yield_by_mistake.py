"""A `yield` where nothing takes what it gives is told at once, wherever a function is taken."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from stbass import PAR_FOR, SEQ_FOR, Chan, Guard, Process
from stbass.context import ProcessContext
from stbass.dataflow import Component, Event, IOController, component
from stbass.tasklist import Process as TaskList
from stbass.workflow import BaseProcess, ProcessConfig


def gives(*_: Any) -> Iterator[int]:
    yield 1


async def gives_later(*_: Any) -> AsyncIterator[int]:
    yield 1


class Gives:
    """Called, it gives a generator."""

    def __call__(self, *_: Any) -> Iterator[int]:
        yield 1


class Happens(Event):
    """An event."""


def subclass(base: type, name: str) -> Callable[[Any], Any]:
    """Makes a subclass with a method."""
    return lambda function: type("Sub", (base,), {name: function, "io": IOController(inputs=["a"])})


METHODS = [
    (Process, "run"),
    (BaseProcess, "process"),
    (BaseProcess, "execute"),
    *((Component, name) for name in ("init", "step", "run", "destroy", "checkpoint", "restore", "committed")),
]


@pytest.mark.parametrize("function", [gives, gives_later])
@pytest.mark.parametrize(("base", "name"), METHODS)
def test_a_method_that_yields_is_refused_when_the_class_is_made(base: type, name: str, function: Any) -> None:
    with pytest.raises(TypeError, match=rf"Sub\.{name} has a `yield` in it, so that calling it runs nothing"):
        subclass(base, name)(function)


TAKE: list[Callable[[Any], Any]] = [
    Process,
    Process(name="p"),
    lambda function: TaskList("t").add_task(function),
    lambda function: TaskList("t").add_step(function),
    lambda function: ProcessConfig(validation_rules=[function]),
    component(inputs=["a"], outputs=["b"]),
    lambda function: PAR_FOR(1, function),
    lambda function: SEQ_FOR(1, function),
    lambda function: Guard(Chan(int), handler=function),
    lambda function: Guard(Chan(int), precondition=function),
    Happens.handler,
]


@pytest.mark.parametrize("function", [gives, gives_later])
@pytest.mark.parametrize("number", range(len(TAKE)))
def test_a_function_that_yields_is_refused_where_it_is_taken(number: int, function: Any) -> None:
    with pytest.raises(TypeError, match="has a `yield` in it"):
        made = TAKE[number](function)
        subclass(Component, "on_it")(made)  # a handler is looked at when its class is made


@pytest.mark.parametrize("callable_", [functools.partial(gives, 1), Gives(), functools.partial(Gives(), 1)])
def test_other_callables_that_yield_are_refused(callable_: Any) -> None:
    with pytest.raises(TypeError, match="has a `yield` in it"):
        TaskList("t").add_task(callable_)


async def test_who_yields_inside_may_be_used() -> None:
    @Process
    async def sums(ctx: ProcessContext) -> int:
        return sum([one async for one in gives_later()], sum(gives()))

    assert (await sums.execute(ProcessContext("sums"))).value == 2
