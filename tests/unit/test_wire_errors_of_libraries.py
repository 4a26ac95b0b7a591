"""Exceptions as libraries raise them: of compiled classes, with responses, hard to read. None costs a result."""

from __future__ import annotations

import json
import sqlite3
import threading
from typing import Annotated, Any

import attrs
import httpx2
import msgspec
import numpy
import pydantic
import pydantic_core
import pytest
import requests

from stbass.errors import NotTransportable, RemoteError
from stbass.result import Failure, ProcessResult
from stbass.wire import REMOTE_TRACEBACK, RemoteResponse, dump_error, dump_result, dumps, load_error, load_result, loads
from tests.support.wire_samples import SlottedError


def raised(error: BaseException) -> Any:
    """The error, with a traceback."""
    try:
        raise error
    except BaseException as caught:
        return caught


def arrived(error: BaseException) -> Any:
    return load_error(dump_error(error))


# Classes of compiled code ------------------------------------------------------------------------


class Order(pydantic.BaseModel):
    number: int
    size: Annotated[int, pydantic.Field(gt=0)] = 1
    word: str = ""
    lock: Any = None

    @pydantic.field_validator("word")
    @classmethod
    def _word(cls, value: str) -> str:
        if value == "custom":
            raise pydantic_core.PydanticCustomError("no_such", "no {word} in {{here}}", {"word": value})
        assert value != "assert", "said {so}"
        if value:
            raise ValueError(f"not {value}") from KeyError("cause")
        return value


def invalid(**fields: Any) -> Any:
    with pytest.raises(pydantic.ValidationError) as caught:
        Order(**fields)
    return caught.value


PYDANTIC = tuple(int(part) for part in pydantic.VERSION.split(".")[:3])
INVALID = [
    {},
    {"number": "x", "size": 0},
    {"number": 1, "word": "good"},
    {"number": 1, "word": "assert"},
    {"number": 1, "word": "custom"},
    {"number": threading.Lock(), "word": "custom"},
    {"number": (1, {b"a": 2})},
]


@pytest.mark.parametrize("fields", INVALID, ids=range(len(INVALID)))
def test_a_validation_error_of_pydantic_arrives_as_what_it_is(fields: Any) -> None:
    error = invalid(**fields)
    error.add_note("of the third try")

    found = arrived(error)

    if fields.get("word") == "custom" and PYDANTIC < (2, 14, 2):
        # That one does not say what a custom error is made of; what the error says for itself is there.
        assert type(found) is RemoteError
        assert [(one["type"], one["msg"]) for one in found.errors] == [
            (one["type"], one["msg"]) for one in error.errors()
        ]
        return
    assert type(found) is pydantic.ValidationError
    assert found.title == error.title
    assert [(one["type"], one["loc"], one["msg"]) for one in found.errors()] == [
        (one["type"], one["loc"], one["msg"]) for one in error.errors()
    ]
    assert "lock" in str(fields) or (str(found), found.json(include_input=False)) == (
        str(error),
        error.json(include_input=False),
    )
    assert repr([one.get("ctx") for one in found.errors()]) == repr([one.get("ctx") for one in error.errors()])
    assert found.__notes__ == ["of the third try"]
    assert REMOTE_TRACEBACK in vars(found)
    again = arrived(found)
    assert (type(again), str(again)) == (type(found), str(found))


def test_a_validation_error_may_be_anywhere() -> None:
    error = invalid(number="x")
    outer = RuntimeError("the answer does not fit")
    outer.__cause__ = error
    outer.args = ("the answer does not fit", error)
    context = KeyError("k")
    context.__context__ = error

    assert type(arrived(outer).__cause__) is pydantic.ValidationError
    assert type(arrived(outer).args[1]) is pydantic.ValidationError
    assert type(arrived(context).__context__) is pydantic.ValidationError
    assert type(arrived(ExceptionGroup("g", [error, KeyError(1)])).exceptions[0]) is pydantic.ValidationError
    assert type(loads(dumps({"errors": [error]}))["errors"][0]) is pydantic.ValidationError
    failure = load_result(dump_result(ProcessResult.fail(error, checkpoint={"step": 3}))).failure
    assert (type(failure.error), failure.checkpoint) == (pydantic.ValidationError, {"step": 3})


