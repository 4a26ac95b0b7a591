"""One component as a core process: it takes, steps and sends, until no more comes."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from stbass._channels.transport import NOTHING
from stbass._process.composable import Composable
from stbass._process.context import ProcessContext
from stbass.dataflow.engine.edge import Inbox
from stbass.dataflow.engine.sending import Sender
from stbass.dataflow.model.components import Component
from stbass.dataflow.model.events import Event
from stbass.dataflow.model.status import Status
from stbass.errors import ChannelClosedError, IOClosedError

if TYPE_CHECKING:
    from stbass.dataflow.engine.host import Host

__all__ = ["Runner", "Stepping"]

_TURN = 64
"""How many steps a component makes at most without letting others have the event loop."""


class Stepping(Composable):
    """A component, as the process that the engine runs."""

    def __init__(self, runner: Runner, work: Callable[[], Awaitable[Any]]) -> None:
        self._name = runner.name
        self._work = work

    def _perform(self, ctx: ProcessContext) -> Awaitable[Any]:
        return self._work()


class Runner(Sender):
    """Runs one component.

    A component is between two steps, or in the user's code (``in_user``). Between steps everything that belongs to it
    lies in its inboxes, in ``pending`` and in the component, whatever the runner waits for: so a checkpoint can be
    taken from outside.
    """

    def __init__(self, component: Component, host: Host) -> None:
        super().__init__(component, host)
        self.inboxes: tuple[Inbox, ...] = ()
        self.events: Inbox | None = None
        self.in_user = self.began = False
        self.steps = 0
        self.gate: asyncio.Future[None] | None = None
        """While set, the user's code for a checkpoint runs, and no step may begin."""
        cls = type(component)
        self._step = cls.step.__get__(component)
        self._is_async = inspect.iscoroutinefunction(cls.step)
        self._steps_at_all = cls.step is not Component.step
        self._own_run = cls.run is not Component.run

    # Life ---------------------------------------------------------------------------------------

    def attach(self) -> None:
        """The component is ours from now on."""
        self.component._stbass_runner = self
        if self.component._stbass_closing:
            self.interrupt = True  # it was cancelled before there was anybody to tell
        if self._own_run:
            # What the user's own `run` calls has to take values before the step and to send them after it.
            self.component.__dict__["step"] = self.one_step

    def detach(self) -> None:
        """The component is nobody's any more; it keeps its status."""
        self.component._stbass_runner = None
        self.component._stbass_steps = self.steps
        self.component.__dict__.pop("step", None)

    async def work(self) -> None:
        """Run to the end; what the engine calls."""
        self._begin()
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
        """One step at most; what the engine calls."""
        self._begin()
        try:
            await self._loop(1)
        except BaseException as error:
            self._failed(error)
            raise
        finally:
            self.host.runner_left()

    def _begin(self) -> None:
        self.began = True
        self.component._stbass_status = Status.RUNNING

    async def run(self) -> None:
        """What ``Component.run`` does, called by a subclass's own ``run``."""
        while not self.ended and not self.component._stbass_closing:
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
        elif self.cut is not None:
            # Begun while it did something after its last step.
            await self._settle_cut()

    async def one_step(self) -> None:
        """One step of a component that has a ``run`` of its own.

        Raises:
            IOClosedError: no more comes, or nobody takes anything any more.
        """
        self.in_user = False
        before = self.steps
        try:
            if self.cut is not None:
                await self._settle_cut()
            if self.host.stopping:
                self.interrupt = True  # it may have been seen to after the step before
            if not self.ended:
                await self._loop(1)
            if self.steps == before and (self.ended or self.host.stopping):
                raise IOClosedError(f"component {self.name!r} has ended: no more comes, or nobody takes what it sends")
        finally:
            self.in_user = True

    def _failed(self, error: BaseException) -> None:
        task = asyncio.current_task()
        # One that nobody asked for is a failure: of something that the user's code waited for.
        is_cancel = isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0
        if self.ended and is_cancel:
            return
        if not is_cancel and error is not self._trouble:
            error.add_note(f"component {self.name!r}, step {self.steps}")
        if self.ended:
            # In what its own `run` did after the last step.
            self.component._stbass_status = Status.FAILED
            self.host.listener.status_changed(self.name, Status.FAILED)
        else:
            self.end(Status.STOPPED if is_cancel else Status.FAILED)

    def end(self, status: Status) -> None:
        """It ends: nothing more comes from it, and nothing more is taken."""
        if self.ended:
            return
        self.ended = True
        component = self.component
        component._stbass_closing = True
        component._stbass_status = status
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
        component, inboxes, step, is_async = self.component, self.inboxes, self._step, self._is_async
        values, out, host, events = component.__dict__, component._stbass_out, self.host, self.events
        is_source = not inboxes and events is None
        if self.pending or out or component._stbass_events:
            await self._settle()
            if self.pending:
                return  # the round is over
        if self.interrupt and await self._attend():
            return
        turn = _TURN
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
                await step()
            else:
                made = step()
                if made is not None and inspect.isawaitable(made):
                    await made
            self.in_user = False
            if self.cut is not None or component._stbass_events:
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
                turn = _TURN
                await asyncio.sleep(0)

    def _next_of(self, inbox: Inbox) -> Any:
        try:
            return inbox.next()
        except ChannelClosedError:
            return NOTHING

    async def _handle(self, event: Event) -> None:
        """Give an event to its handler, then step if there is nothing else that a step would wait for."""
        component = self.component
        found = next(
            (component._stbass_handlers[cls] for cls in type(event).__mro__ if cls in component._stbass_handlers), None
        )
        self.in_user = True
        if found is not None:
            name, handled = found
            made = getattr(component, name)(event)
            if inspect.isawaitable(made):
                await made
            for field in handled.populates_fields:
                self._populate(field, getattr(component, field))
        if not self.inboxes and self._steps_at_all:
            self.steps += 1
            stepped: Any = self._step()
            if inspect.isawaitable(stepped):
                await stepped
        self.in_user = False
        await self._settle()

    def _populate(self, field: str, value: Any) -> None:
        for inbox in self.inboxes:
            if inbox.name == field:
                inbox.backlog.append(value)
                if self.cut is not None:
                    self.cut.populated(self, field, value)

    def _is_over(self) -> bool:
        """Whether there will never be another step: an input has ended, or there are no events left to come."""
        no_events = self.events is None or self.events.is_dry
        if not self.inboxes:
            return no_events
        if not any(one.held is NOTHING and one.is_dry and (no_events or not one.populated) for one in self.inboxes):
            return False
        # What has been told already is heard.
        return self.events is None or self.events.is_empty

    async def _settle_cut(self) -> None:
        cut, self.cut = self.cut, None
        if cut is not None:
            await cut.take_state(self)

    # Waiting ------------------------------------------------------------------------------------

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
        """Those of its inputs, and of its events."""
        return [*self.inboxes] if self.events is None else [*self.inboxes, self.events]

    def end_if_over(self) -> bool:
        """End if there will never be another step. Whether it did; called while it does not run."""
        component = self.component
        if self.ended or self.pending or component._stbass_out or component._stbass_events:
            return False
        if component._stbass_closing or self._unwanted or (self._takes and self._is_over()):
            self.end(Status.STOPPED if component._stbass_cancelled else Status.COMPLETED)
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
        """See to whatever interrupts. True: the component has ended."""
        self.interrupt = False
        component = self.component
        if self.gate is not None:
            await asyncio.shield(self.gate)
        if self._trouble is not None:
            raise self._trouble
        if component._stbass_cancelled or self.host.stopping:
            self._stop()
            return True
        if component._stbass_out or component._stbass_events:
            await self._settle()
        if component._stbass_closing or self._unwanted:
            if self.pending:
                return False
            self.end(Status.COMPLETED)
        return self.ended

    def _stop(self) -> None:
        if self.component._stbass_cancelled:
            self.end(Status.STOPPED)
        else:
            self.host.runner_stopped(self)
