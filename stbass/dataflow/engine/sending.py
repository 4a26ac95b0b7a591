"""What a component sends: how its outputs and events get to where they go, and what waits for room."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Container, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from stbass._channels.choice import Choice
from stbass.dataflow.engine.boundary import OutletEdge
from stbass.dataflow.engine.edge import ATOMS, LocalEdge, event_name, fitted, snapshot_of, type_of_field
from stbass.dataflow.model.components import Component
from stbass.dataflow.model.events import StopEvent
from stbass.errors import ChannelClosedError

if TYPE_CHECKING:
    from stbass.dataflow.engine.host import Host
    from stbass.dataflow.engine.snapshot import Cut

__all__ = ["OutEdge", "Sender"]

OutEdge: TypeAlias = LocalEdge | OutletEdge


class Waker(Choice):
    """Wakes the runner, whatever it waits for; and lets the host know at once that it runs again."""

    __slots__ = ("host", "runner")

    passive = True

    def __init__(self, runner: Sender, host: Host) -> None:
        super().__init__()
        self.runner = runner
        self.host = host

    def wake(self) -> None:
        waiter = self.waiter
        if waiter is not None and not waiter.done():
            self.host.active += 1
            waiter.set_result(None)


class Sender(ABC):
    """The half of a :class:`~stbass.dataflow.engine.runner.Runner` that sends, and that waits.

    What has been set and is not sent yet lies in ``pending`` whenever the event loop may run something else.
    """

    def __init__(self, component: Component, host: Host) -> None:
        self.component = component
        self.name = component.name
        self.host = host
        self.waker = Waker(self, host)
        self.edges: dict[str, list[OutEdge]] = {}
        """Those that leave, by output or by the name of an event."""
        self.pending: list[tuple[OutEdge, Any]] = []
        """What has been set and is not sent yet, since there is no room."""
        self.live = 0
        """How many of its edges still have somebody who takes values."""
        self.ended = self.is_waiting = False
        self.interrupt = False
        """Whether there is something to see to before the next step: see :meth:`_attend`."""
        self.cut: Cut | None = None
        """The checkpoint that waits for the end of the step."""
        self._unwanted = False
        self._trouble: BaseException | None = None
        self._checkers = {
            name: checker for name in component.io.outputs if (checker := type_of_field(component, name)) is not None
        }

    @abstractmethod
    async def _settle_cut(self) -> None:
        """Give a checkpoint that waits for the end of the step what belongs to it."""

    @abstractmethod
    async def _attend(self) -> bool:
        """See to whatever interrupts. True: the component has ended."""

    # Sending ------------------------------------------------------------------------------------

    def _send_outputs(self) -> None:
        """Send what was set; what there is no room for stays in ``pending``."""
        component = self.component
        out = component._stbass_out
        edges_of, checkers = self.edges, self._checkers
        for name, value in out.items():
            if name in checkers:
                checker = checkers[name]
                if type(value) is not checker.exact:
                    value = out[name] = fitted(checker, value, self.name, "output", name)
            kind = type(value)
            for edge in edges_of.get(name, ()):
                if edge.gone:
                    continue
                item = value if kind is edge.exact or edge.checker is None else edge.fit(value)
                if edge.copy and kind not in ATOMS:
                    item = snapshot_of(item, self.name, name)
                self._send(edge, item)
        component._stbass_last.update(out)
        out.clear()

    def _send(self, edge: OutEdge, item: Any) -> None:
        if self.cut is not None:
            self.pending.append((edge, item))  # a checkpoint looks at it first
            return
        try:
            if not edge.offer(item):
                self.pending.append((edge, item))
        except ChannelClosedError:
            self.edge_gone(edge)

    def _send_events(self) -> bool:
        """Send the events that were queued. Whether one of them stops the process."""
        component = self.component
        events, component._stbass_events = component._stbass_events, []
        stops = False
        for event in events:
            if isinstance(event, StopEvent):
                stops = True
                continue
            for cls in type(event).__mro__:
                if edges := self.edges.get(event_name(cls)):
                    for edge in edges:
                        item = event
                        if type(event.data) not in ATOMS:
                            item = snapshot_of(event, self.name, event_name(cls))
                        self.pending.append((edge, item))
                    break
        return stops

    async def _settle(self) -> None:
        """All that follows a step: outputs and events, and a checkpoint that waits for it."""
        self._send_outputs()
        stops = bool(self.component._stbass_events) and self._send_events()
        if self.cut is not None:
            await self._settle_cut()
        if self.pending:
            await self._drain()
        if stops:
            self.host.stop_requested()

    async def _drain(self) -> bool:
        """Send what is pending. False: it stays, since the component ends or the round is over."""
        # Whoever waits for room keeps its place in the line until it has got some: so those who share an input take
        # turns, however the event loop wakes them.
        lines: dict[str, LocalEdge] = {}
        try:
            while self._send_pending(lines):
                if self.interrupt and (self._trouble or self.host.stopping or self.component._stbass_cancelled):
                    if await self._attend():
                        return False
                blocked = {edge.id: edge for edge, _ in self.pending if isinstance(edge, LocalEdge)}
                self._leave(lines, lines.keys() - blocked.keys())
                for key, edge in blocked.items():
                    if key not in lines:
                        lines[key] = edge
                        edge.inbox.join(edge.arm)
                await self._sleep()
                if self.host.round_over:
                    return False
        finally:
            self._leave(lines, lines.keys())
        return True

    def _leave(self, lines: dict[str, LocalEdge], keys: Iterable[str]) -> None:
        for key in list(keys):
            edge = lines.pop(key)
            edge.inbox.leave(edge.arm)

    def _send_pending(self, lines: Container[str]) -> bool:
        """Send what there is room for. Whether something is left."""
        blocked: set[str] = set()
        rest: list[tuple[OutEdge, Any]] = []
        waiting, self.pending = self.pending, rest
        for edge, item in waiting:
            if edge.gone:
                continue
            if edge.id not in blocked:
                try:
                    if not isinstance(edge, LocalEdge) or edge.id not in lines:
                        if edge.offer(item):
                            continue
                    elif edge.push(item):
                        edge.served()
                        continue
                except ChannelClosedError:
                    self.edge_gone(edge)
                    continue
                blocked.add(edge.id)
            rest.append((edge, item))
        return bool(rest)

    # Waiting ------------------------------------------------------------------------------------

    async def _sleep(self) -> None:
        """Until something happens at an attached link, or somebody pokes."""
        host, waker = self.host, self.waker
        waiter = waker.waiter = asyncio.get_running_loop().create_future()
        self.is_waiting = True
        host.active -= 1
        if not host.active:
            host.look_whether_quiet()
        try:
            await waiter
        finally:
            self.is_waiting = False
            waker.waiter = None
            if waiter.cancelled() or not waiter.done():
                host.active += 1

    def poke(self) -> None:
        """Something has happened outside of a step: an event was queued, the component was closed or cancelled."""
        self.interrupt = True
        self.waker.wake()

    def fail(self, error: BaseException) -> None:
        """Something that the component depends on has failed: so does it."""
        self._trouble = self._trouble or error
        self.poke()

    def edge_gone(self, edge: OutEdge) -> None:
        """Nobody takes anything from an edge any more."""
        if edge.gone:
            return
        edge.gone = True
        self.live -= 1
        if not self.live:
            self._unwanted = True
        self.poke()
