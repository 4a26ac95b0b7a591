"""The same process many times over."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack, overload

from typing_extensions import TypeVar

from stbass._engine.children import make_children
from stbass._engine.composition import CompositionResult, PlacedProcess, ProcessComposition
from stbass._engine.registry import BackendRegistry
from stbass._engine.supervise import Child
from stbass._process.context import Composable, ProcessContext, given_to
from stbass._values.checks import checked_count, refuse_generator
from stbass._values.policy import FailurePolicy, OnFailure
from stbass._values.texts import value_text
from stbass._values.usage import Budget
from stbass.errors import NotTransportable
from stbass.par import Parallel, PARResult
from stbass.seq import SEQResult, Sequential

if TYPE_CHECKING:
    from stbass.result import ProcessResult

    class Settings(TypedDict, total=False):
        """What PAR_FOR takes beside count and factory."""

        on_failure: OnFailure
        deadline: float | None
        limit: int | None
        registry: BackendRegistry | None
        budget: Budget | None


__all__ = ["PAR_FOR", "SEQ_FOR"]

Count = int | Callable[[], int]
Factory = Callable[[int, ProcessContext], Any] | Composable
T_co = TypeVar("T_co", covariant=True, default=Any)
R = TypeVar("R", bound=CompositionResult[Any], default=Any)
V_co = TypeVar("V_co", covariant=True, default=Any)


class _Replica(Composable):
    """One of the processes that a factory function stands for."""

    def __init__(self, factory: Callable[[int, ProcessContext], Any], index: int, name: str) -> None:
        self._factory = factory
        self.index = index
        self._name = name
        self._called = False
        self._outcome: Any = None

    @property
    def makes_more(self) -> bool:  # type: ignore[override]
        """Whether the factory has still to be asked for a process."""
        return not self._called and not _is_async(self._factory)

    @property
    def holds_channels(self) -> bool:  # type: ignore[override]
        """As :attr:`makes_more`: channels are bound to what the factory makes."""
        return self.makes_more

    def call(self, ctx: ProcessContext) -> Any:
        """Call the factory before the replica runs; an error is raised when it runs."""
        self._called = True
        try:
            self._outcome = self._factory(self.index, ctx)
        except Exception as error:
            self._outcome = _Raised(error)
        return self._outcome

    async def _perform(self, ctx: ProcessContext) -> Any:
        outcome = self._outcome if self._called else self._factory(self.index, ctx)
        # Another attempt has to call the factory again: a coroutine can be awaited once.
        self._called, self._outcome = False, None
        if isinstance(outcome, _Raised):
            raise outcome.error
        if inspect.isawaitable(outcome):
            outcome = await outcome
        if isinstance(outcome, Composable):
            raise TypeError(
                f"the factory of {self.name!r} gave the process {outcome.name!r} when it was awaited;"
                " a factory of processes is a plain function, not an async one"
            )
        return outcome

    def forget(self) -> None:
        """It will not run: close the coroutine that nobody awaits."""
        if self._called and inspect.iscoroutine(self._outcome):
            self._outcome.close()


class _Raised:
    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error


class _Listed:
    """The factory of a replicated composition that has travelled: its replicas are known."""

    def __init__(self, processes: Sequence[Composable]) -> None:
        self._processes = processes

    def __call__(self, index: int, ctx: ProcessContext) -> Composable:
        return self._processes[index]


class _Replicated:
    """How many, and of what."""

    def __init__(self, what: str, count: Count, factory: Factory) -> None:
        if not callable(count):
            checked_count(count, f"the count of {what}", 0)
        if not isinstance(factory, Composable):
            if isinstance(factory, type) or not callable(factory):
                raise TypeError(
                    f"the factory of {what} must be a function (index, ctx) or a process, got {value_text(factory)};"
                    " for a class write lambda index, ctx: TheClass(...)"
                )
            refuse_generator(factory, f"the factory of {what}")
        self.what = what
        self.count = count
        self.factory = factory
        name = factory.name if isinstance(factory, Composable) else getattr(factory, "__name__", type(factory).__name__)
        self.name = "replica" if name == "<lambda>" else name.lstrip("_")

    def processes(self) -> list[Composable]:
        """The replicas, which have not been asked yet what they are."""
        factory = self.factory
        if isinstance(factory, Composable):
            return [_numbered(factory, index) for index in range(self.size())]
        return [_Replica(factory, index, f"{self.name}[{index}]") for index in range(self.size())]

    def members(self) -> list[PlacedProcess]:
        """What is known of them before they start: a function says nothing before it is called."""
        return [(self.factory, None)] if isinstance(self.factory, Composable) else []

    def size(self) -> int:
        """The count; asked anew each time if it is a function."""
        count = self.count() if callable(self.count) else self.count
        return checked_count(count, f"the count of {self.what}", 0)

    def expanded(self) -> list[Composable]:
        """The replicas as processes that can travel.

        Raises:
            NotTransportable: the factory does not make processes, or cannot be asked before it runs.
        """
        made = []
        for process in self.processes():
            if isinstance(process, _Replica):
                outcome = None if _is_async(self.factory) else process.call(ProcessContext(process.name))
                process.forget()
                if isinstance(outcome, _Raised):
                    raise NotTransportable(
                        f"{self.what} cannot travel: its factory raised {outcome.error!r} for {process.name!r}"
                    ) from outcome.error
                if not isinstance(outcome, Composable):
                    raise NotTransportable(
                        f"{self.what} cannot travel: its factory {self.name!r} is the process itself, which only exists"
                        " here. Let it be a plain function that returns a process defined at module level, for example"
                        " lambda index, ctx: Worker(index)"
                    )
                process = _numbered(outcome, process.index)
            made.append(process)
        return made


def _numbered(process: Composable, index: int) -> Composable:
    number = f"[{index}]"
    return process if process.name.endswith(number) else process.with_name(process.name + number)


def _is_async(factory: Factory) -> bool:
    return inspect.iscoroutinefunction(factory)


class _OfReplicas(ProcessComposition[R, V_co]):
    """How replicas travel: as the processes that the factory makes."""

    _replicated: _Replicated

    @property
    def replicas(self) -> tuple[str, int | None]:
        """The name of one, and how many there are; None if that is asked for when it starts."""
        count = self._replicated.count
        return self._replicated.name, None if callable(count) else count

    def _set_replicated(self, what: str, count: Count, factory: Factory) -> None:
        self._replicated = _Replicated(what, count, factory)
        self._set_members(self._replicated.members())
        if not isinstance(factory, Composable) and not _is_async(factory):
            self.holds_channels = self.makes_more = True

    def parts(self) -> dict[str, Any]:
        """Its replicas, and what the constructor was given beside them."""
        return {**super().parts(), "processes": self._replicated.expanded()}

    @classmethod
    def from_parts(cls, parts: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`parts`."""
        processes = parts["processes"]
        return cls._make(parts, len(processes), _Listed(processes))


