"""What is wrong with a process is found before any of its components does anything, all of it at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, NewType, Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from stbass.dataflow.model.components import Component, IOController
from stbass.dataflow.model.connector import AsyncioConnector, Connector, ConnectorSpec, RayConnector, RedisConnector
from stbass.dataflow.model.events import Event, StopEvent
from stbass.dataflow.model.fitting import may_fit
from stbass.dataflow.spec.validation import check_model, check_names, findings
from stbass.errors import InvalidProcessError


class Source(Component):
    io = IOController(outputs={"out": int})

    async def step(self) -> None:
        raise AssertionError("no user code runs while a process is validated")

    async def init(self) -> None:
        raise AssertionError("no user code runs while a process is validated")


class Double(Component):
    io = IOController(inputs={"x": float}, outputs={"y": float})

    async def step(self) -> None:
        raise AssertionError("no user code runs while a process is validated")


class Join(Component):
    io = IOController(inputs=["one", "two"], outputs=["both"])

    async def step(self) -> None:
        raise AssertionError("no user code runs while a process is validated")


class Alarm(Event):
    data: int


class Siren(Component):
    io = IOController(inputs=["level"], input_events=[Alarm])

    @Alarm.handler(populates_fields=["level"])
    def on_alarm(self, event: Alarm) -> None:
        raise AssertionError("no user code runs while a process is validated")

    async def step(self) -> None:
        raise AssertionError("no user code runs while a process is validated")


class Watch(Component):
    io = IOController(inputs=["x"], output_events=[Alarm])

    async def step(self) -> None:
        raise AssertionError("no user code runs while a process is validated")


def join(*ends: str) -> list[Connector]:
    """``"a.out > b.in"`` as a connector."""
    return [AsyncioConnector(ConnectorSpec(*end.split(" > "))) for end in ends]


def texts(components: Iterable[Component], connectors: Iterable[Connector], kind: str = "local") -> list[str]:
    return [str(finding) for finding in findings(components, connectors, kind=kind)]


def test_a_process_without_mistakes_has_no_findings() -> None:
    components = [Source(name="a"), Double(name="b"), Join(name="c"), Watch(name="w"), Siren(name="s")]
    connectors = join("a.out > b.x", "a.out > c.one", "b.y > c.two", "c.both > w.x")
    assert texts(components, connectors) == []
    check_model("p", components, connectors, kind="local")


def test_all_findings_are_in_one_error_and_each_names_component_and_field() -> None:
    # Given a process in which nearly everything is wrong,
    components = [
        Source(name="a"),
        Double(name="b", initial_values={"z": [1]}),
        Double(name="b"),
        Siren(name="no name"),
    ]
    connectors = join("a.out > b.x", "a.aut > b.x", "a.out > b.y", "aa.out > b.x")
    # when it is checked,
    with pytest.raises(InvalidProcessError) as caught:
        check_model("p", components, connectors, kind="local")
    # then the one error has all of it.
    assert sorted(caught.value.findings) == sorted(
        [
            "component 'no name': a name is a letter or _, then letters, digits, '_' and '-', as in 'no_name'",
            "component 'b': there are 2 components of that name; each needs one of its own",
            "component 'b', input 'z': there are initial values for it, but no such input",
            "component 'a', output 'aut', connector 'a.aut..b.x': there is no such output (did you mean 'out'?); "
            "its outputs: out",
            "component 'b', input 'y', connector 'a.out..b.y': 'y' is an output; a connector leads from an output "
            "to an input",
            "component 'aa', output 'out', connector 'aa.out..b.x': there is no such component (did you mean 'a'?)",
            "component 'no name', event Alarm: no component has it in its output_events",
        ]
    )
    assert str(caught.value).startswith("process 'p' cannot work, for 7 reasons:\n  component ")


def test_an_input_that_nothing_is_connected_to() -> None:
    assert texts([Join(name="j"), Source(name="a")], join("a.out > j.two")) == [
        "component 'j', input 'one': nothing is connected to it, and no event handler populates it"
    ]
    # Initial values end; who waits for more would wait for ever.
    assert len(texts([Join(name="j", initial_values={"one": [1]}), Source(name="a")], join("a.out > j.two"))) == 1


def test_an_event_that_nobody_sends_and_handlers_that_do_not_fit() -> None:
    class Odd(Component):
        io = IOController(inputs=["x"], input_events=[Alarm, StopEvent])

        @Alarm.handler(populates_fields=["level"])
        def on_alarm(self, event: Alarm) -> None: ...

        @Event.handler
        def on_any(self, event: Event) -> None: ...

        async def step(self) -> None: ...

    class Deaf(Component):
        io = IOController(input_events=[Alarm])

    assert texts(
        [Odd(name="o"), Source(name="a"), Watch(name="w"), Deaf(name="d")], join("a.out > o.x", "a.out > w.x")
    ) == [
        "component 'o', input 'level': on_alarm populates it, but there is no such input",
        "component 'd', event Alarm: it has no handler: @Alarm.handler",
    ]
    # One without inputs makes a step for each event, with a handler or without.
    steps = type("Steps", (Deaf,), {"step": Source.step})
    assert texts([steps(name="d"), Source(name="a"), Watch(name="w")], join("a.out > w.x")) == []
    assert texts([Deaf(name="d")], [])[0] == "component 'd', event Alarm: no component has it in its output_events"


def test_a_component_without_a_step() -> None:
    class Idle(Component):
        io = IOController(outputs=["x"])

    assert texts([Idle(name="i")], []) == ["component 'i': its class Idle has no step: `async def step(self)`"]


def test_a_constructor_that_forgets_that_of_its_parent() -> None:
    class Forgets(Source):
        def __init__(self, name: str) -> None:
            pass

    assert texts([Forgets(name="f")], []) == [
        "component 'Forgets': the __init__ of Forgets does not call super().__init__(name=…)"
    ]


@pytest.mark.parametrize("name", ["class", "two words", "1st", "a-b", "name", "io", "step", "_stbass_x", "status"])
def test_names_of_fields_that_no_attribute_can_have(name: str) -> None:
    made = type("Named", (Source,), {"io": IOController(outputs=[name])})
    found = texts([made(name="n")], [])
    assert len(found) == 1
    assert found[0].startswith(f"component 'n', output {name!r}: ")


def test_a_field_that_is_there_twice() -> None:
    class Twice(Source):
        io = IOController(inputs=["x", "x"], outputs=["x"])

    assert texts([Twice(name="t"), Source(name="a")], join("a.out > t.x")) == [
        "component 't', input 'x': it is there 2 times",
        "component 't', output 'x': there is an input of that name; an output needs another",
    ]


@pytest.mark.parametrize(
    ("name", "better"), [("", "_"), ("a b", "a_b"), ("1", "_1"), ("a.b", "a_b"), ("é", "_"), ("a\n", "a_")]
)
def test_names_of_components(name: str, better: str) -> None:
    with pytest.raises(InvalidProcessError) as caught:
        check_names(None, [Source(name=name)], [])
    assert caught.value.findings[0].endswith(f"as in {better!r}")


@pytest.mark.parametrize("name", ["", "a/b", "-x", "a b", 7])
def test_names_of_processes(name: Any) -> None:
    with pytest.raises(InvalidProcessError):
        check_names(name, [Source(name="a")], [])
    check_names("a.b-1", [Source(name="a-1")], [])


def test_parts_that_are_none() -> None:
    with pytest.raises(InvalidProcessError) as caught:
        check_names("p", [Source, 7], [ConnectorSpec("a.x", "b.y")])
    found = caught.value.findings
    assert found[0].endswith("make one of it: Source(name=…)")
    assert found[1] == "components[1] is no component: 7"
    assert found[2].startswith("connectors[0] is no connector: a stbass.dataflow.model.connector.ConnectorSpec")


def test_two_connectors_that_are_the_same() -> None:
    found = texts([Source(name="a"), Double(name="b")], join("a.out > b.x", "a.out > b.x"))
    assert found == ["connector 'a.out..b.x': it is there 2 times; once is enough"]


@pytest.mark.parametrize(
    ("cls", "kind", "fine"),
    [
        (RayConnector, "celery", False),
        (RedisConnector, "ray", False),
        (RayConnector, "ray", True),
        (RedisConnector, "celery", True),
        (AsyncioConnector, "local", True),
    ],
)
def test_connectors_that_a_kind_of_process_cannot_use(cls: type[Connector], kind: str, fine: bool) -> None:
    found = texts([Source(name="a"), Double(name="b")], [cls(ConnectorSpec("a.out", "b.x"))], kind)
    assert (found == []) == fine
    assert fine or found[0].startswith(f"connector 'a.out..b.x': a {cls.__name__} cannot be used by a {kind} process")


# Types -------------------------------------------------------------------------------------------


def test_initial_values_of_the_wrong_type() -> None:
    components = [Source(name="a"), Double(name="b", initial_values={"x": [1, 2.5, "secret", None]})]
    found = texts(components, join("a.out > b.x"))
    assert found == [
        "component 'b', input 'x': initial value 3 must be float, got str",
        "component 'b', input 'x': initial value 4 must be float, got NoneType",
    ]
    assert "secret" not in str(found)


def test_types_of_two_ends_that_cannot_meet() -> None:
    class Says(Source):
        io = IOController(outputs={"words": list[str]})

    found = texts([Says(name="s"), Double(name="d")], join("s.words > d.x"))
    assert found == ["component 'd', input 'x', connector 's.words..d.x': it takes float, but s.words sends list[str]"]


def test_types_by_annotation() -> None:
    class Says(Component):
        io = IOController(inputs=["x"], outputs=["y"])
        x: int
        y: str

        async def step(self) -> None: ...

    found = texts([Says(name="s", initial_values={"x": [1]})], join("s.y > s.x"))
    assert found == ["component 's', input 'x', connector 's.y..s.x': it takes int, but s.y sends str"]


def test_a_type_that_no_value_can_be_checked_against() -> None:
    class Shape(Protocol):
        def area(self) -> float: ...

    class Draws(Source):
        io = IOController(outputs={"shape": Shape})

    found = texts([Draws(name="d")], [])
    assert len(found) == 1
    assert found[0].startswith("component 'd', output 'shape': its type cannot be checked: ")
    assert "@runtime_checkable" in found[0]


class Animal: ...


class Dog(Animal): ...


class Stone: ...


class Model(BaseModel):
    x: int


Metres = NewType("Metres", float)


@pytest.mark.parametrize(
    ("sent", "taken", "fits"),
    [
        (int, float, True),
        (float, int, False),
        (bool, int, False),
        (str, bytes, False),
        (Any, int, True),
        (int, object, True),
        (Dog, Animal, True),
        (Animal, Dog, True),
        (Animal, Stone, False),
        (int | None, int, True),
        (None, int, False),
        (str | bytes, int | None, False),
        (list[int], list[float], True),
        (list[str], list[int], False),
        (list, list[int], True),
        (dict[str, int], Mapping, True),
        (dict[str, list[str]], dict[str, list[int]], False),
        (int, Sequence, False),
        (list[int], Sequence[str], True),  # not known before something is sent
        (Literal["a", "b"], str, True),
        (Literal["a"], Literal["b", "a"], True),
        (Literal["a"], Literal["b"], False),
        (Literal[1], Literal[True], False),
        (int, Literal["a"], False),
        (Metres, float, True),
        (Metres, str, False),
        (Annotated[int, "x"], str, False),
        (dict, Model, True),
        (str, Model, False),
        (Iterable[int], list[int], True),
        (tuple[int, ...], tuple[int, int], True),
    ],
)
def test_which_types_may_meet(sent: Any, taken: Any, fits: bool) -> None:
    assert may_fit(sent, taken) is fits


# Cycles ------------------------------------------------------------------------------------------


def test_a_cycle_needs_initial_values_where_it_is_entered() -> None:
    components = [Double(name="a"), Double(name="b")]
    connectors = join("a.y > b.x", "b.y > a.x")
    found = texts(components, connectors)
    assert len(found) == 1
    assert "a cycle enters here that can never begin" in found[0]
    assert "initial_values={'x': […]}" in found[0]
    # Either of the two fields will do.
    assert texts([Double(name="a", initial_values={"x": [1]}), Double(name="b")], connectors) == []
    assert texts([Double(name="a"), Double(name="b", initial_values={"x": [1]})], connectors) == []
    # No values are none.
    assert texts([Double(name="a", initial_values={"x": []}), Double(name="b")], connectors) != []


def test_a_loop_of_one() -> None:
    found = texts([Double(name="a")], join("a.y > a.x"))
    assert found == [
        "component 'a', input 'x': a cycle enters here that can never begin (a.y → a.x): give initial values to an "
        "input on it, such as initial_values={'x': […]} of 'a'"
    ]
    assert texts([Double(name="a", initial_values={"x": [0]})], join("a.y > a.x")) == []


def test_initial_values_on_another_field_do_not_help() -> None:
    connectors = join("s.out > j.one", "j.both > j.two")
    assert len(texts([Source(name="s"), Join(name="j", initial_values={"one": [1]})], connectors)) == 1
    assert texts([Source(name="s"), Join(name="j", initial_values={"two": [1]})], connectors) == []


def test_a_cycle_that_is_fed_from_outside_begins() -> None:
    assert texts([Source(name="s"), Double(name="d")], join("s.out > d.x", "d.y > d.x")) == []


def test_what_only_waits_for_a_cycle_is_not_a_finding() -> None:
    found = texts([Double(name="a"), Double(name="b")], join("a.y > a.x", "a.y > b.x"))
    assert len(found) == 1
    assert found[0].startswith("component 'a'")


def test_two_cycles_are_two_findings() -> None:
    components = [Double(name=name) for name in "abcd"]
    found = texts(components, join("a.y > b.x", "b.y > a.x", "c.y > d.x", "d.y > c.x"))
    assert len(found) == 2


def test_a_long_cycle_is_found_without_recursion() -> None:
    names = [f"c{index}" for index in range(3000)]
    connectors = join(*(f"{one}.y > {other}.x" for one, other in zip(names, [*names[1:], names[0]], strict=True)))
    assert len(texts([Double(name=name) for name in names], connectors)) == 1


@given(st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=14), st.sets(st.integers(0, 7)))
def test_findings_of_cycles_are_right(edges: set[tuple[int, int]], begins: set[int]) -> None:
    # Given any network in which each input has one producer, (so that a step needs all of them)
    fields = [f"x{index}" for index in range(8)]
    cls = type("Node", (Join,), {"io": IOController(inputs=[f"x{index}" for index in range(8)], outputs=["y"])})
    components = [
        cls(name=f"n{index}", initial_values={field: [0] for field in fields} if index in begins else {})
        for index in range(8)
    ]
    connectors = join(*(f"n{one}.y > n{other}.x{one}" for one, other in sorted(edges)))
    # when it is played through: who has all that it needs makes a step,
    moved: set[int] = set()
    while fresh := {
        node
        for node in range(8)
        if node not in moved and (node in begins or all(one in moved for one, other in edges if other == node))
    }:
        moved |= fresh
    # then there is a cycle among the findings if and only if somebody never moves.
    found = [finding for finding in findings(components, connectors, kind="local") if "cycle" in finding.problem]
    assert bool(found) == (len(moved) < 8)
    for finding in found:
        assert finding.component is not None
        assert int(finding.component[1:]) not in moved


def test_nothing_is_said_of_what_depends_on_a_component_that_could_not_be_made() -> None:
    components = [Double(name="b"), Join(name="j"), Siren(name="s")]
    connectors = join("a.out > b.x", "a.what > j.one", "b.y > j.three")
    found = [str(one) for one in findings(components, connectors, kind="local", unmade={"a"})]
    assert found == [
        "component 'j', input 'two': nothing is connected to it, and no event handler populates it",
        "component 'j', input 'three', connector 'b.y..j.three': there is no such input; its inputs: one, two",
    ]
