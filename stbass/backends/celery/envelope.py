"""What travels between a producer and a worker: the process that is to run, what is heard of it, and its result.

One record goes the whole way, the :class:`Envelope`:

1. checked: the producer makes it, with the process encoded, and so knows that it can travel;
2. kept, if it belongs to a group: without what is to be run, for another producer that attaches;
3. sent: it is given what is known only now, signed, and put into a message's headers;
4. waited for: the producer's ticket holds it, without what is to be run;
5. run: the worker's job holds it, first with no more than Celery says of the message, then as it was sent.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cached_property, lru_cache
from hashlib import blake2b
from typing import Annotated, Any, Literal

import msgspec

from stbass import wire
from stbass._channels.transport import Transport
from stbass._process.context import Composable, ProcessContext, failure_of, frame_of, sent_by
from stbass._process.meter import Meter
from stbass._values.endpoint import Placement
from stbass._values.numbers import finite
from stbass._values.span import Span
from stbass._values.texts import (
    LONGEST_TRACEBACK,
    error_text,
    message_of,
    one_line,
    plain_text,
    shortened,
    text_of,
    type_name_of,
    value_text,
)
from stbass._values.timeline import most_telling
from stbass._values.usage import Usage
from stbass._values.waits import MOST_WAITS, ChannelWait, ChannelWaits, Direction
from stbass.backends.celery import keys
from stbass.backends.celery.current_message import RunningMessage
from stbass.backends.celery.refusals import Refusals
from stbass.backends.celery.settings import FleetSettings
from stbass.errors import (
    DeadlineExceeded,
    NotTransportable,
    ProcessCancelled,
    ProcessRefused,
    RemoteError,
    SignatureError,
    WireError,
)
from stbass.observe import events
from stbass.result import Failure, ProcessResult, RunInfo, utc_now

__all__ = [
    "ABSENT",
    "ENVELOPE_HEADER",
    "MOST_ATTEMPTS",
    "SIGNATURE_HEADER",
    "Called",
    "Envelope",
    "Keeper",
    "KeptGroup",
    "Meta",
    "Ran",
    "Reply",
    "Told",
    "Used",
    "cancelled_mark",
    "carried_headers",
    "defined_name",
    "delivery_tag",
    "failed_result",
    "is_failure",
    "message_in_queue",
    "open_called",
    "open_cancellation",
    "open_envelope",
    "open_result",
    "open_text",
    "read_meta",
    "read_reply",
    "reply_to",
    "routing_in_message",
    "run_of",
    "run_signature",
    "seal_called",
    "seal_cancellation",
    "seal_envelope",
    "seal_result",
    "seal_text",
    "sent_of",
    "trusted_checkpoint",
    "wired_placement",
]

ENVELOPE_HEADER = "stbass"
"""Header of a message that holds the envelope: among the arguments it would be text within text within text."""
SIGNATURE_HEADER = "stbass_signature"

LONGEST_SECONDS = 3e9
"""About a hundred years: no process and no deadline has more, and dates can be reckoned with it."""
_YEARS = (1970, 9000)
MOST_ATTEMPTS = 2**31 - 1
_LONGEST_MODEL = 1000
_KEEPERS_MOST = 100
_INSIDE_MOST = 500

_TOLD_MOST = 65536
"""Bytes of a part of what is told of a process inside of a process."""

ABSENT = msgspec.Raw()
"""Stands for a part that is not there: msgspec leaves a part out if it is this very object."""


_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
_Name = Annotated[str, msgspec.Meta(max_length=5000)]
_Path = Annotated[str, msgspec.Meta(max_length=100_000)]
_Attempt = Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)]
_TraceKey = Annotated[str, msgspec.Meta(max_length=100)]
_TraceValue = Annotated[str, msgspec.Meta(max_length=8192)]
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=LONGEST_SECONDS)]
_Moment = Annotated[float, msgspec.Meta(ge=-LONGEST_SECONDS, le=LONGEST_SECONDS)]


class Keeper(msgspec.Struct):
    """A message that keeps its place in a worker while it waits."""

    name: _Name
    id: _Id
    attempt: Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)]
    """0: it is an ordinary task."""
    worker: _Name

    @classmethod
    def all_of(cls, sender: RunningMessage) -> tuple[Keeper, ...]:
        """Those that keep their places until what ``sender`` sends has ended, the nearest first."""
        kept = sender.keeping()[:_KEEPERS_MOST]
        return tuple([cls(shortened(one.name, 1000), one.id, one.attempt, one.worker) for one in kept])

    def message(self) -> RunningMessage:
        """The inverse."""
        return RunningMessage(self.name, self.id, self.attempt, self.worker, lends=False)


class Envelope(msgspec.Struct, omit_defaults=True, gc=False):
    """A process on its way to a worker and back: what the producer and the worker both know of it.

    The garbage collector leaves it alone: it is made of texts and numbers, so it is part of no circle of references.
    A producer may have tens of thousands of them.
    """

    id: _Id
    queue: _Id
    name: _Name
    lease: Annotated[float, msgspec.Meta(gt=0, le=86400)]
    process: msgspec.Raw = ABSENT
    placement: msgspec.Raw = ABSENT
    parent: _Name | None = None
    reply: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    """Channel on which the producer is told."""
    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=MOST_ATTEMPTS)] = 3
    """How many workers it may lose: with the last of them it fails."""
    is_optional: bool = False
    deadline: _Seconds | None = None
    """Seconds that it had when it was submitted, for messages; ``stbass:deadline:<id>`` lives as long as it may."""
    given: msgspec.Raw = ABSENT
    """Of a stage: the values on its ``input``."""
    attempt: _Attempt = 1
    """Above 1 if a retry policy runs it again."""
    resumed: msgspec.Raw = ABSENT
    """The last checkpoint of an earlier attempt, if a retry policy runs it again."""
    inside: _Id | None = None
    """Id of the process on a worker that has sent it, and which attempt of that; None: a program has."""
    inside_attempt: _Attempt = 1
    keepers: Annotated[tuple[Keeper, ...], msgspec.Meta(max_length=_KEEPERS_MOST)] = ()
    """Those that keep their places in workers until it has ended, the nearest first."""
    path: _Path | None = None
    """The names of what is around it; None: nobody observes or follows what happens inside."""
    run: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    """Id of the run that it belongs to, for logs."""
    trace: Annotated[Mapping[_TraceKey, _TraceValue], msgspec.Meta(max_length=20)] = {}
    """What a tracer says of the span around it."""
    follow: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    """Id of the run whose events are kept, that of ``stbass.start``; empty: nobody has started it to be followed."""

    def read_placement(self) -> Placement | None:
        """Where it was placed.

        Raises:
            WireError: what it says of that is no placement.
        """
        raw = bytes(self.placement)
        if not raw:
            return None
        is_shared = raw.endswith(_WITHOUT_CONFIG) and len(raw) <= _LONGEST_SHARED
        return _read_shared_placement(raw) if is_shared else _read_placement(raw)

    def read_given(self, limit: int) -> tuple[Any, ...] | None:
        """The values on the ``input`` of a stage; None if it is none.

        Raises:
            WireError: it brings something else.
        """
        if not bytes(self.given):
            return None
        found = wire.loads(bytes(self.given), limit=limit, what="input")
        if not isinstance(found, list):
            raise WireError(f"the input of a stage is not one that stbass wrote: it is {text_of(found, 60)}")
        return tuple(found)

    def emptied(self) -> Envelope:
        """A copy without what is to be run."""
        return msgspec.structs.replace(self, process=ABSENT, given=ABSENT, resumed=ABSENT)

    def let_go(self) -> None:
        """Forget what is to be run: it goes with the message."""
        self.process = self.given = self.resumed = ABSENT


class Called(msgspec.Struct, omit_defaults=True):
    """A process of a canvas or a schedule: what each run of it has in common."""

    name: _Name
    process: msgspec.Raw
    placement: msgspec.Raw = ABSENT


class KeptGroup(msgspec.Struct, omit_defaults=True):
    """What one backend keeps of a group: its processes, without what is to be run."""

    envelopes: Annotated[list[Envelope], msgspec.Meta(min_length=1)]
    places: list[Annotated[int, msgspec.Meta(ge=0)]] = []
    """Where each stands in the group, and all that is in it, if other backends have a part of it."""
    members: list[str | None] = []

    def at_places(self) -> Iterator[tuple[int, Envelope]]:
        """Each with its place.

        Raises:
            ValueError: they are not as many.
        """
        return zip(self.places or range(len(self.envelopes)), self.envelopes, strict=True)


class Told(msgspec.Struct, omit_defaults=True):
    """Something that happened to a process inside of a process on a worker: an :class:`~stbass.observe.Event`."""

    kind: events.EventKind
    name: _Name
    id: _Id
    path: _Path
    parent: _Name | None = None
    placement: msgspec.Raw = ABSENT
    worker: _Name | None = None
    attempt: _Attempt = 1
    done: float | None = None
    total: float | None = None
    note: str = ""
    value: msgspec.Raw = ABSENT
    """The checkpoint or the output, or the result without its value."""

    @classmethod
    def of(cls, event: events.Event, output_limit: int | None = None) -> Told:
        """What is told of an event. What cannot travel of it is text.

        Args:
            output_limit: bytes of an output at most; None: an output is text too if need be.

        Raises:
            NotTransportable: an output cannot travel, or is larger.
        """
        value = ABSENT
        if event.result is not None:
            value = msgspec.Raw(wire.result_or_failure(replace(event.result, _value=None), limit=_TOLD_MOST))
        elif event.kind == "output" and output_limit is not None:
            value = msgspec.Raw(wire.dumps(event.value, limit=output_limit, what="output", processes=False))
        elif event.kind in ("checkpoint", "output"):
            try:
                value = msgspec.Raw(wire.dumps(event.value, limit=_TOLD_MOST, what="checkpoint", processes=False))
            except NotTransportable:
                value = msgspec.Raw(wire.dumps(text_of(event.value, 1000)))
        return cls(
            event.kind,
            shortened(event.name, 1000),
            event.process_id,
            shortened(event.path, _TOLD_MOST),
            None if event.parent is None else shortened(event.parent, 1000),
            wired_placement(event.placement),
            event.worker,
            event.attempt,
            finite(event.done),
            finite(event.total),
            shortened(event.note, 1000),
            value,
        )

    def event(self, limit: int) -> events.Event:
        """The event.

        Raises:
            WireError: a worker cannot have told of it.
        """
        raw = bytes(self.value)
        placement: Any = wire.loads(bytes(self.placement), what="placement") if bytes(self.placement) else None
        return events.Event(
            self.kind,
            self.name,
            self.id,
            self.parent,
            placement if isinstance(placement, Placement) else None,
            self.worker,
            self.attempt,
            self.done,
            self.total,
            self.note,
            wire.loads(raw, limit=limit, what=self.kind) if raw and self.kind in ("checkpoint", "output") else None,
            wire.load_result(raw, limit=limit) if raw and self.kind in ("ended", "retried") else None,
            self.path,
        )


class Used(msgspec.Struct, omit_defaults=True):
    """What a process has used."""

    tokens_in: Annotated[int, msgspec.Meta(ge=0)] = 0
    tokens_out: Annotated[int, msgspec.Meta(ge=0)] = 0
    cost: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    models: dict[_Name, Used] = {}

    @classmethod
    def of(cls, usage: Usage) -> Used:
        """A usage as it travels."""
        models = {shortened(name, _LONGEST_MODEL): cls.of(used) for name, used in usage.models.items()}
        return cls(usage.tokens_in, usage.tokens_out, usage.cost, models)

    def usage(self) -> Usage:
        """The inverse of :meth:`of`."""
        models = {name: used.usage() for name, used in self.models.items()}
        return Usage(self.tokens_in, self.tokens_out, self.cost, models)


class Wait(msgspec.Struct, array_like=True):
    """One wait of a process in a channel. ``began`` is seconds after the process started."""

    channel: _Name
    direction: Direction
    began: _Seconds
    seconds: _Seconds


class Waits(msgspec.Struct, array_like=True):
    """How a process has waited in channels."""

    count: Annotated[int, msgspec.Meta(ge=0)]
    seconds: _Seconds
    longest: Annotated[list[Wait], msgspec.Meta(max_length=MOST_WAITS)]

    @classmethod
    def of(cls, waits: ChannelWaits | None) -> Waits | None:
        """Waits as they travel."""
        if waits is None:
            return None
        longest = [Wait(one.channel, one.direction, one.began, one.seconds) for one in waits.longest]
        return cls(waits.count, waits.seconds, longest)

    def waits(self) -> ChannelWaits:
        """The inverse of :meth:`of`."""
        longest = [ChannelWait(one.channel, one.direction, one.began, one.seconds) for one in self.longest]
        return ChannelWaits(self.count, self.seconds, tuple(longest))


class Inside(msgspec.Struct, array_like=True):
    """A process that has run inside of a composition. Times are seconds after the composition started."""

    name: _Name
    id: _Name
    where: _Name
    attempt: _Attempt
    queued: _Moment
    started: _Moment | None
    ended: _Moment
    state: Literal["done", "failed", "too late", "cancelled"]
    error: _Name
    waits: Waits | None = None

    @classmethod
    def all_of(cls, info: RunInfo) -> list[Inside]:
        """Those in a composition, as they travel: of very many those that failed and those that took longest."""
        began, inside = info.started_at, info.inside
        if began is None or not inside:
            return []

        def after(moment: datetime) -> float:
            # A failure that a process has made itself has any time.
            return min(max((moment - began).total_seconds(), -LONGEST_SECONDS), LONGEST_SECONDS)

        return [
            cls(
                one.name,
                one_line(plain_text(one.process_id), _LONGEST_MODEL),
                one.where,
                one.attempt,
                after(one.queued_at),
                None if one.started_at is None else after(one.started_at),
                after(one.ended_at),
                one.state,
                one.error,
                Waits.of(one.waits),
            )
            for one in map(inside.__getitem__, most_telling(inside, _INSIDE_MOST))
            if one.state != "running"
        ]

    def span(self, began: datetime) -> Span:
        """The inverse, of a composition that started then."""

        def at(seconds: float) -> datetime:
            return began + timedelta(seconds=seconds)

        started = None if self.started is None else at(self.started)
        return Span(
            self.name,
            self.id,
            self.where,
            self.attempt,
            at(self.queued),
            started,
            at(self.ended),
            self.state,
            self.error,
            None if self.waits is None else self.waits.waits(),
        )


class Reply(msgspec.Struct, omit_defaults=True):
    """What a worker says on a producer's channel."""

    results: list[msgspec.Raw] = []
    ready: list[str] = []
    started: list[tuple[_Id, _Attempt]] = []
    worker: _Name | None = None
    checkpoint: _Id | None = None
    value: msgspec.Raw = ABSENT
    usage: _Id | None = None
    used: Used | None = None
    attempt: _Attempt = 1
    progress: _Id | None = None
    done: float = 0.0
    total: float | None = None
    note: str = ""
    inside: _Id | None = None
    told: list[Told] = []
    """What happened inside of that process."""


