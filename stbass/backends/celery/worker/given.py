"""Messages that producers give to a worker which has nothing to do: they are at work before Celery knows of them.

A producer that sends one process finds in Redis which worker had nothing left to do a moment ago, and gives it the
message (:data:`~stbass.backends.celery.keys.GIVE`): noted as taken, as if the worker had taken it from the queue. Most
have ended before Celery could have counted them. Of those that run longer, Celery is told: their messages are delivered
as others are, and the request that comes of it follows what runs already.

Whoever listens to Celery's events or signals of tasks wants to see each message before it runs: then nothing is given.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

import msgspec
from celery import signals
from celery.worker import state

from stbass._values.texts import error_text
from stbass.backends.celery.envelope import carried_headers
from stbass.backends.celery.incoming import EMPTY_BODY, checked_message
from stbass.backends.celery.refusals import Refusals
from stbass.backends.celery.settings import EXECUTE
from stbass.backends.celery.transport import Channel
from stbass.backends.celery.worker.runtime import Job, Outcome, Runtime
from stbass.backends.celery.worker.task_signals import sends_events, somebody_listens
from stbass.errors import ProcessCancelled, StbassError

__all__ = ["GivenMessages"]

_log = logging.getLogger(__name__)
_TOLD_WITHIN = 0.01
"""Seconds after which Celery knows of a process: most of the short ones have ended by then, and are only counted."""
_decode = msgspec.json.Decoder().decode


class _Given:
    """A process whose message was given, and the job of the request that follows it, once there is one."""

    def __init__(self, tag: str, queue: str, raw: bytes) -> None:
        self.tag = tag
        self.queue = queue
        self.raw = raw
        self.outcome: Outcome | None = None
        self._follower: Job | None = None
        self.has_started = self._is_busy = False
        self._lock = threading.Lock()

    def started(self) -> None:
        """It runs. Called on the event loop, as what follows here."""
        with self._lock:
            self.has_started, follower = True, self._follower
        if follower is not None and follower.on_started is not None:
            follower.on_started()

    def busy(self) -> None:
        """It runs already, here or elsewhere."""
        with self._lock:
            self._is_busy, follower = True, self._follower
        if follower is not None:
            follower.on_busy()

    def ended(self, outcome: Outcome) -> None:
        """It has ended."""
        with self._lock:
            self.outcome, follower = outcome, self._follower
        if follower is not None:
            follower.on_done(outcome)

    def followed_by(self, follower: Job) -> None:
        """Tell this one all that was told, and will be. Called in the worker's own thread."""
        with self._lock:
            self._follower, outcome = follower, self.outcome
            has_started, is_busy = self.has_started, self._is_busy
        if is_busy:
            follower.on_busy()
        if has_started and follower.on_started is not None:
            follower.on_started()
        if outcome is not None:
            follower.on_done(outcome)


