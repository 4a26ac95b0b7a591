"""Networks that are large, wide or odd, components of every kind of class, and what the known rival gets wrong."""

from __future__ import annotations

import ast
import asyncio
import re
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
import pytest
from pydantic import BaseModel

import stbass.dataflow
from stbass.dataflow import (
    AsyncioConnector,
    Component,
    Connector,
    ConnectorSpec,
    Event,
    IOController,
    LocalProcess,
    Process,
    RayConnector,
    RedisConnector,
    Resource,
    StateBackend,
    Status,
    StopEvent,
    component,
)
from stbass.dataflow.state import DictStateBackend
from stbass.errors import ChannelClosedError, DataflowError, InvalidProcessError, IOClosedError, ProcessCancelled
from tests.support.dataflow import Add, Count, Endless, Join, Keep, Lasting, local, wire

T = TypeVar("T")


async def done(process: LocalProcess, seconds: float = 10) -> LocalProcess:
    async with asyncio.timeout(seconds), process:
        await process.run()
    return process


class Once(Component):
    """Sends one value."""

    io = IOController(outputs=["y"])

    def __init__(self, value: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.value = value

    async def step(self) -> None:
        self.y = self.value
        await self.io.close()


# Large and wide ----------------------------------------------------------------------------------


def line(n: int, values: int) -> tuple[list[Component], list[tuple[str, str]]]:
    components = [Count(values, name="c0"), *(Add(1, name=f"c{i}") for i in range(1, n)), Keep(name="sink")]
    return components, [*((f"c{i}.y", f"c{i + 1}.x") for i in range(n - 1)), (f"c{n - 1}.y", "sink.x")]


async def test_a_thousand_components() -> None:
    components, wires = line(1000, 20)
    await done(local(components, *wires))
    sink = components[-1]
    assert isinstance(sink, Keep)
    assert sink.got == [i + 999 for i in range(20)]


async def test_a_thousand_components_step_by_step_and_each_step_reaches_the_end() -> None:
    components, wires = line(1000, 2)
    sink = components[-1]
    assert isinstance(sink, Keep)
    async with asyncio.timeout(20), local(reversed(components), *wires) as process:
        await process.step()
        assert sink.got == [999]
        await process.step()
        assert process.status is Status.COMPLETED
    assert sink.got == [999, 1000]


async def test_many_values_in_the_memory_of_few() -> None:
    used = []

    class Source(Component):
        io = IOController(outputs=["y"])
        made = 0

        async def step(self) -> None:
            self.made += 1
            self.y = {"a": [self.made]}
            if self.made == 6_000:
                await self.io.close()

    class Looks(Component):
        io = IOController(inputs=["x"])
        taken = 0

        async def step(self) -> None:
            self.taken += 1
            if self.taken in (1_000, 5_900):
                used.append(tracemalloc.get_traced_memory()[0])

    parts = [Source(name="a"), Add2(name="b"), Looks(name="c")]
    tracemalloc.start()
    try:
        await done(local(parts, ("a.y", "b.x"), ("b.y", "c.x")), 60)
    finally:
        tracemalloc.stop()
    before, after = used
    assert after - before < 100_000  # bytes; those between would take a million


class Add2(Component):
    io = IOController(inputs=["x"], outputs=["y"])
    x: Any

    async def step(self) -> None:
        self.y = self.x


async def test_one_output_to_a_hundred_inputs() -> None:
    sinks = [Keep(name=f"s{i}") for i in range(100)]
    await done(local([Count(200, name="a"), *sinks], *(("a.y", f"{sink.name}.x") for sink in sinks)))
    assert all(sink.got == list(range(200)) for sink in sinks)


async def test_connectors_are_bounded_if_nothing_is_said() -> None:
    began = asyncio.Event()

    class Stuck(Keep):
        async def step(self) -> None:
            began.set()
            await asyncio.get_running_loop().create_future()

    source = Endless(name="a")
    process = local([source, Stuck(name="sink")], ("a.y", "sink.x"))
    async with asyncio.timeout(5), process:
        running = asyncio.ensure_future(process.run())
        await began.wait()
        while source.status is not Status.WAITING:  # noqa: ASYNC110 - each turn lets the others run
            await asyncio.sleep(0)
        # 64 in the connector, one in the step, one that waits for room
        assert source.made == 66
        process.cancel()
        await asyncio.wait((running,))


async def test_values_of_any_kind_and_size() -> None:
    class Sums(Keep):
        async def step(self) -> None:
            self.got.append((type(self.x), len(self.x)))

    large, table = np.zeros(10_000_000), pa.table({"a": [1, 2], "b": ["x", "y"]})
    sink = Sums(name="sink")
    await done(local([Once(large, name="a"), Once(table, name="b"), sink], ("a.y", "sink.x"), ("b.y", "sink.x")))
    assert sorted(sink.got, key=str) == sorted([(np.ndarray, 10_000_000), (pa.Table, 2)], key=str)


# How runs end ------------------------------------------------------------------------------------


async def test_close_travels_up_both_sides_of_a_diamond() -> None:
    class First(Join):
        async def step(self) -> None:
            await super().step()
            await self.io.close()

    sink = Keep(name="sink")
    parts = [Endless(name="a"), Add(0, name="b"), Add(0, name="c"), First(name="d"), sink]
    wires = [("a.y", "b.x"), ("a.y", "c.x"), ("b.y", "d.a"), ("c.y", "d.b"), ("d.y", "sink.x")]
    process = await done(local(parts, *wires))
    assert sink.got == [(0, 0)]
    assert {one.status for one in process.components.values()} == {Status.COMPLETED}


async def test_an_input_lives_as_long_as_one_of_its_producers() -> None:
    sink = Keep(name="sink")
    await done(local([Count(2, name="a"), Count(500, name="b"), sink], ("a.y", "sink.x"), ("b.y", "sink.x")))
    assert sorted(sink.got) == sorted([*range(2), *range(500)])


async def test_a_stop_event_reaches_those_who_wait_for_room() -> None:
    class Stops(Component):
        io = IOController(inputs=["x"], output_events=[StopEvent])
        steps = 0

        async def step(self) -> None:
            self.steps += 1
            if self.steps == 3:
                while any(one.status is not Status.WAITING for one in others):  # noqa: ASYNC110 - see above
                    await asyncio.sleep(0)
                self.io.queue_event(StopEvent(source=self.name))

    others: list[Component] = [Endless(name="a"), Add(1, name="b")]
    connectors = [wire("a.y", "b.x", maxsize=1), wire("b.y", "c.x", maxsize=1)]
    process = await done(LocalProcess([*others, Stops(name="c")], connectors))
    assert process.status is Status.STOPPED
    assert {one.status for one in process.components.values()} == {Status.STOPPED}


async def test_a_storm_of_events_arrives_whole() -> None:
    class Storm(Component):
        io = IOController(output_events=[Event])
        made = 0

        async def step(self) -> None:
            self.made += 1
            for i in range(100):
                self.io.queue_event(Event(source=self.name, data=[self.made, i]))
            if self.made == 20:
                await self.io.close()

    class Hears(Component):
        io = IOController(input_events=[Event])

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.heard: list[Any] = []

        @Event.handler
        def on(self, event: Event) -> None:
            self.heard.append(event.data)

    all_ears = [Hears(name=f"h{i}") for i in range(5)]
    await done(local([Storm(name="storm"), *all_ears]), 20)
    expected = [[made, i] for made in range(1, 21) for i in range(100)]
    assert all(one.heard == expected for one in all_ears)


async def test_components_that_wait_for_events_of_each_other_say_so(caplog: pytest.LogCaptureFixture) -> None:
    class Call(Event):
        pass

    class Answer(Event):
        pass

    class Calls(Component):
        io = IOController(input_events=[Answer], output_events=[Call])

        async def init(self) -> None:
            self.io.queue_event(Call(source=self.name))

        @Answer.handler
        def on(self, event: Answer) -> None:
            """That is all."""

    class Answers(Component):
        io = IOController(input_events=[Call], output_events=[Answer])

        @Call.handler
        def on(self, event: Call) -> None:
            self.io.queue_event(Answer(source=self.name))

    # given two that could go on if one of them had tasks of its own, which nobody can know
    process = local([Calls(name="a"), Answers(name="b")])
    async with asyncio.timeout(5), process:
        running = asyncio.ensure_future(process.run())
        while not caplog.messages:  # noqa: ASYNC110 - each turn lets the others run
            await asyncio.sleep(0)
        assert "'a' waits for events; 'b' waits for events" in caplog.messages[0]
        assert not running.done()
        process.cancel()
        await asyncio.wait((running,))


@pytest.mark.parametrize(
    "kind", [asyncio.CancelledError, IOClosedError, ChannelClosedError, ProcessCancelled, StopIteration, TimeoutError]
)
async def test_whatever_a_step_raises_is_a_failure(kind: type[BaseException]) -> None:
    class Raises(Keep):
        async def step(self) -> None:
            raise kind("on purpose")

    process = local([Endless(name="a"), Raises(name="sink")], ("a.y", "sink.x"))
    async with asyncio.timeout(5), process:
        with pytest.raises(ExceptionGroup) as caught:
            await process.run()
    assert process.status is process.components["sink"].status is Status.FAILED
    (error,) = caught.value.exceptions
    if kind is asyncio.CancelledError:
        assert "'sink' raised CancelledError, though nobody cancelled it" in str(error)
    else:
        assert error.__notes__ == ["component 'sink', step 1"]


async def test_nothing_at_all() -> None:
    process = await done(local([], state=Lasting()))
    assert process.status is Status.COMPLETED


# Kinds of classes --------------------------------------------------------------------------------


async def test_a_generic_component() -> None:
    class Passes(Component, Generic[T]):
        io = IOController(inputs=["x"], outputs=["y"])
        x: T

        async def step(self) -> None:
            self.y = self.x

    sink = Keep(name="sink")
    passes = Passes[int](name="passes")
    await done(local([Count(2, name="a"), passes, sink], ("a.y", "passes.x"), ("passes.y", "sink.x"), state=Lasting()))
    assert sink.got == [0, 1]


async def test_a_component_that_is_a_dataclass() -> None:
    @dataclass
    class Gives(Component):
        value: int = 0

        io = IOController(outputs=["y"])

        def __post_init__(self) -> None:
            super().__init__(name="gives")

        async def step(self) -> None:
            self.y = self.value
            await self.io.close()

    sink = Keep(name="sink")
    await done(local([Gives(3), sink], ("gives.y", "sink.x"), state=Lasting()))
    assert sink.got == [3]

    @dataclass
    class Forgets(Component):
        value: int = 0

    with pytest.raises(InvalidProcessError, match="does not call super"):
        local([Forgets(3)])


class Order(BaseModel):
    number: int
    items: list[str] = []


async def test_models_of_pydantic_are_values() -> None:
    class Gives(Once):
        y: Order

    class Takes(Keep):
        x: Order

    order, sink = Order(number=1, items=["a"]), Takes(name="sink")
    await done(local([Gives(order, name="a"), sink], ("a.y", "sink.x"), state=Lasting()))
    assert sink.got == [order]
    assert sink.got[0] is not order


async def test_fields_events_and_exports_of_all_ancestors() -> None:
    class Top(Component):
        io = IOController(inputs=["a"], outputs=["x"], output_events=[StopEvent])
        exports = ["one"]  # noqa: RUF012 - as users write it

    class Side:
        io = IOController(inputs=["b"])

    class Middle(Top):
        io = IOController(inputs={"c": int})
        exports = ["two"]  # noqa: RUF012 - see above

    class Bottom(Middle, Side):
        io = IOController(outputs=["y"], input_events=[Event])

    assert sorted(Bottom.io.inputs) == ["a", "b", "c"]
    assert Bottom.io.outputs == ["x", "y"]
    assert (Bottom.io.input_events, Bottom.io.output_events) == ([Event], [StopEvent])
    assert Bottom.io.types == {"c": int}
    assert Bottom.exports == ["one", "two"]
    assert (Top.io.inputs, Middle.io.inputs) == (["a"], ["a", "c"])


async def test_inputs_of_a_function_may_have_any_name() -> None:
    @component(inputs=["self", "name"], outputs=["y"])
    def add(self: int, name: int) -> dict[str, int]:
        return {"y": self + name}

    with pytest.raises(InvalidProcessError, match="input 'name'"):
        await local([Count(1, name="a"), add.component()], ("a.y", "add.self"), ("a.y", "add.name")).init()

    @component(inputs=["self", "cls"], outputs=["y"])
    def plus(self: int, cls: int) -> dict[str, int]:
        return {"y": self + cls}

    sink = Keep(name="sink")
    parts = [Count(2, name="a"), plus.component(), sink]
    await done(local(parts, ("a.y", "plus.self"), ("a.y", "plus.cls"), ("plus.y", "sink.x")))
    assert sink.got == [0, 2]


async def test_an_event_whose_type_cannot_be_looked_up_says_so() -> None:
    class Reading(BaseModel):
        value: int

    class Read(Event):
        data: Reading

    with pytest.raises(TypeError, match=r"Read\.data cannot be looked up: name 'Reading'"):
        Read(source="a", data=Reading(value=1))


# What everything is called -----------------------------------------------------------------------


async def test_what_a_process_and_its_parts_are_known_by() -> None:
    sink = Keep(name="sink", constraints={"zone": 1}, resources=Resource(cpu="250m"))
    process = local([Count(3, name="a"), sink], ("a.y", "sink.x"), parameters={"k": 1})
    assert re.fullmatch(r"LocalProcess_[0-9A-Za-z]{8}", process.id)
    assert process.name == process.id
    assert local([], name="mine").id == "mine"
    assert process.components == {"a": process.components["a"], "sink": sink}
    assert [(key, one.id) for key, one in process.connectors.items()] == [("a.y..sink.x", "a.y..sink.x")]
    assert process.parameters == {"k": 1}
    assert process.status is Status.CREATED
    assert isinstance(process.state, DictStateBackend)
    assert process.dict()["id"] == process.id
    assert list(process.dict()["components"]) == ["a", "sink"]
    assert sink.constraints == {"zone": 1}
    assert sink.resources == Resource(cpu=0.25)
    assert sink.dict()["id"] == sink.id == "sink"
    assert sink.dict()["exports"] == {"got": []}
    async with asyncio.timeout(5), process:
        assert process.is_initialised
        assert sink.parameters == {"k": 1}
    assert not process.is_initialised


@pytest.mark.parametrize("mode", ["pipeline", "pubsub"])
@pytest.mark.parametrize("kind", [AsyncioConnector, RedisConnector, RayConnector])
async def test_both_modes_give_every_input_every_value(kind: type[Connector], mode: str) -> None:
    one, two = Keep(name="one"), Keep(name="two")
    build = kind.builder(maxsize=3)
    connectors = [build(ConnectorSpec(source="a.y", target=f"{to}.x", mode=mode)) for to in ("one", "two")]
    assert {connector.maxsize for connector in connectors} == {3}
    await done(LocalProcess([Count(9, name="a"), one, two], connectors))
    assert one.got == two.got == list(range(9))


def test_what_is_only_there_for_its_kinds_cannot_be_made() -> None:
    spec = ConnectorSpec("a.b", "c.d")
    makes: list[Callable[[], object]] = [
        lambda: Process([], []),  # type: ignore[abstract]
        lambda: StateBackend(job_id=None),  # type: ignore[abstract]
        lambda: Connector(spec),
    ]
    for make in makes:
        with pytest.raises(TypeError):
            make()


def test_all_names_are_there() -> None:
    assert {name for name in stbass.dataflow.__all__ if getattr(stbass.dataflow, name, None) is None} == set()


# What the known rival gets wrong -----------------------------------------------------------------


async def test_it_starts_at_once() -> None:
    # given what is loaded when it is used for the first time
    await done(local([Count(1, name="a"), Keep(name="sink")], ("a.y", "sink.x")))
    taken = []
    for _ in range(5):
        process = local([Count(1, name="a"), Keep(name="sink")], ("a.y", "sink.x"))
        began = time.perf_counter()
        async with asyncio.timeout(5), process:
            taken.append(time.perf_counter() - began)
            await process.run()
    assert min(taken) < 0.02


def test_nothing_is_pickled() -> None:
    picklers = {"pickle", "cloudpickle", "dill", "marshal", "shelve"}
    for path in Path(stbass.dataflow.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [one.name for one in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            if isinstance(node, ast.ImportFrom):
                names.append(node.module or "")
            assert not {name.partition(".")[0] for name in names} & picklers, path


async def test_a_run_of_what_has_ended_is_an_error_however_it_ended() -> None:
    for end in ("failed", "stopped"):

        class Ends(Keep):
            async def step(self) -> None:
                if end == "failed":  # noqa: B023 - it runs before the next turn
                    raise ValueError("on purpose")
                self.io.queue_event(StopEvent(source=self.name))

        process = local([Endless(name="a"), Ends(name="sink")], ("a.y", "sink.x"))
        async with asyncio.timeout(5), process:
            try:
                await process.run()
            except ExceptionGroup:
                assert end == "failed"
            with pytest.raises(DataflowError, match=f"has {end}"):
                await process.run()
            with pytest.raises(DataflowError, match=f"has {end}"):
                await process.step()
