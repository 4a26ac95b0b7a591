"""What runs: a process, written as a function or as a subclass."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from types import FunctionType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, Self, overload

from typing_extensions import ParamSpec, TypeVar

from stbass._process.arguments import NO_ARGUMENTS, Lacking, Parameters, call_text
from stbass._process.call import is_async
from stbass._process.context import (
    Composable,
    ProcessContext,
    call_in_thread,
    changed,
    changes_since,
    checked_name,
    given_to,
)
from stbass._values.arguments import Arguments, made_with, remember
from stbass._values.checks import refuse_generator
from stbass._values.endpoint import Placement
from stbass._values.outcome import ProcessResult
from stbass._values.texts import value_text
from stbass.errors import NotTransportable

__all__ = [
    "Composable",
    "FunctionProcess",
    "Process",
    "ProcessContext",
    "known_processes",
    "reference_of",
]

P = ParamSpec("P", default=...)
T_co = TypeVar("T_co", covariant=True, default=Any)
Q = ParamSpec("Q")
R = TypeVar("R")

ProcessFunction = Callable[..., Any]

_known: dict[str, FunctionProcess | type[Process]] = {}


def known_processes() -> Mapping[str, FunctionProcess | type[Process]]:
    """Every process that the imported modules define, by ``module:qualname``."""
    return _known


class Process(Composable[T_co], Generic[P, T_co]):
    """A process: a decorated function, or a subclass with ``async def run(self, ctx)``.

    ``@Process`` and ``@Process(name=..., placement=...)`` turn a function that takes a :class:`ProcessContext`, and
    whatever else it works on, into a process. An async function runs on the event loop, a sync one in a thread.

    A subclass's constructor arguments are remembered as given, so that the process can travel; what its attributes are
    changed to later does not travel.

    For type checkers, ``P`` is what calling it takes (see :meth:`FunctionProcess.__call__`), and ``T_co`` its value.
    """

    # Of coroutines, not of anything to await: of a function with an Any in it, mypy takes the first of several that fit
    # only if they read the same with their variables filled in.
    @overload
    def __new__(
        cls, function: Callable[Concatenate[ProcessContext, Q], Coroutine[Any, Any, ProcessResult[R]]], /
    ) -> FunctionProcess[Q, R]: ...

    @overload
    def __new__(
        cls, function: Callable[Concatenate[ProcessContext, Q], Coroutine[Any, Any, R]], /
    ) -> FunctionProcess[Q, R]: ...

    @overload
    def __new__(
        cls, function: Callable[Concatenate[ProcessContext, Q], ProcessResult[R]], /
    ) -> FunctionProcess[Q, R]: ...

    @overload
    def __new__(cls, function: Callable[Concatenate[ProcessContext, Q], R], /) -> FunctionProcess[Q, R]: ...

    @overload
    def __new__(cls, *, name: str | None, placement: Placement | None = None) -> Decorator: ...

    @overload
    def __new__(cls, *, placement: Placement | None) -> Decorator: ...

    @overload
    def __new__(cls) -> Self: ...

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        if cls is Process:
            return _decorate(*args, **kwargs)
        made = super().__new__(cls)
        if args or kwargs:
            remember(made, args, kwargs)
        return made

    if not TYPE_CHECKING:  # which would go by this rather than by __new__

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

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Process[[], T_co]:
        """Only for decorated functions; a process of a class is given its arguments when it is made."""
        raise TypeError(f"process {self.name!r} is not called; run it in a composition, or await its execute(ctx)")

    async def run(self, ctx: ProcessContext) -> T_co | ProcessResult[T_co]:
        """The main logic; override it. A plain return value counts as ``ProcessResult.ok(value)``."""
        raise NotImplementedError(f"{type(self).__name__} must implement `async def run(self, ctx)`")

    def _perform(self, ctx: ProcessContext) -> Awaitable[Any]:
        # Not a coroutine around that of `run`: a process that waits is resumed through each of them.
        return self.run(ctx)

    def __repr__(self) -> str:
        args, kwargs = made_with(self) or NO_ARGUMENTS
        return f"<process {call_text(self.name, args, kwargs, self.positions) if args or kwargs else self.name}>"

    @property
    def positions(self) -> Iterator[str]:
        """The names of its arguments by position; it may go on for ever. For messages."""
        return Parameters(type(self).__init__).names


class FunctionProcess(Process[P, T_co]):
    """A function as a process. Made by the :class:`Process` decorator.

    Calling it gives a copy with arguments bound, as :func:`functools.partial` would::

        @Process
        async def summarise(ctx: ProcessContext, url: str, *, depth: int = 2) -> str: ...

        PAR(summarise("https://…"), summarise("https://…", depth=3))
        SEQ(fetch("https://…"), summarise.with_arguments(depth=3))

    In a sequence, the first that it needs and that is not bound is what comes on the channel ``input``; so it is
    wherever a process has a channel of that name.
    """

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
        self._parameters = Parameters(function)
        self._take(NO_ARGUMENTS)

    @property
    def function(self) -> ProcessFunction:
        """The function that was decorated."""
        return self._function

    @property
    def arguments(self) -> Arguments:
        """What is bound beside the context: by position, and by name."""
        return made_with(self) or NO_ARGUMENTS

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> FunctionProcess[[], T_co]:
        """A copy with these arguments, in which values are as a channel of the parameter's annotation would give them.

        Raises:
            TypeError: the function does not take them, or one does not fit its annotation.
        """
        return self.with_arguments(*args, **kwargs)

    def with_arguments(self, *args: Any, **kwargs: Any) -> FunctionProcess[..., T_co]:
        """As calling it; type checkers allow some of the arguments, for a stage whose ``input`` brings the rest.

        Raises:
            TypeError: as for calling it.
        """
        if args and isinstance(args[0], ProcessContext):
            raise TypeError(
                f"process {self.name!r} is not called with a context: run it in a composition, or await execute(ctx)"
            )
        made: Any = self._copy()
        made._take(self._parameters.bound(self.name, self.arguments, args, kwargs))
        return made  # type: ignore[no-any-return]

    def with_only(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> FunctionProcess[[], T_co]:
        """A copy with these arguments alone, checked anew: where it arrives."""
        made: Any = self._copy()
        if args or kwargs or made_with(self) is not None:
            made._take(self._parameters.bound(self.name, NO_ARGUMENTS, args, kwargs))
        return made  # type: ignore[no-any-return]

    def _take(self, arguments: Arguments) -> None:
        args, kwargs = arguments
        if args or kwargs:
            remember(self, args, kwargs)
        self._free = self._parameters.free(arguments)
        self.lacks_arguments = bool(self._free)
        self.__dict__.pop("_perform", None)
        if is_async(self._function) and not self._free:
            # Not a method that awaits the function: a process should cost little more than its function.
            function = self._function
            self.__dict__["_perform"] = (
                (lambda ctx: function(ctx, *args, **kwargs)) if args or kwargs else self._function
            )

    def lacking(self) -> Iterator[Lacking]:
        """The arguments that it needs and that nobody gives it."""
        if self._free and (len(self._free) > 1 or "input" not in self._channels):
            accepts_none = len(self._free) == 1 and self._parameters.accepts(self._free[0], None)
            yield Lacking(self.name, self._free, accepts_none)

    async def run(self, ctx: ProcessContext) -> Any:
        """Call the function: an async one here, a sync one in a thread so that it blocks nobody else."""
        if "_perform" in self.__dict__:
            return await self._perform(ctx)
        args, kwargs = self.arguments if not self._free else await self._filled(ctx)
        if is_async(self._function):
            return await self._function(ctx, *args, **kwargs)
        outcome = await call_in_thread(lambda ctx: self._function(ctx, *args, **kwargs), ctx)
        if inspect.isawaitable(outcome):
            return await outcome
        return outcome

    async def _filled(self, ctx: ProcessContext) -> Arguments:
        name, *more = self._free
        if more or (given_to(ctx) is None and "input" not in ctx.channels):
            raise Lacking(self.name, self._free, False).error()
        value = self._parameters.fitted(self.name, name, await ctx.recv("input"))
        return self._parameters.filled(self.arguments, name, value)

    @property
    def positions(self) -> Iterator[str]:
        return self._parameters.names

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
        return _rebuilt, (self.__module__, self.__qualname__, changes_since(self, found), self.arguments)


def _rebuilt(module: str, qualname: str, changes: dict[str, Any], arguments: Arguments) -> FunctionProcess:
    found = functools.reduce(getattr, qualname.split("."), importlib.import_module(module))
    if not isinstance(found, FunctionProcess):
        raise TypeError(f"{module}:{qualname} is {value_text(found)}, not a process")
    return changed(found.with_only(*arguments), **changes)


if TYPE_CHECKING:

    class Decorator(Process):
        """What ``Process(name=..., placement=...)`` gives: it takes the function."""

        @overload
        def __call__(
            self, function: Callable[Concatenate[ProcessContext, Q], Coroutine[Any, Any, ProcessResult[R]]], /
        ) -> FunctionProcess[Q, R]: ...

        @overload
        def __call__(
            self, function: Callable[Concatenate[ProcessContext, Q], Coroutine[Any, Any, R]], /
        ) -> FunctionProcess[Q, R]: ...

        @overload
        def __call__(
            self, function: Callable[Concatenate[ProcessContext, Q], ProcessResult[R]], /
        ) -> FunctionProcess[Q, R]: ...

        @overload
        def __call__(self, function: Callable[Concatenate[ProcessContext, Q], R], /) -> FunctionProcess[Q, R]: ...

        def __call__(self, function: Any, /) -> Any: ...


def _decorate(*args: Any, **kwargs: Any) -> Any:
    unknown = set(kwargs) - {"name", "placement"}
    if unknown or len(args) > 1 or (args and not callable(args[0])):
        given = ", ".join([*map(value_text, args), *(f"{key}=…" for key in kwargs)])
        raise TypeError(
            f"Process({given}): use @Process or @Process(name=..., placement=...) on a function, or subclass Process"
        )
    if isinstance(args[0] if args else None, (Composable, type)):
        raise TypeError(f"@Process goes on a function, not on {value_text(args[0])}")
    if "name" in kwargs and kwargs["name"] is not None:
        checked_name(kwargs["name"])
    if not isinstance(kwargs.get("placement"), (Placement, type(None))):
        raise TypeError(f"Process(placement=…) takes a Placement, got a {type(kwargs['placement']).__name__}")

    def decorate(function: Any) -> FunctionProcess:
        if not callable(function) or isinstance(function, (Composable, type)):
            raise TypeError(f"@Process goes on a function, not on {value_text(function)}")
        made = FunctionProcess(function, **kwargs)
        if isinstance(function, FunctionType):
            _known[reference_of(made)] = made
        return made

    return decorate(args[0]) if args else decorate


def reference_of(target: FunctionProcess | type[Process]) -> str:
    """``module:qualname`` of a decorated function or of a subclass."""
    return f"{target.__module__}:{target.__qualname__}"