class GivenMessages:
    """What a worker does with messages that it is given.

    Args:
        pool: of the worker.
        runtime: that runs them.
        refusals: where what is none is set aside.
    """

    def __init__(self, pool: Any, runtime: Runtime, refusals: Refusals) -> None:
        self._pool = pool
        self._runtime = runtime
        self._refusals = refusals
        self._consumer: Any = None
        self._unknown: set[_Given] = set()
        """What Celery does not know of yet."""
        if runtime.settings.one_server:
            Channel.free, Channel.given = runtime.free, self._unknown
        self._delivered: _Given | None = None
        """Of which Celery is being told."""

    def serve(self, consumer: Any) -> None:
        """Celery takes messages by this consumer from now on."""
        self._consumer = consumer

    @property
    def _channel(self) -> Channel | None:
        channel = getattr(getattr(self._consumer, "task_consumer", None), "channel", None)
        return channel if isinstance(channel, Channel) and channel.connection is not None else None

    @property
    def queues(self) -> Sequence[str]:
        """Of which the worker may be given messages now."""
        consumer, channel = self._consumer, self._channel
        if channel is None or _is_stopping():
            return ()
        task = consumer.app.tasks[EXECUTE]
        is_limited = task.rate_limit or task.time_limit or task.soft_time_limit
        is_watched = sends_events(consumer.event_dispatcher) or somebody_listens() or signals.task_received.receivers
        # Autoscaling looks at each message, and who takes no more than it can run at each place.
        if is_limited or is_watched or consumer.on_task_message or "can_consume" in vars(channel.qos):
            return ()
        return tuple(channel._active_queues)

    def take(self, raw: bytes) -> Job | None:
        """The process that a message asks for; None: Celery gets the message first. Called on the event loop."""
        try:
            payload = checked_message(_decode(raw))
            headers, properties = payload["headers"] or {}, payload["properties"]
            given = _Given(properties["delivery_tag"], properties["delivery_info"]["routing_key"], raw)
            process_id = headers["id"]
        except (StbassError, ValueError, KeyError, RecursionError) as error:
            # No producer of ours has sent it.
            self._refusals.note("message", error_text(error), raw)
            return None
        is_plain = payload.get("body") == EMPTY_BODY and not headers.get("eta") and not headers.get("expires")
        is_revoked = process_id in state.revoked
        # A worker that stops, or that connects anew, runs what it has, and Celery does not hear of that.
        is_served = self._channel is not None and not _is_stopping()
        is_first_for_celery = is_served and (is_revoked or given.queue not in self.queues)
        if headers.get("task") != EXECUTE or not is_plain or is_first_for_celery:
            self._pool.call_worker(self._deliver, given)
            return None
        if is_served and not self._runtime.has_place:
            self._pool.call_worker(self._put_back, given)
            return None
        carried = carried_headers(headers)
        # It knows what was given, which must not know it: a circle would be left to the garbage collector.
        job = Job.asked_for(
            process_id,
            headers,
            given.queue,
            headers.get("shadow") or EXECUTE,
            given.tag,
            on_started=given.started,
            on_done=given.ended,
            on_busy=given.busy,
            message=lambda: (EMPTY_BODY, carried),
        )
        if is_revoked:
            job.cancelled = ProcessCancelled(f"process {job.name!r} was revoked")
        self._unknown.add(given)
        self._pool.call_worker(self._tell, given, job.id, job.name, within=_TOLD_WITHIN)
        return job

    def _tell(self, given: _Given, process_id: str, name: str) -> None:
        """Let Celery know of a process. Called in the worker's own thread, as what follows here."""
        outcome = given.outcome
        self._unknown.discard(given)
        if outcome is not None and outcome.acknowledged:
            if given.has_started:
                state.total_count[name] += 1
                state.all_total_count[0] += 1
        elif outcome is None and process_id in state.revoked:
            self._runtime.cancel(process_id)
        elif outcome is None or outcome.status != "lost":
            self._delivered = given
            try:
                self._deliver(given)
            finally:
                self._delivered = None

    def _put_back(self, given: _Given) -> None:
        """Let others have it: this worker took something itself at the moment when it was given this."""
        if (channel := self._channel) is not None:
            channel.put_back(given.tag)

    def _deliver(self, given: _Given) -> None:
        channel = self._channel
        if channel is None:
            # What runs goes on; the rest is put back by whoever finds that nobody works on it.
            _log.debug("the connection that the message came by is gone: Celery does not hear of it")
        else:
            channel.deliver(given.queue, given.raw)
        given.raw = b""

    def follow(self, job: Job) -> bool:
        """Whether this job is that of a request which follows a process that was given, and has nothing to run."""
        given = self._delivered
        if given is None or given.tag != job.tag:
            return False
        given.followed_by(job)
        return True


def _is_stopping() -> bool:
    return any(told not in (None, False) for told in (state.should_stop, state.should_terminate))
