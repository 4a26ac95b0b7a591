"""Objects that remember how they were made, so that they can be made again: in a file, or on another machine."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import PurePath
from typing import Any, ClassVar, Self

__all__ = ["Exportable", "class_path", "module_of"]

_PUBLIC = ("stbass.dataflow", "stbass.dataflow.state", "stbass.dataflow.library")
"""Packages whose names are ours to give: what can be had from them goes by that shorter name."""


class Exportable:
    """Remembers the arguments that it was made with.

    They are noted when the object comes to be, before ``__init__`` of any class runs, so a subclass may have whatever
    constructor it likes. Lists, dicts and sets are noted as they are then: changing them later changes nothing here.
    """

    _stbass_export_type: ClassVar[str | None] = None
    """The name to build it by, where that is not its class's own: ``module.name``."""

    _stbass_made_with: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        try:
            self._stbass_made_with = _as_is_now((args, kwargs), {})
        except RecursionError:
            # Nested as deeply as that, it can be neither saved nor sent; it can still be used.
            self._stbass_made_with = (args, kwargs)
        return self

    def arguments(self) -> dict[str, Any]:
        """The arguments that it was made with, by name; those that were not given are not there.

        Raises:
            TypeError: one was given without a name it could be given by (to ``*args``).
        """
        args, kwargs = self._stbass_made_again()
        signature = inspect.signature(type(self).__init__)
        bound = signature.bind(self, *args, **kwargs)
        found: dict[str, Any] = {}
        for index, (name, value) in enumerate(bound.arguments.items()):
            kind = signature.parameters[name].kind
            if index == 0:
                continue  # self
            if kind is inspect.Parameter.VAR_KEYWORD:
                found.update(value)
            elif kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY):
                raise TypeError(
                    f"{type(self).__qualname__} was made with the argument {value!r}, which has no name to give it by "
                    f"(it went to {name!r}): give arguments by name"
                )
            else:
                found[name] = value
        return found

    def _stbass_made_again(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments to make it with again; what is done to lists and dicts among them changes nothing here."""
        try:
            args, kwargs = _as_is_now(self._stbass_made_with, {})
        except RecursionError:
            return self._stbass_made_with
        return args, kwargs

    def export(self) -> dict[str, Any]:
        """What it takes to make it again: ``{"type": "module.Class", "args": {…}}``.

        Arguments that can be exported themselves are in that form too; all others are as they were given.

        Raises:
            TypeError: an argument has no name that it could be given by.
        """
        return {"type": class_path(type(self)), "args": _exported(self.arguments(), {})}

    def dict(self) -> dict[str, Any]:
        """What there is to know about it, as data."""
        return self.export()


def class_path(cls: type) -> str:
    """The dotted name that a class can be had by: ``module.Class``.

    A class of the script that runs has the name that it can be imported by, not ``__main__``.
    """
    given: str | None = getattr(cls, "_stbass_export_type", None)
    if given is not None:
        module, _, name = given.rpartition(".")
        return f"{module_of(module)}.{name}"
    for public in _PUBLIC:
        package = sys.modules.get(public)
        if cls.__module__.startswith(f"{public}.") and getattr(package, cls.__qualname__, None) is cls:
            return f"{public}.{cls.__qualname__}"
    return f"{module_of(cls.__module__)}.{cls.__qualname__}"


def module_of(name: str) -> str:
    """The name that a module can be imported by elsewhere; only that of the script that runs is another than its own.

    Where that script has none (an interactive session, a notebook) it stays ``__main__``.
    """
    if name != "__main__":
        return name
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None and isinstance(spec.name, str):
        # `python -m package` runs package.__main__, and that is what it is imported by.
        return spec.name
    file = getattr(main, "__file__", None)
    stem = PurePath(file).stem if isinstance(file, str) else ""
    return stem if stem.isidentifier() else name


def _as_is_now(value: Any, memo: dict[int, Any]) -> Any:
    """The value, with new lists, dicts, sets and tuples in the place of its own; the rest is shared."""
    return _rebuilt(value, memo, lambda leaf: leaf)


def _exported(value: Any, memo: dict[int, Any]) -> Any:
    """The value, with what can be exported in that form."""
    return _rebuilt(value, memo, lambda leaf: leaf.export() if isinstance(leaf, Exportable) else leaf)


def _rebuilt(value: Any, memo: dict[int, Any], leaf: Callable[[Any], Any]) -> Any:
    """New lists, dicts, sets and tuples of what ``leaf`` makes of all that is in them."""
    kind = type(value)
    if kind not in (list, dict, set, tuple):
        return leaf(value)
    if id(value) in memo:
        return memo[id(value)]
    if kind is tuple:
        # One that contains itself does so through a list or a dict, and those are in the memo.
        return tuple(_rebuilt(one, memo, leaf) for one in value)
    copy: Any = kind()
    memo[id(value)] = copy
    if kind is dict:
        copy.update((key, _rebuilt(one, memo, leaf)) for key, one in value.items())
    elif kind is list:
        copy.extend(_rebuilt(one, memo, leaf) for one in value)
    else:
        # What is in a set could not be exported: it has to stay what it is.
        copy.update(value)
    return copy
