"""What every composition has in common: it can stand where a process can, and travels as the tree of its parts."""

from __future__ import annotations

import asyncio
import math
from abc import abstractmethod
from collections.abc import Coroutine, Iterable, Mapping
from numbers import Real
from typing import Any, ClassVar, Self, TypeVar

from stbass.errors import NotTransportable
from stbass.policy import FailurePolicy, OnFailure, RetryPolicy
from stbass.process import Composable

__all__ = [
    "Composition",
    "checked_composable",
    "checked_composables",
    "checked_count",
    "checked_deadline",
    "checked_policy",
    "composition_kinds",
    "kind_of",
    "run_to_end",
]

R = TypeVar("R")

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

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        # There is nothing to give back: `run` leaves nothing behind. The form is for programs that read better with it.
        return None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


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


def run_to_end(composition: Composition, coroutine: Coroutine[Any, Any, R]) -> R:
    """Run a composition's coroutine on an event loop of its own.

    Raises:
        RuntimeError: there is an event loop in this thread already.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    coroutine.close()
    what = type(composition).__name__
    raise RuntimeError(
        f"{what}.run_sync() was called in a running event loop, which it would block: use `await {what}(...).run(...)`"
    )


def checked_composable(value: object, where: str) -> Composable:
    """``value``, if it can stand in a composition.

    Raises:
        TypeError: it cannot; says where it was given, and what to do.
    """
    if isinstance(value, Composable):
        return value
    if isinstance(value, type) and issubclass(value, Composable):
        hint = f": that is a class; make an instance, {value.__name__}(...)"
    elif isinstance(value, tuple):
        hint = ": pairs of a process and a placement are for PLACED_PAR"
    elif callable(value):
        hint = ": decorate the function with @Process"
    else:
        hint = ""
    raise TypeError(f"{where} must be a process or a composition, got {value!r}{hint}")


def checked_composables(values: Iterable[object], what: str) -> tuple[Composable, ...]:
    """``values``, if each can stand in a composition.

    Raises:
        TypeError: one cannot; says which.
    """
    return tuple(
        [
            value if isinstance(value, Composable) else checked_composable(value, f"argument {index} of {what}")
            for index, value in enumerate(values)
        ]
    )


def checked_policy(value: object) -> OnFailure:
    """``value``, if it can be an ``on_failure``.

    Raises:
        TypeError: it cannot.
    """
    if isinstance(value, (FailurePolicy, RetryPolicy)):
        return value
    raise TypeError(f"on_failure must be FailurePolicy.HALT, FailurePolicy.COLLECT or a RetryPolicy, got {value!r}")


def checked_deadline(value: object) -> float | None:
    """``value`` as seconds.

    Raises:
        TypeError: it is not a number.
        ValueError: it is not finite, or not above 0.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"deadline must be a number of seconds or None, got {value!r}")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds) or seconds <= 0:
        raise ValueError(f"deadline must be a finite number of seconds above 0, or None for no deadline, got {value!r}")
    return seconds


def checked_count(value: object, what: str, least: int) -> int:
    """``value``, if it is a whole number of at least ``least``.

    Raises:
        TypeError: it is not a whole number.
        ValueError: it is less.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} must be a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{what} must be at least {least}, got {value!r}")
    return value
