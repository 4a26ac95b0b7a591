"""What is given where something else is wanted: errors name its type, and neither grow nor give away secrets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal
from enum import Enum
from functools import partial
from typing import Any

import pytest

from stbass import (
    ALT,
    PAR,
    PAR_FOR,
    PLACED_PAR,
    SEQ,
    BackendRegistry,
    Chan,
    Collector,
    Distributor,
    FailurePolicy,
    Guard,
    Placement,
    Process,
    ProcessResult,
    tasklist,
    workflow,
)
from stbass._values.texts import value_text
from stbass.dataflow import (
    AsyncioConnector,
    Component,
    ConnectorSpec,
    DictStateBackend,
    IOController,
    LocalProcess,
    Resource,
)
from stbass.dataflow.library import FileReader
from stbass.process import ProcessContext
from tests.support.compose import give

SECRET = "hunter2-0123"


class Vault:
    """Its text is long, and has a secret in it that no name stands in front of."""

    def __repr__(self) -> str:
        return f"{SECRET} " * 100_000

    __str__ = __repr__


class Grumpy:
    """Whoever asks for its text is refused."""

    def __repr__(self) -> str:
        raise RuntimeError("no text")


class Kind(Enum):
    ONE = 1


@Process
async def named(ctx: ProcessContext, name: str, amount: int) -> str:
    return name


class Part(Component):
    io = IOController(inputs={"x": int}, outputs={"y": int})

    async def step(self) -> None:
        self.y = 1


class Node(workflow.BaseProcess):
    def __init__(self, config: Any = None) -> None:
        super().__init__(config if config is not None else workflow.ProcessConfig(process_id="node"))

    async def execute(self, input_data: Any) -> Any:
        return input_data


def flow_of(**options: Any) -> Any:
    return workflow.Workflow().add_node(workflow.WorkflowNode(Node(), **options))


async def chosen(guard: Any) -> None:
    await ALT(guard)


async def sent(kind: Any, value: Any) -> None:
    await Chan(kind, name="c").send(value)


class Source(Component):
    io = IOController(outputs=["y"])

    def __init__(self, value: Any, **options: Any) -> None:
        super().__init__(**options)
        self.value = value

    async def step(self) -> None:
        self.y = self.value


async def stepped(value: Any) -> None:
    """A value that does not fit the field of a component."""
    model = LocalProcess(
        components=[Source(value, name="source"), Part(name="part")],
        connectors=[AsyncioConnector(ConnectorSpec(source="source.y", target="part.x"))],
    )
    async with model:
        await model.run()


HERE = Placement(endpoint="here")

# Each gets what it does not take.
TAKERS: dict[str, Callable[[Any], Any]] = {
    "PAR": PAR,
    "SEQ": SEQ,
    "PAR_FOR": lambda value: PAR_FOR(2, value),
    "PAR_FOR count": lambda value: PAR_FOR(value, give(1)),
    "PLACED_PAR": PLACED_PAR,
    "pair": lambda value: PLACED_PAR((give(1), value)),
    "pair of": lambda value: PLACED_PAR((value, HERE)),
    "on_failure": lambda value: PAR(on_failure=value),
    "deadline": lambda value: PAR(deadline=value),
    "limit": lambda value: PAR(limit=value),
    "budget": lambda value: PAR(budget=value),
    "registry": lambda value: PAR(registry=value),
    "register": lambda value: BackendRegistry().register("x", value),
    "register name": lambda value: BackendRegistry().register(value, BackendRegistry().default),
    "Placement": lambda value: Placement(model=value),
    "Process": Process,
    "with_channels": lambda value: give(1).with_channels(x=value),
    "with_name": lambda value: give(1).with_name(value),
    "fail": ProcessResult.fail,
    "retry": FailurePolicy.retry,
    "ALT": lambda value: asyncio.run(chosen(value)),
    "Guard": Guard,
    "Distributor": lambda value: Distributor(value, [Chan(int)]),
    "Collector": lambda value: Collector([Chan(int)], value),
    "capacity": lambda value: Chan(int, capacity=value),
    "argument": lambda value: named("x", value),
    "channel": lambda value: asyncio.run(sent(int, value)),
    "channel of a union": lambda value: asyncio.run(sent(int | str, value)),
    "task": lambda value: tasklist.Process("list").add_task(value),
    "task placement": lambda value: tasklist.Process("list").add_task(print, placement=value),
    "task strategy": lambda value: tasklist.Process("list", value),
    "node config": Node,
    "add_node": lambda value: workflow.Workflow().add_node(value),
    "node": workflow.WorkflowNode,
    "node placement": lambda value: flow_of(placement=value),
    "node required": lambda value: flow_of(required=value),
    "node dependencies": lambda value: flow_of(dependencies=value),
    "process_id": lambda value: workflow.ProcessConfig(process_id=value),
    "fail_fast": lambda value: workflow.ProcessConfig(process_id="x", fail_fast=value),
    "rules": lambda value: workflow.ProcessConfig(process_id="x", validation_rules=[value]),
    "initial_data": lambda value: asyncio.run(workflow.Workflow().execute(value)),
    "component name": lambda value: Part(name=value),
    "component parameters": lambda value: Part(name="p", parameters=value),
    "component initial values": lambda value: Part(name="p", initial_values=value),
    "component initial value": lambda value: Part(name="p", initial_values={"x": value}),
    "component field": lambda value: asyncio.run(stepped(value)),
    "component constraints": lambda value: Part(name="p", resources=value),
    "IOController": lambda value: IOController(inputs=value),
    "IOController name": lambda value: IOController(inputs=[value]),
    "connector": AsyncioConnector,
    "connector size": lambda value: AsyncioConnector(ConnectorSpec("a.x", "b.y"), maxsize=value),
    "connector end": lambda value: ConnectorSpec(value, "b.y"),
    "resource": lambda value: Resource(cpu=value),
    "process parameters": lambda value: LocalProcess(components=[], connectors=[], parameters=value),
    "process state": lambda value: LocalProcess(components=[], connectors=[], state=value),
    "process components": lambda value: asyncio.run(built(components=[value], connectors=[])),
    "process connectors": lambda value: asyncio.run(built(components=[Part(name="p")], connectors=[value])),
    "job id": lambda value: DictStateBackend(job_id=value),
    "reader path": lambda value: FileReader(path=value, field_names=["x"], name="r"),
    "reader fields": lambda value: FileReader(path="x.csv", field_names=value, name="r"),
    "reader chunks": lambda value: FileReader(path="x.csv", field_names=["x"], chunk_size=value, name="r"),
}


HOLDERS = ("IOController", "component initial value")
"""These take lists."""


async def built(**options: Any) -> None:
    async with LocalProcess(**options):
        raise AssertionError("not reached")


def texts_of(error: BaseException) -> str:
    """Its message, and those of all that is in it."""
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    return "\n".join([str(error), *map(texts_of, inner)])


def refusal(taker: str, value: Any) -> str:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - which one is a matter of other tests
        TAKERS[taker](value)
    return texts_of(caught.value)


@pytest.mark.parametrize("taker", TAKERS)
def test_it_is_named_by_its_type_and_not_shown(taker: str) -> None:
    text = refusal(taker, Vault())
    assert SECRET not in text
    assert "Vault" in text
    assert len(text) < 1000


@pytest.mark.parametrize("taker", TAKERS)
def test_what_has_no_text_is_refused_all_the_same(taker: str) -> None:
    assert "Grumpy" in refusal(taker, Grumpy())


@pytest.mark.parametrize("taker", [one for one in TAKERS if one not in HOLDERS])
def test_what_is_in_a_container_is_not_shown(taker: str) -> None:
    text = refusal(taker, [{"any": SECRET}] * 1000)
    assert SECRET not in text
    assert len(text) < 1000


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (None, "None"),
        (-0.5, "-0.5"),
        (Decimal("1.5"), "Decimal('1.5')"),
        ("four", "'four'"),
        (b"x", "b'x'"),
        (Kind.ONE, "<Kind.ONE: 1>"),
        (f"api_key={SECRET}", "'api_key=***'"),
        ("x" * 10_000_000, f"'{'x' * 100}'… (a str of 10000000)"),
        (b"x" * 1000, f"b'{'x' * 100}'… (a bytes of 1000)"),
        ("half \ud83d", r"'half \ud83d'"),
        ({"a": 1}, "a dict"),
        ([1], "a list"),
        (object(), "an object"),
        (int, "the class int"),
        (Vault, "the class tests.unit.test_wrong_values.Vault"),
        (len, "the function len"),
        (give, "the class tests.support.compose.give"),
        (texts_of, "the function tests.unit.test_wrong_values.texts_of"),
        (partial(print, SECRET), "a functools.partial"),
        (Vault(), "a tests.unit.test_wrong_values.Vault"),
    ],
    ids=range(21),
)
def test_how_a_value_is_told(value: Any, text: str) -> None:
    assert value_text(value) == text


def test_a_number_that_is_too_long_for_a_text() -> None:
    assert "ValueError" in value_text(10**5000)
