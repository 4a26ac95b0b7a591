"""Values of classes: Enum members, dataclasses, named tuples, pydantic models.

| tag | form |
|---|---|
| `enum` | `c`: class; `v`: the member's name; for combined flags the number |
| `data` | `c`: class; `v`: the fields by name, and what else the instance's `__dict__` holds |
| `named` | `c`: class; `v`: the fields by name, in order |
| `model` | `c`: class; `v`: the fields by name; `x`: names of the fields that were set, extra values, private values |

A class is only looked up, by name, in the dicts of modules that are already imported. Nothing is imported, and neither
a module's `__getattr__` nor a constructor, a validator, a `__post_init__` or a `__setattr__` of the class is run: the
parts are put back as they were. Only so can an object that was changed after its construction arrive as it was sent.
Where there is no such class, or it has other fields, the value arrives as :class:`~stbass.wire.opaque.Opaque`.
"""

from __future__ import annotations

import dataclasses
import enum
import sys
from functools import cached_property
from types import ModuleType
from typing import Any, cast

from stbass._values.texts import text_of, type_name_of
from stbass.errors import WireError
from stbass.wire.core import Form, ReadFunction, Unsendable, WireReader, WireWriter, WriteFunction, part
from stbass.wire.opaque import Opaque

__all__ = ["BY_BASE", "BY_LOOK", "HEAP_TYPE", "READ", "known_class", "require_known", "static"]


HEAP_TYPE = 1 << 9
"""The flag (Py_TPFLAGS_HEAPTYPE) of a class that a ``class`` statement made, not C code."""


def known_class(type_name: str) -> type[Any] | None:
    """The class that is called ``module:qualname`` in an imported module, or None."""
    module_name, _, qualname = type_name.partition(":")
    module = sys.modules.get(module_name)
    # Only real types are asked: isinstance would also ask the object itself, which may be a proxy that creates its
    # target in order to answer.
    if not issubclass(type(module), ModuleType):
        return None
    found: Any = None
    # The plain dict of a module: getattr could run a module's own __getattr__, and that of a lazy module imports it.
    names = object.__getattribute__(module, "__dict__")
    for name in qualname.split("."):
        found = names.get(name)
        if not issubclass(type(found), type):
            return None
        names = type.__dict__["__dict__"].__get__(found)
    return cast("type[Any] | None", found)


def require_known(cls: type[Any]) -> str:
    """The name under which a class's values travel.

    Raises:
        Unsendable: nobody could find the class by its name, not even here.
    """
    name = type_name_of(cls)
    if known_class(name) is not cls:
        if "<locals>" in name:
            raise Unsendable(f"the class {name} is defined in a function", "define it at the top level of a module")
        raise Unsendable(f"the name {name} does not lead to the class of this value", "define it under that name")
    return name


def static(cls: type[Any], name: str) -> Any:
    """What a class defines under a name, without running anybody's ``__getattr__``; None if nothing."""
    for base in cls.__mro__:
        names = type.__dict__["__dict__"].__get__(base)
        if name in names:
            return names[name]
    return None


# Enum --------------------------------------------------------------------------------------------


def _write_enum(writer: WireWriter, value: enum.Enum) -> Any:
    cls = type(value)
    writer.spend(20)
    member = value._name_ if cls._member_map_.get(value._name_) is value else value._value_
    if type(member) not in (str, int):
        raise Unsendable(f"{text_of(value, 60)} is not a member of {type_name_of(cls)}")
    return {"~": "enum", "c": require_known(cls), "v": member}


def _read_enum(reader: WireReader, form: Form) -> Any:
    name, member = part(form, "c", str), form.get("v")
    if type(member) not in (str, int):
        raise WireError(f"form 'enum': {text_of(member, 60)} is not a member")
    cls = known_class(name)
    if cls is not None and issubclass(cls, enum.Enum):
        if type(member) is str:
            found = cls._member_map_.get(member)
        elif issubclass(cls, enum.Flag):
            found = _combined(cls, member)
        else:
            found = None
        if found is not None:
            return found
    return Opaque(name, member, "enum")


def _combined(cls: type[enum.Flag], number: Any) -> Any:
    """Combined flags, or None. Made by Flag's own function, never by one that a subclass has put in its place."""
    found = cls._value2member_map_.get(number)
    if found is not None:
        return found
    try:
        made = enum.Flag._missing_.__func__(cls, number)  # type: ignore[attr-defined]
    except (ValueError, TypeError):
        return None
    return made if isinstance(made, cls) else None


# Dataclasses -------------------------------------------------------------------------------------

_ABSENT: Any = object()


def _is_data(cls: type[Any]) -> bool:
    return type(static(cls, "__dataclass_fields__")) is dict


def _is_plain_object(cls: type[Any]) -> bool:
    """Whether a value of the class consists of its fields alone; that of a subclass of list or int, say, does not."""
    base: Any = cls
    while base.__flags__ & HEAP_TYPE:
        base = base.__base__
    return base is object


def _write_data(writer: WireWriter, value: Any) -> Any:
    cls = type(value)
    if not _is_data(cls):
        return NotImplemented
    name = require_known(cls)
    if not _is_plain_object(cls):
        raise Unsendable(
            f"{name} is a dataclass and also a subclass of {_native_base(cls)}", "make that a field instead"
        )
    state: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        item = getattr(value, field.name, _ABSENT)
        if item is not _ABSENT:
            state[field.name] = item
    # What __post_init__ set beside the fields: it is not run again, and without it the object would be incomplete.
    for key, item in getattr(value, "__dict__", {}).items():
        if key not in state and key != "__orig_class__":
            state[key] = item
    return {"~": "data", "c": name, "v": writer.fields(value, state)}


