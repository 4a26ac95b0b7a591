"""Plain functions as processes: how they run, and which of them a worker calls."""

from __future__ import annotations

import functools
import json
import os
import sys
import threading
from types import FunctionType, ModuleType
from typing import Any

import pytest

from stbass import wire
from stbass._process.call import Call, find_function
from stbass._process.context import ProcessContext
from stbass._values.endpoint import Placement
from stbass.backends.celery import make_app
from stbass.backends.celery.settings import FleetSettings
from stbass.errors import ConfigurationError, NotTransportable, ProcessRefused, WireError
from stbass.par import PAR
from tests.support import tasks, tasks_listed

HERE = ("tests.support.tasks", "tests.support.tasks_listed")


def arrives(call: Call, functions_of: tuple[str, ...] = HERE) -> Any:
    return wire.loads_process(wire.dumps(call), allowed=None, functions=lambda module: module in functions_of)


async def value_of(call: Any) -> Any:
    return (await call.execute(ProcessContext("call"))).value


async def test_a_sync_function_runs_in_a_thread_and_a_coroutine_function_does_not() -> None:
    assert (await value_of(Call(tasks.where)))[1] != threading.current_thread().name
    assert (await value_of(Call(tasks.where_async)))[1] == threading.current_thread().name
    assert await value_of(Call(lambda: tasks.where_async(0.0))) == (os.getpid(), threading.current_thread().name)
    assert (await value_of(Call(functools.partial(tasks.where_async, 0.0))))[1] == threading.current_thread().name


async def test_what_it_raises_is_a_failure() -> None:
    result = await Call(tasks.fail, ("gone",)).execute(ProcessContext("call"))
    assert (type(result.failure.error), str(result.failure.error)) == (LookupError, "gone")


async def test_it_stands_where_a_process_can() -> None:
    assert (await PAR(Call(tasks.add, (1,)), Call(tasks.add, (1, 2))).run()).value == [2, 3]


async def test_its_name_is_the_functions() -> None:
    names = [Call(target).name for target in (tasks.add, functools.partial(tasks.add, 1), tasks.Adder(), print)]
    assert names == ["add", "add", "Adder", "print"]


# Travelling ---------------------------------------------------------------------------------------


async def test_it_travels_with_its_arguments_name_and_placement() -> None:
    call = Call(tasks.add, (1,), {"right": 5}, Placement(endpoint="fast")).with_name("sum").optional()
    made = arrives(call)
    assert (type(made), made.function, made.args, made.kwargs) == (Call, tasks.add, (1,), {"right": 5})
    assert (made.name, made.placement, made.is_optional) == ("sum", Placement(endpoint="fast"), True)
    assert await value_of(made) == 6
    assert await value_of(arrives(Call(tasks.decorated, (4,)))) == 8
    assert await value_of(arrives(Call(tasks_listed.listed))) == "listed"
    assert arrives(Call(tasks.add, (1,))).name == "add"


async def test_a_composition_of_calls_travels() -> None:
    made = wire.loads_process(
        wire.dumps(PAR(Call(tasks.add, (1,)), Call(tasks.add, (2,)))), allowed=None, functions=lambda module: True
    )
    assert await value_of(made) == [2, 3]


def nested() -> Any:
    def inner() -> None:
        pass

    return inner


def in_main() -> Any:
    function = FunctionType(tasks.add.__code__, {}, "add")
    function.__module__ = "__main__"
    return function


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (tasks.anonymous, "is a lambda"),
        (nested(), "not at the top level"),
        (in_main(), "defined in the script itself"),
        (functools.partial(tasks.add, 1), "is a partial"),
        (tasks.Adder(), "not written with def"),
        (tasks.Adder, "not written with def"),
        (tasks.Adder().method, "not written with def"),
        (print, "not written with def"),
        (tasks.private, "not public"),
        (tasks_listed.unlisted, "not public"),
        (tasks.first_shadowed, "another function"),
    ],
)
def test_what_a_worker_could_not_find_is_refused_before_it_is_sent(function: Any, words: str) -> None:
    with pytest.raises(NotTransportable, match=words):
        wire.dumps(Call(function))


