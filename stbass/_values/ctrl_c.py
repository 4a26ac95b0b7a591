"""Ctrl-C, told from a ``KeyboardInterrupt`` that somebody's object raises when it is asked for something."""

from __future__ import annotations

import signal
import threading

__all__ = ["raise_ctrl_c"]

_WITHOUT = ("celery.", "asyncio.unix_events")
"""Modules whose handlers of SIGINT raise no ``KeyboardInterrupt``."""


def raise_ctrl_c(error: BaseException) -> None:
    """Raise the error if it is Ctrl-C.

    That comes only to the main thread, and not where the program has a handler that does something else, as a worker
    has.
    """
    if issubclass(type(error), KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
        handler = signal.getsignal(signal.SIGINT)
        if callable(handler) and not str(getattr(handler, "__module__", "")).startswith(_WITHOUT):
            raise error
