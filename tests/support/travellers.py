"""A value, or several, for each row of docs/what-travels.md."""

from __future__ import annotations

import argparse
import array
import collections
import dataclasses
import enum
import ipaddress
import pathlib
import re
import threading
import types
import uuid
import zoneinfo
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, Generic, Literal, TypeVar

import attrs
import dateutil.tz
import msgspec
import numpy
import pydantic
import pydantic_core
import pytz
from pydantic import BaseModel, ConfigDict, Field, computed_field

from stbass._values.endpoint import Placement
from stbass.result import Failure, ProcessResult, RetryPolicy, RunInfo
from stbass.wire import Opaque, register
from tests.support.wire_samples import (
    Account,
    Ages,
    Bits,
    Box,
    Checked,
    Colour,
    Frozen,
    Holder,
    Level,
    Pair,
    Person,
    Point,
    Right,
    Team,
)

T = TypeVar("T")

# attrs, msgspec ----------------------------------------------------------------------------------


@attrs.define
class Slotted:
    a: int
    b: list[int] = attrs.field(factory=list)
    _hidden: int = 3
    later: int = attrs.field(init=False)


@attrs.frozen(cache_hash=True)
class Hashed:
    a: str
    b: tuple[int, ...] = ()


@attrs.define(slots=False)
class WithDict:
    a: int = attrs.field(validator=attrs.validators.instance_of(int))

    def __attrs_post_init__(self) -> None:
        self.beside = [self.a]


class Struct(msgspec.Struct):
    a: int
    b: list[int] = []
    c: str | msgspec.UnsetType | None = msgspec.UNSET


class Tagged(Struct, frozen=True, tag="tagged", kw_only=True):  # type: ignore[misc]
    d: Any

    def __post_init__(self) -> None:
        made.append("Tagged.__post_init__")


class Row(msgspec.Struct, array_like=True, gc=False):
    x: float
    y: float


class Chunk(msgspec.Struct, Generic[T]):
    content: T


class ChunkAfter(msgspec.Struct, Generic[T]):
    content: T

    def __post_init__(self) -> None:
        made.append("ChunkAfter.__post_init__")


class Loose(msgspec.Struct, dict=True):
    a: int


made: list[str] = []
"""Whose code was run; a test clears it."""


# pydantic ----------------------------------------------------------------------------------------


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    name: str


class Rich(BaseModel):
    """Fields of many of pydantic's types."""

    model_config = ConfigDict(frozen=True)

    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    site: pydantic.HttpUrl
    dsn: pydantic.PostgresDsn
    key: pydantic.SecretStr
    raw: pydantic.SecretBytes
    price: Decimal
    at: pydantic.AwareDatetime
    size: pydantic.ByteSize
    where: pydantic.IPvAnyAddress
    pages: Holder[int]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def doubled(self) -> Decimal:
        return self.price * 2


def rich() -> Rich:
    return Rich.model_validate(
        {
            "pet": {"kind": "dog", "name": "Rex"},
            "site": "https://example.org/a?b=c#d",
            "dsn": "postgres://u:p@one:1,two:2/db",
            "key": "k",
            "raw": b"\xff",
            "price": Decimal("1.50E+5"),
            "at": "2026-01-01T10:00:00+02:00",
            "size": "3 KiB",
            "where": "::1",
            "pages": {"held": 1},
        }
    )


class Pages(BaseModel, Generic[T]):
    held: list[T]
    next: Any = None


class IntPages(Pages[int]):
    pass


@pydantic.dataclasses.dataclass(frozen=True, slots=True)
class CheckedSlots:
    number: int
    at: datetime


@dataclasses.dataclass(slots=True, kw_only=True)
class KwOnly:
    number: int
    size: int = 0


# Subclasses of built-in types --------------------------------------------------------------------


class Celsius(float):
    """A subclass whose own code must not be asked."""

    unit: str

    def __new__(cls, value: float, unit: str) -> Celsius:
        made.append("Celsius.__new__")
        self = super().__new__(cls, value)
        self.unit = unit
        return self

    def __float__(self) -> float:
        made.append("Celsius.__float__")
        return 0.0


class Text(str):
    __slots__ = ()


class Slots(tuple[int, ...]):
    pass


