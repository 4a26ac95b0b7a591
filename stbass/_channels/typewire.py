"""Types as text, for messages, and as plain data, so that the two ends of a channel can compare them."""

from __future__ import annotations

import sys
import types
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal, NewType, TypeVar, Union, get_args, get_origin

from stbass.errors import WireError

__all__ = ["SequentialProtocol", "Unresolved", "VariantProtocol", "describe", "from_wire", "to_wire", "type_name"]


class SequentialProtocol:
    """A channel that carries values of these types, in this order, once.

    The position is the channel's, and moves only when a value has been received: a send that is refused, cancelled or
    withdrawn leaves it. One protocol may therefore be used by many channels.

    Args:
        types: type specs, each like that of a plain channel.
    """

    __slots__ = ("types",)

    def __init__(self, *types: Any) -> None:
        if not types:
            raise TypeError("SequentialProtocol takes at least one type")
        self.types = types

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.types == self.types

    def __hash__(self) -> int:
        return hash((type(self).__name__, self.types))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(describe(one) for one in self.types)})"


class VariantProtocol(SequentialProtocol):
    """A channel that carries values of any of these types, in any order.

    A value that fits one of them as it is stays as it is; else the first type that can take it up (a model from a dict)
    decides what it becomes.
    """

    __slots__ = ()


def describe(spec: Any) -> str:
    """A type spec as people write it, without module names."""
    return _text(to_wire(spec), short=True)


def type_name(spec: Any) -> str:
    """A type spec as text with module names, equal where the types are: what the two ends of a channel compare."""
    return _text(to_wire(spec), short=False)


_DEEPEST = 50
_PROTOCOLS = {"SequentialProtocol": SequentialProtocol, "VariantProtocol": VariantProtocol}


def to_wire(spec: Any) -> Any:
    """A type spec as strings and lists: ``"module:qualname"``, or a list of a form and its parts.

    Metadata of ``Annotated`` stays behind: it is checked by the end that has it.
    """
    if spec is None or spec is type(None):
        return "None"
    if spec is Any or isinstance(spec, TypeVar):
        return "Any"
    if spec is Ellipsis:
        return "..."
    if isinstance(spec, Unresolved):
        return spec.wire
    if isinstance(spec, SequentialProtocol):
        return [type(spec).__name__, *(to_wire(one) for one in spec.types)]
    if isinstance(spec, NewType):
        return to_wire(spec.__supertype__)
    if isinstance(spec, (list, tuple)):
        return ["[]", *(to_wire(one) for one in spec)]  # the arguments of a Callable
    origin = get_origin(spec)
    if origin is None:
        return _reference(spec)
    args = get_args(spec)
    if origin is Annotated:
        return to_wire(args[0])
    if origin is Literal:
        return ["Literal", *(_literal(one) for one in args)]
    if origin is Union or origin is types.UnionType:
        return ["Union", *(to_wire(one) for one in args)]
    return [_reference(origin), *(to_wire(one) for one in args)]


def _reference(spec: Any) -> str:
    module = getattr(spec, "__module__", None)
    qualname = getattr(spec, "__qualname__", None) or getattr(spec, "__name__", None)
    if module is None or qualname is None:
        return repr(spec)
    return str(qualname) if module == "builtins" else f"{module}:{qualname}"


def _literal(value: Any) -> Any:
    if value is None or type(value) in (bool, int, str):
        return {"value": value}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    return {"enum": _reference(type(value)), "name": value.name}


def _text(wire: Any, *, short: bool) -> str:
    if isinstance(wire, str):
        return wire.rpartition(":")[2].rpartition(".<locals>.")[2] if short else wire
    if isinstance(wire, dict):
        if "value" in wire:
            return repr(wire["value"])
        if "bytes" in wire:
            return repr(bytes.fromhex(wire["bytes"]))
        return f"{_text(wire['enum'], short=short)}.{wire['name']}"
    form, *parts = wire
    texts = [_text(one, short=short) for one in parts]
    if form == "Union":
        return " | ".join(texts)
    if form == "[]":
        return f"[{', '.join(texts)}]"
    if form in ("SequentialProtocol", "VariantProtocol"):
        return f"{form}({', '.join(texts)})"
    return f"{_text(form, short=short)}[{', '.join(texts)}]"


class Unresolved:
    """A type whose class is not known in this Python process: anything goes here, the other end checks."""

    __slots__ = ("wire",)

    def __init__(self, wire: Any) -> None:
        self.wire = wire

    def __repr__(self) -> str:
        return _text(self.wire, short=False)


def from_wire(wire: Any) -> Any:
    """The type spec that :func:`to_wire` described.

    No module is ever imported for it. A type of which a part is not already imported here is one that admits anything,
    and that still has its name.

    Raises:
        WireError: it describes nothing.
    """
    _require_form(wire, depth=0)
    try:
        return _resolved(wire)
    except (LookupError, AttributeError, TypeError, ValueError):
        return Unresolved(wire)


def _require_form(wire: Any, depth: int) -> None:
    match wire:
        case str() if wire:
            return
        case ["[]"]:
            return  # a Callable without arguments
        case ["Literal", _, *_]:
            keys = ({"value"}, {"bytes"}, {"enum", "name"})
            if all(isinstance(part, dict) and set(part) in keys for part in wire[1:]):
                return
        case [str(), _, *_] if depth < _DEEPEST:
            for part in wire[1:]:
                _require_form(part, depth + 1)
            return
    raise WireError(f"not the description of a type ({type(wire).__name__}, {depth} deep)")


def _resolved(wire: Any) -> Any:
    if isinstance(wire, str):
        return _looked_up(wire)
    form, *parts = wire
    if form == "Literal":
        return Literal[tuple(_literal_from(one) for one in parts)]
    args = [_resolved(one) for one in parts]
    if form == "[]":
        return args
    if form == "Union":
        return reduce(or_, args)
    if form in _PROTOCOLS:
        return _PROTOCOLS[form](*args)
    return types.GenericAlias(_looked_up(form), tuple(args))


def _looked_up(reference: str) -> Any:
    known = {"None": None, "Any": Any, "...": Ellipsis}
    if reference in known:
        return known[reference]
    module, _, qualname = reference.rpartition(":")
    found: Any = sys.modules[module or "builtins"]
    for part in qualname.split("."):
        found = getattr(found, part)
    # Only what is a type: a description must not lead to any other object.
    if not isinstance(found, type):
        raise TypeError(f"{reference} is not a type")
    return found


def _literal_from(wire: Any) -> Any:
    if "value" in wire:
        return wire["value"]
    return bytes.fromhex(wire["bytes"]) if "bytes" in wire else _looked_up(wire["enum"])[wire["name"]]
