"""How the code of a workflow's process is called, wherever it runs."""

from __future__ import annotations

import inspect
from contextvars import ContextVar
from typing import Any, Final

from stbass._process.interrupts import called_here
from stbass._process.sync_threads import SyncThreads, shared_threads
from stbass.errors import ProcessFailed
from stbass.workflow.protocols import ProcessLike
from stbass.workflow.state import ProcessResult

__all__ = [
    "OF_BASE_CLASS",
    "fraction",
    "is_coroutine",
    "overrides_execute",
    "own_process",
    "run_code",
    "runs_here",
]

OF_BASE_CLASS: Final = "__stbass_of_base_class__"
"""The mark on the base class's own ``execute``, by which this module knows it without knowing the base class."""

_running: ContextVar[ProcessLike | None] = ContextVar("stbass_workflow_running", default=None)
"""The process whose own code this is part of."""


def runs_here(process: ProcessLike) -> bool:
    """Whether this is called by the own code of ``process``."""
    return _running.get() is process


async def run_code(
    process: ProcessLike,
    input_data: Any,
    *,
    thread: bool = False,
    threads: SyncThreads | None = None,
) -> Any:
    """Run what its class overrides, and give back its data.

    Args:
        thread: whether to run a sync ``process`` in a thread, so that it holds up nobody.
        threads: where to run it, async or not; it is left behind there when this is cancelled.

    Raises:
        Exception: whatever it raises, or the error in the failed result that it gave back.
    """
    token = _running.set(process)
    try:
        if threads is not None:
            code = process.execute if overrides_execute(process) else process.process
            return _unwrapped(await threads.call(code, input_data), process)
        if overrides_execute(process):
            return _unwrapped(await process.execute(input_data), process)
        if thread and not is_coroutine(process):
            return _unwrapped(await shared_threads().call_plain(process.process, input_data), process)
        return await own_process(process, input_data)
    finally:
        _running.reset(token)


async def own_process(process: ProcessLike, input_data: Any) -> Any:
    """Call ``process(input_data)``, which may be ``async def``, and give back its data.

    Raises:
        Exception: whatever it raises, or the error in the failed result that it gave back.
    """
    value = called_here(process.process, input_data)
    if inspect.isawaitable(value):
        value = await value
    return _unwrapped(value, process)


def overrides_execute(process: ProcessLike) -> bool:
    """Whether its code is ``async def execute(input_data)``."""
    return not getattr(type(process).execute, OF_BASE_CLASS, False)


def is_coroutine(process: ProcessLike) -> bool:
    """Whether its code is a coroutine, which can be cancelled where it waits."""
    return overrides_execute(process) or inspect.iscoroutinefunction(process.process)


def _unwrapped(value: Any, process: ProcessLike) -> Any:
    """The data of a result; any other value as it is.

    Raises:
        Exception: the result is a failure: its error.
    """
    if not isinstance(value, ProcessResult):
        return value
    if value.success:
        return value.data
    if value.exception is not None:
        raise value.exception
    why = ": ".join(part for part in (value.error_type, value.error) if part) or "it does not say why"
    raise ProcessFailed(f"process {process.config.process_id!s} gave back a failed result: {why}")


def fraction(done: float, total: float | None) -> float:
    """How far that is, from 0 to 1."""
    whole = 1.0 if total is None else total
    return min(1.0, max(0.0, done / whole)) if whole > 0 else 0.0
