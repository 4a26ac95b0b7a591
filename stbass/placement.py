"""Where processes run: placements, backends, and what sends each process to its own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Self

from typing_extensions import TypeVar

from stbass._engine.backend import ExecutionBackend, GroupPart
from stbass._engine.composition import PlacedProcess, checked_composable
from stbass._engine.lending import lent
from stbass._engine.local import LocalBackend
from stbass._engine.registry import BackendRegistry, backend_class, default_registry
from stbass._process.context import Composable
from stbass._values.checks import checked_deadline
from stbass._values.endpoint import Placement
from stbass._values.outcome import ProcessResult
from stbass._values.policy import FailurePolicy, OnFailure
from stbass._values.texts import value_text
from stbass._values.usage import Budget
from stbass.errors import BackendUnavailableError
from stbass.par import Parallel, PARResult

__all__ = [
    "PLACED_PAR",
    "BackendRegistry",
    "ExecutionBackend",
    "LocalBackend",
    "Placement",
    "backend_class",
    "default_registry",
]

T_co = TypeVar("T_co", covariant=True, default=Any)
Pair = tuple[Composable[T_co], Placement] | Composable[T_co]

_NAMED = 5


class PLACED_PAR(Parallel[T_co], kind="PLACED_PAR"):
    """Processes that run at once, each where its placement says.

    Args:
        pairs: ``(process, placement)``; a process without a pair runs where its own default placement says.
        on_failure: as for :class:`stbass.PAR`.
        deadline: seconds; as for :class:`stbass.PAR`.
        limit: how many run at the same time, on all backends together.
        registry: which backend a placement stands for; by default that of the composition around it, else
            :func:`default_registry`.
        budget: as for :class:`stbass.PAR`.

    Raises:
        TypeError: an argument is of the wrong type, or a process needs more arguments than ``input`` brings.
        ValueError: the deadline or the limit is out of range.
    """

    def __init__(
        self,
        *pairs: Pair[T_co],
        on_failure: OnFailure = FailurePolicy.HALT,
        deadline: float | None = None,
        limit: int | None = None,
        registry: BackendRegistry | None = None,
        budget: Budget | None = None,
    ) -> None:
        super().__init__(on_failure, deadline, limit, registry, budget)
        self._set_members(tuple(_checked_pair(pair, index) for index, pair in enumerate(pairs)))

    @property
    def pairs(self) -> tuple[PlacedProcess, ...]:
        """Each process with its placement; None where it was given none."""
        return tuple(self._members)

    @classmethod
    async def attach(
        cls,
        group_id: str,
        *,
        registry: BackendRegistry | None = None,
        backend: ExecutionBackend | None = None,
        deadline: float | None = None,
    ) -> PARResult:
        """Wait for the results of a group that was started elsewhere, also if whoever started it is gone.

        A process that ran in the program that started the group is a failure: nobody else knows its result.

        Args:
            group_id: the id of :attr:`PARResult.group` there.
            registry: the backends that know groups are looked for there; :func:`default_registry` by default. All to
                which processes of the group were sent must be there.
            backend: the only backend to ask, instead.
            deadline: seconds to wait; what has no result then is a failure.

        Raises:
            LookupError: no backend that knows groups is registered, or none knows such a group, or they do not know all
                of it; the message says what is missing.
            BackendUnavailableError: a backend that may know what is missing cannot be reached.
        """
        seconds = checked_deadline(deadline)
        backends = [backend] if backend else _with_groups(default_registry() if registry is None else registry)
        parts = await _parts_of(group_id, backends)
        members = parts[0].members
        outcome: dict[int, tuple[ProcessResult, bool]] = {
            place: (_known_to_its_program(group_id, place), False) for place, one in enumerate(members) if one is None
        }
        waiting = [asyncio.ensure_future(_results(part, seconds)) for part in parts]
        try:
            async with lent():
                for found in await asyncio.gather(*waiting):
                    outcome |= found
        finally:
            for one in waiting:
                one.cancel()
        results = [outcome[place] for place in range(len(members))]
        optional = frozenset(index for index, (_, is_optional) in enumerate(results) if is_optional)
        return PARResult([result for result, _ in results], None, optional)

    def parts(self) -> dict[str, Any]:
        """Its processes, where each was placed, and what the constructor was given beside them."""
        return {**super().parts(), "placements": [placement for _, placement in self._members]}

    @classmethod
    def from_parts(cls, parts: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`parts`."""
        pairs = zip(parts["processes"], parts["placements"], strict=True)
        return cls._make(parts, *(process if where is None else (process, where) for process, where in pairs))


def _checked_pair(pair: object, index: int) -> PlacedProcess:
    where = f"argument {index} of PLACED_PAR"
    if isinstance(pair, Composable):
        return pair, None
    if not isinstance(pair, (tuple, list)):
        checked_composable(pair, where)
    elif len(pair) == 2:
        process, placement = pair
        if isinstance(process, Placement) and isinstance(placement, Composable):
            raise TypeError(f"{where} is a pair the wrong way round: write (process, placement)")
        if not isinstance(placement, Placement):
            hint = f'; write Placement(endpoint="{placement}")' if isinstance(placement, str) else ""
            raise TypeError(f"{where}: the second of the pair must be a Placement, got {value_text(placement)}{hint}")
        return checked_composable(process, f"{where}: the first of the pair"), placement
    raise TypeError(f"{where} must be a pair (process, placement) or a process, got {value_text(pair)}")


def _with_groups(registry: BackendRegistry) -> list[ExecutionBackend]:
    found = [backend for backend in registry.backends if backend.has_groups]
    if not found:
        raise LookupError(
            f"no backend that knows groups is registered (there are: {', '.join(registry.names) or 'none'});"
            " pass backend= or register a CeleryBackend"
        )
    return found


async def _parts_of(group_id: str, backends: list[ExecutionBackend]) -> list[GroupPart]:
    """What the backends have of a group, each process once, and all of them."""
    parts: list[GroupPart] = []
    found: set[int] = set()
    errors: list[LookupError | BackendUnavailableError] = []
    for backend in backends:
        try:
            part = await backend.find_group(group_id)
        except (LookupError, BackendUnavailableError) as error:
            errors.append(error)
            continue
        # Several backends may look in the same place.
        if not found.issuperset(part.places):
            found.update(part.places)
            parts.append(part)
    if not parts:
        raise next((error for error in errors if isinstance(error, BackendUnavailableError)), errors[0])
    members = parts[0].members
    missing = [one for place, one in enumerate(members) if one is not None and place not in found]
    if missing:
        unreached = [error for error in errors if isinstance(error, BackendUnavailableError)]
        if unreached:
            raise unreached[0]
        named = ", ".join(missing[:_NAMED]) + (", …" if len(missing) > _NAMED else "")
        raise LookupError(
            f"group {group_id} has {len(members)} processes, and {len(missing)} of them are not known here: {named}."
            f" Register every backend that they were sent to, and not only {', '.join(one.name for one in backends)}"
        )
    return parts


async def _results(part: GroupPart, deadline: float | None) -> dict[int, tuple[ProcessResult, bool]]:
    return dict(zip(part.places, await part.results(deadline), strict=True))


def _known_to_its_program(group_id: str, place: int) -> ProcessResult:
    return ProcessResult.fail(
        LookupError(
            f"process {place} of group {group_id} ran in the program that started the group, and nobody else knows its"
            " result"
        )
    )
