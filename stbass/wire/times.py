"""Dates, times and zones. One form each:

| tag | type | form |
|---|---|---|
| `date`, `time`, `datetime` | the same | `v`: ISO 8601, no zone; `z`: zone; `f`: 1 for the second of two equal times |
| `delta` | timedelta | `v`: days, seconds, microseconds |
| `zone` | timezone, ZoneInfo | `v`: `"utc"`, or `[offset in seconds, in microseconds, name or null]`, or `{"key": …}` |
| `zone` | pydantic's TzInfo | `v`: `{"pydantic": offset in seconds}` |

A zone of another class arrives as one of the standard library's: that of the same name, or the offset.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from stbass._values.opaque import Opaque
from stbass._values.texts import error_text, text_of, type_name_of
from stbass.errors import WireError
from stbass.wire.classes import known_class
from stbass.wire.core import Form, ReadFunction, Unsendable, WireReader, WireWriter, WriteFunction, part
from stbass.wire.values import is_text

__all__ = ["READ", "WRITE", "write_zone"]

# What a time-zone key looks like. ZoneInfo looks a key up among files and, where the system has none, in the package
# tzdata by importing a module of that name; a message must not choose anything but a zone.
_ZONE_KEY = re.compile(r"[A-Za-z0-9_+\-]{1,40}(/[A-Za-z0-9_+\-]{1,40}){0,3}", re.ASCII)


def _zone_form(zone: Any) -> Any:
    """A zone as plain data; None if it is of another kind than the standard library's and pydantic's."""
    if zone is UTC:
        return "utc"
    if type(zone) is timezone:
        # As for copying: a name only if one was given by hand; the derived one ("UTC+01:00") is derived again.
        offset, *name = zone.__getinitargs__()  # type: ignore[attr-defined]
        return [offset // timedelta(seconds=1), offset.microseconds, *(name or [None])]
    if type(zone) is ZoneInfo and _is_key(zone.key):
        return {"key": zone.key}
    if type_name_of(type(zone)) == _OF_PYDANTIC:
        return {"pydantic": zone.utcoffset(None) // timedelta(seconds=1)}
    return None


_OF_PYDANTIC = "pydantic_core._pydantic_core:TzInfo"


def _is_key(key: Any) -> bool:
    return type(key) is str and _ZONE_KEY.fullmatch(key) is not None


def _fixed(offset: timedelta, name: Any) -> list[Any]:
    return [offset // timedelta(seconds=1), offset.microseconds, name if type(name) is str and is_text(name) else None]


def _named(zone: Any) -> ZoneInfo | None:
    """The standard library's zone of the same name, of a zone of pytz or dateutil, or of a subclass of ZoneInfo."""
    # dateutil tells a zone's name only by the file that it was read from.
    path = str(getattr(zone, "_filename", "")).partition("zoneinfo/")[2]
    for key in (getattr(zone, "key", None), getattr(zone, "zone", None), path):
        if _is_key(key):
            try:
                return ZoneInfo(key)  # type: ignore[arg-type]
            except (OSError, ValueError, ZoneInfoNotFoundError):
                continue
    return None


def _moment_form(moment: datetime | time) -> Form:
    """Zone and fold of a moment in a zone of another kind: the zone of that name, else the offset that it has then."""
    zone, offset = moment.tzinfo, moment.utcoffset()
    named = _named(zone)
    if named is not None:
        for fold in (moment.fold, 1 - moment.fold):
            if moment.replace(tzinfo=named, fold=fold).utcoffset() == offset:
                return {"z": {"key": named.key}, "f": fold}
    if offset is None:
        raise _unsendable(zone)
    return {"z": _fixed(offset, moment.tzname()), "f": moment.fold}


def write_zone(writer: WireWriter, value: Any) -> Any:
    """A zone by itself; one of another kind by its name, else by its offset if that is always the same."""
    if not isinstance(value, tzinfo):
        return NotImplemented
    writer.spend(20)
    form = _zone_form(value)
    if form is not None:
        return {"~": "zone", "v": form}
    offset = value.utcoffset(None)
    named = _named(value)
    if offset is None and named is None:
        raise _unsendable(value)
    return {"~": "zone", "v": {"key": named.key} if named else _fixed(offset, value.tzname(None))}  # type: ignore[arg-type]


def _unsendable(zone: Any) -> Unsendable:
    return Unsendable(
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
    if type(form) is dict and type(form.get("pydantic")) is int:
        made = known_class(_OF_PYDANTIC)
        return timezone(timedelta(seconds=form["pydantic"])) if made is None else made(form["pydantic"])
    key = form.get("key") if type(form) is dict else None
    if type(key) is not str or not _is_key(key):
        raise WireError(f"not a time zone: {text_of(form, 100)}")
    try:
        return ZoneInfo(key)
    except (OSError, ValueError):
        # The key of a directory ("Europe"), or a file that is not a zone.
        raise ZoneInfoNotFoundError(key) from None


def _read_zone(reader: WireReader, form: Form) -> Any:
    try:
        return _zone_of(form.get("v"))
    except ZoneInfoNotFoundError:
        return Opaque("zoneinfo:ZoneInfo", form["v"], "zone", None, _UNKNOWN_ZONE)


_UNKNOWN_ZONE = "this machine does not know its time zone"


def _write_datetime(writer: WireWriter, value: datetime | time) -> Any:
    writer.spend(30)
    form: Form = {"~": type(value).__name__, "v": value.replace(tzinfo=None).isoformat()}
    if value.fold:
        form["f"] = 1
    if value.tzinfo is not None:
        zone = _zone_form(value.tzinfo)
        if zone is not None:
            form["z"] = zone
        else:
            try:
                form |= _moment_form(value)
            except Unsendable:
                raise
            except Exception as error:
                # Of a class of the user's: it may raise anything.
                raise Unsendable(f"its time zone raised {error_text(error, 200)}") from error
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
        rest = {"z": zone, "f": form.get("f", 0)}
        return Opaque(f"datetime:{form['~']}", form["v"], form["~"], rest, _UNKNOWN_ZONE)


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
    timezone: write_zone,
    ZoneInfo: write_zone,
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