class Ran(msgspec.Struct, omit_defaults=True):
    """Where and when a process ran; ``failure`` is the whole failed result as wire text.

    A later version may have more fields, before ``sig``, which stays the last: the signature is of the bytes before it.
    """

    worker: _Name | None = None
    attempt: _Attempt = 1
    started: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    elapsed: _Seconds | None = None
    failure: msgspec.Raw = ABSENT
    sent: msgspec.Raw = ABSENT
    """Of a stage: what it has sent on its ``output``."""
    used: Used | None = None
    inside: list[Inside] = []
    """Of a composition: who has run in it."""
    waits: Waits | None = None
    sig: str | None = None

    def __post_init__(self) -> None:
        if self.started is not None and not _YEARS[0] <= self.started.year <= _YEARS[1]:
            raise ValueError(f"it started in the year {self.started.year}")


class Meta(msgspec.Struct, omit_defaults=False, dict=True):
    """A result as Celery keeps it (``celery-task-meta-<id>``), with one more member, ``stbass``: see :class:`Ran`."""

    task_id: _Id
    status: Annotated[str, msgspec.Meta(max_length=100)]
    result: msgspec.Raw
    date_done: str | None = None
    traceback: str | None = None
    children: list[Any] | None = None
    stbass: msgspec.Raw = ABSENT

    @cached_property
    def ran(self) -> Ran | None:
        """What the member ``stbass`` says, if there is one."""
        return _ran_decoder.decode(self.stbass) if bytes(self.stbass) else None


