"""Values of classes: Enum members, dataclasses, attrs, named tuples, msgspec structs, subclasses of built-in types.

| tag | form |
|---|---|
| `enum` | `c`: class; `v`: the member's name; for combined flags the number |
| `data` | `c`: class, of dataclasses or attrs; `v`: the fields by name, and what else the instance's `__dict__` holds |
| `named` | `c`: class; `v`: the fields by name, in order |
| `struct` | `c`: class, a msgspec.Struct; `v`: the fields by name |
| `sub` | `c`: class, with one of :data:`NATIVE` as a base; `v`: the value as that type; `x`: its attributes |
| `object` | `c`: class, with one of :data:`HOLDERS` as a base; `v`: its attributes |
| `lock` | `c`: `Lock` or `RLock`; made anew; as an attribute of an object whose class says how it is copied |

In `data`, `x` holds `absent`, the names of fields that were not set, where there are such.

A class is only looked up, by name, in the dicts of modules that are already imported. Nothing is imported, and neither
a module's `__getattr__` nor a constructor, a validator, a `__post_init__` or a `__setattr__` of the class is run: the
parts are put back as they were. Only so can an object that was changed after its construction arrive as it was sent.
Where there is no such class, or it has other fields, the value arrives as :class:`~stbass._values.opaque.Opaque`, which
says why.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import sys
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from types import MemberDescriptorType, ModuleType
from typing import Any, Generic, NamedTuple, cast
from weakref import WeakKeyDictionary, WeakSet

from stbass._values.masking import MASK
from stbass._values.opaque import Opaque
from stbass._values.texts import text_of, type_name_of
from stbass.errors import WireError
from stbass.wire.core import LOCKS, Form, ReadFunction, Unsendable, WireReader, WireWriter, WriteFunction, part
from stbass.wire.library import FACTORIES

__all__ = [
    "BY_BASE",
    "BY_LOOK",
    "HOLDERS",
    "NATIVE",
    "READ",
    "by_statement",
    "known_class",
    "named_fields",
    "native_base",
    "other_fields",
    "require_known",
    "static",
    "unknown_class",
]

_HEAP_TYPE, _IMMUTABLE_TYPE = 1 << 9, 1 << 8

_MODULE_DICT = object.__getattribute__
_TYPE_DICT: Any = type.__dict__["__dict__"]


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
    names = _MODULE_DICT(module, "__dict__")
    for name in qualname.split("."):
        found = names.get(name)
        if not issubclass(type(found), type):
            return None
        names = _TYPE_DICT.__get__(found)
    return cast("type[Any] | None", found)


def require_known(cls: type[Any]) -> str:
    """The name under which a class's values travel: it leads to the class, or to another one that is called the same.

    Raises:
        Unsendable: it leads to no class, not even here.
    """
    name = type_name_of(cls)
    if known_class(name) is None:
        if "<locals>" in name:
            raise Unsendable(f"the class {name} is defined in a function", "define it at the top level of a module")
        raise Unsendable(f"the name {name} does not lead to the class of this value", "define it under that name")
    return name


def unknown_class(name: str, kind: str) -> str:
    """Why a value of that class is not rebuilt here: the class is not here, or is not of that kind."""
    module = name.partition(":")[0]
    if known_class(name) is not None:
        return f"{name} is not {kind} here"
    if module in sys.modules:
        return f"the module {module} has no such class here"
    return f"the module {module} is not imported here"


def other_fields(name: str, here: Iterable[str], *, more: Iterable[str] = (), less: Iterable[str] = ()) -> str:
    """Why a value of a class is not rebuilt here: its fields are not those of the class that is called so here.

    Args:
        here: fields of the class here.
        more: which the value has, and the class here has not.
        less: which the class here must have, and the value has not.
    """
    reasons = [f"has {named_fields(more)}, which {name} here has not"] if more else []
    reasons += [f"has no {named_fields(less)}, which {name} here must have"] if less else []
    return f"{name} as it was sent {' and '.join(reasons)} (here: {', '.join(here) or 'no fields'})"


def named_fields(names: Iterable[str]) -> str:
    """Fields for a message, each in quotes."""
    found = sorted(names)
    return f"{'fields' if len(found) > 1 else 'field'} {', '.join(map(repr, found))}"


def static(cls: type[Any], name: str) -> Any:
    """What a class defines under a name, without running anybody's ``__getattr__``; None if nothing."""
    for base in cls.__mro__:
        names = _TYPE_DICT.__get__(base)
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
        return Opaque(name, member, "enum", None, f"{name} here has no member {member!r}")
    return Opaque(name, member, "enum", None, unknown_class(name, "an Enum"))


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


