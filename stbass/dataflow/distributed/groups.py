"""Groups of components, each of which runs on one event loop, and what a process and a group tell each other.

Neither side's: ``DistributedProcess`` has a ``GroupHandle`` for each group, which is on the other side a
``RemoteGroup``, whatever lies between the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from stbass._values.usage import Usage
from stbass.dataflow.engine.edge import Edge
from stbass.dataflow.model.components import Component
from stbass.dataflow.status import Status
from stbass.errors import InvalidProcessError

__all__ = ["Group", "GroupListener", "GroupView", "Quiescence", "groups_of"]


@dataclass(frozen=True)
class Group:
    """Components that run on one event loop.

    Args:
        name: what it is called in the process.
        components: the components.
        edges: those that begin or end in it.
    """

    name: str
    components: tuple[Component, ...]
    edges: tuple[Edge, ...] = ()


@dataclass(frozen=True)
class Quiescence:
    """A group in which nothing happens until something comes from elsewhere.

    Args:
        round: the number of the step or run that it is in.
        forth: how many messages (batches, marks, ends) were sent over each edge that leaves, or came over each that
            arrives, by edge.
        back: the same of answers and of notes that nobody takes anything more, which go the other way.
        waiting: what each component that waits is waiting for, in words.
        patient: whether one of them may get what it waits for from the user's own tasks.
    """

    round: int
    forth: Mapping[str, int]
    back: Mapping[str, int]
    waiting: Sequence[str] = ()
    patient: bool = False


@dataclass(frozen=True)
class GroupView:
    """What can be seen of a component that runs elsewhere.

    Args:
        status: what it is doing.
        inputs: the values of its inputs.
        outputs: the values of its outputs.
        exports: the values of what it exports.
        steps: how many steps it has made.
    """

    status: Status
    inputs: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)
    exports: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 0


class GroupListener(Protocol):
    """Hears what happens in a group. Called on the event loop of the process."""

    def snapshot_done(self, group: str, n: int, parts: Mapping[str, bytes]) -> None:
        """The group's part of checkpoint ``n``."""

    def snapshot_failed(self, group: str, n: int, error: Exception) -> None:
        """The group cannot give its part of checkpoint ``n``."""

    def status_changed(self, group: str, component: str, status: Status) -> None:
        """A component has got another status."""

    def stop_requested(self, group: str) -> None:
        """A component has sent a ``StopEvent``."""

    def used(self, group: str, total: Usage) -> None:
        """The group has used so much up to now. What it said earlier may come later."""

    def quiet(self, group: str, state: Quiescence) -> None:
        """Nothing happens in the group until something comes from elsewhere."""

    def lost(self, group: str, error: Exception) -> None:
        """The group was lost. Calls that wait for it raise the same error."""


def groups_of(
    components: Iterable[Component], edges: Iterable[Edge], placement: Mapping[str, str] | None
) -> list[Group]:
    """Which components run together.

    Args:
        placement: the name of a group for each component; one that is not named is a group by itself.

    Raises:
        InvalidProcessError: there is no such component, or a name is no text.
    """
    components, edges = list(components), list(edges)
    placement = dict(placement or {})
    names = [one.name for one in components]
    texts = [
        f"placement: there is no component {name!r}; there are {', '.join(map(repr, names))}"
        for name in placement
        if name not in names
    ]
    known: Mapping[str, object] = placement
    texts += [
        f"placement: component {name!r} is placed in {group!r}; the name of a group is text"
        for name, group in known.items()
        if not isinstance(group, str) or not group
    ]
    if texts:
        raise InvalidProcessError("\n".join(["the process cannot be placed:", *texts]), findings=tuple(texts))
    members: dict[str, list[Component]] = {}
    for one in components:
        members.setdefault(placement.get(one.name, one.name), []).append(one)
    found = []
    for group, inside in members.items():
        here = {one.name for one in inside}
        found.append(
            Group(group, tuple(inside), tuple(edge for edge in edges if edge.source in here or edge.target in here))
        )
    return found
