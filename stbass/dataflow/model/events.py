"""Events: what components tell one another beside the values on their fields."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, ClassVar, Final, TypeVar, get_type_hints, overload

from stbass._channels.typespec import ChannelType
from stbass._values.ids import new_id
from stbass._values.texts import value_text

__all__ = ["HANDLES", "Event", "Handled", "StopEvent"]

F = TypeVar("F", bound=Callable[..., Any])

HANDLES: Final = "_stbass_handles"
"""The attribute by which a method says which event it handles."""

_NOT_FIRST = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Handled:
    """What a handler is for.

    Args:
        event: the class of events.
        populates_fields: the input fields that it sets, which then hold a new value.
    """

    event: type[Event]
    populates_fields: tuple[str, ...] = ()


@dataclass(frozen=True)
class Event:
    """Something that happened, told to every component that names its class in ``input_events``.

    Subclass it for each kind of event; an annotation of ``data`` in the subclass is checked::

        class Overheated(Event):
            data: float

    Args:
        source: the name of the component that tells it.
        data: what there is to say about it.

    Raises:
        ChannelTypeError: ``data`` does not fit its annotation.
        TypeError: ``source`` is no text, or the annotation of ``data`` cannot be looked up.
    """

    type: ClassVar[str] = "event"
    """What the class is called where it has to be text: its name in lower case, ``overheated`` for ``Overheated``."""

    source: str
    data: Any = None
    id: str = field(default_factory=new_id)
    """An id of its own."""
    timestamp: datetime = field(default_factory=_now)
    """When it was made, in UTC."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "type" not in cls.__dict__:
            cls.type = _NOT_FIRST.sub("_", cls.__name__).lower()

    def __post_init__(self) -> None:
        if not isinstance(self.source, str):
            raise TypeError(
                f"{type(self).__name__}(source=…) takes the name of a component, got {value_text(self.source)}"
            )
        cls: Any = type(self)
        checker = _data_type(cls)
        if checker is not None:
            object.__setattr__(self, "data", checker.fit(self.data))

    @overload
    @classmethod
    def handler(cls, method: F, /) -> F: ...

    @overload
    @classmethod
    def handler(cls, method: None = None, /, *, populates_fields: Iterable[str] | None = None) -> Callable[[F], F]: ...

    @classmethod
    def handler(cls, method: Any = None, /, *, populates_fields: Iterable[str] | None = None) -> Any:
        """Make a method of a component the one that is called with events of this class.

        The class has to stand in the component's ``input_events`` too. The method may be async, and may set outputs,
        which are sent when it returns.

        Args:
            populates_fields: input fields that the method sets: they then hold a new value, as if it had been sent.

        Raises:
            TypeError: it is used on something that is not a function, or fields are not given as names.
        """
        if isinstance(populates_fields, str):
            raise TypeError(f"populates_fields takes a list of names, got {value_text(populates_fields)}")
        handled = Handled(cls, tuple(populates_fields or ()))

        def mark(function: Any) -> Any:
            if not inspect.isfunction(function):
                raise TypeError(f"@{cls.__name__}.handler goes on a method, not on {value_text(function)}")
            setattr(function, HANDLES, (*getattr(function, HANDLES, ()), handled))
            return function

        return mark if method is None else mark(method)

    def dict(self) -> dict[str, Any]:
        """Its parts, by name, and its type."""
        return {"type": self.type} | {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}


class StopEvent(Event):
    """Stops the run of the whole process: every component ends after the step that it is in."""


@lru_cache(maxsize=1024)
def _data_type(cls: Any) -> ChannelType | None:
    """What ``data`` has to be, if a subclass says so."""
    for base in cls.__mro__:
        if base is Event:
            return None
        if "data" in inspect.get_annotations(base):
            try:
                return ChannelType(get_type_hints(base)["data"], f"{cls.__name__}.data")
            except NameError as error:
                raise TypeError(
                    f"the annotation of {base.__qualname__}.data cannot be looked up: {error}; it has to be a name of "
                    f"its module"
                ) from None
    return None
