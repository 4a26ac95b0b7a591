"""Runs: what was started to be followed, from here or from anywhere, while it runs and after it has ended."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

import msgspec
from typing_extensions import TypeVar as DefaultedTypeVar

from stbass._engine.lending import lent
from stbass._values.checks import checked_deadline
from stbass._values.ctrl_c import raise_ctrl_c
from stbass._values.endpoint import Placement
from stbass._values.ids import new_id
from stbass._values.numbers import finite
from stbass._values.outcome import ProcessResult
from stbass._values.texts import text_of
from stbass._values.waits import ChannelWaits
from stbass.channel import Chan
from stbass.errors import ChannelClosedError, DeadlineExceeded, RunConflictError
from stbass.observe.events import Event

__all__ = [
    "MOST_EVENTS",
    "Progress",
    "Run",
    "RunEvent",
    "RunEventKind",
    "RunOrder",
    "RunStatus",
    "checked_after",
    "end_of_run",
    "missed_events",
    "run_event",
    "taken_by",
]

MOST_EVENTS = 10_000
"""How many events of a run are kept: the latest ones."""

RunEventKind = Literal["queued", "started", "progress", "checkpoint", "output", "retried", "ended", "missed"]

T_co = DefaultedTypeVar("T_co", covariant=True, default=Any)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a process is, as it said with ``ctx.progress``."""

    done: float
    total: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class RunEvent:
    """Something that happened in a run.

    Args:
        id: where it stands among the events of the run: what :meth:`Run.events` takes as ``after``.
        kind: ``queued``, ``started``, ``progress``, ``checkpoint``, ``output`` (of ``ctx.emit``), ``retried`` (a
            further attempt is about to start), ``ended``, or ``missed`` (so many events are kept no more).
        value: of an output or a checkpoint, as it was given; of progress :class:`Progress`; of the end of the whole
            run its value; of ``missed`` the number of events; else None.
        name: of the process.
        path: the names of what is around it, from the run's own, and its own: ``report/draft``.
        process_id: of the process.
        worker: who ran it; None: this Python process, or nobody yet.
        attempt: 1 for the first run of the process, 2 for the next, and so on.
        at: when, by the clock of whoever keeps the events.
        error: of an ``ended`` process that failed what went wrong, and so of ``retried`` the attempt before; else None.
        waits: in channels, of an ``ended`` process that waited long enough to be seen; else None.
    """

    id: str
    kind: RunEventKind
    value: Any
    name: str
    path: str
    process_id: str
    worker: str | None
    attempt: int
    at: datetime
    error: str | None = None
    waits: ChannelWaits | None = None

    def as_sse(self) -> str:
        """The text of a server-sent event: ``id``, ``event`` (its kind) and ``data``, which is JSON of all of it.

        Of a value that JSON cannot hold, it has the text.
        """
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "value"}
        if self.waits is None:
            del fields["waits"]
        data = f'{{"value":{_json(self.value)},{_json(fields)[1:]}'
        return f"id: {self.id}\nevent: {self.kind}\ndata: {data}\n\n"


def _json(value: Any) -> str:
    try:
        return msgspec.json.encode(value, enc_hook=_plain).decode()
    except BaseException as error:  # of classes of the user's, or keys and numbers that JSON does not have
        raise_ctrl_c(error)
        return msgspec.json.encode(text_of(value).encode("utf-8", "backslashreplace").decode()).decode()


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else text_of(value)


@dataclass(frozen=True, slots=True)
class RunStatus:
    """How far a run is.

    Args:
        state: ``queued``, ``running`` or ``ended``.
        worker: who runs it or has run it last; None: this Python process, or nobody yet.
        attempt: which attempt that is; 0 before the first.
        progress: the last that it said.
        checkpoint: its last one.
        queued_at, started_at, ended_at: when; None: not yet.
    """

    state: Literal["queued", "running", "ended"]
    worker: str | None = None
    attempt: int = 0
    progress: Progress | None = None
    checkpoint: Any = None
    queued_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True)
class RunOrder:
    """How a process is to be started as a run.

    Args:
        id: of the run.
        work: what the process does, as a text that is the same for the same work.
        placement: where it is to run; None: anywhere.
        deadline: seconds.
    """

    id: str
    work: str
    placement: Placement | None
    deadline: float | None


