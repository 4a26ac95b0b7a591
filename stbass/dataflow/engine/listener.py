"""The listener that a host reports to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from stbass.dataflow.status import Status

__all__ = ["HostListener"]


class HostListener(Protocol):
    """Hears what happens in a host. Called on its event loop; must not take long, and must not raise."""

    def snapshot_done(self, n: int, parts: Mapping[str, bytes]) -> None:
        """The snapshot for checkpoint ``n`` is complete: a part for each component, by name."""

    def snapshot_failed(self, n: int, error: Exception) -> None:
        """The snapshot for checkpoint ``n`` cannot be taken."""

    def status_changed(self, component: str, status: Status) -> None:
        """A component has got another status: initialised, running, or ended in some way."""

    def stop_requested(self) -> None:
        """A component has sent a ``StopEvent``: every host of the process is to :meth:`Host.stop`, also this one."""

    def quiet(self) -> None:
        """No component here can go on unless something comes from elsewhere. Only of a host that has edges to others.

        If all hosts of a process are quiet, and every message between them has arrived, then nothing will come: a round
        of :meth:`Host.step` is over (:meth:`Host.end_round`), a run has come to a stop.
        """
