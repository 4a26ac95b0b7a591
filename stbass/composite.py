"""What every composition has in common: it can stand where a process can, and travels as the tree of its parts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from stbass.errors import NotTransportable
from stbass.process import Composable

__all__ = ["Composition", "composition_kinds", "kind_of"]

composition_kinds: dict[str, type[Composition]] = {}
"""Every kind of composition whose module is imported, by the name under which it travels."""


class Composition(Composable):
    """A composable that is put together from others and from values, not from a function or a class of the user.

    It travels as ``kind`` (see :func:`kind_of`) and :meth:`_parts`, and is made again by :meth:`_from_parts`; what any
    composable has (name, optional mark, bound channels, placement) is not among the parts.
    A kind of ours names itself: ``class PAR(Composition, kind="PAR")``.
    """

    _kind: ClassVar[str] = ""

    def __init_subclass__(cls, *, kind: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if kind is not None:
            cls._kind = kind
            composition_kinds[kind] = cls

    @abstractmethod
    def _parts(self) -> dict[str, Any]:
        """What it is put together from: composables, at any depth of lists, tuples and dicts, and plain values.

        Raises:
            NotTransportable: it cannot be taken apart before it runs.
        """

    @classmethod
    @abstractmethod
    def _from_parts(cls, parts: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`_parts`."""


def kind_of(composition: Composition) -> str:
    """The name of its kind, as in :data:`composition_kinds`.

    Raises:
        NotTransportable: its class is the user's own, which a worker would not know.
    """
    kind = composition._kind
    if composition_kinds.get(kind) is not type(composition):
        cls = type(composition)
        raise NotTransportable(
            f"{cls.__module__}:{cls.__qualname__} cannot travel: it is a subclass of a composition;"
            f" use {kind or 'a composition of stbass'} itself, or make it a subclass of Process"
        )
    return kind
