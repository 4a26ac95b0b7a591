"""Functions as components."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from stbass._values.checks import refuse_generator
from stbass._values.texts import value_text
from stbass.dataflow.model.components import Component, IOController

__all__ = ["ComponentFunction", "FunctionComponent", "component"]

Function = Callable[..., Any]


class FunctionComponent(Component):
    """A function as a component. Made by :meth:`ComponentFunction.component`."""

    _function: ClassVar[Function]

    def _set_outputs(self, made: Any) -> None:
        if not isinstance(made, Mapping):
            raise TypeError(
                f"component {self.name!r}: the function has to return a dict of its outputs, got {type(made).__name__}"
            )
        unknown = [name for name in made if name not in self._wiring.io.outputs]
        if unknown:
            raise TypeError(
                f"component {self.name!r}: the function returned {unknown[0]!r}, which is not among its outputs "
                f"{self._wiring.io.outputs}"
            )
        self._wiring.out.update(made)


class _Sync(FunctionComponent):
    def step(self) -> None:  # type: ignore[override]  # a step without `async` is allowed
        values = self.__dict__
        self._set_outputs(self._function(**{name: values[name] for name in self._wiring.io.inputs}))


class _Async(FunctionComponent):
    async def step(self) -> None:
        values = self.__dict__
        self._set_outputs(await self._function(**{name: values[name] for name in self._wiring.io.inputs}))


class ComponentFunction:
    """A function that can be called as ever, and that makes components. Made by :func:`component`.

    Args:
        function: the function.
        io: its fields.
    """

    __name__: str
    __qualname__: str

    def __init__(self, function: Function, io: IOController) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.kind: type[FunctionComponent] = type(
            function.__name__,
            (_Async if inspect.iscoroutinefunction(function) else _Sync,),
            {
                "io": io,
                "_function": staticmethod(function),
                "_exported_as": f"{function.__module__}.{function.__qualname__}",
                "__module__": function.__module__,
                "__qualname__": function.__qualname__,
                "__doc__": function.__doc__,
            },
        )
        """The class of its components."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function itself."""
        return self.function(*args, **kwargs)

    def component(self, *, name: str | None = None, **kwargs: Any) -> FunctionComponent:
        """A component that calls the function in each step.

        Args:
            name: what it is called in its process; the function's name by default.
            kwargs: what :class:`Component` takes.
        """
        return self.kind(name=self.__name__ if name is None else name, **kwargs)

    def __repr__(self) -> str:
        return f"<component function {self.__qualname__}>"


def component(
    inputs: Iterable[str] | Mapping[str, Any] | None = None, outputs: Iterable[str] | Mapping[str, Any] | None = None
) -> Callable[[Function], ComponentFunction]:
    """Make components of a function, sync or async, that takes its inputs by name and returns a dict of its outputs.

    ::

        @component(inputs=["x"], outputs=["y"])
        def double(x):
            return {"y": 2 * x}

        double(x=1)                     # still a function
        double.component(name="b")      # a component

    Outputs that are not in the dict are not sent. A sync function runs on the event loop, so it should be short.

    Args:
        inputs: names of fields, or a mapping of names to types.
        outputs: the same for what it returns.

    Raises:
        TypeError: it is used on something that is not a function, or on one that yields.
    """
    io = IOController(inputs=inputs, outputs=outputs)

    def decorate(function: Function) -> ComponentFunction:
        if not inspect.isfunction(function):
            raise TypeError(f"@component(…) goes on a function, not on {value_text(function)}")
        refuse_generator(function, f"component {function.__name__!r}")
        return ComponentFunction(function, io)

    return decorate
