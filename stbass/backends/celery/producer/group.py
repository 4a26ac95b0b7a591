"""Celery's handle of a group of processes, made so that having it costs nothing."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from celery import Celery
from celery.result import GroupResult
from vine import barrier

__all__ = ["IdleGroupResult"]


class _FleetGroupResult(GroupResult):
    """A ``GroupResult`` whose results need not be where those of ordinary tasks are."""

    @property
    def backend(self) -> Any:
        """Where the results are."""
        return self.results[0].backend if self.results else self.app.backend


class IdleGroupResult(_FleetGroupResult):
    """A ``GroupResult`` that leaves Redis alone until somebody waits on it.

    An ordinary one subscribes to each of its results when it is made, one blocking round trip after the other, and
    unsubscribes from each when it is collected, even if the server is gone by then.
    """

    def __init__(self, group_id: str, task_ids: Iterable[str], app: Celery, backend: Any) -> None:
        results = [app.AsyncResult(task_id, backend=backend) for task_id in task_ids]
        super().__init__(group_id, results, ready_barrier=barrier(), app=app)

    @functools.cached_property
    def _waiting(self) -> GroupResult:
        # Kept: what waits for an ordinary group's results holds it only weakly.
        return _FleetGroupResult(self.id, self.results, parent=self.parent, app=self.app)

    def iter_native(self, *args: Any, **kwargs: Any) -> Any:
        """As Celery's; :meth:`get` and :meth:`join_native` go through it."""
        return self._waiting.iter_native(*args, **kwargs)

    def then(self, *args: Any, **kwargs: Any) -> Any:
        """As Celery's."""
        return self._waiting.then(*args, **kwargs)

    def __reduce__(self) -> Any:
        """Travels, and is copied, as an ordinary one."""
        return self._waiting.__reduce__()
