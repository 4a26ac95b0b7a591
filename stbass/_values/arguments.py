"""The arguments that an object was made with, so that it can be made again: from a file, or on another machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

__all__ = ["MADE_WITH", "Arguments", "made_with", "rebuilt", "remember"]

Arguments = tuple[Sequence[Any], Mapping[str, Any]]
"""Those by position, and those by name."""

MADE_WITH: Final = "_made_with"
"""The attribute that holds them. Only this module uses it; it is part of what is copied with an object."""


def remember(made: object, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Note what ``made`` was made with. Call it in ``__new__``, so that a subclass may have any constructor."""
    # Not through its __dict__: an object whose __dict__ was never asked for is smaller, and faster to read.
    object.__setattr__(made, MADE_WITH, (args, kwargs))


def made_with(made: object) -> Arguments | None:
    """What was noted, as it was given; None if nothing was."""
    found: Arguments | None = made.__dict__.get(MADE_WITH)
    return found


def rebuilt(value: Any, leaf: Callable[[Any], Any] = lambda one: one, memo: dict[int, Any] | None = None) -> Any:
    """New lists, dicts, sets and tuples of what ``leaf`` makes of all that is in them; they may contain themselves."""
    kind = type(value)
    if kind not in (list, dict, set, tuple):
        return leaf(value)
    memo = {} if memo is None else memo
    if id(value) in memo:
        return memo[id(value)]
    if kind is tuple:
        # One that contains itself does so through a list or a dict, and those are in the memo.
        return tuple(rebuilt(one, leaf, memo) for one in value)
    copy: Any = kind()
    memo[id(value)] = copy
    if kind is dict:
        copy.update((key, rebuilt(one, leaf, memo)) for key, one in value.items())
    elif kind is list:
        copy.extend(rebuilt(one, leaf, memo) for one in value)
    else:
        # What is in a set could not be exported: it has to stay what it is.
        copy.update(value)
    return copy
