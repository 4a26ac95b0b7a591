"""State in a dict: for runs that need not outlive this Python process.

The data model (written and read by this object only; gone with it): a :class:`_Job` per job id, with

``processes``
    process id -> :class:`ProcessRecord`, whose component and connector texts are not used.
``items``
    (``component`` or ``connector``, id) -> JSON text.
``checkpoint``
    number and parts, or None.
``holder``, ``fence``
    who has the job (JSON text, None: nobody), and how often it was taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from stbass.dataflow.state._records import ProcessRecord
from stbass.dataflow.state.base import StateBackend

__all__ = ["DictStateBackend"]


@dataclass(slots=True)
class _Job:
    created_at: str
    metadata: str | None = None
    processes: dict[str, ProcessRecord] = field(default_factory=dict)
    items: dict[tuple[str, str], str] = field(default_factory=dict)
    checkpoint: tuple[int, dict[str, bytes]] | None = None
    holder: str | None = None
    fence: int = 0


class DictStateBackend(StateBackend):
    """State in memory. Nothing of it lasts longer than this object."""

    durable = False

    def __init__(self, job_id: str | None = None, metadata: Mapping[str, object] | None = None) -> None:
        super().__init__(job_id, metadata)
        self._jobs: dict[str, _Job] = {}

    def _where(self) -> str:
        return "memory"

    @property
    def _job(self) -> _Job:
        return self._jobs[self._job_id]

    async def _open(self) -> None:
        pass

    async def _close(self) -> None:
        pass

    def _forget_connection(self) -> None:
        pass

    async def _all_jobs(self) -> dict[str, tuple[str, list[str]]]:
        return {
            job_id: (job.created_at, [record.status for record in job.processes.values()])
            for job_id, job in self._jobs.items()
        }

    async def _delete(self) -> None:
        del self._jobs[self._job_id]

    async def _put_job(self, job_id: str, created_at: str, metadata: str | None) -> tuple[str, str | None]:
        job = self._jobs.setdefault(job_id, _Job(created_at))
        if metadata is not None:
            job.metadata = metadata
        return job.created_at, job.metadata

    async def _put_process(self, process_id: str, record: ProcessRecord) -> None:
        known = self._job.processes.get(process_id)
        self._job.processes[process_id] = record if known is None else replace(record, status=known.status)
        for kind, texts in (("component", record.components), ("connector", record.connectors)):
            self._job.items.update({(kind, key): text for key, text in texts.items() if text is not None})

    async def _get_process(self, process_id: str) -> ProcessRecord | None:
        record = self._job.processes.get(process_id)
        if record is None:
            return None
        items = self._job.items
        return replace(
            record,
            components={key: items.get(("component", key)) for key in record.components},
            connectors={key: items.get(("connector", key)) for key in record.connectors},
        )

    async def _set_status(self, process_id: str, status: str) -> bool:
        record = self._job.processes.get(process_id)
        if record is None:
            return False
        self._job.processes[process_id] = replace(record, status=status)
        return True

    async def _statuses(self) -> dict[str, str]:
        return {key: record.status for key, record in self._job.processes.items()}

    async def _put_item(self, kind: str, item_id: str, data: str) -> None:
        self._job.items[kind, item_id] = data

    async def _get_item(self, kind: str, item_id: str) -> str | None:
        return self._job.items.get((kind, item_id))

    async def _processes_of(self, component_id: str) -> list[str]:
        return [key for key, record in self._job.processes.items() if component_id in record.components]

    async def _lock(self, holder: str) -> int:
        # Whoever shares this object is told by the base class; only who deletes a job has another one.
        if self._job.holder is not None:
            raise self._in_use(self._job.holder)
        self._job.holder = holder
        self._job.fence += 1
        return self._job.fence

    async def _unlock(self, token: int) -> None:
        job = self._jobs.get(self._job_id)
        if job is not None and job.fence == token:
            job.holder = None

    async def _holder(self) -> str | None:
        return self._job.holder

    async def _save(self, n: int, parts: Mapping[str, bytes]) -> None:
        self._job.checkpoint = n, dict(parts)

    async def _load(self) -> tuple[int, dict[str, bytes]] | None:
        found = self._job.checkpoint
        return None if found is None else (found[0], dict(found[1]))
