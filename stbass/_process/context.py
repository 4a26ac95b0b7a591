"""What a process is given when it runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol

from stbass._values.ids import new_id
from stbass._values.outcome import RunInfo, moment_of, utc_now
from stbass.observe import events
from stbass.timer import HasCheckpoint, running

if TYPE_CHECKING:
    from stbass._values.endpoint import Placement
    from stbass.channel import Chan

__all__ = ["ContextSink", "ProcessContext"]

_INHERITED = ("_deadline_at", "_deadline_span", "_registry", "_worker", "_slot")
_naming = threading.Lock()


class ContextSink(Protocol):
    """Where a backend receives what a process says about itself while it runs."""

    def checkpoint(self, value: Any) -> None:
        """Keep ``value`` where it outlives this Python process."""

    def progress(self, done: float, total: float | None, note: str) -> None:
        """Tell whoever waits for the process how far it is."""


@dataclass(init=False, eq=False)
class ProcessContext:
    """A running process's channels, deadline, checkpoints and metadata.

    Args:
        process_name: name of the process.
        process_id: id of this run; a fresh UUID by default.
        channels: named channels.
        parent: name of the composition around it.
        placement: where it was placed.
        deadline: when it is cancelled; a time without a zone is local time.

    Attributes:
        attempt: 1 for the first run, 2 for the next after a failure or the loss of a worker, and so on.
        resumed_from: the last checkpoint of an earlier attempt whose worker died, else None.
    """

    process_name: str
    process_id: str
    channels: dict[str, Chan[Any]]
    parent: str | None
    placement: Placement | None
    deadline: datetime | None
    attempt: int = 1
    resumed_from: Any = None

    # Defaults stay on the class: a context is made for every process, and few processes ever set these.
    _process_id: str | None = field(default=None, repr=False)
    _deadline: datetime | None = field(default=None, repr=False)
    # Monotonic: a clock that is set while the process runs must not move its deadline.
    _deadline_at: float | None = field(default=None, repr=False)
    # How many seconds the deadline was when it was set: what people know it by.
    _deadline_span: float | None = field(default=None, repr=False)
    _checkpoint: Any = field(default=None, repr=False)
    _started: float | None = field(default=None, repr=False)
    _started_elsewhere: datetime | None = field(default=None, repr=False)
    _sink: ContextSink | None = field(default=None, repr=False)
    _registry: Any = field(default=None, repr=False)
    _group: str | None = field(default=None, repr=False)
    _worker: str | None = field(default=None, repr=False)
    # The slot of the backend whose place this runs in, and whether this itself is counted among its users.
    _slot: Any = field(default=None, repr=False)
    _in_slot: bool = field(default=False, repr=False)
    # Of a stage: the values on its `input`, and what it has sent on its `output` (see stbass._engine.stage_context).
    _given: tuple[Any, ...] | None = field(default=None, repr=False)
    _sent: list[Any] | None = field(default=None, repr=False)
    # What has to be undone when the process ends: the ends of channels that it holds, by name and side; and who was
    # `running` before it, if it has saved a checkpoint.
    _unbind: dict[tuple[str, str], Callable[[], None]] | None = field(default=None, repr=False)
    _around: HasCheckpoint | None = field(default=None, repr=False)

    def __init__(
        self,
        process_name: str,
        process_id: str | None = None,
        channels: Mapping[str, Chan[Any]] | None = None,
        parent: str | None = None,
        placement: Placement | None = None,
        deadline: datetime | None = None,
    ) -> None:
        self.process_name = process_name
        self.channels = {} if channels is None else dict(channels)
        self.parent = parent
        self.placement = placement
        if process_id is not None:
            self._process_id = process_id
        if deadline is not None:
            self.deadline = deadline

    def child(
        self,
        process_name: str,
        *,
        parent: str | None = None,
        channels: Mapping[str, Chan[Any]] | None = None,
        placement: Placement | None = None,
        deadline_at: float | None = None,
    ) -> ProcessContext:
        """A context for a process inside this one: it inherits the deadline, if that is nearer, and the registry.

        Args:
            deadline_at: the child's own deadline on :func:`time.monotonic`.
        """
        made = ProcessContext(process_name, None, channels, parent or self.process_name, placement)
        made.__dict__.update(self._inherited())
        if deadline_at is not None:
            made._limit(deadline_at)
        return made

    def _inherited(self) -> dict[str, Any]:
        """What processes inside this one have from it; made once for all of them."""
        own = self.__dict__
        return {name: own[name] for name in _INHERITED if name in own}

    def _limit(self, deadline_at: float, span: float | None = None) -> bool:
        """Set the deadline, unless there is a nearer one. Whether it was set."""
        if self._deadline_at is not None and self._deadline_at <= deadline_at:
            return False
        self._deadline_at = deadline_at
        self._deadline_span = deadline_at - time.monotonic() if span is None else span
        self._deadline = None
        return True

    def _next_attempt(self) -> ProcessContext:
        """A context for running the same process once more after it failed."""
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__)
        made.attempt = self.attempt + 1
        made._process_id = made._checkpoint = made._started = made._started_elsewhere = made._unbind = None
        made._group = None
        return made

    def _bind(self, channels: Mapping[str, Chan[Any]]) -> None:
        """Add the channels that are bound to the process itself."""
        self.channels = {**self.channels, **channels}

    def _own_channels(self) -> dict[str, Chan[Any]]:
        """The channels that were bound, without those that stand for a stage's input and output."""
        return self.channels

    @property  # type: ignore[no-redef]
    def process_id(self) -> str:
        """Id of this run: as given, else a UUID made when first asked for."""
        if self._process_id is None:
            # In one step, so that two threads that ask at once see the same.
            with _naming:
                if self._process_id is None:
                    self._process_id = new_id()
        return self._process_id

    @process_id.setter
    def process_id(self, value: str) -> None:
        self._process_id = value

    @property  # type: ignore[no-redef]
    def deadline(self) -> datetime | None:
        """When the process is cancelled (with its zone), or None."""
        if self._deadline is None and self._deadline_at is not None:
            self._deadline = moment_of(self._deadline_at)
        return self._deadline

    @deadline.setter
    def deadline(self, value: datetime | None) -> None:
        self._deadline = value
        self._deadline_at = self._deadline_span = None
        if value is not None:
            now = utc_now() if value.tzinfo is not None else datetime.now()
            self._deadline_span = (value - now).total_seconds()
            self._deadline_at = time.monotonic() + self._deadline_span

    @property
    def remaining(self) -> float | None:
        """Seconds to the deadline, never below 0; None without a deadline."""
        return None if self._deadline_at is None else max(0.0, self._deadline_at - time.monotonic())

    @property
    def _started_at(self) -> datetime | None:
        if self._started_elsewhere is not None:
            return self._started_elsewhere
        return None if self._started is None else moment_of(self._started)

    @_started_at.setter
    def _started_at(self, value: datetime | None) -> None:
        # By a backend, for a process that runs on another machine.
        self._started_elsewhere = value

    def _run_info(self, started_at: datetime | None, ended_at: datetime | None) -> RunInfo:
        return RunInfo(
            self.process_name,
            self.process_id,
            started_at,
            ended_at,
            None,
            self._worker,
            self.attempt,
            self.placement,
        )

    @property
    def last_checkpoint(self) -> Any:
        """The last value given to :meth:`checkpoint`; before the first, what an earlier attempt left."""
        return self.resumed_from if self._checkpoint is None else self._checkpoint

    def get_channel(self, name: str) -> Chan[Any]:
        """The channel of that name.

        Raises:
            KeyError: there is none; the message names those there are.
        """
        try:
            return self.channels[name]
        except KeyError:
            known = ", ".join(sorted(self.channels)) or "none"
            raise KeyError(f"process {self.process_name!r} has no channel {name!r}; it has: {known}") from None

    async def recv(self, channel_name: str) -> Any:
        """Receive a value from a named channel, of which this process is then the reader until it ends.

        Raises:
            KeyError: there is no such channel.
            ChannelTopologyError: another process reads it.
            ChannelClosedError: it is closed.
        """
        channel = self.get_channel(channel_name)
        if self._unbind is None or (channel_name, "reader") not in self._unbind:
            self._hold_end(channel_name, "reader")
        return await channel.recv()

    async def send(self, channel_name: str, value: Any) -> None:
        """Send a value to a named channel, of which this process is then the writer until it ends.

        Raises:
            KeyError: there is no such channel.
            ChannelTopologyError: another process writes to it.
            ChannelTypeError: the value does not fit the channel's type.
            ChannelClosedError: it is closed.
        """
        channel = self.get_channel(channel_name)
        if self._unbind is None or (channel_name, "writer") not in self._unbind:
            self._hold_end(channel_name, "writer")
        await channel.send(value)

    def _hold_end(self, name: str, side: Literal["reader", "writer"]) -> None:
        channel = self.channels[name]
        if side == "reader":
            channel.bind_reader(self.process_id)
        else:
            channel.bind_writer(self.process_id)
        if self._unbind is None:
            self._unbind = {}
        self._unbind[name, side] = channel.unbind_reader if side == "reader" else channel.unbind_writer

    def _release(self) -> None:
        """Give the ends of its channels back, so that a later process may hold them."""
        if self._unbind is not None:
            held, self._unbind = self._unbind, None
            for unbind in held.values():
                unbind()
        if running.get() is self:
            running.set(self._around)

    def checkpoint(self, value: Any) -> None:
        """Save a checkpoint: it is in the failure if the process fails, and on a fleet it outlives the worker."""
        if self._sink is not None:
            # First: one that it refuses must not take the place of the last that was kept.
            self._sink.checkpoint(value)
        self._checkpoint = value
        around = running.get()
        if around is not self:
            # For timers, which tell it when they expire.
            self._around = around
            running.set(self)
            if self._unbind is None:
                self._unbind = {}
        if events.active():
            events.emit(self._event("checkpoint", value=value))

    def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """Say how far the process is: ``done`` of ``total`` (any unit; None: unknown), with a note for people."""
        if self._sink is not None:
            self._sink.progress(done, total, note)
        if events.active():
            events.emit(self._event("progress", done=done, total=total, note=note))

    def _event(self, kind: Any, **details: Any) -> events.Event:
        return events.Event(
            kind,
            self.process_name,
            self.process_id,
            self.parent,
            self.placement,
            self._worker,
            self.attempt,
            **details,
        )