class Messages(list[Any]):
    title = ""

    def append(self, item: Any) -> None:
        made.append("Messages.append")

    def __iter__(self) -> Any:
        made.append("Messages.__iter__")
        return iter(())


class Values(dict[Any, Any]):
    def __setitem__(self, key: Any, value: Any) -> None:
        made.append("Values.__setitem__")
        super().__setitem__(key, value)


class Ordered(collections.OrderedDict[Any, Any]):
    def __setitem__(self, key: Any, value: Any) -> None:
        made.append("Ordered.__setitem__")
        super().__setitem__(key, value)


class Missing(collections.defaultdict[Any, Any]):
    pass


class Recent(collections.deque[Any]):
    pass


class Moment(datetime):
    pass


class Day(date):
    pass


class Clock(time):
    pass


class Span(timedelta):
    pass


class Money(Decimal):
    pass


class Names(set[Any]):
    pass


class FrozenNames(frozenset[Any]):
    pass


class Number(int):
    pass


class Data(bytes):
    pass


class Buffer(bytearray):
    pass


class Complex(complex):
    pass


def with_title(messages: Messages, title: str) -> Messages:
    messages.title = title
    return messages


class Key(uuid.UUID):
    pass


class Prompts(collections.UserDict[str, str]):
    pass


class Options(types.SimpleNamespace):
    pass


class Planet(enum.Enum):
    EARTH = (5.9, 6.3)

    def __init__(self, mass: float, radius: float) -> None:
        self.mass = mass


class Host(ipaddress.IPv4Address):
    """An address with a name for it."""


class Site(ipaddress.IPv4Network):
    """A network with a name for it."""


class Share(Fraction):
    """A fraction with a name for it."""


class Inbox(list[str]):
    """Is held by threads, and says how it is copied."""

    def __init__(self, letters: list[str]) -> None:
        super().__init__(letters)
        self._lock, self._reentrant = threading.Lock(), threading.RLock()

    def __reduce__(self) -> tuple[type[Inbox], tuple[list[str]]]:
        return Inbox, (list(self),)


@dataclasses.dataclass
class Visit:
    """Leaves out of its copies where it was, and a field that no copy needs."""

    found: str
    inbox: Inbox
    client: Any = dataclasses.field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {"found": self.found, "inbox": self.inbox}


class Polygon:
    """No rule covers it."""

    def __init__(self, corners: list[tuple[int, int]]) -> None:
        self.corners = corners

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Polygon) and self.corners == other.corners

    def __repr__(self) -> str:
        return f"Polygon({self.corners})"


register(Polygon, lambda polygon: polygon.corners, Polygon)

BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
AMBIGUOUS = datetime(2026, 10, 25, 2, 30)
"""Twice in that night in Berlin."""

