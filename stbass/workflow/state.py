"""The state and the result of a process of a workflow."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from stbass.workflow.config import ProcessId

__all__ = ["ProcessMetadata", "ProcessResult", "ProcessState"]


class ProcessState(Enum):
    """The state of a process."""

    WAITING = "waiting"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    RETRYING = "retrying"
    """It failed, and waits to be tried again."""
    SKIPPED = "skipped"
    """It never ran: something that it depends on did not complete, or the workflow ended before its turn."""


@dataclass(slots=True)
class ProcessResult:
    """The outcome of a process of a workflow.

    Args:
        success: whether it completed.
        data: what it gave back.
        execution_time: seconds that it took, all attempts and the waits between them included.
        start_time, end_time: when it began and ended; None if it never began.
        error: the text of the error if it failed.
        error_type: the name of the error's class.
        error_message: the same text as ``error``, or the name of the class if the error has none.
        exception: the error itself; None after a resume.
        traceback: text of the traceback, also of one in another Python process or on a worker.
    """

    success: bool
    data: Any = None
    execution_time: float = 0.0
    start_time: datetime | None = None
    end_time: datetime | None = None
    error: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    exception: BaseException | None = field(default=None, compare=False, repr=False)
    traceback: str = field(default="", compare=False, repr=False)


@dataclass(slots=True)
class ProcessMetadata:
    """The state of a process, with what is known of its run.

    Args:
        process_id: as in its configuration.
        state: see :class:`ProcessState`.
        retries: how often it was tried again.
        progress: from 0 to 1, as the process told last (see ``BaseProcess.report_progress``); 1 when it completed.
        start_time, end_time: when it began and ended.
        last_error: what went wrong last, as ``ErrorType: message``.
        result: its outcome when it has ended.
    """

    process_id: str | ProcessId
    state: ProcessState = ProcessState.WAITING
    retries: int = 0
    progress: float = 0.0
    start_time: datetime | None = None
    end_time: datetime | None = None
    last_error: str | None = None
    result: ProcessResult | None = None
