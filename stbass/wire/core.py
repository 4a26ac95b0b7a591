"""The writer that turns a value into plain JSON data, and the reader that turns it back.

A plain value stays as it is: None, bool, int of 64 bits, finite float, str, list, and dict with str keys. Everything
else is a *form*: a dict whose key ``"~"`` holds the form's tag, for example ``{"~": "tuple", "v": [1, 2]}``. A dict of
the user's that has the key ``"~"`` is itself written as a form (tag ``dict``), so that nothing is ambiguous.

The tags are defined in the modules beside this one. Each has two tables: how to write which type, and how to read which
tag. :mod:`stbass.wire.codec` joins them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, ClassVar, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

from stbass._channels.transport import Transport
from stbass._values.ctrl_c import raise_ctrl_c
from stbass._values.masking import MASK, is_secret_name
from stbass._values.texts import error_text, text_of, type_name_of
from stbass.channel import Chan
from stbass.errors import NotTransportable, WireError
from stbass.wire.admission import Admission

__all__ = ["LOCKS", "MAX_DEPTH", "Oversized", "Unsendable", "WireReader", "WireWriter", "form_of_text"]

MAX_DEPTH = 200
"""How many containers may stand inside one another. Both ends refuse more, so that no message can exhaust the stack."""

Form: TypeAlias = dict[str, Any]
WriteFunction: TypeAlias = "Callable[[WireWriter, Any], Any]"
ReadFunction: TypeAlias = "Callable[[WireReader, Form], Any]"
T = TypeVar("T")


class Unsendable(Exception):
    """A part of a value cannot travel. Each container around it adds its own position to the path of the error."""

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.advice = advice
        self.segments: list[str] = []

    def at(self, segment: str) -> Unsendable:
        """Add the position in the next container outwards."""
        self.segments.append(segment)
        return self

    @property
    def inside(self) -> str:
        """The reason, with the position in what was to be written."""
        return ": ".join(filter(None, ("".join(reversed(self.segments)), self.reason)))

    def as_error(self, what: str) -> NotTransportable:
        """The error for the caller of ``dumps``."""
        path = what + "".join(reversed(self.segments))
        return NotTransportable(f"{path}: {self.reason}{self.advice and f'; {self.advice}'}", path=path)


class Oversized(Exception):
    """The value would be larger than a message may be, noticed before all of it was written."""


def form_of_text(value: Any, reason: str) -> Form:
    """The form of an :class:`~stbass._values.opaque.Opaque` with the value's text, for what cannot travel itself."""
    return {"~": "opaque", "c": type_name_of(type(value)), "v": text_of(value), "r": reason}