# Dataclasses, attrs ------------------------------------------------------------------------------

_ABSENT: Any = object()
_REQUIRED: Any = object()
_LATE: Any = object()
"""The default of a field that no constructor takes: it may be missing."""

_CACHED_HASH = "_attrs_cached_hash"


class _Made(NamedTuple):
    """The default of a field that is made anew for each object."""

    factory: type[Any]


class _Plan(NamedTuple):
    """What values of a class consist of: fields with their defaults, other slots, perhaps a ``__dict__``."""

    fields: dict[str, Any]
    slots: tuple[str, ...]
    has_dict: bool


_plans: WeakKeyDictionary[type[Any], _Plan | None] = WeakKeyDictionary()


def _plan_of(cls: type[Any]) -> _Plan | None:
    """None if the class is neither a dataclass nor one of attrs, or is also of a built-in type."""
    plan = _plans.get(cls, _ABSENT)
    if plan is _ABSENT:
        fields = _defaults_of(cls) if native_base(cls) is object else None
        plan = None
        if fields is not None:
            slots = tuple(name for name in _slots_of(cls) if name not in fields)
            plan = _Plan(fields, slots, bool(cls.__dictoffset__))
        _plans[cls] = plan
    return cast("_Plan | None", plan)


def _defaults_of(cls: type[Any]) -> dict[str, Any] | None:
    if type(static(cls, "__dataclass_fields__")) is dict:
        return {
            one.name: _default(one.default, one.default_factory, dataclasses.MISSING, one.init)
            for one in dataclasses.fields(cls)
        }
    attributes = static(cls, "__attrs_attrs__")
    if not issubclass(type(attributes), tuple):
        return None
    attr: Any = sys.modules["attr"]
    found = {}
    for one in attributes:
        made = type(one.default) is attr.Factory
        factory = attr.NOTHING if not made else one.default.factory if not one.default.takes_self else _ABSENT
        found[one.name] = _default(attr.NOTHING if made else one.default, factory, attr.NOTHING, one.init)
    return found


def _default(default: Any, factory: Any, missing: Any, init: bool) -> Any:
    if default is not missing:
        return default
    if factory is not missing and any(factory is one for one in FACTORIES.values()):
        return _Made(factory)
    return _REQUIRED if init else _LATE


def by_statement(cls: type[Any]) -> bool:
    """Whether a ``class`` statement made it, not C code of Python's, of which newer versions make heap types too."""
    return cls.__flags__ & (_HEAP_TYPE | _IMMUTABLE_TYPE) == _HEAP_TYPE


def native_base(cls: type[Any]) -> Any:
    """The class of C code that the layout of a class comes from, whose ``__new__`` alone may make an object of it."""
    base: Any = cls
    while by_statement(base):
        base = base.__base__
    return base


def _slots_of(cls: type[Any]) -> list[str]:
    return [
        name
        for base in cls.__mro__
        if by_statement(base)
        for name, found in _TYPE_DICT.__get__(base).items()
        if type(found) is MemberDescriptorType
    ]


def _beside(value: Any, slots: Iterable[str], fields: Mapping[str, Any]) -> dict[str, Any]:
    """What an object holds in its ``__dict__`` and its slots, beside its fields."""
    found = {key: item for key, item in getattr(value, "__dict__", {}).items() if key not in fields}
    # What typing leaves on an object that was made of a parametrized class.
    found.pop("__orig_class__", None)
    for name in slots:
        item = getattr(value, name, _ABSENT)
        if item is not _ABSENT:
            found[name] = item
    if _CACHED_HASH in found:
        found[_CACHED_HASH] = None  # that of another Python process
    return found


def _read_lock(reader: WireReader, form: Form) -> Any:
    make = LOCKS.get(part(form, "c", str))
    if make is None:
        raise WireError(f"form 'lock': {text_of(form, 100)}")
    return make()


