"""What can stand where a process can, what it is given when it runs, and one run of it."""

from __future__ import annotations

import asyncio
import copy
import inspect
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from time import monotonic
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, Generic, Literal, Self

from typing_extensions import TypeVar

from stbass._channels.transport import NOTHING
from stbass._process.arguments import Lacking
from stbass._process.frame import Frame
from stbass._process.logs import NO_FIELDS, LogFields, ProcessLog, carry
from stbass._process.meter import Meter
from stbass._process.sync_threads import shared_threads
from stbass._values.checks import refuse_unrun
from stbass._values.endpoint import Placement
from stbass._values.ids import new_id
from stbass._values.masking import masked
from stbass._values.outcome import Failure, ProcessResult, RunInfo, moment_of, outcome_of_run, utc_now
from stbass._values.span import Span
from stbass._values.texts import plain_text, progress_text, shortened, traceback_text, value_text
from stbass._values.usage import NO_USAGE, Usage, checked_usage
from stbass._values.waits import ChannelWaits, Direction, WaitTally
from stbass.channel import Chan
from stbass.errors import ProcessCancelled, ProcessFailed
from stbass.observe import events, spans
from stbass.timer import running

__all__ = [
    "Composable",
    "ProcessContext",
    "age_of",
    "begin_span",
    "call_in_thread",
    "changed",
    "changes_since",
    "checked_name",
    "count_usage",
    "emit_event",
    "failure_of",
    "frame_of",
    "give",
    "given_to",
    "held_by",
    "hold_end",
    "inherit",
    "let_belong",
    "let_hold",
    "meter_of",
    "next_attempt",
    "note_sent",
    "optional_among",
    "own_channels",
    "owner_in",
    "peek_frame",
    "progress_of",
    "running_as",
    "running_context",
    "sent_by",
    "top_context",
    "with_all_attempts",
]

C = TypeVar("C", bound="Composable[Any]")
V_co = TypeVar("V_co", covariant=True, default=Any)
T = TypeVar("T", bound="ProcessContext")

_NO_CHANNELS: Mapping[str, Chan[Any]] = {}
_naming = threading.Lock()
_LONGEST_NAME = 1000
_LOOKED_AT = 64
_UNRUN = (GeneratorType, AsyncGeneratorType, CoroutineType)

# Of contexts that have inherited nothing.
_NO_FRAME = Frame()
_NO_FRAME.shared = True


class _WaitingThread:
    """How the thread of a sync process waits for what happens on the event loop, until the process has ended."""

    def __init__(self, process_name: str) -> None:
        self._process_name = process_name
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[Any]] | None = set()

    def wait_for(self, operation: Coroutine[Any, Any, Any]) -> Any:
        """Called in the thread. Raises whatever the operation does."""
        return asyncio.run_coroutine_threadsafe(self._await(operation), self._loop).result()

    async def _await(self, operation: Coroutine[Any, Any, Any]) -> Any:
        task = asyncio.current_task()
        if self._tasks is None or task is None:
            operation.close()
            raise ProcessCancelled(f"process {self._process_name!r} has ended, and this thread of it was left behind")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await operation

    def end(self) -> None:
        """The process has ended: nothing of it is to wait any more."""
        tasks, self._tasks = self._tasks or set(), None
        for task in list(tasks):
            task.cancel()


def _is_forgotten(operation: Any) -> bool:
    return inspect.getcoroutinestate(operation) == inspect.CORO_CREATED


def _call_of(operation: Any) -> str:
    channel = operation.cr_frame.f_locals.get("channel_name")
    return f"ctx.{operation.cr_code.co_name.lstrip('_')}({'…' if channel is None else repr(channel)})"


