"""Finding the class that a model file names."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

from stbass._values.nearest import did_you_mean
from stbass.dataflow.export import module_of
from stbass.errors import DataflowError, MissingDependencyError

__all__ = ["NotThere", "find", "is_ours"]

_OTHER_TOOL = "plugboard"
_OURS = {
    name: f"stbass.dataflow.{name}"
    for name in (
        "AsyncioConnector",
        "DictStateBackend",
        "LocalProcess",
        "PostgresStateBackend",
        "RayConnector",
        "RayProcess",
        "RedisConnector",
        "SqliteStateBackend",
    )
} | {
    name: f"stbass.dataflow.library.{name}"
    for name in ("DataReader", "DataWriter", "FileReader", "FileWriter", "SQLReader", "SQLWriter")
}
# Its actor holds a state for processes on Ray; ours is held by whoever runs the process, wherever its components are.
_OURS["RayStateBackend"] = _OURS["DictStateBackend"]
_INSTEAD = {
    "ZMQConnector": "on one machine use stbass.dataflow.AsyncioConnector, else RayConnector or RedisConnector",
    "RabbitMQConnector": "use stbass.dataflow.RedisConnector",
}


class NotThere(DataflowError, LookupError):
    """The name leads to nothing that can be imported."""


def find(path: str) -> Any:
    """Import the module, and give what ``module.Class`` names. Names of the other tool mean ours.

    Raises:
        NotThere: there is no such module or no such name in it, or importing it failed; says which.
        MissingDependencyError: it needs a package that is not installed; says which.
    """
    parts = _parts(path)
    if parts[0] == _OTHER_TOOL:
        return _counterpart(path, parts[-1])
    module, rest = _module(parts)
    found: Any = module
    for index, part in enumerate(rest):
        try:
            found = getattr(found, part)
        except MissingDependencyError:
            raise
        except AttributeError:
            names = [name for name in dir(found) if not name.startswith("_")]
            holder = ".".join([module.__name__, *rest[:index]])
            raise NotThere(f"there is no {part!r} in {holder}{did_you_mean(part, names)}") from None
    return found


def is_ours(path: str) -> bool:
    """Whether ``module.Class`` names something of stbass, so that looking for it runs nothing that others have written.

    Raises:
        NotThere: it is not of this form.
    """
    return _parts(path)[0] in (__name__.partition(".")[0], _OTHER_TOOL)


def _parts(path: str) -> list[str]:
    parts = path.split(".")
    # A module may be called 004_first; a class may not.
    if len(parts) < 2 or not all(f"_{part}".isidentifier() for part in parts) or not parts[-1].isidentifier():
        raise NotThere(f"{path!r} is not of the form 'module.Class'")
    return parts


def _counterpart(path: str, name: str) -> Any:
    if name in _OURS:
        return find(_OURS[name])
    instead = _INSTEAD.get(name, f"there is nothing that corresponds to it{did_you_mean(name, _OURS)}")
    raise NotThere(f"{path} is the other tool's, and has no counterpart here: {instead}")


def _module(parts: list[str]) -> tuple[ModuleType, list[str]]:
    """The module that the name begins with, and the rest of the name."""
    missing = ""
    for count in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:count])
        main = sys.modules.get("__main__")
        if main is not None and name in ("__main__", module_of("__main__")):
            # Imported by its name it would be there twice, and its classes would be others.
            return main, parts[count:]
        try:
            return importlib.import_module(name), parts[count:]
        except MissingDependencyError:
            raise
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise NotThere(f"importing {name} failed: {error}") from error
            missing = error.name
        except (Exception, SystemExit) as error:
            # Importing runs the module, and that may raise anything; a script that exits is no module.
            raise NotThere(f"importing {name} failed: {type(error).__name__}: {error}") from error
    raise NotThere(f"there is no module {missing!r}")
