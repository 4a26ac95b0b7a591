"""What a channel lets through, and what becomes of it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum, IntEnum
from types import GenericAlias
from typing import Annotated, Any, Literal, NewType, Optional, Protocol, Union, runtime_checkable

import numpy
import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from stbass._channels.typespec import ChannelType
from stbass._channels.typewire import describe, from_wire, to_wire, type_name
from stbass.channel import (
    Chan,
    ChannelProtocolError,
    ChannelTypeError,
    SequentialProtocol,
    VariantProtocol,
)
from stbass.errors import WireError


class Order(BaseModel):
    number: int
    note: str = ""


class Special(Order):
    pass


class Colour(Enum):
    RED = 1


class Level(IntEnum):
    LOW = 1


@dataclass
class Point:
    x: int


class Row(TypedDict):
    a: int


@runtime_checkable
class Named(Protocol):
    name: str


class Unchecked(Protocol):
    name: str


UserId = NewType("UserId", int)
Positive = Annotated[int, Field(gt=0)]


def through(spec: Any, value: Any) -> Any:
    return ChannelType(spec, "orders").fit(value)


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        (int, 1),
        (int, Level.LOW),
        (bool, True),
        (float, 1.5),
        (str, ""),
        (object, None),
        (Any, object()),
        (None, None),
        (type(None), None),
        (list, [1, "a"]),
        (list[int], [1, 2]),
        (tuple[int, ...], (1, 2)),
        (dict[str, list[int]], {"a": [1]}),
        (int | None, None),
        (int | None, 5),
        (Optional[str], "x"),  # noqa: UP045
        (Union[int, str], "x"),  # noqa: UP007
        (int | list[int], [1]),
        (float | int, 1),
        (Literal["a", 1], "a"),
        (Literal[True], True),
        (Colour, Colour.RED),
        (Point, Point(1)),
        (Order, Order(number=1)),
        (Order, Special(number=1)),
        (Row, {"a": 1}),
        (Named, Chan(int)),
        (UserId, 3),
        (Positive, 3),
        (Decimal, Decimal(1)),
        (VariantProtocol(int, str), 1),
        (VariantProtocol(int, str), "x"),
        (VariantProtocol(float, int), 1),
        (type, int),
    ],
)
def test_it_fits_as_it_is(spec: Any, value: Any) -> None:
    result = through(spec, value)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        (int, True),
        (int, 1.0),
        (int, "1"),
        (bool, 1),
        (float, "1"),
        (float, True),
        (float, 10**400),
        (str, b"x"),
        (None, 0),
        (list[int], (1, 2)),
        (list[int], [1, True]),
        (list[int], [1, "2"]),
        (dict[str, int], {"a": "1"}),
        (int | None, True),
        (int | None, "5"),
        (Literal["a", 1], True),
        (Literal["a", 1], "b"),
        (Order, {"number": "x"}),
        (Order, 3),
        (Special, Order(number=1)),
        (Row, {"a": "x"}),
        (Named, 3),
        (UserId, "3"),
        (Positive, 0),
        (VariantProtocol(int, str), True),
        (VariantProtocol(int, Order), {"number": "x"}),
    ],
)
def test_it_does_not_fit(spec: Any, value: Any) -> None:
    with pytest.raises(ChannelTypeError) as caught:
        through(spec, value)
    error = caught.value
    assert isinstance(error, TypeError)
    assert (error.actual, error.channel_name) == (type(value).__name__, "orders")
    assert error.expected in str(error)
    assert "orders" in str(error)


@pytest.mark.parametrize(
    ("spec", "value", "result"),
    [
        (float, 1, 1.0),
        (list[float], [1], [1.0]),
        (Order, {"number": 1}, Order(number=1)),
        (list[Order], [{"number": 1}], [Order(number=1)]),
        (Order | None, {"number": 1}, Order(number=1)),
        (VariantProtocol(int, Order), {"number": 1}, Order(number=1)),
        (VariantProtocol(str, float), 1, 1.0),
    ],
)
def test_it_becomes_what_fits(spec: Any, value: Any, result: Any) -> None:
    assert through(spec, value) == result
    assert type(through(spec, value)) is type(result)


def test_the_error_says_where_but_not_what() -> None:
    with pytest.raises(ChannelTypeError) as caught:
        through(dict[str, list[Order]], {"a": [{"number": "my password"}]})
    assert "a.0.number: Input should be a valid integer" in str(caught.value)
    assert "my password" not in str(caught.value)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("spec", [3, Unchecked, list[Unchecked], "int", GenericAlias(list, (SequentialProtocol(int),))])
def test_not_a_type(spec: Any) -> None:
    with pytest.raises(TypeError):
        Chan(spec)


def test_a_protocol_within_a_variant_is_refused() -> None:
    with pytest.raises(TypeError, match="whole channel"):
        Chan(VariantProtocol(int, SequentialProtocol(int, str)))
    with pytest.raises(TypeError, match="at least one"):
        VariantProtocol()


async def test_sequence() -> None:
    channel = Chan(SequentialProtocol(int, Order, VariantProtocol(str, None)), capacity=9)
    with pytest.raises(ChannelTypeError, match="value 1 of"):
        await channel.send("early")
    await channel.send(1)
    with pytest.raises(ChannelTypeError, match="value 2 of"):
        await channel.send(1)
    await channel.send({"number": 2})
    await channel.send(None)
    with pytest.raises(ChannelProtocolError, match="complete"):
        await channel.send(None)
    channel.close()
    assert [value async for value in channel] == [1, Order(number=2), None]


async def test_one_protocol_for_two_channels() -> None:
    protocol = SequentialProtocol(int, str)
    one, two = Chan(protocol, capacity=2), Chan(protocol, capacity=2)
    await one.send(1)
    await two.send(1)
    await one.send("x")
    assert [await one.recv(), await one.recv(), await two.recv()] == [1, "x", 1]


@pytest.mark.parametrize(
    ("spec", "text", "wire"),
    [
        (int, "int", "int"),
        (None, "None", "None"),
        (Any, "Any", "Any"),
        (list[int], "list[int]", ["list", "int"]),
        (dict[str, int | None], "dict[str, int | None]", ["dict", "str", ["Union", "int", "None"]]),
        (tuple[int, ...], "tuple[int, ...]", ["tuple", "int", "..."]),
        (Order, "Order", f"{__name__}:Order"),
        (Literal["a", 1, None], "Literal['a', 1, None]", ["Literal", {"value": "a"}, {"value": 1}, {"value": None}]),
        (Literal[Colour.RED], "Literal[Colour.RED]", ["Literal", {"enum": f"{__name__}:Colour", "name": "RED"}]),
        (Literal[b"x"], "Literal[b'x']", ["Literal", {"bytes": "78"}]),
        (SequentialProtocol(int, str), "SequentialProtocol(int, str)", ["SequentialProtocol", "int", "str"]),
        (VariantProtocol(int, None), "VariantProtocol(int, None)", ["VariantProtocol", "int", "None"]),
        (Decimal, "Decimal", "decimal:Decimal"),
        (Row, "Row", f"{__name__}:Row"),
    ],
)
def test_types_travel_as_plain_data(spec: Any, text: str, wire: Any) -> None:
    assert describe(spec) == text
    assert to_wire(spec) == wire
    assert from_wire(wire) == spec
    assert type_name(from_wire(wire)) == type_name(spec)


def test_what_is_behind_a_type_travels() -> None:
    assert to_wire(Positive) == "int"
    assert to_wire(UserId) == "int"


@pytest.mark.parametrize(
    "wire",
    [
        "no_such_module_anywhere:Thing",
        "os:system",
        "sys:modules",
        ["list", "os:system"],
        ["os:system", "int"],
        ["Literal", {"enum": "os:system", "name": "x"}],
    ],
)
def test_a_description_leads_to_nothing_but_types_that_are_known(wire: Any) -> None:
    spec = from_wire(wire)
    assert "no_such_module_anywhere" not in sys.modules
    assert through(spec, "anything") == "anything"
    assert to_wire(spec) == wire


@pytest.mark.parametrize(
    "wire",
    [3, None, "", [], ["list"], [3, "int"], {"a": 1}, ["Literal", "a"], ["Literal", {"value": 1, "bytes": "00"}]],
)
def test_what_describes_nothing_is_refused(wire: Any) -> None:
    with pytest.raises(WireError):
        from_wire(wire)


def test_a_bottomless_description_is_refused() -> None:
    wire: list[Any] = ["list", "int"]
    for _ in range(100_000):
        wire = ["list", wire]
    with pytest.raises(WireError):
        from_wire(wire)


# NumPy's numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "value", "arrives"),
    [
        (int, numpy.int64(7), 7),
        (int, numpy.uint8(7), 7),
        (float, numpy.float32(0.5), 0.5),
        (float, numpy.int64(7), 7.0),
        (float, numpy.longdouble(0.5), 0.5),
        (bool, numpy.bool_(True), True),
        (int | None, numpy.int64(7), 7),
        (list[int], [numpy.int64(7), 8], [7, 8]),
        (dict[str, float], {"x": numpy.float32(0.5)}, {"x": 0.5}),
        (tuple[int, bool], (numpy.int64(7), numpy.bool_(False)), (7, False)),
    ],
    ids=repr,
)
def test_numbers_of_numpy_go_where_those_of_python_go(spec: Any, value: Any, arrives: Any) -> None:
    got = ChannelType(spec, "c").fit(value)
    assert repr(got) == repr(arrives)


@pytest.mark.parametrize(
    ("spec", "value", "text"),
    [
        (int, numpy.float64(0.5), "expects int, got numpy.float64"),
        (bool, numpy.int64(1), "expects bool, got numpy.int64"),
        (int, numpy.bool_(True), "expects int, got numpy.bool"),
        (int, numpy.timedelta64(1, "s"), "expects int, got numpy.timedelta64"),
    ],
)
def test_a_number_of_numpy_that_is_no_such_number(spec: Any, value: Any, text: str) -> None:
    with pytest.raises(ChannelTypeError) as caught:
        ChannelType(spec, "c").fit(value)
    assert text in str(caught.value)


def test_two_classes_of_one_name_are_told_apart() -> None:
    here, there = (type("Job", (), {"__module__": module}) for module in ("one", "two"))
    with pytest.raises(ChannelTypeError, match=r"expects one\.Job, got two\.Job"):
        ChannelType(here, "c").fit(there())


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (2**53 + 1, "a float does not hold 9007199254740993, but 9007199254740992.0"),
        (numpy.int64(2**53 + 1), "a float does not hold 9007199254740993, but 9007199254740992.0"),
        (numpy.longdouble("0.1"), "expects float, got numpy.longdouble"),
        (numpy.longdouble("1e400"), "expects float, got numpy.longdouble"),
    ],
    ids=["int", "int64", "longdouble", "too large"],
)
def test_a_number_that_a_float_does_not_hold_is_refused(value: Any, told: str) -> None:
    with pytest.raises(ChannelTypeError) as raised:
        ChannelType(float, "c").fit(value)
    assert told in str(raised.value)
    assert ChannelType(float, "c").fit(2**53 + 2) == 2.0**53 + 2
