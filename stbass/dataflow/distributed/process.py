"""What processes on Ray and on a fleet have in common: their components run in groups, each on its own event loop.

What is ours alone: all groups are there before anything of the user's runs; one that fails ends the others; a
checkpoint is complete when every group's part has come; a round is over, or a run stuck, when all groups are quiet and
nothing is on its way between them.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from stbass._process.context import meter_of
from stbass._values.checks import is_number
from stbass._values.texts import value_text
from stbass._values.usage import NO_USAGE, Usage
from stbass.dataflow.distributed.group_handle import GroupHandle
from stbass.dataflow.distributed.groups import Group, GroupView, Quiescence, groups_of
from stbass.dataflow.engine.checkpoints import members_of
from stbass.dataflow.engine.edge import edges_of
from stbass.dataflow.engine.host import stalled
from stbass.dataflow.model.components import Component, OutputField, Wiring, wiring_of
from stbass.dataflow.model.connector import Connector
from stbass.dataflow.process import Process
from stbass.dataflow.state.base import StateBackend
from stbass.dataflow.status import Status
from stbass.errors import DataflowError, ProcessCancelled

__all__ = ["DistributedProcess"]

T = TypeVar("T")


class DistributedProcess(Process):
    """A process whose components run in groups elsewhere. Use one of its kinds.

    A component is made again there, from its class and the arguments that it was made with, so its module has to be
    there too; what was done to it after that does not travel. After a step or a run, what it exports, its fields and
    its status are copied back to the component here.

    It takes what :class:`Process` takes, and:

    Args:
        placement: components that run together, each with the name of its group: what goes between them stays on one
            event loop. A component that is not named runs by itself.
        admission_timeout: seconds within which there has to be room for all groups.

    Raises:
        InvalidProcessError: as :class:`Process`; or ``placement`` names something that is not there.
        TypeError: an argument is of the wrong type.
        ValueError: a number of seconds is not above 0.
    """

    grace = 5.0
    """Seconds that groups have to end in order, when another one has failed or the process is cancelled."""

    def __init__(
        self,
        components: Iterable[Component],
        connectors: Iterable[Connector],
        name: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        state: StateBackend | None = None,
        *,
        placement: Mapping[str, str] | None = None,
        admission_timeout: float = 10.0,
        checkpoint_every: float | None = 1.0,
    ) -> None:
        super().__init__(components, connectors, name, parameters, state, checkpoint_every=checkpoint_every)
        if placement is not None and not isinstance(placement, Mapping):
            raise TypeError(f"{type(self).__name__}(placement=…) takes a mapping, got {value_text(placement)}")
        if not is_number(admission_timeout):
            raise TypeError(
                f"{type(self).__name__}(admission_timeout=…) takes seconds, got {value_text(admission_timeout)}"
            )
        if not admission_timeout > 0:
            raise ValueError(f"{type(self).__name__}(admission_timeout={admission_timeout}): more than 0 seconds")
        self.placement: dict[str, str] = dict(placement or {})
        """The group of each component that was given one."""
        self.admission_timeout = admission_timeout
        """Seconds within which there has to be room for all groups."""
        groups_of(self.components.values(), (), self.placement)
        self._groups: dict[str, GroupHandle] = {}
        self._crossing: list[tuple[str, str, str]] = []
        self._forget_run()

    def _forget_run(self) -> None:
        self._round = self._snapshot = 0
        self._stepping = self._stopping = self._is_cancelled = self._ended = False
        self._quiet: dict[str, Quiescence] = {}
        self._lost: dict[str, Exception] = {}
        self._used: dict[str, Usage] = {}

    # What a kind of process does ----------------------------------------------------------------

    @abstractmethod
    async def _place(self, groups: Sequence[Group]) -> Sequence[GroupHandle]:
        """Make a handle for each group, with ``self`` as its listener. Nothing has to be placed yet.

        ``_unplace`` is called afterwards even if this raised.
        """

    async def _unplace(self) -> None:
        """Release what ``_place`` took, once all groups are destroyed."""

    # What Process asks for ----------------------------------------------------------------------

    async def _start(self, parts: Mapping[str, bytes] | None) -> None:
        self._forget_run()
        edges = edges_of(self.components.values(), self.connectors.values())
        groups = groups_of(self.components.values(), edges, self.placement)
        home = {one.name: group.name for group in groups for one in group.components}
        self._crossing = [
            (edge.id, home[edge.source], home[edge.target]) for edge in edges if home[edge.source] != home[edge.target]
        ]
        self._groups = {one.name: one for one in await self._place(groups)}
        for group in self._groups.values():
            for name in group.components:
                wiring_of(self.components[name]).runner = _Elsewhere(wiring_of(self.components[name]), group)
        # A barrier: what has no room everywhere has done nothing anywhere.
        await self._all("prepare", lambda group: group.prepare())

        def init(group: GroupHandle) -> Awaitable[None]:
            return group.init(None if parts is None else {name: parts[name] for name in group.components})

        await self._all("init", init)

    async def _step_all(self) -> None:
        await self._go("step", lambda group: group.step(self._round))

    async def _run_all(self) -> None:
        await self._go("run", lambda group: group.run(self._round))

    async def _go(self, what: str, work: Callable[[GroupHandle], Awaitable[bool]]) -> None:
        if self._stopping:
            return
        self._round += 1
        self._stepping = what == "step"
        self._quiet.clear()
        try:
            self._ended = all(await self._all(what, work))
        except BaseException:
            await self._look_at_components(self.grace)
            raise
        await self._look_at_components(None)

    def _cancel_all(self) -> None:
        self._is_cancelled = True
        for group in self._groups.values():
            group.cancel()

    async def _end(self) -> None:
        groups, self._groups = self._groups, {}
        try:
            done = await asyncio.gather(*(group.destroy() for group in groups.values()), return_exceptions=True)
        finally:
            for component in self.components.values():
                wiring_of(component).runner = None
            await self._unplace()
        for views in done:
            if not isinstance(views, BaseException):
                self._show(views)
        errors = [error for one in done if isinstance(one, BaseException) for error in members_of(one)]
        if errors:
            raise BaseExceptionGroup("components failed to end in order", errors)

    def _is_over(self) -> Status | None:
        if self._ended:
            return Status.COMPLETED
        return Status.STOPPED if self._stopping else None

    def _request_snapshot(self, n: int) -> None:
        self._snapshot = n
        for error in self._lost.values():
            self._checkpoints.failed(n, error)
        for group in self._groups.values():
            group.request_snapshot(n)

    async def _committed(self, n: int) -> None:
        await self._all("committed", lambda group: group.committed(n))

    async def _ended_well(self) -> None:
        await self._all("ended_well", GroupHandle.ended_well)

    # All groups at once -------------------------------------------------------------------------

    async def _all(self, what: str, work: Callable[[GroupHandle], Awaitable[T]]) -> list[T]:
        """Do this with every group at once. If one fails, the others are ended.

        Raises:
            ExceptionGroup: what components raised, and the errors of groups that were lost.
            ProcessCancelled: the process was cancelled.
            Exception: of ``prepare``, as it is.
        """
        if self._is_cancelled:
            raise self._cancelled()
        tasks = [asyncio.ensure_future(work(group)) for group in self._groups.values()]
        try:
            _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            if pending:
                await self._halt(pending)
        except asyncio.CancelledError:
            await self._halt([task for task in tasks if not task.done()])
            for task in tasks:
                if not task.cancelled():
                    task.exception()  # nobody asks for it any more
            raise
        raised = [error for task in tasks if not task.cancelled() and (error := task.exception()) is not None]
        raised += [error for error in self._lost.values() if error not in raised]
        errors = [error for one in raised for error in members_of(one) if not isinstance(error, ProcessCancelled)]
        if errors:
            if what == "prepare":
                raise errors[0]
            raise BaseExceptionGroup("components failed", errors)
        if raised or any(task.cancelled() for task in tasks):
            raise self._cancelled()
        return [task.result() for task in tasks]

    async def _halt(self, tasks: Collection[asyncio.Future[Any]]) -> None:
        for group in self._groups.values():
            group.cancel()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=self.grace)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    def _cancelled(self) -> ProcessCancelled:
        return ProcessCancelled(f"process {self.name!r} was cancelled")

    async def _look_at_components(self, patience: float | None) -> None:
        looks = [asyncio.ensure_future(group.views()) for name, group in self._groups.items() if name not in self._lost]
        if not looks:
            return
        done, late = await asyncio.wait(looks, timeout=patience)
        for look in late:
            look.cancel()
        for look in done:
            # Whoever was lost meanwhile has said so, and that is what the caller hears of.
            if not look.cancelled() and look.exception() is None:
                self._show(look.result())

    def _show(self, views: Mapping[str, GroupView]) -> None:
        for name, view in views.items():
            _show(self.components[name], view)

    # GroupListener ------------------------------------------------------------------------------

    def snapshot_done(self, group: str, n: int, parts: Mapping[str, bytes]) -> None:
        """The group's part of checkpoint ``n`` has come."""
        self._checkpoints.add(n, parts)

    def snapshot_failed(self, group: str, n: int, error: Exception) -> None:
        """The checkpoint fails if one group cannot give its part."""
        self._checkpoints.failed(n, error)

    def status_changed(self, group: str, component: str, status: Status) -> None:
        """Show it on the component here."""
        wiring_of(self.components[component]).status = status

    def stop_requested(self, group: str) -> None:
        """Stop all groups."""
        if not self._stopping:
            self._stopping = True
            for one in self._groups.values():
                one.stop()

    def lost(self, group: str, error: Exception) -> None:
        """A group was lost: end the others, too."""
        self._lost[group] = error
        for name in self._groups[group].components if group in self._groups else ():
            wiring_of(self.components[name]).status = Status.FAILED
        self._checkpoints.failed(self._snapshot, error)
        # Also where nobody waits for that group: what it held is lost.
        for one in self._groups.values():
            one.cancel()

    def used(self, group: str, total: Usage) -> None:
        """Count it."""
        before = self._used.get(group, NO_USAGE)
        if total.tokens >= before.tokens and total.cost >= before.cost:
            self._used[group] = total
            meter_of(self._owner).add(total - before)

    def quiet(self, group: str, state: Quiescence) -> None:
        """End the round, or report that the run is stuck, if all groups are quiet and nothing is on its way.

        What each group says was true at a time of its own. If nevertheless every message that one says it sent is one
        that the other says it received, nothing has happened since: the first to do something would have received a
        message after it spoke, which was sent before the sender spoke, and counted by that one only.
        """
        if state.round != self._round:
            return
        self._quiet[group] = state
        if len(self._quiet) < len(self._groups):
            return
        for edge, source, target in self._crossing:
            sender, receiver = self._quiet[source], self._quiet[target]
            if sender.forth[edge] != receiver.forth[edge] or sender.back[edge] != receiver.back[edge]:
                return
        states = [self._quiet[name] for name in self._groups]
        if self._stepping:
            for one in self._groups.values():
                one.end_round(self._round)
        elif not any(state.patient for state in states):
            waits = [text for state in states for text in state.waiting]
            stuck = next((name for name, state in self._quiet.items() if state.waiting), None)
            if stuck is not None:
                self._groups[stuck].stall(self._round, str(stalled(waits)))


