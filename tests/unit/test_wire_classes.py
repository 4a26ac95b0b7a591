"""Dataclasses, enums, named tuples, pydantic models and numpy values; and what becomes of classes not known here."""

from __future__ import annotations

import copy
import enum
import json
import sys
import threading
import types
from collections import namedtuple
from dataclasses import dataclass, make_dataclass
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from pydantic import create_model

from stbass._channels.typespec import ChannelType
from stbass.errors import ChannelTypeError, NotTransportable, WireError
from stbass.wire import Opaque, dumps, loads
from tests.support import wire_samples as samples
from tests.support.wire_samples import (
    Account,
    Ages,
    Bits,
    Box,
    Checked,
    Colour,
    Frozen,
    Guarded,
    Holder,
    Level,
    ListAndData,
    Mode,
    Outer,
    Pair,
    PairWithMore,
    Person,
    Point,
    Right,
    Sparse,
    Spy,
    SpyFlag,
    Team,
)

HERE = "tests.support.wire_samples"


def arrived(value: Any) -> Any:
    """What the receiver gets; none of the user's code may have been run for it."""
    data = dumps(value)
    samples.ran.clear()
    found = loads(data)
    assert samples.ran == []
    return found


# Enums -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "member",
    [
        Colour.RED,
        Colour.CRIMSON,
        Colour.BLUE,
        Level.HIGH,
        Mode.SLOW,
        Right.READ,
        Right.READ | Right.RUN,
        Right(0),
        ~Right.WRITE,
        Bits.A | Bits.B,
        Bits(0),
        Bits(64),
        SpyFlag.ONE | SpyFlag.FOUR,
    ],
    ids=repr,
)
def test_an_enum_member_arrives_as_the_member_itself(member: enum.Enum) -> None:
    assert arrived(member) is member
    assert arrived({"k": [member]}) == {"k": [member]}
    assert next(iter(arrived({member: 1}))) is member


def test_flags_are_combined_without_the_classes_own_code() -> None:
    # Given a combination that this Python process has never made
    data = f'{{"~":"enum","c":"{HERE}:SpyFlag","v":6}}'
    samples.ran.clear()

    # When it arrives
    found = loads(data)

    # Then it is the combination, and SpyFlag._missing_ was not asked
    assert found == SpyFlag.TWO | SpyFlag.FOUR
    assert samples.ran == []


@pytest.mark.parametrize("member", ['"GREEN"', "7", "8", '"_missing_"', '"mro"'])
def test_a_member_that_is_not_here_is_opaque(member: str) -> None:
    for cls in ("Colour", "SpyFlag") if member != "7" else ("Colour",):
        found = loads(f'{{"~":"enum","c":"{HERE}:{cls}","v":{member}}}')

        assert found == Opaque(f"{HERE}:{cls}", json.loads(member), "enum")


# Dataclasses -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        Point(1, [2, (3,)]),
        Point(Point(None), Frozen(1)),
        Frozen(1, Frozen(2)),
        Box({"a": {1}}),
        Box[int](3),
        Outer.Inner(1),
        Checked(number=1, text="a"),
        Account(name="a", balance=3, history=[1, 2]),
    ],
    ids=repr,
)
def test_a_dataclass_arrives_equal_and_of_the_same_class(value: Any) -> None:
    found = arrived(value)

    assert type(found) is type(value)
    assert found == value
    assert repr(found) == repr(value)


def test_a_dataclass_arrives_as_it_is_now_not_as_it_was_constructed() -> None:
    account = Account(name="a", balance=1)
    account.total = 99
    account.opened = False

    found = arrived(account)

    assert (found.total, found.opened) == (99, False)


def test_a_field_that_was_never_set_is_not_set_there_either() -> None:
    found = arrived(Sparse(1))

    assert found.given == 1
    assert not hasattr(found, "later")


def test_a_cached_property_travels_with_its_value() -> None:
    box = Box(1)
    assert box.doubled == [1, 1]
    box.content = 5

    assert arrived(box).doubled == [1, 1]


def test_no_code_of_the_class_is_run_to_rebuild_it() -> None:
    spy = Spy(1)

    assert arrived([spy])[0].value == 1


def test_a_dataclass_that_holds_a_lock_is_refused_by_the_name_of_the_attribute() -> None:
    with pytest.raises(NotTransportable, match=r"^value\.lock: _thread\.lock cannot travel") as caught:
        dumps(Guarded("a"))

    assert caught.value.path == "value.lock"


def test_a_dataclass_that_is_also_a_list_arrives_with_both() -> None:
    value = ListAndData("a")
    value += [1, 2]

    found = arrived(value)

    assert (type(found), list(found), found.name) == (ListAndData, [1, 2], "a")