class _Outline:
    """What a result says about where a process ran, once nothing else of its context is needed."""

    __slots__ = ("_about", "_inside", "_meter", "_process_id", "_waits")

    def __init__(
        self,
        process_id: str | None,
        meter: Meter | None,
        inside: Sequence[Span],
        waits: ChannelWaits | None,
        *about: Any,
    ) -> None:
        self._process_id, self._meter, self._inside, self._waits, self._about = process_id, meter, inside, waits, about

    def outline(self) -> Self:
        return self

    def run_info(self, started_at: datetime | None, ended_at: datetime | None) -> RunInfo:
        name, worker, attempt, placement = self._about
        used = None if self._meter is None else self._meter.total or None
        process_id = self._process_id or new_id()
        return RunInfo(
            name, process_id, started_at, ended_at, None, worker, attempt, placement, used, self._inside, self._waits
        )


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
        resumed_from: the last checkpoint of an earlier attempt that failed or whose worker died, else None.
    """

    process_name: str
    process_id: str
    channels: dict[str, Chan[Any]]
    parent: str | None
    placement: Placement | None
    deadline: datetime | None
    attempt: int = 1
    resumed_from: Any = None

    # Defaults stay on the class: a context is made for every process, and few processes ever set these. Those that are
    # read for every process are set when it is made all the same, because CPython 3.11 finds them faster then.
    _frame: Frame = field(default=_NO_FRAME, repr=False)
    _process_id: str | None = field(default=None, repr=False)
    _checkpoint: Any = field(default=None, repr=False)
    _progress: tuple[Any, Any, str] | None = field(default=None, repr=False)
    # When it started, on time.monotonic.
    _started: float | None = field(default=None, repr=False)
    # Of a stage: the values on its `input`, what it has sent on its `output`, and that channel, if it was asked for
    # (see stbass._engine.stage_context).
    _given: tuple[Any, ...] | None = field(default=None, repr=False)
    _sent: list[Any] | None = field(default=None, repr=False)
    _output: Chan[Any] | None = field(default=None, repr=False)
    # What has to be undone when the process ends: the ends of channels that it holds, by name and side.
    _held: dict[tuple[str, str], Callable[[], None]] | None = field(default=None, repr=False)
    # What it has used, in all its attempts, once it has used something or run something of its own.
    _meter: Meter | None = field(default=None, repr=False)
    # How long it has waited in channels, once it has for long.
    _waits: WaitTally | None = field(default=None, repr=False)
    # What was begun with it latest, and what had not ended when the next was begun: it may not have been awaited.
    _latest: Any = field(default=None, repr=False)
    _earlier: list[Any] | None = field(default=None, repr=False)
    # Of a sync process: how its thread waits for what happens on the event loop.
    _thread: _WaitingThread | None = field(default=None, repr=False)
    # Who is told which ends of channels it uses, if somebody counts them.
    _holder: Any = field(default=None, repr=False)

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
        self.channels = dict(channels) if channels else {}
        self.parent = parent
        self.placement = placement
        self._output = self._sent = self._held = self._latest = self._thread = None
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
        frame = self._frame.inherited(self.process_name)
        frame.meter = meter_of(self)
        inherit(made, frame)
        if self._frame.slot is not None:
            frame_of(made).part_of = self._frame
        made._holder = self._holder
        if deadline_at is not None:
            frame_of(made).limit(deadline_at)
        return made

    def __getstate__(self) -> dict[str, Any]:
        # A copy, pickled or not, has a frame of its own, has begun nothing, and is counted by nobody.
        begun = dict.fromkeys(("_latest", "_earlier", "_thread", "_holder", "_waits"))
        return {**self.__dict__, "_frame": self._frame.unshared(), **begun}

    def _again(self) -> Self:
        made = copy.copy(self)
        made.attempt += 1
        made._process_id = made._checkpoint = made._started = made._held = made._sent = made._output = None
        made._progress = made._waits = None
        frame = made._frame
        frame.started_elsewhere = frame.group = None
        frame.inside = ()
        return made

    def _bind(self, channels: Mapping[str, Chan[Any]]) -> None:
        self.channels = {**self.channels, **channels}

    def _own_channels(self) -> dict[str, Chan[Any]]:
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
        frame = frame_of(self)
        if frame.deadline is None and frame.deadline_at is not None:
            frame.deadline = moment_of(frame.deadline_at)
        return frame.deadline

    @deadline.setter
    def deadline(self, value: datetime | None) -> None:
        frame = frame_of(self)
        frame.deadline = value
        frame.deadline_at = frame.deadline_span = None
        if value is not None:
            now = utc_now() if value.tzinfo is not None else datetime.now()
            frame.deadline_span = (value - now).total_seconds()
            frame.deadline_at = monotonic() + frame.deadline_span

    @property
    def remaining(self) -> float | None:
        """Seconds to the deadline, never below 0; None without a deadline."""
        deadline_at = self._frame.deadline_at
        return None if deadline_at is None else max(0.0, deadline_at - monotonic())

    def run_info(self, started_at: datetime | None, ended_at: datetime | None) -> RunInfo:
        """What the result of this run says about where and when it ran."""
        self.process_id  # noqa: B018 - makes it, if nobody has asked before
        return self.outline().run_info(started_at, ended_at)

    def outline(self) -> _Outline:
        """One that says the same, and keeps no values of the process alive."""
        frame = self._frame
        waits = None if self._waits is None else self._waits.so_far()
        about = self.process_name, frame.worker, self.attempt, self.placement
        return _Outline(self._process_id, self._meter, frame.inside, waits, *about)

    def note_wait(self, channel: str, direction: Direction, since: float, seconds: float) -> None:
        """It has waited so long in a channel; ``since`` is when that began. For channels, which see to it."""
        if self._waits is None:
            self._waits = WaitTally()
        self._waits.add(channel, direction, max(0.0, since - (self._started or since)), seconds)

    @property
    def used(self) -> Usage:
        """What it has used, as it said with :meth:`usage`, with all that it has run."""
        return NO_USAGE if self._meter is None else self._meter.total

    @property
    def log(self) -> ProcessLog:
        """A logger whose records say which process they come from.

        Records that others write in the process's own code, on whatever logger, say so too: each has an attribute
        ``stbass_process`` with ``process``, ``id``, ``attempt``, ``endpoint`` and ``run``.
        """
        return ProcessLog(partial(running_as, self))

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

    def recv(self, channel_name: str) -> Any:
        """Receive a value from a named channel, of which this process is then the reader until it ends.

        To be awaited; in a sync process, which runs in a thread, it waits and gives back the value itself.

        Raises:
            KeyError: there is no such channel.
            ChannelTopologyError: another process reads it.
            ChannelClosedError: it is closed.
        """
        return self._begin(self._recv(channel_name))

    async def _recv(self, channel_name: str) -> Any:
        channel = self.get_channel(channel_name)
        if self._held is None or (channel_name, "reader") not in self._held:
            hold_end(self, channel_name, "reader")
        return await channel.recv()

    def send(self, channel_name: str, value: Any) -> Any:
        """Send a value to a named channel, of which this process is then the writer until it ends.

        To be awaited, as :meth:`recv`.

        Raises:
            KeyError: there is no such channel.
            ChannelTopologyError: another process writes to it.
            ChannelTypeError: the value does not fit the channel's type.
            ChannelClosedError: it is closed.
        """
        return self._begin(self._send(channel_name, value))

    async def _send(self, channel_name: str, value: Any) -> None:
        channel = self.get_channel(channel_name)
        if self._held is None or (channel_name, "writer") not in self._held:
            hold_end(self, channel_name, "writer")
        await channel.send(value)

    def _begin(self, operation: Coroutine[Any, Any, Any]) -> Any:
        """Give it to whoever is to await it; in the thread of a sync process, wait for it."""
        if self._thread is not None and asyncio._get_running_loop() is None:
            return self._thread.wait_for(operation)
        last, self._latest = self._latest, operation
        if last is not None and last.cr_frame is not None:
            # It has not ended: it was forgotten, or goes on beside this one.
            if self._earlier is None:
                self._earlier = []
            elif not len(self._earlier) % _LOOKED_AT:
                self._earlier[:] = filter(_is_forgotten, self._earlier)
            self._earlier.append(last)
        return operation

    async def _forgotten(self) -> Exception | None:
        """The error of a process that has ended and did not await what it began."""
        begun = [*(self._earlier or ()), self._latest]
        if not any(map(_is_forgotten, begun)):
            return None
        await asyncio.sleep(0)  # what was handed to a task has begun after that
        found = list(filter(_is_forgotten, begun))
        if not found:
            return None
        calls = [_call_of(one) for one in found]
        for one in found:
            one.close()
        what = f"{calls[0]} without await" + (f", and did so {len(calls)} times" if len(calls) > 1 else "")
        return ProcessFailed(f"process {self.process_name!r} called {what}, so nothing moved: write await {calls[0]}")

    def _release(self) -> None:
        """Give the ends of its channels back, so that a later process may hold them."""
        held, self._held = self._held, None
        for give_back in (held or {}).values():
            give_back()

    def _drain_output(self) -> None:
        if self._output is not None:
            sent = self._sent or []
            while (value := self._output.link.try_take()) is not NOTHING:
                sent.append(value)
            self._sent = sent

    @property
    def _started_at(self) -> datetime | None:
        if self._frame.started_elsewhere is not None:
            return self._frame.started_elsewhere
        return None if self._started is None else moment_of(self._started)

    def checkpoint(self, value: Any) -> None:
        """Save a checkpoint: it is in the failure if the process fails, and on a fleet it outlives the worker."""
        if self._frame.sink is not None:
            # First: one that it refuses must not take the place of the last that was kept.
            self._frame.sink.checkpoint(value)
        self._checkpoint = value
        emit_event(self, "checkpoint", value=value)

    def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """Say how far the process is: ``done`` of ``total`` (any unit; None: unknown), with a note for people."""
        if note:
            note = masked(plain_text(note))
        self._progress = (done, total, note)
        if self._frame.sink is not None:
            self._frame.sink.progress(done, total, note)
        emit_event(self, "progress", done=done, total=total, note=note)

    def emit(self, value: Any) -> Any:
        """Say something to those who follow the run that this process belongs to (see :func:`stbass.start`).

        A token, a row, a part of the answer. To be awaited, as :meth:`recv`; it waits only while far too much is yet to
        be written. Nothing is kept of it if nobody has started the process as a run. What a process emits and the
        checkpoint that it makes next, with nothing awaited in between that waits, are kept together or not at all.

        Raises:
            NotTransportable: it belongs to a run, and the value cannot travel or is too large.
        """
        return self._begin(self._emit(value))

    async def _emit(self, value: Any) -> None:
        if self._frame.recorder is not None:
            await self._frame.recorder.room()
        emit_event(self, "output", value=value)

    def usage(self, *, tokens_in: int = 0, tokens_out: int = 0, cost: float = 0.0, model: str | None = None) -> None:
        """Say what has been used since the last time: it is in the results, and counts for the budgets around.

        Args:
            tokens_in: tokens that a model was given.
            tokens_out: tokens that it gave.
            cost: in whatever currency the program reckons.
            model: which model, to be counted by itself too.

        Raises:
            TypeError: tokens are not whole numbers, the cost is not a number, or the model is not named by a str.
            ValueError: a number is negative, not finite, or beyond all reason.
            BudgetExceeded: it has been counted, and a budget is used up by it.
        """
        meter = meter_of(self)
        meter.add(checked_usage(tokens_in, tokens_out, cost, model))
        for limited in meter.limits:
            if (spent := limited.spent) is not None:
                raise spent


# For the library: the user's face of a context stays small.


async def call_in_thread(function: Callable[[ProcessContext], Any], ctx: ProcessContext) -> Any:
    """Call a sync process in a thread, where ``ctx.recv`` and ``ctx.send`` wait, instead of being awaited."""
    thread = ctx._thread = _WaitingThread(ctx.process_name)
    try:
        return await shared_threads().call_plain(function, ctx)
    finally:
        thread.end()


def frame_of(ctx: ProcessContext) -> Frame:
    """Where the process runs and until when, to be read and changed."""
    if ctx._frame.shared:
        ctx._frame = ctx._frame.unshared()
    return ctx._frame


def peek_frame(ctx: ProcessContext) -> Frame:
    """As :func:`frame_of`, but only to be read: other contexts may have the same record."""
    return ctx._frame


def let_belong(contexts: Iterable[ProcessContext], group: str) -> None:
    """Note in which group a backend knows these processes; those that share a frame go on sharing one."""
    before = shared = _NO_FRAME
    for ctx in contexts:
        if not ctx._frame.shared:
            ctx._frame.group = group
            continue
        if ctx._frame is not before:
            before, shared = ctx._frame, ctx._frame.grouped(group)
        ctx._frame = shared


def running_context() -> ProcessContext | None:
    """The context of the process whose own code this is called by, if it is called by any.

    So the tasks of a list, the nodes of a workflow and the components of a dataflow process find theirs, and functions
    that processes call. It follows the code as context variables do: not into threads that the process starts itself.
    """
    found = running.get()
    return found if isinstance(found, ProcessContext) else None


def top_context(name: str, channels: Mapping[str, Chan[Any]] | None = None) -> ProcessContext:
    """A context for what a program runs by itself.

    Inside a process it inherits what a part of that process would: the deadline, where placements are looked up, the
    worker. Its parent is that process.
    """
    around = running_context()
    return ProcessContext(name, None, channels) if around is None else around.child(name, channels=channels)


@contextmanager
def running_as(ctx: ProcessContext) -> Iterator[None]:
    """Let what is called meanwhile be a part of the code of this process."""
    token = running.set(ctx)
    try:
        yield
    finally:
        running.reset(token)


def _log_fields() -> LogFields:
    """Of the process whose own code this is called by."""
    ctx = running_context()
    if ctx is None:
        return NO_FIELDS
    fields = LogFields(process=shortened(ctx.process_name, _LONGEST_NAME), id=ctx.process_id, attempt=ctx.attempt)
    if ctx.placement is not None and ctx.placement.endpoint is not None:
        fields["endpoint"] = shortened(ctx.placement.endpoint, _LONGEST_NAME)
    meter = ctx._frame.meter
    fields["run"] = ctx.process_id if meter is None else meter.run_id
    if (worker := ctx._frame.worker) is not None:
        fields["worker"] = shortened(worker, _LONGEST_NAME)
    return fields


carry(_log_fields)


def meter_of(ctx: ProcessContext) -> Meter:
    """What counts the usage of a process, or of a composition."""
    if ctx._meter is None:
        ctx._meter = Meter(ctx._frame.meter)
    return ctx._meter


def owner_in(ctx: T, *, apart: bool) -> T:
    """A context for a composition that runs in ``ctx``: the same, but what it sets is not seen there.

    Args:
        apart: whether it counts its usage by itself, too, beside that of ``ctx``; else its further attempts go on
            counting.
    """
    meter = meter_of(ctx)
    frame = ctx._frame.unshared()
    frame.in_slot, frame.lending = False, 0
    made = object.__new__(type(ctx))
    made.__dict__ = {**ctx.__dict__, "_frame": frame, "_meter": Meter(meter) if apart else meter}
    return made


def count_usage(ctx: ProcessContext, usage: Usage) -> None:
    """A process that runs elsewhere has used something."""
    meter_of(ctx).add(usage)


def with_all_attempts(result: ProcessResult, ctx: ProcessContext) -> ProcessResult:
    """The result of an attempt, with what all attempts have used."""
    used = ctx.used
    if not used or result.usage == used:
        return result
    run = replace(result.run or ctx.run_info(None, None), usage=used)
    if result.is_ok:
        return ProcessResult(True, result.value, None, result.elapsed, run)
    return ProcessResult(False, None, replace(result.failure, usage=used), result.elapsed, run)


def inherit(ctx: ProcessContext, inherited: Frame) -> None:
    """Let a new context have what :meth:`Frame.inherited` says of the one around it."""
    ctx._frame = inherited


def give(ctx: ProcessContext, values: tuple[Any, ...]) -> None:
    """Put ``values`` on the ``input`` of a stage that has not started."""
    ctx._given = values


def given_to(ctx: ProcessContext) -> tuple[Any, ...] | None:
    """The values on the ``input`` of a stage, or of the stage that a composition is; None: it is no stage."""
    return ctx._given


def sent_by(ctx: ProcessContext) -> list[Any] | None:
    """What a stage that has ended has sent on its ``output``."""
    return ctx._sent


def note_sent(ctx: ProcessContext, values: list[Any]) -> None:
    """A stage has sent ``values`` elsewhere."""
    ctx._sent = values


def next_attempt(ctx: T) -> T:
    """A context for running the same process once more after it failed."""
    return ctx._again()


def own_channels(ctx: ProcessContext) -> dict[str, Chan[Any]]:
    """The channels that were bound, without those that stand for a stage's input and output."""
    return ctx._own_channels()