_log = logging.getLogger(__name__)

_encode = msgspec.json.Encoder().encode
_UNDECODABLE = (msgspec.MsgspecError, ValueError, RecursionError)
_envelope_decoder = msgspec.json.Decoder(Envelope)
_reply_decoder = msgspec.json.Decoder(Reply)
_meta_decoder = msgspec.json.Decoder(Meta)
_ran_decoder: msgspec.json.Decoder[Ran | None] = msgspec.json.Decoder(Ran | None)


# The process -------------------------------------------------------------------------------------


def wired_placement(placement: Placement | None) -> msgspec.Raw:
    """A placement as it travels."""
    # With a configuration equal placements may still differ: 1 == True.
    if placement is None or placement.config is None:
        return _wired_plain_placement(placement)
    return msgspec.Raw(wire.dumps(placement, what="placement"))


def _read_placement(raw: bytes) -> Placement:
    found = wire.loads(raw, what="placement")
    if not isinstance(found, Placement):
        raise WireError(f"the placement is not one that stbass wrote: it is {text_of(found, 60)}")
    return found


_read_shared_placement = lru_cache(maxsize=1024)(_read_placement)
"""For those that nobody can change: thousands of processes have the same one."""
_WITHOUT_CONFIG, _LONGEST_SHARED = b",null]}", 1000


