"""Objects that remember how they were made, so that they can be made again: in a file, or on another machine."""

from __future__ import annotations

import inspect
import sys
from pathlib import PurePath
from typing import Any, ClassVar, Self

from stbass._values.arguments import Arguments, made_with, rebuilt, remember
from stbass._values.masking import without_secrets

__all__ = ["Exportable", "arguments_of", "class_path", "module_of"]

_PUBLIC = ("stbass.dataflow", "stbass.dataflow.state", "stbass.dataflow.library")
"""Packages whose names are ours to give: what can be had from them goes by that shorter name."""


class Exportable:
    """Remembers the arguments that it was made with.

    They are noted when the object comes to be, before ``__init__`` of any class runs, so a subclass may have whatever
    constructor it likes. Lists, dicts and sets are noted as they are then: changing them later changes nothing here.
    """

    _exported_as: ClassVar[str | None] = None
    """The name to build it by, where that is not its class's own: ``module.name``."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        remember(self, *_copied((args, kwargs)))
        return self

    def arguments(self) -> dict[str, Any]:
        """The arguments that it was made with, by name; those that were not given are not there.

        Raises:
            TypeError: one was given without a name it could be given by (to ``*args``).
        """
        args, kwargs = arguments_of(self)
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

    def export(self) -> dict[str, Any]:
        """What it takes to make it again: ``{"type": "module.Class", "args": {…}}``.

        Arguments that can be exported themselves are in that form too; all others are as they were given, but for
        passwords, which are masked.

        Raises:
            TypeError: an argument has no name that it could be given by.
        """
        args = rebuilt(self.arguments(), lambda leaf: leaf.export() if isinstance(leaf, Exportable) else leaf)
        return {"type": class_path(type(self)), "args": without_secrets("args", args)}

    def dict(self) -> dict[str, Any]:
        """What there is to know about it, as data."""
        return self.export()


def arguments_of(made: Exportable) -> Arguments:
    """The arguments to make it with again; what is done to lists and dicts among them changes nothing here."""
    noted = made_with(made)
    assert noted is not None, "noted in __new__"
    return _copied(noted)


def class_path(cls: type) -> str:
    """The dotted name that a class can be had by: ``module.Class``.

    A class of the script that runs has the name that it can be imported by, not ``__main__``.
    """
    given: str | None = getattr(cls, "_exported_as", None)
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


def _copied(given: Arguments) -> Arguments:
    try:
        args, kwargs = rebuilt(given)
    except RecursionError:
        # Nested as deeply as that, they can be neither saved nor sent; the object can still be used.
        return given
    return args, kwargs
