"""The host: it runs the components of one event loop.

A process on one machine has one host; a process on many has one on each, and the edges between them are carried by
``Outlet`` and ``Inlet``. A host knows nothing of how.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from logging import getLogger
from typing import Any

from stbass._channels.cancellation import is_being_cancelled
from stbass._process.interrupts import called_here
from stbass._values.checks import awaited
from stbass._values.policy import FailurePolicy
from stbass.dataflow.engine.boundary import CLOSED, Inlet, Outlet, OutletEdge
from stbass.dataflow.engine.edge import Edge, Inbox, LocalEdge, by_name, type_of_field
from stbass.dataflow.engine.listener import HostListener
from stbass.dataflow.engine.runner import Runner, Stepping
from stbass.dataflow.engine.snapshot import Snapshot, restore
from stbass.dataflow.engine.userstate import looks_as_made
from stbass.dataflow.model.components import Component, record_of
from stbass.dataflow.status import Status
from stbass.errors import DataflowError, ProcessCancelled
from stbass.par import PAR

__all__ = ["Host", "HostListener", "stalled"]

_log = getLogger(__name__)


class Host:
    """Runs components on this event loop.

    Args:
        components: the components, each with a name of its own.
        edges: those that begin or end here.
        outlets: what carries the edges that end elsewhere, by their id.
        listener: who hears of what happens.

    Attributes:
        inlets: where what comes from elsewhere goes in, by the id of the edge.
        runners: what runs each component, by its name.

    Raises:
        DataflowError: two components have the same name, or an edge leaves without an outlet.
    """

    def __init__(
        self,
        components: Sequence[Component],
        edges: Iterable[Edge],
        *,
        outlets: Mapping[str, Outlet] | None = None,
        listener: HostListener,
    ) -> None:
        self.listener = listener
        self.runners: dict[str, Runner] = {}
        self.inlets: dict[str, Inlet] = {}
        self.active = 0
        """How many components run, or are about to."""
        self.round_over = False
        self.stopping = False
        self._begun: list[Runner] = []
        self._outlets: list[OutletEdge] = []
        self._snapshot: Snapshot | None = None
        self._last_snapshot = 0
        self._running: asyncio.Task[Any] | None = None
        self._carrying: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[None] | None = None
        self._cancelled = self._has_failed = False
        self._in_step = False
        self._has_warned = False
        for component in by_name(components).values():
            self.runners[component.name] = Runner(component, self)
        edges = list(edges)
        for runner in self.runners.values():
            self._make_inboxes(runner, [edge for edge in edges if edge.target == runner.name])
        for edge in edges:
            self._connect(edge, dict(outlets or {}))

    # Putting it together ------------------------------------------------------------------------

    def _make_inboxes(self, runner: Runner, edges: Sequence[Edge]) -> None:
        component = runner.component
        initial = component.initial_values
        populated = {name for _, handled in runner.wiring.handlers.values() for name in handled.populates_fields}
        made = []
        for name in component.io.inputs:
            # Room for the initial values too: in a cycle that many are on their way.
            capacity = max([edge.maxsize for edge in edges if edge.input == name], default=1)
            values = initial.get(name, ())
            inbox = Inbox(runner, name, capacity + len(values), type_of_field(component, name))
            inbox.populated = name in populated
            inbox.backlog.extend(values)
            made.append(inbox)
        runner.inboxes = tuple(made)
        if component.io.input_events:
            capacity = max([edge.maxsize for edge in edges if edge.is_event], default=1)
            runner.events = Inbox(runner, "", capacity, None)

    def _connect(self, edge: Edge, outlets: Mapping[str, Outlet]) -> None:
        source, target = self.runners.get(edge.source), self.runners.get(edge.target)
        inbox: Inbox | None = None
        if target is not None:
            inboxes = [target.events] if edge.is_event else [one for one in target.inboxes if one.name == edge.input]
            inbox = inboxes[0] if inboxes else None
            if inbox is None:
                raise DataflowError(f"edge {edge.id!r}: component {edge.target!r} has no input {edge.input!r}")
        made: LocalEdge | OutletEdge | Inlet
        if inbox is None:
            if source is None or edge.id not in outlets:
                raise DataflowError(f"edge {edge.id!r} leaves this host, and there is no outlet for it")
            made = OutletEdge(edge, outlets[edge.id], source)
            self._outlets.append(made)
        elif source is None:
            made = self.inlets[edge.id] = Inlet(edge, inbox, self._marked)
        else:
            made = LocalEdge(edge, inbox, source)
        if source is not None and not isinstance(made, Inlet):
            source.edges.setdefault(edge.output, []).append(made)
            if not (isinstance(made, LocalEdge) and made.own):
                source.live += 1
        if inbox is not None and not isinstance(made, OutletEdge) and not (isinstance(made, LocalEdge) and made.own):
            inbox.open += 1
            inbox.sources.append(made)
            if len(inbox.sources) > 1:
                for one in inbox.sources:
                    if isinstance(one, LocalEdge):
                        one.shared()

    # Life ---------------------------------------------------------------------------------------

    async def init(self, parts: Mapping[str, bytes] | None = None) -> None:
        """Initialise every component; go on from a checkpoint if one is given.

        Args:
            parts: of a checkpoint, by component.

        Raises:
            ExceptionGroup: what the components raised.
            ProcessCancelled: :meth:`cancel` was called.
        """
        for runner in self.runners.values():
            runner.attach()
        await self._until_cancelled({runner.name: self._init_of(runner) for runner in self.runners.values()})
        for runner in self.runners.values():
            for inbox in runner.all_inboxes:
                if not inbox.open:
                    inbox.chan.close()
            if parts is not None and runner.name in parts:
                await restore(runner, parts[runner.name])

    def _init_of(self, runner: Runner) -> Callable[[], Awaitable[None]]:
        async def init() -> None:
            component, state = runner.component, runner.wiring.own_state
            self._begun.append(runner)
            if runner.wiring.job is not None:
                runner.wiring.is_as_made = looks_as_made(component.__dict__)
            try:
                if state is not None:
                    await state.attach(component)
                    await state.upsert_component(record_of(component))
                await awaited(called_here(component.init), "it")
            except BaseException as error:
                runner.wiring.status = Status.FAILED
                error.add_note(f"component {runner.name!r}, init")
                raise
            self.status_changed(runner, Status.INIT)

        return init

    async def step(self) -> None:
        """One step of every component, at once; one that nothing comes to is skipped.

        Raises:
            ExceptionGroup: what the components raised; the others were cancelled.
            ProcessCancelled: :meth:`cancel` was called.
        """
        self.round_over, self._in_step = False, True
        try:
            await self._go({runner.name: runner.work_once for runner in self.runners.values() if not runner.ended})
            left = [runner for runner in self.runners.values() if not runner.ended]
            while sum(runner.end_if_over() for runner in left):
                # The end of one can be that of another: of one after it, or of one before it.
                left = [runner for runner in reversed(left) if not runner.ended]
        finally:
            self._in_step = self.round_over = False

    async def run(self) -> None:
        """Step every component until no more comes.

        Raises:
            ExceptionGroup: what the components raised; the others were cancelled.
            ProcessCancelled: :meth:`cancel` was called.
        """
        await self._go({runner.name: runner.work for runner in self.runners.values() if not runner.ended})
        await self._carry_on()

    async def _carry_on(self) -> None:
        """Wait until what lies at the edges to other hosts has been carried; once stopped, it may stay there."""
        if self._cancelled:
            raise ProcessCancelled("the process was cancelled")
        if self.stopping or not self._outlets:
            return
        carrying = self._carrying = asyncio.ensure_future(self._finish_edges())
        try:
            await carrying
        except asyncio.CancelledError:
            carrying.cancel()
            if is_being_cancelled():
                raise
            if self._cancelled:
                raise ProcessCancelled("the process was cancelled") from None
        finally:
            self._carrying = None

    async def _finish_edges(self) -> None:
        for edge in self._outlets:
            await edge.finished()

    async def _go(self, work: Mapping[str, Callable[[], Awaitable[None]]]) -> None:
        if self.stopping and not self._cancelled:
            return
        for name in work:
            self.status_changed(self.runners[name], Status.RUNNING)
        self.active = len(work)
        await self._until_cancelled(work)

    async def _until_cancelled(self, work: Mapping[str, Callable[[], Awaitable[None]]]) -> None:
        if self._cancelled:
            raise ProcessCancelled("the process was cancelled")
        self._running = asyncio.ensure_future(self._at_once(work))
        try:
            await self._running
        except asyncio.CancelledError:
            if is_being_cancelled() or not self._cancelled:
                raise
            raise ProcessCancelled("the process was cancelled") from None
        except BaseException:
            self._has_failed = True
            raise
        finally:
            self._running = None

    async def _at_once(self, work: Mapping[str, Callable[[], Awaitable[None]]]) -> None:
        if not work:
            return
        processes = [Stepping(name, one) for name, one in work.items()]
        result = await PAR(*processes).run()
        errors = [failure.error for failure in result.failures if not _was_halted(failure.error)]
        if errors:
            raise BaseExceptionGroup("components failed", errors)

    def cancel(self) -> None:
        """End everything at once, whatever it is doing."""
        self._cancelled = self._has_failed = True
        for task in (self._running, self._carrying, self._telling):
            if task is not None:
                task.cancel()

    def stop(self) -> None:
        """Let every component end after the step that it is in."""
        if not self.stopping:
            self.stopping = True
            if self._carrying is not None:
                self._carrying.cancel()
            for runner in self.runners.values():
                if not runner.ended:
                    runner.poke()

    def end_round(self) -> None:
        """The round of :meth:`step` is over: those that wait have been skipped."""
        if self._in_step:
            self.round_over = True
            for runner in self.runners.values():
                runner.waker.wake()

    async def destroy(self) -> None:
        """Call ``destroy`` of every component whose ``init`` was begun.

        Raises:
            ExceptionGroup: what the components raised.
        """
        self._abandon_snapshot()
        for edge in self._outlets:
            edge.abandon()
        begun, self._begun = self._begun, []
        for runner in begun:
            runner.wiring.run_failed = self._has_failed
        processes = [Stepping(runner.name, _destroy_of(runner)) for runner in begun]
        errors: list[BaseException] = []
        try:
            if processes:
                result = await PAR(*processes, on_failure=FailurePolicy.COLLECT).run()
                errors = [failure.error for failure in result.failures]
        finally:
            for runner in self.runners.values():
                runner.detach()
        if errors:
            raise BaseExceptionGroup("components failed to end in order", errors)

    # Checkpoints --------------------------------------------------------------------------------

    def request_snapshot(self, n: int) -> None:
        """Take the part of checkpoint ``n`` that is here: :meth:`HostListener.snapshot_done` follows, when the steps
        that run now have ended.

        Again, or after the mark of this checkpoint has come over an edge, does nothing.
        """
        self._begin_snapshot(n, None)

    def _begin_snapshot(self, n: int, marked: Inlet | None) -> None:
        if n <= self._last_snapshot:
            return
        self._last_snapshot = n
        self._abandon_snapshot()
        self._snapshot = Snapshot(n, self.runners, self.inlets.values(), self._snapshot_done, self._snapshot_failed)
        self._snapshot.begin(marked)

    def _abandon_snapshot(self) -> None:
        snapshot, self._snapshot = self._snapshot, None
        if snapshot is not None:
            snapshot.abandon()

    def _marked(self, inlet: Inlet, n: int) -> None:
        if n > self._last_snapshot:
            self._begin_snapshot(n, inlet)
        elif self._snapshot is not None and n in (CLOSED, self._snapshot.n):
            self._snapshot.marked(inlet)

    def _snapshot_done(self, snapshot: Snapshot, parts: Mapping[str, bytes]) -> None:
        self._snapshot = None
        self.listener.snapshot_done(snapshot.n, parts)

    def _snapshot_failed(self, snapshot: Snapshot, error: Exception) -> None:
        self._snapshot = None
        self.listener.snapshot_failed(snapshot.n, error)

    async def committed(self, n: int) -> None:
        """Tell every component that checkpoint ``n`` will not be lost.

        Raises:
            ExceptionGroup: what the components raised.
            ProcessCancelled: :meth:`cancel` was called.
        """
        await self._tell(
            f"committed({n})",
            {
                one.name: partial(one.component.committed, n)
                for one in self.runners.values()
                if type(one.component).committed is not Component.committed
            },
        )

    async def ended_well(self, _: Any = None) -> None:
        """Tell every component that the run has ended, and that nothing in it has failed.

        Raises:
            ExceptionGroup: what the components raised.
            ProcessCancelled: :meth:`cancel` was called.
        """
        asked = {one.name: work for one in self.runners.values() if (work := one.wiring.at_good_end) is not None}
        await self._tell("at the end of the run", asked)

    async def _tell(self, what: str, components: Mapping[str, Callable[[], Any]]) -> None:
        errors: list[Exception] = []
        for name, tell in components.items():
            telling = self._telling = asyncio.ensure_future(_call(tell))
            if self._cancelled:
                telling.cancel()
            try:
                await telling
            except asyncio.CancelledError:
                if is_being_cancelled() or not self._cancelled:
                    raise
                text = f"the process was cancelled while component {name!r}, {what}, had not ended"
                raise ProcessCancelled(text) from None
            except Exception as error:
                error.add_note(f"component {name!r}, {what}")
                errors.append(error)
            finally:
                self._telling = None
        if errors:
            self._has_failed = True
            raise ExceptionGroup("components failed", errors)

    # RunnerHost -----------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """Whether every component has ended."""
        return all(runner.ended for runner in self.runners.values())

    def runner_ended(self, runner: Runner, status: Status) -> None:
        """A component has ended."""
        if self._snapshot is not None:
            self._snapshot.left(runner)
        self.listener.status_changed(runner.name, status)

    def status_changed(self, runner: Runner, status: Status) -> None:
        """Set the status of a component, and tell the listener if it is another."""
        if runner.wiring.status is not status:
            runner.wiring.status = status
            self.listener.status_changed(runner.name, status)

    def runner_left(self) -> None:
        """A component runs no more, or not in this round."""
        self.active -= 1
        if not self.active:
            self.look_whether_quiet()

    def stop_requested(self) -> None:
        """A component wants the process to stop."""
        self.listener.stop_requested()

    def look_whether_quiet(self) -> None:
        """No component runs: end the round, or report that the run is stuck."""
        waiting = [runner for runner in self.runners.values() if runner.is_waiting]
        if self.inlets or self._outlets:
            self.listener.quiet()
        elif self._in_step:
            self.end_round()
        elif waiting and not any(not runner.inboxes and not runner.pending for runner in waiting):
            # Components that wait for events alone may get them from the user's own tasks; nothing else comes from
            # outside, so this would be for ever.
            waiting[0].fail(stalled(runner.waits_for for runner in waiting))
        elif waiting and not self._has_warned:
            self._has_warned = True
            _log.warning(
                "nothing runs, and only tasks of your own could still send events: %s. If there are none, end the run "
                "with a StopEvent, or a component with `await self.io.close()`",
                "; ".join(runner.waits_for for runner in waiting),
            )


def stalled(waits: Iterable[str]) -> DataflowError:
    """The error of a run in which every component waits for another.

    Args:
        waits: what each waits for, in words.
    """
    return DataflowError(
        f"no component can go on: {'; '.join(waits)}. An output that was never set is not sent: end such a component "
        f"with `await self.io.close()`, or make room with a larger maxsize of the connector"
    )


async def _call(tell: Callable[[], Any]) -> None:
    await awaited(tell(), "it")


def _destroy_of(runner: Runner) -> Callable[[], Coroutine[Any, Any, None]]:
    async def destroy() -> None:
        component, state = runner.component, runner.wiring.own_state
        try:
            await awaited(called_here(component.destroy), "it")
        except BaseException as error:
            error.add_note(f"component {component.name!r}, destroy")
            raise
        finally:
            if state is not None:
                await state.detach(component)

    return destroy


def _was_halted(error: BaseException) -> bool:
    return isinstance(error, ProcessCancelled) and getattr(error, "halted_by", None) is not None
