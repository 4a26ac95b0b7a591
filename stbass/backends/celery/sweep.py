"""Processes whose worker died: found by their lease, and run again or failed.

Every worker looks after each half lease, and so does a producer while it waits: whoever finds a lease that has run out
deals with it, alone. A message of a dead worker is still among kombu's unacknowledged ones; it goes back to its queue.
"""

from __future__ import annotations

import json
import logging
import time
from typing import Annotated, Any

import msgspec

from stbass.backends.celery import keys
from stbass.backends.celery.envelope import (
    Envelope,
    failed_result,
    run_signature,
    seal_cancellation,
    seal_result,
    trusted_checkpoint,
)
from stbass.backends.celery.incoming import checked_message
from stbass.backends.celery.line import WaitingLine
from stbass.backends.celery.refusals import Refusals
from stbass.backends.celery.settings import CALL, EXECUTE, FleetSettings
from stbass.errors import StateLostError, WireError, WorkerLostError
from stbass.observe import spans
from stbass.transports.redis.address import RedisAddress
from stbass.transports.redis.trouble import Trouble, trouble_of

__all__ = ["Sweeper", "data_lost", "worker_lost"]

_log = logging.getLogger(__name__)
_AT_ONCE = 200
_HOLD_MS = 5000
_WHENEVER = 1e18
_REST = 3.0
"""Seconds without sweeping after a server is well again, or a lease if that is shorter: longer than keepers pause."""


class _Run(msgspec.Struct):
    """The record of a process whose lease has run out."""

    id: str
    tag: str
    queue: str
    worker: str
    attempt: Annotated[int, msgspec.Meta(ge=1)]
    reply: str
    checkpoint: bytes

    @classmethod
    def read(cls, raw_id: bytes, fields: list[bytes], settings: FleetSettings) -> _Run:
        """What SWEEP gives.

        Raises:
            WireError: it is not a record that a worker wrote.
        """
        *texts, checkpoint = fields
        try:
            tag, queue, worker, attempt, reply, signature = (text.decode() for text in texts)
            values: dict[str, Any] = {"id": raw_id.decode(), "tag": tag, "queue": queue, "worker": worker}
            values |= {"attempt": int(attempt), "reply": reply}
            if reply and not reply.startswith(settings.keys.replies):
                raise ValueError(f"it wants its answer at {reply[:60]!r}")
            if signature != run_signature(raw_id.decode(), settings):
                raise ValueError("its signature is missing or wrong")
            made = msgspec.convert({**values, "checkpoint": b""}, cls)
        except ValueError as error:
            raise WireError(f"it is not the record of a running process: {error}") from None
        made.checkpoint = checkpoint
        return made


def worker_lost(deaths: int, worker: str, queue: str, attempt: int) -> WorkerLostError:
    """That a process has lost as many workers as it may."""
    died = f"the worker {worker} (queue {queue!r}) died while it ran the process (attempt {attempt})"
    if deaths > 1:
        died += f"; its worker died {deaths} times: it is likely what kills them"
    return WorkerLostError(died, worker=worker, attempt=attempt)


def data_lost(name: str, address: RedisAddress) -> StateLostError:
    """That the server has lost what it was told of a process."""
    return StateLostError(
        f"process {name!r} is lost, because Redis at {address} has lost its data: they were deleted (FLUSHALL, DEL,"
        " celery purge), or it restarted without them (turn its persistence on), or it evicted them (set its"
        " maxmemory-policy to noeviction)"
    )


