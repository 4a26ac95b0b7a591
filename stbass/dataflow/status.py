"""What a process or a component is doing."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Status"]


class Status(StrEnum):
    """Where a process or a component is in its life. The values are text, as they are stored."""

    CREATED = "created"
    """Made, not yet initialised."""
    INIT = "init"
    """Initialised, ready to step."""
    RUNNING = "running"
    """In a step."""
    WAITING = "waiting"
    """For input, or for room at its outputs."""
    COMPLETED = "completed"
    """It ended as it should."""
    FAILED = "failed"
    """It ended with an error."""
    STOPPED = "stopped"
    """It was told to stop before it had come to its end; also what happens to components when another one fails."""

    @property
    def is_terminal(self) -> bool:
        """Whether nothing more will happen."""
        return self in _TERMINAL


_TERMINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.STOPPED})