@lru_cache(maxsize=1024)
def _wired_plain_placement(placement: Placement | None) -> msgspec.Raw:
    return ABSENT if placement is None else msgspec.Raw(wire.dumps(placement, what="placement"))


def seal_envelope(envelope: Envelope, settings: FleetSettings) -> dict[str, str]:
    """The headers that carry it: the envelope as text, and its signature if the fleet signs."""
    text = _encode(envelope)
    headers = {ENVELOPE_HEADER: text.decode()}
    if settings.signer is not None:
        headers[SIGNATURE_HEADER] = settings.signer.sign("message", envelope.id, envelope.queue, text)
    return headers


def open_envelope(
    headers: Mapping[str, Any],
    addressed: Envelope,
    settings: FleetSettings,
    worker: str,
    transport: Transport | None = None,
) -> tuple[Envelope, Composable, Placement | None]:
    """The envelope without what is to be run, its process and its placement, checked.

    Args:
        headers: of the message.
        addressed: what Celery says of the message.
        settings: of the worker.
        worker: its name, for errors.
        transport: where the process's channels are opened.

    Raises:
        SignatureError: the fleet signs, and this was not signed with its key for this id and queue.
        WireError: it is not an envelope.
        ProcessRefused: the worker does not know the process.
    """
    text, signature = headers.get(ENVELOPE_HEADER), headers.get(SIGNATURE_HEADER)
    task_id, queue = addressed.id, addressed.queue
    if not isinstance(text, str):
        raise WireError(f"the message {task_id} is not one of stbass: its body is {type(text).__name__}, not text")
    raw = text.encode("utf-8", "surrogatepass")
    if settings.signer is not None:
        if not isinstance(signature, str):
            raise SignatureError(
                f"the message {task_id} in queue {queue!r} is not signed, and this worker has a signing key;"
                " give the producer the same STBASS_SIGNING_KEY"
            )
        settings.signer.verify(signature, "message", task_id, queue, raw)
    try:
        envelope = _envelope_decoder.decode(raw)
    except _UNDECODABLE as error:
        raise WireError(f"the message {task_id} in queue {queue!r} is not one of stbass: {error}") from error
    if not envelope.reply.startswith(settings.keys.replies) and envelope.reply:
        raise WireError(f"the message {task_id} in queue {queue!r} wants its answer at {text_of(envelope.reply, 60)}")
    if envelope.id != task_id or envelope.queue != queue:
        raise WireError(
            f"the message {task_id} in queue {queue!r} was written for {envelope.id} in queue {envelope.queue!r}"
        )
    process = wire.loads_process(
        bytes(envelope.process),
        allowed=settings.allows,
        functions=settings.calls,
        queue=queue,
        worker=worker,
        transport=transport,
        limit=settings.max_message_bytes,
    )
    placement = envelope.read_placement()
    envelope.read_given(settings.max_message_bytes)
    if bytes(envelope.resumed):
        wire.loads(bytes(envelope.resumed), limit=settings.max_message_bytes, what="checkpoint")
    # They are views of the whole message, which would stay for as long as the process runs.
    envelope.process = envelope.placement = ABSENT
    return envelope, process, placement


