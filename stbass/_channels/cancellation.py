"""A cancellation that comes when an operation has already happened: the operation ends well, the cancellation follows.

asyncio cancels a task by raising in it, also when what the task waited for came true a moment before and the task has
only not run yet. A rendezvous cannot be undone then: the other side has gone on. So the operation returns what it has,
and the cancellation is raised where the task waits next, as if it had come an instant later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["defer", "is_being_cancelled", "owed", "raise_owed", "to_the_end"]

R = TypeVar("R")

owed: dict[asyncio.Task[Any], tuple[asyncio.CancelledError, int]] = {}
"""Tasks with a cancellation put off, and how many requests to cancel they had then. Empty nearly always."""


def is_being_cancelled() -> bool:
    """Whether somebody has asked for the current task to be cancelled."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def defer(cancel: asyncio.CancelledError) -> None:
    """Put off a cancellation that was raised in the current task, until that task waits next."""
    task = asyncio.current_task()
    if task is None or not task.cancelling():
        return  # whoever asked for it has taken it back
    if task not in owed:
        task.get_loop().call_soon(_deliver, task)
    owed[task] = cancel, task.cancelling()


def raise_owed() -> None:
    """Raise the cancellation that the current task is owed, if any: to be called before it waits.

    Without this, a task could be served again and again between its cancellation and :func:`_deliver`.
    """
    task = asyncio.current_task()
    if task is not None and (debt := owed.pop(task, None)) is not None:
        cancel, requests = debt
        if task.cancelling() >= requests:
            raise cancel


def _deliver(task: asyncio.Task[Any]) -> None:
    debt = owed.pop(task, None)
    if debt is None:
        return  # raised meanwhile
    cancel, requests = debt
    if task.done() or task.cancelling() < requests:
        return  # it ended, or a time-out that had asked for it is over: nobody wants it any more
    task.cancel(*cancel.args[:1])
    # That was the same request once more, not another one: who counts them (asyncio.timeout, TaskGroup) sees one.
    task.uncancel()


async def to_the_end(work: Coroutine[Any, Any, R]) -> tuple[R, asyncio.CancelledError | None]:
    """Await ``work`` to its end, whatever cancellations come meanwhile.

    Returns:
        Its result, and the last cancellation that came or None. The caller owes its task that cancellation.

    Raises:
        CancelledError: one came, and the work failed.
    """
    task = asyncio.ensure_future(work)
    cancel: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            cancel = error
    if cancel is not None and (task.cancelled() or task.exception() is not None):
        raise cancel  # the work came to nothing, and nobody is going to act on why
    return task.result(), cancel
