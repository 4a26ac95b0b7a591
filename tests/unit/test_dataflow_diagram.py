"""Processes as pictures, in Mermaid's language."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stbass.dataflow.model.components import Component, IOController
from stbass.dataflow.model.connector import AsyncioConnector, Connector, ConnectorSpec, RayConnector
from stbass.dataflow.spec.diagram import mermaid
from tests.support.flow_models import Collect, Counter, Hears, Pick, Pings


def connector(source: str, target: str, kind: type[Connector] = AsyncioConnector) -> Connector:
    return kind(ConnectorSpec(source, target))


def test_components_connectors_events_and_initial_values() -> None:
    components = [
        Counter(3, name="end"),
        Pick(name="pick", initial_values={"b": [1, 2, 3, 4, 5]}),
        Pings(name="pings"),
        Hears(name="hears"),
    ]
    connectors = [
        connector("end.out", "pick.a"),
        connector("pick.c", "pick.b"),
        connector("end.out", "pick.b"),
        connector("pick.c", "pings.x", RayConnector),
    ]
    assert mermaid(components, connectors) == (
        "flowchart LR\n"
        '    c0["<b>end</b><br/>Counter"]\n'
        '    c1["<b>pick</b><br/>Pick<br/>b begins with 1, 2, 3, 4, …"]\n'
        '    c2["<b>pings</b><br/>Pings"]\n'
        '    c3["<b>hears</b><br/>Hears"]\n'
        '    c0 -->|"out → a<br/>out → b"| c1\n'
        '    c1 -->|"c → b"| c1\n'
        '    c1 ==>|"c → x"| c2\n'
        '    c2 -.->|"Ping"| c3\n'
    )


def test_fields_of_the_same_name_are_named_once() -> None:
    class Passes(Collect):
        io = IOController(outputs=["x2"])

    drawn = mermaid([Counter(1, name="a"), Passes(name="b")], [connector("a.x", "b.x")])
    assert '-->|"x"|' in drawn


def test_groups_are_frames() -> None:
    components: list[Component] = [Counter(3, name="a"), Collect(name="b"), Collect(name="c")]
    drawn = mermaid(components, [connector("a.out", "b.x")], groups={"a": "one", "c": "one"}, direction="TD")
    assert drawn == (
        "flowchart TD\n"
        '    subgraph g0["one"]\n'
        '        c0["<b>a</b><br/>Counter"]\n'
        '        c2["<b>c</b><br/>Collect"]\n'
        "    end\n"
        '    c1["<b>b</b><br/>Collect"]\n'
        '    c0 -->|"out → x"| c1\n'
    )


def test_a_direction_that_is_none() -> None:
    with pytest.raises(ValueError, match="LR, TD, RL, BT"):
        mermaid([], [], direction="up")


@given(st.text(min_size=1), st.text())
def test_whatever_stands_in_a_box_does_not_end_it(group: str, value: str) -> None:
    drawn = mermaid([Collect(name="a", initial_values={"x": [value]})], [], groups={"a": group})
    lines = drawn.removesuffix("\n").split("\n")
    assert len(lines) == 4
    for line, shape in ((lines[1], r'    subgraph g0\["(.*)"\]'), (lines[2], r'        c0\["(.*)"\]')):
        match = re.fullmatch(shape, line)
        assert match is not None
        # Nothing of Mermaid's own but what we put there.
        text = match[1].replace("<br/>", "").replace("<b>", "").replace("</b>", "")
        assert not set(text) & set('"<>`{}|&\\')
        assert set(re.findall(r"#(?!\d+;)|(?<!\d);", text)) == set()