def held_by(ctx: ProcessContext) -> Any:
    """The :class:`stbass._engine.holders.Holder` that a process is for its channels; None: nobody counts them."""
    return ctx._holder


def let_hold(ctx: ProcessContext, holder: Any) -> None:
    """Tell ``holder`` which ends of channels the process uses."""
    ctx._holder = holder


def hold_end(ctx: ProcessContext, name: str, side: Literal["reader", "writer"]) -> None:
    """Hold an end of the channel ``name`` until the process ends.

    Raises:
        ChannelTopologyError: another process holds it.
    """
    channel = ctx.channels[name]
    if ctx._holder is not None:
        ctx._holder.uses(channel, side)
    if side == "reader":
        channel.bind_reader(ctx.process_id)
    else:
        channel.bind_writer(ctx.process_id)
    if ctx._held is None:
        ctx._held = {}
    ctx._held[name, side] = channel.unbind_reader if side == "reader" else channel.unbind_writer


def emit_event(ctx: ProcessContext, kind: events.EventKind, **details: Any) -> None:
    """Tell those who observe or follow, if anybody does, of something that happened to the process."""
    frame = ctx._frame
    if events.subscribers or frame.recorder is not None:
        name = ctx.process_name
        path = f"{frame.path}{name}"
        event = events.Event(
            kind, name, ctx.process_id, ctx.parent, ctx.placement, frame.worker, ctx.attempt, path=path, **details
        )
        if frame.recorder is not None:
            frame.recorder.record(event)
        events.emit(event)


