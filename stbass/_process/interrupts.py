"""Ctrl-C while sync code blocks an event loop: ``asyncio.run`` would only cancel its task, and wait for that code."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import ParamSpec, TypeVar

__all__ = ["called_here", "interruptible"]

P = ParamSpec("P")
R = TypeVar("R")


def called_here(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Call sync code that may block the event loop: inside :func:`interruptible`, Ctrl-C ends it at once."""
    return function(*args, **kwargs)


@contextmanager
def interruptible(*, cancels: bool = False) -> Iterator[None]:
    """While it lasts, Ctrl-C raises ``KeyboardInterrupt`` in what :func:`called_here` calls.

    Otherwise it does what it did, as it does in a thread and where the program has a handler of its own.

    Args:
        cancels: whether it is ``CancelledError`` instead, and Ctrl-C also does what it did, which is to cancel the
            task: then everything ends in good order, and the error at the end is ``KeyboardInterrupt`` all the same.
    """
    before = signal.getsignal(signal.SIGINT)
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or not isinstance(before, partial) or not isinstance(_owner(before), asyncio.Runner):
        yield
        return
    cancel_task: Callable[[int, FrameType | None], None] = before

    def interrupt(number: int, frame: FrameType | None) -> None:
        is_called_here = _is_called_here(frame)
        if cancels or not is_called_here:
            cancel_task(number, frame)
            if is_called_here:
                raise asyncio.CancelledError
            return
        # Put back first: the event loop ends with this error, and asyncio then looks for its own handler.
        signal.signal(signal.SIGINT, cancel_task)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is interrupt:
            signal.signal(signal.SIGINT, cancel_task)


def _owner(handler: partial[object]) -> object:
    return getattr(handler.func, "__self__", None)


def _is_called_here(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code is not called_here.__code__:
        frame = frame.f_back
    return frame is not None
