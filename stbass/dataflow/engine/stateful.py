"""What a process has to do with its state: connecting, telling it how far it is, having the job, leaving."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from logging import getLogger
from typing import Any

from stbass.dataflow.engine.checkpoints import Checkpoints
from stbass.dataflow.model.components import Component
from stbass.dataflow.model.connector import Connector
from stbass.dataflow.model.export import Exportable, class_path
from stbass.dataflow.model.status import Status
from stbass.dataflow.state.base import StateBackend
from stbass.errors import DataflowError, ProcessCancelled

__all__ = ["Stateful"]

_log = getLogger(__name__)


class Stateful(Exportable):
    """The half of a :class:`~stbass.dataflow.process.Process` that deals with its state.

    Args:
        state: the state; others may use it too.
    """

    name: str
    components: Mapping[str, Component]
    connectors: Mapping[str, Connector]
    _checkpoints: Checkpoints

    def __init__(self, state: StateBackend) -> None:
        self._state = state
        self._status = Status.CREATED
        self._told: Status | None = None
        """What the state was last told that it is doing."""
        self._is_attached = self._is_connected = self._has_job = False

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

    async def connect_state(self, state: StateBackend | None = None) -> None:
        """Connect to the state, and tell it what this process is. Again does nothing.

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
        await self._state.upsert_process(self._record(), with_components=True)
        self._told = self._status
        self._is_connected = True

    async def _attach(self) -> None:
        if not self._is_attached:
            await self._state.attach(self)
            self._is_attached = True

    async def _job_is_over(self) -> bool:
        return self._state.durable and await self._state.job_status() is Status.COMPLETED

    def _record(self) -> dict[str, Any]:
        """What the state is told: names and kinds, no values."""
        return {
            "id": self.id,
            "name": self.name,
            "type": class_path(type(self)),
            "status": str(self._status),
            "components": {key: one._stbass_record() for key, one in self.components.items()},
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
        await self._tell_status()

    async def _set_last_status(self, error: BaseException) -> None:
        """The error ends it. Whatever becomes of the state, that is what the caller hears of."""
        is_stop = isinstance(error, ProcessCancelled | asyncio.CancelledError)
        try:
            await self._set_status(Status.STOPPED if is_stop else Status.FAILED)
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