class Composable(ABC, Generic[V_co]):
    """Whatever can stand where a process can: a :class:`Process` or a composition of them; ``V_co`` is its value."""

    # Class attributes, so that a subclass need not call super().__init__().
    _name: str | None = None
    _is_optional: bool = False
    _channels: Mapping[str, Chan[Any]] = _NO_CHANNELS
    _placement: Placement | None = None

    runs_others: bool = False
    """Whether it only waits for processes of its own, whose deadline it then keeps itself. For the engine."""
    lends: bool = False
    """Whether it hands the slot that it is given on to the processes that it runs. For the engine."""
    unseen: bool = False
    """Whether it is no process of the user's, but a means of running others, of which alone observers hear."""
    holds_channels: bool = False
    """Whether there may be something in :meth:`held_channels`, or it makes more. For the engine, as the next."""
    makes_more: bool = False
    """Whether there may be processes in it of which nobody knows before it starts."""
    lacks_arguments: bool = False
    """Whether there may be something in :meth:`lacking`. For the engine: it asks that of every process."""

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

    def given_channels(self) -> Iterator[Chan[Any]]:
        """The channels bound to it, or rather to each process in it, as far as that is known. For the engine."""
        return self.held_channels()

    def held_channels(self) -> Iterator[Chan[Any]]:
        """The channels bound to it and to whatever is known to be in it. For the engine."""
        bound: Iterable[Any] = self._channels.values()
        return (channel for channel in bound if isinstance(channel, Chan))

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
                raise TypeError(f"with_channels({name}=…) takes a Chan, got {value_text(channel)}")
        made = self._copy()
        made._channels = {**self._channels, **channels}
        made.holds_channels = True
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

    def lacking(self) -> Iterator[Lacking]:
        """The processes in it that need an argument that only what comes on ``input`` can be. For the engine."""
        yield from ()

    def _copy(self) -> Self:
        # Not copy.copy(): that goes through __reduce__, which for a function means "by reference".
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__)
        return made

    async def execute(self, ctx: ProcessContext) -> ProcessResult[V_co]:
        """Run, and give back what happened. Never override this.

        An exception becomes a failure in the result, ``GeneratorExit`` and others that are none of ``Exception`` too;
        a value that is not a :class:`ProcessResult` a success with that value. ``CancelledError``,
        ``KeyboardInterrupt`` and ``SystemExit`` pass through.
        """
        if self._channels:
            ctx._bind(self._channels)
        failure: Failure | None = None
        value: Any = None
        before = None if self.runs_others else running.set(ctx)
        started = ctx._started = monotonic()
        span = None if spans.current is None else begin_span(self, ctx)
        followed = ctx._frame.recorder is not None
        if followed or events.subscribers:
            emit_event(ctx, "started")
        try:
            value = await self._perform(ctx)
            kind = type(value)
            # Not isinstance: that asks the value, which is anybody's.
            is_result = kind is ProcessResult or issubclass(kind, ProcessResult)
            if not is_result and kind in _UNRUN:
                refuse_unrun(value, f"process {ctx.process_name!r}")
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            spans.end(span, None)
            raise
        except BaseException as error:
            if issubclass(type(error), GeneratorExit) and asyncio._get_running_loop() is None:
                spans.end(span, None)
                raise  # not of the process: its coroutine is closed, long after its event loop
            failure = _failure(error, ctx, traceback_text(error))
        else:
            if is_result:
                if value.is_ok:
                    value = value.value
                else:
                    failure, value = _completed(value.failure, ctx), None
            latest = ctx._latest
            if latest is not None and failure is None and (latest.cr_frame is not None or ctx._earlier is not None):
                if (forgotten := await ctx._forgotten()) is not None:
                    failure, value = _failure(forgotten, ctx), None
            if latest is not None:
                ctx._latest = ctx._earlier = None
            if ctx._output is not None:
                ctx._drain_output()
            if ctx._sent and failure is None:
                value = ctx._sent[-1]
        finally:
            if ctx._held is not None:
                ctx._release()
            if before is not None:
                try:  # noqa: SIM105 - it is there for every process, and suppress() would cost more than the reset
                    running.reset(before)
                except ValueError:
                    pass  # in another context this is a coroutine that is closed long after its event loop
        result = outcome_of_run(failure is None, value, failure, started, monotonic() - started, ctx)
        if span is not None:
            spans.end(span, result)
        if followed or events.subscribers:
            emit_event(ctx, "ended", result=result)
        return result

    @abstractmethod
    def _perform(self, ctx: ProcessContext) -> Awaitable[Any]:
        """The work itself, to be awaited; may raise."""


