"""A process's place in a workflow: what it depends on, whether it is required, where it runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stbass._values.endpoint import Placement
from stbass.workflow.config import ProcessConfig, ProcessId, checked_id

if TYPE_CHECKING:
    from stbass.workflow.process import BaseProcess

__all__ = ["WorkflowNode", "id_of"]


def id_of(value: object, what: str = "a process id") -> str:
    """The text of the id of a process, or that is one.

    Raises:
        TypeError: it is neither a process nor an id.
        ValueError: it is empty.
    """
    config = getattr(value, "config", None)
    return str(config.process_id) if isinstance(config, ProcessConfig) else checked_id(value, what)


@dataclass(frozen=True, eq=False)
class WorkflowNode:
    """A process's place in a workflow.

    Args:
        process: the process.
        dependencies: what must have ended before it starts: ids of processes, or these processes themselves.
        required: whether the workflow needs it to complete. What depends on a process that is not required and did not
            complete runs without its result; what depends on a required one is skipped.
        placement: where to run it, instead of here: the registry's backend for it does, as in ``PLACED_PAR``.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: it depends on itself, or twice on the same process.
    """

    process: BaseProcess
    dependencies: Sequence[str | ProcessId | BaseProcess] = ()
    required: bool = True
    placement: Placement | None = None

    def __post_init__(self) -> None:
        if not isinstance(getattr(self.process, "config", None), ProcessConfig):
            given: Any = self.process
            hint = "; its __init__ must call super().__init__(ProcessConfig(...))" if hasattr(given, "process") else ""
            raise TypeError(f"WorkflowNode takes a BaseProcess that has a config, got {given!r}{hint}")
        if isinstance(self.dependencies, (str, ProcessId)) or not isinstance(self.dependencies, Iterable):
            raise TypeError(f"the dependencies of {self.process_id!r} must be a list, got {self.dependencies!r}")
        if not isinstance(self.required, bool):
            raise TypeError(f"{self.process_id!r}: required must be True or False, got {self.required!r}")
        if not isinstance(self.placement, (Placement, type(None))):
            raise TypeError(f"{self.process_id!r}: placement must be a Placement or None, got {self.placement!r}")
        found: dict[str, None] = {}
        for dependency in self.dependencies:
            name = id_of(dependency, f"a dependency of {self.process_id!r}")
            if name == self.process_id:
                raise ValueError(f"node {name!r} depends on itself")
            if name in found:
                raise ValueError(f"node {self.process_id!r} depends on {name!r} twice")
            found[name] = None
        object.__setattr__(self, "dependencies", list(self.dependencies))
        object.__setattr__(self, "_depends_on", tuple(found))

    _depends_on = ()

    @property
    def process_id(self) -> str:
        """The id of its process, as a text."""
        return str(self.process.config.process_id)

    @property
    def depends_on(self) -> tuple[str, ...]:
        """The ids of its dependencies, as texts."""
        return self._depends_on
