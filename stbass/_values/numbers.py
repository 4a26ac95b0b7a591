"""NumPy's scalars as Python's own values, where the program has imported NumPy."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["plain_number", "plain_number_type"]


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