class WireWriter:
    """Turns one value into plain data.

    The function that writes a value is found by the value's type, else by its nearest base, else by asking each
    function in ``by_look``, which returns ``NotImplemented`` for a value that is not its own. Who answered for a class
    is asked first for the next value of it.

    Args:
        budget: how many nodes and characters to write at most; the exact size is only known at the end, but a value
            that refers to the same list from many places would never get that far.
        processes: whether processes and channels may be in it. Only a ``WireReader`` that admits them can read them.
    """

    __slots__ = ("_budget", "_open", "chained", "errors", "lenient", "masking", "numbered", "processes")

    by_type: ClassVar[dict[type[Any], WriteFunction]] = {}
    by_base: ClassVar[dict[type[Any], WriteFunction]] = {}
    by_look: ClassVar[list[WriteFunction]] = []
    found: ClassVar[WeakKeyDictionary[type[Any], WriteFunction]] = WeakKeyDictionary()

    def __init__(self, budget: int, *, processes: bool = False) -> None:
        self._budget = budget
        self._open: dict[int, None] = {}
        # Exceptions refer to one another (cause, context, arguments), also in circles. The exception is kept beside
        # its form, so that its id cannot be given to another one while we write.
        self.errors: dict[int, tuple[BaseException, Form]] = {}
        self.numbered = 0
        self.chained = 0
        # Whether a part that cannot travel is replaced by its text instead of being an error. For failures: one must
        # never get lost because of what is attached to it.
        self.lenient = False
        # Whether values under names such as "password" are masked. For errors; what they merely lead to, such as the
        # value of a result or a checkpoint, is exact again.
        self.masking = False
        self.processes = processes

    def write(self, value: Any) -> Any:
        """The value as plain data.

        Raises:
            Unsendable: it, or something in it, cannot travel.
            Oversized: it is too large.
        """
        function = self.by_type.get(type(value))
        if function is not None:
            return function(self, value)
        try:
            return self._write_object(value)
        except (Unsendable, Oversized, RecursionError):
            raise
        except BaseException as error:
            raise_ctrl_c(error)
            # A property or a __getattr__ of the user's class: it may raise anything.
            raise Unsendable(
                f"reading what the {type_name_of(type(value))} consists of raised {error_text(error, 200)}"
            ) from error

    def _write_object(self, value: Any) -> Any:
        known = self.found.get(type(value))
        if known is not None:
            form = known(self, value)
            if form is not NotImplemented:
                return form
        by_base = self.by_base
        # Only real bases: isinstance would also accept a class that was registered with an abstract one.
        for base in type(value).__mro__:
            function = by_base.get(base)
            if function is not None:
                self.found[type(value)] = function
                return function(self, value)
        for function in self.by_look:
            form = function(self, value)
            if form is not NotImplemented:
                self.found[type(value)] = function
                return form
        raise _unknown(value)

    def spend(self, amount: int) -> None:
        """Count what is about to be written.

        Raises:
            Oversized: it is too much.
        """
        self._budget -= amount
        if self._budget < 0:
            raise Oversized

    def enter(self, container: Any, size: int = 1) -> None:
        """Begin a container. :meth:`leave` ends it; after an error :meth:`rollback` does, if anybody goes on.

        Raises:
            Unsendable: it is inside itself, or too many are inside one another.
            Oversized: there is too much.
        """
        key = id(container)
        if key in self._open:
            raise Unsendable("refers to a container that it is in", "a value that contains itself cannot travel")
        if len(self._open) >= MAX_DEPTH:
            raise Unsendable(f"is nested more than {MAX_DEPTH} deep", "flatten it")
        self.spend(size + 1)
        self._open[key] = None

    def leave(self) -> None:
        """End the container that was begun last."""
        self._open.popitem()

    @property
    def state(self) -> tuple[int, int]:
        """What :meth:`rollback` needs in order to come back to this point."""
        return len(self._open), len(self.errors)

    def replace(self, value: Any, unsendable: Unsendable, state: tuple[int, int], segment: str) -> Any:
        """In a lenient writer, what to write instead of a part that cannot travel.

        Raises:
            Unsendable: this writer is not lenient.
        """
        if not self.lenient:
            raise unsendable.at(segment)
        self.rollback(state)
        return form_of_text(value, unsendable.inside)

    def rollback(self, state: tuple[int, int]) -> None:
        """Forget the containers and the exceptions that were begun since :attr:`state` had this value."""
        for entries, length in ((self._open, state[0]), (self.errors, state[1])):
            while len(entries) > length:
                entries.popitem()

    def soft(self, value: Any, *, masking: bool = False) -> Any:
        """Like :meth:`write`, but lenient about the value and all that is in it.

        Args:
            masking: whether it is a part of an error, whose secrets are masked.
        """
        before = self.lenient, self.masking
        self.lenient, self.masking = True, masking
        state = self.state
        try:
            return self.write(value)
        except Unsendable as unsendable:
            return self.replace(value, unsendable, state, "")
        finally:
            self.lenient, self.masking = before

    def exact(self, value: Any) -> Any:
        """Like :meth:`write`, without masking anything."""
        masking, self.masking = self.masking, False
        try:
            return self.write(value)
        finally:
            self.masking = masking

    def hides(self, name: Any) -> bool:
        """Whether the value under this name is to be masked."""
        return self.masking and type(name) is str and is_secret_name(name)

    def items(self, container: Any, values: Any, size: int, segment: Callable[[int, Any], str]) -> list[Any]:
        """The values of a container, in order."""
        self.enter(container, size)
        write = self.write
        made = []
        index = 0
        for index, value in enumerate(values):
            state = self.state if self.lenient else (0, 0)
            try:
                made.append(write(value))
            except Unsendable as unsendable:
                made.append(self.replace(value, unsendable, state, segment(index, value)))
        self.leave()
        return made

    def fields(self, container: Any, fields: Mapping[str, Any], *, owner: Any = None) -> Form:
        """The named parts of an object, as a plain dict: the names are identifiers, so ``"~"`` is not among them.

        Args:
            owner: the object, if what cannot travel of it may be left out or renewed as its class does for its copies.
        """
        self.enter(container, len(fields))
        made: Form = {}
        for name, value in fields.items():
            if self.masking and value is not None and self.hides(name):
                value = MASK
            state = self.state if self.lenient or owner is not None else (0, 0)
            try:
                made[name] = self.write(value)
            except Unsendable as unsendable:
                instead = _copied(owner, name, value)
                if instead is None:
                    made[name] = self.replace(value, unsendable, state, f".{name}")
                    continue
                self.rollback(state)
                if instead:
                    made[name] = instead
        self.leave()
        return made


