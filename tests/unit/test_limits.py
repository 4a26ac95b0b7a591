"""Limits of endpoints as people write them, and as Redis keeps them."""

from __future__ import annotations

import pytest

from stbass._values.limits import Limit, limits_of
from stbass.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "limit", "shown"),
    [
        ("50", Limit(running=50), "50"),
        (50, Limit(running=50), "50"),
        ("0", Limit(running=0), "0"),
        ("1000/min", Limit(rate=1000, per=60), "1000/min"),
        (" 50 , 1000 / minute ", Limit(50, 1000, 60), "50, 1000/min"),
        ("5/s, 2", Limit(2, 5, 1), "2, 5/s"),
        ("7/hour", Limit(rate=7, per=3600), "7/h"),
        ("7/d", Limit(rate=7, per=86400), "7/d"),
    ],
)
def test_a_limit_is_read_shown_and_kept(text: object, limit: Limit, shown: str) -> None:
    assert Limit.parse(text, "limit") == limit
    assert str(limit) == shown
    assert Limit.read(limit.kept("command").encode()) == limit
    assert Limit.parse(str(limit), "limit") == limit


@pytest.mark.parametrize(
    "text",
    [
        *("", ",", "many", "-1", "1.5", "1/", "/s", "1/min/s", "0/s", "1/week", "5, 6", "1/s, 2/s", "5,", "9999999999"),
        *("²", "½", "5\n6", None, True, 1.5, [50], {"running": 50}),
    ],
)
def test_what_is_no_limit_is_refused_by_name(text: object) -> None:
    with pytest.raises(ConfigurationError, match=r"^stbass_limits\['anthropic'\]="):
        limits_of({"anthropic": text}, "stbass_limits")


@pytest.mark.parametrize("value", ["50", [("anthropic", "50")], 5, {5: "5"}, {"": "5"}, {" ": "5"}])
def test_what_are_no_limits_by_endpoint_is_refused(value: object) -> None:
    with pytest.raises(ConfigurationError, match=r"^stbass_limits"):
        limits_of(value, "stbass_limits")


@pytest.mark.parametrize("kept", [b"", b"50", b"a,b,c,command", b",,,nobody", b"-1,,60,command", b"\xff,,,command"])
def test_what_redis_keeps_and_is_no_limit_limits_nothing(kept: bytes) -> None:
    assert Limit.read(kept) is None