# What lies in Redis between them ------------------------------------------------------------------

_SIGNED = (b'["', b'",', b"]")
_DIGITS = 64


def seal_text(kind: str, name: str, text: bytes, settings: FleetSettings) -> bytes:
    """A JSON text as it is kept: with its signature, if the fleet signs, in a JSON list of the two.

    Args:
        kind: what it is: a text of one kind is no good as one of another.
        name: whose it is, such as the id of a process.
    """
    if settings.signer is None:
        return text
    before, between, after = _SIGNED
    return before + settings.signer.sign(kind, name, text).encode() + between + text + after


def open_text(kind: str, name: str, raw: bytes, settings: FleetSettings) -> bytes:
    """The text that :func:`seal_text` has sealed.

    Raises:
        SignatureError: the fleet signs, and this was not signed with its key as this kind of text with this name.
    """
    if settings.signer is None:
        return raw
    before, between, after = _SIGNED
    start, end = len(before) + _DIGITS, len(before) + _DIGITS + len(between)
    if not (raw.startswith(before) and raw[start:end] == between and raw.endswith(after)):
        raise SignatureError(f"the {kind} of {name} is not signed, and here only signed ones are accepted")
    text = raw[end : -len(after)]
    settings.signer.verify(raw[len(before) : start].decode("latin-1"), kind, name, text)
    return text


def seal_called(called: Called, settings: FleetSettings) -> str:
    """A process as the argument of a task."""
    return seal_text("call", "", _encode(called), settings).decode()


def open_called(text: object, settings: FleetSettings) -> Called:
    """The process that the argument of a task is.

    Raises:
        SignatureError: the fleet signs, and this was not signed with its key.
        WireError: it is no such thing.
    """
    if not isinstance(text, str):
        raise WireError(f"the process of the task is {value_text(text)}, not the text that signature() has made")
    raw = open_text("call", "", text.encode("utf-8", "surrogatepass"), settings)
    try:
        return msgspec.json.decode(raw, type=Called)
    except _UNDECODABLE as error:
        raise WireError(f"the process of the task is not one that signature() has made: {error}") from error


