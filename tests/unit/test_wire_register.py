"""Classes that the user registers."""

from __future__ import annotations

import enum
import threading
from dataclasses import dataclass
from typing import Any

import pytest

from stbass.channel import Chan
from stbass.errors import ConfigurationError, NotTransportable
from stbass.process import Process
from stbass.wire import Opaque, dump_error, dumps, load_error, loads, register
from tests.support.travellers import Polygon

HERE = __name__


class Client:
    def __init__(self, url: str) -> None:
        self.url = url
        self.lock = threading.Lock()


class Vague:
    """What its functions do is told by its attribute."""

    def __init__(self, does: Any) -> None:
        self.does = does


@dataclass
class Locked:
    """A dataclass that a rule covers, but for its lock."""

    number: int
    lock: Any = None


class Never:
    pass


def plain_of(value: Vague) -> Any:
    if value.does == "raises":
        raise ValueError("cannot say")
    return {"object": object(), "itself": value, "inside": {"a": [object()]}}.get(value.does, value.does)


def vague_of(does: Any) -> Any:
    if does == "raises later":
        raise KeyError("cannot make it")
    return does if does == "something else" else Vague(does)


register(Client, lambda client: client.url, Client)
register(Vague, plain_of, vague_of)
register(Locked, lambda value: value.number, Locked)


def test_a_registered_class_travels_by_its_functions_anywhere_in_a_value() -> None:
    found = loads(dumps({"a": [Client("redis://x")], "b": Locked(3, threading.Lock()), "c": (Polygon([(1, 2)]),)}))

    assert type(found["a"][0]) is Client
    assert found["a"][0].url == "redis://x"
    assert (found["b"].number, found["b"].lock) == (3, None)
    assert found["c"] == (Polygon([(1, 2)]),)
    error: Any = load_error(dump_error(ValueError(Client("u"))))
    assert error.args[0].url == "u"


def test_where_it_is_not_registered_it_is_opaque_and_goes_on() -> None:
    data = dumps([Client("u")]).replace(b":Client", b":Another")

    (found,) = loads(data)

    assert found == Opaque(f"{HERE}:Another", "u", "registered")
    assert found.reason == f"{HERE}:Another is not registered here (stbass.wire.register)"
    assert dumps([found]) == data


@pytest.mark.parametrize(
    ("does", "words"),
    [
        ("raises", "to_plain, as registered for .*:Vague, raised ValueError: cannot say"),
        ("object", "what to_plain gives, as registered for .*:Vague, cannot travel: builtins.object cannot travel"),
        ("inside", r'^value\["a"\]\[0\]: what to_plain gives, as registered for .*, cannot travel'),
        ("itself", "what to_plain gives, as registered for .*, cannot travel: refers to a container that it is in"),
    ],
)
def test_a_to_plain_that_does_not_give_what_travels_is_named(does: str, words: str) -> None:
    with pytest.raises(NotTransportable, match=words):
        dumps(Vague(does))


@pytest.mark.parametrize(
    ("does", "words"),
    [("raises later", "raised KeyError: 'cannot make it'"), ("something else", "gave a builtins:str")],
)
def test_a_from_plain_that_fails_costs_only_its_value(does: str, words: str) -> None:
    found = loads(dumps({"vague": Vague(does), "rest": 1}))

    assert found["rest"] == 1
    assert found["vague"] == Opaque(f"{HERE}:Vague", does, "registered")
    assert found["vague"].reason == f"from_plain, as registered for {HERE}:Vague, {words}"


class SomeError(Exception):
    pass


class Some(enum.Enum):
    A = 1


class SomeProcess(Process):
    pass


@pytest.mark.parametrize(
    ("cls", "words"),
    [
        (Client, "registered already; register a class once"),
        (int, "travels by itself"),
        (dict, "travels by itself"),
        (type(None), "travels by itself"),
        (type(lambda: None), "travels by itself, or never does"),
        (type, "travels by itself, or never does"),
        (__import__("collections").deque, "travels by itself"),
        (__import__("datetime").datetime, "travels by itself"),
        (SomeError, "is an exception, Enum, process or channel"),
        (Some, "is an exception, Enum, process or channel"),
        (SomeProcess, "is an exception, Enum, process or channel"),
        (Chan, "is an exception, Enum, process or channel"),
        (3, "register takes a class, got 3"),
        ("tests:Client", "register takes a class"),
    ],
    ids=str,
)
def test_a_bad_use_is_refused(cls: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        register(cls, str, str)


def test_a_class_that_its_name_does_not_lead_to_and_a_function_that_is_none_are_refused() -> None:
    class Local:
        pass

    with pytest.raises(ConfigurationError, match="does not lead to the class; define it at the top level"):
        register(Local, str, lambda _: Local())
    with pytest.raises(ConfigurationError, match=r"to_plain of .*Never must be a function, got 3"):
        register(Never, 3, Never)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"from_plain of .*Never must be a function, got None"):
        register(Never, str, None)  # type: ignore[arg-type]
    with pytest.raises(NotTransportable, match=r"Never cannot travel; .*stbass.wire.register"):
        dumps(Never())


def test_a_subclass_of_a_registered_class_is_not_taken_for_it() -> None:
    with pytest.raises(NotTransportable, match="SpecialClient cannot travel"):
        dumps(SpecialClient("u"))


class SpecialClient(Client):
    pass
