"""What runs: a process, and everything that can stand where a process can."""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from time import monotonic
from types import FunctionType
from typing import TYPE_CHECKING, Any, Self, overload

from stbass import observe
from stbass._ids import new_id
from stbass.context import ProcessContext
from stbass.endpoint import Placement
from stbass.errors import NotTransportable
from stbass.outcome import Failure, ProcessResult, settled

if TYPE_CHECKING:
    from stbass.channel import Chan

__all__ = ["Composable", "FunctionProcess", "Process", "ProcessContext", "known_processes", "reference_of"]

ProcessFunction = Callable[[ProcessContext], Any]

_known: dict[str, FunctionProcess | type[Process]] = {}
_NO_CHANNELS: Mapping[str, Chan[Any]] = {}


def known_processes() -> Mapping[str, FunctionProcess | type[Process]]:
    """Every process that the imported modules define, by ``module:qualname``."""
    return _known


class Composable(ABC):
    """Whatever can stand where a process can: a :class:`Process` or a composition of them."""

    # Class attributes, so that a subclass need not call super().__init__().
    _name: str | None = None
    _is_optional: bool = False
    _channels: Mapping[str, Chan[Any]] = _NO_CHANNELS
    _placement: Placement | None = None
    # Whether it only waits for processes of its own, whose deadline it then keeps itself.
    _runs_others: bool = False
    # Whether it is no process of the user's, but a means of running others: observers hear of those, and not of it.
    _unseen: bool = False

    @property
    def name(self) -> str:
        """Its name: given, or derived from the function or class."""
        return self._name or type(self).__name__

    @property
    def process_id(self) -> str:
        """A fresh UUID at every access."""
        return new_id()

    @property
    def is_optional(self) -> bool:
        """Whether its failure leaves the composition around it in order."""
        return self._is_optional

    @property
    def placement(self) -> Placement | None:
        """Where it runs unless told otherwise."""
        return self._placement

    @property
    def bound_channels(self) -> Mapping[str, Chan[Any]]:
        """The channels bound with :meth:`with_channels`, by name."""
        return self._channels

    def optional(self) -> Self:
        """A copy whose failure does not halt the composition around it."""
        made = self._copy()
        made._is_optional = True
        return made

    def with_channels(self, **channels: Chan[Any]) -> Self:
        """A copy with these named channels bound, beside those bound before.

        Raises:
            TypeError: something is not a channel.
        """
        for name, channel in channels.items():
            if not (hasattr(channel, "send") and hasattr(channel, "recv")):
                raise TypeError(f"with_channels({name}=…) takes a Chan, got {channel!r}")
        made = self._copy()
        made._channels = {**self._channels, **channels}
        return made

    def with_name(self, name: str) -> Self:
        """A copy with another name.

        Raises:
            TypeError: the name is not a string.
            ValueError: the name is empty.
        """
        made = self._copy()
        made._name = checked_name(name)
        return made

    def _copy(self) -> Self:
        # Not copy.copy(): that goes through __reduce__, which for a function means "by reference".
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__)
        return made

    async def execute(self, ctx: ProcessContext) -> ProcessResult:
        """Run, and give back what happened. Never override this.

        An ``Exception`` becomes a failure in the result; a value that is not a :class:`ProcessResult` a success
        with that value. ``CancelledError``, ``KeyboardInterrupt`` and ``SystemExit`` pass through.
        """
        if self._channels:
            ctx._bind(self._channels)
        failure: Failure | None = None
        value: Any = None
        started = ctx._started = monotonic()
        if observe.subscribers:
            observe.emit(ctx._event("started"))
        try:
            value = await self._perform(ctx)
        except Exception as error:
            failure = _failure(error, ctx, traceback.format_exc())
        else:
            if isinstance(value, ProcessResult):
                failure = value._failure
                if failure is not None and failure.process_name == "unknown":
                    failure = _completed(failure, ctx)
                value = value._value
            if ctx._sent and failure is None:
                value = ctx._sent[-1]
        finally:
            if ctx._unbind is not None:
                ctx._release()
        result = settled(failure is None, value, failure, started, monotonic() - started, ctx)
        if observe.subscribers:
            observe.emit(ctx._event("ended", result=result))
        return result

    def _inside(self) -> Iterable[tuple[Composable, Placement | None]]:
        """The processes that it runs, as far as they are known before it does, and where each was explicitly placed."""
        return ()

    @abstractmethod
    def _perform(self, ctx: ProcessContext) -> Awaitable[Any]:
        """The work itself, to be awaited; may raise."""


