"""The registry that maps placements to backends."""

from __future__ import annotations

import fnmatch
import importlib
import logging

from stbass._engine.backend import ExecutionBackend
from stbass._engine.local import LocalBackend
from stbass._values.endpoint import Placement
from stbass._values.nearest import did_you_mean
from stbass._values.texts import text_of, value_text
from stbass.errors import ConfigurationError, MissingDependencyError, UnknownEndpointError

__all__ = ["BackendRegistry", "backend_class", "checked_registry", "default_registry"]

_ENTRY_POINTS = "stbass.backends"
_WILD = "*?["
_LONGEST_ENDPOINT = 200
_MOST_NAMED = 10
_MOST_TOLD = 1000

_log = logging.getLogger(__name__)


class BackendRegistry:
    """Finds the backend for a placement.

    A placement is looked up by its endpoint, then by its model. For each, a name that was registered wins over a
    pattern, and a longer pattern over a shorter one. A placement that nothing matches runs on :attr:`default`; if
    others are registered, a warning says so of each such endpoint, once.

    Args:
        strict: an endpoint that nothing matches is an :class:`~stbass.errors.UnknownEndpointError` instead. A
            composition raises it before anything has started, for all placements in it that are known then.
    """

    def __init__(self, *, strict: bool = False) -> None:
        if not isinstance(strict, bool):
            raise TypeError(f"BackendRegistry(strict=…) takes True or False, got {value_text(strict)}")
        self._strict = strict
        self._told: set[str] = set()
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
        """The backend for a placement.

        Raises:
            UnknownEndpointError: nothing is registered for its endpoint, nor for its model, and this is strict.
        """
        for wanted in (placement.endpoint, placement.model):
            if wanted is not None:
                found = self._exact.get(wanted) or self._matching(wanted)
                if found is not None:
                    return found
        if placement.endpoint is not None:
            self._tell(placement.endpoint)
        return self._default

    def _tell(self, endpoint: str) -> None:
        """That nothing is registered for an endpoint."""
        if not self._strict and (not self._order or endpoint in self._told):
            return
        registered = ", ".join(self._order[:_MOST_NAMED]) + (", …" if len(self._order) > _MOST_NAMED else "")
        text = (
            f"no backend is registered for the endpoint {text_of(endpoint, _LONGEST_ENDPOINT)}"
            f"{did_you_mean(endpoint, self._order)}; there are: {registered or 'none'}"
        )
        if self._strict:
            raise UnknownEndpointError(
                f"{text}. Correct the placement, or register a backend for it", endpoint=endpoint
            )
        if len(self._told) < _MOST_TOLD:
            self._told.add(endpoint)
            _log.warning(
                "%s. What is placed there runs on the backend %r, here; BackendRegistry(strict=True) refuses it",
                text,
                self._default.name,
            )

    @property
    def names(self) -> list[str]:
        """The registered names and patterns, in the order registered."""
        return list(self._order)

    @property
    def default(self) -> ExecutionBackend:
        """The backend for placements that no registered name matches: a :class:`LocalBackend`."""
        return self._default

    @property
    def anywhere(self) -> ExecutionBackend:
        """The backend for what may run anywhere: that registered under ``*``, else the default."""
        return self._patterns.get("*", self._default)

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
        raise TypeError(f"a backend is registered under a str, got {value_text(name)}")
    if not name:
        raise ValueError("a backend cannot be registered under an empty name")
    if not isinstance(backend, ExecutionBackend):
        hint = "; make an instance of it" if isinstance(backend, type) else ""
        raise TypeError(f"register({name!r}, …) takes an ExecutionBackend, got {value_text(backend)}{hint}")


def checked_registry(value: object) -> BackendRegistry | None:
    """``value``, if it can be the registry of a composition.

    Raises:
        TypeError: it is neither a BackendRegistry nor None.
    """
    if value is None or isinstance(value, BackendRegistry):
        return value
    raise TypeError(f"registry must be a BackendRegistry or None, got {value_text(value)}")


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
            f"the {kind!r} backend needs a package that is not installed ({error}); pip install 'stbass-celery[{kind}]'"
        ) from error
    if not (isinstance(found, type) and issubclass(found, ExecutionBackend)):
        raise ConfigurationError(
            f"entry point {kind!r} of {_ENTRY_POINTS} is {value_text(found)}, not an ExecutionBackend class"
        )
    return found
