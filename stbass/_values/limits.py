"""Limits of endpoints: so many processes at once, so many in a time, whoever sends them and whoever runs them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Self

import msgspec

from stbass._values.texts import text_of
from stbass.errors import ConfigurationError

__all__ = ["Limit", "limits_of"]

_UNITS = {"s": 1, "sec": 1, "second": 1, "min": 60, "minute": 60, "h": 3600, "hour": 3600, "d": 86400, "day": 86400}
_NAMES = {1: "s", 60: "min", 3600: "h", 86400: "d"}
_MOST = 10**9
_WANTED = "a number at once (50; 0 stops it), a rate (1000/min; also /s, /h, /d), or both (50, 1000/min)"


class Limit(msgspec.Struct, frozen=True):
    """What limits an endpoint; with neither a number nor a rate, nothing does.

    Args:
        running: how many processes may run at once; 0: none begins; None: any number.
        rate: how many may begin in ``per`` seconds, evenly; None: any number.
        per: seconds.
    """

    running: int | None = None
    rate: int | None = None
    per: int = 60

    @classmethod
    def parse(cls, text: object, what: str) -> Self:
        """A limit as people write it: ``50``, ``1000/min``, ``50, 1000/min``.

        Args:
            text: that is read.
            what: is given by it, for the error.

        Raises:
            ConfigurationError: it is none; the message says what is wanted.
        """
        running: int | None = None
        rate: int | None = None
        per = 60
        for part in str(text).split(",") if type(text) in (str, int) else [""]:
            number, slash, unit = (piece.strip() for piece in part.partition("/"))
            known = rate if slash else running
            if not re.fullmatch("[0-9]{1,10}", number) or known is not None or (slash and unit not in _UNITS):
                raise ConfigurationError(f"{what}={text_of(text, 60)}: must be {_WANTED}")
            count = int(number)
            if count > _MOST:
                raise ConfigurationError(f"{what}={text_of(text, 60)}: {count} is more than {_MOST}; leave it out")
            if slash and not count:
                raise ConfigurationError(f"{what}={text_of(text, 60)}: a rate is at least 1; to stop an endpoint use 0")
            if slash:
                rate, per = count, _UNITS[unit]
            else:
                running = count
        return cls(running, rate, per)

    @classmethod
    def read(cls, kept: bytes) -> Self | None:
        """The limit as Redis keeps it; None if that is not one, so that nothing is limited by it."""
        found = re.fullmatch(rb"([0-9]{0,10}),([0-9]{0,10}),([0-9]{0,10}),(settings|command)", kept)
        if found is None:
            return None
        running, rate, per = (int(part) if part else None for part in found.groups()[:3])
        return cls(running, rate if per else None, per or 60)

    def kept(self, by: str) -> str:
        """The inverse of :meth:`read`; ``by`` is ``settings`` or ``command``."""
        running, rate = ("" if number is None else number for number in (self.running, self.rate))
        return f"{running},{rate},{self.per},{by}"

    def __str__(self) -> str:
        """As people write it; ``none`` if nothing is limited."""
        parts = [] if self.running is None else [str(self.running)]
        return ", ".join([*parts, *self.rate_text]) or "none"

    @property
    def rate_text(self) -> list[str]:
        """The rate as people write it, if there is one."""
        return [] if self.rate is None else [f"{self.rate}/{_NAMES.get(self.per, f'{self.per} s')}"]

    @property
    def is_none(self) -> bool:
        """Whether nothing is limited by it."""
        return self.running is None and self.rate is None

    def used_up(self, places: int) -> str:
        """What a process has waited for while so many had a place."""
        if self.running is not None and (places >= self.running or self.rate is None):
            what = f"{self.running} at once"
        else:
            what = "".join(self.rate_text) or "none"
        return f"the endpoint's limit of {what} was used up"


def limits_of(value: Any, setting: str) -> dict[str, Limit]:
    """The limits that a setting names, by endpoint.

    Raises:
        ConfigurationError: they are none; the message names the endpoint.
    """
    if not isinstance(value or {}, Mapping):
        raise ConfigurationError(
            f'{setting} must be limits by endpoint ({{"anthropic": "50, 1000/min"}}), got {value!r}'
        )
    limits = {}
    for endpoint, text in (value or {}).items():
        if type(endpoint) is not str or not endpoint.strip():
            raise ConfigurationError(f"{setting}: {endpoint!r} is not the name of an endpoint")
        limits[endpoint] = Limit.parse(text, f"{setting}[{endpoint!r}]")
    return limits
