"""Texts of values and errors that are not ours: made whatever their classes do, and always fit to be written.

``repr``, ``str`` and even the attributes of an exception are somebody else's code, and may raise anything. A text may
hold lone surrogates (half of an emoji that a model cut off, a file name that is not UTF-8), which UTF-8 cannot write.
What looks like a password or key is masked in all of them (see :mod:`stbass._values.masking`).
"""

from __future__ import annotations

import inspect
import reprlib
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from enum import Enum
from numbers import Number
from typing import Any

from stbass._values.ctrl_c import raise_ctrl_c
from stbass._values.masking import masked

__all__ = [
    "LONGEST_TRACEBACK",
    "attribute_of",
    "error_text",
    "message_of",
    "notes_of",
    "one_line",
    "outline_of",
    "plain_text",
    "printable",
    "printable_lines",
    "seconds_text",
    "short_text",
    "shortened",
    "text_of",
    "traceback_text",
    "type_name_of",
    "value_text",
]

_LONGEST_TEXT = 2_000
_LONGEST_MESSAGE = 10_000
LONGEST_TRACEBACK = 50_000
_MOST_MASKED = 500_000
_LONGEST_NAME = 500

_GROUP_MESSAGE: Any = vars(BaseExceptionGroup)["message"]


def shortened(text: str, longest: int) -> str:
    """``text``, or its beginning and its end if it is longer than ``longest``; always encodable as UTF-8."""
    if type(text) is not str:
        text = plain_text(text)
    if len(text) > longest:
        half = longest // 2
        text = f"{text[:half]} … {len(text) - 2 * half} characters left out … {text[-half:]}"
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _masked(text: str) -> str:
    """The text without secrets; of one of megabytes only the beginning, as looking through all of it takes seconds."""
    left_out = len(text) - _MOST_MASKED
    return masked(text) if left_out <= 0 else f"{masked(text[:_MOST_MASKED])} … {left_out} characters left out"


def printable(text: str) -> str:
    """``text`` with a space for each control character, line end and lone surrogate."""
    return "".join(sign if sign.isprintable() else " " for sign in text)


def printable_lines(text: str) -> str:
    """``text`` with a space for each control character and lone surrogate; its lines stay lines."""
    return "\n".join(map(printable, text.split("\n")))


