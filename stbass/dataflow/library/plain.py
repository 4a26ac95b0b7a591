"""Values of other libraries as Python's own, where nothing is lost by that."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta, timezone
from types import NoneType
from typing import Any
from zoneinfo import ZoneInfo

from stbass._values.numbers import plain_number

__all__ = ["plain_value", "with_own_zone"]


def plain_value(value: Any) -> Any:
    """NumPy's numbers, truth values, text, times and spans, and pandas' times, as Python's; else the value as it is.

    Raises:
        ValueError: it is a time or a span that Python's own cannot hold.
    """
    numpy, pandas = sys.modules.get("numpy"), sys.modules.get("pandas")
    if numpy is not None and isinstance(value, numpy.generic):
        if isinstance(value, numpy.datetime64 | numpy.timedelta64):
            exact = value.astype(f"{'M8' if isinstance(value, numpy.datetime64) else 'm8'}[us]")
            plain = exact.item()
            # What is not a time is equal to nothing; a year of six digits has no datetime.
            if isinstance(plain, int) or not (exact == value or numpy.isnat(value)):
                raise ValueError(f"{value!r} is finer than a microsecond, or beyond what a datetime holds")
            return plain
        if isinstance(value, numpy.str_ | numpy.bytes_):
            return value.item()
        return plain_number(value)
    if pandas is not None and isinstance(value, datetime):
        if value is pandas.NaT:
            return None
        if isinstance(value, pandas.Timestamp):
            if value.nanosecond:
                raise ValueError(f"{value!r} is finer than a microsecond, which is as fine as a datetime is")
            return value.to_pydatetime()
    return value


def with_own_zone(value: Any) -> Any:
    """A time in a zone of pytz, also inside of lists and mappings, in the same zone of Python's; else the value."""
    match value:
        case dict():
            return {key: with_own_zone(one) for key, one in value.items()}
        case list() | tuple():
            return type(value)(map(with_own_zone, value))
        case datetime() if not isinstance(value.tzinfo, ZoneInfo | timezone | NoneType):
            name = getattr(value.tzinfo, "zone", None)
            return value.astimezone(ZoneInfo(name) if name else timezone(value.utcoffset() or timedelta()))
    return value