class PAR_FOR(_OfReplicas[PARResult[T_co], list[T_co]], Parallel[T_co], kind="PAR_FOR"):
    """Processes that run at once, as many as ``count``, made by a factory.

    Args:
        count: how many; or a function that says so when the composition starts.
        factory: ``factory(index, ctx)``. An async function is each process's body. A plain function is called for all
            indices when the composition starts, and gives a process (which then runs where its placement says), or
            something to await, or simply the value; it should not block. A process or a composition is replicated
            as it is.
        on_failure: as for :class:`stbass.PAR`.
        deadline: seconds; as for :class:`stbass.PAR`.
        limit: how many run at the same time.
        registry: as for :class:`stbass.PAR`.
        budget: as for :class:`stbass.PAR`.

    Raises:
        TypeError: an argument is of the wrong type, or a process needs more arguments than ``input`` brings.
        ValueError: the count, the deadline or the limit is out of range.
    """

    # Processes of one type; async functions; whatever else.
    @overload
    def __init__(
        self: PAR_FOR[T_co], count: Count, factory: Composable[T_co], **settings: Unpack[Settings]
    ) -> None: ...

    @overload
    def __init__(
        self: PAR_FOR[T_co],
        count: Count,
        factory: Callable[[int, ProcessContext], Composable[T_co]],
        **settings: Unpack[Settings],
    ) -> None: ...

    @overload
    def __init__(
        self: PAR_FOR[T_co],
        count: Count,
        factory: Callable[[int, ProcessContext], Coroutine[Any, Any, ProcessResult[T_co]]],
        **settings: Unpack[Settings],
    ) -> None: ...

    @overload
    def __init__(
        self: PAR_FOR[T_co],
        count: Count,
        factory: Callable[[int, ProcessContext], Coroutine[Any, Any, T_co]],
        **settings: Unpack[Settings],
    ) -> None: ...

    @overload
    def __init__(self: PAR_FOR[Any], count: Count, factory: Factory, **settings: Unpack[Settings]) -> None: ...

    def __init__(
        self,
        count: Count,
        factory: Factory,
        *,
        on_failure: OnFailure = FailurePolicy.HALT,
        deadline: float | None = None,
        limit: int | None = None,
        registry: BackendRegistry | None = None,
        budget: Budget | None = None,
    ) -> None:
        super().__init__(on_failure, deadline, limit, registry, budget)
        self._set_replicated("PAR_FOR", count, factory)

    def _start_children(self, ctx: ProcessContext) -> list[Child]:
        replicated = self._replicated
        children = make_children(ctx, [(process, None) for process in replicated.processes()])
        if isinstance(replicated.factory, Composable) or _is_async(replicated.factory):
            return children
        for index, child in enumerate(children):
            assert isinstance(child.process, _Replica)
            made = child.process.call(child.ctx)
            if isinstance(made, Composable):
                # A member like any other, so that its backend hears of it before anything starts.
                (children[index],) = make_children(ctx, [(_numbered(made, index), None)])
        return children

    async def _run_in(self, ctx: ProcessContext) -> PARResult[T_co]:
        children = self._start_children(ctx)
        try:
            if given_to(ctx) is None and "input" not in ctx.channels:
                for lack in chain.from_iterable(child.process.lacking() for child in children):
                    raise lack.error()
            return await self._run_children(ctx, children)
        finally:
            for child in children:
                if isinstance(child.process, _Replica):
                    child.process.forget()


