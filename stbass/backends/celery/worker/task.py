"""The Celery task that runs a process, its strategy and its request."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from celery import Task, signals
from celery.app.task import Context
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded, TaskRevokedError, TimeLimitExceeded
from celery.platforms import signals as platform_signals
from celery.utils.log import get_logger
from celery.utils.saferepr import saferepr
from celery.worker import state
from celery.worker.request import TERM_SIGNAME, Request
from celery.worker.strategy import default as default_strategy
from kombu.utils.json import dumps

# A composition travels as its kind and parts: a worker must know all kinds.
from stbass import par, placement, replicator, seq, topology  # noqa: F401
from stbass._values.texts import LONGEST_TRACEBACK, error_text, shortened, text_of, type_name_of
from stbass.backends.celery.envelope import (
    ENVELOPE_HEADER,
    MOST_ATTEMPTS,
    Envelope,
    Reply,
    carried_headers,
    defined_name,
    failed_result,
    reply_to,
    seal_cancellation,
    seal_result,
)
from stbass.backends.celery.keys import Superseded
from stbass.backends.celery.line import WaitingLine
from stbass.backends.celery.settings import EXECUTE, fleet_of
from stbass.backends.celery.transport import Channel
from stbass.backends.celery.worker.pool import AsyncioPool
from stbass.backends.celery.worker.runtime import Job, Outcome, current_runtime, this_runtime
from stbass.backends.celery.worker.task_signals import ProcessSignals, sends_events, somebody_listens
from stbass.errors import DeadlineExceeded, ProcessCancelled, RemoteError, StbassError
from stbass.result import ProcessResult

__all__ = ["ExecuteTask", "Parked", "ProcessRequest", "message_of", "told_error"]

_log = get_logger(__name__)
_TOLD_WITHIN = 0.01
"""Seconds after which Celery knows that a process runs: most of the short ones have ended by then, and wake it once."""


def _carriers(message: Any) -> Mapping[str, Any]:
    """Where in a message the envelope is: in its headers, or in its body if it is too long for those of the broker."""
    headers: Mapping[str, Any] = message.headers
    if ENVELOPE_HEADER in headers:
        return headers
    try:
        _, arguments, _ = message.payload
    except Exception as error:
        # Whatever decoding raises: then it has none, and is refused for that.
        _log.debug("the body of message %s cannot be read: %s", headers.get("id"), error)
        return headers
    return arguments if isinstance(arguments, dict) else headers


def message_of(
    request: Mapping[str, Any], kwargs: Mapping[str, Any], args: Sequence[Any] = ()
) -> tuple[str, dict[str, Any]]:
    """Body and headers of the message that a task of Celery's own pools deals with."""
    embedded = {name: request.get(name) for name in ("callbacks", "errbacks", "chain", "chord")}
    return dumps([args, kwargs, embedded]), carried_headers(request)


class Parked(Ignore):
    """The process waits on the fleet for the limit of its endpoint, and its message with it."""


class _Stored(threading.local):
    """The task of this thread whose failure the runtime has stored already."""

    task_id: str | None = None


_stored = _Stored()


