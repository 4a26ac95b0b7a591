"""Values of built-in types: they arrive exactly as they were sent, or not at all."""

from __future__ import annotations

import collections
import json
import math
import pathlib
import re
import socket
import struct
import time
import types
import zoneinfo
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from datetime import time as clock
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stbass.errors import NotTransportable, WireError
from stbass.wire import LIMIT, MAX_DEPTH, Opaque, dumps, loads
from tests.support.wire_samples import Point, same

# Any str, lone surrogates among them.
texts = st.text(st.characters(codec=None, exclude_categories=[]), max_size=20)
zones = st.one_of(
    st.none(),
    st.just(UTC),
    st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23))),
    st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23)), st.text(max_size=5)),
    st.sampled_from(["UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+3"]).map(zoneinfo.ZoneInfo),
)
hashable = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(min_value=-(2**70), max_value=2**70),
        st.floats(),
        texts,
        st.binary(max_size=20),
        st.uuids(),
        st.decimals(allow_nan=False),
        st.dates(),
        st.times(timezones=zones),
        st.datetimes(timezones=zones, allow_imaginary=True),
        st.timedeltas(),
        texts.map(lambda text: pathlib.PurePosixPath(text.replace("\0", ""))),
    ),
    lambda inner: st.one_of(st.tuples(inner, inner), st.frozensets(inner, max_size=4)),
    max_leaves=6,
)
anything = st.recursive(
    hashable | st.binary(max_size=20).map(bytearray) | st.decimals(),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.lists(inner, max_size=5).map(tuple),
        st.dictionaries(hashable, inner, max_size=5),
        st.dictionaries(texts | st.just("~"), inner, max_size=5),
        st.sets(hashable, max_size=5),
    ),
    max_leaves=20,
)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=20,
)


@given(anything)
@settings(max_examples=250, deadline=None)
def test_any_value_arrives_exactly_as_it_was_sent(value: Any) -> None:
    assert same(loads(dumps(value)), value)


@given(plain)
@settings(max_examples=150, deadline=None)
def test_a_json_value_is_plain_json_for_whoever_reads_it(value: Any) -> None:
    data = dumps(value)

    assert same(loads(data), value)
    if b'"~"' not in data:
        assert same(json.loads(data), value)


@given(st.floats(), st.integers())
def test_every_float_and_every_integer_arrives_bit_for_bit(number: float, integer: int) -> None:
    for value in (number, integer, -number, integer * 10**30, 10 ** integer.bit_length()):
        assert same(loads(dumps(value)), value)


def type_name(value: object) -> str:
    """An id that is the same in every run: what is printed of a value may hold an address, or a set in any order."""
    return value if isinstance(value, str) and value.isidentifier() else type(value).__name__


@pytest.mark.parametrize(
    "value",
    [
        2**63,
        2**64 - 1,
        2**64,
        -(2**63),
        -(2**63) - 1,
        -0.0,
        math.inf,
        -math.inf,
        math.nan,
        struct.unpack(">d", bytes.fromhex("fff8000000000123"))[0],
        5e-324,
        1.7976931348623157e308,
        "",
        "\0",
        "~",
        "\ud800",
        "\ud83d\ude00",
        "\U0001f600",
        {"~": "tuple", "v": [1]},
        {"~": {"~": {"~": 1}}},
        {"\udcff": 1},
        {1: "a", "1": "b", (1,): "c", None: "d", 2.5: "e"},
        {b"key": frozenset({1, "1"})},
        (),
        ((), [], {}, set(), frozenset()),
        b"",
        bytes(range(256)),
        bytearray(b"\0\xff"),
        date.min,
        datetime.max,
        datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
        datetime(2024, 1, 1, tzinfo=timezone(timedelta(0), "UTC")),
        datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=-3, microseconds=7), "home")),
        clock(23, 59, 59, 999999, tzinfo=UTC, fold=1),
        timedelta.min,
        timedelta.max,
        timedelta(microseconds=-1),
        UTC,
        zoneinfo.ZoneInfo("Europe/Berlin"),
        UUID(int=0),
        Decimal("-0"),
        Decimal("1.10"),
        Decimal("sNaN12"),
        Decimal("-Infinity"),
        Decimal("1E+999999999"),
        pathlib.PurePosixPath("/a/../b"),
        pathlib.PurePosixPath("//host/a"),
        pathlib.PureWindowsPath("C:/a/b"),
        pathlib.Path("a") / "b",
        pathlib.PurePosixPath("\udcff"),
    ],
    ids=type_name,
)
def test_the_odd_corners_arrive_exactly(value: Any) -> None:
    assert same(loads(dumps(value)), value)
    assert same(loads(dumps([value, {"k": value}])), [value, {"k": value}])


def test_an_integer_too_long_for_python_to_print_arrives() -> None:
    assert loads(dumps([-(10**5000)])) == [-(10**5000)]


