"""Plain functions for task lists: for other Python processes and for real workers."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from shutil import copyfile as imported  # noqa: F401 - a function that is not defined here
from typing import Any


def add(left: int, right: int = 1) -> int:
    """Add."""
    return left + right


def where() -> tuple[int, str]:
    """Where it runs."""
    return os.getpid(), threading.current_thread().name


async def where_async(seconds: float = 0.0) -> tuple[int, str]:
    """Where it runs, as a coroutine function."""
    await asyncio.sleep(seconds)
    return os.getpid(), threading.current_thread().name


def fail(text: str) -> None:
    """Fail."""
    raise LookupError(text)


async def mark(path: str, seconds: float) -> str:
    """Write down that it began, and that it ended, however it does."""
    _write(path, "began")
    try:
        await asyncio.sleep(seconds)
    finally:
        _write(path, "ended")
    return "done"


def _write(path: str, line: str) -> None:
    with Path(path).open("a") as file:
        file.write(f"{line}\n")


def block(seconds: float) -> str:
    """Hold up its thread."""
    time.sleep(seconds)
    return threading.current_thread().name


def _private() -> str:
    return "not for others"


private = _private


class Adder:
    """Something callable that is no function."""

    def __call__(self, left: int) -> int:
        """Add one."""
        return left + 1

    def method(self, left: int) -> int:
        """Add one."""
        return left + 1


def traced(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator as others write them."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return call


@traced
def decorated(value: int) -> int:
    """A function behind a decorator."""
    return value * 2


def shadowed() -> int:
    """The first of two of that name."""
    return 1


first_shadowed = shadowed


def shadowed() -> int:  # type: ignore[no-redef]
    """The second."""
    return 2


anonymous = lambda: 1  # noqa: E731
