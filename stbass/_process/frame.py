"""What the engine, the wire and backends keep about a process that runs, behind the context that the user sees."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any, Protocol, Self

__all__ = ["ContextSink", "Frame"]

_INHERITED = ("deadline_at", "deadline_span", "registry", "slot", "worker")


class ContextSink(Protocol):
    """Where a backend receives what a process says about itself while it runs."""

    def checkpoint(self, value: Any) -> None:
        """Keep ``value`` where it outlives this Python process."""

    def progress(self, done: float, total: float | None, note: str) -> None:
        """Tell whoever waits for the process how far it is."""


class Frame:
    """Where a process runs and until when: :func:`stbass._process.context.frame_of` gives the record of a context.

    The engine, the wire and backends read and write it; processes do not see it. A context has one of its own only
    when somebody asks for it: a process that runs here without a deadline has nothing to remember.
    """

    deadline_at: float | None = None
    """On :func:`time.monotonic`: a clock that is set while the process runs must not move its deadline."""
    deadline_span: float | None = None
    """How many seconds the deadline was when it was set: what people know it by."""
    deadline: datetime | None = None
    """The deadline as a date, once somebody has asked for it."""
    registry: Any = None
    """The :class:`stbass._engine.registry.BackendRegistry` that placements are looked up in; None: the default one."""
    slot: Any = None
    """The :class:`stbass._engine.limiter.Slot` of the backend in whose place this runs."""
    in_slot: bool = False
    """Whether this process itself is counted among the users of the slot."""
    worker: str | None = None
    """Who runs it; None: this event loop."""
    group: str | None = None
    """Id of the group that its backend knows it in."""
    sink: ContextSink | None = None
    """Who is told of its checkpoints and progress."""

    started_elsewhere: datetime | None = None
    """When it started on another clock than this Python process's."""

    def inherited(self) -> dict[str, Any]:
        """What holds for processes inside this one too; made once for all of them, for :meth:`inside`."""
        own = self.__dict__
        return {name: own[name] for name in _INHERITED if name in own}

    @classmethod
    def inside(cls, inherited: dict[str, Any]) -> Self:
        """The record of a process inside another."""
        made = cls()
        made.__dict__.update(inherited)
        return made

    def limit(self, deadline_at: float, span: float | None = None) -> None:
        """Set the deadline, unless there is a nearer one."""
        if self.deadline_at is None or deadline_at < self.deadline_at:
            self.deadline_at = deadline_at
            self.deadline_span = deadline_at - time.monotonic() if span is None else span
            self.deadline = None
