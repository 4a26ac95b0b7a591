"""Drawing a composition: as text, as a picture, and in the languages of Mermaid and Graphviz."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from stbass._engine.composition import Composition, ProcessComposition
from stbass._process.context import Composable
from stbass._values.endpoint import Placement
from stbass._values.mermaid import mermaid_text
from stbass._values.pages import safe_html, text_width
from stbass._values.policy import FailurePolicy, RetryPolicy
from stbass._values.texts import one_line, plain_text, shortened
from stbass._values.usage import Budget
from stbass.channel import Chan
from stbass.replicator import PAR_FOR, SEQ_FOR
from stbass.seq import Sequential

__all__ = ["FORMATS", "Drawn", "drawn"]

_LONGEST_NAME = 60
_MOST_MEMBERS = 30
_MOST_NODES = 1000

# Of the picture, in pixels.
_LETTERS = 12
_LINE = 16
_GAP = 14
_ARROW = 36
_PADDING = 12


@dataclass
class Drawn:
    """A process or a composition, as it is drawn.

    Args:
        title: its name, and its kind if that is another word.
        notes: what else there is to be said: where it is placed, that it is optional, the settings of a composition.
        in_order: whether its parts run one after the other.
        parts: of a composition.
        channels: that are bound to it, by the name that it has for them.
    """

    title: str
    notes: list[str] = field(default_factory=list)
    in_order: bool = False
    parts: list[Drawn] = field(default_factory=list)
    channels: Mapping[str, Chan[Any]] = field(default_factory=dict)
    number: int = 0
    left: float = 0.0
    top: float = 0.0
    width: float = 0.0
    height: float = 0.0

    @property
    def text(self) -> str:
        """All of it in one line."""
        return f"{self.title} ({', '.join(self.notes)})" if self.notes else self.title

    def all(self) -> Iterator[Drawn]:
        """It, and all that is in it."""
        yield self
        for part in self.parts:
            yield from part.all()


def drawn(composable: Composable) -> Drawn:
    """What is known of a process or a composition before it runs.

    Of many members of one composition the first are drawn, and the rest is counted.
    """
    root = _drawn(composable, None, [_MOST_NODES])
    for number, one in enumerate(root.all()):
        one.number = number
    return root


def _drawn(composable: Composable, placement: Placement | None, room: list[int]) -> Drawn:
    kind = type(composable).__name__
    name = _name(composable.name)
    is_composition = isinstance(composable, Composition)
    made = Drawn(name if name == kind or not is_composition else f"{kind} {name}")
    room[0] -= 1
    placement = placement or composable.placement
    if placement is not None:
        made.notes.append(_name(placement.summary))
    if composable.is_optional:
        made.notes.append("optional")
    made.channels = composable.bound_channels
    if isinstance(composable, ProcessComposition):
        made.notes += _settings(composable.settings)
        made.in_order = isinstance(composable, Sequential)
        if isinstance(composable, (PAR_FOR, SEQ_FOR)):
            replica, count = composable.replicas
            made.parts.append(Drawn(f"{_name(replica)} x {'as many as there are then' if count is None else count}"))
            return made
        members = composable.members
        for member, where in members[:_MOST_MEMBERS]:
            if room[0] <= 0:
                break
            made.parts.append(_drawn(member, where, room))
        if len(members) > len(made.parts):
            made.parts.append(Drawn(f"and {len(members) - len(made.parts):,} more"))
    return made


def _settings(settings: Mapping[str, Any]) -> Iterator[str]:
    policy, deadline, limit = (settings.get(name) for name in ("on_failure", "deadline", "limit"))
    if isinstance(policy, RetryPolicy):
        yield f"up to {policy.max_attempts} attempts"
    elif policy is FailurePolicy.COLLECT:
        yield "COLLECT"
    if deadline is not None:
        yield f"deadline {deadline:g} s"
    if limit is not None:
        yield f"{limit} at once"
    budget = settings.get("budget")
    if isinstance(budget, Budget):
        yield "budget"


def _name(text: str) -> str:
    return one_line(plain_text(text), _LONGEST_NAME)


def _talks(root: Drawn) -> Iterator[tuple[Drawn, Drawn, str]]:
    """Who shares a channel with whom. Which of them sends is known when they run."""
    holders: dict[int, list[tuple[Drawn, Chan[Any]]]] = {}
    for one in root.all():
        for channel in {id(channel): channel for channel in one.channels.values()}.values():
            holders.setdefault(id(channel), []).append((one, channel))
    for (first, channel), *others in holders.values():
        for other, _ in others:
            yield first, other, _name(channel.name)


# As text -----------------------------------------------------------------------------------------


def as_text(root: Drawn) -> str:
    """A tree. Channels stand in square brackets, each with the name that the process has for it."""
    return "\n".join(_tree(root, "", "")) + "\n"


def _tree(one: Drawn, first: str, rest: str) -> Iterator[str]:
    ends = ", ".join(
        _name(name) if name == channel.name else f"{_name(name)}: {_name(channel.name)}"
        for name, channel in one.channels.items()
    )
    yield f"{first}{one.text}{f' [{ends}]' if ends else ''}"
    mark = "1" if one.in_order else ""
    for index, part in enumerate(one.parts, 1):
        is_last = index == len(one.parts)
        corner = "└" if is_last else "├"
        order = f"{index}. " if mark else ""
        yield from _tree(part, f"{rest}{corner}─ {order}", f"{rest}{' ' if is_last else '│'}  {' ' * len(order)}")


# In the language of Mermaid ----------------------------------------------------------------------


def as_mermaid(root: Drawn) -> str:
    """A flowchart: arrows are order, dotted lines are channels."""
    lines = ["flowchart LR", *_mermaid(root, "  ")]
    lines += [f"  n{one.number} --> n{other.number}" for one, other in _orders(root)]
    lines += [f'  n{one.number} -. "{mermaid_text(name)}" .- n{other.number}' for one, other, name in _talks(root)]
    return "\n".join(lines) + "\n"


def _mermaid(one: Drawn, indent: str) -> Iterator[str]:
    title = "<br>".join(mermaid_text(text) for text in (one.title, ", ".join(one.notes)) if text)
    if not one.parts:
        yield f'{indent}n{one.number}["{title}"]'
        return
    yield f'{indent}subgraph n{one.number}["{title}"]'
    for part in one.parts:
        yield from _mermaid(part, indent + "  ")
    yield f"{indent}end"


def _orders(root: Drawn) -> Iterator[tuple[Drawn, Drawn]]:
    for one in root.all():
        if one.in_order:
            yield from zip(one.parts, one.parts[1:], strict=False)


# In the language of Graphviz ---------------------------------------------------------------------


def as_dot(root: Drawn) -> str:
    """A graph: arrows are order, dashed lines are channels."""
    lines = [
        "digraph {",
        "  rankdir=LR; compound=true; node [shape=box, style=rounded]; fontname=sans;",
        *_dot(root, "  "),
    ]
    for one, other in _orders(root):
        ends = [f"ltail=cluster{one.number}"] if one.parts else []
        ends += [f"lhead=cluster{other.number}"] if other.parts else []
        lines.append(f"  n{_leaf(one, -1)} -> n{_leaf(other, 0)} [{', '.join(ends)}];")
    for one, other, name in _talks(root):
        line = f"n{_leaf(one, 0)} -> n{_leaf(other, 0)}"
        lines.append(f"  {line} [style=dashed, dir=none, constraint=false, label={_quoted(name)}];")
    return "\n".join([*lines, "}"]) + "\n"


def _dot(one: Drawn, indent: str) -> Iterator[str]:
    label = _quoted("\n".join(text for text in (one.title, ", ".join(one.notes)) if text))
    if not one.parts:
        yield f"{indent}n{one.number} [label={label}];"
        return
    yield f"{indent}subgraph cluster{one.number} {{"
    yield f"{indent}  label={label};"
    for part in one.parts:
        yield from _dot(part, indent + "  ")
    yield f"{indent}}}"


def _leaf(one: Drawn, index: int) -> int:
    """The number of a part that is no composition: arrows of Graphviz are between those."""
    return _leaf(one.parts[index], index) if one.parts else one.number


def _quoted(text: str) -> str:
    plain = shortened(text, 1000).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{plain}"'


# As a picture ------------------------------------------------------------------------------------


def as_svg(root: Drawn) -> str:
    """Boxes in boxes: what runs in order stands from left to right, what runs at once from top to bottom."""
    _measure(root)
    _place(root, 8, 8)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{root.width + 16:.0f}" height="{root.height + 16:.0f}"'
        f' font-family="system-ui, sans-serif" font-size="{_LETTERS}" fill="#24292f">',
        f"<title>{safe_html(root.text)}</title>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#57606a"/></marker></defs>',
    ]
    parts += map(_box, root.all())
    for one, other in _orders(root):
        line = f"M{one.left + one.width:.0f} {one.top + one.height / 2:.0f}H{other.left:.0f}"
        parts.append(f'<path d="{line}" stroke="#57606a" marker-end="url(#head)"/>')
    for one, other, name in _talks(root):
        parts.append(_line(one, other, name))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _lines(one: Drawn) -> list[str]:
    return [one.title, *([", ".join(one.notes)] if one.notes else [])]


def _measure(one: Drawn) -> None:
    lines = _lines(one)
    one.width = max(90.0, max(text_width(line, _LETTERS) for line in lines) + 2 * _PADDING)
    one.height = len(lines) * _LINE + _PADDING
    if not one.parts:
        return
    for part in one.parts:
        _measure(part)
    widths, heights = [part.width for part in one.parts], [part.height for part in one.parts]
    if one.in_order:
        inner = sum(widths) + _ARROW * (len(widths) - 1), max(heights)
    else:
        inner = max(widths), sum(heights) + _GAP * (len(heights) - 1)
    one.width = max(one.width, inner[0] + 2 * _PADDING)
    one.height += inner[1] + _PADDING


def _place(one: Drawn, left: float, top: float) -> None:
    one.left, one.top = left, top
    x, y = left + _PADDING, top + len(_lines(one)) * _LINE + _PADDING
    room = one.height - (y - top) - _PADDING
    for part in one.parts:
        if one.in_order:
            _place(part, x, y + (room - part.height) / 2)
            x += part.width + _ARROW
        else:
            _place(part, x, y)
            y += part.height + _GAP


def _box(one: Drawn) -> str:
    fill, dash = ("#f6f8fa", "") if one.parts else ("#ddf4ff", "")
    if "optional" in one.notes:
        dash = ' stroke-dasharray="4 3"'
    parts = [
        f"<g><title>{safe_html(one.text)}</title>"
        f'<rect x="{one.left:.0f}" y="{one.top:.0f}" width="{one.width:.0f}" height="{one.height:.0f}" rx="6"'
        f' fill="{fill}" stroke="#8c959f"{dash}/>'
    ]
    for number, line in enumerate(_lines(one)):
        style = ' font-weight="600"' if number == 0 else ' fill="#57606a"'
        y = one.top + 18 + number * _LINE
        parts.append(f'<text x="{one.left + _PADDING:.0f}" y="{y:.0f}"{style}>{safe_html(line)}</text>')
    return "".join([*parts, "</g>"])


def _line(one: Drawn, other: Drawn, name: str) -> str:
    """A channel, from the right edge of one to that of the other, around what stands between."""
    x1, y1 = one.left + one.width, one.top + one.height / 2
    x2, y2 = other.left + other.width, other.top + other.height / 2
    bend = max(x1, x2) + 24
    return (
        f'<path d="M{x1:.0f} {y1:.0f}C{bend:.0f} {y1:.0f} {bend:.0f} {y2:.0f} {x2:.0f} {y2:.0f}" fill="none"'
        f' stroke="#8250df" stroke-dasharray="5 3"><title>channel {safe_html(name)}</title></path>'
        f'<text x="{(x1 + x2) / 2 + 14:.0f}" y="{(y1 + y2) / 2 + 4:.0f}" font-size="10" fill="#8250df">'
        f"{safe_html(name)}</text>"
    )


def as_json(root: Drawn) -> str:
    """Its titles, notes and parts, and which channels are bound to each, as one line of JSON."""
    numbers: dict[int, int] = {}

    def data(one: Drawn) -> dict[str, Any]:
        made: dict[str, Any] = {"title": one.title, "notes": one.notes}
        if one.channels:
            # A channel has the same number wherever it is bound.
            ends = {
                _name(name): numbers.setdefault(id(channel), len(numbers)) for name, channel in one.channels.items()
            }
            made["channels"] = ends
        if one.parts:
            made |= {"in_order": one.in_order, "parts": [data(part) for part in one.parts]}
        return made

    return json.dumps(data(root)) + "\n"


FORMATS: Mapping[str, Callable[[Drawn], str]] = {
    "json": as_json,
    "text": as_text,
    "mermaid": as_mermaid,
    "dot": as_dot,
    "svg": as_svg,
}
"""What it can be drawn as."""
