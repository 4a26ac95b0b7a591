"""Components: their fields and events, and the record that the engine keeps about each."""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import FunctionType, ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from stbass._values.arguments import MADE_WITH
from stbass._values.checks import refuse_generator
from stbass._values.texts import value_text
from stbass.dataflow.export import Exportable, arguments_of, class_path
from stbass.dataflow.model.events import HANDLES, Event, Handled, StopEvent
from stbass.dataflow.model.resource import Resource
from stbass.dataflow.status import Status
from stbass.errors import DataflowError, IOClosedError, NotInitialisedError

if TYPE_CHECKING:
    from stbass.dataflow.state.base import StateBackend

__all__ = [
    "Component",
    "ComponentRunner",
    "IOController",
    "OutputField",
    "Wiring",
    "field_types",
    "is_framework_name",
    "make_again",
    "record_of",
    "steps_of",
    "wiring_of",
]

Fields = Iterable[str] | Mapping[str, Any]
Handlers = Mapping[type[Event], tuple[str, Handled]]

_OWN = ("_wiring", MADE_WITH)
"""Attributes of a component that are not the user's."""


class ComponentRunner(Protocol):
    """The part of a runner that a component uses."""

    @property
    def steps(self) -> int:
        """How many steps it has made."""

    async def run(self) -> None:
        """Step until no more comes."""

    def poke(self) -> None:
        """Something was queued, closed or cancelled outside of a step."""

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for input, or for room at its outputs."""


class Wiring:
    """The record of one component that its engine and its process share. Everything else on a component is the user's.

    :func:`wiring_of` gives it.

    Args:
        name: what the component is called until its constructor says it.
        handlers: by class of events, the method's name and what it is for.
        outputs: what outputs hold that were never set, by name.

    Attributes:
        is_as_made: whether an attribute has the value that the constructor gave it; known where checkpoints are taken.
        is_made: whether the constructor of :class:`Component` has run.
        io: its fields and events: those of the class, and its own.
        out: what it has set and not sent yet, by output.
        last: what it set before that.
        events: events that it has queued.
        runner: whoever runs it now.
        status: what it is doing; :attr:`Component.status` tells waiting from running.
        closing: whether it has said that no more comes from it, or has ended.
        cancelled: whether it was told to end.
        steps_before: how many steps it had made when its runner left it.
        populated: the inputs that a handler of events has set, for the runner, in the order in which it did.
        process: the process that has it now.
        used: whether a process had it, so that it is not as it was made.
        job: the job of its process, if that goes on from its last checkpoint; known also where the state is not.
        own_state: the state that it was given itself.
        process_state: that of its process.
        own_parameters: the parameters that it was given itself.
        process_parameters: those of its process.
        initial_values: those that it was given itself.
        constraints: what limits where it runs.
        at_good_end: what the component does when every component has ended and none has failed; before ``destroy``.
        run_failed: at ``destroy``, whether the run has failed, or was cancelled or interrupted.
    """

    __slots__ = ("at_good_end", "cancelled", "closing", "constraints", "events", "handlers", "initial_values", "io",
                 "is_as_made", "is_made", "job", "last", "name", "out", "own_parameters", "own_state", "populated",
                 "process", "process_parameters", "process_state", "run_failed", "runner", "status", "steps_before",
                 "used")  # fmt: skip

    def __init__(self, name: str, handlers: Handlers, outputs: Mapping[str, Any]) -> None:
        self.name = name
        self.is_made = self.run_failed = False
        self.at_good_end: Callable[[], Awaitable[None]] | None = None
        self.handlers = handlers
        self.io = IOController()
        self.out: dict[str, Any] = {}
        self.last = dict(outputs)
        self.events: list[Event] = []
        self.is_as_made: Callable[[str, Any], bool] = lambda name, value: False
        self.populated: dict[str, Any] = {}
        self.runner: ComponentRunner | None = None
        self.status = Status.CREATED
        self.closing = self.cancelled = self.used = False
        self.steps_before = 0
        self.process: object | None = None
        self.job: str | None = None
        self.own_state: StateBackend | None = None
        self.process_state: StateBackend | None = None
        self.own_parameters: dict[str, Any] = {}
        self.process_parameters: dict[str, Any] = {}
        self.initial_values: dict[str, list[Any]] = {}
        self.constraints: dict[str, Any] = {}

    @property
    def steps(self) -> int:
        """How many steps it has made, or had made when its runner left it."""
        return self.steps_before if self.runner is None else self.runner.steps

    def close(self) -> None:
        """No more comes from it."""
        self.closing = True
        self.poke()

    def poke(self) -> None:
        """Something was queued, closed or cancelled: tell the runner."""
        if self.runner is not None:
            self.runner.poke()


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
        self._wiring: Wiring | None = None

    def _names(self, what: str, given: Fields | None) -> list[str]:
        if given is None:
            return []
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise TypeError(
                f"IOController({what}=…) takes a list of names or a mapping of names to types: {value_text(given)}"
            )
        if isinstance(given, Mapping):
            self.types.update(given)
        names = list(given)
        for name in names:
            if not isinstance(name, str):
                raise TypeError(f"IOController({what}=…): a name is text, got {value_text(name)}")
        return names

    # On a class: a declaration ------------------------------------------------------------------

    def merged(self, more: IOController, wiring: Wiring | None = None) -> IOController:
        """This and more: fields and events of both, each once; where both say something of a field, ``more`` counts.

        Args:
            more: what comes on top.
            wiring: of the component that it is for, if it is not for a class.
        """
        made = IOController()
        made._wiring = wiring
        made.types = {**self.types, **more.types}
        made.inputs = _joined(self.inputs, more.inputs)
        made.outputs = _joined(self.outputs, more.outputs)
        made.initial_values = {**self.initial_values, **more.initial_values}
        made.input_events = _joined(self.input_events, more.input_events)
        made.output_events = _joined(self.output_events, more.output_events)
        return made

    def __get__(self, instance: Component | None, owner: type | None = None) -> IOController:
        return self if instance is None else instance._wiring.io

    def __set__(self, instance: Component, value: IOController) -> None:
        if not isinstance(value, IOController):
            raise TypeError(f"{type(instance).__name__}.io takes an IOController, got {value_text(value)}")
        _take_io(instance, value)

    # On an instance: in use ---------------------------------------------------------------------

    @property
    def is_closed(self) -> bool:
        """Whether the component has said that no more comes from it, or it has ended."""
        return self._own_wiring("is_closed").closing

    async def close(self) -> None:
        """Say that no more comes: what was set in this step is still sent, then the component ends. Idempotent.

        Raises:
            DataflowError: this is the declaration of a class, not the ``io`` of a component.
        """
        self._own_wiring("close").close()

    def queue_event(self, event: Event) -> None:
        """Send an event, after this step and after the outputs that were set in it.

        Raises:
            IOClosedError: the component has closed.
            TypeError: it is no event, or of a class that is not among ``output_events``.
        """
        wiring = self._own_wiring("queue_event")
        if not isinstance(event, Event):
            raise TypeError(f"component {wiring.name!r}: queue_event takes an event, got {value_text(event)}")
        if wiring.closing:
            raise IOClosedError(
                f"component {wiring.name!r} has closed; it cannot send {type(event).__name__}. "
                f"Queue events before `await self.io.close()`"
            )
        if not isinstance(event, (StopEvent, *self.output_events)):
            raise TypeError(
                f"component {wiring.name!r} cannot send {type(event).__name__}: "
                f"put it into IOController(output_events=[…])"
            )
        wiring.events.append(event)
        wiring.poke()

    def _own_wiring(self, what: str) -> Wiring:
        if self._wiring is None:
            raise DataflowError(f"IOController.{what} is of a component's own io, self.io, not of that of its class")
        return self._wiring

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


def checked_initial_values(what: str, given: Any) -> dict[str, list[Any]]:
    """Initial values as lists.

    Raises:
        TypeError: they are not a mapping of names to lists.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(f"{what} takes a mapping of inputs to lists of values, got {value_text(given)}")
    made: dict[str, list[Any]] = {}
    for name, values in given.items():
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise TypeError(f"{what}: the values for {name!r} have to be a list, not {value_text(values)}")
        made[name] = list(values)
    return made


