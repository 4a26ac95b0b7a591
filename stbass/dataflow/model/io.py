"""What goes into a component and comes out of it: its fields and its events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from stbass.dataflow.model.events import Event
from stbass.errors import DataflowError, IOClosedError

if TYPE_CHECKING:
    from stbass.dataflow.model.components import Component

__all__ = ["IOController", "OutputField"]

Fields = Iterable[str] | Mapping[str, Any]


class IOController:
    """The fields and events of a component: declared on its class, in use on its instances.

    On a class, ``io = IOController(inputs=["x"], outputs=["y"])`` says what there is; it merges with what the parent
    classes say. On an instance, ``self.io`` is the component's own: :meth:`close`, :meth:`queue_event`. An instance
    whose fields depend on how it is made assigns one in its ``__init__``: ``self.io = IOController(outputs=names)``.

    Args:
        inputs: names of fields, or a mapping of names to types. A field without a type here may have one by an
            annotation on the class; without either it takes anything.
        outputs: the same for outputs.
        initial_values: values that an input holds before any is sent to it, by name, first to last.
        input_events: classes of events that the component handles.
        output_events: classes of events that it may send.

    Raises:
        TypeError: names are not text, or an event is no class of events.
    """

    def __init__(
        self,
        inputs: Fields | None = None,
        outputs: Fields | None = None,
        initial_values: Mapping[str, Iterable[Any]] | None = None,
        input_events: Iterable[type[Event]] | None = None,
        output_events: Iterable[type[Event]] | None = None,
    ) -> None:
        self.types: dict[str, Any] = {}
        """What a field carries, by name: only those that were given a type here."""
        self.inputs = self._names("inputs", inputs)
        """Names of the inputs, in order."""
        self.outputs = self._names("outputs", outputs)
        """Names of the outputs, in order."""
        self.initial_values = checked_initial_values("IOController(initial_values=…)", initial_values)
        """Values that inputs hold before any is sent to them."""
        self.input_events = _events("input_events", input_events)
        """Classes of events that the component handles."""
        self.output_events = _events("output_events", output_events)
        """Classes of events that it may send."""
        self._component: Component | None = None

    def _names(self, what: str, given: Fields | None) -> list[str]:
        if given is None:
            return []
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise TypeError(f"IOController({what}=…) takes a list of names or a mapping of names to types: {given!r}")
        if isinstance(given, Mapping):
            self.types.update(given)
        names = list(given)
        for name in names:
            if not isinstance(name, str):
                raise TypeError(f"IOController({what}=…): a name is text, got {name!r}")
        return names

    # On a class: a declaration ------------------------------------------------------------------

    def merged(self, more: IOController) -> IOController:
        """This and more: fields and events of both, each once; where both say something of a field, ``more`` counts."""
        made = IOController()
        made.types = {**self.types, **more.types}
        made.inputs = _joined(self.inputs, more.inputs)
        made.outputs = _joined(self.outputs, more.outputs)
        made.initial_values = {**self.initial_values, **more.initial_values}
        made.input_events = _joined(self.input_events, more.input_events)
        made.output_events = _joined(self.output_events, more.output_events)
        return made

    def __get__(self, instance: Component | None, owner: type | None = None) -> IOController:
        return self if instance is None else instance._stbass_io

    def __set__(self, instance: Component, value: IOController) -> None:
        if not isinstance(value, IOController):
            raise TypeError(f"{type(instance).__name__}.io takes an IOController, got {value!r}")
        instance._stbass_take_io(value)

    # On an instance: in use ---------------------------------------------------------------------

    @property
    def is_closed(self) -> bool:
        """Whether the component has said that no more comes from it, or it has ended."""
        return self._owner("is_closed")._stbass_closing

    async def close(self) -> None:
        """Say that no more comes: what was set in this step is still sent, then the component ends. Again does nothing.

        Raises:
            DataflowError: this is the declaration of a class, not the ``io`` of a component.
        """
        self._owner("close")._stbass_close()

    def queue_event(self, event: Event) -> None:
        """Send an event, after this step and after the outputs that were set in it.

        Raises:
            IOClosedError: the component has closed.
            TypeError: it is no event, or of a class that is not among ``output_events``.
        """
        owner = self._owner("queue_event")
        if not isinstance(event, Event):
            raise TypeError(f"component {owner.name!r}: queue_event takes an event, got {event!r}")
        if owner._stbass_closing:
            raise IOClosedError(
                f"component {owner.name!r} has closed; it cannot send {type(event).__name__}. "
                f"Queue events before `await self.io.close()`"
            )
        if not owner._stbass_may_send(type(event)):
            raise TypeError(
                f"component {owner.name!r} cannot send {type(event).__name__}: "
                f"put it into IOController(output_events=[…])"
            )
        owner._stbass_events.append(event)
        if owner._stbass_runner is not None:
            owner._stbass_runner.poke()

    def _owner(self, what: str) -> Component:
        if self._component is None:
            raise DataflowError(f"IOController.{what} is of a component's own io, self.io, not of that of its class")
        return self._component

    def dict(self) -> dict[str, Any]:
        """The names of its fields and events."""
        return {
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
            "input_events": [event.type for event in self.input_events],
            "output_events": [event.type for event in self.output_events],
        }

    def __repr__(self) -> str:
        parts = ", ".join(f"{name}={value!r}" for name, value in self.dict().items() if value)
        return f"IOController({parts})"


class OutputField:
    """An output of a component: setting it means that it is sent after this step; reading gives what was set last."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, instance: Component | None, owner: type | None = None) -> Any:
        if instance is None:
            return self
        name = self.name
        if name in instance._stbass_out:
            return instance._stbass_out[name]
        return instance._stbass_last.get(name)

    def __set__(self, instance: Component, value: Any) -> None:
        instance._stbass_out[self.name] = value


class OwnOutputField(OutputField):
    """The same where only some instances of the class have such an output; for others it is an attribute like any."""

    __slots__ = ()

    def __get__(self, instance: Component | None, owner: type | None = None) -> Any:
        if instance is None or self.name in instance._stbass_io.outputs:
            return super().__get__(instance, owner)
        try:
            return instance.__dict__[self.name]
        except KeyError:
            text = f"{type(instance).__name__!r} object has no attribute {self.name!r}"
            raise AttributeError(text) from None

    def __set__(self, instance: Component, value: Any) -> None:
        if self.name in instance._stbass_io.outputs:
            instance._stbass_out[self.name] = value
        else:
            instance.__dict__[self.name] = value


def checked_initial_values(what: str, given: Any) -> dict[str, list[Any]]:
    """Initial values as lists.

    Raises:
        TypeError: they are not a mapping of names to lists.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(f"{what} takes a mapping of inputs to lists of values, got {given!r}")
    made: dict[str, list[Any]] = {}
    for name, values in given.items():
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise TypeError(f"{what}: the values for {name!r} have to be a list, such as [{values!r}]")
        made[name] = list(values)
    return made


def _events(what: str, given: Iterable[type[Event]] | None) -> list[type[Event]]:
    found = list(given or ())
    for event in found:
        known: object = event
        if not (isinstance(known, type) and issubclass(known, Event)):
            raise TypeError(f"IOController({what}=…) takes classes of events, got {event!r}")
    return found


def _joined(first: list[Any], second: list[Any]) -> list[Any]:
    return [*first, *(one for one in second if one not in first)]