def one_line(text: str, longest: int) -> str:
    """``text`` in one line of printable characters, cut to ``longest``."""
    line = " ".join(printable(text).split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def plain_text(value: Any) -> str:
    """A real ``str``: of a subclass, whose methods may be anything, its characters; of anything else its ``repr``."""
    if type(value) is str:
        return value
    return str.__str__(value) if issubclass(type(value), str) else text_of(value)


def type_name_of(cls: type[Any]) -> str:
    """``module:qualname`` of a class."""
    try:
        name = f"{cls.__module__}:{cls.__qualname__}"
    except BaseException as failed:  # of a metaclass that answers for them
        raise_ctrl_c(failed)
        name = f"?:{type.__dict__['__qualname__'].__get__(cls)}"
    return name if name.isascii() and len(name) <= _LONGEST_NAME else shortened(name, _LONGEST_NAME)


def attribute_of(source: Any, name: str) -> Any:
    """An attribute of somebody's object; None if there is none, or asking for it raises."""
    try:
        return getattr(source, name, None)
    except BaseException as failed:
        raise_ctrl_c(failed)
        return None


def progress_text(done: Any, total: Any, note: str) -> str:
    """What a process has said of how far it is, for people: ``3 of 10 reading``."""
    said = [one for one in (done, total) if one is not None]
    numbers = [float.__format__(one, "g") if issubclass(type(one), float) else text_of(one) for one in said]
    return shortened(f"{' of '.join(numbers)} {note}".strip(), _LONGEST_TEXT)


def text_of(value: Any, longest: int = _LONGEST_TEXT) -> str:
    """The ``repr`` of anything, cut to ``longest`` characters; says so if the value's ``repr`` itself fails."""
    return _text(value, repr, longest)


def _text(value: Any, make: Callable[[Any], str], longest: int) -> str:
    try:
        text = _masked(make(value))
    except BaseException as error:
        raise_ctrl_c(error)
        text = f"<{type_name_of(type(value))}, whose repr raised {type(error).__name__}>"
    return shortened(text, longest)


_LONGEST_SHORT = 80
_short = reprlib.Repr()
_short.maxstring = _short.maxother = _LONGEST_SHORT


def short_text(value: Any) -> str:
    """Some of the ``repr`` of anything, for one line: a value of any size costs little."""
    text = printable(_text(value, _short.repr, _LONGEST_TEXT))
    return text if len(text) <= _LONGEST_SHORT else f"{text[: _LONGEST_SHORT - 1]}…"


_SHOWN = (str, bytes, bool, int, float, complex, Number, Enum, type(None))
_MOST_SHOWN = 100


def value_text(value: Any) -> str:
    """What somebody gave where something else is wanted, for an error that neither grows nor gives away secrets.

    Of a text, a number or a member of an enum the beginning, masked; of a class or function its name; of anything else
    its type alone.
    """
    kind = type(value)
    if issubclass(kind, _SHOWN):
        if kind in (str, bytes) and len(value) > _MOST_SHOWN:
            return f"{text_of(value[:_MOST_SHOWN])}… (a {kind.__name__} of {len(value)})"
        return text_of(value, _MOST_SHOWN)
    if issubclass(kind, type) or inspect.isroutine(value):
        return f"the {'class' if issubclass(kind, type) else 'function'} {_dotted(value)}"
    name = _dotted(kind)
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def _dotted(named: Any) -> str:
    return type_name_of(named).replace(":", ".").removeprefix("builtins.")


class _Outline(reprlib.Repr):
    """Some of what is in a container, and of all other objects the class."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxdict, self.maxstring = 4, 6, 200

    def repr_instance(self, x: Any, level: int) -> str:
        return f"<{type_name_of(type(x))}>"


def outline_of(value: Any) -> str:
    """:func:`text_of` a value of any size: of one that is too large for a ``repr`` to end soon, only some of it."""
    return _text(value, lambda one: repr(one) if _is_small(one) else _Outline().repr(one), _LONGEST_TEXT)


_MOST_PARTS = 20_000
_CONTAINERS = (dict, list, tuple, set, frozenset)


def _is_small(value: Any) -> bool:
    """Whether it has few parts, counting one that is in many places as often as a ``repr`` would show it."""
    waiting, count = [value], 0
    while waiting and count <= _MOST_PARTS:
        one = waiting.pop()
        cls = type(one)
        # Of a subclass, what it is: its own methods may be anything.
        kind: Any = next((base for base in _CONTAINERS if issubclass(cls, base)), None)
        if kind is not None:
            if kind.__len__(one) > _MOST_PARTS:
                return False
            waiting += kind.__iter__(one)
            if kind is dict:
                waiting += dict.values(one)
        elif not issubclass(cls, type):
            with suppress(AttributeError):  # of a number or a text, say
                waiting += object.__getattribute__(one, "__dict__").values()
        count += 1
    return not waiting


def message_of(error: BaseException, longest: int = _LONGEST_MESSAGE) -> str:
    """What an exception says, whatever its ``__str__`` does."""
    if issubclass(type(error), BaseExceptionGroup):
        # Its str() counts the members, too. Whole, as the group is made from it again.
        message = masked(plain_text(_GROUP_MESSAGE.__get__(error)))
        return shortened(message, len(message))
    return _said(error, longest)


def notes_of(error: BaseException) -> list[str]:
    """What was added to an exception with ``add_note``."""
    notes = vars(BaseException)["__dict__"].__get__(error).get("__notes__")
    return [masked(plain_text(note)) for note in notes] if type(notes) in (list, tuple) else []


def error_text(error: BaseException, longest: int = _LONGEST_MESSAGE) -> str:
    """``ErrorType: message``, for people."""
    name = type_name_of(type(error)).rpartition(":")[2].rpartition(".")[2]
    return f"{name}: {_said(error, longest)}"


def _said(error: BaseException, longest: int) -> str:
    try:
        text = str(error)
    except BaseException as failed:
        raise_ctrl_c(failed)
        text = f"<str of the error raised {type(failed).__name__}>"
    return shortened(_masked(plain_text(text)), longest)


def traceback_text(error: BaseException, *, chain: bool = True) -> str:
    """The text of an exception's traceback, with those of its cause or context unless told otherwise."""
    try:
        lines = traceback.format_exception(type(error), error, error.__traceback__, chain=chain)
        text = _masked("".join(lines))
    except BaseException as failed:  # formatting asks the error for its attributes, its __str__ and its __repr__
        raise_ctrl_c(failed)
        text = f"{type_name_of(type(error))} (its traceback could not be formatted: {type(failed).__name__})\n"
    return shortened(text, LONGEST_TRACEBACK)


def seconds_text(time: timedelta) -> str:
    """For people, in the unit that fits."""
    seconds = time.total_seconds()
    if seconds >= 120:
        minutes, seconds = divmod(seconds, 60)
        return f"{minutes:,.0f} min {seconds:.0f} s" if seconds >= 0.5 else f"{minutes:,.0f} min"
    if not seconds or seconds >= 0.9995:
        return f"{seconds:.3g} s"
    return f"{seconds * 1000:.3g} ms"