def trusted_checkpoint(raw: bytes | None, task_id: str, settings: FleetSettings, refusals: Refusals) -> bytes | None:
    """A checkpoint that Redis has of a process, as it travels; None if there is none that a worker has written."""
    if not raw:
        return None
    try:
        return open_text("checkpoint", task_id, raw, settings)
    except SignatureError as error:
        refusals.note("checkpoint", error, raw, task_id=task_id)
        return None


def seal_cancellation(what: Sequence[str | keys.Superseded], settings: FleetSettings) -> bytes:
    """That these processes are cancelled, for all who run any."""
    return seal_text("cancellation", "", _encode(what), settings)


def open_cancellation(raw: bytes, settings: FleetSettings) -> list[str | keys.Superseded]:
    """What is cancelled: ids of processes, and what earlier attempts have begun.

    Raises:
        SignatureError: the fleet signs, and this was not signed with its key.
        WireError: it is no such thing.
    """
    text = open_text("cancellation", "", raw, settings)
    try:
        return msgspec.json.decode(text, type=list[str | keys.Superseded])
    except _UNDECODABLE as error:
        raise WireError(f"it is not a list of processes that are cancelled: {error}") from error


def cancelled_mark(task_id: str, settings: FleetSettings) -> str:
    """What says of a process that it is cancelled, for who takes it later."""
    return "1" if settings.signer is None else settings.signer.sign("cancelled", task_id)


def run_signature(task_id: str, settings: FleetSettings) -> str:
    """What says of the record of a running process that a worker has made it."""
    return "" if settings.signer is None else settings.signer.sign("run", task_id)


def delivery_tag(task_id: str) -> str:
    """kombu's tag of the message that asks for a process: whoever knows the process can look for its message."""
    # 36 characters, see keys.NOWHERE.
    return blake2b(task_id.encode("utf-8", "surrogatepass"), digest_size=18).hexdigest()


class _Followers(msgspec.Struct):
    reply: str = ""
    follow: Annotated[str, msgspec.Meta(max_length=1000)] = ""


def reply_to(headers: Mapping[str, Any], names: keys.FleetKeys) -> str:
    """Who to tell that a message was refused; empty if it does not say so."""
    reply = _followers(headers).reply
    return reply if reply.startswith(names.replies) else ""


def run_of(headers: Mapping[str, Any]) -> str:
    """The run that a message that was refused says that it is a part of; empty if it does not say so."""
    return _followers(headers).follow


def _followers(headers: Mapping[str, Any]) -> _Followers:
    text = headers.get(ENVELOPE_HEADER)
    try:
        return msgspec.json.decode(text, type=_Followers) if isinstance(text, str) else _Followers()
    except _UNDECODABLE:
        return _Followers()


class _Defined(msgspec.Struct):
    r: Annotated[str, msgspec.Meta(max_length=500)]


class _Asked(msgspec.Struct):
    process: _Defined


def defined_name(headers: Mapping[str, Any]) -> str | None:
    """What the process of a message is in code, ``module:name`` or the kind of a composition; None: it does not say.

    For statistics of people: it has not been checked, and however many names are given there are few of these.
    """
    text = headers.get(ENVELOPE_HEADER)
    try:
        return one_line(msgspec.json.decode(text, type=_Asked).process.r, 500) if isinstance(text, str) else None
    except _UNDECODABLE:
        return None


_CARRIED = (
    *("lang", "task", "id", "shadow", "eta", "expires", "group", "group_index", "retries", "timelimit", "root_id"),
    *("parent_id", "argsrepr", "kwargsrepr", "origin", "ignore_result"),
    *("stbass_sent", ENVELOPE_HEADER, SIGNATURE_HEADER),
)


def carried_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a message that it has again when it is sent once more."""
    return {name: headers[name] for name in _CARRIED if name in headers}


def message_in_queue(task_id: str, queue: str, body: str, headers: Mapping[str, Any]) -> bytes:
    """The message that asks for a process, as kombu's Redis transport keeps it in the list."""
    return _encode(
        {
            "body": body,
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": headers,
            # The order matters, see routing_in_message.
            "properties": {
                "correlation_id": task_id,
                "reply_to": "",
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": queue},
                "priority": 0,
                "body_encoding": "utf-8",
                "delivery_tag": delivery_tag(task_id),
            },
        }
    )


def routing_in_message(queue: str) -> bytes:
    """How the routing stands in a producer's messages, right before the delivery tag, which is the last member.

    The transport's script knows a message by it and need not parse it.
    """
    info = _encode({"exchange": "", "routing_key": queue})
    return b'"delivery_info":' + info + b',"priority":0,"body_encoding":"utf-8",'