def test_a_nan_among_decimals_arrives_with_its_sign_and_payload() -> None:
    for text in ("NaN", "-NaN", "sNaN", "-sNaN7"):
        assert str(loads(dumps(Decimal(text)))) == text


def test_a_memoryview_arrives_as_bytes() -> None:
    assert loads(dumps({"m": memoryview(b"abcdef")[::2]})) == {"m": b"ace"}


def test_a_path_of_the_other_system_arrives_as_a_pure_one() -> None:
    data = b'{"~":"path","c":"WindowsPath","v":"C:\\\\a"}'

    assert same(loads(data), pathlib.PureWindowsPath("C:/a"))


def test_the_order_of_a_dict_is_kept() -> None:
    for keys in (["b", "a", "c"], ["b", 1, "a", 0]):
        assert list(loads(dumps(dict.fromkeys(keys)))) == keys


def test_text_works_as_well_as_bytes() -> None:
    assert loads(dumps(["é", (1,)]).decode()) == ["é", (1,)]


# What is refused ---------------------------------------------------------------------------------


class SomeDict(dict[str, Any]):
    pass


class UnsureZone(tzinfo):
    """Has an offset only at a moment, and no name."""

    def utcoffset(self, dt: datetime | None) -> timedelta | None:
        return None if dt is None else timedelta(hours=1)

    def dst(self, dt: datetime | None) -> timedelta | None:
        return None

    def tzname(self, dt: datetime | None) -> str | None:
        return None


class BrokenZone(UnsureZone):
    def utcoffset(self, dt: datetime | None) -> timedelta | None:
        raise ValueError("no idea")


@pytest.mark.parametrize(
    ("value", "path", "words"),
    [
        ({"conn": [1, 2, socket]}, 'value["conn"][2]', "module cannot travel"),
        (object(), "value", "builtins.object cannot travel; send what it is made of"),
        ([lambda: None], "value[0]", "function"),
        ((1, {"a": {"b": print}}), 'value[1]["a"]["b"]', "builtin_function_or_method"),
        ({1: {2: object()}}, "value[1][2]", "object"),
        ({(1, object): 2}, None, "type cannot travel"),
        ({1, 2, object}, None, "type cannot travel"),
        (Point(1, [object()]), "value.y[0]", "object"),
        (time.gmtime(0), "value", "subclass of tuple and would arrive as a plain tuple; send tuple(…) of it"),
        (Fraction(1, 2**200_000), "value", "fraction of more than 100,000 bits"),
        (re.compile("x" * 10_001), "value", "pattern of more than 10,000 characters"),
        (collections.deque([1, object()]), "value[1]", "object"),
        (collections.OrderedDict(a=object()), 'value["a"]', "object"),
        (collections.ChainMap({"a": object()}), 'value.maps[0]["a"]', "object"),
        (types.MappingProxyType({"a": object()}), 'value["a"]', "object"),
        (SomeDict(a=object()), 'value["a"]', "object"),
        (clock(1, tzinfo=UnsureZone()), "value", "use datetime.timezone, or zoneinfo.ZoneInfo"),
        (UnsureZone(), "value", "use datetime.timezone, or zoneinfo.ZoneInfo"),
        ([datetime(2026, 1, 1, tzinfo=BrokenZone())], "value[0]", "its time zone raised ValueError: no idea"),
        ({}.keys(), "value", "dict_keys"),
        (iter([1]), "value", "list_iterator"),
        (int, "value", "type"),
    ],
    ids=type_name,
)
def test_what_cannot_travel_is_named_with_its_place_and_what_to_do(value: Any, path: str | None, words: str) -> None:
    with pytest.raises(NotTransportable, match=re.escape(words)) as caught:
        dumps(value)

    if path is not None:
        assert caught.value.path is not None
        assert caught.value.path == path
        assert str(caught.value).startswith(caught.value.path + ": ")


def test_an_open_socket_is_named_as_the_page_says() -> None:
    with socket.socket() as connection, pytest.raises(NotTransportable) as caught:
        dumps({"conn": [1, 2, connection]})

    assert str(caught.value).startswith('value["conn"][2]: socket.socket cannot travel; ')


def test_the_caller_chooses_what_the_value_is_called() -> None:
    with pytest.raises(NotTransportable, match=r"^argument\[0\]: ") as caught:
        dumps([object()], what="argument")

    assert caught.value.path == "argument[0]"


def test_a_value_that_contains_itself_is_refused() -> None:
    ring: list[Any] = [1]
    ring.append({"again": ring})
    wheel: dict[Any, Any] = {}
    wheel["self"] = (wheel,)

    with pytest.raises(NotTransportable, match="contains itself") as caught:
        dumps(ring)
    assert caught.value.path == 'value[1]["again"]'
    with pytest.raises(NotTransportable, match="contains itself"):
        dumps(wheel)


