"""Celery's handle of a group of processes, made so that having it costs nothing."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from celery import Celery
from celery.result import AsyncResult, GroupResult
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
    unsubscribes from each when it is collected, even if the server is gone by then. Here even the results are made
    when somebody looks at them: making one takes a fifth of what sending a process does.
    """

    def __init__(self, group_id: str, task_ids: Iterable[str], app: Celery, backend: Any) -> None:
        self._task_ids = tuple(task_ids)
        self._made: list[AsyncResult] | None = None
        self._results_backend = backend
        super().__init__(group_id, None, ready_barrier=barrier(), app=app)

    @property
    def results(self) -> list[AsyncResult]:
        """One for each process, as in Celery's."""
        if self._made is None:
            self._made = [self.app.AsyncResult(task_id, backend=self._results_backend) for task_id in self._task_ids]
        return self._made

    @results.setter
    def results(self, results: list[AsyncResult] | None) -> None:
        self._made = results

    def as_tuple(self) -> Any:
        """As Celery's, of results that need not be made for it."""
        if self._made is not None:
            return super().as_tuple()
        return (self.id, None), [((task_id, None), None) for task_id in self._task_ids]

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