def _events(what: str, given: Iterable[type[Event]] | None) -> list[type[Event]]:
    found = list(given or ())
    for event in found:
        known: object = event
        if not (isinstance(known, type) and issubclass(known, Event)):
            raise TypeError(f"IOController({what}=…) takes classes of events, got {value_text(event)}")
    return found


def _joined(first: list[Any], second: list[Any]) -> list[Any]:
    return [*first, *(one for one in second if one not in first)]


class OutputField:
    """An output of a component: setting it means that it is sent after this step; reading gives what was set last."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, instance: Component | None, owner: type | None = None) -> Any:
        if instance is None:
            return self
        name, wiring = self.name, instance._wiring
        return wiring.out[name] if name in wiring.out else wiring.last.get(name)

    def __set__(self, instance: Component, value: Any) -> None:
        instance._wiring.out[self.name] = value


class PopulatedField:
    """An input that a handler of events sets: an attribute like any, but it is noted that it was set."""

    __slots__ = ("default", "name")

    def __init__(self, name: str, default: Any) -> None:
        self.name = name
        self.default = default

    def __get__(self, instance: Component | None, owner: type | None = None) -> Any:
        return self if instance is None else instance.__dict__.get(self.name, self.default)

    def __set__(self, instance: Component, value: Any) -> None:
        instance.__dict__[self.name] = value
        instance._wiring.populated[self.name] = value


class OwnOutputField(OutputField):
    """The same where only some instances of the class have such an output; for others it is an attribute like any."""

    __slots__ = ()

    def __get__(self, instance: Component | None, owner: type | None = None) -> Any:
        if instance is None or self.name in instance._wiring.io.outputs:
            return super().__get__(instance, owner)
        try:
            return instance.__dict__[self.name]
        except KeyError:
            text = f"{type(instance).__name__!r} object has no attribute {self.name!r}"
            raise AttributeError(text) from None

    def __set__(self, instance: Component, value: Any) -> None:
        if self.name in instance._wiring.io.outputs:
            instance._wiring.out[self.name] = value
        else:
            instance.__dict__[self.name] = value


class Component(Exportable):
    """A part of a process: it takes one value from each of its inputs, makes a step, and sends what it has set.

    Inputs and outputs are attributes::

        class Double(Component):
            io = IOController(inputs={"x": float}, outputs={"y": float})

            async def step(self) -> None:
                self.y = 2 * self.x

    A component without inputs is a source: it steps until it calls ``await self.io.close()``. Only what was set in a
    step is sent after it. All other attributes are its state, which a checkpoint keeps (see :meth:`checkpoint`).

    A subclass with arguments of its own passes the rest on: ``def __init__(self, n, *args, **kwargs)`` with
    ``super().__init__(*args, **kwargs)``.

    Args:
        name: what it is called in its process: a letter or ``_``, then letters, digits, ``_`` and ``-``.
        initial_values: values that inputs hold before any is sent to them, by name, first to last.
        parameters: what it is given beside its inputs; these come before the parameters of the process.
        state: where its data is kept; that of the process by default.
        constraints: what limits where it runs, for a scheduler outside.
        resources: what it needs; what its class says by default.

    Raises:
        TypeError: an argument is of the wrong type.
    """

    io: IOController = IOController()
    exports: ClassVar[list[str] | None] = None
    """Names of attributes that are worth looking at from outside; merges with what the parent classes say."""
    resources: Resource | None = None
    """What it needs of the machine."""
    transient: ClassVar[tuple[str, ...]] = ()
    """Names of attributes that no checkpoint keeps, because ``init`` makes them anew; merges with the parents'."""

    # Names that Python mangles: subclasses may have attributes of any name.
    __handlers: ClassVar[Handlers] = {}
    __defaults: ClassVar[Mapping[str, Any]] = {}
    _wiring: Wiring

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls, *args, **kwargs)
        # A new dict: Python (3.11) finds attributes faster in it than in one that shares its keys with others.
        self.__dict__ = {**self.__dict__, "_wiring": Wiring(cls.__name__, cls.__handlers, cls.__defaults)}
        _take_io(self, IOController())
        return self

    def __init__(
        self,
        *,
        name: str,
        initial_values: Mapping[str, Iterable[Any]] | None = None,
        parameters: Mapping[str, Any] | None = None,
        state: StateBackend | None = None,
        constraints: Mapping[str, Any] | None = None,
        resources: Resource | None = None,
    ) -> None:
        what = type(self).__name__
        if not isinstance(name, str):
            raise TypeError(f"{what}(name=…) takes text, got {value_text(name)}")
        for option, value in (("parameters", parameters), ("constraints", constraints)):
            if value is not None and not isinstance(value, Mapping):
                raise TypeError(f"{what}({option}=…) takes a mapping, got {value_text(value)}")
        if resources is not None:
            if isinstance(resources, Mapping):
                resources = Resource(**resources)
            if not isinstance(resources, Resource):
                raise TypeError(f"{what}(resources=…) takes a Resource, got {value_text(resources)}")
            self.resources = resources
        wiring = self._wiring
        wiring.name, wiring.is_made = name, True
        wiring.initial_values = checked_initial_values(f"{what}(initial_values=…)", initial_values)
        wiring.own_parameters = dict(parameters or {})
        wiring.own_state = state
        wiring.constraints = dict(constraints or {})

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("init", "step", "run", "destroy", "checkpoint", "restore", "committed"):
            if name in cls.__dict__:
                refuse_generator(cls.__dict__[name], f"{cls.__qualname__}.{name}")
        merged = IOController()
        exports: dict[str, None] = {}
        transient: dict[str, None] = {}
        handlers: dict[type[Event], tuple[str, Handled]] = {}
        for base in reversed(cls.__mro__):
            declared = base.__dict__.get("io")
            if isinstance(declared, IOController):
                merged = merged.merged(declared)
            exports.update(dict.fromkeys(base.__dict__.get("exports") or ()))
            transient.update(dict.fromkeys(base.__dict__.get("transient") or ()))
            for name, member in base.__dict__.items():
                for handled in getattr(member, HANDLES, ()) if isinstance(member, FunctionType) else ():
                    refuse_generator(member, f"{base.__qualname__}.{name}")
                    handlers[handled.event] = name, handled
        cls.io = merged
        cls.exports = list(exports) or None
        cls.transient = tuple(transient)
        cls.__handlers = handlers
        defaults = dict(cls.__defaults)
        for name in merged.outputs:
            if is_framework_name(name):
                continue  # validation says so, with everything else that is wrong
            present = inspect.getattr_static(cls, name, None)
            if type(present) is not OutputField:
                if present is not None and type(present) is not OwnOutputField:
                    defaults[name] = present
                setattr(cls, name, OutputField(name))
        cls.__defaults = defaults
        for field in {field for _, handled in handlers.values() for field in handled.populates_fields}:
            present = inspect.getattr_static(cls, field, None)
            if not (is_framework_name(field) or isinstance(present, OutputField | PopulatedField)):
                setattr(cls, field, PopulatedField(field, present))

    # What users override ------------------------------------------------------------------------

    async def init(self) -> None:
        """Prepare: called once before the first step, and again when a process goes on from a checkpoint."""

    async def step(self) -> None:
        """One step: every input holds a new value, and what is set on outputs is sent afterwards.

        Override it; without ``async`` it works too.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `async def step(self)`")

    async def run(self) -> None:
        """Step until no more comes. One that overrides it calls ``await self.step()`` for each step itself.

        Raises:
            NotInitialisedError: no process runs it.
        """
        if self._wiring.runner is None:
            raise NotInitialisedError(f"component {self.name!r} is not in a process that has been initialised")
        await self._wiring.runner.run()

    async def destroy(self) -> None:
        """Give back what ``init`` took: called once ``init`` was begun, whatever happened since."""

    def checkpoint(self) -> Any:
        """The state that a checkpoint keeps, as a dict; may be async. By default every attribute of one's own that is
        not as ``__init__`` set it: a job that goes on in a changed program gets that program's arguments.

        Values may be whatever travels between machines (numbers, text, lists, dicts, dataclasses, arrays, …), and
        Python's own iterators over ranges and lists, ``enumerate``, ``itertools.count`` and random number generators.
        """
        from_class = {*self.transient, *self._wiring.io.outputs}
        is_as_made = self._wiring.is_as_made
        return {
            name: value
            for name, value in self.__dict__.items()
            if not (name in from_class or is_framework_name(name) or _is_code(value) or is_as_made(name, value))
        }

    def restore(self, state: Any) -> Any:
        """Take the state back that :meth:`checkpoint` gave; called after ``init``; may be async."""
        self.__dict__.update(state)

    def committed(self, n: int) -> Any:
        """Checkpoint ``n`` will never be lost: what depends on that can be done now; may be async."""

    # What it is ---------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """What it is called in its process."""
        return self._wiring.name

    @property
    def id(self) -> str:
        """The same as its name."""
        return self.name

    @property
    def status(self) -> Status:
        """What it is doing."""
        wiring = self._wiring
        if wiring.status is Status.RUNNING and wiring.runner is not None and wiring.runner.is_waiting:
            return Status.WAITING
        return wiring.status

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of its process, and its own, which come before those."""
        return {**self._wiring.process_parameters, **self._wiring.own_parameters}

    @property
    def state(self) -> StateBackend | None:
        """Where its data is kept: its own state or that of its process."""
        wiring = self._wiring
        return wiring.process_state if wiring.own_state is None else wiring.own_state

    @property
    def initial_values(self) -> dict[str, list[Any]]:
        """Values that inputs hold before any is sent to them: as its ``io`` says, and its own."""
        return {**self._wiring.io.initial_values, **self._wiring.initial_values}

    @property
    def constraints(self) -> dict[str, Any]:
        """What limits where it runs."""
        return dict(self._wiring.constraints)

    def cancel(self) -> None:
        """End it: after the step that it is in, or at once if it waits. Its outputs close; its status is stopped."""
        wiring = self._wiring
        wiring.cancelled = True
        if wiring.runner is None and not wiring.status.is_terminal:
            wiring.status = Status.STOPPED
        wiring.close()

    def dict(self) -> dict[str, Any]:
        """What there is to know about it, as data; ``exports`` are the values of those attributes now."""
        return {
            **record_of(self),
            "parameters": self.parameters,
            "exports": {name: getattr(self, name, None) for name in self.exports or ()},
        }

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}, {self.status}>"


