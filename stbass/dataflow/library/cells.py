"""What the text in a cell of a CSV file stands for.

| kind | text |
|---|---|
| `int` | `12`, `-3` |
| `float` | `1.5`, `2e-3`, `7`, `nan`, `inf`, `-inf` |
| `bool` | `True`, `true`, `False`, `false` |
| `date`, `datetime` | ISO 8601: `2031-05-09`, `2031-05-09 08:30:00+02:00` |
| `decimal` | `12.50` |
| `str` | anything |

Where the kind of a column is guessed, a cell is a number only if nothing is lost by that: neither `01234` nor `+4930`
nor `12e4567`, nor digits that a float does not hold.

Nothing between two commas is `None`, except that it is `""` where the kind is `str`. Spaces around a value do not
count, except in a `str`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from enum import Enum
from math import isinf
from numbers import Number
from types import NoneType
from typing import Any
from uuid import UUID

from stbass._values.texts import value_text
from stbass.dataflow.library.plain import plain_value
from stbass.errors import DataflowError

__all__ = ["Types", "cell_kind", "check_types", "guess", "parser", "takes", "writable"]

Types = str | type | Mapping[str, str | type] | None
"""A kind by name or class, for all fields or by field; the rest is guessed."""

_INT = re.compile(r"[+-]?[0-9]+")
_FLOAT = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|nan|[+-]?inf")
_SURELY_INT = re.compile(r"-?(?:0|[1-9][0-9]{0,999})")
_SURELY_FLOAT = re.compile(r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|nan|-?inf")
# What str() makes of a Decimal, and no underscores.
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|-?s?NaN|[+-]?Infinity")
_DIGITS = 15
_BOOL = {"True": True, "true": True, "False": False, "false": False}


def _surely_int(text: str) -> int:
    if not _SURELY_INT.fullmatch(text):
        raise ValueError(text)
    return int(text)


def _surely_float(text: str) -> float:
    if not _SURELY_FLOAT.fullmatch(text):
        raise ValueError(text)
    value = float(text)
    # Fifteen digits always fit into a float; of more it is looked whether they do.
    if len(text) > _DIGITS or "e" in text.lower():
        exact = Decimal(text)
        if exact.is_finite() and Decimal(repr(value)) != exact:
            raise ValueError(text)
    return value


def _int(text: str) -> int:
    if not _INT.fullmatch(text):
        raise ValueError(text)
    return int(text)


def _float(text: str) -> float:
    if not _FLOAT.fullmatch(text):
        raise ValueError(text)
    value = float(text)
    if isinf(value) and "inf" not in text:
        raise ValueError(text)
    return value


def _bool(text: str) -> bool:
    try:
        return _BOOL[text]
    except KeyError:
        raise ValueError(text) from None


def _decimal(text: str) -> Decimal:
    if not _DECIMAL.fullmatch(text):
        raise ValueError(text)
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent beyond all bounds
        raise ValueError(text) from None


_PARSE: dict[str, Callable[[str], Any]] = {
    "int": _int,
    "float": _float,
    "bool": _bool,
    "date": date.fromisoformat,
    "datetime": datetime.fromisoformat,
    "decimal": _decimal,
    "str": str,
}
_PARSE_GUESSED: dict[str, Callable[[str], Any]] = {"int": _surely_int, "float": _surely_float, "bool": _bool}
_BY_CLASS: dict[type, str] = {
    int: "int",
    float: "float",
    bool: "bool",
    date: "date",
    datetime: "datetime",
    Decimal: "decimal",
    str: "str",
}


def cell_kind(given: object) -> str:
    """The name of a kind that is given by name or by class.

    Raises:
        ValueError: there is no such kind.
    """
    if isinstance(given, str) and given in _PARSE:
        return given
    if isinstance(given, type) and given in _BY_CLASS:
        return _BY_CLASS[given]
    raise ValueError(f"no kind of value {value_text(given)}; there are {', '.join(map(repr, _PARSE))}")


def check_types(types: Types, fields: Iterable[str]) -> dict[str, str]:
    """The kind of each field for which one was given.

    Raises:
        ValueError: there is no such kind, or no such field.
    """
    fields = list(fields)
    if types is None:
        return {}
    if not isinstance(types, Mapping):
        return dict.fromkeys(fields, cell_kind(types))
    unknown = [name for name in types if name not in fields]
    if unknown:
        raise ValueError(f"types= names {', '.join(map(repr, unknown))}, which is not among the fields {fields}")
    return {name: cell_kind(kind) for name, kind in types.items()}


def parser(kind: str, *, guessed: bool) -> Callable[[str], Any]:
    """A function that makes the value of a cell from its text, and raises ValueError where it cannot.

    Args:
        kind: the kind of the column.
        guessed: whether nobody said so: then it takes what :func:`guess` takes for that kind, and nothing else.
    """
    if kind == "str":
        return str
    parse = (_PARSE_GUESSED if guessed else _PARSE)[kind]

    def parse_cell(text: str) -> Any:
        text = text.strip()
        return parse(text) if text else None

    return parse_cell


def guess(texts: Sequence[str]) -> str:
    """The kind of a column, from some of its cells; ``"str"`` unless every cell is surely something else."""
    filled = [stripped for text in texts if (stripped := text.strip())]
    if not filled:
        return "str"
    return next((kind for kind, parse in _PARSE_GUESSED.items() if all(takes(parse, text) for text in filled)), "str")


def takes(parse: Callable[[str], Any], text: str) -> bool:
    """Whether a parser makes a value of this."""
    try:
        parse(text)
    except ValueError:
        return False
    return True


_PLAIN = frozenset({str, int, float, bool, type(None)})
_WRITABLE = (str, NoneType, Number, date, time, timedelta, UUID)


def writable(rows: Sequence[Sequence[Any]], columns: Sequence[str], first: int, path: str) -> list[Sequence[Any]]:
    """The rows as they can stand in a CSV file.

    Args:
        rows: the rows.
        columns: what they are called in the file.
        first: the number of the first row, from 1.
        path: the file, for the message.

    Raises:
        DataflowError: a value has no form there.
    """
    return [
        row if all(type(value) in _PLAIN for value in row) else _writable_row(row, columns, f"{path}, row {number}")
        for number, row in enumerate(rows, first)
    ]


def _writable_row(row: Sequence[Any], columns: Sequence[str], where: str) -> Sequence[Any]:
    cells = []
    for column, value in zip(columns, row, strict=True):
        try:
            plain = plain_value(value)
        except ValueError as error:
            raise DataflowError(f"{where}, column {column!r}: {error}") from None
        if not isinstance(plain, _WRITABLE) or isinstance(plain, Enum):
            raise DataflowError(
                f"{where}, column {column!r}: a {type(plain).__qualname__} has no form in a CSV file; send text, a "
                f"number, a date or None"
            )
        # Of a subclass, whose own text may be anything, what it is a subclass of.
        cells.append(next((to(plain) for base, to in _TO_BASE.items() if isinstance(plain, base)), plain))
    return cells


_TO_BASE: dict[type, Callable[[Any], Any]] = {
    bool: bool,
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
}
