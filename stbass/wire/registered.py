"""Classes of the user's that no rule covers: made of plain values, and again from them, by functions of the user's.

`{"~": "registered", "c": class, "v": what the class's to_plain gave}`. Neither function travels: both ends register
them, in the module that defines the class, say.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, TypeVar

from stbass._process.context import Composable
from stbass._values.ctrl_c import raise_ctrl_c
from stbass._values.opaque import Opaque
from stbass._values.texts import error_text, type_name_of
from stbass.channel import Chan
from stbass.errors import ConfigurationError
from stbass.wire.classes import NATIVE, known_class
from stbass.wire.core import Form, ReadFunction, Unsendable, WireReader, WireWriter, part

__all__ = ["READ", "register"]

T = TypeVar("T")

_known: dict[str, tuple[type[Any], Callable[[Any], Any], Callable[[Any], Any]]] = {}


def register(cls: type[T], to_plain: Callable[[T], Any], from_plain: Callable[[Any], T]) -> None:
    """Let values of a class travel that no rule covers. Call it on both sides, where the class is defined.

    ::

        register(Polygon, lambda polygon: polygon.corners, Polygon)

    It holds for values of exactly this class, not of a subclass. Where a value arrives and the class is not registered,
    or ``from_plain`` raises or gives something else, it is an :class:`~stbass.wire.Opaque` that says so.

    Args:
        cls: the class; its ``module:qualname`` must lead to it.
        to_plain: called with a value of the class; gives what it is made of, in types that travel.
        from_plain: called with that; gives the value.

    Raises:
        ConfigurationError: it is not a class, or one that travels by itself; it is registered already; its name does
            not lead to it; a function cannot be called.
    """
    if not isinstance(cls, type):
        raise ConfigurationError(f"register takes a class, got {cls!r}")
    name = type_name_of(cls)
    if name in _known and _known[name][0] is cls:
        raise ConfigurationError(f"{name} is registered already; register a class once, in the module that defines it")
    if cls.__module__ == "builtins" or cls in WireWriter.by_type or cls in NATIVE:
        raise ConfigurationError(f"{name} travels by itself, or never does; register classes of your own")
    if issubclass(cls, (BaseException, enum.Enum, Composable, Chan)):
        raise ConfigurationError(f"{name} is an exception, Enum, process or channel, which travel in their own way")
    if known_class(name) is not cls:
        raise ConfigurationError(f"the name {name} does not lead to the class; define it at the top level of a module")
    for what, function in (("to_plain", to_plain), ("from_plain", from_plain)):
        if not callable(function):
            raise ConfigurationError(f"{what} of {name} must be a function, got {function!r}")
    _known[name] = cls, to_plain, from_plain
    WireWriter.by_type[cls] = _write


def _write(writer: WireWriter, value: Any) -> Any:
    name = type_name_of(type(value))
    _, to_plain, _ = _known[name]
    writer.enter(value)
    try:
        plain = to_plain(value)
    except BaseException as error:
        raise_ctrl_c(error)
        raise Unsendable(f"to_plain, as registered for {name}, raised {error_text(error, 200)}") from error
    try:
        form = {"~": "registered", "c": name, "v": writer.write(plain)}
    except Unsendable as unsendable:
        unsendable.reason = f"what to_plain gives, as registered for {name}, cannot travel: {unsendable.reason}"
        raise
    writer.leave()
    return form


def _read(reader: WireReader, form: Form) -> Any:
    name = part(form, "c", str)
    plain = reader.read(form.get("v"))
    if name not in _known:
        return Opaque(name, plain, "registered", reason=f"{name} is not registered here (stbass.wire.register)")
    cls, _, from_plain = _known[name]
    try:
        made = from_plain(plain)
    except BaseException as error:
        raise_ctrl_c(error)
        # One value that cannot be made again must not cost the others.
        reason = f"from_plain, as registered for {name}, raised {error_text(error, 200)}"
        return Opaque(name, plain, "registered", reason=reason)
    if not isinstance(made, cls):
        reason = f"from_plain, as registered for {name}, gave a {type_name_of(type(made))}"
        return Opaque(name, plain, "registered", reason=reason)
    return made


READ: dict[str, ReadFunction] = {"registered": _read}