ROWS: Mapping[str, list[Any]] = {
    "`None`, `bool`, `int`, `float`, `str`, `list`, `dict` with `str` keys": [
        None,
        True,
        1,
        0.1,
        "a",
        [1],
        {"a": -0.0},
    ],
    "`int` of any size, `nan`, `inf`, `str` with lone surrogates": [2**70, float("nan"), float("-inf"), "\ud800"],
    "`bytes`, `bytearray`": [b"\xff\0", bytearray(b"ab")],
    "`memoryview`": [memoryview(b"ab")],
    "`array.array`": [array.array("d", [1.5, float("inf")]), array.array("H", [1, 2]), array.array("b")],
    "`tuple`, `set`, `frozenset`, `dict` with any keys": [(1, (2,)), {1, "a"}, frozenset({(1,)}), {1: 2, (3,): {}}],
    "`collections.deque`, `OrderedDict`, `Counter`": [
        collections.deque([1, (2,)], maxlen=3),
        collections.deque(),
        collections.OrderedDict([("b", 1), (3, 2), ("~", 3)]),
        collections.Counter("abca"),
    ],
    "`collections.defaultdict`": [
        collections.defaultdict(list, {1: [2]}),
        collections.defaultdict(int, a=1),
        collections.defaultdict(None, a=1),
        collections.defaultdict(collections.Counter),
    ],
    "`collections.ChainMap`, `UserDict`, `UserList`, `UserString`, and subclasses": [
        collections.ChainMap({"a": 1}, {(1,): 2}),
        collections.UserDict({"a": (1,)}),
        collections.UserList([1]),
        collections.UserString("a"),
        Prompts(system="be kind"),
    ],
    "`types.SimpleNamespace`, `argparse.Namespace`, and subclasses": [
        types.SimpleNamespace(a=1, b=types.SimpleNamespace()),
        argparse.Namespace(verbose=True),
        Options(a=(1,)),
    ],
    "`types.MappingProxyType`": [types.MappingProxyType({"a": (1,), 2: 3})],
    "`complex`, `fractions.Fraction` and subclasses, `decimal.Decimal`": [
        1 - 2j,
        complex("nan-infj"),
        complex(-0.0, -0.0),
        Fraction(-1, 3),
        Fraction(2**90, 7),
        Share(1, 3),
        *map(Decimal, ("1E+5", "-0", "1.50E-7", "0E+3", "-sNaN12", "Infinity", "123456789.123456789")),
    ],
    "`range`, `slice`": [range(3), range(10, -2, -3), range(2**70), slice(None, 3, None), slice(1, "b", (2,))],
    "`uuid.UUID`, and subclasses": [uuid.uuid4(), uuid.UUID(int=0), Key(int=1)],
    "`ipaddress` addresses, networks, interfaces, and subclasses": [
        ipaddress.ip_address("127.0.0.1"),
        ipaddress.ip_address("fe80::1%eth0"),
        ipaddress.ip_network("10.0.0.0/8"),
        ipaddress.ip_network("2001:db8::/32"),
        ipaddress.ip_interface("10.1.2.3/8"),
        ipaddress.ip_interface("2001:db8::1/32"),
        Host("10.0.0.1"),
        Site("10.0.0.0/8"),
    ],
    "`pathlib` paths": [pathlib.Path("/a/b"), pathlib.PurePosixPath("a"), pathlib.PureWindowsPath("c:\\a")],
    "`re.Pattern` of `str` or `bytes`": [re.compile("a(?P<b>.*)", re.I | re.S), re.compile(rb"\d+"), re.compile("")],
    "`...`, `NotImplemented`, `dataclasses.MISSING`, `msgspec.UNSET`, `PydanticUndefined`, `openai.NOT_GIVEN`": [
        ...,
        NotImplemented,
        dataclasses.MISSING,
        msgspec.UNSET,
        pydantic_core.PydanticUndefined,
    ],
    "`datetime`, `date`, `time`, `timedelta`": [
        datetime(2026, 1, 2, 3, 4, 5, 6),
        datetime.max,
        date.min,
        time(1, 2, tzinfo=UTC, fold=1),
        timedelta.min,
        timedelta(microseconds=-1),
    ],
    "`datetime.timezone`, `zoneinfo.ZoneInfo`, pydantic's `TzInfo`; also as the zone of a time": [
        UTC,
        timezone(timedelta(hours=-2, microseconds=5)),
        timezone(timedelta(hours=1), "CET"),
        BERLIN,
        pydantic_core.TzInfo(-9000),
        *(AMBIGUOUS.replace(tzinfo=BERLIN, fold=fold) for fold in (0, 1)),
        datetime(2026, 1, 1, tzinfo=pydantic_core.TzInfo(7200)),
        time(1, tzinfo=pydantic_core.TzInfo(0)),
    ],
    "zones of pytz, dateutil and others": [
        *(pytz.timezone("Europe/Berlin").localize(AMBIGUOUS, is_dst=dst) for dst in (True, False)),
        datetime(2026, 1, 1, tzinfo=pytz.FixedOffset(90)),
        *(AMBIGUOUS.replace(tzinfo=dateutil.tz.gettz("Europe/Berlin"), fold=fold) for fold in (0, 1)),
        datetime(2026, 1, 1, tzinfo=dateutil.tz.tzoffset("here", 5400)),
        datetime(2026, 1, 1, tzinfo=dateutil.tz.tzutc()),
        datetime(2026, 1, 1, tzinfo=dateutil.tz.tzlocal()),
        time(1, tzinfo=pytz.FixedOffset(90)),
    ],
    "members of an `Enum`, of any kind; combined flags": [
        Colour.CRIMSON,
        Level.HIGH,
        Right.READ | Right.RUN,
        Bits(64),
        Planet.EARTH,
        attrs.NOTHING,
        uuid.SafeUUID.safe,
    ],
    "dataclasses: frozen, with slots, generic, of pydantic": [
        Point(1, [Frozen(1)]),
        Account(name="a"),
        Box[int](3),
        Checked(number=1),
        CheckedSlots(number=1, at=datetime(2026, 1, 1, tzinfo=pydantic_core.TzInfo(7200))),
        KwOnly(number=1),
    ],
    "classes of attrs: frozen, with slots": [Slotted(1), Slotted(1, [2], 4), Hashed("a", (1,)), WithDict(1)],
    "named tuples": [Pair(1, [Pair("a")])],
    "`msgspec.Struct`: frozen, tagged, `array_like`, generic": [
        Struct(1),
        Struct(1, [2], None),
        Tagged(a=1, d=(2,)),
        Row(1.5, float("inf")),
        Loose(1),
        Chunk[int](1),
        ChunkAfter([Chunk("a")]),
    ],
    "pydantic models, with extra and private values, cached properties, without validation (`model_construct`), "
    "`RootModel`": [
        Person(name="Ada"),
        Person.model_construct(age="old"),
        Team(lead=Person(name="Ada"), motto=("be", "kind")),  # type: ignore[call-arg]
        Ages({"a": 1}),
        rich(),
        Cat(lives=9).model_copy(update={"lives": "many"}),
    ],
    "generic models of pydantic (`Page[Item]`)": [
        Holder[int](held=1),
        Holder[Holder[list[int]]](held=Holder[list[int]](held=[1])),
        Holder(held=1),
        Pages[Person | None](held=[None, Person(name="Ada")], next=Pages[Person | None](held=[])),
        IntPages(held=[1]),
    ],
    "pydantic's `HttpUrl`, `PostgresDsn` and other addresses": [
        pydantic.HttpUrl("https://user:pw@example.org:8443/a%20b?c=d#e"),
        pydantic.AnyUrl("ftp://münchen.example/a"),
        pydantic.PostgresDsn("postgres://u:p@one:1,two:2/db"),
        pydantic_core.Url("https://example.org"),
        pydantic_core.MultiHostUrl("redis://a,b"),
    ],
    "pydantic's `SecretStr`, `SecretBytes`, `Secret`": [
        pydantic.SecretStr("s"),
        pydantic.SecretBytes(b"s"),
        pydantic.Secret[int](3),
    ],
    "pydantic's `NameEmail`, `ByteSize`": [pydantic.NameEmail("Ada", "ada@example.org"), pydantic.ByteSize(3)],
    "subclasses of `int`, `float`, `complex`, `str`, `bytes`, `bytearray`, `tuple`, `list`, `dict`, `set`, "
    "`frozenset`, `deque`, `OrderedDict`, `defaultdict`, `Decimal`, `datetime`, `date`, `time`, `timedelta`": [
        Number(3),
        Celsius(21.5, "C"),
        Complex(1j),
        Text("\ud800"),
        Data(b"a"),
        Buffer(b"a"),
        Slots((1, 2)),
        with_title(Messages([1, (2,)]), "t"),
        Values({1: 2}),
        Names({1}),
        FrozenNames({1}),
        Recent([1, 2], 5),
        Ordered([("b", 1), ("a", 2)]),
        Missing(list, {1: [2]}),
        Money("1E+2"),
        Moment(2026, 1, 2, 3, tzinfo=BERLIN, fold=1),
        Day(2026, 1, 2),
        Clock(1, 2, tzinfo=UTC),
        Span(1, 2, 3),
    ],
    "numpy arrays and scalars of fixed-size types": [numpy.arange(6.0).reshape(2, 3), numpy.float32(1.5)],
    "exceptions": [ValueError("a", 1), ExceptionGroup("g", [KeyError("k")])],
    "`ProcessResult`, `Failure`, `RunInfo`, `Placement`, `RetryPolicy`": [
        ProcessResult.ok((1,)),
        ProcessResult.fail(ValueError("x"), checkpoint={"a": (1,)}),
        Failure(ValueError("x"), failed_at=datetime(2026, 1, 1, tzinfo=UTC)),
        RunInfo("p", "id"),
        Placement("m", "e"),
        RetryPolicy(2),
    ],
    "classes that you have registered": [Polygon([(0, 0), (1, 1)])],
    "`Opaque`": [Opaque("nowhere:Thing", {"a": (1,)}, "data"), Opaque("nowhere:Thing", "<Thing>")],
}
"""By the first cell of the row."""
