"""The Celery task that runs a process of a canvas or a schedule."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec
from celery import Task
from celery.exceptions import Reject

from stbass import wire
from stbass.backends.celery.envelope import (
    Envelope,
    failed_result,
    open_called,
    open_result,
    read_meta,
    seal_envelope,
)
from stbass.backends.celery.settings import CALL, FleetSettings, fleet_of
from stbass.backends.celery.worker.runtime import Job, current_runtime
from stbass.backends.celery.worker.task import Parked, message_of, told_error
from stbass.errors import SignatureError, StateLostError
from stbass.result import ProcessResult

__all__ = ["CallTask"]


class CallTask(Task):
    """Runs one process, and gives its value back to Celery, which hands it on and counts it.

    To Celery it is an ordinary task. Its process runs under an id of its own, made from the task's: a message that
    comes again finds it at work, or its result.
    """

    name = CALL
    acks_late = True
    acks_on_failure_or_timeout = True
    reject_on_worker_lost = True
    ignore_result = False

    def run(self, *given: Any, process: str) -> Any:
        """Run it.

        Args:
            given: what the task before it has given, if there is one.
            process: as :func:`stbass.backends.celery.signature` has made it.

        Raises:
            RemoteError: it failed.
            SignatureError: the fleet signs, and it was not signed, or is given something that nobody has signed.
            WireError: it is no such process.
        """
        request, fleet = self.request, fleet_of(self.app)
        settings = fleet.settings
        called = open_called(process, settings)
        if given and settings.signer is not None:
            raise SignatureError(
                f"process {called.name!r}: this fleet takes only what is signed, and what a canvas hands on is not:"
                " begin the canvas with it, or give it its arguments when the signature is made"
            )
        queue = (request.delivery_info or {}).get("routing_key") or "?"
        task_id = str(uuid.uuid5(uuid.NAMESPACE_OID, request.id))
        envelope = Envelope(
            task_id, queue, called.name, settings.lease, process=called.process, placement=called.placement
        )
        if given:
            values = [_arrived(value, settings) for value in given]
            envelope.given = msgspec.Raw(wire.dumps(values, limit=settings.max_message_bytes, what="input"))
        runtime = current_runtime(self.app, request.hostname or f"worker@{os.getpid()}")
        addressed = Envelope(task_id, queue, called.name, 0.0)
        job = Job(
            addressed,
            seal_envelope(envelope, settings),
            str((request.properties or {}).get("delivery_tag") or ""),
            on_started=None,
            on_done=lambda _outcome: None,
            # Celery has more to do when the process has ended: its message is Celery's to acknowledge.
            ends_message=False,
            message=partial(message_of, vars(request), {"process": process}, given),
        )
        outcome = runtime.run_blocking(job)
        if outcome.status == "lost":
            raise Reject("another worker has it", requeue=True)
        if outcome.status == "parked":
            raise Parked(f"process {called.name!r} waits for the limit of {queue!r}")
        result = outcome.result or self._stored(envelope)
        if result.is_fail:
            raise told_error(result)
        return msgspec.json.decode(wire.dumps(result.value, limit=settings.max_message_bytes, what="result"))

    def _stored(self, envelope: Envelope) -> ProcessResult:
        """The result of a process that has run for an earlier copy of the message."""
        fleet = fleet_of(self.app)
        raw = fleet.results.get(fleet.results.get_key_for_task(envelope.id))
        if raw is None:
            lost = StateLostError(f"the result of process {envelope.name!r} was deleted before it was handed on")
            return failed_result(lost, envelope)
        return open_result(read_meta(raw), envelope, fleet.settings)


def _arrived(value: Any, settings: FleetSettings) -> Any:
    """A value that Celery has handed on; what JSON does not have was written by :meth:`CallTask.run`."""
    if isinstance(value, dict):
        if "~" in value:
            return wire.loads(msgspec.json.encode(value), limit=settings.max_message_bytes, what="input")
        return {key: _arrived(item, settings) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [_arrived(item, settings) for item in value]
    return value
