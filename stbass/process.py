"""What runs: a process, written as a function or as a subclass."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Awaitable, Callable, Mapping
from types import FunctionType
from typing import Any, Self, overload

from stbass._process.call import is_async
from stbass._process.context import Composable, ProcessContext, call_in_thread, changed, changes_since, checked_name
from stbass._values.arguments import remember
from stbass._values.checks import refuse_generator
from stbass._values.endpoint import Placement
from stbass.errors import NotTransportable

__all__ = [
    "Composable",
    "FunctionProcess",
    "Process",
    "ProcessContext",
    "known_processes",
    "reference_of",
]

ProcessFunction = Callable[[ProcessContext], Any]

_known: dict[str, FunctionProcess | type[Process]] = {}


def known_processes() -> Mapping[str, FunctionProcess | type[Process]]:
    """Every process that the imported modules define, by ``module:qualname``."""
    return _known


class Process(Composable):
    """A process: a decorated function, or a subclass with ``async def run(self, ctx)``.

    ``@Process`` and ``@Process(name=..., placement=...)`` turn a function that takes a :class:`ProcessContext` into a
    process. An async function runs on the event loop, a sync one in a thread.

    A subclass's constructor arguments are remembered as given, so that the process can travel; what its attributes are
    changed to later does not travel.
    """

    @overload
    def __new__(cls, function: ProcessFunction, /) -> FunctionProcess: ...

    @overload
    def __new__(cls, *args: Any, **kwargs: Any) -> Self: ...

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        if cls is Process:
            return _decorate(*args, **kwargs)
        made = super().__new__(cls)
        if args or kwargs:
            remember(made, args, kwargs)
        return made

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Arguments come here only if a subclass has no __init__ of its own, and then nobody would use them.
        if type(self).__init__ is Process.__init__ and (args or kwargs):
            raise TypeError(f"{type(self).__name__}() takes no arguments: it has no __init__")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "run" in cls.__dict__:
            refuse_generator(cls.__dict__["run"], f"{cls.__qualname__}.run")
        if cls.__name__ != "FunctionProcess" or cls.__module__ != __name__:
            _known[reference_of(cls)] = cls

    def __call__(self, function: ProcessFunction) -> FunctionProcess:
        """Only for the decorator with arguments; a process itself is run, not called."""
        raise TypeError(f"process {self.name!r} is not called; run it in a composition, or await its execute(ctx)")

    async def run(self, ctx: ProcessContext) -> Any:
        """The main logic; override it. A plain return value counts as ``ProcessResult.ok(value)``."""
        raise NotImplementedError(f"{type(self).__name__} must implement `async def run(self, ctx)`")

    def _perform(self, ctx: ProcessContext) -> Awaitable[Any]:
        # Not a coroutine around that of `run`: a process that waits is resumed through each of them.
        return self.run(ctx)

    def __repr__(self) -> str:
        return f"<process {self.name}>"


class FunctionProcess(Process):
    """A function as a process. Made by the :class:`Process` decorator."""

    __qualname__: str

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        return object.__new__(cls)

    def __init__(self, function: ProcessFunction, name: str | None = None, placement: Placement | None = None) -> None:
        refuse_generator(function, f"process {name or getattr(function, '__name__', function)!r}")
        self._function = function
        self._given_name = name
        self._name = name or getattr(function, "__name__", type(function).__name__)
        self._placement = placement
        functools.update_wrapper(self, function, updated=())
        if is_async(function):
            # The function itself, not a method that awaits it: a process should cost little more than its function.
            self.__dict__["_perform"] = function

    @property
    def function(self) -> ProcessFunction:
        """The function that was decorated."""
        return self._function

    async def run(self, ctx: ProcessContext) -> Any:
        """Call the function: an async one here, a sync one in a thread so that it blocks nobody else."""
        if "_perform" in self.__dict__:
            return await self._function(ctx)
        outcome = await call_in_thread(self._function, ctx)
        if inspect.isawaitable(outcome):
            return await outcome
        return outcome

    def __copy__(self) -> Self:
        return self._copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self._copy()

    def __reduce__(self) -> tuple[Any, ...]:
        # By reference: what the name stands for is the process itself, not the function.
        found: Any = sys.modules.get(self.__module__)
        for part in self.__qualname__.split("."):
            found = getattr(found, part, None)
        if not isinstance(found, FunctionProcess) or found._function is not self._function:
            raise NotTransportable(
                f"process {self.name!r} cannot go to another Python process: it is not what {self.__module__}:"
                f"{self.__qualname__} stands for. Define it at the top level of a module"
            )
        return _rebuilt, (self.__module__, self.__qualname__, changes_since(self, found))


def _rebuilt(module: str, qualname: str, changes: dict[str, Any]) -> FunctionProcess:
    found = functools.reduce(getattr, qualname.split("."), importlib.import_module(module))
    if not isinstance(found, FunctionProcess):
        raise TypeError(f"{module}:{qualname} is {found!r}, not a process")
    return changed(found, **changes)


def _decorate(*args: Any, **kwargs: Any) -> Any:
    unknown = set(kwargs) - {"name", "placement"}
    if unknown or len(args) > 1 or (args and not callable(args[0])):
        given = ", ".join([*map(repr, args), *(f"{key}=…" for key in kwargs)])
        raise TypeError(
            f"Process({given}): use @Process or @Process(name=..., placement=...) on a function, or subclass Process"
        )
    if isinstance(args[0] if args else None, (Composable, type)):
        raise TypeError(f"@Process goes on a function, not on {args[0]!r}")
    if "name" in kwargs and kwargs["name"] is not None:
        checked_name(kwargs["name"])
    if not isinstance(kwargs.get("placement"), (Placement, type(None))):
        raise TypeError(f"Process(placement=…) takes a Placement, got {kwargs['placement']!r}")

    def decorate(function: Any) -> FunctionProcess:
        if not callable(function) or isinstance(function, (Composable, type)):
            raise TypeError(f"@Process goes on a function, not on {function!r}")
        made = FunctionProcess(function, **kwargs)
        if isinstance(function, FunctionType):
            _known[reference_of(made)] = made
        return made

    return decorate(args[0]) if args else decorate


def reference_of(target: FunctionProcess | type[Process]) -> str:
    """``module:qualname`` of a decorated function or of a subclass."""
    return f"{target.__module__}:{target.__qualname__}"