def test_an_argument_that_cannot_travel_is_named() -> None:
    with pytest.raises(NotTransportable, match=r"\.args\[1\]\[.lock.\].*lock") as caught:
        wire.dumps(Call(tasks.add, (1, {"lock": threading.Lock()})), what="task")
    assert caught.value.path == 'task.args[1]["lock"]'


# Trust --------------------------------------------------------------------------------------------


def refused(reference: str, functions_of: tuple[str, ...] = HERE) -> str:
    text = wire.dumps(Call(tasks.add, (1,))).replace(b"tests.support.tasks:add", reference.encode())
    with pytest.raises(ProcessRefused) as caught:
        wire.loads_process(text, allowed=None, functions=lambda module: module in functions_of, queue="q", worker="w")
    assert (caught.value.reference, caught.value.queue, caught.value.worker) == (reference, "q", "w")
    return str(caught.value)


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("os:system", "name their module itself, 'os', in stbass_functions (STBASS_FUNCTIONS)"),
        ("builtins:eval", "name their module itself"),
        ("tests.support.agents:whoami", "name their module itself"),
        ("tests.support.tasks:_private", "not public"),
        ("tests.support.tasks:imported", "not defined there"),
        ("tests.support.tasks:os.system", "has no function"),
        ("tests.support.tasks:Adder", "has no function"),
        ("tests.support.tasks:Adder.method", "has no function"),
        ("tests.support.tasks:nothing", "has no function"),
        ("tests.support.tasks:__loader__", "has no function"),
        ("tests.support.tasks", "has no function ''"),
        ("tests.support.tasks_listed:unlisted", "not public"),
    ],
)
def test_only_public_functions_of_named_modules_are_called(reference: str, words: str) -> None:
    assert words in refused(reference)


def test_nothing_is_imported_because_of_a_message() -> None:
    assert "this" not in sys.modules
    assert "no module 'this' is imported" in refused("this:s", functions_of=("this",))
    assert "this" not in sys.modules


def test_a_modules_own_getattr_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    lazy = ModuleType("lazy_tasks")
    lazy.__getattr__ = lambda name: tasks.add  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "lazy_tasks", lazy)
    with pytest.raises(LookupError, match="no function 'add'"):
        find_function("lazy_tasks:add")


def test_without_a_word_about_functions_none_is_called() -> None:
    with pytest.raises(ProcessRefused, match="not told to call plain functions"):
        wire.loads_process(wire.dumps(Call(tasks.add)), allowed=None)
    with pytest.raises(WireError):
        wire.loads(wire.dumps(Call(tasks.add)))


def test_a_package_around_the_module_is_not_enough() -> None:
    settings = FleetSettings(backend=None, broker=None, functions=("tests.support",))  # type: ignore[arg-type]
    assert not settings.calls("tests.support.tasks")
    assert FleetSettings(backend=None, broker=None, functions=HERE).calls("tests.support.tasks")  # type: ignore[arg-type]


def test_to_be_included_is_not_enough() -> None:
    settings = FleetSettings(backend=None, broker=None, include=HERE)  # type: ignore[arg-type]
    assert settings.allows("tests.support.tasks:Adder")
    assert not settings.calls("tests.support.tasks")


@pytest.mark.parametrize("value", ["tests.support.tasks", [3], [""], 7, {"os": 1}])
def test_a_wrong_setting_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="stbass_functions must be a list of modules"):
        make_app("tests", stbass_functions=value)


@pytest.mark.parametrize("form", [{"r": 3}, {"a": {}}, {"k": []}, {"p": 7}])
def test_a_malformed_call_is_refused(form: dict[str, Any]) -> None:
    whole = json.loads(wire.dumps(Call(tasks.add, (1,)))) | form
    with pytest.raises((WireError, ProcessRefused)):
        wire.loads_process(json.dumps(whole), allowed=None, functions=lambda module: True)
