"""The message in a worker that the code that runs now is part of: what is sent meanwhile was sent by it."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from celery import current_task

__all__ = ["RunningMessage", "current_message", "ordinary_task"]


@dataclass(slots=True, unsafe_hash=True)
class RunningMessage:
    """A message at work in a worker.

    Args:
        name: of the process, or of the task.
        id: of both.
        attempt: of a process; 0: it is an ordinary task.
        worker: where it runs.
        lends: whether the worker takes another message while this one waits.
        watched: whether its producer observes what happens inside of it.
        keepers: those that keep their places in workers until it has ended, the nearest first: they wait for it.
    """

    name: str
    id: str
    attempt: int
    worker: str
    lends: bool
    watched: bool = False
    keepers: tuple[RunningMessage, ...] = ()

    def keeping(self) -> tuple[RunningMessage, ...]:
        """Those that keep their places until what this one sends has ended, the nearest first."""
        return self.keepers if self.lends else (self, *self.keepers)

    def __str__(self) -> str:
        return f"{'process' if self.attempt else 'task'} {self.name!r} ({self.id})"


current_message: ContextVar[RunningMessage | None] = ContextVar("stbass_message", default=None)
"""Of the process that runs."""


def ordinary_task() -> RunningMessage | None:
    """The ordinary Celery task that this thread of a worker runs."""
    request = current_task.request if current_task else None
    if request is None or not request.hostname:
        return None
    return RunningMessage(current_task.name, request.id or "", 0, request.hostname, lends=False)
