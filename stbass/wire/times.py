"""Dates, times and zones. One form each:

| tag | type | form |
|---|---|---|
| `date`, `time`, `datetime` | the same | `v`: ISO 8601, no zone; `z`: zone; `f`: 1 for the second of two equal times |
| `delta` | timedelta | `v`: days, seconds, microseconds |
| `zone` | timezone, ZoneInfo | `v`: `"utc"`, or `[offset in seconds, in microseconds, name or null]`, or `{"key": …}` |
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from stbass._values.texts import text_of
from stbass.errors import WireError
from stbass.wire.core import Form, ReadFunction, Unsendable, WireReader, WireWriter, WriteFunction, part
from stbass.wire.opaque import Opaque

__all__ = ["READ", "WRITE"]

# What a time-zone key looks like. ZoneInfo looks a key up among files and, where the system has none, in the package
# tzdata by importing a module of that name; a message must not choose anything but a zone.
_ZONE_KEY = re.compile(r"[A-Za-z0-9_+\-]{1,40}(/[A-Za-z0-9_+\-]{1,40}){0,3}", re.ASCII)


def _zone_form(zone: Any) -> Any:
    """A zone as plain data.

    Raises:
        Unsendable: it is of another kind than the standard library's two.
    """
    if zone is UTC:
        return "utc"
    if type(zone) is timezone:
        # As for copying: a name only if one was given by hand; the derived one ("UTC+01:00") is derived again.
        offset, *name = zone.__getinitargs__()  # type: ignore[attr-defined]
        return [offset // timedelta(seconds=1), offset.microseconds, *(name or [None])]
    if type(zone) is ZoneInfo and type(zone.key) is str and _ZONE_KEY.fullmatch(zone.key):
        return {"key": zone.key}
    raise Unsendable(
        f"the time zone {text_of(zone, 60)} ({type(zone).__module__}.{type(zone).__qualname__}) cannot travel",
        "use datetime.timezone, or zoneinfo.ZoneInfo with a key such as 'Europe/Berlin'",
    )


def _zone_of(form: Any) -> Any:
    """The inverse of :func:`_zone_form`.

    Raises:
        ZoneInfoNotFoundError: this machine has no such zone.
    """
    if form == "utc":
        return UTC
    if type(form) is list and len(form) == 3:
        offset = timedelta(seconds=form[0], microseconds=form[1])
        return timezone(offset) if form[2] is None else timezone(offset, form[2])
    key = form.get("key") if type(form) is dict else None
    if type(key) is not str or not _ZONE_KEY.fullmatch(key):
        raise WireError(f"not a time zone: {text_of(form, 100)}")
    try:
        return ZoneInfo(key)
    except (OSError, ValueError):
        # The key of a directory ("Europe"), or a file that is not a zone.
        raise ZoneInfoNotFoundError(key) from None


def _write_zone(writer: WireWriter, value: Any) -> Any:
    writer.spend(20)
    return {"~": "zone", "v": _zone_form(value)}


def _read_zone(reader: WireReader, form: Form) -> Any:
    try:
        return _zone_of(form.get("v"))
    except ZoneInfoNotFoundError:
        return Opaque("zoneinfo:ZoneInfo", form["v"], "zone")


def _write_datetime(writer: WireWriter, value: datetime | time) -> Any:
    writer.spend(30)
    form: Form = {"~": type(value).__name__, "v": value.replace(tzinfo=None).isoformat()}
    if value.tzinfo is not None:
        form["z"] = _zone_form(value.tzinfo)
    if value.fold:
        form["f"] = 1
    return form


def _read_datetime(reader: WireReader, form: Form) -> Any:
    cls: Any = datetime if form["~"] == "datetime" else time
    moment = cls.fromisoformat(part(form, "v", str))
    if moment.tzinfo is not None or form.get("f", 0) not in (0, 1):
        raise WireError(f"form {form['~']!r}: {text_of(form, 100)}")
    moment = moment.replace(fold=form.get("f", 0))
    zone = form.get("z")
    if zone is None:
        return moment
    try:
        return moment.replace(tzinfo=_zone_of(zone))
    except ZoneInfoNotFoundError:
        return Opaque(f"datetime:{form['~']}", form["v"], form["~"], {"z": zone, "f": form.get("f", 0)})


def _write_date(writer: WireWriter, value: date) -> Any:
    writer.spend(10)
    return {"~": "date", "v": value.isoformat()}


def _read_date(reader: WireReader, form: Form) -> Any:
    return date.fromisoformat(part(form, "v", str))


def _write_delta(writer: WireWriter, value: timedelta) -> Any:
    writer.spend(10)
    return {"~": "delta", "v": [value.days, value.seconds, value.microseconds]}


def _read_delta(reader: WireReader, form: Form) -> Any:
    days, seconds, microseconds = part(form, "v", list)
    return timedelta(days, seconds, microseconds)


WRITE: dict[type[Any], WriteFunction] = {
    timezone: _write_zone,
    ZoneInfo: _write_zone,
    datetime: _write_datetime,
    time: _write_datetime,
    date: _write_date,
    timedelta: _write_delta,
}

READ: dict[str, ReadFunction] = {
    "zone": _read_zone,
    "datetime": _read_datetime,
    "time": _read_datetime,
    "date": _read_date,
    "delta": _read_delta,
}