def test_a_class_defined_in_a_function_is_refused_and_told_where_to_go() -> None:
    @dataclass
    class Local:
        x: int

    class LocalEnum(enum.Enum):
        A = 1

    LocalPair: Any = namedtuple("LocalPair", "a b")
    for value in (Local(1), LocalEnum.A, LocalPair(1, 2), make_dataclass("Made", ["x"])(1)):
        with pytest.raises(NotTransportable, match=r"define it (at the top level of a module|under that name)"):
            dumps([value])


class Unknown:
    pass


def test_an_object_of_a_plain_class_is_refused() -> None:
    with pytest.raises(NotTransportable, match=r"Unknown cannot travel; send what it is made of"):
        dumps(Unknown())


# Versions of a class that differ -----------------------------------------------------------------


def form(name: str, **fields: Any) -> str:
    return json.dumps({"~": "data", "c": f"{HERE}:{name}", "v": fields})


def test_a_field_that_is_new_here_gets_its_default() -> None:
    assert loads(form("Point", x=1)) == Point(1, 0)
    assert loads(form("Frozen", left=1)) == Frozen(1, None)


def test_a_class_that_lacks_a_field_or_has_a_new_one_without_default_is_opaque() -> None:
    assert loads(form("Point", y=1)) == Opaque(f"{HERE}:Point", {"y": 1}, "data")
    assert loads(form("Frozen", left=1, middle=2)) == Opaque(f"{HERE}:Frozen", {"left": 1, "middle": 2}, "data")


# Named tuples ------------------------------------------------------------------------------------


def test_a_named_tuple_arrives_as_one() -> None:
    found = arrived([Pair(1, [Pair("a")])])[0]

    assert type(found) is Pair
    assert found == Pair(1, [Pair("a")])
    assert type(found.second[0]) is Pair


def test_a_named_tuple_with_attributes_of_its_own_is_refused() -> None:
    more: Any = PairWithMore(first=1, second=2)
    assert arrived(more) == more
    more.note = "kept?"

    with pytest.raises(NotTransportable, match="named tuple with more than its fields"):
        dumps(more)


def test_a_named_tuple_with_other_fields_here_is_opaque() -> None:
    data = json.dumps({"~": "named", "c": f"{HERE}:Pair", "v": {"one": 1, "two": 2}})

    assert loads(data) == Opaque(f"{HERE}:Pair", {"one": 1, "two": 2}, "named")


# pydantic ----------------------------------------------------------------------------------------


def test_a_model_arrives_equal_with_what_was_set_extra_and_private() -> None:
    person = Person(name="Ada", tags=["x"])
    person.keep(42)
    assert person.greeting == "hello Ada"
    team = Team(lead=person, members=(person,), motto=("be", "kind"))  # type: ignore[call-arg]

    found = arrived(team)

    assert found == team
    assert type(found.members[0]) is Person
    assert found.lead.kept == 42
    assert found.lead.model_fields_set == {"name", "tags"}
    assert found.model_extra == {"motto": ("be", "kind")}
    assert arrived(Ages({"a": 1})) == Ages({"a": 1})


def test_a_model_is_not_validated_again() -> None:
    # Given a model that its own validators would refuse
    person = Person.model_construct(name=5, age="old")

    found = arrived(person)

    assert (found.name, found.age) == (5, "old")


def test_a_parametrized_model_that_nobody_has_made_here_arrives_as_the_generic_one() -> None:
    value = Holder[set[bytes]](held={b"x"})
    data = dumps(value).replace(b"set[bytes]", b"set[str]")

    found = loads(data)

    assert type(found) is Holder
    assert found.held == {b"x"}
    assert type(loads(dumps(value))) is Holder[set[bytes]]


def test_a_model_with_other_fields_here_is_opaque_and_says_which_at_both_ends() -> None:
    data = json.loads(dumps(Person(name="Ada")))
    data["v"]["height"] = 3

    found = loads(json.dumps(data))

    assert isinstance(found, Opaque)
    assert found.data["height"] == 3
    assert json.loads(dumps(found)) == data
    name = f"{HERE}:Person"
    fields = "(here: name, age, tags)"
    assert found.reason == f"{name} as it was sent has field 'height', which {name} here has not {fields}"

    del data["v"]["height"], data["v"]["name"]
    found = loads(json.dumps(data))
    assert found.reason == f"{name} as it was sent has no field 'name', which {name} here must have {fields}"
    # Whoever takes it for the real thing is told the same, and so is a typed channel
    with pytest.raises(AttributeError, match=r"Opaque, which has no attribute 'age': .* has no field 'name'"):
        _ = found.age
    with pytest.raises(ChannelTypeError, match=r"got Opaque of .*:Person \(.* has no field 'name'"):
        ChannelType(Person, "people").fit(found)
    assert loads(dumps(copy.deepcopy(found))) == found