def test_a_circle_through_a_validation_error_arrives() -> None:
    # Given a validator's error that is raised again, from the error that holds it
    error = invalid(number=1, word="good")
    inner = error.errors()[0]["ctx"]["error"]
    inner.__cause__ = error

    found = arrived(inner)
    assert (type(found), type(found.__cause__)) == (ValueError, pydantic.ValidationError)
    assert found.__cause__.errors()[0]["ctx"]["error"] is found

    found = arrived(error)
    assert type(found) is pydantic.ValidationError
    assert type(found.errors()[0]["ctx"]["error"]) is ValueError


@pytest.mark.parametrize(
    "error",
    [
        pydantic_core.PydanticCustomError("kind", "about {what}", {"what": 3}),
        pydantic_core.PydanticCustomError("kind", "about"),
        pydantic_core.PydanticKnownError("greater_than", {"gt": 3}),
        pydantic_core.PydanticSerializationError("not so"),
        pydantic_core.PydanticSerializationUnexpectedValue("not so"),
        pydantic_core.PydanticOmit(),
        pydantic_core.PydanticUseDefault(),
        msgspec.ValidationError("Expected `int`"),
        msgspec.DecodeError("x"),
        json.JSONDecodeError("x", "doc", 1),
        sqlite3.OperationalError("locked"),
        pydantic.errors.PydanticUserError("wrong", code="class-not-fully-defined"),
        attrs.exceptions.FrozenInstanceError(),
        numpy.exceptions.AxisError(3, 2),
    ],
    ids=lambda error: type(error).__name__,
)
def test_exceptions_of_libraries_arrive_as_what_they_are(error: Any) -> None:
    found = arrived(raised(error))

    assert type(found) is type(error)
    assert str(found) == str(error)
    assert repr(found) == repr(error)
    assert [getattr(found, key) for key in vars(error)] == [getattr(error, key) for key in vars(error)]


def test_an_exception_that_compiled_code_alone_can_make_becomes_a_remote_error_with_all_that_it_says() -> None:
    with pytest.raises(pydantic_core.SchemaError) as caught:
        pydantic_core.SchemaValidator({"type": "no such"})
    error = caught.value
    error.add_note("look here")
    error.__cause__ = KeyError("why")

    found = arrived(error)

    assert type(found) is RemoteError
    assert found.type_name == "pydantic_core._pydantic_core:SchemaError"
    assert str(error) in str(found)
    assert found.errors == error.errors()
    assert found.__notes__ == ["look here"]
    assert repr(found.__cause__) == "KeyError('why')"
    assert "SchemaError" in getattr(found, REMOTE_TRACEBACK)


def test_a_validation_error_that_cannot_be_made_here_is_a_remote_error_with_its_errors() -> None:
    # Given one of a version of pydantic that knows a kind of error that this one does not
    data = dump_error(invalid(number="x")).replace(b"int_parsing", b"int_guessing")

    found: Any = load_error(data)

    assert type(found) is RemoteError
    assert found.type_name == "pydantic_core._pydantic_core:ValidationError"
    assert [(one["type"], one["loc"]) for one in found.errors] == [("int_guessing", ("number",))]


# Hard to read ------------------------------------------------------------------------------------


class Hostile(Exception):
    """Whatever is asked of it raises."""

    def __init__(self) -> None:
        super().__init__("kept")
        self.status_code = 500

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__") and name != "__dict__":
            return super().__getattribute__(name)
        raise RuntimeError(f"no {name}")

    def __str__(self) -> str:
        raise RuntimeError("no words")

    def __repr__(self) -> str:
        raise RuntimeError("no words")

    @property
    def headers(self) -> Any:
        raise RuntimeError("no headers")


