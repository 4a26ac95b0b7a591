"""Celery's signals of tasks, for processes on the event loop: whoever listens to those of tasks hears of these too.

They are sent as Celery's own pools send them, in the same order and with the same arguments; the sender is the task
``stbass.execute``. On Celery's own pools Celery sends them itself.
"""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from operator import attrgetter
from types import TracebackType
from typing import Any

from billiard.einfo import ExceptionInfo
from celery import signals, states
from celery._state import _task_stack
from celery.app.task import Context
from celery.utils.dispatch import Signal
from celery.utils.log import get_logger

from stbass._values.texts import error_text, type_name_of
from stbass.backends.celery.worker.runtime import Outcome
from stbass.errors import ProcessCancelled, RemoteError

__all__ = ["ProcessSignals", "sends_events", "somebody_listens"]

_log = get_logger(__name__)
_SENT = (
    signals.task_prerun,
    signals.task_success,
    signals.task_failure,
    signals.task_revoked,
    signals.task_postrun,
)
_receivers_of = attrgetter("receivers")


def somebody_listens() -> bool:
    """Whether one of the signals that tell of a run has a receiver."""
    return any(map(_receivers_of, _SENT))


def sends_events(eventer: Any) -> bool:
    """Whether the worker sends events of tasks (``-E``): otherwise it sends those of workers only."""
    return bool(eventer and eventer.enabled and (not eventer.groups or "task" in eventer.groups))


class ProcessSignals:
    """Tells those who listen of one process. Receivers run on the event loop, as a task's run in its thread.

    Args:
        request: the process's.
    """

    def __init__(self, request: Any) -> None:
        self._request = request
        self._ran = False
        self.context = copy_context()
        """Receivers and the process share it: what one of them sets the others see, as in a task's thread."""

    def starts(self) -> None:
        """The process is about to run. Called on the event loop, in the context."""
        self._ran = True
        self._send(signals.task_prerun, **self._told, task=self._request.task)

    def ended(self, outcome: Outcome) -> None:
        """It has run, or will not; its result is stored. Called on the event loop."""
        # A little later: the process's own task may still be in the context.
        asyncio.get_running_loop().call_soon(self._tell_end, outcome, context=self.context)

    def _tell_end(self, outcome: Outcome) -> None:
        result, state, retval = outcome.result, states.REJECTED, None
        if result is not None and result.is_ok:
            state, retval = states.SUCCESS, result.value
            runtime = 0.0 if result.elapsed is None else result.elapsed.total_seconds()
            self._send(signals.task_success, result=retval, runtime=runtime)
        elif result is not None:
            retval = result.failure.error
            if issubclass(type(retval), ProcessCancelled):
                state = states.REVOKED
                cancelled = {"terminated": True, "signum": self._request.signum, "expired": False}
                self._send(signals.task_revoked, request=self._request_context(), **cancelled)
            else:
                state = states.FAILURE
                self._tell_failure(retval)
        if self._ran:
            self._send(signals.task_postrun, **self._told, task=self._request.task, retval=retval, state=state)

    def _tell_failure(self, error: BaseException) -> None:
        if not signals.task_failure.receivers:
            return
        try:
            raised, trace, einfo = _raised(error)
        except BaseException:
            # One whose attributes cannot be read: it is told as it is stored.
            raised, trace, einfo = _raised(RemoteError(error_text(error), type_name=type_name_of(type(error))))
        self._send(signals.task_failure, **self._told, exception=raised, traceback=trace, einfo=einfo)

    @property
    def _told(self) -> dict[str, Any]:
        return {"task_id": self._request.id, "args": [], "kwargs": {}}

    def _request_context(self) -> Context:
        return Context(self._request.request_dict, args=[], kwargs={}, called_directly=False)

    def _send(self, signal: Signal, **arguments: Any) -> None:
        if not signal.receivers:
            return
        task = self._request.task
        # For as long as the receivers are at it: `sender.request` and `current_task` are this process's.
        _task_stack.push(task)
        task.request_stack.push(self._request_context())
        try:
            signal.send(sender=task, **arguments)
        except BaseException:
            # Celery has logged an Exception; one that is none must not end the event loop.
            _log.exception("a receiver of a signal ended the call of the others")
        finally:
            task.request_stack.pop()
            _task_stack.pop()


def _raised(error: BaseException) -> tuple[BaseException, TracebackType | None, ExceptionInfo]:
    """An error with its traceback, which what has not run gets here."""
    try:
        raise error
    except BaseException as raised:
        trace = raised.__traceback__
        return raised, trace, ExceptionInfo((type(raised), raised, trace))
