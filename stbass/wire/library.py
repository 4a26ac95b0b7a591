"""More types of the standard library. One form each:

| tag | type | form |
|---|---|---|
| `constant` | `...`, NotImplemented, and the sentinels in :data:`CONSTANTS` | `c`: name |
| `complex` | complex | `v`: real and imaginary part |
| `fraction` | Fraction | `v`: numerator and denominator |
| `range`, `slice` | the same | `v`: start, stop, step |
| `ip` | addresses, networks and interfaces of ipaddress | `c`: name of the class; `v`: text |
| `pattern` | compiled regular expressions | `v`: the expression; `f`: flags |
| `numbers` | array.array | `c`: type code; `v`: list |
| `deque` | the same | `v`: list; `m`: longest, or null |
| `ordered`, `proxy` | OrderedDict, MappingProxyType | `v`: dict |
| `defaultdict` | the same | `v`: dict; `c`: class; `x`: `module:name` of the factory, or null |

The factory of a defaultdict is called later, so a message may only choose among :data:`FACTORIES`.
"""

from __future__ import annotations

import array
import collections
import ipaddress
import re
import sys
import types
import warnings
from fractions import Fraction
from typing import Any

from stbass._values.opaque import Opaque
from stbass._values.texts import text_of, type_name_of
from stbass.errors import WireError
from stbass.wire.core import Form, ReadFunction, Unsendable, WireReader, WireWriter, WriteFunction, part

__all__ = ["CONSTANTS", "FACTORIES", "READ", "WRITE", "write_constant"]

# Constants ---------------------------------------------------------------------------------------

CONSTANTS = (
    "builtins:Ellipsis",
    "builtins:NotImplemented",
    "dataclasses:MISSING",
    "msgspec:UNSET",
    "msgspec:NODEFAULT",
    "pydantic_core:PydanticUndefined",
    "pydantic_core:MISSING",
    "openai:NOT_GIVEN",
    "openai:omit",
    "anthropic:NOT_GIVEN",
    "anthropic:omit",
)
"""Objects that are compared by identity; each is looked up in its module, if that is imported."""


def _constant(name: str) -> Any:
    module, _, attribute = name.partition(":")
    found = sys.modules.get(module)
    # Not with getattr, which could import something.
    return None if found is None else object.__getattribute__(found, "__dict__").get(attribute)


def write_constant(writer: WireWriter, value: Any) -> Any:
    """The form of a constant; ``NotImplemented`` for anything else."""
    for name in CONSTANTS:
        if value is _constant(name):
            writer.spend(20)
            return {"~": "constant", "c": name}
    return NotImplemented


def _read_constant(reader: WireReader, form: Form) -> Any:
    name = part(form, "c", str)
    if name not in CONSTANTS:
        raise WireError(f"form 'constant': {text_of(name, 60)} is none")
    found = _constant(name)
    return Opaque(name, None, "constant", reason="its module is not imported here") if found is None else found


# Numbers, addresses, expressions -----------------------------------------------------------------


def _write_complex(writer: WireWriter, value: complex) -> Any:
    return {"~": "complex", "v": [writer.write(value.real), writer.write(value.imag)]}


def _read_complex(reader: WireReader, form: Form) -> Any:
    real, imaginary = reader.read_items(part(form, "v", list))
    if type(real) is not float or type(imaginary) is not float:
        raise WireError(f"form 'complex': {text_of(form, 100)}")
    return complex(real, imaginary)


_FRACTION_BITS = 100_000
"""Making a fraction takes quadratic time: what is longer would hold up whoever reads it."""


def _write_fraction(writer: WireWriter, value: Fraction) -> Any:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > _FRACTION_BITS:
        raise Unsendable(f"is a fraction of more than {_FRACTION_BITS:,} bits", "send its two parts")
    return {"~": "fraction", "v": [writer.write(value.numerator), writer.write(value.denominator)]}


def _read_fraction(reader: WireReader, form: Form) -> Any:
    parts = reader.read_items(part(form, "v", list))
    if len(parts) != 2 or any(type(one) is not int or one.bit_length() > _FRACTION_BITS for one in parts):
        raise WireError(f"form 'fraction': {text_of(form, 100)}")
    return Fraction(*parts)


def _write_range(writer: WireWriter, value: range | slice) -> Any:
    writer.enter(value)
    parts = [writer.write(one) for one in (value.start, value.stop, value.step)]
    writer.leave()
    return {"~": type(value).__name__, "v": parts}


def _read_range(reader: WireReader, form: Form) -> Any:
    start, stop, step = reader.read_items(part(form, "v", list))
    return (range if form["~"] == "range" else slice)(start, stop, step)


_ADDRESSES: dict[str, type[Any]] = {
    cls.__name__: cls
    for cls in (
        ipaddress.IPv4Address,
        ipaddress.IPv6Address,
        ipaddress.IPv4Network,
        ipaddress.IPv6Network,
        ipaddress.IPv4Interface,
        ipaddress.IPv6Interface,
    )
}


def _write_address(writer: WireWriter, value: Any) -> Any:
    writer.spend(40)
    return {"~": "ip", "c": type(value).__name__, "v": str(value)}


