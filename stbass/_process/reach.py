"""The channels that a process has beside those that are bound to it: in its arguments, its attributes, its closure.

What its code does with them is read off the code, as far as it says so plainly: ``results.send``, ``self.jobs.recv``,
``async for value in jobs``. What reaches a channel in another way, through a global name say, is not found.
"""

from __future__ import annotations

import dis
import functools
from collections.abc import Iterable, Iterator, Mapping
from types import CodeType, FunctionType, MethodType, ModuleType, NoneType
from typing import Any

from stbass._channels.transport import Side
from stbass.channel import Chan

__all__ = ["PLAIN", "Reached", "reached", "values_of_closure"]

Reached = dict[Chan[Any], Side | None]
"""Channels, each with the only end that the code uses; None: it may be either."""

_LOADS = ("LOAD_FAST", "LOAD_DEREF")
PLAIN = frozenset((NoneType, bool, bytes, float, int, str))
"""Types of values in which there is no channel: not looked at, for most processes have nothing else."""
_MOST = 200
"""How many objects are looked at."""


def reached(code: CodeType | None, named: Iterable[tuple[tuple[str, ...], object]]) -> Reached:
    """The channels that a process has.

    Args:
        code: what it runs.
        named: what it has, each with how its code names that: ``("jobs",)``, ``("self", "jobs")``.
    """
    found: Reached = {}
    for names, value in named:
        for channel in _channels_in(value):
            side = _sides(code).get(names) if value is channel and code is not None else None
            found[channel] = side if found.get(channel, side) == side else None
    return found


def values_of_closure(function: object) -> Iterator[tuple[tuple[str, ...], object]]:
    """What a function finds where it was defined, with the names that it has there."""
    if isinstance(function, FunctionType):
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                yield (name,), cell.cell_contents
            except ValueError:  # it has no value yet
                continue


def _channels_in(value: object) -> Iterator[Chan[Any]]:
    seen: set[int] = set()
    open_ = [value]
    while open_ and len(seen) < _MOST:
        one: Any = open_.pop()
        kind = type(one)  # not isinstance: that asks the value, which is anybody's
        if kind in PLAIN or id(one) in seen:
            continue
        seen.add(id(one))
        if issubclass(kind, Chan):
            yield one
        elif kind in (list, tuple, set, frozenset, dict):
            if len(one) <= _MOST:
                open_ += list(one.values()) if kind is dict else list(one)
        elif kind is FunctionType:
            open_ += [inner for _, inner in values_of_closure(one)]
        elif kind is MethodType:
            open_ += (one.__self__, one.__func__)
        elif kind is functools.partial:
            open_ += (one.func, one.args, one.keywords)
        elif not issubclass(kind, (type, ModuleType)):
            open_ += list(_attributes_of(one).values())


def _attributes_of(value: object) -> Mapping[str, Any]:
    try:
        return object.__getattribute__(value, "__dict__")  # type: ignore[no-any-return]
    except AttributeError:
        return {}


@functools.lru_cache(maxsize=1000)
def _sides(code: CodeType) -> Mapping[tuple[str, ...], Side | None]:
    """Which end of a channel the code uses, by how it names the channel; None: either."""
    found: dict[tuple[str, ...], Side | None] = {}
    for names, side in _uses(code):
        found[names] = side if found.get(names, side) == side else None
    return found


def _uses(code: CodeType) -> Iterator[tuple[tuple[str, ...], Side | None]]:
    steps = list(dis.get_instructions(code))
    for index, step in enumerate(steps):
        if not step.opname.startswith(_LOADS):
            continue
        if not isinstance(step.argval, str):  # two names at once
            yield from (((name,), None) for name in step.argval)
            continue
        names: tuple[str, ...] = (step.argval,)
        then = steps[index + 1]
        if then.opname == "LOAD_ATTR" and then.argval not in ("send", "recv"):
            names, then = (step.argval, then.argval), steps[index + 2]
        if then.opname == "GET_AITER" or then.argval == "recv":
            yield names, "reader"
        else:
            yield names, "writer" if then.argval == "send" else None
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _uses(constant)
