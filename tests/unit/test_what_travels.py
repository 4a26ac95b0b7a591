"""The page *What travels*: each row of its table is tried, and no form is left out of it."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from stbass.errors import NotTransportable
from stbass.wire import Opaque, dumps, loads
from stbass.wire.core import WireReader
from tests.support import travellers
from tests.support.travellers import ROWS

PAGE = Path(__file__).parents[2] / "docs" / "what-travels.md"


def rows() -> dict[str, tuple[str, set[str]]]:
    """By the first cell: the second one, and the forms of the third."""
    table = re.search(r"^\| value \|.*?\n\|---.*?\n(.*?)\n\n", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert table is not None
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table[1].splitlines()]
    return {first: (second, set(re.findall(r"`(\w+)`", third.strip(" |")))) for first, second, third in cells}


TRIED_ELSEWHERE = {
    "an object of any of these kinds whose class says how it is copied (`__getstate__`, `__reduce__`)",
    "processes, compositions, calls of functions, channels",
    "answers of SDKs that are models of pydantic (openai, anthropic, litellm): also with what the SDK puts beside the "
    "fields",
}
"""Below, in test_wire_processes.py, and with the real SDKs in tests/agents."""


def test_every_row_is_tried_and_everything_that_is_tried_has_a_row() -> None:
    assert set(rows()) - TRIED_ELSEWHERE == set(ROWS)


def test_the_table_has_every_form_that_can_be_read() -> None:
    assert set().union(*(forms for _, forms in rows().values())) == set(WireReader.by_tag)


def facts(value: Any) -> Any:
    """What can be seen of a value: its class, and what it says of itself and of what is in it."""
    inside = getattr(value, "__dict__", None)
    if isinstance(value, BaseException):
        inside = {key: item for key, item in value.__dict__.items() if not key.startswith("__stbass")}
    if inside:
        inside = {key: repr(item) for key, item in inside.items() if key != "__orig_class__"}
    return type(value), repr(value), inside


CASES = [(row, index) for row, values in ROWS.items() for index in range(len(values))]


@pytest.mark.parametrize(("row", "index"), CASES, ids=[f"{row[:30]}-{index}" for row, index in CASES])
def test_a_value_of_the_row_arrives_as_the_row_says(row: str, index: int) -> None:
    value = ROWS[row][index]
    says, forms = rows()[row]

    data = dumps([value])
    travellers.made.clear()
    (found,) = loads(data)

    # No code of the class is run to make it again
    assert travellers.made == []
    written = json.loads(data)[0]
    if type(written) is dict and "~" in written:
        assert written["~"] in forms | {getattr(value, "kind", "")}
    if isinstance(value, memoryview):
        assert found == bytes(value)
    elif row.startswith("zones of"):
        # The same moment, on the same clock, in a zone of the standard library
        if isinstance(value, datetime):
            assert found.astimezone(UTC) == value.astimezone(UTC)
        assert type(found.tzinfo).__module__ in ("datetime", "zoneinfo")
        assert (found.utcoffset(), found.replace(tzinfo=None, fold=0)) == (
            value.utcoffset(),
            value.replace(tzinfo=None, fold=0),
        )
        if isinstance(value, datetime) and "Berlin" in repr(value.tzinfo):
            assert found.tzinfo is travellers.BERLIN
    else:
        assert "itself" in says or "the object" in says or "what your function makes" in says or "the member" in says
        assert facts(found) == facts(value)
        if isinstance(value, (travellers.Hashed, Opaque)):
            assert hash(found) == hash(value)
    # And once more, from there on
    assert facts(loads(dumps(found))) == facts(found)


@pytest.mark.parametrize(("row", "index"), CASES, ids=[f"{row[:30]}-{index}" for row, index in CASES])
def test_it_travels_inside_an_error_and_as_a_key_if_it_can_be_one(row: str, index: int) -> None:
    value = ROWS[row][index]
    (alone,) = loads(dumps([value]))

    error = loads(dumps(ValueError(value)))

    if "Secret" not in row and "addresses" not in row and "SDK" not in row and not hasattr(value, "dsn"):
        assert facts(error.args[0]) == facts(alone)
    try:
        hash(value)
    except TypeError:
        return
    if not isinstance(value, memoryview):
        assert [facts(key) for key in loads(dumps({value: 1}))] == [facts(alone)]


def test_what_a_class_leaves_out_of_its_copies_is_left_out_and_its_locks_are_new() -> None:
    visit = travellers.Visit("a", travellers.Inbox(["x"]), client=object())
    visit.__dict__["room"] = object()
    visit.inbox._lock.acquire()

    for found in (loads(dumps(visit)), loads(dumps(ValueError(visit))).args[0]):
        assert (type(found), found) == (travellers.Visit, visit)
        assert vars(found) == {"found": "a", "inbox": ["x"]}
        assert type(found.inbox) is travellers.Inbox
        assert found.inbox._lock.acquire(blocking=False)
        assert found.inbox._reentrant.acquire(blocking=False)


def test_a_factory_that_is_not_one_of_pythons_own_arrives_as_opaque_with_the_content() -> None:
    import collections

    value = collections.defaultdict(travellers.Polygon, {"a": (1,)})  # type: ignore[arg-type]

    found = loads(dumps(value))

    assert found == Opaque("collections:defaultdict", {"a": (1,)}, "defaultdict", "tests.support.travellers:Polygon")
    assert "its factory is tests.support.travellers:Polygon" in found.reason
    assert dumps(found) == dumps(value)
    assert "<lambda>" in loads(dumps(collections.defaultdict(lambda: 1))).reason


def test_a_secret_is_not_shown_on_the_way() -> None:
    with pytest.raises(NotTransportable) as caught:
        dumps({"password": "hunter2", "lock": object()})

    assert "hunter2" not in f"{caught.value} {caught.value.value_text} {caught.value.__notes__}"