def read_reply(raw: bytes) -> Reply:
    """What a worker, or a script on its behalf, has said.

    Raises:
        WireError: it is no such thing.
    """
    try:
        return _reply_decoder.decode(raw)
    except _UNDECODABLE as error:
        raise WireError(str(error)) from error


# The result --------------------------------------------------------------------------------------


def failed_result(
    error: BaseException,
    envelope: Envelope,
    placement: Placement | None = None,
    *,
    worker: str | None = None,
    attempt: int = 1,
    checkpoint: bytes | None = None,
    traceback_str: str = "",
) -> ProcessResult:
    """The result of a process that cannot tell itself why it failed.

    Args:
        checkpoint: its last one, as it travels.
    """
    ctx = ProcessContext(envelope.name, envelope.id, None, envelope.parent, placement)
    ctx.attempt, frame_of(ctx).worker = attempt, worker
    if envelope.run:
        frame_of(ctx).meter = Meter(run=envelope.run)
    if checkpoint:
        try:
            ctx.resumed_from = wire.loads(checkpoint, what="checkpoint")
        except WireError as unreadable:
            # Whoever wrote it, not what failed: the failure is told without it.
            _log.warning("process %r (%s): %s", envelope.name, envelope.id, unreadable)
    return failure_of(error, ctx, traceback_str)


def _signed(settings: FleetSettings, task_id: str, status: str, result: bytes, ran: Ran) -> msgspec.Raw:
    text = _encode(ran)
    if settings.signer is not None:
        ran.sig = settings.signer.sign("result", task_id, status, result, text)
        text = _encode(ran)
    return msgspec.Raw(text)


def seal_result(
    task_id: str, result: ProcessResult, settings: FleetSettings, ctx: ProcessContext | None = None
) -> bytes:
    """A result as Celery keeps it, whatever the process did.

    One whose value cannot travel is written as a failure that says so; of a failure, what cannot be written is written
    as text, escaped.

    Args:
        ctx: of the process, if it has run.
    """
    try:
        return _written(task_id, result, settings, ctx)
    except BaseException as error:
        # Of classes of the user's: whoever waits shall hear of it, and this worker runs others.
        reason = f"the result could not be written: {error_text(error)}"
        _log.error("process %s: %s", task_id, reason, exc_info=True)
        info = result.run or RunInfo()
        failure = Failure(
            RemoteError(reason, type_name=type_name_of(type(error))),
            process_name=plain_text(info.process_name),
            process_id=task_id,
        )
        run = RunInfo(failure.process_name, task_id, worker=info.worker, attempt=info.attempt)
        return _written(task_id, ProcessResult(False, None, failure, None, run), settings, None)


def _written(task_id: str, result: ProcessResult, settings: FleetSettings, ctx: ProcessContext | None) -> bytes:
    info, elapsed = result.run or RunInfo(), result.elapsed
    ran = Ran(
        info.worker,
        info.attempt,
        info.started_at,
        None if elapsed is None else elapsed.total_seconds(),
        used=None if info.usage is None else Used.of(info.usage),
        inside=Inside.all_of(info),
        waits=Waits.of(info.waits),
    )
    body = b""
    if result.is_ok:
        assert ctx is not None
        try:
            body = wire.dumps(result.value, limit=settings.max_message_bytes, what="result", processes=False)
            if sent := sent_by(ctx):
                ran.sent = msgspec.Raw(wire.dumps(sent, limit=settings.max_message_bytes, what="output"))
        except NotTransportable as error:
            result = ProcessResult(False, None, failure_of(error, ctx).failure, result.elapsed, result.run)
    status, traceback = "SUCCESS", None
    if result.is_fail:
        failure = result.failure
        error_type = type(failure.error)
        status = "REVOKED" if issubclass(error_type, ProcessCancelled) else "FAILURE"
        traceback = shortened(failure.traceback_str, LONGEST_TRACEBACK) or None
        module, _, name = type_name_of(error_type).partition(":")
        body = _encode({"exc_type": name, "exc_message": [message_of(failure.error)], "exc_module": module})
        ran.failure = msgspec.Raw(wire.result_or_failure(result, limit=settings.max_message_bytes))
    told = _signed(settings, task_id, status, body, ran)
    return _encode(Meta(task_id, status, msgspec.Raw(body), utc_now().isoformat(), traceback, [], told))


def read_meta(raw: bytes | msgspec.Raw) -> Meta:
    """What :func:`seal_result`, or Celery itself, has written.

    Raises:
        WireError: it is neither.
    """
    try:
        meta = _meta_decoder.decode(raw)
        _ = meta.ran
    except _UNDECODABLE as error:
        raise WireError(f"a result cannot be read: {error}") from error
    return meta


