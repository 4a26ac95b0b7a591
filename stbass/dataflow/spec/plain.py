"""Arguments as plain data that a file can hold, and back.

YAML knows text, numbers, truth, nothing, bytes, dates, lists, sets and mappings. Of the rest, what a constructor says
that it takes can be made again from plain data: for ``path: Path`` text is enough, for ``shape: tuple[int, int]`` a
list, for ``colour: Colour`` the name of the member. Anything else is refused, because it would come back as something
else.
"""

from __future__ import annotations

import datetime
import enum
import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, Union, get_args, get_origin

from stbass._values.texts import value_text
from stbass.dataflow.model.resource import Resource

__all__ = ["NotPlain", "alternatives", "hints_of", "plain", "restored"]

_SCALARS = (str, int, float, bool, type(None), bytes, datetime.datetime, datetime.date)
_ANY_LIST = (list, Sequence, Collection, Iterable)
"""What a constructor takes that takes a list, too, where it is given a tuple."""


class NotPlain(Exception):
    """A value is not one that a file can hold: where in it, and why."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(path, why)
        self.path = path
        self.why = why


def plain(value: Any, hint: Any = None) -> Any:
    """An argument as plain data that :func:`restored` makes it from again.

    Args:
        value: what to put down.
        hint: what the parameter that it is for says that it takes, if it says so.

    Raises:
        NotPlain: it would come back as something else.
    """
    takes = alternatives(hint)
    if isinstance(value, enum.Enum):
        return _if_restored(
            value, value.name, type(value) in takes, f"annotate the parameter as {type(value).__name__}"
        )
    if isinstance(value, PurePath):
        fits = str in takes or type(value) in takes or (Path in takes and isinstance(value, Path))
        return _if_restored(value, str(value), fits, "give text, or annotate the parameter as Path")
    if type(value) in (tuple, frozenset):
        kind = type(value)
        items = [_data(one, f"[{index}]", ()) for index, one in enumerate(value)]
        fits = kind in takes or any(one in takes for one in _ANY_LIST)
        return _if_restored(value, items, fits, f"give a list, or annotate the parameter as {kind.__name__}")
    if isinstance(value, Mapping) and Mapping in takes:
        value = dict(value)
    return _data(value, "", ())


def restored(data: Any, hint: Any = None) -> Any:
    """Plain data as the value that the parameter asks for; data that does not suit it as it is.

    What does not suit is for the constructor that gets it to refuse: it knows better what it takes.
    """
    takes = alternatives(hint)
    if isinstance(data, list) and not any(one in takes for one in _ANY_LIST):
        if tuple in takes:
            return tuple(data)
        if frozenset in takes and all(one.__hash__ is not None for one in data):
            return frozenset(data)
    if isinstance(data, str) and str not in takes:
        for kind in takes:
            if isinstance(kind, type) and issubclass(kind, PurePath):
                return kind(data)
            if isinstance(kind, type) and issubclass(kind, enum.Enum) and data in kind.__members__:
                return kind[data]
    return data


def hints_of(make: Callable[..., Any]) -> Mapping[str, Any]:
    """What the parameters of a class's constructor, or of a function, say that they take.

    Those that do not say, or say it in names that exist for a type checker only, are not there.
    """
    if not isinstance(make, type):
        return _hints(make)
    found: dict[str, Any] = {}
    # What a constructor does not name itself it hands on to that of its parent.
    for cls in reversed(make.__mro__):
        own = cls.__dict__.get("__init__")
        if inspect.isfunction(own):
            found.update(_hints(own))
    return found


def _hints(function: Callable[..., Any]) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    for name, annotation in inspect.get_annotations(function).items():
        one = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            found.update(typing.get_type_hints(one, getattr(function, "__globals__", {})))
        except (NameError, AttributeError, TypeError, SyntaxError):
            continue  # for a type checker only
    return found


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The classes that a type stands for: those of a union, without what is in their brackets."""
    if hint is None:
        return ()
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(one for part in get_args(hint) for one in alternatives(part))
    if get_origin(hint) is typing.Annotated:
        return alternatives(get_args(hint)[0])
    return (get_origin(hint) or hint,)


def _data(value: Any, path: str, above: tuple[int, ...]) -> Any:
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is Resource:
        return value.dict()
    if id(value) in above:
        raise NotPlain(path, "it contains itself")
    inside = (*above, id(value))
    if kind is list:
        return [_data(one, f"{path}[{index}]", inside) for index, one in enumerate(value)]
    if kind is dict:
        return {key: _data(one, f"{path}[{key!r}]", inside) for key, one in value.items() if _is_key(key, path)}
    if kind is set:
        return {_data(one, path, inside) for one in value if _is_key(one, path)}
    raise NotPlain(path, f"YAML cannot hold {value_text(value)}")


def _is_key(value: Any, path: str) -> bool:
    if type(value) not in _SCALARS:
        raise NotPlain(path, f"in YAML a key, or a member of a set, cannot be {value_text(value)}")
    return True


def _if_restored(value: Any, data: Any, fits: bool, remedy: str) -> Any:
    if not fits:
        raise NotPlain("", f"YAML cannot hold {value_text(value)}, which would come back as another: {remedy}")
    return data
