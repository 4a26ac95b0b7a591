"""Texts of values and errors that are not ours: made whatever their classes do, and always fit to be written.

``repr``, ``str`` and even the attributes of an exception are somebody else's code, and may raise anything. A text may
hold lone surrogates (half of an emoji that a model cut off, a file name that is not UTF-8), which UTF-8 cannot write.
"""

from __future__ import annotations

import traceback
from typing import Any

__all__ = [
    "LONGEST_TRACEBACK",
    "error_text",
    "message_of",
    "plain_text",
    "shortened",
    "text_of",
    "traceback_text",
    "type_name_of",
]

_LONGEST_TEXT = 2_000
_LONGEST_MESSAGE = 10_000
LONGEST_TRACEBACK = 50_000
_LONGEST_NAME = 500

_GROUP_MESSAGE: Any = vars(BaseExceptionGroup)["message"]


def shortened(text: str, longest: int) -> str:
    """``text``, or its beginning and its end if it is longer than ``longest``; always encodable as UTF-8."""
    text = plain_text(text)
    if len(text) > longest:
        half = longest // 2
        text = f"{text[:half]} … {len(text) - 2 * half} characters left out … {text[-half:]}"
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def plain_text(value: Any) -> str:
    """A real ``str``: of a subclass, whose methods may be anything, its characters; of anything else its ``repr``."""
    if type(value) is str:
        return value
    return str.__str__(value) if issubclass(type(value), str) else text_of(value)


def type_name_of(cls: type[Any]) -> str:
    """``module:qualname`` of a class."""
    try:
        name = f"{cls.__module__}:{cls.__qualname__}"
    except KeyboardInterrupt:
        raise
    except BaseException:  # of a metaclass that answers for them
        name = f"?:{type.__dict__['__qualname__'].__get__(cls)}"
    return name if name.isascii() and len(name) <= _LONGEST_NAME else shortened(name, _LONGEST_NAME)


def text_of(value: Any, longest: int = _LONGEST_TEXT) -> str:
    """The ``repr`` of anything, cut to ``longest`` characters; says so if the value's ``repr`` itself fails."""
    try:
        text = repr(value)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        text = f"<{type_name_of(type(value))}, whose repr raised {type(error).__name__}>"
    return shortened(text, longest)


def message_of(error: BaseException, longest: int = _LONGEST_MESSAGE) -> str:
    """What an exception says, whatever its ``__str__`` does."""
    if issubclass(type(error), BaseExceptionGroup):
        # Its str() counts the members, too. Whole, as the group is made from it again.
        message = _GROUP_MESSAGE.__get__(error)
        return shortened(message, len(message))
    return _said(error, longest)


def error_text(error: BaseException, longest: int = _LONGEST_MESSAGE) -> str:
    """``ErrorType: message``, for people."""
    name = type_name_of(type(error)).rpartition(":")[2].rpartition(".")[2]
    return f"{name}: {_said(error, longest)}"


def _said(error: BaseException, longest: int) -> str:
    try:
        text = str(error)
    except KeyboardInterrupt:
        raise
    except BaseException as failed:
        text = f"<str of the error raised {type(failed).__name__}>"
    return shortened(text, longest)


def traceback_text(error: BaseException, *, chain: bool = True) -> str:
    """The text of an exception's traceback, with those of its cause or context unless told otherwise."""
    try:
        lines = traceback.format_exception(type(error), error, error.__traceback__, chain=chain)
        text = "".join(lines)
    except KeyboardInterrupt:
        raise
    except BaseException as failed:  # formatting asks the error for its attributes, its __str__ and its __repr__
        text = f"{type_name_of(type(error))} (its traceback could not be formatted: {type(failed).__name__})\n"
    return shortened(text, LONGEST_TRACEBACK)