def _native_base(cls: type[Any]) -> str:
    base: Any = cls
    while base.__flags__ & HEAP_TYPE:
        base = base.__base__
    return type_name_of(base)


def _read_data(reader: WireReader, form: Form) -> Any:
    name = part(form, "c", str)
    state = reader.read_fields(part(form, "v", dict))
    cls = known_class(name)
    if cls is None or not _is_data(cls) or not _is_plain_object(cls):
        return Opaque(name, state, "data")
    defaults: dict[str, Any] = {}
    fields = static(cls, "__dataclass_fields__")
    for field in dataclasses.fields(cls):
        if field.name not in state:
            if field.default is not dataclasses.MISSING:
                defaults[field.name] = field.default
            elif field.init:
                return Opaque(name, state, "data")
    has_dict = bool(cls.__dictoffset__)
    if not has_dict and not state.keys() <= fields.keys():
        return Opaque(name, state, "data")
    made = object.__new__(cls)
    for key, item in (defaults | state).items():
        if key in fields:
            object.__setattr__(made, key, item)
        else:
            made.__dict__[key] = item
    return made


# Named tuples ------------------------------------------------------------------------------------


def _names_of(cls: type[Any]) -> tuple[str, ...] | None:
    """The field names of a named tuple's class; None for any other class."""
    if not issubclass(cls, tuple):
        return None
    names = static(cls, "_fields")
    return names if type(names) is tuple and all(type(name) is str for name in names) else None


def _write_named(writer: WireWriter, value: Any) -> Any:
    cls = type(value)
    names = _names_of(cls)
    if names is None:
        return NotImplemented
    name = require_known(cls)
    if len(names) != len(value) or getattr(value, "__dict__", None):
        raise Unsendable(f"{name} is a named tuple with more than its fields", "use a dataclass")
    return {"~": "named", "c": name, "v": writer.fields(value, dict(zip(names, value, strict=True)))}


def _read_named(reader: WireReader, form: Form) -> Any:
    name = part(form, "c", str)
    state = reader.read_fields(part(form, "v", dict))
    cls = known_class(name)
    if cls is None or _names_of(cls) != tuple(state):
        return Opaque(name, state, "named")
    return tuple.__new__(cls, state.values())


# pydantic ----------------------------------------------------------------------------------------


def _base_model() -> Any:
    """pydantic's BaseModel, if the program has imported it: otherwise no value can be a model."""
    module = sys.modules.get("pydantic.main")
    return getattr(module, "BaseModel", None)


def _write_model(writer: WireWriter, value: Any) -> Any:
    base = _base_model()
    if base is None or base not in type(value).__mro__:
        return NotImplemented
    name = require_known(type(value))
    # What pydantic gives for copying; what a subclass puts in its place is for pickle, not for us.
    state = base.__getstate__(value)
    rest = {
        "set": state["__pydantic_fields_set__"],
        "extra": state["__pydantic_extra__"],
        "private": state["__pydantic_private__"],
    }
    written = writer.fields(value, state["__dict__"])
    return {"~": "model", "c": name, "v": written, "x": writer.write(rest)}


def _read_model(reader: WireReader, form: Form) -> Any:
    name = part(form, "c", str)
    state = reader.read_fields(part(form, "v", dict))
    rest = reader.read(part(form, "x", dict))
    base, cls = _base_model(), known_class(name)
    if type(rest) is not dict or type(rest.get("set")) is not set:
        raise WireError(f"form 'model': {text_of(rest, 100)}")
    if any(part is not None and type(part) is not dict for part in (rest.get("extra"), rest.get("private"))):
        raise WireError(f"form 'model': {text_of(rest, 100)}")
    if cls is None or base is None or base not in cls.__mro__ or not _fits(cls, state, rest):
        return Opaque(name, state, "model", rest)
    made = object.__new__(cls)
    base.__setstate__(
        made,
        {
            "__dict__": state,
            "__pydantic_fields_set__": rest["set"],
            "__pydantic_extra__": rest.get("extra"),
            "__pydantic_private__": rest.get("private"),
        },
    )
    return made


def _fits(cls: Any, state: dict[str, Any], rest: dict[str, Any]) -> bool:
    """Whether the model here has the fields that the sender's had. A field that is new here gets its default."""
    fields = static(cls, "__pydantic_fields__")
    if type(fields) is not dict:
        return False
    for key in state.keys() - fields.keys():
        if not isinstance(static(cls, key), cached_property):
            return False
    for key in fields.keys() - state.keys():
        if fields[key].is_required() or fields[key].default_factory is not None:
            return False
        state[key] = fields[key].get_default()
    allows_extra: bool = cls.model_config.get("extra") == "allow"
    return allows_extra == (rest.get("extra") is not None)


BY_BASE: dict[type[Any], WriteFunction] = {enum.Enum: _write_enum}

BY_LOOK: list[WriteFunction] = [_write_model, _write_data, _write_named]

READ: dict[str, ReadFunction] = {
    "enum": _read_enum,
    "data": _read_data,
    "named": _read_named,
    "model": _read_model,
}
