"""Processes: components that are connected, and their life from the first step to the last."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from logging import getLogger
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, ClassVar, Self

from stbass._engine.supervise import ended_by, until
from stbass._process.context import ProcessContext, meter_of, running_as, top_context
from stbass._values.checks import is_number
from stbass._values.ids import new_id
from stbass._values.texts import value_text
from stbass._values.usage import Budget, Usage, checked_budget
from stbass.dataflow.engine.checkpoints import Checkpoints, members_of
from stbass.dataflow.export import Exportable, class_path
from stbass.dataflow.model.components import Component, make_again, record_of, wiring_of
from stbass.dataflow.model.connector import Connector
from stbass.dataflow.spec.dump import dump_process, export_process
from stbass.dataflow.spec.validation import check_model, check_names
from stbass.dataflow.state.base import StateBackend
from stbass.dataflow.state.memory import DictStateBackend
from stbass.dataflow.status import Status
from stbass.errors import BudgetExceeded, DataflowError, NotInitialisedError, ProcessCancelled, StateUnavailable

__all__ = ["Process"]

_log = getLogger(__name__)


class Process(Exportable, ABC):
    """Components and what connects them. Use one of its kinds, such as ``LocalProcess``.

    ::

        async with LocalProcess(components=[…], connectors=[…]) as process:
            await process.run()

    With a state that lasts (``SqliteStateBackend``, …) and a job id of one's own, a job that died is gone on with: make
    the same process with the same state and ``run()`` it again.

    Args:
        components: the components, each with a name of its own.
        connectors: what connects their fields.
        name: its name; made up if None.
        parameters: what every component is given beside its inputs.
        state: where it keeps what it is, how far it came, and its checkpoints; in memory if None.
        checkpoint_every: seconds between two checkpoints, if the state lasts; None: only when the process begins, and
            when it ends.

    Raises:
        InvalidProcessError: a part is of the wrong type, or a name is malformed or there twice.
        TypeError: an argument is of the wrong type.
        ValueError: ``checkpoint_every`` is not above 0.
    """

    kind: ClassVar[str] = ""
    """What it is called where connectors say which processes can use them: ``"local"``, ``"ray"``, ``"celery"``."""

    def __init__(
        self,
        components: Iterable[Component],
        connectors: Iterable[Connector],
        name: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        state: StateBackend | None = None,
        *,
        checkpoint_every: float | None = 1.0,
    ) -> None:
        components, connectors = list(components), list(connectors)
        check_names(name, components, connectors)
        what = type(self).__name__
        if parameters is not None and not isinstance(parameters, Mapping):
            raise TypeError(f"{what}(parameters=…) takes a mapping, got {value_text(parameters)}")
        if state is not None and not isinstance(state, StateBackend):
            raise TypeError(f"{what}(state=…) takes a StateBackend, got {value_text(state)}")
        if checkpoint_every is not None:
            if not is_number(checkpoint_every):
                raise TypeError(f"{what}(checkpoint_every=…) takes seconds or None, got {value_text(checkpoint_every)}")
            if not checkpoint_every > 0:
                raise ValueError(f"{what}(checkpoint_every={checkpoint_every}): more than 0 seconds, or None")
        self.name: str = f"{what}_{new_id()[:8]}" if name is None else name
        """Its name, which is its id too."""
        self.components: dict[str, Component] = {one.name: one for one in components}
        """Its components by name."""
        self.connectors: dict[str, Connector] = {one.id: one for one in connectors}
        """Its connectors by id, ``source..target``."""
        self.parameters: dict[str, Any] = dict(parameters or {})
        """What every component is given."""
        self._state = DictStateBackend() if state is None else state
        self._status = Status.CREATED
        self._told: Status | None = None
        """What the state was last told that it is doing."""
        self._is_attached = self._is_connected = self._has_job = False
        self._checkpoints = Checkpoints(
            self._state, checkpoint_every, self.name, self._request_snapshot, self._committed
        )
        self._is_initialised = self._was_run = self._has_components = self._is_unwanted = False
        self._owner = ProcessContext(self.name)
        self._busy: str | None = None
        self._idle: asyncio.Future[None] | None = None

    # What it is ---------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """What it is known by: its name."""
        return self.name

    @property
    def state(self) -> StateBackend:
        """Where it keeps what lasts."""
        return self._state

    @property
    def status(self) -> Status:
        """What it is doing."""
        return self._status

    @property
    def missed_checkpoints(self) -> list[StateUnavailable]:
        """Why checkpoints of this run were left out: the state could not be used. The next one counted."""
        return list(self._checkpoints.missed)

    @property
    def usage(self) -> Usage:
        """What its components have used since :meth:`init`, as far as it is known here.

        A component says it with ``stbass.context.running_context().usage(…)``. What one has used on a fleet is known
        some milliseconds later, and whole when the process is destroyed.
        """
        return self._owner.used

    @property
    def is_initialised(self) -> bool:
        """Whether it is between :meth:`init` and :meth:`destroy`."""
        return self._is_initialised

    def export(self) -> dict[str, Any]:
        """What it takes to make it again: what ``ProcessBuilder.build`` takes."""
        return export_process(self, self.name, self.components.values(), self.connectors.values())

    def dump(self, path: Path | str) -> None:
        """Write it to a YAML file, from which ``ProcessBuilder`` and the command line make it again.

        Args:
            path: ends in ``.yaml`` or ``.yml``; overwritten if it exists. Folders above it are made.

        Raises:
            ValueError: it ends in something else.
            SpecError: something in it cannot be written; says all that cannot.
        """
        dump_process(path, self, self.name, self.components.values(), self.connectors.values())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}, {self.status}>"

    # Life ---------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.init()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.destroy()
            return
        self.cancel()
        try:
            await self.destroy()
        except Exception as more:
            # Why it failed comes first, and is never hidden by what failed afterwards.
            raise _both(error, more) from None

    async def init(self) -> None:
        """Look whether everything fits, connect to the state, and initialise every component. Idempotent.

        With a state that lasts, it goes on from the last checkpoint of the job. After a run that has ended and
        :meth:`destroy`, it starts afresh, with a new job id and components as they were made.

        Raises:
            InvalidProcessError: it cannot work; ``findings`` are all reasons. Nothing of the components was run.
            JobFinishedError: the job has run to its end.
            JobInUseError: another run has the job.
            StateError: the state cannot be used.
            DataflowError: a component is at work in another process.
            ProcessCancelled: :meth:`cancel` was called.
            ExceptionGroup: what components raised. Those whose ``init`` had begun were destroyed.
        """
        if self._is_initialised:
            return
        self._must_be_idle()
        check_model(self.name, self.components.values(), self.connectors.values(), kind=self.kind)
        self._check_components_are_free()
        self._begin("init")
        try:
            await self._renew()
            parts = await self._take_job()
            await self.connect_state()
            self._take_components()
            if self._is_unwanted:
                raise ProcessCancelled(f"process {self.name!r} was cancelled")
            self._owner = top_context(self.name)
            with running_as(self._owner):
                await self._start(parts)
            await self._set_status(Status.INIT)
            self._is_initialised = self._was_run = True
        except BaseException as error:
            if self._has_components:
                await self._set_last_status(error)
            self._done()
            try:
                await self.destroy()
            except Exception as more:
                raise _both(error, more) from None
            raise
        self._done()

    def _check_components_are_free(self) -> None:
        for component in self.components.values():
            user = wiring_of(component).process
            if user is not None:
                raise DataflowError(
                    f"component {component.name!r} is at work in {user!r}: destroy that first, or "
                    f"make a component for each process"
                )

    def _take_components(self) -> None:
        self._has_components = True
        for component in self.components.values():
            wiring = wiring_of(component)
            wiring.process = self
            wiring.used = True
            wiring.process_parameters = self.parameters
            wiring.process_state = self._state
            wiring.job = self._state.job_id if self._state.durable else None

    async def _renew(self) -> None:
        """After a run: a new job, and components as they were made, whoever used them."""
        if self._was_run:
            await self._state.new_job(self)
            self._checkpoints.reset()
            self._was_run = self._is_connected = False
        self._status = Status.CREATED
        for component in self.components.values():
            if wiring_of(component).used:
                make_again(component)

    async def _take_job(self) -> Mapping[str, bytes] | None:
        """Take the job, if the state lasts. Gives the last checkpoint, if there is one."""
        await self._attach()
        if not self._state.durable:
            return None
        await self._state.acquire_job()
        self._has_job = True
        # Not before: until then whoever had it could have ended it.
        if await self._job_is_over():
            raise self._checkpoints.finished()
        return await self._checkpoints.load(self.components)

    async def step(self) -> None:
        """One step of every component, at once: one whose producers sent nothing is skipped.

        Raises:
            NotInitialisedError: before :meth:`init`.
            JobFinishedError: it has run to its end.
            DataflowError: it has failed, or was stopped.
            ProcessCancelled: :meth:`cancel` was called.
            ExceptionGroup: what components raised; the others were cancelled.
        """
        await self._drive("step", self._step_all)

    async def run(self, *, budget: Budget | None = None) -> None:
        """Step every component until no more comes.

        Args:
            budget: how much it may use, from :meth:`init` on. When that is used up, all components are cancelled.

        Raises:
            NotInitialisedError: before :meth:`init`.
            JobFinishedError: it has run to its end.
            DataflowError: it has failed, or was stopped.
            ProcessCancelled: :meth:`cancel` was called.
            ExceptionGroup: what components raised; the others were cancelled. ``BudgetExceeded`` is in it if the
                budget is used up.
            TypeError: ``budget`` is no :class:`stbass.Budget`.
        """
        await self._drive("run", self._run_all, checked_budget(budget))

    def cancel(self) -> None:
        """End it at once, whatever it is doing: ``init``, ``step`` and ``run`` raise :class:`ProcessCancelled`."""
        if self._busy is None:
            if self._is_initialised and not self._status.is_terminal:
                self._cancel_all()
                self._status = Status.STOPPED
        else:
            self._is_unwanted = True
            self._cancel_all()
            self._checkpoints.cancel()

    async def destroy(self) -> None:
        """Let every component that was initialised give back what it took, and leave the state. Idempotent.

        What the process is doing is cancelled first.

        Raises:
            ExceptionGroup: what components raised.
        """
        if self._idle is not None:
            self.cancel()
            await asyncio.wait((self._idle,))
        has_components, self._has_components = self._has_components, False
        self._is_initialised = False
        try:
            if has_components:
                await self._end()
        finally:
            for component in self.components.values():
                if wiring_of(component).process is self:
                    wiring_of(component).process = None
            self._checkpoints.close()
            await self._leave_state()

    # Its state ----------------------------------------------------------------------------------

    async def connect_state(self, state: StateBackend | None = None) -> None:
        """Connect to the state, and tell it what this process is. Calling it again does nothing.

        A job that has run to its end is left as it is.

        Args:
            state: use this one instead of that of the constructor.

        Raises:
            StateError: the state cannot be used.
            DataflowError: it is connected to another state already.
        """
        if state is not None and state is not self._state:
            if self._is_attached:
                raise DataflowError(f"process {self.name!r} is connected to {self._state!r} already")
            self._state = self._checkpoints.state = state
        await self._attach()
        if self._is_connected or await self._job_is_over():
            return
        await self._state.upsert_process(self.dict(), with_components=True)
        self._told = self._status
        self._is_connected = True

    async def _attach(self) -> None:
        if not self._is_attached:
            await self._state.attach(self)
            self._is_attached = True

    async def _job_is_over(self) -> bool:
        return self._state.durable and await self._state.job_status() is Status.COMPLETED

    def dict(self) -> dict[str, Any]:
        """What there is to know about it, as data; it is what the state is told: names and kinds, no values."""
        return {
            "id": self.id,
            "name": self.name,
            "type": class_path(type(self)),
            "status": str(self._status),
            "components": {key: record_of(one) for key, one in self.components.items()},
            "connectors": {
                key: {"id": key, "type": class_path(type(one)), **one.spec.dict()}
                for key, one in self.connectors.items()
            },
        }

    async def _leave_state(self) -> None:
        if not self._is_attached:
            return
        has_job, self._has_job = self._has_job, False
        try:
            await self._tell_status()
        except DataflowError as error:
            _log.warning("process %r could not tell its state that it has %s: %s", self.name, self._status, error)
        finally:
            self._is_attached = self._is_connected = False
            await self._state.detach(self, has_job=has_job)

    async def _set_status(self, status: Status) -> None:
        self._status = status
        try:
            await self._tell_status()
        except StateUnavailable as error:
            # Checkpoints say how far the job is; the state is told again with the next status.
            _log.warning("process %r could not tell its state that it is %s: %s", self.name, status, error)

    async def _set_last_status(self, error: BaseException) -> None:
        """The error ends it. Whatever becomes of the state, that is what the caller hears of."""
        is_stop = isinstance(error, ProcessCancelled | asyncio.CancelledError)
        self._status = Status.STOPPED if is_stop else Status.FAILED
        try:
            await self._tell_status()
        except DataflowError as more:
            error.add_note(f"its state could not be told that it has {self._status}: {more}")

    async def _tell_status(self) -> None:
        status = self._status
        if status is self._told or not (self._is_connected and self._state.is_initialised):
            return
        await self._state.update_process_status(self.id, status)
        self._told = status
        if status.is_terminal:
            # The runs that died had other names; the job is not over before they are.
            for name in self._checkpoints.names_before:
                await self._state.update_process_status(name, status)

    # Running ------------------------------------------------------------------------------------

    async def _drive(self, what: str, work: Callable[[], Awaitable[None]], budget: Budget | None = None) -> None:
        if not self._is_initialised:
            raise NotInitialisedError(
                f"process {self.name!r} is not initialised: `async with` it, or await its init(), before {what}()"
            )
        if self._status is Status.COMPLETED:
            raise self._checkpoints.finished()
        self._must_be_idle()
        if self._status.is_terminal:
            raise DataflowError(
                f"process {self.name!r} has {self._status}, and cannot go on. Make it anew; or leave its `async with` "
                f"and enter it again, for a run from the beginning"
            )
        self._begin(what)
        try:
            await self._set_status(Status.RUNNING)
            async with self._held_to(budget):
                await self._checkpoints.around(work, timed=what == "run")
            over = self._is_over()
            if over is Status.COMPLETED:
                await self._checkpoints.take_last(self._ended_well)
                await self._set_status(over)
            elif over is not None:
                await self._checkpoints.take()
                if not self._state.durable:  # else it will be gone on with
                    await self._ended_well()
                await self._set_status(over)
            else:
                await self._checkpoints.take_if_due(monotonic())
                await self._set_status(Status.WAITING)
        except BaseException as error:
            # Also those that have ended are told, so that they do not take the run for a good one.
            self._cancel_all()
            await self._set_last_status(error)
            raise
        finally:
            self._done()

    @asynccontextmanager
    async def _held_to(self, budget: Budget | None) -> AsyncIterator[None]:
        with running_as(self._owner):
            if budget is None:
                yield
                return
            meter = meter_of(self._owner)
            meter.limit(budget)
            scope = until(None)
            try:
                async with scope:
                    with ended_by([meter], scope):
                        if meter.spent is not None:
                            raise TimeoutError
                        yield
            except Exception as error:
                spent = meter.spent
                if spent is None:
                    raise
                told = [] if isinstance(error, TimeoutError) else members_of(error)
                errors = [one for one in told if not isinstance(one, BudgetExceeded | ProcessCancelled)]
                raise ExceptionGroup("components failed", [spent, *errors]) from error

    def _must_be_idle(self) -> None:
        if self._busy is not None:
            raise DataflowError(f"process {self.name!r} is busy: its {self._busy}() has not ended")

    def _begin(self, what: str) -> None:
        self._busy = what
        self._is_unwanted = False
        self._idle = asyncio.get_running_loop().create_future()

    def _done(self) -> None:
        self._busy = None
        idle, self._idle = self._idle, None
        if idle is not None and not idle.done():
            idle.set_result(None)

    # What a kind of process does ----------------------------------------------------------------

    @abstractmethod
    async def _start(self, parts: Mapping[str, bytes] | None) -> None:
        """Make what runs the components, and initialise them; go on from a checkpoint if one is given.

        ``_end`` is called afterwards even if this raised.
        """

    @abstractmethod
    async def _step_all(self) -> None:
        """One step of every component."""

    @abstractmethod
    async def _run_all(self) -> None:
        """Step every component to its end, or to where it was stopped."""

    @abstractmethod
    def _cancel_all(self) -> None:
        """End all components at once: ``_step_all`` and ``_run_all`` raise :class:`ProcessCancelled`."""

    @abstractmethod
    async def _end(self) -> None:
        """``destroy`` of every component that was initialised; give back what ``_start`` took."""

    @abstractmethod
    def _is_over(self) -> Status | None:
        """``COMPLETED`` if every component has ended, ``STOPPED`` if all were stopped, else None."""

    @abstractmethod
    def _request_snapshot(self, n: int) -> None:
        """Begin checkpoint ``n``; ``self._checkpoints.add`` and ``.failed`` are called with what comes of it."""

    @abstractmethod
    async def _committed(self, n: int) -> None:
        """Tell every component that checkpoint ``n`` is safe."""

    @abstractmethod
    async def _ended_well(self) -> None:
        """Tell every component that the run has ended, and that nothing in it has failed."""


def _both(first: BaseException, then: Exception) -> BaseException:
    """A group of why a process failed and of what failed while it was ended, in this order.

    A cancellation is raised as it is: whoever asked for it waits for it.
    """
    if not isinstance(first, Exception):
        first.add_note(f"what had begun could not be ended in order either: {then!r}")
        return first
    return ExceptionGroup(
        "components failed, and could not be ended in order either", [*members_of(first), *members_of(then)]
    )