class SEQ_FOR(_OfReplicas[SEQResult, Any], Sequential, kind="SEQ_FOR"):
    """Processes that run one after the other, as many as ``count``, made by a factory.

    Each finds on its channel ``input`` what the one before it passed on, as in :class:`stbass.SEQ`.

    Args:
        count: how many; or a function that says so when the composition starts.
        factory: as for :class:`PAR_FOR`, but a plain function is called for each index when its turn has come.
        on_failure: as for :class:`stbass.SEQ`.
        deadline: seconds; as for :class:`stbass.SEQ`.
        registry: as for :class:`stbass.SEQ`.
        budget: as for :class:`stbass.SEQ`.

    Raises:
        TypeError: an argument is of the wrong type, or a process needs more arguments than ``input`` brings.
        ValueError: the count or the deadline is out of range.
    """

    def __init__(
        self,
        count: Count,
        factory: Factory,
        *,
        on_failure: OnFailure = FailurePolicy.HALT,
        deadline: float | None = None,
        registry: BackendRegistry | None = None,
        budget: Budget | None = None,
    ) -> None:
        super().__init__(on_failure, deadline, registry, budget)
        self._set_replicated("SEQ_FOR", count, factory)

    async def _run_in(self, ctx: ProcessContext) -> SEQResult:
        children = make_children(ctx, [(process, None) for process in self._replicated.processes()])
        return await self._run_stages(ctx, children, self._asked(ctx, children))

    def _asked(self, ctx: ProcessContext, children: list[Child]) -> Iterator[Child]:
        """Each replica when its turn has come, and what its factory makes of it."""
        for index, child in enumerate(children):
            process, made = child.process, None
            if isinstance(process, _Replica) and not _is_async(self._replicated.factory):
                made = process.call(child.ctx)
            if isinstance(made, Composable):
                (child,) = make_children(ctx, [(_numbered(made, index), None)])
                children[index] = child
            yield child
