"""Whatever comes in: a value or a WireError, in bounded time, with nothing imported and no code run."""

from __future__ import annotations

import array
import ipaddress
import json
import pickle
import random
import re
import sys
import types
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy
import pydantic
import pydantic_core
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stbass.errors import ProcessRefused, WireError
from stbass.par import PAR
from stbass.result import ProcessResult
from stbass.wire import Admission, Decoder, Opaque, dump_error, dump_result, dumps, load_error, load_result, loads
from stbass.wire.core import WireReader
from tests.support import wire_samples as samples
from tests.support.travellers import BERLIN, ROWS, Celsius, Moment, Polygon, Row, Slotted, Tagged
from tests.support.wire_samples import Account, Colour, Holder, Pair, Person, Point, Researcher, Right, Spy, hello

SAMPLES: list[bytes] = [
    dumps(value)
    for value in (
        [1, "a", None, 2.5, {"k": [True]}],
        (1, {2: 3}, {4}, frozenset({5}), b"bytes", bytearray(b"x"), 2**80, float("inf"), "\ud800"),
        [datetime(2024, 1, 1, tzinfo=UTC), timedelta(1), UUID(int=1), Decimal("1.5")],
        [Point(1, (2,)), Account(name="a"), Pair(1), Colour.BLUE, Right.READ | Right.RUN, Person(name="Ada")],
        [numpy.arange(4.0).reshape(2, 2), numpy.float32(1)],
        ExceptionGroup("g", [ValueError(1, (2,)), UnicodeDecodeError("utf-8", b"a", 0, 1, "r")]),
        ProcessResult.fail(OSError(2, "x", "y"), checkpoint=(1,)),
        Opaque("a:B", {"x": (1,)}, "data"),
        PAR(Researcher("x", helpers=(hello,)), hello.optional()),
        Spy((1,)),
        [value for row, values in ROWS.items() for value in values[:1] if "collections" in row or "`complex`" in row],
        [re.compile("a", re.I), array.array("i", [1]), slice(1), ipaddress.ip_address("::1"), ..., Celsius(1.5, "C")],
        [Slotted(1), Tagged(a=1, d=2), Row(1.5, 2), types.SimpleNamespace(a=1), Polygon([(1, 2)])],
        [
            pydantic.HttpUrl("https://x/y"),
            pydantic.SecretStr("s"),
            Holder[int](held=1),
            Moment(2026, 1, 2, tzinfo=BERLIN),
        ],
        [datetime(2026, 1, 1, tzinfo=pydantic_core.TzInfo(60)), Person.model_construct(age=1, mood="good")],
        pydantic_core.PydanticCustomError("kind", "about {what}", {"what": 3}),
        pydantic_core.ValidationError.from_exception_data(
            "Order",
            [{"type": "int_parsing", "loc": ("a", 1), "input": "x"}, {"type": "missing", "loc": ("b",), "input": {}}],
        ),
    )
]


def read_by_everyone(data: bytes | str) -> None:
    """Every way in. Only the errors that stand in the documentation may come out."""
    decoder = Decoder(admission=Admission(lambda reference: not reference.endswith(":Strict")))
    for read in (loads, load_result, load_error, decoder.loads):
        try:
            value = read(data)
        except WireError:
            continue
        except ProcessRefused:
            assert read == decoder.loads
        else:
            assert not isinstance(value, type)


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes(data: bytes) -> None:
    read_by_everyone(data)


@given(st.text(st.characters(codec=None, exclude_categories=[]), max_size=100))
def test_any_text(text: str) -> None:
    read_by_everyone(text)


CLASSES = [
    f"tests.support.wire_samples:{name}" for name in ("Spy", "Colour", "Right", "Pair", "Person", "OddError", "Box")
]
forms = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from(["utc", "0xff", "YWI=", "1.5", "2024-01-01T00:00:00", "tests.support.wire_samples:Spy"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        | st.fixed_dictionaries(
            {"~": st.sampled_from(sorted(WireReader.by_tag)) | inner},
            optional={
                "v": inner,
                "c": inner
                | st.sampled_from(
                    [
                        f"tests.support.wire_samples:{cls}"
                        for cls in ("Spy", "Colour", "Right", "Pair", "Person", "OddError")
                    ]
                    + ["builtins:OSError", "builtins:ExceptionGroup", "builtins:UnicodeDecodeError", "numpy:ndarray"]
                ),
                "m": st.text(max_size=3) | inner,
                "a": st.lists(inner, max_size=3) | inner,
                "x": inner,
                "z": inner,
                "f": inner,
                "i": st.integers(0, 3) | inner,
                "g": inner,
                "d": inner,
                "n": inner,
                "r": inner | st.sampled_from(["PAR", "tests.support.wire_samples:hello"]),
                "cause": inner,
                "ok": st.booleans() | inner,
                "error": inner,
            },
        )
    ),
    max_leaves=25,
)