class HostileValue:
    def __repr__(self) -> str:
        raise RuntimeError("no words")

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"no {name}")


def test_an_error_of_which_nothing_can_be_asked_arrives_with_the_rest() -> None:
    error: Any = Hostile()
    object.__getattribute__(error, "__dict__")["value"] = HostileValue()
    failure = Failure(raised(error), checkpoint={"step": 3})

    found = load_result(dump_result(ProcessResult(False, None, failure))).failure

    assert type(found.error) is Hostile
    kept = object.__getattribute__(found.error, "__dict__")
    assert kept["status_code"] == 500
    assert "whose repr raised RuntimeError" in kept["value"].data
    assert found.checkpoint == {"step": 3}


def test_attributes_under_names_that_are_no_names_cost_nothing() -> None:
    error = ValueError("x")
    attributes: dict[Any, Any] = vars(error)
    attributes.update({1: "one", ("a",): 2, "\ud800": 3, "~": 4})

    found = arrived(error)

    assert vars(found)["1"] == "one"
    assert vars(found)["~"] == 4


def test_a_class_that_has_lost_a_slot_keeps_what_was_in_it() -> None:
    data = dump_error(SlottedError("d", "m")).replace(b'"detail"', b'"former"')

    found: Any = load_error(data)

    assert type(found) is SlottedError
    assert (found.message, vars(found)["former"]) == ("m", "d")


# Responses ---------------------------------------------------------------------------------------


class Refused(Exception):
    def __init__(self, message: str, *, response: Any) -> None:
        super().__init__(message)
        self.response = response
        self.status_code = response.status_code
        self.headers = response.headers


def responses() -> list[Any]:
    headers = {"Retry-After": "3", "Set-Cookie": "sid=hunter2"}
    by_requests = requests.Response()
    by_requests.status_code, by_requests.reason, by_requests.url = (
        429,
        "Too Many Requests",
        "https://h/?api_key=hunter2",
    )
    by_requests.headers.update(headers)
    request = httpx2.Request("GET", "https://h/?api_key=hunter2", headers={"Authorization": "Bearer hunter2"})
    return [by_requests, httpx2.Response(429, headers=headers, request=request)]


@pytest.mark.parametrize("response", responses(), ids=lambda response: type(response).__module__)
def test_the_response_of_an_error_arrives_as_far_as_it_tells_what_to_do(response: Any) -> None:
    data = dump_error(Refused(f"{response!r} of {getattr(response, 'request', None)!r}", response=response))

    assert b"hunter2" not in data
    found: Any = load_error(data)
    assert type(found) is Refused
    assert type(found.response) is RemoteResponse
    assert (found.response.status_code, found.status_code) == (429, 429)
    assert (found.response.reason, found.response.url) == ("Too Many Requests", "https://h/?api_key=***")
    for headers in (found.response.headers, found.headers):
        assert headers["retry-after"] == headers["Retry-After"] == headers.get("RETRY-AFTER") == "3"
        assert headers.get("set-cookie") == "***"
        assert "x-other" not in headers
        assert headers.get("x-other", 5) == 5
    assert type(load_error(dump_error(found)).response) is RemoteResponse  # type: ignore[attr-defined]


def test_a_response_in_a_value_is_refused_as_before() -> None:
    with pytest.raises(NotTransportable, match="Response cannot travel"):
        dumps(responses()[1])


@attrs.define(auto_exc=True)
class Defined(Exception):
    """An exception of attrs, with slots."""

    code: int
    why: str | None = None


def test_an_exception_of_attrs_arrives_with_its_fields() -> None:
    found = arrived(raised(Defined(3)))

    assert type(found) is Defined
    assert (found.code, found.why, found.args) == (3, None, (3, None))
