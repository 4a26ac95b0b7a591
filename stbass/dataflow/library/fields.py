"""The fields of readers and writers, and the columns of the file or table that they belong to."""

from __future__ import annotations

import keyword
from collections.abc import Iterable, Mapping

from stbass._values.checks import is_whole
from stbass._values.texts import value_text
from stbass.dataflow.model.components import OutputField, is_framework_name

__all__ = ["FieldNames", "check_chunk_size", "columns_of"]

FieldNames = Iterable[str] | Mapping[str, str]
"""Names of fields that are those of the columns too, or a mapping of fields to columns."""


def columns_of(kind: type, given: FieldNames) -> dict[str, str]:
    """The column of each field.

    Args:
        kind: the class of the component; none of its own attributes can be a field.
        given: the argument ``field_names``.

    Raises:
        TypeError: it is neither a list of names nor a mapping.
        ValueError: there are none; or one twice; or one that cannot be the name of an attribute.
    """
    what = f"{kind.__name__}(field_names=…)"
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"{what} takes a list of names or a mapping of fields to columns, got {value_text(given)}")
    pairs = list(given.items()) if isinstance(given, Mapping) else [(name, name) for name in given]
    for field, column in pairs:
        if not (isinstance(field, str) and isinstance(column, str)):
            raise TypeError(
                f"{what}: names are text, got {value_text(field if not isinstance(field, str) else column)}"
            )
        taken = getattr(kind, field, None)
        mine = taken is not None and not isinstance(taken, OutputField)
        if not field.isidentifier() or keyword.iskeyword(field) or is_framework_name(field) or mine:
            raise ValueError(
                f"{what}: a field cannot be called {field!r}; give it another name and say which column it is: "
                f"field_names={{'my_{field if field.isidentifier() else 'field'}': {column!r}}}"
            )
    for names in zip(*pairs, strict=True):
        double = next((name for name in names if names.count(name) > 1), None)
        if double is not None:
            raise ValueError(f"{what}: {double!r} is there twice")
    if not pairs:
        raise ValueError(f"{what} is empty")
    return dict(pairs)


def check_chunk_size(kind: type, given: int | None, default: int) -> int:
    """How many rows a chunk has.

    Raises:
        TypeError: it is not a whole number.
        ValueError: it is less than 1.
    """
    if given is None:
        return default
    if not is_whole(given):
        raise TypeError(f"{kind.__name__}(chunk_size=…) takes a whole number or None, got {value_text(given)}")
    if given < 1:
        raise ValueError(f"{kind.__name__}(chunk_size={given}): at least 1")
    return given