def test_a_field_that_is_new_in_a_model_here_gets_its_default_and_an_unknown_one_is_extra_if_allowed() -> None:
    data = json.loads(dumps(Person(name="Ada", age=3, tags=["x"])))
    del data["v"]["age"], data["v"]["tags"]
    assert loads(json.dumps(data)) == Person(name="Ada")

    data = json.loads(dumps(Team(lead=Person(name="Ada"), motto="x")))  # type: ignore[call-arg]
    data["v"]["new"] = [1]
    assert loads(json.dumps(data)).model_extra == {"new": [1], "motto": "x"}
    # But not where it is not
    data["c"] = f"{HERE}:Person"
    assert "fields 'lead', 'members', 'motto', 'new'" in loads(json.dumps(data)).reason


def test_what_an_sdk_puts_beside_the_fields_of_a_model_is_kept() -> None:
    person = Person(name="Ada")
    person.__dict__["_request_id"] = "r1"
    person.__dict__["~"] = (1,)

    found = arrived(person)

    assert type(found) is Person
    assert found.__dict__ == person.__dict__
    assert ChannelType(Person, "people").fit(found) is found


def test_a_model_without_one_of_its_fields_arrives_so() -> None:
    found = arrived(Person.model_construct(_fields_set={"age"}, age=3))

    assert type(found) is Person
    assert found.model_fields_set == {"age"}
    assert not hasattr(found, "name")


# Classes made at run time ------------------------------------------------------------------------


def remade(cls: type[Any], **fields: Any) -> Any:
    """As instructor and others do it: a new class, under the name of the one that it is made of."""
    return create_model(cls.__name__, __base__=cls, __module__=cls.__module__, **fields)


def test_a_class_made_at_run_time_travels_as_the_one_that_its_name_leads_to() -> None:
    value = remade(Person)(name="Ada")
    value.keep(5)

    found = arrived([value])[0]

    assert type(found) is Person
    assert (found.name, found.kept) == ("Ada", 5)
    point: Any = make_dataclass("Point", ["x", "y"], namespace={"__module__": HERE})
    point.__module__ = HERE
    assert arrived(point(1, 2)) == Point(1, 2)


def test_a_class_made_at_run_time_whose_fields_do_not_fit_is_opaque_and_says_why() -> None:
    found = loads(dumps({"answer": remade(Person, mood=(str, "good"))(name="Ada"), "rest": 1}))

    assert found["rest"] == 1
    assert type(found["answer"]) is Opaque
    assert found["answer"].data["mood"] == "good"
    assert f"has field 'mood', which {HERE}:Person here has not" in found["answer"].reason


# numpy -------------------------------------------------------------------------------------------

fixed_types = (
    nps.scalar_dtypes()
    | nps.byte_string_dtypes()
    | nps.unicode_string_dtypes()
    | nps.array_dtypes()
    | nps.nested_dtypes(max_leaves=4)
)


def same_array(left: Any, right: Any) -> bool:
    return (
        type(left) is type(right)
        and left.dtype == right.dtype
        and left.dtype.descr == right.dtype.descr
        and left.shape == right.shape
        and left.tobytes() == right.tobytes()
    )


@given(nps.arrays(fixed_types, nps.array_shapes(min_dims=0, min_side=0, max_dims=4, max_side=4)), st.booleans())
@settings(max_examples=200, deadline=None)
def test_an_array_arrives_with_type_shape_order_and_every_bit(array: Any, by_columns: bool) -> None:
    if by_columns:
        array = numpy.asfortranarray(array)

    found = loads(dumps({"a": array}))["a"]

    assert same_array(found, array)
    assert found.flags.f_contiguous == array.flags.f_contiguous
    assert found.flags.c_contiguous == array.flags.c_contiguous
    assert found.flags.writeable
    assert found.flags.owndata


@given(nps.from_dtype(numpy.dtype("f8")) | nps.scalar_dtypes().flatmap(nps.from_dtype))
def test_a_numpy_scalar_arrives_as_one(scalar: Any) -> None:
    found = loads(dumps([scalar]))[0]

    assert type(found) is type(scalar)
    assert same_array(found, scalar)


@pytest.mark.parametrize("value", [numpy.str_("a\0"), numpy.bytes_(b"a\0"), numpy.str_(""), numpy.float64("nan")])
def test_numpy_scalars_that_are_also_of_a_python_type_do_not_decay(value: Any) -> None:
    found = loads(dumps({"v": value}))["v"]

    assert type(found) is type(value)
    assert repr(found) == repr(value)


