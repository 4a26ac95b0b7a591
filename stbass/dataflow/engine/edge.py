"""Edges between components, and the inboxes in which values wait for a component."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from types import NoneType
from typing import Any, Protocol
from uuid import UUID

from stbass._channels.choice import Choice
from stbass._channels.transport import NOTHING, Arm
from stbass._channels.typespec import ChannelType
from stbass.channel import Chan
from stbass.dataflow.model.components import Component, field_types
from stbass.dataflow.model.connector import DEFAULT_MAXSIZE, Connector
from stbass.dataflow.model.events import Event, StopEvent
from stbass.errors import ChannelTypeError, CopyError, DataflowError

__all__ = [
    "ATOMS",
    "Edge",
    "EdgeUser",
    "Inbox",
    "LocalEdge",
    "OutEdge",
    "copy_of",
    "edges_of",
    "event_name",
    "is_fixed",
]

_TURN = 16
"""How many values one source sends before another that waits for room at the same input has its turn."""

ATOMS = frozenset({
    int, float, str, bytes, bool, NoneType, complex, Decimal, UUID, date, datetime, time, timedelta, range, type,
})  # fmt: skip
"""Values of these classes cannot be changed, so whoever receives one may have it itself."""


@dataclass(frozen=True)
class Edge:
    """From an output of one component to an input of another, or from a sender of events to a handler.

    Args:
        id: what it is known by in the process.
        source: name of the component that sends.
        output: its output; of an event ``event:`` and the class's full name.
        target: name of the component that receives.
        input: its input; the same as ``output`` for an event.
        maxsize: how many values may lie in it that nobody has taken yet.
        copy: whether the receiver gets a copy of a value that could be changed.
    """

    id: str
    source: str
    output: str
    target: str
    input: str
    maxsize: int = DEFAULT_MAXSIZE
    copy: bool = True

    @property
    def is_event(self) -> bool:
        """Whether events go over it."""
        return self.output.startswith("event:")


def event_name(event: type[Event]) -> str:
    """The name that stands for a class of events in the place of a field."""
    return f"event:{event.__module__}.{event.__qualname__}"


def edges_of(components: Iterable[Component], connectors: Iterable[Connector]) -> list[Edge]:
    """All edges of a process: one for each connector, and for each event from who sends it to who handles it."""
    components = list(components)
    made = [
        Edge(
            one.id,
            one.spec.source_component,
            one.spec.output,
            one.spec.target_component,
            one.spec.input,
            one.maxsize,
            one.copies,
        )
        for one in connectors
    ]
    for source in components:
        for event in source.io.output_events:
            if issubclass(event, StopEvent):
                continue  # the process itself hears of those
            name = event_name(event)
            made += [
                Edge(f"{source.name}.{name}..{target.name}", source.name, name, target.name, name)
                for target in components
                if any(issubclass(event, wanted) for wanted in target.io.input_events)
            ]
    return made


# Values ------------------------------------------------------------------------------------------


def is_fixed(value: Any) -> bool:
    """Whether nobody can change the value: then it need not be copied."""
    kind = type(value)
    return kind in ATOMS or (kind is tuple and all(map(is_fixed, value)))


def copy_of(value: Any, component: str, output: str) -> Any:
    """The value as it is now, whatever happens to it later.

    Raises:
        CopyError: it cannot be copied; says what to do.
    """
    if is_fixed(value):
        return value
    try:
        return copy.deepcopy(value)
    except Exception as error:
        raise CopyError(
            f"component {component!r}, output {output!r}: a {type(value).__qualname__} cannot be copied for who "
            f"receives it ({type(error).__name__}: {error}). Send something that can be, or hand it over itself: "
            f"AsyncioConnector(spec, copy=False)"
        ) from error


def type_of_field(component: Component, name: str) -> ChannelType | None:
    """The type of a field; None if it carries anything."""
    spec = field_types(component).get(name, Any)
    return None if spec is Any or spec is object else ChannelType(spec, f"{component.name}.{name}")


def fitted(checker: ChannelType, value: Any, component: str, side: str, field: str) -> Any:
    """The value as the field carries it.

    Raises:
        ChannelTypeError: it does not fit; names component and field.
    """
    try:
        return checker.fit(value)
    except ChannelTypeError as error:
        reason = str(error).partition(f", got {error.actual}")[2]
        raise ChannelTypeError(
            f"component {component!r}, {side} {field!r}: expected {error.expected}, got {error.actual}{reason}",
            expected=error.expected,
            actual=error.actual,
            channel_name=error.channel_name,
        ) from error.__cause__


# Where values lie --------------------------------------------------------------------------------


class EdgeUser(Protocol):
    """The part of a runner that its edges and inboxes use."""

    name: str
    waker: Choice

    def edge_gone(self, edge: OutEdge) -> None:
        """The receiver of an edge on which it sends has ended."""

    def fail(self, error: BaseException) -> None:
        """Something that it depends on has failed."""


class Inbox:
    """The values that wait for one input of a component, or its events: one channel for all senders.

    Args:
        owner: who takes them.
        name: the input; empty for events.
        capacity: how many values may lie in the channel.
        checker: what the input carries; None: anything.
    """

    __slots__ = ("arm", "backlog", "chan", "checker", "held", "line", "link", "name", "open", "overflow", "own",
                 "owner", "populated", "sources", "take")  # fmt: skip

    def __init__(self, owner: EdgeUser, name: str, capacity: int, checker: ChannelType | None) -> None:
        self.owner = owner
        self.name = name
        self.checker = checker
        self.chan: Chan[Any] = Chan(object, name=f"{owner.name}.{name or 'events'}", capacity=capacity)
        self.link = self.chan.link
        self.take: Callable[[], Any] = self.link.try_take
        self.arm = Arm(owner.waker, 0, self.link, reader=True)
        # Initial values, and what a checkpoint brought: they come before what lies in the channel.
        self.backlog: deque[Any] = deque()
        # What came from elsewhere while a checkpoint was waiting for it, and there was no room.
        self.overflow: deque[Any] = deque()
        # Events to oneself: they come before all others.
        self.own: deque[Any] = deque()
        self.held: Any = NOTHING
        """The value for the next step, taken already."""
        self.open = 0
        """How many sources can still send."""
        self.sources: list[Any] = []
        self.line: list[Arm] = []
        """Those who wait for room, in the order in which they came."""
        self.populated = False
        """Whether a handler of events sets it, too."""

    def next(self) -> Any:
        """The next value, or ``NOTHING``.

        Raises:
            ChannelClosedError: there is none, and none will come over the channel.
        """
        if self.own:
            return self.own.popleft()
        if self.backlog:
            return self.backlog.popleft()
        if self.overflow:
            value = self.overflow.popleft() if not self.link.accepted() else self.link.try_take()
            if not self.open and not self.overflow:
                self.chan.close()
            return value
        return self.link.try_take()

    def source_closed(self) -> None:
        """One of its sources has ended."""
        self.open -= 1
        if not self.open and not self.overflow:
            self.chan.close()

    @property
    def is_dry(self) -> bool:
        """Whether it is empty, and nothing will come over the channel."""
        return self.link.closed and self.is_empty

    @property
    def is_empty(self) -> bool:
        """Whether nothing is there to take."""
        return not (self.own or self.backlog or self.overflow or self.link.accepted())

    def join(self, arm: Arm) -> None:
        """Wait for room, after those who wait already."""
        self.line.append(arm)
        self.link.attach(arm)

    def leave(self, arm: Arm) -> None:
        """Wait no more: the next in the line looks whether there is room."""
        self.line.remove(arm)
        self.link.detach(arm)
        for other in self.line:
            other.notify()

    def contents(self) -> list[Any]:
        """All values on their way to the component, taken or not, first to last."""
        held = [] if self.held is NOTHING else [self.held]
        return [*held, *self.own, *self.backlog, *self.link.accepted(), *self.overflow]


class OutEdge(ABC):
    """An edge, as the runner that sends on it sees it.

    Args:
        spec: the edge.
        source: who sends.
        checker: what the receiver takes, if that is known here.
    """

    __slots__ = ("checker", "copy", "exact", "gone", "id", "source", "spec")

    offer: Callable[[Any], bool]
    """Put a value in if there is room and nobody waits for it. ChannelClosedError: the receiver has ended."""

    def __init__(self, spec: Edge, source: EdgeUser, checker: ChannelType | None = None) -> None:
        self.spec = spec
        self.id = spec.id
        self.copy = spec.copy
        self.source = source
        self.checker = checker
        self.exact = None if checker is None else checker.exact
        self.gone = False
        """Whether the receiver has ended."""

    def fit(self, value: Any) -> Any:
        """The value as the receiver takes it."""
        assert self.checker is not None
        return fitted(self.checker, value, self.spec.target, "input", self.spec.input)

    @abstractmethod
    def close(self) -> None:
        """Its source has ended."""


class LocalEdge(OutEdge):
    """An edge to a component on the same event loop."""

    __slots__ = ("_credit", "arm", "inbox", "link", "offer", "own", "push")

    def __init__(self, spec: Edge, inbox: Inbox, source: EdgeUser) -> None:
        super().__init__(spec, source, inbox.checker)
        self.inbox = inbox
        self.link = inbox.link
        # Events to oneself wait for oneself: in a channel that can be full, for ever.
        self.own = spec.is_event and source is inbox.owner
        self.push: Callable[[Any], bool] = self._keep if self.own else inbox.link.try_offer
        """Put a value in if there is room, whoever waits for that."""
        self.offer = self.push
        self._credit = 0
        self.arm = Arm(source.waker, 0, inbox.link, reader=False)

    def lose(self) -> None:
        """The receiver has ended."""
        self.source.edge_gone(self)

    def close(self) -> None:
        if not self.gone and not self.own:
            self.inbox.source_closed()

    def shared(self) -> None:
        """Other edges lead to the same input: from now on, do not overtake those that wait."""
        if not self.own:
            self.offer = self._offer_in_turn

    def served(self) -> None:
        """It was its turn. It may send some more values: a change of turns costs more than a value."""
        self._credit = _TURN

    def _offer_in_turn(self, value: Any) -> bool:
        if self._credit:
            self._credit -= 1
        elif self.inbox.line:
            return False
        return self.push(value)

    def _keep(self, value: Any) -> bool:
        self.inbox.own.append(value)
        return True


def by_name(components: Iterable[Component]) -> Mapping[str, Component]:
    """Components by name.

    Raises:
        DataflowError: two have the same.
    """
    found: dict[str, Component] = {}
    for one in components:
        if found.setdefault(one.name, one) is not one:
            raise DataflowError(f"there are two components {one.name!r}")
    return found