def _failure(error: BaseException, ctx: ProcessContext, traceback_str: str = "") -> Failure:
    return Failure(
        error,
        process_name=ctx.process_name,
        process_id=ctx.process_id,
        started_at=ctx._started_at,
        placement=ctx.placement,
        parent_process=ctx.parent,
        channel_state={name: channel.stats.as_dict() for name, channel in ctx.channels.items()},
        checkpoint=ctx.last_checkpoint,
        traceback_str=traceback_str,
    )


def failure_of(error: BaseException, ctx: ProcessContext, traceback_str: str = "") -> ProcessResult:
    """A failed result with everything that the context knows."""
    failure = _failure(error, ctx, traceback_str)
    started = failure.started_at
    return ProcessResult(False, None, failure, failure.elapsed, ctx._run_info(started, failure.failed_at))


def _completed(failure: Failure, ctx: ProcessContext) -> Failure:
    """A failure that the process itself returned, with what only the context knows filled in."""
    known = _failure(failure.error, ctx, failure.traceback_str)
    return replace(
        known,
        failed_at=failure.failed_at,
        started_at=failure.started_at or known.started_at,
        placement=failure.placement or known.placement,
        parent_process=failure.parent_process or known.parent_process,
        channel_state=failure.channel_state or known.channel_state,
        checkpoint=known.checkpoint if failure.checkpoint is None else failure.checkpoint,
    )


def checked_name(name: object) -> str:
    """``name``, if it can be a name.

    Raises:
        TypeError: it is not a string.
        ValueError: it is empty.
    """
    if not isinstance(name, str):
        raise TypeError(f"a process's name is a str, got {name!r}")
    if not name:
        raise ValueError("a process's name cannot be empty")
    return name


class Process(Composable):
    """A process: a decorated function, or a subclass with ``async def run(self, ctx)``.

    ``@Process`` and ``@Process(name=..., placement=...)`` turn a function that takes a :class:`ProcessContext` into a
    process. An async function runs on the event loop, a sync one in a thread.

    A subclass's constructor arguments are remembered as given, so that the process can travel; what its attributes are
    changed to later does not travel.
    """

    _arguments: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})

    @overload
    def __new__(cls, function: ProcessFunction, /) -> FunctionProcess: ...

    @overload
    def __new__(cls, *args: Any, **kwargs: Any) -> Self: ...

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        if cls is Process:
            return _decorate(*args, **kwargs)
        made = super().__new__(cls)
        if args or kwargs:
            made._arguments = (args, kwargs)
        return made

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Arguments come here only if a subclass has no __init__ of its own, and then nobody would use them.
        if type(self).__init__ is Process.__init__ and (args or kwargs):
            raise TypeError(f"{type(self).__name__}() takes no arguments: it has no __init__")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
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
        self._function = function
        self._given_name = name
        self._name = name or getattr(function, "__name__", type(function).__name__)
        self._placement = placement
        functools.update_wrapper(self, function, updated=())
        if _is_async(function):
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
        outcome = await asyncio.to_thread(self._function, ctx)
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
        changes = {
            key: self.__dict__[key]
            for key in ("_name", "_is_optional", "_channels", "_placement")
            if key in self.__dict__
        }
        return _rebuilt, (self.__module__, self.__qualname__, changes)


def _rebuilt(module: str, qualname: str, changes: dict[str, Any]) -> FunctionProcess:
    found = functools.reduce(getattr, qualname.split("."), importlib.import_module(module))
    if not isinstance(found, FunctionProcess):
        raise TypeError(f"{module}:{qualname} is {found!r}, not a process")
    made = found._copy()
    made.__dict__.update(changes)
    return made


def _is_async(function: Any) -> bool:
    target = function
    while isinstance(target, functools.partial):
        target = target.func
    if inspect.isroutine(target):
        return inspect.iscoroutinefunction(target)
    return inspect.iscoroutinefunction(type(target).__call__)


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
