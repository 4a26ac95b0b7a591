"""Processes on the event loop that they are run on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from stbass._process.interrupts import interruptible
from stbass.dataflow.engine.edge import edges_of
from stbass.dataflow.engine.host import Host
from stbass.dataflow.process import Process
from stbass.dataflow.status import Status

__all__ = ["LocalProcess"]


class LocalProcess(Process):
    """A process whose components all run on this event loop. It takes what :class:`Process` takes."""

    kind: ClassVar[str] = "local"

    _host: Host | None = None

    @property
    def _running_host(self) -> Host:
        assert self._host is not None, "between _start and _end there is a host"
        return self._host

    async def _start(self, parts: Mapping[str, bytes] | None) -> None:
        components = list(self.components.values())
        self._host = Host(components, edges_of(components, self.connectors.values()), listener=self)
        with interruptible(cancels=True):
            await self._host.init(parts)

    async def _step_all(self) -> None:
        with interruptible(cancels=True):
            await self._running_host.step()

    async def _run_all(self) -> None:
        with interruptible(cancels=True):
            await self._running_host.run()

    def _cancel_all(self) -> None:
        if self._host is not None:
            self._host.cancel()

    async def _end(self) -> None:
        host, self._host = self._host, None
        if host is not None:
            with interruptible(cancels=True):
                await host.destroy()

    def _is_over(self) -> Status | None:
        host = self._running_host
        if host.ended:
            return Status.COMPLETED
        return Status.STOPPED if host.stopping else None

    def _request_snapshot(self, n: int) -> None:
        self._running_host.request_snapshot(n)

    async def _committed(self, n: int) -> None:
        await self._running_host.committed(n)

    async def _ended_well(self) -> None:
        await self._running_host.ended_well()

    # HostListener -------------------------------------------------------------------------------

    def snapshot_done(self, n: int, parts: Mapping[str, bytes]) -> None:
        """One host: its snapshot is the whole checkpoint."""
        self._checkpoints.add(n, parts)

    def snapshot_failed(self, n: int, error: Exception) -> None:
        """The checkpoint fails."""
        self._checkpoints.failed(n, error)

    def status_changed(self, component: str, status: Status) -> None:
        """Nothing to do: the components here hold their status themselves."""

    def stop_requested(self) -> None:
        """Stop the only host."""
        self._running_host.stop()

    def quiet(self) -> None:
        """Never called: this host has no edges to others."""
