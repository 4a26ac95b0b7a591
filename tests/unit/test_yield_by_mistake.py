"""A `yield` where nothing takes what it gives is told at once, wherever a function is taken."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from stbass import ALT, PAR, PAR_FOR, SEQ, SEQ_FOR, TIMER, Chan, Guard, Process
from stbass.context import ProcessContext
from stbass.dataflow import AsyncioConnector, Component, ConnectorSpec, Event, IOController, LocalProcess, component
from stbass.tasklist import Process as TaskList
from stbass.workflow import BaseProcess, ProcessConfig, ProcessType, Workflow


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


# Wrapped in another function, it is seen when it is called -----------------------------------------


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator such as there are many."""

    @functools.wraps(function)
    def inner(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return inner


def later(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same, async."""

    @functools.wraps(function)
    async def inner(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return inner


class Source(Component):
    io = IOController(outputs=["a"], output_events=[Happens])

    async def step(self) -> None:
        self.a = 1
        self.io.queue_event(Happens(source=self.name, data=1))
        await self.io.close()


async def process(function: Any) -> object:
    return (await PAR(Process(function)).run()).results[0].value


async def stage(function: Any) -> object:
    return (await SEQ(Process(function)).run()).value


async def replica(function: Any) -> object:
    return (await PAR_FOR(1, lambda index, ctx: function()).run()).results[0].value


async def task(function: Any) -> object:
    tasks = TaskList("t")
    tasks.add_task(function)
    return await tasks.execute_async()


async def task_in_a_thread(function: Any) -> object:
    tasks = TaskList("t", "parallel")
    tasks.add_task(function)
    return await asyncio.to_thread(tasks.execute)


def node(kind: ProcessType, **config: Any) -> Callable[[Any], Any]:
    """Runs a workflow of one node."""

    async def run(function: Any) -> object:
        made: Any = type("Node", (BaseProcess,), {"process": lambda self, data: function(data)})
        rules: dict[str, Any] = {name: [function] for name in config}
        workflow = Workflow()
        made(ProcessConfig(kind, "n", **rules)).register_to(workflow)
        return await workflow.execute({"n": 1})

    return run


def method(name: str) -> Callable[[Any], Any]:
    """Runs a component that has it."""

    async def run(function: Any) -> None:
        io = IOController(inputs=["a"], input_events=[Happens])
        members = {"io": io, "on_it": Happens.handler(lambda self, event: None), "step": lambda self: None}
        members[name] = Happens.handler(function) if name == "on_it" else function
        kind: Any = type("Sub", (Component,), members)
        parts = [Source(name="source"), kind(name="sub")]
        connector = AsyncioConnector(ConnectorSpec(source="source.a", target="sub.a"))
        async with LocalProcess(parts, [connector]) as running:
            await running.run()

    return run


async def handler(function: Any) -> object:
    return await ALT(Guard(TIMER(seconds=0.01), handler=function))


async def precondition(function: Any) -> object:
    return await ALT(Guard(TIMER(seconds=0.01), precondition=function))


def leaf_of(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        [error] = error.exceptions
    return (
        error.__cause__ if type(error).__name__ in ("WorkflowError", "ValidationFailed") and error.__cause__ else error
    )


RUN: dict[str, Callable[[Any], Any]] = {
    "process": process,
    "stage": stage,
    "replica": replica,
    "task": task,
    "task in a thread": task_in_a_thread,
    "node": node(ProcessType.ASYNC),
    "node in a thread": node(ProcessType.THREAD),
    "handler": handler,
    **{name: method(name) for name in ("init", "step", "destroy", "on_it")},
}


@pytest.mark.parametrize("wrapped", [logged(gives), logged(gives_later), later(gives), later(gives_later)])
@pytest.mark.parametrize("name", list(RUN))
async def test_a_wrapped_function_that_yields_is_no_success(name: str, wrapped: Any) -> None:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - alone, or in a group
        async with asyncio.timeout(30):
            await RUN[name](wrapped)
    error = leaf_of(caught.value)
    assert "has a `yield` in it, so that calling it runs nothing" in str(error), repr(error)
    assert "gives" in str(error)


@pytest.mark.parametrize("function", [logged(gives), later(lambda *_: False)])
async def test_a_predicate_that_does_not_run_is_not_true(function: Any) -> None:
    with pytest.raises(TypeError, match="a guard's precondition gave"):
        await precondition(function)
    with pytest.raises(Exception, match=r"the validation rule .* raised TypeError: it gave"):
        await node(ProcessType.ASYNC, validation_rules=True)(logged(function))