def begin_span(process: Composable, ctx: ProcessContext) -> spans.OpenSpan | None:
    """Tell whoever traces that ``process`` begins in ``ctx``; whoever calls this also says that it has ended."""
    frame = ctx._frame
    run = ctx.process_id if frame.meter is None else frame.meter.run_id
    return spans.begin(type(process).__name__ if process.runs_others else "process", ctx, frame.worker, run)


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
        usage=ctx.used or None,
        worker=ctx._frame.worker,
        last_progress=progress_of(ctx),
        attempt=ctx.attempt,
        run=None if ctx._frame.meter is None else ctx._frame.meter.run_id,
    )


def progress_of(ctx: ProcessContext) -> str:
    """What it last gave to ``ctx.progress``, for people; empty if it never did."""
    return "" if ctx._progress is None else progress_text(*ctx._progress)


def age_of(ctx: ProcessContext) -> float:
    """Seconds since it started; 0 if it has not."""
    return 0.0 if ctx._started is None else monotonic() - ctx._started


def failure_of(error: BaseException, ctx: ProcessContext, traceback_str: str = "") -> ProcessResult:
    """A failed result with everything that the context knows."""
    failure = _failure(error, ctx, traceback_str)
    started = failure.started_at
    return ProcessResult(False, None, failure, failure.elapsed, ctx.run_info(started, failure.failed_at))