class Run(ABC, Generic[T_co]):
    """A process that was started with :func:`stbass.start`, for whoever wants to know of it.

    It belongs to nobody: it goes on when whoever started or followed it is gone.

    Attributes:
        id: what :func:`stbass.find` finds it by.
        name: of the process.
        is_new: whether this call of :func:`stbass.start` has started it; otherwise it was there.
    """

    def __init__(self, run_id: str, name: str, is_new: bool = False) -> None:
        self.id = run_id
        self.name = name
        self.is_new = is_new

    async def result(self, deadline: float | None = None) -> ProcessResult[T_co]:
        """What became of it, once it has ended; as often and by as many as like. Cancelling this cancels only the wait.

        Args:
            deadline: seconds to wait; then the result is a failure with ``DeadlineExceeded`` that says that the run
                goes on.

        Raises:
            BackendUnavailableError: what keeps the run cannot be reached.
        """
        async with lent():
            return await self._result(deadline)

    @abstractmethod
    async def _result(self, deadline: float | None = None) -> ProcessResult[T_co]:
        """As :meth:`result`, beside what the process in whose code this is called does itself."""

    @abstractmethod
    async def status(self) -> RunStatus:
        """How far it is.

        Raises:
            BackendUnavailableError: what keeps the run cannot be reached.
            LookupError: nothing is known of the run any more.
        """

    @abstractmethod
    def events(self, after: str | None = None) -> AsyncIterator[RunEvent]:
        """What happens in it, from the beginning, until it has ended; the last event is its ``ended``.

        Nothing is missed and nothing comes twice, whatever is cut or restarted in between. Events that are kept no
        more, because many came after them, are told as one event of the kind ``missed``.

        Args:
            after: the id of an event: only what came after it.

        Raises:
            ValueError: the run has never had an event of that id.
            BackendUnavailableError: what keeps the run cannot be reached.
        """

    @abstractmethod
    async def cancel(self) -> None:
        """Cancel it, with all that it has placed elsewhere. Of a run that has ended nothing happens.

        It returns when all who run a part of it have been told; :meth:`result` says when it has ended.

        Raises:
            BackendUnavailableError: what keeps the run cannot be reached.
        """

    @abstractmethod
    def _channels(self) -> AbstractAsyncContextManager[Mapping[str, Chan[Any]]]:
        """The channels of its processes, by path, for one use of one of them."""

    async def send(self, channel: str, value: Any, *, deadline: float | None = None) -> None:
        """Meet a process of the run that receives: returns when it has the value. Cancelled, it has not.

        Args:
            channel: its name, as given to ``with_channels``; if several processes have one of that name, with the path
                before it: ``report/draft/approval``.
            deadline: seconds to wait.

        Raises:
            KeyError: there is no such channel, or several; the message names those there are.
            ChannelClosedError: the run has ended, or the channel is closed.
            ChannelTypeError: the value does not fit the channel's type.
            ChannelTopologyError: somebody else sends to it.
            DeadlineExceeded: nobody has received the value until then.
        """
        await self._meet(channel, "writer", deadline, value)

    async def recv(self, channel: str, *, deadline: float | None = None) -> Any:
        """Meet a process of the run that sends: its value.

        Args:
            channel: as for :meth:`send`.
            deadline: seconds to wait.

        Raises:
            KeyError: as for :meth:`send`; so are the others.
        """
        return await self._meet(channel, "reader", deadline, None)

    async def _meet(self, name: str, side: Literal["writer", "reader"], deadline: float | None, value: Any) -> Any:
        seconds = checked_deadline(deadline)
        async with lent(), self._channels() as channels:
            channel = _named(channels, name, self.id)
            end = asyncio.ensure_future(self._result())
            try:
                async with asyncio.timeout(seconds) as scope:
                    with _ended_with(end, scope):
                        return await _use(channel, side, value)
            except TimeoutError:
                if end.done():
                    end.result()
                    closed = f"run {self.id!r} has ended: nobody uses its channel {name!r} any more"
                    raise ChannelClosedError(closed) from None
                raise DeadlineExceeded(
                    f"run {self.id!r}: nobody was at the other end of {name!r} when {seconds:g} s were over",
                    deadline=seconds,
                ) from None
            finally:
                end.cancel()

    def _waited_for(self, seconds: float) -> ProcessResult[T_co]:
        return ProcessResult.fail(
            DeadlineExceeded(
                f"run {self.id!r} ({self.name}) had not ended when {seconds:g} s of waiting were over; it goes on",
                deadline=seconds,
            ),
            process_name=self.name,
        )

    def __repr__(self) -> str:
        return f"<Run {self.id!r} of {self.name}>"


