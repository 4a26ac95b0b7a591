"""Packages whose names are loaded when they are first used."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["lazy"]


def lazy(
    package: str, known: dict[str, Any], homes: Mapping[str, str | Callable[[], Any]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package.

    Args:
        package: its name.
        known: its globals; what was loaded is kept there.
        homes: of each name, the module below the package that has it, or a function that gives what it stands for.
    """

    def __getattr__(name: str) -> Any:
        home = homes.get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found = home() if callable(home) else getattr(importlib.import_module(f"{package}.{home}"), name)
        known[name] = found
        return found

    def __dir__() -> list[str]:
        return sorted({*known, *homes})

    return __getattr__, __dir__
