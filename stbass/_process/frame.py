"""What the engine, the wire and backends keep about a process that runs, behind the context that the user sees."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol, Self

from stbass._process.meter import Meter
from stbass._values.span import Span
from stbass.observe.events import Event

__all__ = ["ContextSink", "Frame", "RunRecorder"]

_INHERITED = ("deadline_at", "deadline_span", "meter", "recorder", "registry", "slot", "worker")


class ContextSink(Protocol):
    """Where a backend receives what a process says about itself while it runs."""

    def checkpoint(self, value: Any) -> None:
        """Keep ``value`` where it outlives this Python process."""

    def progress(self, done: float, total: float | None, note: str) -> None:
        """Tell whoever waits for the process how far it is."""


class RunRecorder(Protocol):
    """Keeps what happens in a run for those who follow it. From any thread."""

    run_id: str
    fleet: object
    """Where it keeps that, so that others who know the place may do it themselves; None: here."""

    def record(self, event: Event) -> None:
        """Something has happened.

        Raises:
            NotTransportable: it is an output whose value cannot be kept.
        """

    async def room(self) -> None:
        """Return when more outputs can be kept; at once, and without letting others run, if that is now."""

    async def flush(self) -> None:
        """Return when all that was recorded can be followed."""


class Frame:
    """Where a process runs and until when: :func:`stbass._process.context.frame_of` gives the record of a context.

    The engine, the wire and backends read and write it; processes do not see it. The processes of a composition share
    one until somebody asks for that of one of them: most that run here never need their own.
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
    """The :class:`stbass._engine.limiter.Slot` in which this runs: that of its backend, or of its worker's message."""
    in_slot: bool = False
    """Whether this process itself is counted among the users of the slot; not while it lends it."""
    lending: int = 0
    """How many waits of its own code lend the slot now."""
    path: str = ""
    """The names of what is around it, from the top, with a slash after each."""
    depth: int = 0
    """How many compositions of the same program are around it, one inside the other."""
    part_of: Frame | None = None
    """That of the process whose own code has made this, and may wait for what runs in it."""
    meter: Meter | None = None
    """Of the composition around, or of the process whose code has made this: what is used here counts there too."""
    worker: str | None = None
    """Who runs it; None: this event loop."""
    group: str | None = None
    """Id of the group that its backend knows it in."""
    place: tuple[int, Sequence[str | None]] | None = None
    """Where it stands in that group, and all of that (see ``GroupPart``); None: its backend has the whole group."""
    sink: ContextSink | None = None
    """Who is told of its checkpoints and progress."""
    recorder: RunRecorder | None = None
    """Of the run that it belongs to, if somebody has started that to be followed."""

    inside: Sequence[Span] = ()
    """Of a composition that has ended: who has run in it."""

    shared: bool = False
    """Whether several contexts may have this record. It is never changed then."""
    started_elsewhere: datetime | None = None
    """When it started on another clock than this Python process's."""

    def inherited(self, name: str) -> Self:
        """What holds for the processes inside this one, of that name, too: a record for all of them to share."""
        own = self.__dict__
        found = {each: own[each] for each in _INHERITED if each in own}
        found["path"] = f"{self.path}{name}/"
        return self._copy(found, shared=True)

    def grouped(self, group: str) -> Self:
        """A copy for those of the processes that share this record that are in a group."""
        return self._copy({**self.__dict__, "group": group}, shared=True)

    def unshared(self) -> Self:
        """A copy, for one context alone."""
        return self._copy(self.__dict__, shared=False)

    def _copy(self, fields: dict[str, Any], *, shared: bool) -> Self:
        made = type(self)()
        made.__dict__ = {**fields, "shared": shared}
        return made

    def limit(self, deadline_at: float, span: float | None = None) -> None:
        """Set the deadline, unless there is a nearer one."""
        if self.deadline_at is None or deadline_at < self.deadline_at:
            self.deadline_at = deadline_at
            self.deadline_span = deadline_at - time.monotonic() if span is None else span
            self.deadline = None
