"""Whether an output of one type may be connected to an input of another."""

from __future__ import annotations

import abc
import inspect
import sys
import types
from typing import Annotated, Any, Literal, NewType, TypeVar, Union, get_args, get_origin

from stbass._channels.typewire import SequentialProtocol, VariantProtocol
from stbass._values.numbers import plain_number_type

__all__ = ["may_fit"]


def may_fit(sent: Any, taken: Any) -> bool:
    """Whether a value of the first type may be one of the second, by the rules by which channels check values.

    False only if none can: of ``int | None`` to ``int`` it is not known before something is sent.
    """
    return any(_one_fits(one, other) for one in _alternatives(sent) for other in _alternatives(taken))


def _alternatives(spec: Any) -> list[Any]:
    """The types that a type stands for."""
    if spec is None:
        return [type(None)]
    if isinstance(spec, NewType):
        return _alternatives(spec.__supertype__)
    if isinstance(spec, VariantProtocol):
        return [one for part in spec.types for one in _alternatives(part)]
    origin = get_origin(spec)
    if origin is Annotated:
        return _alternatives(get_args(spec)[0])
    if origin is Union or origin is types.UnionType:
        return [one for part in get_args(spec) for one in _alternatives(part)]
    return [spec]


def _one_fits(sent: Any, taken: Any) -> bool:
    if get_origin(sent) is Literal and get_origin(taken) is Literal:
        return any(type(one) is type(other) and one == other for one in get_args(sent) for other in get_args(taken))
    if get_origin(sent) is Literal:
        return any(_one_fits(type(one), taken) for one in get_args(sent))
    if get_origin(taken) is Literal:
        return any(_one_fits(sent, type(one)) for one in get_args(taken))
    source, target = _class_of(sent), _class_of(taken)
    if source is None or target is None:
        return True  # nothing that can be told beforehand
    if not _classes_fit(source, target):
        return False
    inner, wanted = get_args(sent), get_args(taken)
    if source is target and len(inner) == len(wanted) and Ellipsis not in (*inner, *wanted):
        return all(may_fit(one, other) for one, other in zip(inner, wanted, strict=True))
    return True


def _class_of(spec: Any) -> type | None:
    if spec is Any or spec is object or isinstance(spec, TypeVar | SequentialProtocol):
        return None
    origin = get_origin(spec) or spec
    if not isinstance(origin, type):
        return None
    return dict if hasattr(origin, "__required_keys__") else origin  # a TypedDict is a dict


def _classes_fit(sent: type, taken: type) -> bool:
    sent = plain_number_type(sent)
    if taken is float and sent is int:
        return True
    if taken is int and sent is bool:
        return False  # no channel takes True for a number
    if issubclass(sent, dict) and _is_model(taken):
        return True
    if _is_open(sent):
        return True
    try:
        return issubclass(sent, taken) or issubclass(taken, sent)
    except TypeError:
        return True  # a protocol with attributes: only a value tells


def _is_open(cls: type) -> bool:
    """Whether classes that do not name it may belong to it."""
    return inspect.isabstract(cls) or (
        type(cls) is not type and issubclass(type(cls), abc.ABCMeta) and not _is_model(cls)
    )


def _is_model(cls: type) -> bool:
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and issubclass(cls, pydantic.BaseModel)
