"""The registry that maps placements to backends."""

from __future__ import annotations

import fnmatch
import importlib

from stbass._engine.backend import ExecutionBackend
from stbass._engine.local import LocalBackend
from stbass._values.endpoint import Placement
from stbass.errors import ConfigurationError, MissingDependencyError

__all__ = ["BackendRegistry", "backend_class", "checked_registry", "default_registry"]

_ENTRY_POINTS = "stbass.backends"
_WILD = "*?["


class BackendRegistry:
    """Finds the backend for a placement.

    A placement is looked up by its endpoint, then by its model. For each, a name that was registered wins over a
    pattern, and a longer pattern over a shorter one. A placement that nothing matches runs on :attr:`default`.
    """

    def __init__(self) -> None:
        self._exact: dict[str, ExecutionBackend] = {}
        self._patterns: dict[str, ExecutionBackend] = {}
        self._order: list[str] = []
        self._default = LocalBackend()

    def register(self, name: str, backend: ExecutionBackend) -> None:
        """Register a backend for an endpoint or a model. It replaces one registered under the same name.

        Args:
            name: the endpoint or the model, or a pattern with ``*``, ``?`` or ``[...]``, such as ``local:*``.
            backend: where such processes run.

        Raises:
            TypeError: the name is not a string, or the backend not an :class:`ExecutionBackend`.
            ValueError: the name is empty.
        """
        _check(name, backend)
        self._table(name)[name] = backend
        if name not in self._order:
            self._order.append(name)

    def unregister(self, name: str) -> None:
        """Remove the backend registered under ``name``. Processes that already run there go on.

        Raises:
            KeyError: nothing is registered under that name; the message names what is.
        """
        if name not in self._order:
            raise KeyError(f"no backend is registered under {name!r}; there are: {', '.join(self._order) or 'none'}")
        del self._table(name)[name]
        self._order.remove(name)

    def get(self, placement: Placement) -> ExecutionBackend:
        """The backend for a placement."""
        for wanted in (placement.endpoint, placement.model):
            if wanted is not None:
                found = self._exact.get(wanted) or self._matching(wanted)
                if found is not None:
                    return found
        return self._default

    @property
    def names(self) -> list[str]:
        """The registered names and patterns, in the order registered."""
        return list(self._order)

    @property
    def default(self) -> ExecutionBackend:
        """The backend for placements that no registered name matches: a :class:`LocalBackend`."""
        return self._default

    @property
    def backends(self) -> list[ExecutionBackend]:
        """Every registered backend once, in the order registered."""
        found = {id(backend): backend for backend in (self._table(name)[name] for name in self._order)}
        return list(found.values())

    def _table(self, name: str) -> dict[str, ExecutionBackend]:
        return self._patterns if any(sign in name for sign in _WILD) else self._exact

    def _matching(self, wanted: str) -> ExecutionBackend | None:
        matches = [pattern for pattern in self._patterns if fnmatch.fnmatchcase(wanted, pattern)]
        return self._patterns[max(matches, key=len)] if matches else None

    def __repr__(self) -> str:
        entries = ", ".join(f"{name}: {self._table(name)[name].name}" for name in self._order)
        return f"<BackendRegistry {entries or 'empty'}>"


def _check(name: object, backend: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"a backend is registered under a str, got {name!r}")
    if not name:
        raise ValueError("a backend cannot be registered under an empty name")
    if not isinstance(backend, ExecutionBackend):
        hint = "; make an instance of it" if isinstance(backend, type) else ""
        raise TypeError(f"register({name!r}, …) takes an ExecutionBackend, got {backend!r}{hint}")


def checked_registry(value: object) -> BackendRegistry | None:
    """``value``, if it can be the registry of a composition.

    Raises:
        TypeError: it is neither a BackendRegistry nor None.
    """
    if value is None or isinstance(value, BackendRegistry):
        return value
    raise TypeError(f"registry must be a BackendRegistry or None, got {value!r}")


_default_registry = BackendRegistry()


def default_registry() -> BackendRegistry:
    """The registry of a composition that was given none and is not inside a composition that has one."""
    return _default_registry


def backend_class(kind: str) -> type[ExecutionBackend]:
    """The class of a kind of backend, ours or of any installed package (entry-point group ``stbass.backends``).

    Args:
        kind: the entry point's name, such as ``threads`` or ``celery``.

    Raises:
        ConfigurationError: no installed package brings that kind; the message names those there are.
        MissingDependencyError: it is known, but what it needs is not installed.
    """
    # Imported here, because it costs a fifth of importing all of stbass, and programs rarely ask.
    metadata = importlib.import_module("importlib.metadata")
    known = {entry.name: entry for entry in metadata.entry_points(group=_ENTRY_POINTS)}
    if kind not in known:
        raise ConfigurationError(f"unknown kind of backend {kind!r}; there are: {', '.join(sorted(known)) or 'none'}")
    try:
        found = known[kind].load()
    except ImportError as error:
        raise MissingDependencyError(
            f"the {kind!r} backend needs a package that is not installed ({error}); pip install 'stbass[{kind}]'"
        ) from error
    if not (isinstance(found, type) and issubclass(found, ExecutionBackend)):
        raise ConfigurationError(f"entry point {kind!r} of {_ENTRY_POINTS} is {found!r}, not an ExecutionBackend class")
    return found
