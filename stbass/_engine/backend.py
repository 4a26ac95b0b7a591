"""The contract of a place where processes run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stbass._channels.transport import Transport
    from stbass._engine.runs import Run, RunOrder
    from stbass._process.context import Composable, ProcessContext
    from stbass.result import ProcessResult

__all__ = ["ExecutionBackend", "GroupPart"]


@dataclass(frozen=True)
class GroupPart:
    """What one backend has of a group of processes.

    Args:
        members: all processes of the group, in order, for people; None for one whose result only the program knows that
            started the group.
        places: which of them the backend has.
        results: waits for the results of those, for so many seconds at most, and gives each with whether its process is
            optional; one that has no result by then is a failure.
    """

    members: Sequence[str | None]
    places: Sequence[int]
    results: Callable[[float | None], Awaitable[list[tuple[ProcessResult, bool]]]]


class ExecutionBackend(ABC):
    """Runs processes somewhere. Subclass it and implement the four abstract members.

    :func:`stbass.testing.check_backend` checks an implementation against this contract:

    * :meth:`execute` gives back the process's result. What the process raises is a failure in that result. What the
      backend itself raises becomes a failure of that process, never of the composition around it.
    * Cancelling :meth:`execute` cancels the process; when it has raised ``CancelledError`` the process no longer runs
      (or, on another machine, has been told to stop).
    * The context's deadline, checkpoint and attempt mean the same as on one event loop.
    * Channels work as on one event loop, or a process whose channels do not reach there is refused at the start.
    * For a stage of a sequence, the backend takes the values of ``given_to(ctx)`` to where the stage runs, and reports
      what the stage has sent with ``note_sent(ctx, values)`` (see :mod:`stbass._engine.stage_context`).
    """

    in_place: bool = False
    """Whether it runs processes on the caller's own event loop, as if they had not been placed."""

    enforces_limit: bool = False
    """Whether the backend enforces :attr:`concurrency_limit` itself, so that callers need not wait for a slot."""

    deadline_grace: float = 0.0
    """Seconds after a deadline in which callers still wait for the backend's own failure before they cancel.

    That failure says more than theirs: which worker, which phase.
    """

    @abstractmethod
    async def execute(self, process: Composable, ctx: ProcessContext) -> ProcessResult:
        """Run ``process`` to its end and give back its result."""

    @abstractmethod
    async def health_check(self) -> bool:
        """Whether processes sent here now would run."""

    @property
    @abstractmethod
    def concurrency_limit(self) -> int | None:
        """How many processes may run here at once; None means any number."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Identifier of the backend, for people."""

    def transport(self) -> Transport | None:
        """The transport for channels of processes that are sent here; None if they stay on the caller's event loop.

        Channels in memory that are bound to such processes are moved to it before anything starts.
        """
        return None

    async def open_group(self, group_id: str, members: Sequence[tuple[Composable, ProcessContext]]) -> Any:
        """Called before several processes run together, with their contexts. Returns the group's handle, or None.

        A backend that sends processes away checks here, before any of them starts, that all of them can go.
        The default has no groups, and calls :meth:`check` for each process.

        If others run beside them, elsewhere, :attr:`Frame.place` of each context says where it stands among all.

        Raises:
            NotTransportable: a process cannot be sent; nothing has been sent then.
        """
        for process, ctx in members:
            self.check(process, ctx)

    def check(self, process: Composable, ctx: ProcessContext) -> None:  # noqa: B027 - a default, not a stub
        """Refuse a process that cannot be sent here. Called before any earlier part of its program has run.

        The default refuses none.

        Raises:
            NotTransportable: it cannot be sent.
        """

    async def find_group(self, group_id: str) -> GroupPart:
        """What this backend has of a group that was opened earlier, perhaps by another Python process.

        Raises:
            NotImplementedError: this backend has no groups.
            LookupError: there is no such group.
        """
        raise NotImplementedError(f"backend {self.name!r} knows no groups: it forgets its processes when they end")

    async def start_run(self, process: Composable, order: RunOrder) -> Run[Any]:
        """Start a process as a run of its own, which goes on when this program is gone; or find the one of that id.

        Only called if :attr:`has_runs`; for others the program that starts it keeps the run.

        Raises:
            RunConflictError: other work has that id.
            NotTransportable: it cannot be sent; nothing was.
            BackendUnavailableError: what keeps runs cannot be reached.
        """
        raise NotImplementedError(f"backend {self.name!r} keeps no runs")

    async def find_run(self, run_id: str) -> Run[Any]:
        """The run of that id, whoever has started it.

        Raises:
            LookupError: there is none.
            BackendUnavailableError: what keeps runs cannot be reached.
        """
        raise LookupError(f"backend {self.name!r} keeps no runs")

    @property
    def has_runs(self) -> bool:
        """Whether it has an own :meth:`start_run`."""
        return type(self).start_run is not ExecutionBackend.start_run

    @property
    def has_groups(self) -> bool:
        """Whether it has an own :meth:`find_group`."""
        return type(self).find_group is not ExecutionBackend.find_group
