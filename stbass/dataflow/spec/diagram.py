"""A process as a picture, in Mermaid's language: paste it into a Markdown file, or into https://mermaid.live."""

from __future__ import annotations

import reprlib
from collections import defaultdict
from collections.abc import Iterable, Mapping

from stbass._values.mermaid import mermaid_text
from stbass._values.texts import value_text
from stbass.dataflow.model.components import Component
from stbass.dataflow.model.connector import AsyncioConnector, Connector

__all__ = ["mermaid"]

_DIRECTIONS = ("LR", "TD", "RL", "BT")
_short = reprlib.Repr()
_short.maxstring = _short.maxother = 30
_short.maxlist, _short.maxdict, _short.maxlevel = 4, 3, 2


def mermaid(
    components: Iterable[Component],
    connectors: Iterable[Connector],
    *,
    groups: Mapping[str, str] | None = None,
    direction: str = "LR",
) -> str:
    """The components as boxes, with an arrow for what goes from one to the other.

    Arrows are thick where values may travel between machines, and dotted for events. Initial values stand in the box of
    the component that begins with them.

    Args:
        components: the components.
        connectors: what connects them.
        groups: which components belong together, by name: what the group is called. Each is a frame.
        direction: ``"LR"`` (left to right), ``"TD"`` (top down), ``"RL"`` or ``"BT"``.

    Raises:
        ValueError: there is no such direction.
    """
    if direction not in _DIRECTIONS:
        raise ValueError(f"direction must be one of {', '.join(_DIRECTIONS)}, got {value_text(direction)}")
    parts = list(components)
    # Ids of our own: a component's name may be a word of Mermaid's, such as "end".
    keys: dict[str, str] = {}
    for component in parts:
        keys.setdefault(component.name, f"c{len(keys)}")
    lines = [f"flowchart {direction}"]
    framed: dict[str | None, list[Component]] = defaultdict(list)
    for component in parts:
        framed[(groups or {}).get(component.name)].append(component)
    frames = 0
    for group, members in framed.items():
        boxes = [f"{keys[one.name]}{_box(one)}" for one in members]
        if group is None:
            lines += [f"    {box}" for box in boxes]
            continue
        lines += [f'    subgraph g{frames}["{mermaid_text(group)}"]', *(f"        {box}" for box in boxes), "    end"]
        frames += 1
    lines += _arrows(connectors, keys)
    lines += _events(parts, keys)
    return "\n".join(lines) + "\n"


def _box(component: Component) -> str:
    rows = [f"<b>{mermaid_text(component.name)}</b>", mermaid_text(type(component).__name__)]
    rows += [
        mermaid_text(f"{field} begins with {', '.join(map(_short.repr, values[:4]))}{', …' if len(values) > 4 else ''}")
        for field, values in component.initial_values.items()
        if values
    ]
    return f'["{"<br/>".join(rows)}"]'


def _arrows(connectors: Iterable[Connector], keys: Mapping[str, str]) -> Iterable[str]:
    between: dict[tuple[str, str, bool], list[str]] = defaultdict(list)
    for connector in connectors:
        spec = connector.spec
        far = not isinstance(connector, AsyncioConnector)
        label = spec.output if spec.output == spec.input else f"{spec.output} → {spec.input}"
        between[spec.source_component, spec.target_component, far].append(mermaid_text(label))
    for (source, target, far), labels in between.items():
        # (One end may be missing, in a model that is not finished.)
        if source in keys and target in keys:
            yield f'    {keys[source]} {"==>" if far else "-->"}|"{"<br/>".join(labels)}"| {keys[target]}'


def _events(components: list[Component], keys: Mapping[str, str]) -> Iterable[str]:
    for source in components:
        for target in components:
            labels = [
                mermaid_text(event.__name__)
                for event in source.io.output_events
                if any(issubclass(event, taken) for taken in target.io.input_events)
            ]
            if labels:
                yield f'    {keys[source.name]} -.->|"{"<br/>".join(labels)}"| {keys[target.name]}'