def _write_data(writer: WireWriter, value: Any) -> Any:
    plan = _plan_of(type(value))
    if plan is None:
        return NotImplemented
    form: Form = {"~": "data", "c": require_known(type(value)), "v": None}
    state: dict[str, Any] = {}
    for name in plan.fields:
        item = getattr(value, name, _ABSENT)
        if item is not _ABSENT:
            state[name] = item
    # What __post_init__ set beside the fields: it is not run again, and without it the object would be incomplete.
    state |= _beside(value, plan.slots, state)
    form["v"] = written = writer.fields(value, state, owner=value)
    if not written.keys() >= plan.fields.keys():
        form["x"] = {"absent": [name for name in plan.fields if name not in written]}
    return form


def _read_data(reader: WireReader, form: Form) -> Any:
    name = part(form, "c", str)
    state = reader.read_fields(part(form, "v", dict))
    rest = part(form, "x", dict) if "x" in form else None
    absent = part(rest, "absent", list) if rest and "absent" in rest else []
    cls = known_class(name)
    plan = None if cls is None else _plan_of(cls)
    if cls is None or plan is None:
        return Opaque(name, state, "data", rest, unknown_class(name, "a dataclass or a class of attrs"))
    fields = plan.fields
    defaults: dict[str, Any] = {}
    less = []
    if len(state) < len(fields) or fields.keys() - state.keys():
        for field, default in fields.items():
            if field in state or field in absent or default is _LATE:
                continue
            if default is _REQUIRED:
                less.append(field)
            else:
                defaults[field] = default.factory() if type(default) is _Made else default
    more = () if plan.has_dict else state.keys() - fields.keys() - set(plan.slots)
    if less or more:
        return Opaque(name, state, "data", rest, other_fields(name, fields, more=more, less=less))
    made = object.__new__(cls)
    _fill(made, (defaults | state) if defaults else state, fields, plan.slots)
    return made


def _fill(made: Any, state: Mapping[str, Any], fields: Mapping[str, Any], slots: Iterable[str]) -> None:
    put = object.__setattr__
    for key, item in state.items():
        if key in fields or key in slots:
            put(made, key, item)
        else:
            made.__dict__[key] = item


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
    names = None if cls is None else _names_of(cls)
    if cls is None or names is None:
        return Opaque(name, state, "named", None, unknown_class(name, "a named tuple"))
    if names != tuple(state):
        more, less = state.keys() - set(names), [one for one in names if one not in state]
        reason = other_fields(name, names, more=more, less=less) if more or less else "its fields have another order"
        return Opaque(name, state, "named", None, reason)
    return tuple.__new__(cls, state.values())


# msgspec -----------------------------------------------------------------------------------------


def _is_struct(cls: type[Any]) -> bool:
    # msgspec is always imported: the wire is written with it.
    return type(cls) is type(sys.modules["msgspec"].Struct)


def _write_struct(writer: WireWriter, value: Any) -> Any:
    cls: Any = type(value)
    if not _is_struct(cls):
        return NotImplemented
    names = cls.__struct_fields__
    state = {name: getattr(value, name) for name in names}
    form: Form = {"~": "struct", "c": require_known(cls), "v": writer.fields(value, state)}
    if beside := _beside(value, (), state):
        form["x"] = writer.write(beside)
    return form


def _read_struct(reader: WireReader, form: Form) -> Any:
    name = part(form, "c", str)
    state = reader.read_fields(part(form, "v", dict))
    beside = reader.read(part(form, "x", dict)) if "x" in form else None
    cls: Any = known_class(name)
    if cls is None or not _is_struct(cls):
        return Opaque(name, state, "struct", beside, unknown_class(name, "a msgspec.Struct"))
    names, defaults = cls.__struct_fields__, cls.__struct_defaults__
    more, less = state.keys() - set(names), []
    for field, default in zip(reversed(names), [*reversed(defaults), *[_ABSENT] * len(names)], strict=False):
        if field in state:
            continue
        factory: Any = getattr(default, "factory", None)
        if any(factory is one for one in FACTORIES.values()):
            state[field] = factory()
        elif default is _ABSENT or factory is not None or default is sys.modules["msgspec"].NODEFAULT:
            less.append(field)
        else:
            state[field] = default
    if more or less or all(static(cls, "__init_subclass__") is not one for one in _HARMLESS):
        reason = other_fields(name, names, more=more, less=less) if more or less else f"{name} has __init_subclass__"
        return Opaque(name, state, "struct", beside, reason)
    made = _without_post_init(cls)(**state)
    if type(made) is not cls:
        object.__dict__["__class__"].__set__(made, cls)
    if beside:
        made.__dict__.update(beside)
    return made