LOCKS: dict[str, Any] = {"Lock": threading.Lock, "RLock": threading.RLock}
_LOCK_NAMES = {type(make()): name for name, make in LOCKS.items()}


def _copied(owner: Any, name: str, item: Any) -> Form | None:
    """What a copy of an object has in place of an attribute: a lock of its own, or nothing (an empty form).

    None if the object's class does not itself say how it is copied, or copies the attribute.
    """
    # What Python, dataclasses and attrs have made for all their classes alike says nothing.
    said = {
        key
        for key in ("__getstate__", "__reduce__", "__reduce_ex__")
        if type(found := getattr(type(owner), key, None)) is FunctionType
        and found.__module__ not in ("dataclasses", "attr._make")
    }
    copied = owner.__getstate__() if "__getstate__" in said else None
    if type(copied) is dict and name not in copied:
        return {}
    return {"~": "lock", "c": _LOCK_NAMES[type(item)]} if said and type(item) in _LOCK_NAMES else None


def _unknown(value: Any) -> Unsendable:
    cls = type(value)
    for base in (str, bytes, bytearray, int, float, dict, list, tuple, set, frozenset):
        if issubclass(cls, base):
            return Unsendable(
                f"{type_name_of(cls)} is a subclass of {base.__name__} and would arrive as a plain {base.__name__}",
                f"send {base.__name__}(…) of it, or put it in a dataclass",
            )
    return Unsendable(
        f"{cls.__module__}.{cls.__qualname__} cannot travel",
        "send what it is made of (numbers, texts, lists, dicts, dataclasses, …) and make it again where it is used, or"
        " say how to do so with stbass.wire.register",
    )


class WireReader:
    """Turns plain data back into a value. Nothing is imported, and no code of a message's choosing is run.

    Args:
        admission: which processes the message may bring; None: none at all.
        transport: how to reach the channels that the message brings; None: it may bring none.
    """

    __slots__ = ("_depth", "admission", "channels", "errors", "transport")

    by_tag: ClassVar[dict[str, ReadFunction]] = {}

    def __init__(self, admission: Admission | None = None, transport: Transport | None = None) -> None:
        self._depth = 0
        self.errors: dict[int, BaseException] = {}
        self.channels: dict[str, Chan[Any]] = {}
        self.admission = admission
        self.transport = transport

    def read(self, node: Any) -> Any:
        """The value that plain data stands for. The data is changed by it.

        Raises:
            WireError: it is not what a :class:`WireWriter` makes.
        """
        kind = type(node)
        if kind is dict:
            if "~" not in node:
                return self.read_fields(node)
            tag = node["~"]
            function = self.by_tag.get(tag) if type(tag) is str else None
            if function is None:
                raise WireError(f"unknown form {text_of(tag, 60)}")
            self.enter()
            value = function(self, node)
            self._depth -= 1
            return value
        if kind is list:
            return self.read_items(node)
        return node

    def enter(self) -> None:
        """Count one container more. Not undone on an error, which ends the reading."""
        # A form holds its parts in a list or dict, so there may be two levels here for one in the value.
        self._depth += 1
        if self._depth > 2 * MAX_DEPTH + 2:
            raise WireError(f"nested more than {MAX_DEPTH} deep")

    def read_items(self, node: list[Any]) -> list[Any]:
        """The values of a list, in place."""
        self.enter()
        for index, item in enumerate(node):
            if type(item) is dict or type(item) is list:
                node[index] = self.read(item)
        self._depth -= 1
        return node

    def read_fields(self, node: Form) -> Form:
        """The values of a dict, in place."""
        self.enter()
        for key, item in node.items():
            if type(item) is dict or type(item) is list:
                node[key] = self.read(item)
        self._depth -= 1
        return node


def part(form: Form, key: str, kind: type[T]) -> T:
    """A part of a form that must be there and must be exactly of that type.

    Raises:
        WireError: it is not.
    """
    value = form.get(key)
    if type(value) is not kind:
        raise misfit(form, key, kind, value)
    return value


def misfit(form: Form, key: str, kind: type[Any], value: Any) -> WireError:
    """The error for a part of a form that is of another type."""
    tag = text_of(form.get("~"), 60)
    return WireError(f"form {tag}: {key!r} must be a {kind.__name__}, got {text_of(value, 60)}")
