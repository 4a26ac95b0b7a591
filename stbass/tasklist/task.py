"""A task: a callable with its arguments, and where it is placed."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple

from stbass._process.call import Call, is_async
from stbass._process.context import ProcessContext
from stbass._process.interrupts import called_here
from stbass._process.sync_threads import SyncThreads
from stbass._values.endpoint import Placement

__all__ = ["Task", "TaskCall"]


class Task(NamedTuple):
    """A task of a list, as it was added."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    placement: Placement | None = None


class TaskCall(Call):
    """A task as a process of the core.

    Args:
        direct: whether a sync function is called in the very thread that runs it, instead of one beside that.
    """

    def __init__(self, task: Task, *, direct: bool) -> None:
        super().__init__(task.function, task.args, task.kwargs, task.placement)
        self.is_plain = task.placement is None and not is_async(task.function)
        """Whether it is a sync function, and not placed."""
        self._direct = direct and self.is_plain
        self.threads: SyncThreads | None = None
        """Where a sync function is called that is not called directly."""

    async def _perform(self, ctx: ProcessContext) -> Any:
        if self.threads is not None:
            return await self.threads.call(partial(self.function, *self.args, **self.kwargs))
        if not self._direct:
            return await super()._perform(ctx)
        value = called_here(self.function, *self.args, **self.kwargs)
        if not inspect.isawaitable(value):
            return value
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(_awaited(value))
        return await value


async def _awaited(value: Awaitable[Any]) -> Any:
    return await value
