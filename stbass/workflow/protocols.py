"""What the code that runs a process uses of the process, and a process of the workflow around it."""

from __future__ import annotations

from typing import Any, Protocol

from stbass.workflow.config import ProcessConfig
from stbass.workflow.state import ProcessMetadata

__all__ = ["ProcessLike", "WorkflowLike"]


class ProcessLike(Protocol):
    """What a ``BaseProcess`` is to the code that runs it."""

    config: ProcessConfig
    metadata: ProcessMetadata

    def process(self, input_data: Any) -> Any:
        """Its code, unless it overrides :meth:`execute`."""

    async def execute(self, input_data: Any) -> Any:
        """Its code, if it is async."""


class WorkflowLike(Protocol):
    """What a ``Workflow`` is to its processes."""

    process_id: str
    max_processes: int | None
    max_threads: int | None

    def add_node(self, node: Any) -> object:
        """Add a ``WorkflowNode``."""
