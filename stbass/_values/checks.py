"""Checks of numbers and functions that a user gives, and the message when they are wrong."""

from __future__ import annotations

import functools
import inspect
import math
from enum import Enum
from numbers import Real
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, TypeGuard, TypeVar

from stbass._values.texts import value_text

__all__ = [
    "awaited",
    "bare",
    "called_by",
    "checked_count",
    "checked_deadline",
    "checked_limit",
    "checked_number",
    "checked_verdict",
    "checked_wait",
    "is_between",
    "is_number",
    "is_whole",
    "member_of",
    "refuse_generator",
    "refuse_unrun",
]


def bare(function: Any) -> Any:
    """What partials of it are of."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def called_by(function: Any) -> Any:
    """The function that runs if this is called: itself, that of a partial, or its class's ``__call__``."""
    target = bare(function)
    return target if inspect.isroutine(target) or not callable(target) else type(target).__call__


def refuse_generator(function: object, what: str) -> None:
    """Raise an error if calling this would run nothing of it, because there is a ``yield`` in it.

    Args:
        function: anything.
        what: what it is, for the message: ``"process 'read'"``.

    Raises:
        TypeError: it is a generator function, sync or async, or an object that is called as one.
    """
    called = called_by(function)
    if inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
        raise TypeError(f"{what} has a `yield` in it, {_RUNS_NOTHING}")


def refuse_unrun(value: object, what: str) -> None:
    """Raise an error if a call gave what has yet to run instead of running: a generator, of a function with a ``yield``
    in it that is wrapped in another, which :func:`refuse_generator` cannot know; or a coroutine that nobody awaited.

    Raises:
        TypeError: it is a coroutine, or a generator, sync or async; not an expression such as ``(n for n in numbers)``.
    """
    if type(value) is CoroutineType:
        if inspect.getcoroutinestate(value) == inspect.CORO_CREATED:
            value.close()
            raise TypeError(f"{what} gave {value.__qualname__}() without await, so nothing happened: await it")
        return
    if type(value) is GeneratorType:
        code = value.gi_code
    elif type(value) is AsyncGeneratorType:
        code = value.ag_code
    else:
        return
    if code.co_name != "<genexpr>":
        raise TypeError(f"{what} gave a generator: {code.co_qualname} has a `yield` in it, {_RUNS_NOTHING}")


_RUNS_NOTHING = (
    "so that calling it runs nothing: `return` what it gives, once; send what it gives bit by bit over a channel"
)


async def awaited(made: Any, what: str) -> Any:
    """What a call of a function gave that may be a plain one or a coroutine function, once it has run.

    Raises:
        TypeError: it gave a generator.
    """
    if inspect.isawaitable(made):
        made = await made
    refuse_unrun(made, what)
    return made


def checked_verdict(value: object, what: str) -> bool:
    """The truth of what a predicate gave.

    Raises:
        TypeError: it gave a coroutine or a generator, so that it has not run, or an array.
        Exception: what ``bool()`` raises.
    """
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()
        raise TypeError(f"{what} gave something to await: it must be a plain function")
    refuse_unrun(value, what)
    verdict = bool(value)
    if hasattr(type(value), "__array__") and getattr(value, "ndim", False):
        # One of a single element has a truth value, and the next one of two has none.
        raise TypeError(f"{what} gave {value_text(value)}, and not whether all or any of it are true")
    return verdict


def is_whole(value: object) -> TypeGuard[int]:
    """Whether it is an int, and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a real number, and not a bool. It may be infinite, or not a number at all (NaN)."""
    return isinstance(value, Real) and not isinstance(value, bool)


E = TypeVar("E", bound=Enum)


def member_of(kind: type[E], value: object) -> E | None:
    """The member of an enum of texts that ``value`` is, or whose text it is."""
    # The enum's own error would ask the value for its text.
    return next((one for one in kind if value is one or (isinstance(value, str) and value == one.value)), None)


def is_between(value: object, least: float, most: float) -> TypeGuard[float]:
    """Whether it is a number of that range, and not a bool."""
    return is_number(value) and least <= value <= most


def checked_count(value: object, what: str, least: int) -> int:
    """``value``, if it is a whole number of at least ``least``.

    Raises:
        TypeError: it is not a whole number.
        ValueError: it is less.
    """
    if not is_whole(value):
        raise TypeError(f"{what} must be a whole number, got {value_text(value)}")
    if value < least:
        raise ValueError(f"{what} must be at least {least}, got {value_text(value)}")
    return value


def checked_limit(value: object, what: str) -> int | None:
    """``value``, if it can say how many may run at once: None (any number) or a whole number of at least 1.

    Raises:
        TypeError: it is neither None nor a whole number.
        ValueError: it is less than 1.
    """
    return None if value is None else checked_count(value, what, 1)


def checked_number(value: object, what: str, *, zero: bool = False) -> float:
    """``value`` as a float, if it is a finite number above 0; with ``zero`` it may also be 0.

    Raises:
        TypeError: it is not a number.
        ValueError: it is out of range.
    """
    if not is_number(value):
        raise TypeError(f"{what} must be a number, got {value_text(value)}")
    number = float(value)
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
        raise ValueError(f"{what} must be finite and {'at least' if zero else 'above'} 0, got {value_text(value)}")
    return number


def checked_wait(value: float, what: str) -> float:
    """``value``, if it is a number of seconds to wait; it may be infinite.

    Raises:
        ValueError: it is less than 0, or NaN.
    """
    if not value >= 0:
        raise ValueError(f"{what} must be at least 0 seconds, got {value_text(value)}")
    return value


def checked_deadline(value: object) -> float | None:
    """``value`` as seconds.

    Raises:
        TypeError: it is neither None nor a number.
        ValueError: it is not finite, or not above 0.
    """
    if value is None:
        return None
    if not is_number(value):
        raise TypeError(f"deadline must be a number of seconds or None, got {value_text(value)}")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds) or seconds <= 0:
        raise ValueError(
            f"deadline must be a finite number of seconds above 0, or None for no deadline, got {value_text(value)}"
        )
    return seconds