@given(forms)
@settings(max_examples=400, deadline=None)
def test_any_json_that_looks_like_ours(form: Any) -> None:
    before = set(sys.modules)
    samples.ran.clear()

    read_by_everyone(json.dumps(form))

    assert set(sys.modules) == before
    assert [name for name in samples.ran if name.startswith(("Spy", "OddError", "Person"))] == []


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample[:30].decode())
def test_every_message_cut_off_anywhere(sample: bytes) -> None:
    for length in range(len(sample)):
        with pytest.raises(WireError):
            loads(sample[:length])


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample[:30].decode())
def test_every_message_with_bytes_changed_inserted_or_left_out(sample: bytes) -> None:
    # The same changes at every run: a failure can be looked at again.
    dice = random.Random(7)
    alphabet = b'{}[]",:~0123456789-.eEnulltruefalse\\\xff\x00abcv'
    for _ in range(1000):
        data = bytearray(sample)
        for _ in range(dice.randint(1, 4)):
            place = dice.randrange(len(data))
            match dice.randrange(3):
                case 0:
                    data[place] = dice.choice(alphabet)
                case 1:
                    data.insert(place, dice.choice(alphabet))
                case _:
                    del data[place]
        read_by_everyone(bytes(data))


def test_parts_of_good_messages_put_together_wrongly() -> None:
    dice = random.Random(11)
    trees = [json.loads(sample) for sample in SAMPLES]
    parts = [part for tree in trees for part in every_part(tree)]
    for _ in range(3000):
        tree = json.loads(json.dumps(dice.choice(trees)))
        holders = [part for part in every_part(tree) if isinstance(part, (dict, list)) and part]
        holder = dice.choice(holders)
        key = dice.choice(list(holder) if isinstance(holder, dict) else list(range(len(holder))))
        holder[key] = dice.choice(parts)
        read_by_everyone(json.dumps(tree))


def every_part(tree: Any) -> list[Any]:
    found = [tree]
    for part in found:
        if isinstance(part, dict):
            found += part.values()
        elif isinstance(part, list):
            found += part
    return found


class Bomb:
    def __reduce__(self) -> Any:
        return samples.ran.append, ("Bomb",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_refused_and_not_run(protocol: int) -> None:
    samples.ran.clear()
    for value in ({"a": 1}, Bomb()):
        read_by_everyone(pickle.dumps(value, protocol))
        with pytest.raises(WireError):
            loads(pickle.dumps(value, protocol))

    assert samples.ran == []


@pytest.mark.parametrize(
    "text",
    [
        '{"~":null}',
        '{"~":["tuple"]}',
        '{"~":"nothing"}',
        '{"~":"tuple"}',
        '{"~":"tuple","v":"ab"}',
        '{"~":"set","v":[[1]]}',
        '{"~":"dict","v":[1]}',
        '{"~":"dict","v":[[1],2]}',
        '{"~":"int","v":"ten"}',
        '{"~":"int","v":5}',
        '{"~":"float","v":"1.5"}',
        '{"~":"float","v":"3ff0000000000000"}',
        '{"~":"float","v":"7ff8"}',
        '{"~":"str","v":"!!!"}',
        '{"~":"str","v":"/w=="}',
        '{"~":"bytes","v":"YQ"}',
        '{"~":"bytes","v":"é"}',
        '{"~":"uuid","v":"1"}',
        '{"~":"decimal","v":"one"}',
        '{"~":"date","v":"2024-13-01"}',
        '{"~":"datetime","v":"2024-01-01T00:00:00+01:00"}',
        '{"~":"datetime","v":"2024-01-01T00:00:00","f":2}',
        '{"~":"time","v":"25:00"}',
        '{"~":"delta","v":[1,2]}',
        '{"~":"delta","v":[1e300,0,0]}',
        '{"~":"zone","v":[90000000,0,null]}',
        '{"~":"zone","v":["1",0,null]}',
        '{"~":"path","c":"Path","v":"a"}',
        '{"~":"path","c":"PosixPath","v":5}',
        '{"~":"opaque","c":5}',
        '{"~":"again","i":1}',
        "1e999",
        "NaN",
        "\ufeff1",
        "{'a': 1}",
        '"\\ud800"',
    ],
)
def test_a_malformed_value_is_refused(text: str) -> None:
    with pytest.raises(WireError, match=r"^the argument is not one that stbass wrote: "):
        loads(text, what="argument")


def test_a_message_with_a_long_number_costs_no_time_to_speak_of() -> None:
    with pytest.raises(WireError):
        loads(b"9" * 1_000_000)


def test_what_dump_error_and_dump_result_write_is_not_mixed_up() -> None:
    with pytest.raises(WireError):
        load_result(dump_error(ValueError()))
    with pytest.raises(WireError):
        load_error(dump_result(ProcessResult.ok(1)))


@pytest.mark.parametrize("wrong", [None, 5, ["x"], object()])
def test_what_is_not_even_bytes_is_refused(wrong: Any) -> None:
    with pytest.raises(WireError):
        loads(wrong)