class _Elsewhere:
    """The runner of a component that runs elsewhere, as the component here sees it."""

    is_waiting = False

    def __init__(self, wiring: Wiring, group: GroupHandle) -> None:
        self._wiring = wiring
        self._group = group

    @property
    def steps(self) -> int:
        """How many steps it had made when it was last looked at."""
        return self._wiring.steps_before

    async def run(self) -> None:
        """Refuse: it can only be run where it is."""
        raise DataflowError(f"component {self._wiring.name!r} runs elsewhere: run its process")

    def poke(self) -> None:
        """Pass on that it was cancelled or closed."""
        wiring = self._wiring
        if wiring.events:
            wiring.events.clear()
            raise DataflowError(f"component {wiring.name!r} runs elsewhere: events cannot be queued from here")
        self._group.end(wiring.name, "cancel" if wiring.cancelled else "close")


def _show(component: Component, view: GroupView) -> None:
    """Let the component here look like the one elsewhere."""
    wiring = wiring_of(component)
    wiring.status = view.status
    wiring.steps_before = view.steps
    wiring.last.update(view.outputs)
    wiring.out.clear()
    component.__dict__.update(view.inputs)
    for name, value in view.exports.items():
        present = getattr(type(component), name, None)
        if not isinstance(present, property | OutputField):  # what is computed is computed here too
            setattr(component, name, value)