class _StoredBackend:
    """The result backend of processes, but for results that the runtime has stored already."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._backend = fleet_of(app).results

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def mark_as_done(self, task_id: str, result: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the runtime stored the result, in the same form and with more in it."""

    def mark_as_failure(
        self, task_id: str, exc: BaseException, traceback: Any = None, request: Any = None, **_options: Any
    ) -> None:
        """Store a failure that the runtime knows nothing of, such as Celery's own time limit."""
        if task_id == _stored.task_id:
            return
        text = error_text(exc)
        if isinstance(exc, (TimeLimitExceeded, SoftTimeLimitExceeded)):
            error: StbassError = DeadlineExceeded(f"{_named(request)} ran into Celery's own time limit: {text}")
        else:
            error = RemoteError(text, type_name=type_name_of(type(exc)))
        self._store(task_id, error, request)

    def mark_as_revoked(self, task_id: str, reason: str = "", request: Any = None, **_options: Any) -> None:
        """Celery has revoked it; if it ran, the Python process that ran it is being ended.

        A command of remote control gives no request: it takes what has just begun for waiting. Nothing is stored then:
        the worker has the process, and whoever ends or skips it stores that and tells the producer.
        """
        if request is None:
            return
        self._store(task_id, ProcessCancelled(f"{_named(request)} was {reason or 'revoked'}"), request)

    def _store(self, task_id: str, error: StbassError, request: Any) -> None:
        """Keep how it ended, unless that is known, forget that it runs, and tell the producer: nobody else will."""
        settings = fleet_of(self._app).settings
        names = settings.keys
        about = Context() if request is None else request
        queue = (about.delivery_info or {}).get("routing_key") or ""
        envelope = Envelope(task_id, queue, about.shadow or EXECUTE, 0.0)
        meta = seal_result(task_id, failed_result(error, envelope, worker=about.hostname), settings)
        key = self._backend.get_key_for_task(task_id)
        pipe = self._backend.client.pipeline()
        if self._backend.client.set(key, meta, nx=True, ex=settings.result_ttl or None):
            # As Celery does, for those who wait for this result alone.
            pipe.publish(key, meta)
        pipe.delete(names.run(task_id), names.deadline(task_id))
        pipe.zrem(names.leases, task_id)
        if reply := reply_to(vars(about), names):
            pipe.publish(reply, msgspec.json.encode(Reply(ready=[task_id])))
        # What it has sent is wanted by nobody any more.
        pipe.publish(names.cancel_channel, seal_cancellation([Superseded(task_id, MOST_ATTEMPTS)], settings))
        pipe.execute()
        # Whoever waits for its place has it.
        line = WaitingLine(settings, fleet_of(self._app).result_prefix, self._app)
        line.finish(msgspec.msgpack.encode([(task_id, 0, meta.decode(), "", "", "", queue)]))
        line.close()


def _named(request: Any) -> str:
    return "the process" if request is None or not request.shadow else f"process {request.shadow!r}"


def told_error(result: ProcessResult) -> RemoteError:
    """What a task raises to tell Celery that a process failed.

    Not the error itself: Celery gives a Retry, Reject, Ignore or MemoryError a meaning of its own, and pickles what it
    gets.
    """
    failure = result.failure
    told = RemoteError(error_text(failure.error), type_name=type_name_of(type(failure.error)))
    if failure.traceback_str:
        told.add_note(failure.traceback_str)
    return told


class ExecuteTask(Task):
    """Runs one process.

    On :class:`AsyncioPool` the strategy below hands it to the event loop; on Celery's own pools the body runs it on the
    event loop of its Python process and waits.
    """

    name = EXECUTE
    acks_late = True
    acks_on_failure_or_timeout = True
    reject_on_worker_lost = True
    ignore_result = False
    track_started = False
    Strategy = "stbass.backends.celery.worker.task:strategy"
    Request = "stbass.backends.celery.worker.task:ProcessRequest"

    @property
    def backend(self) -> Any:
        """Where results go."""
        return _StoredBackend(self.app)

    def run(self, **carried: Any) -> Any:
        """Run a process; for pools that give each task a thread or a process.

        Gives back its value if somebody listens to Celery's signals, which tell it; the result is stored already.

        Args:
            carried: the envelope, if it was too long for the headers.
        """
        request = self.request
        _stored.task_id = None
        runtime = current_runtime(self.app, request.hostname or f"worker@{os.getpid()}")
        job = Job.asked_for(
            request.id,
            {**vars(request), **(request.headers or {}), **carried},
            (request.delivery_info or {}).get("routing_key"),
            request.shadow or EXECUTE,
            (request.properties or {}).get("delivery_tag"),
            on_started=None,
            on_done=lambda _outcome: None,
            message=partial(message_of, vars(request), carried),
        )
        outcome = runtime.run_blocking(job)
        if outcome.status == "lost":
            raise Reject("another worker has it", requeue=True)
        if outcome.status == "parked":
            raise Parked
        if outcome.result is None:
            return None
        if outcome.result.is_ok:
            return self._shown(outcome.result.value) if somebody_listens() else None
        _stored.task_id = request.id
        raise told_error(outcome.result)

    def _shown(self, value: Any) -> Any:
        """A value that Celery can write into its log: one that it cannot would be a failure to it."""
        try:
            saferepr(value, self.resultrepr_maxsize)
        except BaseException:
            return text_of(value)
        return value


def _on_event_loop(pool: Any) -> bool:
    return getattr(pool, "runs_processes", False)