# For whoever runs a component ---------------------------------------------------------------------


def wiring_of(component: Component) -> Wiring:
    """The record of a component: the way for the engine and a process to get it."""
    return component._wiring


def record_of(component: Component) -> dict[str, Any]:
    """What a state is told of a component: names and kinds, no values."""
    return {
        "id": component.id,
        "name": component.name,
        "type": class_path(type(component)),
        "status": str(component.status),
        "io": component.io.dict(),
    }


def make_again(component: Component) -> None:
    """Make it anew with the arguments that it was made with: a second run starts like the first."""
    args, kwargs = arguments_of(component)
    fresh = Component.__new__(type(component), *args, **kwargs)
    component.__dict__.clear()
    component.__dict__.update(fresh.__dict__)
    type(component).__init__(component, *args, **kwargs)


def steps_of(component: Component) -> int:
    """How many steps a component has made, or had made when its process was destroyed."""
    return component._wiring.steps


def is_framework_name(name: str) -> bool:
    """Whether an attribute of a component by that name is ours, and so cannot be a field of it."""
    return name in _OWN or name.startswith(("_stbass", "__")) or hasattr(Component, name)


def _take_io(component: Component, more: IOController) -> None:
    cls = type(component)
    made = component._wiring.io = cls.io.merged(more, component._wiring)
    for name in more.outputs:
        if not is_framework_name(name) and not isinstance(inspect.getattr_static(cls, name, None), OutputField):
            setattr(cls, name, OwnOutputField(name))
    for name in made.inputs:
        if not hasattr(component, name):
            component.__dict__[name] = None


def field_types(component: Component) -> dict[str, Any]:
    """The types of a component's fields, by name: those that have one, in its ``io`` or by an annotation.

    Raises:
        TypeError: an annotation names something that is not there.
    """
    io = component.io
    found: dict[str, Any] = {}
    for base in reversed(type(component).__mro__):
        noted = inspect.get_annotations(base)
        wanted = {name: noted[name] for name in (*io.inputs, *io.outputs) if name in noted}
        if not wanted:
            continue
        names = {**vars(typing), **vars(sys.modules[base.__module__])} if base.__module__ in sys.modules else {}
        try:
            found.update(typing.get_type_hints(SimpleNamespace(__annotations__=wanted), names, dict(vars(base))))
        except NameError as error:
            raise TypeError(
                f"component {component.name!r}: the annotations of {', '.join(wanted)} in {base.__qualname__} "
                f"cannot be looked up: {error}; give the types in IOController(inputs={{…}}) instead"
            ) from None
    return {**found, **io.types}


def _is_code(value: Any) -> bool:
    """Whether it is part of the program and not of the state: the constructor sets it again."""
    return isinstance(value, type | ModuleType) or inspect.isroutine(value)