def _read_address(reader: WireReader, form: Form) -> Any:
    cls = _ADDRESSES.get(part(form, "c", str))
    if cls is None:
        raise WireError(f"form 'ip': {text_of(form, 100)}")
    return cls(part(form, "v", str))


_LONGEST_PATTERN = 10_000
"""Compiling takes a while: what is longer would hold up whoever reads it."""


def _write_pattern(writer: WireWriter, value: re.Pattern[Any]) -> Any:
    if len(value.pattern) > _LONGEST_PATTERN:
        raise Unsendable(f"is a pattern of more than {_LONGEST_PATTERN:,} characters", "send its text")
    return {"~": "pattern", "v": writer.write(value.pattern), "f": int(value.flags)}


def _read_pattern(reader: WireReader, form: Form) -> Any:
    pattern = reader.read(form.get("v"))
    if type(pattern) not in (str, bytes) or len(pattern) > _LONGEST_PATTERN:
        raise WireError(f"form 'pattern': {text_of(form, 100)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Not DEBUG, which prints.
        return re.compile(pattern, part(form, "f", int) & ~re.DEBUG)


def _write_numbers(writer: WireWriter, value: array.array[Any]) -> Any:
    return {"~": "numbers", "c": value.typecode, "v": writer.write(value.tolist())}


def _read_numbers(reader: WireReader, form: Form) -> Any:
    return array.array(part(form, "c", str), reader.read_items(part(form, "v", list)))


# Containers --------------------------------------------------------------------------------------


def _write_deque(writer: WireWriter, value: collections.deque[Any]) -> Any:
    items = writer.items(value, value, len(value), lambda index, _: f"[{index}]")
    return {"~": "deque", "v": items, "m": value.maxlen}


def _read_deque(reader: WireReader, form: Form) -> Any:
    longest = form.get("m")
    return collections.deque(
        reader.read_items(part(form, "v", list)), None if longest is None else part(form, "m", int)
    )


def _write_as_dict(writer: WireWriter, value: Any) -> Any:
    writer.enter(value)
    form = writer.by_type[dict](writer, dict(value))
    writer.leave()
    return {"~": "ordered" if type(value) is collections.OrderedDict else "proxy", "v": form}


def _dict_of(reader: WireReader, form: Form) -> dict[Any, Any]:
    found = reader.read(form.get("v"))
    if type(found) is not dict:
        raise WireError(f"form {form['~']!r}: {text_of(found, 100)} is not a dict")
    return found


def _read_ordered(reader: WireReader, form: Form) -> Any:
    return collections.OrderedDict(_dict_of(reader, form))


def _read_proxy(reader: WireReader, form: Form) -> Any:
    return types.MappingProxyType(_dict_of(reader, form))


FACTORIES: dict[str, type[Any]] = {
    type_name_of(cls): cls
    for cls in (
        *(list, dict, set, frozenset, tuple, str, bytes, bytearray, int, float, bool, complex, object),
        *(collections.deque, collections.Counter, collections.OrderedDict, collections.defaultdict),
    )
}
"""What a message may have called to make a default."""


def _write_defaultdict(writer: WireWriter, value: collections.defaultdict[Any, Any]) -> Any:
    factory: Any = value.default_factory
    named: Any = factory if isinstance(factory, (type, types.FunctionType)) else type(factory)
    writer.enter(value)
    form = writer.by_type[dict](writer, dict(value))
    writer.leave()
    return {"~": "defaultdict", "c": _DEFAULTDICT, "v": form, "x": None if factory is None else type_name_of(named)}


def _read_defaultdict(reader: WireReader, form: Form) -> Any:
    found, name = _dict_of(reader, form), form.get("x")
    if name is None:
        return collections.defaultdict(None, found)
    factory = FACTORIES.get(part(form, "x", str))
    if factory is None:
        reason = f"its factory is {name}, and a message may only bring one of Python's own containers and numbers"
        return Opaque(_DEFAULTDICT, found, "defaultdict", name, reason)
    return collections.defaultdict(factory, found)


_DEFAULTDICT = "collections:defaultdict"

WRITE: dict[type[Any], WriteFunction] = {
    complex: _write_complex,
    Fraction: _write_fraction,
    range: _write_range,
    slice: _write_range,
    **dict.fromkeys(_ADDRESSES.values(), _write_address),
    re.Pattern: _write_pattern,
    array.array: _write_numbers,
    collections.deque: _write_deque,
    collections.OrderedDict: _write_as_dict,
    collections.defaultdict: _write_defaultdict,
    types.MappingProxyType: _write_as_dict,
}

READ: dict[str, ReadFunction] = {
    "constant": _read_constant,
    "complex": _read_complex,
    "fraction": _read_fraction,
    "range": _read_range,
    "slice": _read_range,
    "ip": _read_address,
    "pattern": _read_pattern,
    "numbers": _read_numbers,
    "deque": _read_deque,
    "ordered": _read_ordered,
    "defaultdict": _read_defaultdict,
    "proxy": _read_proxy,
}