_HARMLESS = (object.__dict__["__init_subclass__"], vars(Generic)["__init_subclass__"])
"""What may be run when a subclass is made: nothing of the user's."""

_twins: WeakKeyDictionary[type[Any], Any] = WeakKeyDictionary()


def _without_post_init(cls: type[Any]) -> Any:
    """A struct is only made by its constructor, which runs ``__post_init__``: that of a subclass without one, then."""
    if static(cls, "__post_init__") is None:
        return cls
    twin = _twins.get(cls)
    if twin is None:
        meta: Any = type(cls)
        twin = meta(cls.__name__, (cls,), {"__post_init__": lambda self: None, "__module__": __name__})
        _twins[cls] = twin
    return twin


# Subclasses of built-in types --------------------------------------------------------------------


def _datetime(value: Any) -> datetime:
    return datetime.combine(_date(value), _time(value), value.tzinfo)


def _date(value: Any) -> date:
    return date(value.year, value.month, value.day)


def _time(value: Any) -> time:
    return time(value.hour, value.minute, value.second, value.microsecond, value.tzinfo, fold=value.fold)


def _moment(cls: Any, value: Any) -> Any:
    parts = [value.year, value.month, value.day] if isinstance(value, date) else []
    if isinstance(value, (datetime, time)):
        return native_base(cls).__new__(
            cls, *parts, value.hour, value.minute, value.second, value.microsecond, value.tzinfo, fold=value.fold
        )
    return native_base(cls).__new__(cls, *parts)


def _filled(native: Any, method: Any) -> Any:
    def make(cls: Any, value: Any) -> Any:
        made = native.__new__(cls)
        method(made, value)
        return made

    return make


def _fill_ordered(made: Any, value: Any) -> None:
    for key, item in value.items():
        collections.OrderedDict.__setitem__(made, key, item)


_WHOLE = slice(None)

NATIVE: dict[type[Any], tuple[Any, Any]] = {
    int: (int.__int__, int.__new__),
    float: (float.__float__, float.__new__),
    complex: (complex.__complex__, complex.__new__),
    str: (str.__str__, str.__new__),
    bytes: (lambda value: bytes.__getitem__(value, _WHOLE), bytes.__new__),
    bytearray: (lambda value: bytearray.__getitem__(value, _WHOLE), _filled(bytearray, bytearray.extend)),
    tuple: (lambda value: tuple.__getitem__(value, _WHOLE), tuple.__new__),
    list: (list.copy, _filled(list, list.extend)),
    dict: (dict.copy, _filled(dict, dict.update)),
    set: (lambda value: set(set.__iter__(value)), _filled(set, set.update)),
    frozenset: (lambda value: frozenset(frozenset.__iter__(value)), frozenset.__new__),
    collections.deque: (
        lambda value: collections.deque(collections.deque.__iter__(value), value.maxlen),
        _filled(collections.deque, lambda made, value: collections.deque.__init__(made, value, value.maxlen)),
    ),
    collections.OrderedDict: (
        lambda value: collections.OrderedDict(collections.OrderedDict.items(value)),
        _filled(collections.OrderedDict, _fill_ordered),
    ),
    collections.defaultdict: (
        lambda value: collections.defaultdict(value.default_factory, dict.copy(value)),
        _filled(
            collections.defaultdict,
            lambda made, value: collections.defaultdict.__init__(made, value.default_factory, value),
        ),
    ),
    Decimal: (Decimal, Decimal.__new__),
    datetime: (_datetime, _moment),
    date: (_date, _moment),
    time: (_time, _moment),
    timedelta: (
        lambda value: timedelta(value.days, value.seconds, value.microseconds),
        lambda cls, value: timedelta.__new__(cls, value.days, value.seconds, value.microseconds),
    ),
}
"""The built-in types of which a subclass's values travel: how to get the value as that type, and how to make one of it.

Neither asks the subclass: what it overrides is for its users.
"""


_makeable: WeakSet[type[Any]] = WeakSet()


