"""When a service that refused says that it may be asked again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from stbass._values.ctrl_c import raise_ctrl_c
from stbass._values.texts import attribute_of

__all__ = ["own_retry_after", "retry_after"]

_CAUSES_MOST = 20
_LINKS = ("__cause__", "__suppress_context__", "__context__")


def retry_after(error: BaseException) -> float | None:
    """Seconds after which to try again, as an error says, or one that it comes of, or those in a group; None: no word.

    It says so in an attribute ``retry_after`` (seconds, a ``timedelta``, a date, or a text as in the header), or in a
    header ``Retry-After`` (seconds or an HTTP date) or ``retry-after-ms``, of its own or of its ``response``.
    """
    asked = [own for one in _related(error) if (own := own_retry_after(one)) is not None]
    return max(asked, default=None)


def own_retry_after(error: BaseException) -> float | None:
    """The same, of what the error itself says."""
    response = attribute_of(error, "response")
    asked = [*_asked(error), *([] if response is None else _asked(response))]
    return max(asked, default=None)


def _asked(source: Any) -> list[float]:
    try:
        headers = _headers(source)
        found = (
            _seconds(attribute_of(source, "retry_after"), headers),
            _seconds(headers.get("retry-after"), headers),
            _milliseconds(headers.get("retry-after-ms")),
        )
    except BaseException as failed:  # an object of the user's that raises when it is asked says nothing
        raise_ctrl_c(failed)
        return []
    return [max(0.0, seconds) for seconds in found if seconds is not None and math.isfinite(seconds)]


def _related(error: BaseException) -> Iterator[BaseException]:
    left, seen = [error], set[int]()
    while left and len(seen) < _CAUSES_MOST:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        # Past anything that the class has put in front of them.
        if issubclass(type(one), BaseExceptionGroup):
            left += vars(BaseExceptionGroup)["exceptions"].__get__(one)
        cause, suppressed, context = (vars(BaseException)[name].__get__(one) for name in _LINKS)
        if cause is None and not suppressed:
            cause = context
        if cause is not None:
            left.append(cause)


def _headers(source: Any) -> dict[str, str]:
    """The headers, by their names in lower case."""
    found = source.get("headers") if issubclass(type(source), Mapping) else attribute_of(source, "headers")
    if found is None:
        return {}
    try:
        pairs = found.items() if hasattr(found, "items") else found
        return {_text(name).lower(): _text(value) for name, value in pairs}
    except BaseException as failed:  # whatever stands there, it is no headers
        raise_ctrl_c(failed)
        return {}


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _milliseconds(value: str | None) -> float | None:
    found = _number(value)
    return None if found is None else found / 1000


def _number(value: Any) -> float | None:
    if value is None or isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _seconds(value: Any, headers: Mapping[str, str]) -> float | None:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, str) and _number(value) is None:
        # The service's clock may differ from ours: what counts is how far it is from the service's own "now".
        value, now = _date(value), _date(headers.get("date"))
        return None if value is None else (value - (now or datetime.now(UTC))).total_seconds()
    if isinstance(value, datetime):
        return (value.astimezone(UTC) - datetime.now(UTC)).total_seconds()
    return _number(value)


def _date(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        found = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
