"""A workflow as a picture."""

from __future__ import annotations

from collections.abc import Mapping

from stbass._values.mermaid import mermaid_text
from stbass._values.texts import value_text
from stbass.workflow.config import ProcessType
from stbass.workflow.process import WorkflowNode
from stbass.workflow.state import ProcessState

__all__ = ["workflow_mermaid"]

_DIRECTIONS = ("TD", "BT", "LR", "RL")
_COLOURS = {
    ProcessState.RUNNING: "fill:#dbeafe,stroke:#2563eb,color:#1e3a8a",
    ProcessState.COMPLETED: "fill:#dcfce7,stroke:#16a34a,color:#14532d",
    ProcessState.FAILED: "fill:#fee2e2,stroke:#dc2626,color:#7f1d1d",
    ProcessState.RETRYING: "fill:#fef3c7,stroke:#d97706,color:#78350f",
    ProcessState.SKIPPED: "fill:#f3f4f6,stroke:#9ca3af,color:#6b7280",
}


def workflow_mermaid(nodes: Mapping[str, WorkflowNode], direction: str) -> str:
    """A Mermaid flowchart of these nodes.

    Raises:
        ValueError: the direction is none of Mermaid's.
    """
    if direction not in _DIRECTIONS:
        raise ValueError(f"direction must be one of {', '.join(_DIRECTIONS)}, got {value_text(direction)}")
    # Ids of our own: a process's id may be a word of Mermaid's, such as "end", or have characters that it has not.
    keys = {name: f"n{index}" for index, name in enumerate(nodes)}
    lines = [f"flowchart {direction}"]
    states: dict[ProcessState, list[str]] = {}
    for name, node in nodes.items():
        lines.append(f"    {keys[name]}{_shape(name, node)}")
        state = node.process.metadata.state
        if state in _COLOURS:
            states.setdefault(state, []).append(keys[name])
    for name, node in nodes.items():
        for dependency in node.depends_on:
            # One that is not there yet is shown by its name alone.
            source = keys.get(dependency) or keys.setdefault(dependency, f"n{len(keys)}")
            if dependency not in nodes and f'    {source}["{mermaid_text(dependency)}"]' not in lines:
                lines.append(f'    {source}["{mermaid_text(dependency)}"]')
            arrow = "-->" if dependency not in nodes or nodes[dependency].required else "-.->"
            lines.append(f"    {source} {arrow} {keys[name]}")
    for state, members in states.items():
        lines.append(f"    classDef {state.value} {_COLOURS[state]}")
        lines.append(f"    class {','.join(members)} {state.value}")
    return "\n".join(lines) + "\n"


def _shape(name: str, node: WorkflowNode) -> str:
    text = mermaid_text(name)
    if node.placement is not None:
        text += f"<br/>{mermaid_text(node.placement.summary)}"
    elif node.process.config.process_type is not ProcessType.ASYNC:
        text += f"<br/>{node.process.config.process_type.value}"
    # What is not required has round ends.
    return f'["{text}"]' if node.required else f'(["{text}"])'