class Places:
    """How many messages a worker may hold on one connection to the broker: as many as run, and some more.

    Made anew for each connection. After one was lost Celery takes fewer, by those whose messages came by the lost one,
    and counts them back when tasks of its own pools end.
    """

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._kept_back = consumer.max_prefetch_count - consumer.initial_prefetch_count

    def change(self, number: int) -> None:
        """So many more, or fewer."""
        qos = self._consumer.qos
        if number > 0:
            # The worker tells the broker in a moment.
            qos.increment_eventually(number)
        else:
            # The broker must know before a message is acknowledged, or it fills the place of that.
            qos.decrement_eventually(-number)
            qos.update()

    def give_back(self) -> None:
        """One that came by a lost connection has ended."""
        number = min(self._kept_back, self._consumer.prefetch_multiplier)
        if number > 0:
            self._kept_back -= number
            self.change(number)


class ProcessRequest(Request):
    """A request whose process runs on the pool's event loop."""

    signum: int | None = None
    """With which somebody told the worker to end it."""
    _waits = False
    _pool: AsyncioPool | None = None
    acknowledged: bool
    places: Places
    """Of the connection that its message came by."""

    def execute_using_pool(self, pool: AsyncioPool, **_kwargs: Any) -> None:
        """Hand the process to the event loop.

        Raises:
            TaskRevokedError: it was revoked meanwhile.
        """
        if self.revoked():
            raise TaskRevokedError(self.id)
        pool.notice_limits(self.task)
        self._pool = pool
        # The job knows the request, which must not know it: a circle would be left to the garbage collector.
        job = Job.asked_for(
            self.id,
            _carriers(self._message),
            (self.delivery_info or {}).get("routing_key"),
            self.name,
            (self._message.properties or {}).get("delivery_tag"),
            on_started=lambda: pool.call_worker(self.started, time.time(), within=_TOLD_WITHIN),
            on_done=lambda outcome: pool.call_worker(self.finished, outcome),
            listener=ProcessSignals(self) if somebody_listens() else None,
            on_busy=lambda: pool.call_worker(self.waits),
            message=self._sent_again,
        )
        pool.submit(job)

    def _sent_again(self) -> tuple[str, dict[str, Any]]:
        body, headers = self._message.body, self._message.headers
        return body if isinstance(body, str) else bytes(body).decode(), carried_headers(headers)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """As Celery's; but the message of what waits for a limit is nobody's here, and may be another worker's soon."""
        if isinstance(exc_info.exception, Parked):
            state.task_ready(self)
            if isinstance(self._message.channel, Channel):
                self.let_go()
            else:
                self.acknowledge()
            return None
        return super().on_failure(exc_info, send_failed_event, return_ok)

    def terminate(self, pool: AsyncioPool, signal: Any = None) -> None:
        """``revoke(terminate=True)``: cancel the coroutine; what follows comes through :meth:`finished`."""
        if _on_event_loop(pool):
            self.signum = platform_signals.signum(signal or TERM_SIGNAME)
            pool.cancel(self.id)
        else:
            super().terminate(pool, signal)

    def cancel(self, pool: AsyncioPool, signal: Any = None, emit_retry: bool = True) -> None:
        """Celery cancels what runs because the worker stops cold, or has lost its connection to the broker.

        In the first case (``emit_retry`` is false: the message comes again) all that runs is handed back. In the second
        nothing is to be done: whoever gets the message that the broker hands out again finds that the process runs.
        """
        if emit_retry or _on_event_loop(pool):
            return  # that pool hands back when it is stopped, which is right afterwards
        if (runtime := this_runtime()) is None:
            super().cancel(pool, signal, emit_retry)  # it runs in another Python process
        else:
            # Threads and solo cannot end what runs, and wait for it when they are stopped.
            runtime.break_off()

    def _somebody_listens(self) -> bool:
        return sends_events(self._eventer)

    def waits(self) -> None:
        """It runs already: the message waits for its end, and takes no place. Called in the worker's thread."""
        if not self._waits:
            self._waits = True
            self.places.change(1)

    def _waits_no_longer(self) -> None:
        if self._waits:
            self._waits = False
            if self._is_current:
                self.places.change(-1)

    @property
    def _is_current(self) -> bool:
        """Whether its message came by the connection that the worker has now."""
        return self._pool is None or self._pool.places is self.places

    def started(self, at: float) -> None:
        """The process runs, since ``at`` (seconds since the epoch). Called in the worker's thread."""
        self._waits_no_longer()
        self.worker_pid = os.getpid()
        self.time_start = at
        state.task_accepted(self)
        if self._somebody_listens():
            self.send_event("task-started")

    def finished(self, outcome: Outcome) -> None:
        """The result is stored, or somebody else has the process. Called in the worker's thread."""
        result = outcome.result
        self._waits_no_longer()
        if self._pool is not None and not self._is_current:
            self._pool.places.give_back()
        state.task_ready(self, successful=result is not None and result.is_ok)
        if outcome.status == "lost":
            self.let_go()
        else:
            if outcome.acknowledged and isinstance(self._message.channel, Channel):
                self._message.channel.qos.forgotten(self._message.delivery_tag)
            self.acknowledge()
        if result is None or not self._somebody_listens():
            return
        if result.is_ok:
            elapsed = 0.0 if result.elapsed is None else result.elapsed.total_seconds()
            self.send_event("task-succeeded", result=text_of(result.value, 1024), runtime=elapsed)
        elif issubclass(type(result.failure.error), ProcessCancelled):
            self.send_event("task-revoked", terminated=True, signum=self.signum, expired=False)
        else:
            failure = result.failure
            traceback = shortened(failure.traceback_str, LONGEST_TRACEBACK)
            self.send_event("task-failed", exception=text_of(failure.error), traceback=traceback)

    def let_go(self) -> None:
        """Leave the message to whoever has the process now."""
        self.acknowledged = True
        channel = self._message.channel
        if channel.connection is None:
            return  # it is nobody's already
        if hasattr(channel, "let_go"):
            channel.let_go(self._message.delivery_tag)
        else:
            self._message.reject_log_error(_log, self._connection_errors, requeue=True)

    def return_message(self) -> None:
        """Put the message back into its queue, for another worker, if it is still this one's."""
        if not self.acknowledged:
            self.acknowledged = True
            self._message.reject_log_error(_log, self._connection_errors, requeue=True)

    def acknowledge(self) -> None:
        """Acknowledge at once: the transport does it in batches, so Celery's detour by a promise is not needed."""
        if self.acknowledged:
            return
        self.acknowledged = True
        if self._message.channel.connection is None:
            # RabbitMQ hands out again what came by a connection that is gone; that message is acknowledged then.
            _log.debug("message %s came by a connection that is gone: it cannot be acknowledged", self.id)
        else:
            self._message.ack_log_error(_log, self._connection_errors)


