"""What a state backend must be able to do for :class:`~stbass.dataflow.state.base.StateBackend`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from stbass.dataflow.state._records import ProcessRecord, from_json
from stbass.errors import JobInUseError, StateError

__all__ = ["Store"]


class Store(ABC):
    """Reads and writes the records of one job: ids are checked and values are JSON text when they come here.

    Every method may raise StateError: the store cannot be used. Those that write raise it, and write nothing, when this
    run had the job and lost it to another.
    """

    _job_id: str
    _token: int | None
    """The fence of the job as it was when this run took it; None while this run does not have the job."""

    @abstractmethod
    def _where(self) -> str:
        """Where it stores, for messages: without passwords."""

    @abstractmethod
    async def _open(self) -> None:
        """Connect, and see to it that tables or keys of this version are there."""

    @abstractmethod
    async def _close(self) -> None:
        """Disconnect. Also called when :meth:`_open` failed; must not raise StateError."""

    @abstractmethod
    async def _put_job(self, job_id: str, created_at: str, metadata: str | None) -> tuple[str, str | None]:
        """Store a job if it is new, and the metadata unless None. Gives ``created_at`` and metadata as stored."""

    @abstractmethod
    async def _put_process(self, process_id: str, record: ProcessRecord) -> None:
        """Store a process; its status only if it is new, its components and connectors where they are not None."""

    @abstractmethod
    async def _get_process(self, process_id: str) -> ProcessRecord | None:
        """What is stored of a process."""

    @abstractmethod
    async def _set_status(self, process_id: str, status: str) -> bool:
        """Store a process's status; False if there is no such process."""

    @abstractmethod
    async def _statuses(self) -> dict[str, str]:
        """The statuses of all processes of the job, by id."""

    @abstractmethod
    async def _put_item(self, kind: str, item_id: str, data: str) -> None:
        """Store a component or a connector."""

    @abstractmethod
    async def _get_item(self, kind: str, item_id: str) -> str | None:
        """What is stored of a component or a connector."""

    @abstractmethod
    async def _processes_of(self, component_id: str) -> list[str]:
        """The ids of the processes that have this component."""

    @abstractmethod
    async def _lock(self, holder: str) -> int:
        """Take the job. Gives its fence from now on; raises what :meth:`_in_use` makes if it is taken."""

    @abstractmethod
    async def _unlock(self, token: int) -> None:
        """Give the job up, if its fence is still this."""

    @abstractmethod
    async def _holder(self) -> str | None:
        """Who holds the job, as JSON text, as far as it is known."""

    @abstractmethod
    async def _save(self, n: int, parts: Mapping[str, bytes]) -> None:
        """Replace the checkpoint, if the fence is still ours."""

    @abstractmethod
    async def _load(self) -> tuple[int, dict[str, bytes]] | None:
        """The checkpoint, checked."""

    def _in_use(self, holder: str | None) -> JobInUseError:
        """The error for a job that another run has; ``holder`` is what :func:`this_process` gave there."""
        found = None if holder is None else from_json(holder, f"the holder of {self._job_id}")
        who = None
        if isinstance(found, dict):
            who = f"process {found.get('pid')} on {found.get('host')}, since {found.get('since')}"
        return JobInUseError(
            f"{self._job_id} in {self._where()} is in use by {who or 'another run'}: wait until that run has ended,"
            " end it, or use another job id",
            job_id=self._job_id,
            holder=who,
        )

    def _lost(self, why: str) -> StateError:
        """The error for a run that had the job and has it no more."""
        return StateError(
            f"{self._job_id} in {self._where()} is no longer this run's: {why}. Nothing more is stored by this run;"
            " run the job again to go on from its last checkpoint"
        )
