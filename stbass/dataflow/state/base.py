"""The base class of state backends. They store jobs: their processes, statuses, checkpoints, and who runs them.

The data model, which each backend stores in its own way (see the comment block at the top of its module). Everything
belongs to a job; text is JSON, never pickle.

job
    ``job_id``; ``created_at``; ``metadata``; ``holder`` (host, pid, since) of the run that has it; ``fence``, a number
    that grows with each run that gets it, so that a run that lost the job can write nothing more.
process
    ``id``; what its ``dict()`` gave, with the ids of its components and connectors; ``status``.
component, connector
    ``id``; what its ``dict()`` gave.
checkpoint
    the last one only: its number, and bytes by name, each with a checksum.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import Any, ClassVar, Self, TypeAlias

from stbass._values.texts import value_text
from stbass.dataflow.export import Exportable
from stbass.dataflow.state._records import (
    ProcessRecord,
    check_id,
    check_job_id,
    check_parts,
    from_json,
    new_job_id,
    now,
    this_process,
    to_json,
)
from stbass.dataflow.status import Status
from stbass.errors import JobInUseError, NotFoundError, NotInitialisedError, StateError, StateUnavailable

__all__ = ["Describable", "JobSummary", "StateBackend"]

_log = logging.getLogger(__name__)

_PAUSES = (0.05, 1.0)
"""Seconds between two attempts to reach a server that is away: the first, and the longest."""

Describable: TypeAlias = Mapping[str, Any] | Exportable
"""A process, component or connector, or what its ``dict()`` gave."""


@dataclass(frozen=True, slots=True)
class JobSummary:
    """A job that is kept.

    Args:
        job_id: which.
        created_at: when it was first made: ISO 8601, in UTC.
        status: how far it is, as :meth:`StateBackend.job_status` says.
    """

    job_id: str
    created_at: str
    status: Status


class StateBackend(Exportable, ABC):
    """Where the state of jobs is kept.

    An async context manager: entering is :meth:`init`, leaving is :meth:`destroy`. It is for one event loop at a time.

    Args:
        job_id: the job to keep: ``Job_`` and 8 or more letters or digits. None makes a new one.
        metadata: JSON to keep with the job. None leaves what is stored.

    Raises:
        ConfigurationError: the job id is none.
        StateError: the metadata are not JSON.
    """

    durable: ClassVar[bool] = True
    """Whether what is stored outlives this Python process, so that a job that died can be gone on with."""

    def __init__(self, job_id: str | None = None, metadata: Mapping[str, Any] | None = None) -> None:
        self._job_id = new_job_id() if job_id is None else check_job_id(job_id)
        self._metadata = None if metadata is None else to_json(dict(metadata), "metadata")
        self._created_at = now()
        self._opened = False
        self._users: dict[int, object] = {}
        self._opened_for_users = False
        self._patience = 0.0
        """Seconds for which a server that is away at a checkpoint is waited for."""
        self._is_away = False
        self._token: int | None = None
        """The fence of the job as it was when this run took it; None while this run does not have the job."""
        self._turn_of: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._where()}, job_id={self._job_id!r})"

    @property
    def job_id(self) -> str:
        """The job that is kept: ``Job_`` and letters or digits."""
        return self._job_id

    @property
    def created_at(self) -> str:
        """When the job was first made: ISO 8601, in UTC. After :meth:`init` it is what is stored."""
        return self._created_at

    @property
    def metadata(self) -> dict[str, Any]:
        """What was given to keep with the job, a copy. After :meth:`init` it is what is stored."""
        found: dict[str, Any] = {} if self._metadata is None else from_json(self._metadata, "the job's metadata")
        return found

    @property
    def is_initialised(self) -> bool:
        """Whether it is between :meth:`init` and :meth:`destroy`."""
        return self._opened

    # Life ----------------------------------------------------------------------------------------

    async def init(self) -> None:
        """Connect, and store the job if it is new. Idempotent.

        Raises:
            StateError: the store cannot be used; the message says why and what to do.
        """
        async with self._turn():
            await self._start()

    async def destroy(self) -> None:
        """Give the job up if it is held, and disconnect. Idempotent; :meth:`init` can be called again."""
        async with self._turn():
            await self._end()

    async def attach(self, user: object) -> None:
        """Begin to use it, perhaps together with others: it is connected until the last of them detaches.

        Args:
            user: who uses it, a process or a component.

        Raises:
            StateError: as :meth:`init`.
        """
        async with self._turn():
            if not self._opened:
                await self._start()
                self._opened_for_users = True
            self._users[id(user)] = user

    async def detach(self, user: object, *, has_job: bool = False) -> None:
        """Stop using it. Idempotent. It stays connected for other users, or if it was connected before.

        Args:
            user: who used it.
            has_job: whether the job is that user's, and is given up.

        Raises:
            StateError: the store could not be told that the job is given up; it is free when it misses this process.
        """
        async with self._turn():
            self._users.pop(id(user), None)
            if self._opened_for_users and not self._users:
                await self._end()
            elif has_job and self._opened:
                await self._give_up()

    async def __aenter__(self) -> Self:
        await self.init()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.destroy()

    async def new_job(self, user: object = None) -> str:
        """Go over to a fresh job, with the same metadata; a job that is held is given up first. Gives its id.

        Args:
            user: who wants it, and may be attached.

        Raises:
            StateError: as :meth:`init`; or somebody uses the job that it has now.
        """
        async with self._turn():
            others = [one for one in self._users.values() if one is not user]
            if others:
                raise StateError(
                    f"{self!r} cannot go over to a new job: {', '.join(map(repr, others))} is at work with this one. "
                    f"Give each a state object of its own"
                )
            if self._opened:
                await self._give_up()
            self._job_id = new_job_id()
            self._created_at = now()
            if self._opened:
                await self._keep_job()
            return self._job_id

    # Processes, components, connectors -----------------------------------------------------------

    async def upsert_process(self, process: Describable, with_components: bool = False) -> None:
        """Store a process, or what changed of it.

        Its status is stored if the process is new; later only :meth:`update_process_status` changes that.

        Args:
            process: with ``id``; ``components`` and ``connectors`` are by id.
            with_components: store these, too, and not only which they are.

        Raises:
            StateError: it is not JSON, or could not be stored.
        """
        self._must_be_open()
        data = _described(process)
        process_id = check_id(data, "process")
        status = Status(data.get("status", Status.CREATED))
        items = {kind: _by_id(data, process_id, kind) for kind in ("component", "connector")}
        data.update(status=status.value, components=list(items["component"]), connectors=list(items["connector"]))
        texts: dict[str, dict[str, str | None]] = {
            kind: {
                key: to_json(item, f"{kind} {key!r} of process {process_id!r}") if with_components else None
                for key, item in found.items()
            }
            for kind, found in items.items()
        }
        text = to_json(data, f"process {process_id!r}")
        await self._put_process(process_id, ProcessRecord(text, status.value, texts["component"], texts["connector"]))

    async def get_process(self, process_id: str) -> dict[str, Any]:
        """What is stored of a process. A component or connector that was not stored itself is an empty dict.

        Raises:
            NotFoundError: there is no such process in this job.
        """
        self._must_be_open()
        record = await self._get_process(process_id)
        if record is None:
            raise self._not_found("process", process_id)
        found: dict[str, Any] = from_json(record.data, f"process {process_id!r}")
        found["status"] = record.status
        for kind, texts in (("component", record.components), ("connector", record.connectors)):
            found[f"{kind}s"] = {
                key: {} if text is None else from_json(text, f"{kind} {key!r}") for key, text in texts.items()
            }
        return found

    async def update_process_status(self, process_id: str, status: Status) -> None:
        """Store what a process is doing.

        Raises:
            NotFoundError: there is no such process in this job.
            StateError: the job was lost to another run, or the status could not be stored.
        """
        self._must_be_open()
        if not await self._set_status(process_id, Status(status).value):
            raise self._not_found("process", process_id)

    async def get_process_status(self, process_id: str) -> Status:
        """What a process is doing.

        Raises:
            NotFoundError: there is no such process in this job.
        """
        self._must_be_open()
        found = (await self._statuses()).get(process_id)
        if found is None:
            raise self._not_found("process", process_id)
        return self._status(found)

    async def upsert_component(self, component: Describable) -> None:
        """Store a component (with ``id``), or what changed of it. Raises as :meth:`upsert_process`."""
        await self._upsert("component", component)

    async def get_component(self, component_id: str) -> dict[str, Any]:
        """What is stored of a component.

        Raises:
            NotFoundError: there is no such component in this job.
        """
        return await self._get("component", component_id)

    async def upsert_connector(self, connector: Describable) -> None:
        """Store a connector (with ``id``), or what changed of it. Raises as :meth:`upsert_process`."""
        await self._upsert("connector", connector)

    async def get_connector(self, connector_id: str) -> dict[str, Any]:
        """What is stored of a connector.

        Raises:
            NotFoundError: there is no such connector in this job.
        """
        return await self._get("connector", connector_id)

    async def get_process_for_component(self, component_id: str) -> dict[str, Any]:
        """What is stored of the process that a component belongs to.

        Raises:
            NotFoundError: no process of this job has such a component.
            StateError: more than one has.
        """
        self._must_be_open()
        found = await self._processes_of(component_id)
        if not found:
            raise NotFoundError(f"no process of {self._job_id} in {self._where()} has a component {component_id!r}")
        if len(found) > 1:
            raise StateError(
                f"{component_id!r} is a component of several processes of {self._job_id}: {', '.join(sorted(found))};"
                " give components of one job different names, or each process a job of its own"
            )
        return await self.get_process(found[0])

    # The job -------------------------------------------------------------------------------------

    async def job_status(self) -> Status:
        """How far the job is, from the statuses of its processes.

        Completed if all are; failed or stopped if one is; created if there is none yet; else what the busiest one does.
        """
        self._must_be_open()
        return self._overall((await self._statuses()).values())

    def _overall(self, statuses: Iterable[str]) -> Status:
        found = {self._status(status) for status in statuses}
        if found == {Status.COMPLETED}:
            return Status.COMPLETED
        order = (Status.FAILED, Status.STOPPED, Status.RUNNING, Status.WAITING, Status.INIT)
        busiest = next((status for status in order if status in found), Status.CREATED)
        # One that has completed beside one that was never started: the job is on its way.
        return Status.RUNNING if busiest is Status.CREATED and Status.COMPLETED in found else busiest

    async def jobs(self) -> list[JobSummary]:
        """All jobs that are kept where this one is, the oldest first. It need not be connected.

        Raises:
            StateError: the store cannot be used.
        """
        async with self._apart(self._job_id) as apart:
            found = await apart._all_jobs()
        made = [JobSummary(job_id, at, self._overall(statuses)) for job_id, (at, statuses) in found.items()]
        return sorted(made, key=lambda job: (job.created_at, job.job_id))

    async def delete_job(self, job_id: str) -> None:
        """Delete a job, with its checkpoint and all that is kept of its processes. It need not be connected.

        Raises:
            ConfigurationError: the job id is none.
            NotFoundError: there is no such job.
            JobInUseError: a living run has it.
            StateError: the store cannot be used.
        """
        async with self._apart(check_job_id(job_id)) as apart:
            if job_id not in await apart._all_jobs():
                raise NotFoundError(f"there is no {job_id} in {self._where()}")
            apart._token = await apart._lock(this_process())
            try:
                await apart._delete()
            finally:
                await apart._give_up()

    @asynccontextmanager
    async def _apart(self, job_id: str) -> AsyncIterator[Self]:
        """Another object with a connection of its own, which has this job and stores nothing of it by itself."""
        made = copy.copy(self)
        made._job_id, made._token, made._turn_of = job_id, None, None
        made._forget_connection()
        try:
            await made._open()
            yield made
        finally:
            await made._close()

    async def acquire_job(self) -> None:
        """Take the job for this run. It is given back by :meth:`release_job`, or when this Python process dies.

        Raises:
            JobInUseError: a living run has it; ``holder`` says which.
            StateError: the store cannot be used.
        """
        self._must_be_open()
        async with self._turn():
            if self._token is not None:
                raise self._in_use(await self._holder())
            self._token = await self._lock(this_process())

    async def release_job(self) -> None:
        """Give the job up. Idempotent.

        Raises:
            StateError: the store could not be told; the job is free when it misses this process.
        """
        async with self._turn():
            if self._opened:
                await self._give_up()

    async def save_checkpoint(self, n: int, parts: Mapping[str, bytes]) -> None:
        """Put this checkpoint in the place of the last one: all of it, or none. When it returns, it is durable.

        Args:
            n: its number.
            parts: bytes by name.

        A server that is away is waited for, for as long as the backend's ``timeout``.

        Raises:
            StateUnavailable: it stayed away for longer.
            StateError: the job is not held, or was lost to another run; or the checkpoint could not be stored.
        """
        self._must_be_open()
        found = check_parts(n, parts)
        if self._token is None:
            raise StateError(f"a checkpoint of {self._job_id} can be saved only by who holds it: acquire_job() first")
        await self._patiently(lambda: self._save(n, found))

    async def load_checkpoint(self) -> tuple[int, dict[str, bytes]] | None:
        """Number and parts of the last checkpoint of the job, or None.

        Raises:
            CheckpointError: it is damaged.
        """
        self._must_be_open()
        return await self._load()

    # Inside ---------------------------------------------------------------------------------------

    async def _start(self) -> None:
        if self._opened:
            return
        try:
            await self._open()
            await self._keep_job()
        except BaseException:
            await self._close()
            raise
        self._opened = True

    async def _patiently(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do this; as long as the store is away, wait for it, and say so once."""
        began, pause = monotonic(), _PAUSES[0]
        while True:
            try:
                await work()
            except StateUnavailable as error:
                waited = monotonic() - began
                left = self._patience - waited
                if left <= 0:
                    raise StateUnavailable(f"{error}; it has been tried for {waited:.1f} s") from error
                if not self._is_away:
                    self._is_away = True
                    _log.warning("%s; it is waited for, for up to %g s", error, self._patience)
                await asyncio.sleep(min(pause, left))
                pause = min(2 * pause, _PAUSES[1])
            else:
                if self._is_away:
                    self._is_away = False
                    _log.warning("%s can be used again", self._where())
                return

    async def _end(self) -> None:
        if not self._opened:
            return
        self._opened = self._opened_for_users = False
        try:
            await self._give_up()
        except StateError as error:
            # Whoever holds the other end of the lock will miss this process; there is nothing left to do here.
            _log.warning("%s was not given up in an orderly way: %s", self._job_id, error)
        finally:
            await self._close()

    def _turn(self) -> asyncio.Lock:
        """The lock for what changes this object itself, on this event loop."""
        loop = asyncio.get_running_loop()
        if self._turn_of is None or self._turn_of[0] is not loop:
            self._turn_of = (loop, asyncio.Lock())
        return self._turn_of[1]

    def _must_be_open(self) -> None:
        if not self._opened:
            raise NotInitialisedError(f"{self!r} is not connected: use it in `async with`, or call init() first")

    def _not_found(self, kind: str, key: str) -> NotFoundError:
        return NotFoundError(f"{self._job_id} in {self._where()} has no {kind} {key!r}")

    def _status(self, text: str) -> Status:
        try:
            return Status(text)
        except ValueError:
            raise StateError(f"{self._job_id} in {self._where()} has a process with the status {text!r}") from None

    async def _keep_job(self) -> None:
        self._created_at, self._metadata = await self._put_job(self._job_id, self._created_at, self._metadata)

    async def _give_up(self) -> None:
        token, self._token = self._token, None
        if token is not None:
            await self._unlock(token)

    async def _upsert(self, kind: str, item: Describable) -> None:
        self._must_be_open()
        data = _described(item)
        item_id = check_id(data, kind)
        await self._put_item(kind, item_id, to_json(data, f"{kind} {item_id!r}"))

    async def _get(self, kind: str, item_id: str) -> dict[str, Any]:
        self._must_be_open()
        text = await self._get_item(kind, item_id)
        if text is None:
            raise self._not_found(kind, item_id)
        found: dict[str, Any] = from_json(text, f"{kind} {item_id!r}")
        return found

    # What a kind of state does ---------------------------------------------------------------------
    #
    # Ids are checked and values are JSON text when they come here. Every method may raise StateError: the store cannot
    # be used; StateUnavailable: it cannot just now. Those that write raise StateError, and write nothing, when this run
    # had the job and lost it to another.

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
    def _forget_connection(self) -> None:
        """This is a copy, and is to connect by itself."""

    @abstractmethod
    async def _all_jobs(self) -> dict[str, tuple[str, list[str]]]:
        """Every job that is kept: when it was made, and the statuses of its processes."""

    @abstractmethod
    async def _delete(self) -> None:
        """Delete the job, which this run holds, and all that belongs to it."""

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
        """The error for a run that has lost the job."""
        return StateError(
            f"{self._job_id} in {self._where()} is no longer this run's: {why}. Nothing more is stored by this run;"
            " run the job again to go on from its last checkpoint"
        )


def _described(item: Describable) -> dict[str, Any]:
    found: Any = item.dict() if isinstance(item, Exportable) else item
    if not isinstance(found, Mapping):
        raise StateError(f"a dict is needed to store, or an object with dict(), not {value_text(found)}")
    return dict(found)


def _by_id(data: Mapping[str, Any], process_id: str, kind: str) -> dict[str, Any]:
    found = data.get(f"{kind}s") or {}
    if not isinstance(found, Mapping):
        raise StateError(
            f"process {process_id!r} cannot be stored: its {kind}s must be a dict by id, not {value_text(found)}"
        )
    for key in found:
        check_id({"id": key}, kind)
    return dict(found)