def _completed(failure: Failure, ctx: ProcessContext) -> Failure:
    """A failure that the process itself returned; if it has no name yet, with what only the context knows filled in."""
    if failure.process_name != "unknown":
        return failure
    known = _failure(failure.error, ctx, failure.traceback_str)
    return replace(
        known,
        failed_at=failure.failed_at,
        started_at=failure.started_at or known.started_at,
        placement=failure.placement or known.placement,
        parent_process=failure.parent_process or known.parent_process,
        channel_state=failure.channel_state or known.channel_state,
        checkpoint=known.checkpoint if failure.checkpoint is None else failure.checkpoint,
        leaves=failure.leaves,
        usage=known.usage if failure.usage is None else failure.usage,
    )


def optional_among(processes: Iterable[Composable]) -> frozenset[int]:
    """Which of them are optional, by index."""
    return frozenset([index for index, process in enumerate(processes) if process._is_optional])


def changes_since(process: Composable, original: Composable | type[Composable]) -> dict[str, Any]:
    """What makes ``process`` differ from ``original``, of which it is a copy or an instance, for :func:`changed`."""
    changes: dict[str, Any] = {}
    if process._name is not None and process._name != original._name:
        changes["name"] = process._name
    if process._placement != original._placement:
        changes["placement"] = process._placement
    if process._is_optional:
        changes["optional"] = True
    if process._channels:
        changes["channels"] = process._channels
    return changes


def changed(process: C, **changes: Any) -> C:
    """A copy of ``process`` with these changes: ``name``, ``placement``, ``optional``, ``channels``."""
    made = process._copy()
    if "name" in changes:
        made._name = checked_name(changes["name"])
    if "placement" in changes:
        made._placement = changes["placement"]
    if changes.get("optional"):
        made._is_optional = True
    return made.with_channels(**changes["channels"]) if "channels" in changes else made


def checked_name(name: object) -> str:
    """``name``, if it can be a name.

    Raises:
        TypeError: it is not a string.
        ValueError: it is empty.
    """
    if not isinstance(name, str):
        raise TypeError(f"a process's name is a str, got {value_text(name)}")
    if not name:
        raise ValueError("a process's name cannot be empty")
    return name
