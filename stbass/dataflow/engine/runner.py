"""One component as a core process: it takes, steps and sends, until no more comes."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Container, Iterable
from time import monotonic
from typing import Any, Protocol

from stbass._channels.cancellation import is_being_cancelled
from stbass._channels.choice import Choice
from stbass._channels.transport import NOTHING
from stbass._process.context import Composable, ProcessContext
from stbass._process.interrupts import called_here
from stbass._values.checks import awaited
from stbass.dataflow.engine.edge import ATOMS, Inbox, LocalEdge, OutEdge, copy_of, event_name, fitted, type_of_field
from stbass.dataflow.model.components import Component, wiring_of
from stbass.dataflow.model.events import Event, StopEvent
from stbass.dataflow.status import Status
from stbass.errors import ChannelClosedError, IOClosedError

__all__ = ["Runner", "RunnerHost", "RunnerSnapshot", "Stepping"]

_TURN, _LONGEST_TURN = 64, 0.01
"""How many steps a component makes at most, and for how many seconds it begins sync ones, without letting others have
the event loop."""


class RunnerHost(Protocol):
    """The part of a host that its runners use."""

    active: int
    """How many components run, or are about to."""
    round_over: bool
    """Whether those that still wait for something are skipped in this round."""
    stopping: bool
    """Whether every component ends after the step that it is in."""

    def look_whether_quiet(self) -> None:
        """Nobody runs."""

    def status_changed(self, runner: Runner, status: Status) -> None:
        """A component has got another status."""

    def runner_ended(self, runner: Runner, status: Status) -> None:
        """A component has ended."""

    def runner_left(self) -> None:
        """A component runs no more, or not in this round."""

    def stop_requested(self) -> None:
        """A component wants the process to stop."""


class RunnerSnapshot(Protocol):
    """The part of a snapshot that a runner uses, if the snapshot waits for the end of its step."""

    async def take_state(self, runner: Runner) -> None:
        """The step has ended."""

    def populated(self, runner: Runner, field: str, value: Any) -> None:
        """A handler has set an input."""


class Stepping(Composable):
    """A component, as the process that the engine runs."""

    def __init__(self, name: str, work: Callable[[], Awaitable[Any]]) -> None:
        self._name = name
        self._work = work

    def _perform(self, ctx: ProcessContext) -> Awaitable[Any]:
        return self._work()


class Waker(Choice):
    """Wakes the runner, whatever it waits for; and lets the host know at once that it runs again."""

    __slots__ = ("host",)

    passive = True

    def __init__(self, host: RunnerHost) -> None:
        super().__init__()
        self.host = host

    def wake(self) -> None:
        waiter = self.waiter
        if waiter is not None and not waiter.done():
            self.host.active += 1
            waiter.set_result(None)


class Runner:
    """Runs one component.

    A component is between two steps, or in the user's code (``in_user``). Between steps everything that belongs to it
    lies in its inboxes, in ``pending`` and in the component, whatever the runner waits for: so a snapshot can be
    taken from outside. What has been set and is not sent yet lies in ``pending`` whenever the event loop may run
    something else.
    """

    def __init__(self, component: Component, host: RunnerHost) -> None:
        self.component = component
        self.wiring = wiring_of(component)
        self.name = component.name
        self.host = host
        self.waker: Choice = Waker(host)
        self.inboxes: tuple[Inbox, ...] = ()
        self.events: Inbox | None = None
        self.edges: dict[str, list[OutEdge]] = {}
        """The edges on which it sends, by output or by the name of an event."""
        self.pending: list[tuple[OutEdge, Any]] = []
        """Values that have been set and are not sent yet, because there is no room."""
        self.live = 0
        """How many of its edges still have somebody who takes values."""
        self.in_user = self.ended = self.is_waiting = False
        self.steps = 0
        self.interrupt = False
        """Whether :meth:`_attend` has something to deal with before the next step."""
        self.snapshot: RunnerSnapshot | None = None
        """The snapshot that waits for the end of the step."""
        self.gate: asyncio.Future[None] | None = None
        """While set, the user's code for a checkpoint runs, and no step may begin."""
        self._unwanted = False
        self._trouble: BaseException | None = None
        self._checkers = {
            name: checker for name in component.io.outputs if (checker := type_of_field(component, name)) is not None
        }
        cls = type(component)
        self._step = cls.step.__get__(component)
        self._is_async = inspect.iscoroutinefunction(cls.step)
        self._steps_at_all = cls.step is not Component.step
        self._own_run = cls.run is not Component.run

    # Life ---------------------------------------------------------------------------------------

    def attach(self) -> None:
        """Begin to run the component."""
        self.wiring.runner = self
        if self.wiring.closing:
            self.interrupt = True  # it was cancelled before there was anybody to tell
        if self._own_run:
            # What the user's own `run` calls has to take values before the step and to send them after it.
            self.component.__dict__["step"] = self.one_step

    def detach(self) -> None:
        """Stop running the component; it keeps its status."""
        self.wiring.runner = None
        self.wiring.steps_before = self.steps
        self.component.__dict__.pop("step", None)

    async def work(self) -> None:
        """Run the component to its end. The engine calls this."""
        self.wiring.status = Status.RUNNING
        try:
            if self._own_run:
                await self._run_own()
            else:
                await self._loop(None)
        except BaseException as error:
            self._failed(error)
            raise
        finally:
            self.host.runner_left()

    async def work_once(self) -> None:
        """Make at most one step. The engine calls this."""
        self.wiring.status = Status.RUNNING
        try:
            await self._loop(1)
        except BaseException as error:
            self._failed(error)
            raise
        finally:
            if not self.ended:
                self.wiring.status = Status.WAITING
            self.host.runner_left()

    async def run(self) -> None:
        """What ``Component.run`` does, called by a subclass's own ``run``."""
        while not self.ended and not self.wiring.closing:
            try:
                await self.one_step()
            except IOClosedError:
                if self._is_wanted():
                    raise  # it is not ours
                return

    def _is_wanted(self) -> bool:
        return not (self.ended or self.host.stopping)

    async def _run_own(self) -> None:
        self.in_user = True
        try:
            await self.component.run()
        except IOClosedError:
            if self._is_wanted():
                raise
        finally:
            self.in_user = False
        if self._is_wanted():
            await self._settle()
            self.end(Status.COMPLETED)
        elif self.snapshot is not None:
            # Begun while it did something after its last step.
            await self._settle_snapshot()

    async def one_step(self) -> None:
        """One step of a component that has a ``run`` of its own.

        Raises:
            IOClosedError: no more comes, or nobody takes anything any more.
        """
        self.in_user = False
        before = self.steps
        try:
            if self.snapshot is not None:
                await self._settle_snapshot()
            if self.host.stopping:
                self.interrupt = True  # it may have been seen to after the step before
            if not self.ended:
                await self._loop(1)
            if self.steps == before and (self.ended or self.host.stopping):
                raise IOClosedError(f"component {self.name!r} has ended: no more comes, or nobody takes what it sends")
        finally:
            self.in_user = True

    def _failed(self, error: BaseException) -> None:
        # One that nobody asked for is a failure: of something that the user's code waited for.
        is_cancel = isinstance(error, asyncio.CancelledError) and is_being_cancelled()
        if self.ended and is_cancel:
            return
        if not is_cancel and error is not self._trouble:
            error.add_note(f"component {self.name!r}, step {self.steps}")
        if self.ended:
            # In what its own `run` did after the last step.
            self.host.status_changed(self, Status.FAILED)
        else:
            self.end(Status.STOPPED if is_cancel else Status.FAILED)

    def end(self, status: Status) -> None:
        """End the component: it sends and receives nothing more."""
        if self.ended:
            return
        self.ended = True
        self.wiring.closing = True
        self.wiring.status = status
        self.pending.clear()
        for edges in self.edges.values():
            for edge in edges:
                edge.close()
        for inbox in self.all_inboxes:
            inbox.chan.close()
            for source in inbox.sources:
                source.lose()
        self.host.runner_ended(self, status)

    # Stepping -----------------------------------------------------------------------------------

    async def _loop(self, budget: int | None) -> None:
        """Step until no more comes, or ``budget`` steps are made, or the round is over."""
        inboxes, step, is_async, wiring = self.inboxes, self._step, self._is_async, self.wiring
        values, out, host, events = self.component.__dict__, wiring.out, self.host, self.events
        is_source = not inboxes and events is None
        if self.pending or out or wiring.events:
            await self._settle()
            if self.pending:
                return  # the round is over
        if self.interrupt and await self._attend():
            return
        turn, until = _TURN, monotonic() + _LONGEST_TURN
        while True:
            if self.interrupt and await self._attend():
                return
            if events is not None:
                event = self._next_of(events)
                if event is not NOTHING:
                    await self._handle(event)
                    if self.pending:
                        return
                    if budget is not None and not inboxes:
                        if self.interrupt:
                            await self._attend()
                        return
                    continue
            missing: Inbox | None = None
            for inbox in inboxes:
                if inbox.held is NOTHING:
                    if inbox.backlog or inbox.overflow:
                        inbox.held = inbox.next()
                    else:
                        try:
                            value = inbox.take()
                        except ChannelClosedError:
                            value = NOTHING
                        if value is NOTHING:
                            missing = inbox
                        else:
                            inbox.held = value
            if missing is not None or not (inboxes or is_source):
                if self._is_over():
                    self.end(Status.COMPLETED)
                    return
                turn = _TURN
                await self._wait_for_input()
                if host.round_over and budget is not None:
                    return
                continue
            for inbox in inboxes:
                values[inbox.name] = inbox.held
                inbox.held = NOTHING
            self.steps += 1
            self.in_user = True
            if is_async:
                made = await step()
            else:
                made = called_here(step)
                if monotonic() > until:
                    turn = 1
            if made is not None:
                await awaited(made, "it")
            self.in_user = False
            if self.snapshot is not None or wiring.events:
                await self._settle()
                if self.pending:
                    return
            elif out:
                self._send_outputs()
                if self.pending:
                    turn = _TURN
                    if not await self._drain():
                        return
            if budget is not None:
                if self.interrupt:
                    await self._attend()
                return
            turn -= 1
            if not turn:
                await asyncio.sleep(0)
                turn, until = _TURN, monotonic() + _LONGEST_TURN

    def _next_of(self, inbox: Inbox) -> Any:
        try:
            return inbox.next()
        except ChannelClosedError:
            return NOTHING

    async def _handle(self, event: Event) -> None:
        """Give an event to its handler, then make a step if the component has no inputs to wait for."""
        component = self.component
        handlers = self.wiring.handlers
        found = next((handlers[cls] for cls in type(event).__mro__ if cls in handlers), None)
        self.in_user = True
        if found is not None:
            name, handled = found
            populated = self.wiring.populated
            populated.clear()
            made = await awaited(called_here(getattr(component, name), event), f"the handler {name!r}")
            for one in made if isinstance(made, (list, tuple)) else (made,):
                if isinstance(one, Event):
                    component.io.queue_event(one)
            for field in handled.populates_fields:
                if field in populated:
                    self._populate(field, populated[field])
        if not self.inboxes and self._steps_at_all:
            self.steps += 1
            await awaited(called_here(self._step), "it")
        self.in_user = False
        await self._settle()

    def _populate(self, field: str, value: Any) -> None:
        for inbox in self.inboxes:
            if inbox.name == field:
                inbox.backlog.append(value)
                if self.snapshot is not None:
                    self.snapshot.populated(self, field, value)

    def _is_over(self) -> bool:
        """Whether there will never be another step: an input has ended, or there are no events left to come."""
        no_events = self.events is None or self.events.is_dry
        if not self.inboxes:
            return no_events
        if not any(one.held is NOTHING and one.is_dry and (no_events or not one.populated) for one in self.inboxes):
            return False
        # What has been told already is heard.
        return self.events is None or self.events.is_empty

    async def _settle_snapshot(self) -> None:
        snapshot, self.snapshot = self.snapshot, None
        if snapshot is not None:
            await snapshot.take_state(self)

    # Sending ------------------------------------------------------------------------------------

    def _send_outputs(self) -> None:
        """Send what was set; what there is no room for stays in ``pending``."""
        out = self.wiring.out
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
                    item = copy_of(item, self.name, name)
                self._send(edge, item)
        self.wiring.last.update(out)
        out.clear()

    def _send(self, edge: OutEdge, item: Any) -> None:
        if self.snapshot is not None:
            self.pending.append((edge, item))  # a snapshot looks at it first
            return
        try:
            if not edge.offer(item):
                self.pending.append((edge, item))
        except ChannelClosedError:
            self.edge_gone(edge)

    def _send_events(self) -> bool:
        """Send the events that were queued. True if one of them stops the process."""
        events, self.wiring.events = self.wiring.events, []
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
                            item = copy_of(event, self.name, event_name(cls))
                        self.pending.append((edge, item))
                    break
        return stops

    async def _settle(self) -> None:
        """Do all that follows a step: send outputs and events, and serve a snapshot that waits for this moment."""
        self._send_outputs()
        stops = bool(self.wiring.events) and self._send_events()
        if self.snapshot is not None:
            await self._settle_snapshot()
        if self.pending:
            await self._drain()
        if stops:
            self.host.stop_requested()

    async def _drain(self) -> bool:
        """Send what is pending. False if some of it stays, because the component ends or the round is over."""
        # Whoever waits for room keeps its place in the line until it has got some: so those who share an input take
        # turns, however the event loop wakes them.
        lines: dict[str, LocalEdge] = {}
        try:
            while self._send_pending(lines):
                if self.interrupt and (self._trouble or self.host.stopping or self.wiring.cancelled):
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
        """Send what there is room for. True if something is left."""
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
        """Wait until something happens at an attached link, or somebody pokes."""
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
        """Fail the component, because something that it depends on has failed."""
        self._trouble = self._trouble or error
        self.poke()

    def edge_gone(self, edge: OutEdge) -> None:
        """The receiver of an edge has ended."""
        if edge.gone:
            return
        edge.gone = True
        self.live -= 1
        if not self.live:
            self._unwanted = True
        self.poke()

    async def _wait_for_input(self) -> None:
        if self.interrupt:
            return
        arms = [inbox.arm for inbox in self.inboxes if inbox.held is NOTHING]
        if self.events is not None:
            arms.append(self.events.arm)
        for arm in arms:
            arm.link.attach(arm)
        try:
            await self._sleep()
        finally:
            for arm in arms:
                arm.link.detach(arm)

    @property
    def all_inboxes(self) -> list[Inbox]:
        """The inboxes of its inputs, and of its events."""
        return [*self.inboxes] if self.events is None else [*self.inboxes, self.events]

    def end_if_over(self) -> bool:
        """End if there will never be another step; true if it has ended. Called while it does not run."""
        wiring = self.wiring
        if self.ended or self.pending or wiring.out or wiring.events:
            return False
        if wiring.closing or self._unwanted or (self._takes and self._is_over()):
            self.end(Status.STOPPED if wiring.cancelled else Status.COMPLETED)
        return self.ended

    @property
    def _takes(self) -> bool:
        return bool(self.inboxes) or self.events is not None

    @property
    def waits_for(self) -> str:
        """What it waits for, in words."""
        if self.pending:
            edges = ", ".join(dict.fromkeys(edge.spec.target + "." + edge.spec.input for edge, _ in self.pending))
            return f"{self.name!r} waits for room at {edges}"
        fields = ", ".join(inbox.name for inbox in self.inboxes if inbox.held is NOTHING)
        return f"{self.name!r} waits for {fields or 'events'}"

    async def _attend(self) -> bool:
        """Deal with whatever set ``interrupt``. True if the component has ended."""
        self.interrupt = False
        wiring = self.wiring
        if self.gate is not None:
            await asyncio.shield(self.gate)
        if self._trouble is not None:
            raise self._trouble
        if wiring.cancelled:
            self.end(Status.STOPPED)
            return True
        if self.host.stopping:
            # With everything that it holds: a job that is gone on with needs it.
            self.host.status_changed(self, Status.STOPPED)
            return True
        if wiring.out or wiring.events:
            await self._settle()
        if wiring.closing or self._unwanted:
            if self.pending:
                return False
            self.end(Status.COMPLETED)
        return self.ended
