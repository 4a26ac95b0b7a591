"""pydantic's models, and its addresses.

| tag | form |
|---|---|
| `model` | `c`: class; `v`: the fields by name; `x`: see below |
| `url` | `c`: `Url` or `MultiHostUrl` of pydantic-core; `v`: text |

`x` holds, where there is anything to say: `set`, the names of the fields that were set, if not all; `extra`, the extra
values; `private`, the private values; `beside`, what else the instance's `__dict__` holds (cached properties, and what
SDKs put there); `absent`, fields without a value (of an instance that was made without validation); `args`, the
arguments of a generic.

As with other classes, nothing of the class is run, and it is not parametrized for a message: where nobody has made
`Page[Item]`, a value of it arrives as a `Page`, which pydantic takes as equal.
"""

from __future__ import annotations

import sys
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from stbass._values.opaque import Opaque
from stbass._values.texts import text_of, type_name_of
from stbass.errors import WireError
from stbass.wire.classes import known_class, other_fields, require_known, static, unknown_class
from stbass.wire.core import Form, ReadFunction, WireReader, WireWriter, WriteFunction, part
from stbass.wire.library import FACTORIES

__all__ = ["BY_LOOK", "READ"]


def _base_model() -> Any:
    """pydantic's BaseModel, if the program has imported it: otherwise no value can be a model."""
    module = sys.modules.get("pydantic.main")
    return getattr(module, "BaseModel", None)


# Generics ----------------------------------------------------------------------------------------

_generics: WeakKeyDictionary[Any, tuple[Any, tuple[str, ...]]] = WeakKeyDictionary()
_made: WeakValueDictionary[tuple[str, ...], Any] = WeakValueDictionary()


def _generic(cls: Any) -> tuple[Any, tuple[str, ...]]:
    """The class that was parametrized, and the names of what with; the class itself, and nothing, if it was not."""
    found = _generics.get(cls)
    if found is None:
        metadata = static(cls, "__pydantic_generic_metadata__")
        if type(metadata) is dict and metadata["origin"] is not None:
            found = metadata["origin"], tuple(map(_argument, metadata["args"]))
        else:
            found = cls, ()
        _generics[cls] = found
    return found


def _argument(argument: Any) -> str:
    if issubclass(type(argument), type):
        origin, inner = _generic(argument)
        return f"{type_name_of(origin)}[{', '.join(inner)}]" if inner else type_name_of(argument)
    return text_of(argument)


def _parametrized(cls: Any, arguments: tuple[str, ...]) -> Any:
    """The class with these arguments, if anybody has made it here; else the class itself."""
    key = (type_name_of(cls), *arguments)
    found = _made.get(key)
    if found is None or _generic(found)[0] is not cls:
        found = next((made for made in type.__subclasses__(cls) if _generic(made) == (cls, arguments)), cls)
        if found is not cls:
            _made[key] = found
    return found


# Models ------------------------------------------------------------------------------------------


def _write_model(writer: WireWriter, value: Any) -> Any:
    base, cls = _base_model(), type(value)
    if base is None or base not in cls.__mro__:
        return NotImplemented
    origin, arguments = _generic(cls)
    form: Form = {"~": "model", "c": require_known(origin)}
    # What pydantic gives for copying; what a subclass puts in its place is for pickle, not for us.
    state = base.__getstate__(value)
    fields, values = _fields(cls), state["__dict__"]
    rest: Form = {}
    if values.keys() != fields.keys():
        if beside := {key: item for key, item in values.items() if key not in fields}:
            rest["beside"] = beside
        if absent := [key for key in fields if key not in values]:
            rest["absent"] = absent
        values = {key: item for key, item in values.items() if key in fields}
    if state["__pydantic_fields_set__"] != values.keys():
        rest["set"] = state["__pydantic_fields_set__"]
    for key in ("extra", "private"):
        if state[f"__pydantic_{key}__"] is not None:
            rest[key] = state[f"__pydantic_{key}__"]
    if arguments:
        rest["args"] = list(arguments)
    form["v"] = writer.fields(value, values)
    if rest:
        writer.enter(value, len(rest))
        form["x"] = {key: writer.write(item) for key, item in rest.items()}
        writer.leave()
    return form


