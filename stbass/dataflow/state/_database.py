"""A state backend over an SQL database: everything but the connection and the lock."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, ParamSpec, TypeVar

from stbass.dataflow.state import _sql
from stbass.dataflow.state._records import ProcessRecord, checked_checkpoint
from stbass.dataflow.state._sql import Dialect, JobStatements, Statements
from stbass.dataflow.state.base import StateBackend

__all__ = ["DatabaseStateBackend"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


class DatabaseStateBackend(StateBackend):
    """Runs the statements of :mod:`stbass.dataflow.state._sql`."""

    _dialect: ClassVar[Dialect]

    @abstractmethod
    async def _read(self, make: Callable[_P, Statements[_T]], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run statements that only read, all of the same moment. ``make`` makes them, anew for each attempt."""

    @abstractmethod
    async def _write(self, make: Callable[_P, Statements[_T]], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run statements in a transaction, after which what they wrote is durable.

        Raises:
            StateError: among others, for :class:`~stbass.dataflow.state._sql.Lost`.
        """

    @property
    def _statements(self) -> JobStatements:
        return JobStatements(self._dialect, self._job_id, self._token)

    async def _all_jobs(self) -> dict[str, tuple[str, list[str]]]:
        return await self._read(_sql.all_jobs)

    async def _delete(self) -> None:
        await self._write(self._statements.delete)

    async def _put_job(self, job_id: str, created_at: str, metadata: str | None) -> tuple[str, str | None]:
        return await self._write(_sql.put_job, job_id, created_at, metadata)

    async def _put_process(self, process_id: str, record: ProcessRecord) -> None:
        await self._write(self._statements.put_process, process_id, record)

    async def _get_process(self, process_id: str) -> ProcessRecord | None:
        return await self._read(self._statements.get_process, process_id)

    async def _set_status(self, process_id: str, status: str) -> bool:
        return await self._write(self._statements.set_status, process_id, status)

    async def _statuses(self) -> dict[str, str]:
        return await self._read(self._statements.statuses)

    async def _put_item(self, kind: str, item_id: str, data: str) -> None:
        await self._write(self._statements.put_item, kind, item_id, data)

    async def _get_item(self, kind: str, item_id: str) -> str | None:
        return await self._read(self._statements.get_item, kind, item_id)

    async def _processes_of(self, component_id: str) -> list[str]:
        return await self._read(self._statements.processes_of, component_id)

    async def _holder(self) -> str | None:
        return await self._read(self._statements.holder)

    async def _save(self, n: int, parts: Mapping[str, bytes]) -> None:
        await self._write(self._statements.save, n, parts)

    async def _load(self) -> tuple[int, dict[str, bytes]] | None:
        found = await self._read(self._statements.load)
        return None if found is None else checked_checkpoint(self._job_id, self._where(), *found)
