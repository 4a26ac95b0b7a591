"""Components: what a process is put together from."""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Iterable, Mapping
from types import FunctionType, ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from stbass.dataflow.model.events import HANDLES, Event, Handled, StopEvent
from stbass.dataflow.model.export import Exportable, class_path
from stbass.dataflow.model.io import IOController, OutputField, OwnOutputField, checked_initial_values
from stbass.dataflow.model.resource import Resource
from stbass.dataflow.model.status import Status
from stbass.errors import NotInitialisedError

if TYPE_CHECKING:
    from stbass.dataflow.state.base import StateBackend

__all__ = ["Component", "field_types", "is_framework_name", "steps_of"]


class Steering(Protocol):
    """What a component knows of whoever runs it."""

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

    _stbass_handlers: ClassVar[dict[type[Event], tuple[str, Handled]]] = {}
    _stbass_defaults: ClassVar[dict[str, Any]] = {}
    _stbass_runner: Steering | None = None
    _stbass_status: Status = Status.CREATED
    _stbass_closing: bool = False
    _stbass_cancelled: bool = False
    _stbass_name: str | None = None
    _stbass_steps: int = 0
    _stbass_process: object | None = None
    """The process that has it now."""
    _stbass_used: bool = False
    """Whether a process had it, so that it is not as it was made."""
    _stbass_job: str | None = None
    """The job of its process, if that goes on from its last checkpoint; known also where the state is not."""

    # What it has set and not sent yet, what it set before that, and events that it has queued.
    _stbass_out: dict[str, Any]
    _stbass_last: dict[str, Any]
    _stbass_events: list[Event]
    _stbass_io: IOController

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls, *args, **kwargs)
        self._stbass_reset()
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
            raise TypeError(f"{what}(name=…) takes text, got {name!r}")
        for option, value in (("parameters", parameters), ("constraints", constraints)):
            if value is not None and not isinstance(value, Mapping):
                raise TypeError(f"{what}({option}=…) takes a mapping, got {value!r}")
        if resources is not None:
            if isinstance(resources, Mapping):
                resources = Resource(**resources)
            if not isinstance(resources, Resource):
                raise TypeError(f"{what}(resources=…) takes a Resource, got {resources!r}")
            self.resources = resources
        self._stbass_name = name
        self._stbass_initial_values = checked_initial_values(f"{what}(initial_values=…)", initial_values)
        self._stbass_own_parameters = dict(parameters or {})
        self._stbass_process_parameters: dict[str, Any] = {}
        self._stbass_state = state
        self._stbass_process_state: StateBackend | None = None
        self._stbass_constraints = dict(constraints or {})

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
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
                    handlers[handled.event] = name, handled
        cls.io = merged
        cls.exports = list(exports) or None
        cls.transient = tuple(transient)
        cls._stbass_handlers = handlers
        defaults = dict(cls._stbass_defaults)
        for name in merged.outputs:
            if is_framework_name(name):
                continue  # validation says so, with everything else that is wrong
            present = inspect.getattr_static(cls, name, None)
            if type(present) is not OutputField:
                if present is not None and type(present) is not OwnOutputField:
                    defaults[name] = present
                setattr(cls, name, OutputField(name))
        cls._stbass_defaults = defaults

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
        if self._stbass_runner is None:
            raise NotInitialisedError(f"component {self.name!r} is not in a process that has been initialised")
        await self._stbass_runner.run()

    async def destroy(self) -> None:
        """Give back what ``init`` took: called once ``init`` was begun, whatever happened since."""

    def checkpoint(self) -> Any:
        """The state that a checkpoint keeps, as a dict; may be async. By default every attribute of one's own.

        Values may be whatever travels between machines (numbers, text, lists, dicts, dataclasses, arrays, …), and
        Python's own iterators over ranges and lists, ``enumerate``, ``itertools.count`` and random number generators.
        """
        from_class = {*self.transient, *self._stbass_io.outputs}
        return {
            name: value
            for name, value in self.__dict__.items()
            if name not in from_class and not is_framework_name(name) and not _is_code(value)
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
        return type(self).__name__ if self._stbass_name is None else self._stbass_name

    @property
    def id(self) -> str:
        """The same as its name."""
        return self.name

    @property
    def status(self) -> Status:
        """What it is doing."""
        runner = self._stbass_runner
        if self._stbass_status is Status.RUNNING and runner is not None and runner.is_waiting:
            return Status.WAITING
        return self._stbass_status

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of its process, and its own, which come before those."""
        return {**self._stbass_process_parameters, **self._stbass_own_parameters}

    @property
    def state(self) -> StateBackend | None:
        """Where its data is kept: its own state or that of its process."""
        return self._stbass_process_state if self._stbass_state is None else self._stbass_state

    @property
    def initial_values(self) -> dict[str, list[Any]]:
        """Values that inputs hold before any is sent to them: as its ``io`` says, and its own."""
        return {**self._stbass_io.initial_values, **self._stbass_initial_values}

    @property
    def constraints(self) -> dict[str, Any]:
        """What limits where it runs."""
        return dict(self._stbass_constraints)

    def cancel(self) -> None:
        """End it: after the step that it is in, or at once if it waits. Its outputs close; its status is stopped."""
        self._stbass_cancelled = self._stbass_closing = True
        if self._stbass_runner is not None:
            self._stbass_runner.poke()
        elif not self._stbass_status.is_terminal:
            self._stbass_status = Status.STOPPED

    def dict(self) -> dict[str, Any]:
        """What there is to know about it, as data; ``exports`` are the values of those attributes now."""
        return {
            **self._stbass_record(),
            "parameters": self.parameters,
            "exports": {name: getattr(self, name, None) for name in self.exports or ()},
        }

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}, {self.status}>"

    # Ours ---------------------------------------------------------------------------------------

    def _stbass_record(self) -> Mapping[str, Any]:
        """What a state is told of it: names and kinds, no values."""
        return {
            "id": self.id,
            "name": self.name,
            "type": class_path(type(self)),
            "status": str(self.status),
            "io": self.io.dict(),
        }

    def _stbass_reset(self) -> None:
        """As before the constructor: nothing set, nothing queued, the fields of the class."""
        made_with = self._stbass_made_with
        self.__dict__.clear()
        self._stbass_made_with = made_with
        self._stbass_out = {}
        self._stbass_last = dict(self._stbass_defaults)
        self._stbass_events = []
        self._stbass_take_io(IOController())

    def _stbass_again(self) -> None:
        """Make it anew with the arguments that it was made with: a second run starts like the first."""
        self._stbass_reset()
        args, kwargs = self._stbass_made_again()
        type(self).__init__(self, *args, **kwargs)

    def _stbass_take_io(self, more: IOController) -> None:
        cls = type(self)
        made = cls.io.merged(more)
        made._component = self
        self._stbass_io = made
        for name in more.outputs:
            if not is_framework_name(name) and not isinstance(inspect.getattr_static(cls, name, None), OutputField):
                setattr(cls, name, OwnOutputField(name))
        for name in made.inputs:
            if not hasattr(self, name):
                self.__dict__[name] = None

    def _stbass_close(self) -> None:
        self._stbass_closing = True
        if self._stbass_runner is not None:
            self._stbass_runner.poke()

    def _stbass_may_send(self, event: type[Event]) -> bool:
        return issubclass(event, StopEvent) or issubclass(event, tuple(self._stbass_io.output_events))


def is_framework_name(name: str) -> bool:
    """Whether an attribute of a component by that name is ours, and so cannot be a field of it."""
    return name.startswith(("_stbass", "__")) or hasattr(Component, name)


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


def steps_of(component: Component) -> int:
    """How many steps a component has made, or had made when its process was destroyed."""
    runner = component._stbass_runner
    return component._stbass_steps if runner is None else runner.steps


def _is_code(value: Any) -> bool:
    """Whether it is a part of the program and not of its state: the constructor puts it there again."""
    return isinstance(value, type | ModuleType) or inspect.isroutine(value)
