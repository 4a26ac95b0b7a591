"""Numbers of others as Python's own: what anybody gives for one, and NumPy's, where the program has imported NumPy."""

from __future__ import annotations

import sys
from math import isfinite
from typing import Any

__all__ = ["finite", "plain_number", "plain_number_type"]


def finite(number: Any) -> float | None:
    """A number as JSON has it; None for what is none."""
    if number is None:
        return None
    try:
        found = float(number)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if isfinite(found) else None


def plain_number_type(cls: type) -> type:
    """What Python has for one of NumPy's classes of numbers and truth values; any other class as it is."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and issubclass(cls, numpy.generic):
        for kind, plain in ((numpy.bool_, bool), (numpy.integer, int), (numpy.floating, float)):
            # A timedelta64 is an integer to NumPy.
            if issubclass(cls, kind) and not issubclass(cls, numpy.timedelta64):
                return plain
    return cls


def plain_number(value: Any) -> Any:
    """NumPy's ``int64``, ``float32``, ``bool_`` and their like as int, float, bool; anything else as it is.

    So is a ``longdouble`` that a float does not hold.
    """
    plain = plain_number_type(type(value))
    if plain is type(value):
        return value
    made = plain(value)
    return made if made == value or value != value else value
