"""The classes of which a worker makes components: only those in modules that it was told to include."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from stbass.dataflow.export import Exportable
from stbass.dataflow.model.function import ComponentFunction
from stbass.errors import ProcessRefused

__all__ = ["Admitted"]


class Admitted:
    """Gives the class, or the component function, of a name in a plan, where the worker may use it.

    A name is looked up among the modules that are imported already: nothing is imported because of a message.

    Args:
        allows: whether the worker was told to include ``module:name``.
        worker: who asks, for messages.
        queue: where the plan came from, for messages.
    """

    def __init__(self, allows: Callable[[str], bool], worker: str | None, queue: str | None) -> None:
        self._allows = allows
        self._worker = worker
        self._queue = queue

    def __call__(self, path: str) -> Any:
        """The class or the component function.

        Raises:
            ProcessRefused: there is none, or its module was not included.
        """
        module, names = _module_of(path)
        if module is None or not self._allows(f"{module.__name__}:{'.'.join(names)}"):
            # What is included is imported; so it makes no difference whether the module happens to be loaded.
            raise self._refused(path, "was not told to make", _home(path, module, names))
        found: Any = module
        for name in names:
            found = getattr(found, name, None)
        kind = found.kind if isinstance(found, ComponentFunction) else found
        if not isinstance(kind, type) or not issubclass(kind, Exportable):
            raise self._refused(path, "does not know", _home(path, module, names))
        home = kind.__module__
        # An included module may import others, whose classes are not meant by that.
        if not self._allows(f"{home}:{kind.__qualname__}"):
            raise self._refused(path, "was not told to make", home)
        return found

    def _refused(self, path: str, why: str, module: str) -> ProcessRefused:
        who = f"worker {self._worker!r}" if self._worker else "this worker"
        where = f" on queue {self._queue!r}" if self._queue else ""
        return ProcessRefused(
            f"{who}{where} {why} components of {path}; add their module, {module!r}, to include (STBASS_INCLUDE)",
            reference=path,
            queue=self._queue,
            worker=self._worker,
        )


def _module_of(path: str) -> tuple[ModuleType | None, list[str]]:
    """The imported module that a name begins with, and the rest of the name."""
    parts = path.split(".")
    for count in range(len(parts) - 1, 0, -1):
        module = sys.modules.get(".".join(parts[:count]))
        if isinstance(module, ModuleType):
            return module, parts[count:]
    return None, []


def _home(path: str, module: ModuleType | None, names: list[str]) -> str:
    """The module to include for a name, as far as that can be told when nothing may be imported for it."""
    if module is not None and isinstance(vars(module).get(names[0]), type):
        return module.__name__
    return path.rpartition(".")[0]