def test_a_view_with_strides_arrives_as_its_elements() -> None:
    array = numpy.arange(24).reshape(2, 3, 4)[:, ::2, ::-1]

    found = loads(dumps(array))

    assert numpy.array_equal(found, array)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (numpy.array([object()]), "array of Python objects"),
        (numpy.zeros(1, dtype=[("a", "O")]), "array of Python objects"),
        (numpy.ma.masked_array([1], [True]), "MaskedArray is a subclass of numpy's own; send numpy.asarray"),
        (numpy.zeros(1, dtype=numpy.dtypes.StringDType()), "fixed-size types"),
        (numpy.zeros(1, dtype=numpy.dtype("i4", metadata={"unit": "m"})), "no exact description"),
    ],
)
def test_arrays_that_are_more_than_memory_are_refused(value: Any, words: str) -> None:
    with pytest.raises(NotTransportable, match=words):
        dumps([value])


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [2**62, 4]},
        {"shape": [-1]},
        {"shape": [2]},
        {"shape": [True, 3]},
        {"shape": [1] * 60},
        {"shape": "3"},
        {"type": "|O"},
        {"type": "os.system"},
        {"type": "V999999999999"},
        {"type": [["a"]]},
        {"type": None},
        {"order": "K"},
        {"data": "AAAA"},
        {"data": [1, 2, 3]},
    ],
    ids=str,
)
def test_an_array_whose_parts_do_not_fit_together_is_refused(change: dict[str, Any]) -> None:
    data = json.loads(dumps(numpy.array([1, 2, 3], dtype="i8")))
    data["v"].update(change)

    with pytest.raises(WireError):
        loads(json.dumps(data))


# Classes that are not here -----------------------------------------------------------------------


@pytest.mark.parametrize("tag", ["data", "enum", "named", "model", "error"])
@pytest.mark.parametrize(
    "name",
    [
        "os:system",
        "builtins:eval",
        "builtins:dict",
        "builtins:type",
        "subprocess:Popen",
        "antigravity:fly",
        "no.such.module:Thing",
        "",
        ":",
        "os",
        f"{HERE}:hello",
        f"{HERE}:ran",
        f"{HERE}:Account.__init__",
        f"{HERE}:Account.__class__",
        f"{HERE}:Unset.x",
    ],
)
def test_a_name_that_is_no_class_of_the_right_kind_is_never_called_or_imported(tag: str, name: str) -> None:
    before = set(sys.modules)
    form = {"~": tag, "c": name, "v": {"x": 1}, "x": {"set": {"~": "set", "v": []}}, "m": "", "a": ["x"]}
    if tag == "enum":
        form["v"] = "x"

    found = loads(json.dumps(form))

    assert type(found).__name__ in ("Opaque", "RemoteError")
    assert found.type_name == name
    assert set(sys.modules) == before


def test_a_module_that_makes_its_names_on_demand_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lazy(types.ModuleType):
        def __getattribute__(self, name: str) -> Any:
            raise AssertionError(f"asked for {name}")

    class Proxy:
        """As lazy objects do: whoever asks for its class makes it."""

        @property
        def __class__(self) -> Any:
            samples.ran.append("Proxy.__class__")
            return type

        @__class__.setter
        def __class__(self, value: Any) -> None:
            raise AssertionError

    module = types.ModuleType("with_getattr")
    module.__getattr__ = samples.ran.append  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "with_getattr", module)
    module.proxy = Proxy()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "proxy", Proxy())
    monkeypatch.setitem(sys.modules, "lazy", Lazy("lazy"))
    samples.ran.clear()

    for name in ("with_getattr:Thing", "lazy:Thing", "with_getattr:proxy", "with_getattr:proxy.x", "proxy:x"):
        found = loads(json.dumps({"~": "data", "c": name, "v": {}}))
        assert found == Opaque(name, {}, "data")
    assert samples.ran == []


def test_opaque_values_are_hashable_and_compare_by_content() -> None:
    assert {Opaque("a:A", {"x": [1]}): 1}[Opaque("a:A", {"x": [1]})] == 1
    assert Opaque("a:A", 1) != Opaque("a:A", 2)


def test_a_private_value_that_cannot_travel_is_named() -> None:
    person = Person(name="Ada")
    person.keep(threading.Lock())  # type: ignore[arg-type]

    with pytest.raises(NotTransportable) as caught:
        dumps([person])

    assert caught.value.path == 'value[0]["_secret"]'
