"""Where processes run: placements, backends, and what sends each process to its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from stbass._engine.backend import ExecutionBackend
from stbass._engine.composition import PlacedProcess, checked_composable
from stbass._engine.local import LocalBackend
from stbass._engine.registry import BackendRegistry, backend_class, default_registry
from stbass._process.context import Composable
from stbass._values.checks import checked_deadline
from stbass._values.endpoint import Placement
from stbass._values.policy import FailurePolicy, OnFailure
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

Pair = tuple[Composable, Placement] | Composable


class PLACED_PAR(Parallel, kind="PLACED_PAR"):
    """Processes that run at once, each where its placement says.

    Args:
        pairs: ``(process, placement)``; a process without a pair runs where its own default placement says.
        on_failure: as for :class:`stbass.PAR`.
        deadline: seconds; as for :class:`stbass.PAR`.
        limit: how many run at the same time, on all backends together.
        registry: which backend a placement stands for; by default that of the composition around it, else
            :func:`default_registry`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: the deadline or the limit is out of range.
    """

    def __init__(
        self,
        *pairs: Pair,
        on_failure: OnFailure = FailurePolicy.HALT,
        deadline: float | None = None,
        limit: int | None = None,
        registry: BackendRegistry | None = None,
    ) -> None:
        super().__init__(on_failure, deadline, limit, registry)
        self._members = tuple(_checked_pair(pair, index) for index, pair in enumerate(pairs))

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

        Args:
            group_id: the id of :attr:`PARResult.group` there.
            registry: where a backend that knows groups is looked for; :func:`default_registry` by default.
            backend: the backend itself.
            deadline: seconds to wait; what has no result then is a failure.

        Raises:
            LookupError: no backend that knows groups is registered, or it knows no such group.
        """
        seconds = checked_deadline(deadline)
        if backend is None:
            backend = _first_with_groups(default_registry() if registry is None else registry)
        outcome = await backend.attach_group(group_id, seconds)
        optional = frozenset(index for index, (_, is_optional) in enumerate(outcome) if is_optional)
        return PARResult([result for result, _ in outcome], None, optional)

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
            raise TypeError(f"{where}: the second of the pair must be a Placement, got {placement!r}{hint}")
        return checked_composable(process, f"{where}: the first of the pair"), placement
    raise TypeError(f"{where} must be a pair (process, placement) or a process, got {pair!r}")


def _first_with_groups(registry: BackendRegistry) -> ExecutionBackend:
    for backend in registry.backends:
        if type(backend).attach_group is not ExecutionBackend.attach_group:
            return backend
    raise LookupError(
        f"no backend that knows groups is registered (there are: {', '.join(registry.names) or 'none'});"
        " pass backend= or register a CeleryBackend"
    )