def sent_of(meta: Meta, settings: FleetSettings) -> list[Any] | None:
    """What a stage has sent on its ``output``; None if it is none.

    Raises:
        WireError: it is not that.
    """
    if meta.ran is None or not bytes(meta.ran.sent):
        return None
    found = wire.loads(bytes(meta.ran.sent), limit=settings.max_message_bytes, what="output")
    if not isinstance(found, list):
        raise WireError(f"the output of a stage is not one that stbass wrote: it is {text_of(found, 60)}")
    return found


def open_result(
    meta: Meta,
    envelope: Envelope,
    settings: FleetSettings,
    placement: Placement | None = None,
    queued: timedelta | None = None,
) -> ProcessResult:
    """The result in it; one that cannot be trusted or read is a failure that says so."""
    ran, name = meta.ran, envelope.name
    try:
        if settings.signer is not None:
            _check_signature(meta, name, settings)
        if ran is None:
            return _foreign(meta, envelope, placement)
        elapsed = None if ran.elapsed is None else timedelta(seconds=ran.elapsed)
        ended = None if ran.started is None or elapsed is None else ran.started + elapsed
        used = None if ran.used is None else ran.used.usage()
        inside = () if ran.started is None else tuple([one.span(ran.started) for one in ran.inside])
        waits = None if ran.waits is None else ran.waits.waits()
        about = queued, ran.worker, ran.attempt, placement, used, inside, waits
        info = RunInfo(name, meta.task_id, ran.started, ended, *about)
        if meta.status == "SUCCESS":
            sent_of(meta, settings)
            return ProcessResult(
                True, wire.loads(bytes(meta.result), limit=settings.max_message_bytes), None, elapsed, info
            )
        if not bytes(ran.failure):
            return _foreign(meta, envelope, placement)
        failure = wire.load_result(bytes(ran.failure), limit=settings.max_message_bytes).failure
        if failure.process_name == "unknown":  # to whoever has found out that its worker is lost
            failure = replace(failure, process_name=name)
        return ProcessResult(False, None, failure, elapsed, info)
    except (WireError, SignatureError) as error:
        return failed_result(error, envelope, placement)
    except Exception as error:
        # Beside what it raises knowingly: nothing here may depend on what somebody has written.
        unreadable = WireError(f"the result of {name!r} cannot be read: {error_text(error)}")
        return failed_result(unreadable, envelope, placement)


def is_failure(raw: bytes, task_id: str, settings: FleetSettings) -> bool:
    """Whether what is kept as the result of a process says that it has failed, and can be trusted."""
    try:
        meta = read_meta(raw)
        if settings.signer is not None:
            _check_signature(meta, task_id, settings)
    except (WireError, SignatureError) as error:
        _log.debug("what is kept as the result of %s is not believed: %s", task_id, error)
        return False
    return meta.task_id == task_id and meta.status in ("FAILURE", "REVOKED")


def _check_signature(meta: Meta, name: str, settings: FleetSettings) -> None:
    ran = meta.ran
    if ran is None or ran.sig is None:
        raise SignatureError(
            f"the result of {name!r} ({meta.task_id}) is not signed, and this producer has a signing key;"
            " give the workers the same STBASS_SIGNING_KEY"
        )
    assert settings.signer is not None
    # As it was written, not as this version would write it: a later one may have said more of it.
    sig = f'"sig":"{ran.sig}"}}'.encode("utf-8", "surrogatepass")
    rest = bytes(meta.stbass).removesuffix(sig).removesuffix(b",") + b"}"
    settings.signer.verify(ran.sig, "result", meta.task_id, meta.status, bytes(meta.result), rest)


def _foreign(meta: Meta, envelope: Envelope, placement: Placement | None) -> ProcessResult:
    """A result that Celery wrote itself: the process was revoked, or the worker does not have the task."""
    name = envelope.name
    try:
        body = msgspec.json.decode(meta.result)
    except _UNDECODABLE:
        body = None
    details = body if isinstance(body, dict) else {}
    kind, message = str(details.get("exc_type", meta.status)), details.get("exc_message", "")
    error: Exception
    if meta.status == "REVOKED":
        error = ProcessCancelled(f"process {name!r} was revoked")
    elif kind == "NotRegistered":
        error = ProcessRefused(
            f"a worker that does not have stbass took process {name!r}: call stbass.backends.celery.install(app) in it",
            reference=name,
        )
    elif "TimeLimit" in kind:
        error = DeadlineExceeded(f"process {name!r} ran into Celery's own time limit: {message}")
    else:
        module = details.get("exc_module")
        type_name = f"{module}:{kind}" if module else kind
        error = RemoteError(f"{type_name}: {message}", type_name=type_name, remote_args=(str(message),))
    return failed_result(error, envelope, placement, traceback_str=meta.traceback or "")