@contextmanager
def _ended_with(end: asyncio.Future[Any], scope: asyncio.Timeout) -> Iterator[None]:
    """End ``scope`` when ``end`` is done."""
    inside = True

    def over(_end: asyncio.Future[Any]) -> None:
        if inside and not scope.expired():
            scope.reschedule(asyncio.get_running_loop().time())

    end.add_done_callback(over)
    try:
        yield
    finally:
        inside = False


async def _use(channel: Chan[Any], side: Literal["writer", "reader"], value: Any) -> Any:
    user = f"a user of the run ({new_id()})"
    if side == "writer":
        channel.bind_writer(user)
    else:
        channel.bind_reader(user)
    try:
        return await channel.recv() if side == "reader" else await channel.send(value)
    finally:
        if side == "writer":
            channel.unbind_writer()
        else:
            channel.unbind_reader()


def _named(channels: Mapping[str, Chan[Any]], name: str, run_id: str) -> Chan[Any]:
    if name in channels:
        return channels[name]
    found = {path: channel for path, channel in channels.items() if path.endswith(f"/{name}")}
    if len(set(map(id, found.values()))) == 1:
        return next(iter(found.values()))
    there = ", ".join(found or channels) or "none"
    what = f"several channels {name!r}: say which, by path" if found else f"no channel {name!r}"
    raise KeyError(f"run {run_id!r} has {what}; it has: {there}")


def taken_by(run_id: str, name: str) -> RunConflictError:
    """That an id stands for other work."""
    return RunConflictError(
        f"the run id {run_id!r} is taken by other work: there it is the process {name!r}, or that with other arguments;"
        " start this under another id, or look at that with stbass.find()",
        run_id=run_id,
        runs=name,
    )


def checked_after(after: object, latest: int, run_id: str) -> int:
    """The number of the event that ``after`` is the id of; 0: before the first.

    Args:
        latest: the number of the latest event.

    Raises:
        ValueError: the run has had no such event.
    """
    if after is None:
        return 0
    number = int(after) if isinstance(after, str) and after.isdecimal() and after.isascii() and len(after) < 19 else 0
    if not 1 <= number <= latest:
        raise ValueError(
            f"run {run_id!r} has never had an event {text_of(after, 60)}: it has had {latest} up to now;"
            " after= takes the id of one of its events, or None for all"
        )
    return number


def run_event(event: Event, number: int, at: datetime) -> RunEvent:
    """An event of a process, as one of the run that it belongs to."""
    value, error = event.value, None
    if event.kind == "progress":
        total = None if finite(event.total) is None else event.total
        value = Progress(finite(event.done) or 0.0, total, event.note)
    if event.result is not None and event.result.is_fail:
        error = event.result.failure.summary
    info = event.result.run if event.kind == "ended" and event.result is not None else None
    about = event.name, event.path, event.process_id, event.worker, event.attempt
    return RunEvent(str(number), event.kind, value, *about, at, error, None if info is None else info.waits)


def missed_events(first: int, last: int, name: str, process_id: str, at: datetime) -> RunEvent:
    """That the events with these numbers, and those in between, are kept no more."""
    return RunEvent(str(last), "missed", last - first + 1, name, name, process_id, None, 1, at)


def end_of_run(result: ProcessResult, number: int, name: str, process_id: str, at: datetime) -> RunEvent:
    """The last event of a run."""
    info = result.run
    worker, attempt = (None, 1) if info is None else (info.worker, info.attempt)
    value, error = (result.value, None) if result.is_ok else (None, result.failure.summary)
    waits = None if info is None else info.waits
    return RunEvent(str(number), "ended", value, name, name, process_id, worker, attempt, at, error, waits)