def test_what_is_referred_to_twice_arrives_twice() -> None:
    shared = [1, (2,)]

    assert loads(dumps([shared, shared, {"s": shared}])) == [shared, shared, {"s": shared}]


def nested(depth: int, wrap: Any, core: Any = 0) -> Any:
    value = core
    for _ in range(depth):
        value = wrap(value)
    return value


WRAPS: dict[str, Any] = {
    "list": lambda value: [value],
    "dict": lambda value: {"k": value},
    "tuple": lambda value: (value,),
    "odd dict": lambda value: {1: value},
    "dataclass": Point,
}


@pytest.mark.parametrize("kind", WRAPS)
def test_nesting_travels_up_to_the_bound_and_is_refused_beyond(kind: str) -> None:
    wrap = WRAPS[kind]

    deepest = loads(dumps(nested(MAX_DEPTH, wrap, 1)))
    for _ in range(MAX_DEPTH):
        deepest = {
            "list": lambda v: v[0],
            "dict": lambda v: v["k"],
            "tuple": lambda v: v[0],
            "odd dict": lambda v: v[1],
            "dataclass": lambda v: v.x,
        }[kind](deepest)
    assert deepest == 1

    with pytest.raises(NotTransportable, match=f"nested more than {MAX_DEPTH} deep"):
        dumps(nested(MAX_DEPTH + 1, wrap))


@pytest.mark.parametrize("text", [b"[", b'{"a":', b'{"~":"tuple","v":[', b'{"~":"dict","v":[1,'])
@pytest.mark.parametrize("depth", [MAX_DEPTH * 2 + 10, 900, 100_000])
def test_a_message_that_is_nested_too_deep_is_refused(text: bytes, depth: int) -> None:
    closing = {b"[": b"]", b"{": b"}"}
    tail = b"".join(closing[bytes([char])] for char in reversed(text) if bytes([char]) in closing)

    with pytest.raises(WireError):
        loads(text * depth + b"1" + tail * depth, limit=2**30)


def test_the_stack_of_the_caller_does_not_matter() -> None:
    def deep(levels: int) -> Any:
        return deep(levels - 1) if levels else dumps(nested(150, WRAPS["odd dict"]))

    with pytest.raises(NotTransportable, match="too deep for the stack here"):
        deep(800)


# Size --------------------------------------------------------------------------------------------


def test_a_value_larger_than_the_limit_is_refused_with_size_limit_and_setting() -> None:
    with pytest.raises(NotTransportable, match=r"1,000 bytes.*1,002 bytes.*STBASS_MAX_MESSAGE_BYTES") as caught:
        dumps("x" * 1000, limit=1000)

    assert caught.value.path == "value"
    assert loads(dumps("x" * 998, limit=1000)) == "x" * 998


@pytest.mark.parametrize("core", [["x"], [b"x"], [(1,)]])
def test_a_small_value_that_refers_to_itself_many_times_over_is_refused_quickly(core: Any) -> None:
    value = core
    for _ in range(100):
        value = [value, value]

    with pytest.raises(NotTransportable, match="STBASS_MAX_MESSAGE_BYTES"):
        dumps(value, limit=100_000)


def test_a_message_larger_than_the_limit_is_not_even_parsed() -> None:
    with pytest.raises(WireError, match=r"20 bytes, more than the 10 .*STBASS_MAX_MESSAGE_BYTES"):
        loads(b"[" * 20, limit=10)


def test_the_limit_is_that_of_the_specification() -> None:
    assert LIMIT == 16 * 1024 * 1024
    with pytest.raises(NotTransportable):
        dumps(b"x" * LIMIT)


# Zones that are not here -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "type_name"),
    [
        (b'{"~":"datetime","v":"2024-01-01T00:00:00","z":{"key":"Mars/Base"},"f":1}', "datetime:datetime"),
        (b'{"~":"time","v":"00:00:00","z":{"key":"Europe"}}', "datetime:time"),
        (b'{"~":"zone","v":{"key":"Mars/Base"}}', "zoneinfo:ZoneInfo"),
    ],
)
def test_a_moment_in_a_zone_that_is_not_known_here_is_opaque_and_goes_on_unchanged(form: bytes, type_name: str) -> None:
    found = loads(form)

    assert isinstance(found, Opaque)
    assert found.type_name == type_name
    assert same(loads(dumps([found])), [found])
    assert json.loads(dumps(found)).items() >= json.loads(form).items()


@pytest.mark.parametrize("key", ["../../etc/passwd", "/etc/localtime", "os.path", "a" * 100, "", "Ünder/World"])
def test_a_zone_key_that_is_no_zone_key_is_refused(key: str) -> None:
    with pytest.raises(WireError, match="not a time zone"):
        loads(json.dumps({"~": "zone", "v": {"key": key}}))
