"""What travels between a producer and a worker: the message that asks for a process, and the result that comes back."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import msgspec

from stbass import wire
from stbass._channels.transport import Transport
from stbass._process.composable import Composable, failure_of
from stbass._process.context import ProcessContext
from stbass._values.endpoint import Placement
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
from stbass.result import Failure, ProcessResult, RunInfo, utc_now

__all__ = [
    "ABSENT",
    "Envelope",
    "Meta",
    "Ran",
    "open_envelope",
    "read_meta",
    "result_of",
    "seal_envelope",
    "write_result",
]

_NULL = msgspec.Raw(b"null")
ABSENT = msgspec.Raw()
"""Stands for a part that is not there: msgspec leaves a part out if it is this very object."""


class Envelope(msgspec.Struct, omit_defaults=True):
    """The message that asks a worker to run a process."""

    id: str
    queue: str
    name: str
    process: msgspec.Raw
    lease: float
    placement: msgspec.Raw = _NULL
    parent: str | None = None
    reply: str = ""
    lost: str = "redeliver"
    timed: bool = False
    """Whether there is a deadline: then ``stbass:deadline:<id>`` lives as long as the process may."""
    given: msgspec.Raw = ABSENT
    """Of a stage: the values on its ``input``."""
    attempt: int = 1
    """Above 1 if a retry policy runs it again."""
    resumed: msgspec.Raw = ABSENT
    """The last checkpoint of an earlier attempt, if a retry policy runs it again."""
    deadline: float = 0.0
    """Seconds that it had when it was sent, for messages."""
    v: int = 1


class Ran(msgspec.Struct, omit_defaults=True):
    """Where and when a process ran; ``failure`` is the whole failed result as wire text."""

    worker: str | None = None
    attempt: int = 1
    started: datetime | None = None
    elapsed: float | None = None
    failure: msgspec.Raw = ABSENT
    sent: msgspec.Raw = ABSENT
    """Of a stage: what it has sent on its ``output``."""
    sig: str | None = None


class Meta(msgspec.Struct, omit_defaults=False):
    """A result as Celery keeps it (``celery-task-meta-<id>``), with one more member, ``stbass``."""

    task_id: str
    status: str
    result: msgspec.Raw
    date_done: str = ""
    traceback: str | None = None
    children: list[Any] = []
    stbass: Ran | None = None


_encode = msgspec.json.Encoder().encode
_envelope_decoder = msgspec.json.Decoder(Envelope)
_meta_decoder = msgspec.json.Decoder(Meta)


def seal_envelope(envelope: Envelope, settings: FleetSettings) -> tuple[str, str | None]:
    """The envelope as text, and its signature if the fleet signs."""
    text = _encode(envelope)
    signature = None
    if settings.signer is not None:
        signature = settings.signer.sign("message", envelope.id, envelope.queue, text)
    return text.decode(), signature


def open_envelope(
    text: object,
    signature: object,
    task_id: str,
    queue: str,
    settings: FleetSettings,
    worker: str,
    transport: Transport | None = None,
) -> tuple[Envelope, Composable, Any]:
    """The envelope, its process and its placement, checked. Its channels are opened on ``transport``.

    Raises:
        SignatureError: the fleet signs, and this was not signed with its key for this id and queue.
        WireError: it is not an envelope.
        ProcessRefused: the worker does not know the process.
    """
    if not isinstance(text, str):
        raise WireError(f"the message {task_id} is not one of stbass: its body is {type(text).__name__}, not text")
    raw = text.encode()
    if settings.signer is not None:
        if not isinstance(signature, str):
            raise SignatureError(
                f"the message {task_id} in queue {queue!r} is not signed, and this worker has a signing key;"
                " give the producer the same STBASS_SIGNING_KEY"
            )
        settings.signer.verify(signature, "message", task_id, queue, raw)
    try:
        envelope = _envelope_decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise WireError(f"the message {task_id} in queue {queue!r} is not one of stbass: {error}") from error
    if envelope.id != task_id or envelope.queue != queue:
        raise WireError(
            f"the message {task_id} in queue {queue!r} was written for {envelope.id} in queue {envelope.queue!r}"
        )
    process = wire.loads_process(
        bytes(envelope.process),
        allowed=settings.allows,
        functions=settings.includes,
        queue=queue,
        worker=worker,
        transport=transport,
        limit=settings.max_message_bytes,
    )
    placement = wire.loads(bytes(envelope.placement))
    return envelope, process, placement


def _signed(settings: FleetSettings, task_id: str, status: str, result: bytes, ran: Ran) -> None:
    if settings.signer is not None:
        ran.sig = None
        ran.sig = settings.signer.sign("result", task_id, status, result, _encode(ran))


def write_result(
    task_id: str,
    result: ProcessResult,
    settings: FleetSettings,
    sent: list[Any] | None = None,
    ctx: ProcessContext | None = None,
) -> bytes:
    """A result as Celery keeps it. One whose value cannot travel is written as a failure that says so.

    Args:
        sent: of a stage: what it has sent on its ``output``.
        ctx: of the process, for what such a failure says of it.
    """
    info = result.run or RunInfo()
    ran = Ran(
        info.worker,
        info.attempt,
        info.started_at,
        None if result.elapsed is None else result.elapsed.total_seconds(),
    )
    body = b""
    if result.is_ok:
        try:
            body = wire.dumps(result.value, limit=settings.max_message_bytes, what="result", processes=False)
            if sent:
                ran.sent = msgspec.Raw(wire.dumps(sent, limit=settings.max_message_bytes, what="output"))
        except NotTransportable as error:
            if ctx is None:
                failure = Failure(error, info.process_name, task_id, info.started_at, placement=info.placement)
            else:
                failure = failure_of(error, ctx).failure
            result = ProcessResult(False, None, failure, result.elapsed, result.run)
    status, traceback = "SUCCESS", None
    if result.is_fail:
        failure = result.failure
        status = "REVOKED" if isinstance(failure.error, ProcessCancelled) else "FAILURE"
        traceback = failure.traceback_str or None
        error_type = type(failure.error)
        body = _encode(
            {
                "exc_type": error_type.__qualname__,
                "exc_message": [str(failure.error)],
                "exc_module": error_type.__module__,
            }
        )
        ran.failure = msgspec.Raw(wire.result_or_failure(result, limit=settings.max_message_bytes))
    _signed(settings, task_id, status, body, ran)
    return _encode(Meta(task_id, status, msgspec.Raw(body), utc_now().isoformat(), traceback, [], ran))


def read_meta(raw: bytes | msgspec.Raw) -> Meta:
    """What :func:`write_result`, or Celery itself, has written.

    Raises:
        WireError: it is neither.
    """
    try:
        return _meta_decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise WireError(f"a result cannot be read: {error}") from error


def result_of(
    meta: Meta, name: str, settings: FleetSettings, placement: Placement | None = None, queued: timedelta | None = None
) -> ProcessResult:
    """The result in it; one that cannot be trusted or read is a failure that says so."""
    ran = meta.stbass
    try:
        if settings.signer is not None:
            _check_signature(meta, name, settings)
        if ran is None:
            return _foreign(meta, name, placement)
        elapsed = None if ran.elapsed is None else timedelta(seconds=ran.elapsed)
        ended = None if ran.started is None or elapsed is None else ran.started + elapsed
        info = RunInfo(name, meta.task_id, ran.started, ended, queued, ran.worker, ran.attempt, placement)
        if meta.status == "SUCCESS":
            return ProcessResult(
                True, wire.loads(bytes(meta.result), limit=settings.max_message_bytes), None, elapsed, info
            )
        if not bytes(ran.failure):
            return _foreign(meta, name, placement)
        failed = wire.load_result(bytes(ran.failure), limit=settings.max_message_bytes)
        return ProcessResult(False, None, failed.failure, elapsed, info)
    except (WireError, SignatureError) as error:
        return ProcessResult(False, None, Failure(error, name, meta.task_id, placement=placement))


def _check_signature(meta: Meta, name: str, settings: FleetSettings) -> None:
    ran = meta.stbass
    if ran is None or ran.sig is None:
        raise SignatureError(
            f"the result of {name!r} ({meta.task_id}) is not signed, and this producer has a signing key;"
            " give the workers the same STBASS_SIGNING_KEY"
        )
    signature, ran.sig = ran.sig, None
    assert settings.signer is not None
    settings.signer.verify(signature, "result", meta.task_id, meta.status, bytes(meta.result), _encode(ran))


def _foreign(meta: Meta, name: str, placement: Placement | None) -> ProcessResult:
    """A result that Celery wrote itself: the process was revoked, or the worker does not have the task."""
    try:
        body = msgspec.json.decode(meta.result)
    except msgspec.DecodeError:
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
    return ProcessResult(
        False, None, Failure(error, name, meta.task_id, placement=placement, traceback_str=meta.traceback or "")
    )