# What to run stands in a header; the task has no arguments.
_NOTHING: tuple[tuple[()], dict[str, Any], dict[str, Any]] = ((), {}, {})


def strategy(task: Any, app: Any, consumer: Any) -> Any:
    """How the worker treats a message of the task; Celery calls it once when it starts."""
    fallback = default_strategy(task, app, consumer)
    refusals = fleet_of(app).refusals
    errors = consumer.connection_errors

    def received(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any) -> Any:
        try:
            return accept(message, body, ack, reject, callbacks)
        except Exception as error:
            if isinstance(error, errors) and not isinstance(error, KeyError):
                raise
            # A message of which something cannot be: it must not come again, and the worker has others to run.
            refusals.note("message", error_text(error), text_of(message.headers), task_id=message.headers.get("id"))
            message.ack_log_error(_log, errors)
            signals.task_rejected.send(sender=consumer, message=message, exc=error)
            return None

    if not _on_event_loop(consumer.pool):
        accept = fallback
        return received
    places = consumer.pool.places = Places(consumer)
    eventer = consumer.event_dispatcher
    revoked = consumer.controller.state.revoked
    handle = consumer.on_task_request

    def take(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any) -> Any:
        headers = message.headers
        if body is not None or headers.get("eta") or headers.get("expires"):
            return fallback(message, body, ack, reject, callbacks)
        request = ProcessRequest(
            message,
            on_ack=ack,
            on_reject=reject,
            app=app,
            hostname=consumer.hostname,
            eventer=eventer,
            task=task,
            connection_errors=consumer.connection_errors,
            body=_NOTHING,
            headers=headers,
            decoded=True,
        )
        request.places = places
        if request.id in revoked and request.revoked():
            return None
        signals.task_received.send(sender=consumer, request=request)
        if sends_events(eventer) and task.send_events:
            eventer.send(
                "task-received",
                uuid=request.id,
                # Who counts by name, as Flower does, shall not count each of a thousand names; args have that.
                name=defined_name(headers) or request.name,
                args=request.argsrepr,
                kwargs=request.kwargsrepr,
                root_id=request.root_id,
                parent_id=request.parent_id,
                retries=0,
                eta=None,
                expires=None,
            )
        state.task_reserved(request)
        for callback in callbacks or ():
            callback(request)
        handle(request)
        return None

    accept = take
    return received
