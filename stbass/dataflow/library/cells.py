"""What the text in a cell of a CSV file stands for.

| kind | text |
|---|---|
| `int` | `12`, `-3` |
| `float` | `1.5`, `2e-3`, `7`, `nan`, `inf`, `-inf` |
| `bool` | `True`, `true`, `False`, `false` |
| `date`, `datetime` | ISO 8601: `2031-05-09`, `2031-05-09 08:30:00+02:00` |
| `decimal` | `12.50` |
| `str` | anything |

Nothing between two commas is `None`, except that it is `""` where the kind is `str`. Spaces around a value do not
count, except in a `str`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from enum import Enum
from numbers import Number
from typing import Any
from uuid import UUID

from stbass.errors import DataflowError

__all__ = ["Types", "cell_kind", "check_types", "guess", "parser", "unwritable"]

Types = str | type | Mapping[str, str | type] | None
"""A kind by name or class, for all fields or by field; the rest is guessed."""

_INT = re.compile(r"[+-]?[0-9]+")
_FLOAT = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|nan|[+-]?inf")
# A cell is taken for a number only if nothing is lost by that: codes such as 01234 and +4930 stay text.
_SURELY_INT = re.compile(r"-?(?:0|[1-9][0-9]*)")
_SURELY_FLOAT = re.compile(r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|nan|-?inf")
_BOOL = {"True": True, "true": True, "False": False, "false": False}


def _int(text: str) -> int:
    if not _INT.fullmatch(text):
        raise ValueError(text)
    return int(text)


def _float(text: str) -> float:
    if not _FLOAT.fullmatch(text):
        raise ValueError(text)
    return float(text)


def _bool(text: str) -> bool:
    try:
        return _BOOL[text]
    except KeyError:
        raise ValueError(text) from None


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
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
    raise ValueError(f"no kind of value {given!r}; there are {', '.join(map(repr, _PARSE))}")


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


def parser(kind: str) -> Callable[[str], Any]:
    """A function that makes the value of a cell from its text, and raises ValueError where it cannot."""
    if kind == "str":
        return str
    parse = _PARSE[kind]

    def parse_cell(text: str) -> Any:
        text = text.strip()
        return parse(text) if text else None

    return parse_cell


def guess(texts: Sequence[str]) -> str:
    """The kind of a column, from some of its cells; ``"str"`` unless every cell is surely something else."""
    filled = [stripped for text in texts if (stripped := text.strip())]
    if not filled:
        return "str"
    if all(map(_SURELY_INT.fullmatch, filled)):
        return "int"
    if all(map(_SURELY_FLOAT.fullmatch, filled)):
        return "float"
    if all(text in _BOOL for text in filled):
        return "bool"
    return "str"


_PLAIN = frozenset({str, int, float, bool, type(None)})
_WRITABLE = (str, Number, date, time, timedelta, UUID)


def unwritable(rows: Sequence[Sequence[Any]], columns: Sequence[str], first: int, path: str) -> DataflowError | None:
    """The error for the first value that cannot stand in a CSV file; None if all can.

    Args:
        rows: the rows.
        columns: what they are called in the file.
        first: the number of the first row, from 1.
        path: the file, for the message.
    """
    for number, row in enumerate(rows, first):
        for column, value in zip(columns, row, strict=True):
            if type(value) in _PLAIN:
                continue
            if not isinstance(value, _WRITABLE) or isinstance(value, Enum):
                return DataflowError(
                    f"{path}, row {number}, column {column!r}: a {type(value).__qualname__} has no form in a CSV file; "
                    "send text, a number, a date or None"
                )
    return None