def _native_of(cls: type[Any]) -> type[Any] | None:
    for base in cls.__mro__:
        if base in NATIVE:
            return base
        if not by_statement(base):
            return None
    return None


def _write_sub(writer: WireWriter, value: Any) -> Any:
    cls = type(value)
    native = _native_of(cls)
    if native is None:
        return NotImplemented
    plain = NATIVE[native][0](value)
    if cls not in _makeable:
        try:
            NATIVE[native][1](cls, plain)
        except TypeError:
            return NotImplemented  # compiled code keeps something of its own in it
        _makeable.add(cls)
    form: Form = {"~": "sub", "c": require_known(cls)}
    writer.enter(value)
    form["v"] = writer.write(plain)
    if beside := _beside(value, _slots_of(cls), {}):
        form["x"] = writer.write(beside) if "~" in beside else writer.fields(beside, beside, owner=value)
    writer.leave()
    return form


def _read_sub(reader: WireReader, form: Form) -> Any:
    name = part(form, "c", str)
    value = reader.read(form.get("v"))
    beside = reader.read(part(form, "x", dict)) if "x" in form else {}
    cls = known_class(name)
    native = None if cls is None else _native_of(cls)
    special = (enum.Enum, BaseException)
    if cls is None or native is None or cls in NATIVE or issubclass(cls, special) or _names_of(cls) is not None:
        return Opaque(name, value, "sub", beside or None, unknown_class(name, "a subclass of a built-in type"))
    if type(value) is not native:
        reason = f"{name} as it was sent is a {type(value).__name__}, and {name} here is a {native.__name__}"
        return Opaque(name, value, "sub", beside or None, reason)
    slots = _slots_of(cls)
    more = () if cls.__dictoffset__ else beside.keys() - set(slots)
    if more:
        return Opaque(name, value, "sub", beside, other_fields(name, slots, more=more))
    try:
        made = NATIVE[native][1](cls, value)
    except TypeError:
        return Opaque(name, value, "sub", beside or None, f"{name} here is made by compiled code")
    _fill(made, beside, {}, slots)
    return made


# Objects that only hold attributes ---------------------------------------------------------------

HOLDERS = (
    "types:SimpleNamespace",
    "argparse:Namespace",
    "collections:UserDict",
    "collections:UserList",
    "collections:UserString",
    "collections:ChainMap",
    "uuid:UUID",
    "fractions:Fraction",
    "ipaddress:_IPAddressBase",
    "pydantic.types:_SecretBase",
    "pydantic.networks:_BaseUrl",
    "pydantic.networks:_BaseMultiHostUrl",
    "pydantic.networks:NameEmail",
)
"""Classes whose values, and those of their subclasses, are their attributes and nothing else."""

_SECRET_VALUE = "_secret_value"


def _is_holder(cls: type[Any]) -> bool:
    return any(type_name_of(base) in HOLDERS for base in cls.__mro__[:-1])


def _write_holder(writer: WireWriter, value: Any) -> Any:
    cls = type(value)
    if not _is_holder(cls):
        return NotImplemented
    state = _beside(value, _slots_of(cls), {})
    if writer.masking and _SECRET_VALUE in state:
        state[_SECRET_VALUE] = MASK
    return {"~": "object", "c": require_known(cls), "v": writer.fields(value, state, owner=value)}


def _read_holder(reader: WireReader, form: Form) -> Any:
    name = part(form, "c", str)
    state = reader.read_fields(part(form, "v", dict))
    cls = known_class(name)
    if cls is None or not _is_holder(cls):
        return Opaque(name, state, "object", None, unknown_class(name, "a class of this kind"))
    slots = _slots_of(cls)
    more = () if cls.__dictoffset__ else state.keys() - set(slots)
    if more:
        return Opaque(name, state, "object", None, other_fields(name, slots, more=more))
    made = native_base(cls).__new__(cls)
    _fill(made, state, {}, slots)
    return made


BY_BASE: dict[type[Any], WriteFunction] = {enum.Enum: _write_enum}

BY_LOOK: list[WriteFunction] = [_write_data, _write_struct, _write_named, _write_holder, _write_sub]

READ: dict[str, ReadFunction] = {
    "enum": _read_enum,
    "data": _read_data,
    "named": _read_named,
    "struct": _read_struct,
    "sub": _read_sub,
    "object": _read_holder,
    "lock": _read_lock,
}