def _fields(cls: Any) -> dict[str, Any]:
    fields = static(cls, "__pydantic_fields__")
    return fields if type(fields) is dict else {}


_PARTS = {"set": set, "extra": dict, "private": dict, "beside": dict, "absent": list, "args": list}


def _read_model(reader: WireReader, form: Form) -> Any:
    name = part(form, "c", str)
    values = reader.read_fields(part(form, "v", dict))
    rest = reader.read(part(form, "x", dict)) if "x" in form else {}
    if type(rest) is not dict or any(type(item) is not _PARTS.get(key) for key, item in rest.items()):
        raise WireError(f"form 'model': {text_of(rest, 100)}")
    base, cls = _base_model(), known_class(name)
    if cls is None or base is None or base not in cls.__mro__:
        return Opaque(name, values, "model", rest, unknown_class(name, "a model of pydantic"))
    state, extra, fields = values, rest.get("extra"), _fields(cls)
    allows_extra = cls.model_config.get("extra") == "allow"
    if values.keys() != fields.keys() or extra:
        state, extra, reason = _fitted(name, cls, values, rest)
        if reason:
            return Opaque(name, values, "model", rest, reason)
    if "beside" in rest:
        state = state | rest["beside"]
    made = object.__new__(_parametrized(cls, tuple(rest["args"])) if "args" in rest else cls)
    base.__setstate__(
        made,
        {
            "__dict__": state,
            "__pydantic_fields_set__": rest["set"] if "set" in rest else set(values),
            "__pydantic_extra__": (extra or {}) if allows_extra else None,
            "__pydantic_private__": rest.get("private"),
        },
    )
    return made


def _fitted(name: str, cls: Any, values: Form, rest: Form) -> tuple[Form, Form, str]:
    """Fields and extra values for the class as it is here, and what speaks against it."""
    fields = _fields(cls)
    more, less, extra = values.keys() - fields.keys(), [], rest.get("extra") or {}
    if cls.model_config.get("extra") == "allow":
        # As pydantic itself does with what a class does not know and allows.
        extra = {key: values[key] for key in values if key in more} | extra
        more = set()
    else:
        more |= extra.keys()
    state = {key: item for key, item in values.items() if key in fields}
    for key in fields.keys() - state.keys() - set(rest.get("absent", ())):
        factory = fields[key].default_factory
        if any(factory is one for one in FACTORIES.values()):
            state[key] = factory()
        elif fields[key].is_required() or factory is not None:
            less.append(key)
        else:
            state[key] = fields[key].get_default()
    return state, extra, other_fields(name, fields, more=more, less=less) if more or less else ""


# Addresses ---------------------------------------------------------------------------------------

_ADDRESSES = ("Url", "MultiHostUrl")


def _write_url(writer: WireWriter, value: Any) -> Any:
    cls = type(value)
    if cls.__module__ != "pydantic_core._pydantic_core" or cls.__name__ not in _ADDRESSES:
        return NotImplemented
    return {"~": "url", "c": cls.__name__, "v": writer.write(str(value))}


def _read_url(reader: WireReader, form: Form) -> Any:
    name, text = part(form, "c", str), part(form, "v", str)
    if name not in _ADDRESSES:
        raise WireError(f"form 'url': {text_of(form, 100)}")
    cls = known_class(f"pydantic_core._pydantic_core:{name}")
    if cls is None:
        return Opaque(f"pydantic_core._pydantic_core:{name}", text, "url", reason="pydantic is not imported here")
    return cls(text)


BY_LOOK: list[WriteFunction] = [_write_model, _write_url]

READ: dict[str, ReadFunction] = {"model": _read_model, "url": _read_url}