class Sweeper:
    """Deals with processes whose lease has run out.

    Args:
        settings: of the fleet.
        result_prefix: what Celery puts before a task id to make the key of its result.
        refusals: where what cannot be read is set aside.
        app: the Celery application; needed if the broker is not Redis.
    """

    def __init__(self, settings: FleetSettings, result_prefix: bytes, refusals: Refusals, app: Any = None) -> None:
        self._refusals = refusals
        self._settings = settings
        self._prefix = result_prefix
        self._line = WaitingLine(settings, result_prefix, app)
        self._rest = min(_REST, settings.lease)
        # Whoever begins does not know what was before, such as a server that refused until a moment ago.
        self._well_since: float | None = time.monotonic()
        """Since when the server does what it is asked; None: it did not when it was last asked."""
        self._backend = settings.backend.client()
        # Typed as redis-py types its commands: for both its clients at once.
        self._broker: Any = None
        if settings.broker is not None:
            self._broker = self._backend if settings.one_server else settings.broker.client()
            self._restore = self._broker.register_script(keys.RESTORE)
            self._stale = self._broker.register_script(keys.STALE)
        self._unacked, self._index = (f"{settings.broker_prefix}{name}" for name in settings.unacked)
        self._find = self._backend.register_script(settings.keys.script(keys.SWEEP))
        self._release = self._backend.register_script(settings.keys.script(keys.RELEASE))

    def sweep(self) -> int:
        """Deal with all there are now; gives back how many there were.

        Raises:
            redis.RedisError: the server cannot be reached; what was found is found again later.
        """
        try:
            if self._well_since is None:
                self._look(0)
                if self._broker is not None:
                    self._broker.ping()
                self._well_since = time.monotonic()
            return self._sweep() if time.monotonic() - self._well_since >= self._rest else 0
        except Exception as error:
            if trouble_of(error) is not Trouble.NEVER:
                self.rest()
            raise

    def rest(self) -> None:
        """The server was away or refused to write: leases could not be renewed, and who lives shall do so first."""
        self._well_since = None

    def _sweep(self) -> int:
        dealt = 0
        while found := self._look(_AT_ONCE):
            for raw_id, is_last, deaths, is_suspect, fields in found:
                try:
                    run = _Run.read(raw_id, fields, self._settings)
                except WireError as error:
                    # Nobody can be told, and nothing be put back, by a record that does not say whose it is.
                    name = raw_id.decode("utf-8", "backslashreplace")
                    self._refusals.note("run record", error, b" ".join(fields), task_id=name)
                    self._backend.zrem(self._settings.keys.leases, raw_id)
                    continue
                if is_last:
                    self._fail(run, deaths)
                else:
                    self._redeliver(run, bool(is_suspect))
                dealt += 1
            if len(found) < _AT_ONCE:
                break
        if self._broker is not None:
            self._sweep_taken()
        return dealt

    def _look(self, most: int) -> list[Any]:
        """What SWEEP gives of lost workers; what it gives beside is dealt with."""
        found, sent, late = self._find(args=[_HOLD_MS, most, *self._settings.beside_results])
        self._line.put_back(sent)
        if (packed := self._line.overdue(late)) is not None:
            self._line.finish(packed)
        return list(found)

    def close(self) -> None:
        """Close the connections."""
        self._line.close()
        self._backend.close()
        if self._broker is not None:
            self._broker.close()

    def _fail(self, run: _Run, deaths: int) -> None:
        task_id, worker, queue, attempt = run.id, run.worker, run.queue, run.attempt
        error = worker_lost(deaths, worker, queue, attempt)
        # Its name is known to whoever waits for it.
        lost = Envelope(task_id, queue, "unknown", 0.0)
        checkpoint = trusted_checkpoint(run.checkpoint, task_id, self._settings, self._refusals)
        result = failed_result(error, lost, worker=worker, attempt=attempt, checkpoint=checkpoint)
        meta = seal_result(task_id, result, self._settings)
        self._line.finish(msgspec.msgpack.encode([(task_id, attempt, meta.decode(), run.reply, run.tag, "", queue)]))
        gone = seal_cancellation([keys.Superseded(task_id, attempt + 1)], self._settings)
        self._backend.publish(self._settings.keys.cancel_channel, gone)
        _log.warning("process %s: %s", task_id, error)

    def _redeliver(self, run: _Run, is_suspect: bool) -> None:
        """Put the message back as kombu would: marked as redelivered, first in the queue.

        But last if it may be what kills workers: then it keeps nobody else waiting.
        """
        if self._broker is not None:
            raw: Any = self._broker.hget(self._unacked, run.tag)
            message = _message_of(EXECUTE, raw) or _message_of(CALL, raw)
            if message is not None:
                self._put_back(run.tag, message, run.queue, _WHENEVER, last=is_suspect)
        # With another broker, or if kombu was quicker, the message is on its way already.
        self._release(args=[run.id])
        spans.count("stbass.workers.lost", queue=run.queue)
        _log.warning("worker %s (queue %r) is lost; its process %s goes to another one", run.worker, run.queue, run.id)

    def _put_back(
        self, tag: str | bytes, message: dict[str, Any], queue: str, taken_by: float, *, last: bool = False
    ) -> bool:
        message["headers"]["redelivered"] = True
        message["properties"]["delivery_info"]["redelivered"] = True
        names = [self._unacked, self._index, f"{self._settings.broker_prefix}{queue}"]
        return bool(self._restore(keys=names, args=[tag, taken_by, json.dumps(message), int(last)]))

    def _sweep_taken(self) -> None:
        """Put back what was taken by a worker that died before it could claim the process.

        A worker keeps the time of taking up to date for what it runs; what is older than a lease is nobody's, unless
        somebody holds the process's lease all the same. Should it be somebody's who is only slow: a process that comes
        twice is claimed once.
        """
        offset = 0
        while True:
            age = self._settings.lease + 1
            bound, tags = self._stale(keys=[self._index], args=[age, offset, _AT_ONCE])
            if not tags:
                return
            found: list[Any] = self._broker.hmget(self._unacked, tags)
            messages = {tag: _message_of(EXECUTE, raw) for tag, raw in zip(tags, found, strict=True)}
            ours = {tag: message for tag, message in messages.items() if message is not None}
            offset += len(tags) - sum(self._settle(tag, message, float(bound)) for tag, message in ours.items())

    def _settle(self, tag: bytes, message: dict[str, Any], bound: float) -> bool:
        """Whether the message is among the unacknowledged ones no longer."""
        task_id, queue = message["headers"]["id"], message["properties"]["delivery_info"]["routing_key"]
        if self._backend.exists(self._prefix + task_id.encode()):
            pipe = self._broker.pipeline(transaction=True)
            pipe.hdel(self._unacked, tag).zrem(self._index, tag)
            pipe.execute()
            return True
        if self._backend.zscore(self._settings.keys.leases, task_id) is not None:
            return False
        if self._put_back(tag, message, queue, bound):
            _log.warning(
                "process %s (queue %r) was taken by a worker that is lost; it goes to another one", task_id, queue
            )
            return True
        return False


def _message_of(task: str, raw: bytes | None) -> dict[str, Any] | None:
    """The message in an entry of kombu's unacknowledged ones, if it is of this task."""
    if raw is None or task.encode() not in raw:
        return None
    try:
        message = checked_message(json.loads(raw)[0])
        if message["headers"]["task"] != task or not message["properties"]["delivery_info"]["routing_key"]:
            return None
    except (WireError, ValueError, KeyError, IndexError, TypeError, RecursionError):
        # Not one of ours then, whoever wrote it; kombu deals with it.
        return None
    found: dict[str, Any] = message
    return found
