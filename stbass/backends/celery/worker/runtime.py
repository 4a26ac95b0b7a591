"""Runs processes in a worker: one event loop per Python process, whatever Celery pool is around it.

A job goes through four stages, each for many jobs at once:
claimed (one script: may it run, with which attempt and how much time left?), run (a task of the event loop),
stored (one script: result, lease, notice to the producer), done (the message may be acknowledged).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import hmac
import itertools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, TypeVar

import msgspec
import redis
from billiard.process import current_process
from celery.exceptions import Reject
from celery.signals import worker_process_shutdown, worker_shutdown
from celery.worker import state

from stbass import wire
from stbass._channels.cancellation import to_the_end
from stbass._engine.limiter import Limiter, Slot, take_slot
from stbass._engine.registry import BackendRegistry
from stbass._engine.stage_context import StageContext
from stbass._engine.supervise import Child, cancelled_itself, run_child
from stbass._process.contained import exit_refused, run_on
from stbass._process.context import Composable, ProcessContext, emit_event, failure_of, frame_of
from stbass._process.meter import Meter
from stbass._process.sync_threads import SyncThreads, shared_threads
from stbass._values.endpoint import Placement
from stbass._values.ids import new_id
from stbass._values.numbers import finite
from stbass._values.outcome import Failure, ProcessResult
from stbass._values.texts import error_text, plain_text, printable, shortened, traceback_text
from stbass._values.usage import Usage
from stbass.backends.celery import keys
from stbass.backends.celery.current_message import RunningMessage, current_message
from stbass.backends.celery.envelope import (
    ABSENT,
    ENVELOPE_HEADER,
    MOST_ATTEMPTS,
    SIGNATURE_HEADER,
    Envelope,
    Reply,
    Told,
    Used,
    cancelled_mark,
    failed_result,
    is_failure,
    message_in_queue,
    open_cancellation,
    open_envelope,
    reply_to,
    run_of,
    run_signature,
    seal_cancellation,
    seal_result,
    seal_text,
    trusted_checkpoint,
)
from stbass.backends.celery.line import WaitingLine
from stbass.backends.celery.refusals import Refusals
from stbass.backends.celery.settings import FleetSettings, fleet_of, included
from stbass.backends.celery.sweep import data_lost, worker_lost
from stbass.backends.celery.worker.logs import DETAILS
from stbass.backends.celery.worker.loop_watch import LoopWatch
from stbass.backends.celery.worker.recorder import EventWriter, ProcessRecorder
from stbass.errors import (
    BackendUnavailableError,
    DeadlineExceeded,
    ProcessCancelled,
    ProcessRefused,
    SignatureError,
    StbassError,
    WireError,
    WorkerLostError,
)
from stbass.observe import events, spans
from stbass.transports.redis.leases import LeaseKeeper
from stbass.transports.redis.script_call import ScriptCall
from stbass.transports.redis.subscription import Subscription
from stbass.transports.redis.transport import Scope
from stbass.transports.redis.trouble import LONGEST_PAUSE, Vigil, waited_out

__all__ = ["Job", "Outcome", "RunListener", "Runtime", "current_runtime", "exit_code_of_failure", "this_runtime"]

_log = logging.getLogger(__name__)
_EXIT_CODE = 1
_AT_ONCE = 1000
_FAILURES_MOST = 20
_LONGEST_TOLD = 500
_LOOK_SECONDS = 1.0
_TOUCH_MOST = 5000
_LONGEST_NOTE = 2000
_ORPHANED = "cancelled, because the worker of the process that sent it is lost,"
_NOT_WANTED = "cancelled, because the process that sent it has failed,"
_STALE = 2 / 3
"""Of its lease: the age at which a claim that was not started is given up. It would have been renewed by then."""
_APART = 5.0
"""Seconds for which suspects are kept apart, if that is longer than their lease."""
_LAST_SECONDS = 3.0
"""For each of the last things that a worker does when it stops; Celery gives it ten seconds."""
_pack = msgspec.msgpack.Encoder().encode
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a job. ``result`` is None if another message of the process has done the work.

    The status ``lost`` means that the process is not this worker's any more, nor its message: it must not be
    acknowledged, for it may be all that there is of the process. With every other status it may; ``parked`` is one that
    waits for the limit of its endpoint.
    """

    status: str
    result: ProcessResult | None = None
    acknowledged: bool = False
    """Whether Redis has forgotten the message: that goes with storing the result."""


class RunListener(Protocol):
    """Is told of a run, on the event loop, in a context that the process shares."""

    context: Context

    def starts(self) -> None:
        """The process is about to run."""

    def ended(self, outcome: Outcome) -> None:
        """It has run, or will not."""


@dataclass(slots=True, eq=False)
class Job:
    """A process that this worker was asked to run, with what only the worker knows of it.

    Args:
        envelope: the process; no more than Celery says of its message until that is opened.
        headers: of the message, until it is opened.
        tag: kombu's delivery tag of the message.
        on_started: called when the process runs.
        on_done: called when the message may be acknowledged.
        listener: told of the run; None: nobody wants to know.
        on_busy: called when it is found, each time, that the process runs already, here or on another worker.
        message: gives body and headers of the message, should it have to be sent once more.
        ends_message: whether its message is done with when its result is stored.
    """

    envelope: Envelope
    headers: Mapping[str, Any]
    tag: str
    on_started: Callable[[], None] | None
    on_done: Callable[[Outcome], None]
    listener: RunListener | None = None
    on_busy: Callable[[], None] = lambda: None
    message: Callable[[], tuple[str, dict[str, Any]]] = lambda: ("", {})
    ends_message: bool = True
    process: Composable | None = None
    placement: Placement | None = None
    attempt: int = 0
    """Of this message, known once it may run; it tells this job's lease from an earlier one's."""
    is_lost: bool = False
    """It has lost as many workers as it may: this one only says so."""
    suspicion: float = 0.0
    """Above 0 if workers have died under it, so that it runs apart from others of the kind, see ``keys._DEATHS``."""
    call: int = 0
    """Number of the call that claims it, until that is answered."""
    apart_since: float | None = None
    """Since when it waits to be apart from them (monotonic)."""
    ignores_cancellation: bool = False
    """That it is cancelled was not said by a producer."""
    checkpoint: bytes = b""
    """Its last one here, as it is kept."""
    task: asyncio.Task[None] | None = None
    scope: Scope | None = None
    """Its channels' ends, which it leaves when it ends."""
    slot: Slot | None = None
    """Its place among those that run at once; None where there is no limit."""
    ctx: ProcessContext | None = None
    recorder: ProcessRecorder | None = None
    """Keeps what happens in it, if it is part of a run that is followed."""
    cancelled: StbassError | None = None
    result: ProcessResult | None = None
    twins: list[Job] = field(default_factory=list)
    """The same message, handed out again while this one was at work."""
    id: str = field(init=False)
    """Of the process, and of Celery's task."""

    def __post_init__(self) -> None:
        self.id = self.envelope.id

    @classmethod
    def asked_for(
        cls, task_id: str, carriers: Mapping[str, Any], queue: str | None, name: str, tag: Any, **callbacks: Any
    ) -> Job:
        """What a message asks for.

        Args:
            task_id: of Celery's task.
            carriers: where in the message the envelope is.
            queue: that it came by.
            name: of the process, as Celery shows it.
            tag: kombu's delivery tag; None: it has none.
        """
        carried = {name: carriers.get(name) for name in (ENVELOPE_HEADER, SIGNATURE_HEADER)}
        return cls(Envelope(task_id, queue or "", name, 0.0), carried, str(tag or ""), **callbacks)

    @property
    def name(self) -> str:
        """Of the process."""
        return self.envelope.name

    def failed(self, error: BaseException, worker: str | None = None) -> ProcessResult:
        """Its result if it did not run."""
        return failed_result(error, self.envelope, self.placement, worker=worker)


class Giving(Protocol):
    """Deals with messages that are given to this worker; both are asked on the event loop."""

    @property
    def queues(self) -> Sequence[str]:
        """Of which it may be given messages now."""

    def take(self, raw: bytes) -> Job | None:
        """The process that such a message asks for; None: it is dealt with otherwise."""


class _MessageSlot(Slot):
    """The slot of a message, shared by all that runs in it here. While it is lent, the worker takes another message.

    Args:
        lent: told of one more that is lent, or one fewer; from any thread, and quick.
    """

    __slots__ = ("_lent",)

    def __init__(self, limiter: Limiter, lent: Callable[[int], None]) -> None:
        super().__init__(limiter, users=1)
        self._lent: Callable[[int], None] | None = lent

    @property
    def message(self) -> Slot:
        return self

    def close(self) -> None:
        super().close()
        self._lent = None

    def _wanted(self) -> None:
        if self._lent is not None:
            self._lent(-1)

    def _emptied(self) -> None:
        if self._lent is not None:
            self._lent(1)


class _Sink:
    """What a running process says about itself, on its way to Redis."""

    __slots__ = ("_job", "_made", "_runtime", "_saved")

    def __init__(self, runtime: Runtime, job: Job) -> None:
        self._runtime = runtime
        self._job = job
        self._made = self._saved = 0

    def checkpoint(self, value: Any) -> None:
        # Encoded now: the process may go on to change the value.
        text = wire.dumps(value, limit=self._runtime.settings.max_message_bytes, what="checkpoint")
        self._made += 1
        scope = self._job.scope
        if scope is not None and self._runtime.runs_here and scope.uncertain:
            # It tells of what was sent and received before it, and must not be there without that.
            scope.when_certain(partial(self._save, text, self._made))
        else:
            self._save(text, self._made)

    def _save(self, text: bytes, number: int) -> None:
        if number < self._saved:
            return  # a later one did not have to wait
        self._saved = number
        self._job.checkpoint = sealed = seal_text("checkpoint", self._job.id, text, self._runtime.settings)
        if self._job.recorder is None:
            self._runtime.keep(self._job.id, (self._job.attempt, sealed))
        else:
            self._job.recorder.checkpoint(text, sealed)
        self._tell(Reply(checkpoint=self._job.id, value=msgspec.Raw(sealed)))

    def progress(self, done: float, total: float | None, note: str) -> None:
        # What cannot be written is not worth a process: it is only told to people.
        known = None if total is None else finite(total)
        note = shortened(plain_text(note), _LONGEST_NOTE)
        self._tell(Reply(progress=self._job.id, done=finite(done) or 0.0, total=known, note=note))

    def used(self, total: Usage) -> None:
        """All that it has used up to now."""
        self._tell(Reply(usage=self._job.id, used=Used.of(total), attempt=self._job.attempt))

    def _tell(self, reply: Reply) -> None:
        if self._job.envelope.reply:
            self._runtime.tell(self._job.envelope.reply, msgspec.json.encode(reply))


def _was_begun_by(envelope: Envelope, process_id: str, before: int) -> bool:
    """Whether an attempt of that process before this one has sent it."""
    return envelope.inside == process_id and envelope.inside_attempt < before


async def _ended(future: asyncio.Future[None]) -> None:
    await asyncio.wait((future,))


class Runtime:
    """Takes jobs from any thread and runs them on an event loop of its own.

    Args:
        settings: of the fleet.
        worker: name of the worker, for people.
        result_prefix: what Celery puts before a task id to make the key of its result.
        limit: how many processes may run at once; None means any number.
        registry: where the placements are looked up of what runs here.
        app: the Celery application; needed if the broker is not Redis.
    """

    def __init__(
        self,
        settings: FleetSettings,
        worker: str,
        result_prefix: bytes,
        limit: int | None = None,
        refusals: Refusals | None = None,
        registry: BackendRegistry | None = None,
        app: Any = None,
    ) -> None:
        self.settings = settings
        self._registry = registry
        self._refusals = Refusals(settings.backend) if refusals is None else refusals
        self._keys = settings.keys
        self.worker = shortened(worker, 255)
        self._life = new_id()
        """Tells it from the worker that had this name before."""
        self._given_channel = self._keys.given_channel(self._life)
        self._calls = itertools.count(1)
        self._slots = Limiter(limit)
        self._places = 0
        """Taken for processes that are being claimed."""
        self._watched: set[str] = set()
        """Processes whose producers observe what happens inside of them."""
        self._watching = contextlib.ExitStack()
        self.lent = 0
        """How many messages lend their slot now."""
        self._lending: deque[tuple[str, int, int]] = deque()
        """Processes that have lent their slot (1) or have it again (-1), with their attempt, until that is noted."""
        self.on_lent: Callable[[], None] | None = None
        """Called when that has changed; from any thread, and quick."""
        self._prefix = result_prefix
        self._incoming: deque[Job] = deque()
        self._jobs: dict[str, Job] = {}
        self._running: dict[str, Job] = {}
        self._finished: list[Job] = []
        self.failed: deque[tuple[float, keys.FailedProcess]] = deque(maxlen=keys.MOST_TOLD)
        """The last that have failed, each with when it did (monotonic)."""
        self._stale: list[Job] = []
        """Claimed too long ago to be started."""
        self._suspects: dict[str, float] = {}
        """Of those that run: their suspicion, by id."""
        self.given: Giving | None = None
        """None: this worker is not given messages."""
        self._limited: list[Job] = []
        """Those that the limit of their endpoint keeps from running."""
        self._line = WaitingLine(settings, result_prefix, app)
        self._limits = {queue: limit.kept("settings") for queue, limit in settings.limits.items()}
        self._due: set[str] = set()
        """Queues of which somebody has to look who may begin."""
        self._has_due = asyncio.Event()
        self._apart: list[Job] = []
        """Suspects that wait until others have ended here."""
        self._data_since: bytes | None = None
        """Since when the server keeps the fleet's data, as it said last."""
        self._unknown: set[str] = set()
        """Of those whose lease is lost: what the server has lost its data of."""
        self._messages: list[tuple[str, bytes]] = []
        self._unkept = False
        """Whether checkpoints may not be written yet that messages tell of."""
        self._lock = threading.Lock()
        self._signalled = False
        self._closing = self._closed = False
        self._loop = asyncio.new_event_loop()
        self._has_work = asyncio.Event()
        self._has_finished = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        # Never from a message: where channels are is this worker's own setting.
        self._transport = settings.make_transport(known=True)  # it has given us the message
        self._cancellations = Subscription(
            settings.backend,
            self._keys.cancel_channel,
            self._hear,
            self._on_gap,
            beside=[self._given_channel],
            patient=True,
        )
        self.keeper: LeaseKeeper[Job] = LeaseKeeper(
            settings.backend,
            "leases and checkpoints",
            self._renew_leases,
            self._leases_lost,
            write=self._write_checkpoints,
            timeout=max(1.0, settings.lease / 3),
        )
        self._beside = settings.beside_results
        self._broker: redis.Redis | None = None
        """For the keeper's thread, if the queues are on another server than the leases."""
        if settings.broker is not None and not settings.one_server:
            self._broker = settings.broker.client()
        self._writer = EventWriter(settings, self._life, result_prefix)
        self._claiming = Vigil("claim processes", settings.backend, _log)
        self._storing = Vigil("store results", settings.backend, _log)
        self._telling = Vigil("tell of progress", settings.backend, _log)
        self._redis: redis.asyncio.Redis | None = None
        self._claim_under_way: asyncio.Task[None] | None = None
        self._ready = threading.Event()
        self._main: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run_loop, name="stbass-processes", daemon=True)
        self._thread.start()
        self._ready.wait()

    # From any thread -----------------------------------------------------------------------------

    @property
    def running(self) -> int:
        """How many processes run now."""
        return len(self._running)

    @property
    def running_jobs(self) -> list[Job]:
        """Those of the processes that run now."""
        return list(self._running.values())

    def submit(self, job: Job) -> None:
        """Run a job; its callbacks are called in the event loop's thread."""
        with self._lock:
            self._jobs.setdefault(job.id, job)
            self._incoming.append(job)
            signal = not (self._signalled or self.runs_here)
            self._signalled = self._signalled or signal
        if self.runs_here:
            self._has_work.set()
        elif signal:
            # If the loop has ended the worker is about to: the message is not acknowledged, and goes to another one.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._wake)

    def call_later(self, seconds: float, function: Callable[[], None]) -> None:
        """Call ``function`` in the event loop's thread; to be called there, too."""
        self._loop.call_later(seconds, function)

    def resize(self, limit: int) -> None:
        """So many may run at once from now on; what runs goes on."""
        self._slots.resize(limit)

    def run_blocking(self, job: Job) -> Outcome:
        """Run a job and wait for it; for pools that give each task a thread or a process."""
        done = threading.Event()
        outcomes: list[Outcome] = []

        def finished(outcome: Outcome) -> None:
            outcomes.append(outcome)
            done.set()

        job.on_done = finished
        self.submit(job)
        while not done.wait(_LOOK_SECONDS):
            if not self._thread.is_alive():
                raise Reject("the worker ends, and another one runs it", requeue=True)
        return outcomes[0]

    @property
    def has_place(self) -> bool:
        """Whether it can run one more at once."""
        return self._slots.limit is None or len(self._jobs) < self._slots.limit

    @property
    def free(self) -> bytes:
        """The key that says that this worker may be given messages."""
        return self._keys.key(f"free:{self._life}").encode()

    @property
    def runs_here(self) -> bool:
        """Whether this is the thread of the event loop."""
        return threading.get_ident() == self._thread.ident

    def tell(self, channel: str, message: bytes) -> None:
        """Publish a message, before any result that is stored later."""
        if self.runs_here:
            self._tell(channel, message)
        else:
            self._loop.call_soon_threadsafe(self._tell, channel, message)

    def keep(self, task_id: str, checkpoint: tuple[int, bytes]) -> None:
        """Write a checkpoint, before anything that is told of later: who hears of it may count on it."""
        self.keeper.write(task_id, checkpoint)
        self._unkept = True

    def cancel(self, task_id: str, reason: str = "revoked") -> None:
        """Cancel a job that waits or runs here; nothing happens if there is none."""
        self._loop.call_soon_threadsafe(self._cancel, [task_id], reason)

    def drain(self, grace: float) -> bool:
        """Wait until nothing runs and all results are stored, for at most ``grace`` seconds. Gives back whether so."""

        async def idle() -> bool:
            try:
                async with asyncio.timeout(grace):
                    await self._be_given_no_more()
                    await self._idle.wait()
            except TimeoutError:
                return False
            return True

        if not self._thread.is_alive():
            return True
        waiting = asyncio.run_coroutine_threadsafe(idle(), self._loop)
        try:
            return waiting.result(grace + 1)
        except (concurrent.futures.CancelledError, TimeoutError):
            # A second signal has closed it meanwhile; or a process has cancelled what is not its own, and it ends.
            if waiting.cancelled() and not self._closing:
                self._thread.join(timeout=10)
            return False

    def break_off(self) -> None:
        """Cancel what runs, without results: the messages are not acknowledged and go to another worker.

        It does not wait for that, and may be called by the handler of a signal.
        """
        if not self._closing:
            self._closing = True
            with contextlib.suppress(RuntimeError):  # the loop has ended by itself
                self._loop.call_soon_threadsafe(self._stop)

    def close(self) -> None:
        """Break off what runs, and wait until others may have it."""
        if self._closed:
            return
        self._closed = True
        self.break_off()
        self._thread.join(timeout=10)
        self.keeper.close()
        if self._broker is not None:
            self._broker.close()

    # The event loop's thread ---------------------------------------------------------------------

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                loop = runner.get_loop()
                run_on(loop, loop.create_task(self._serve()))
        except asyncio.CancelledError:
            if not self._closing:
                self._cannot_go_on()
        except BaseException:
            self._cannot_go_on()
        finally:
            self._ready.set()

    def _cannot_go_on(self) -> None:
        """A worker that takes messages and cannot run them is worse than none: who supervises it starts another."""
        if self._closing:
            _log.error("the event loop that runs processes did not end in good order", exc_info=True)
            return
        _log.critical(
            "the event loop that runs processes has ended, so this worker (%s) ends with exit code %d; what it ran goes"
            " to others. Start it again; the error below says whether a process did it (by cancelling or stopping what"
            " is not its own) or Redis, or else report it",
            self.worker,
            _EXIT_CODE,
            exc_info=True,
        )
        _end_worker()

    def _stop(self) -> None:
        if self._main is not None:
            self._main.cancel()

    def _wake(self) -> None:
        with self._lock:
            self._signalled = False
        self._has_work.set()

    async def _serve(self) -> None:
        self._main = asyncio.current_task()
        self.watch = LoopWatch(self._loop, self._named)
        # Of processes that call `asyncio.to_thread` themselves: asyncio's own are few, and its end waits for them.
        self._loop.set_default_executor(SyncThreads("stbass-to-thread", shared_threads().abandoned))
        self._redis = self.settings.backend.async_client()
        self._claim_script = ScriptCall(self._redis, self._keys.script(keys.CLAIM))
        self._finish_script = ScriptCall(self._redis, self._keys.script(keys.FINISH))
        self._park_script = ScriptCall(self._redis, self._keys.script(keys.PARK))
        self._tend_script = ScriptCall(self._redis, self._keys.script(keys.TEND))
        self._writer.open(self._redis)
        self._ready.set()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forever("claims processes", self._claim_some), name="stbass-claim")
                group.create_task(self._forever("stores results", self._store_some), name="stbass-store")
                group.create_task(self._forever("calls what waits for a limit", self._tend_some), name="stbass-limits")
                group.create_task(self._forever("writes events of runs", self._writer.write_some), name="stbass-events")
                group.create_task(self._cancellations.run(), name="stbass-cancel")
        finally:
            await self._wind_up()
            self._line.close()
            await self._transport.aclose()
            await self._redis.aclose()

    async def _wind_up(self) -> None:
        """Store what has ended, and hand back the rest."""
        last = self._loop.time() + 3 * _LAST_SECONDS
        if self._claim_under_way is not None:
            # Otherwise it may claim processes for nobody.
            await asyncio.wait((self._claim_under_way,), timeout=_LAST_SECONDS)
        held = [job for job in self._running.values() if job.task is not None]
        running = [job.task for job in held if job.task is not None]
        for job in held:
            if job.scope is not None:
                job.scope.break_off()
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=_LAST_SECONDS)
        for job in held:
            self.keeper.release(job.id)
            if job.result is None and job.listener is not None:
                job.listener.ended(Outcome("handed back"))
        # One that does not let itself be cancelled runs on for a moment: nobody may have it before its lease is over.
        left = [job for job in held if job.result is None and job.task is not None and job.task.done()]

        async def tell() -> None:
            if self._writer.is_behind:
                await self._writer.flush()
            while self._finished:
                await self._store_next()
            await self._hand_back(left)
            await self._give_back(all_of_it=True)

        try:
            async with asyncio.timeout_at(last):
                # A stop must not count as a death only because Redis is away for a moment.
                await waited_out(tell, Vigil("hand back processes", self.settings.backend, _log))
        except (TimeoutError, redis.RedisError, OSError) as error:
            _log.warning(
                "cannot hand back %d processes: Redis at %s: %s; others take them when their leases are over, and count"
                " it as the death of a worker",
                len(left),
                self.settings.backend,
                error_text(error),
            )

    async def _forever(self, doing: str, step: Callable[[], Awaitable[None]]) -> None:
        """Do ``step`` again and again, whatever one of them raises.

        Raises:
            Exception: it has failed many times on end, so the worker is of no use.
        """
        failures = 0
        while True:
            try:
                await step()
                failures = 0
            except Exception:
                failures += 1
                if failures >= _FAILURES_MOST:
                    raise
                _log.exception("the part of the worker that %s failed; it goes on", doing)
                await asyncio.sleep(min(LONGEST_PAUSE, 0.01 * 2**failures))

    async def _claim_some(self) -> None:
        await self._has_work.wait()
        self._places = self._slots.take(_AT_ONCE)
        if not self._places:
            # One place, in turn with those who want theirs back; and what is free besides.
            await take_slot(self._slots)
            self._places = 1 + self._slots.take(_AT_ONCE - 1)
        try:
            await self._claim_for(self._places)
        finally:
            self._slots.give_back(self._places)

    async def _claim_for(self, room: int) -> None:
        batch: list[Job] = []
        with self._lock:
            while self._incoming and len(batch) < room:
                batch.append(self._incoming.popleft())
            if not self._incoming:
                self._has_work.clear()
        jobs = [job for job in batch if self._is_first(job) and self._open(job)]
        if jobs:
            await self._each(jobs, self._claiming, self._claim_whole, self._not_claimed)
        if self._limited:
            limited, self._limited = self._limited, []
            await self._each(limited, self._claiming, self._park, self._not_claimed)
        if self._stale:
            await self._give_up_stale()
        if self._finished:
            self._has_finished.set()

    def _is_first(self, job: Job) -> bool:
        """Whether no other message of the process is at work here: one that was handed out again waits for that."""
        other = self._jobs.get(job.id, job)
        if other is not job:
            self._add_twin(other, job)
        return other is job

    @staticmethod
    def _add_twin(job: Job, twin: Job) -> None:
        job.twins.append(twin)
        twin.on_busy()

    async def _claim_whole(self, jobs: list[Job]) -> None:
        # To its end even if the worker stops meanwhile: what is claimed for nobody has to wait for a lease to end.
        self._claim_under_way = self._loop.create_task(self._claim(jobs))
        await asyncio.shield(self._claim_under_way)

    async def _give_up_stale(self) -> None:
        """Claim again what was claimed so long ago that another worker may have it by now."""
        await waited_out(partial(self._hand_back, self._stale), self._claiming)
        stale, self._stale = self._stale, []
        _log.warning(
            "%d processes were claimed and not started in time, because the event loop was blocked or Redis did not"
            " answer; claiming them again",
            len(stale),
        )
        for job in stale:
            job.attempt = 0
            self.submit(job)

    async def _hand_back(self, jobs: list[Job]) -> None:
        assert self._redis is not None
        for start in range(0, len(jobs), _AT_ONCE):
            args = [part for job in jobs[start : start + _AT_ONCE] for part in (job.id, job.attempt)]
            await self._redis.register_script(self._keys.script(keys.HAND_BACK))(args=[self._life, *args])

    def _open(self, job: Job) -> bool:
        if job.process is not None:
            return True
        job.scope = self._transport.scope(job.name)
        try:
            job.envelope, job.process, job.placement = open_envelope(
                job.headers, job.envelope, self.settings, self.worker, job.scope
            )
        except Exception as error:
            # Beside what it raises knowingly: nothing here may depend on what was in a message.
            self._refuse(job, error)
            job.result = job.failed(error, self.worker)
            job.envelope.reply, job.envelope.follow = reply_to(job.headers, self._keys), run_of(job.headers)
            self._finished.append(job)
            return False
        job.headers = {}
        return True

    async def _park(self, jobs: list[Job]) -> None:
        """Let these wait on the fleet, for the limits of their endpoints."""
        packed = _pack(
            [
                (
                    job.id,
                    job.envelope.queue,
                    job.envelope.reply,
                    plain_text(job.name),
                    -1 if job.envelope.deadline is None else job.envelope.deadline,
                    message_in_queue(job.id, job.envelope.queue, *job.message()).decode(),
                    job.envelope.follow if job.envelope.inside is None else "",
                    job.tag,
                    int(job.ignores_cancellation),
                )
                for job in jobs
            ]
        )
        if self._broker is not None:
            # Nobody may call them before their messages are acknowledged: they come again by the same tags.
            await self._park_script([packed, 0, *self._beside])
            await shared_threads().call_plain(self._line.acknowledge, [job.tag for job in jobs if job.tag])
        sent, alarms = await self._park_script([packed, 1, *self._beside])
        for job in jobs:
            self._done(job, Outcome("parked", acknowledged=self.settings.broker is not None))
        await self._go_on(sent, alarms)

    async def _go_on(self, sent: list[Any], alarms: list[Any]) -> None:
        """Some that waited may begin: as far as a script could not see to it."""
        if sent:
            await shared_threads().call_plain(self._line.put_back, sent)
        for queue, milliseconds in alarms:
            self._loop.call_later(int(milliseconds) / 1000, self._look_who_may_begin, queue.decode())

    def _look_who_may_begin(self, queue: str) -> None:
        self._due.add(queue)
        self._has_due.set()

    async def _tend_some(self) -> None:
        await self._has_due.wait()
        self._has_due.clear()
        queues, self._due = self._due, set()
        sent, alarms, late = await waited_out(partial(self._tend_script, [*self._beside, *queues]), self._storing)
        await self._go_on(sent, alarms)
        if (packed := self._line.overdue(late)) is not None:
            await waited_out(partial(self._finish, packed), self._storing)

    def _refuse(self, job: Job, error: Exception) -> None:
        if isinstance(error, ProcessRefused):
            # Sent where it is not known, perhaps by a mistake: each is worth a line.
            _log.warning("refused a message: %s", error)
            kind = "process"
        else:
            kind = "signature" if isinstance(error, SignatureError) else "message"
        text = job.headers.get(ENVELOPE_HEADER)
        queue = job.envelope.queue
        self._refusals.note(kind, error_text(error), text if type(text) is str else "", queue=queue, task_id=job.id)

    async def _claim(self, jobs: list[Job]) -> None:
        asked_at = time.monotonic()
        for job in jobs:
            job.call = job.call or next(self._calls)
        packed = [
            (
                job.id,
                int(job.envelope.lease * 1000),
                int(job.envelope.deadline is not None),
                job.envelope.reply,
                job.envelope.queue,
                job.envelope.max_attempts,
                job.tag,
                run_signature(job.id, self.settings),
                int(job.ignores_cancellation),
                # Not for ever: the one that it waits for may itself wait for it, over a channel or for its result.
                int(job.apart_since is None or asked_at - job.apart_since < max(_APART, job.envelope.lease)),
                job.call,
            )
            for job in jobs
        ]
        held = [len(self._suspects), sum(self._suspects.values())]
        ttls = [keys.RUN_TTL, self.settings.result_ttl]
        limits = [_pack(self._limits)] if self._limits else []
        args = [self.worker, self._life, self._prefix, *ttls, *held, _pack(packed), *limits]
        since, *answers, alarms = await self._claim_script(args)
        now = time.monotonic()
        await self._go_on([], alarms)
        if self._data_since is None:
            self._data_since = since
        # What earlier attempts have sent must not run beside what comes now.
        gone: list[keys.Superseded] = []
        for job, (status, attempt, remaining, checkpoint, blame, is_forged) in zip(jobs, answers, strict=True):
            job.call = 0
            if is_forged:
                self._refusals.note("run record", "its signature is missing or wrong", task_id=job.id)
            if status == b"cancelled" and not self._is_cancelled(job.id, checkpoint):
                job.ignores_cancellation = True
                self.submit(job)
                continue
            if status in (b"lost", b"cancelled"):
                gone.append(keys.Superseded(job.id, MOST_ATTEMPTS))
            elif attempt > 1:
                gone.append(keys.Superseded(job.id, attempt))
            if status == b"go" and now - asked_at > job.envelope.lease * _STALE:
                job.attempt = attempt
                self._stale.append(job)
            elif status == b"go":
                until = now + remaining / 1000 if remaining >= 0 else None
                job.suspicion = float(blame or 0)
                self._start(job, attempt, until, checkpoint, age=now - asked_at)
            elif status == b"done":
                self._done(job, Outcome("done"))
            elif status == b"again":
                self._refusals.note("replay", "it has ended, and its message came again", task_id=job.id)
                self._done(job, Outcome("done"))
            elif status == b"busy":
                self._busy(job)
            elif status == b"apart":
                self._keep_apart(job, now)
            elif status == b"limited":
                self._limited.append(job)
            elif status == b"lost":
                self._not_run_again(job, attempt, remaining, checkpoint, blame)
            else:
                self._not_started(job, status == b"cancelled")
        if gone:
            self._tell(self._keys.cancel_channel, seal_cancellation(gone, self.settings))
        if not self._suspects:
            self._try_suspects()

    def _keep_apart(self, job: Job, now: float) -> None:
        if job.apart_since is None:
            job.apart_since = now
            self._loop.call_later(max(_APART, job.envelope.lease), self._try_suspects)
        self._apart.append(job)

    def _try_suspects(self) -> None:
        """One has ended, or has waited long enough: is there room for those that wait?"""
        apart, self._apart = self._apart, []
        for job in apart:
            self.submit(job)

    def _not_run_again(self, job: Job, attempt: int, deaths: int, checkpoint: bytes, worker: bytes) -> None:
        job.attempt, job.is_lost = attempt, True
        error = worker_lost(deaths, worker.decode("utf-8", "replace"), job.envelope.queue, attempt)
        trusted = trusted_checkpoint(checkpoint, job.id, self.settings, self._refusals)
        job.result = failed_result(
            error, job.envelope, job.placement, worker=error.worker, attempt=attempt, checkpoint=trusted
        )
        _log.error("process %r (%s): %s", job.name, job.id, error)
        self._finished.append(job)

    def _busy(self, job: Job) -> None:
        """A message that was handed out again while its process runs: it waits for the other one."""
        other = self._running.get(job.id)
        if other is not None:
            self._add_twin(other, job)
            return
        # It runs on another worker. Either that one finishes it, or it is found lost: then it is ours.
        job.on_busy()
        self._loop.call_later(job.envelope.lease / 2, self._resubmit, job)

    def _resubmit(self, job: Job) -> None:
        if not self._closing:
            self.submit(job)

    def _done(self, job: Job, outcome: Outcome) -> None:
        # Not before its result is stored, which may take longer than a lease: nobody else shall run it meanwhile.
        self.keeper.release(job.id)
        # It knows the job, too: a circle would be left to the garbage collector.
        job.ctx = None
        if outcome.status in ("done", "lost") and (reply := job.envelope.reply):
            # Whoever stored a result here may know nothing of who waits for it.
            self._tell(reply, msgspec.json.encode(Reply(ready=[job.id])))
        if self._jobs.get(job.id) is job:
            del self._jobs[job.id]
        if outcome.result is not None and outcome.result.is_fail:
            self._note_failure(job, outcome.result.failure)
        if job.listener is not None:
            job.listener.ended(outcome)
        elif outcome.result is not None and outcome.result.is_fail:
            _drop_tracebacks(outcome.result.failure.error)
        job.on_done(outcome)
        for twin in job.twins:
            if outcome.status in ("lost", "parked"):
                # Whoever has the process may have put it back by this very message.
                self.submit(twin)
            else:
                twin.on_done(Outcome("done"))

    def _note_failure(self, job: Job, failure: Failure) -> None:
        envelope = job.envelope
        text = "; ".join([error_text(failure.error, _LONGEST_NOTE), *failure.leaves[:_MOST_LEAVES]])
        if job.on_started is not None:
            # Under Celery's own pools, which have no on_started, Celery writes this line.
            _log_failure(job, failure, text, self.worker)
        if not issubclass(type(failure.error), ProcessCancelled):
            told = [shortened(one, _LONGEST_TOLD) for one in (job.id, job.name, envelope.queue, text, envelope.follow)]
            process_id, name, queue, error, run = told
            failed = keys.FailedProcess(process_id, name, queue, job.attempt, error, run)
            self.failed.append((time.monotonic(), failed))

    def _not_started(self, job: Job, cancelled: bool) -> None:
        envelope = job.envelope
        where = f"while it was queued for {envelope.queue!r}"
        error: StbassError
        if cancelled:
            error = ProcessCancelled(f"process {job.name!r} was cancelled {where}")
        else:
            deadline = envelope.deadline or 0.0
            error = DeadlineExceeded(
                f"process {job.name!r}: its deadline of {deadline:g} s passed {where}",
                deadline=deadline,
                phase="queued",
            )
        job.result = job.failed(error)
        self._finished.append(job)

    def _is_cancelled(self, task_id: str, mark: bytes) -> bool:
        """Whether it was a producer that has put this where cancelled processes are noted."""
        if self.settings.signer is None or hmac.compare_digest(mark, cancelled_mark(task_id, self.settings).encode()):
            return True
        self._refusals.note("cancellation", "its signature is missing or wrong", mark, task_id=task_id)
        return False

    def _start(self, job: Job, attempt: int, until: float | None, checkpoint: bytes, age: float) -> None:
        job.attempt = attempt
        if job.scope is not None:
            around = job.envelope.inside
            outer = [] if around is None else [(around, job.envelope.inside_attempt)]
            job.scope.belongs_to([(job.id, attempt), *outer])
        self.keeper.hold(job.id, job.envelope.lease, job, age=age)
        if job.cancelled is not None:
            # Cancelled after the worker took it and before it could start.
            job.result = job.failed(job.cancelled)
            self.keeper.release(job.id)
            self._finished.append(job)
            return
        self._running[job.id] = job
        if job.suspicion:
            self._suspects[job.id] = job.suspicion
        self._idle.clear()
        self._places -= 1
        if self._slots.limit is None:
            self._slots.give_back(1)
        else:
            job.slot = _MessageSlot(self._slots, partial(self._lent, job))
        context = None if job.listener is None else job.listener.context
        job.task = self._loop.create_task(self._run(job, until, checkpoint), name=job.name, context=context)
        if job.on_started is not None:
            job.on_started()

    async def _run(self, job: Job, until: float | None, checkpoint: bytes) -> None:
        process, envelope = job.process, job.envelope
        assert process is not None
        if job.listener is not None:
            job.listener.starts()
        ctx = ProcessContext(job.name, job.id, None, envelope.parent)
        given = envelope.read_given(self.settings.max_message_bytes)
        if given is not None:
            ctx = StageContext(job.name, given, None, envelope.parent)
            ctx.process_id = job.id
        ctx.placement = job.placement
        ctx.attempt = envelope.attempt + job.attempt - 1
        frame = frame_of(ctx)
        frame.worker = self.worker
        frame.sink = sink = _Sink(self, job)
        frame.meter = Meter(run=envelope.run or job.id, tell=sink.used)
        frame.registry = self._registry
        frame.slot = job.slot
        if until is not None:
            frame.limit(until, envelope.deadline)
        job.ctx = ctx
        child = Child(process, ctx)
        # It keeps the slot to its end, where :meth:`_forget` closes it; a slot that is left counts as lent.
        child.covered = child.hands_on = job.slot is not None
        try:
            if job.cancelled is not None:
                # Between its start and this first step.
                raise asyncio.CancelledError
            # Of an earlier worker of this message, else of what a retry policy ran before.
            trusted = trusted_checkpoint(checkpoint, job.id, self.settings, self._refusals)
            checkpoint = trusted or bytes(envelope.resumed)
            envelope.given = envelope.resumed = ABSENT
            if checkpoint:
                ctx.resumed_from = wire.loads(checkpoint, limit=self.settings.max_message_bytes)
            watched = envelope.path is not None and not envelope.follow
            keepers = tuple(one.message() for one in envelope.keepers) if envelope.keepers else ()
            current_message.set(
                RunningMessage(job.name, job.id, job.attempt, self.worker, job.slot is not None, watched, keepers)
            )
            frame.path = envelope.path or ""
            if watched:
                self._watch_inside(job)
            if envelope.follow:
                frame.recorder = job.recorder = ProcessRecorder(
                    self._writer, envelope.follow, job.id, job.attempt, checkpoint
                )
                if job.attempt > 1:
                    emit_event(ctx, "retried")
            if envelope.inside is not None and (how := await self._orphaned(envelope)):
                self._cancel([job.id], how)
                await asyncio.sleep(0)
            spans.arrive(envelope.trace, job.attempt)
            job.result = await run_child(child)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if job.cancelled is None and task is not None and not task.cancelling():
                job.result = cancelled_itself(child)
            elif job.cancelled is None:
                # The worker is stopping: no result, so that the message goes to another one.
                self._forget(job)
                raise
            else:
                job.result = failure_of(job.cancelled, ctx)
        except (SystemExit, KeyboardInterrupt) as error:
            # It would end this worker and all that runs here, then the next worker, and so on.
            job.result = exit_refused(error, ctx)
        except BaseException as error:
            job.result = failure_of(error, ctx, traceback_text(error))
        finally:
            if job.scope is not None and job.scope.used:
                # What it has sent is in Redis before its result is, and its ends are free for others then. It has
                # ended: a cancellation that comes now has nothing to cancel.
                await self._leave(job, job.scope, ctx)
        self._forget(job)
        if isinstance(job.cancelled, WorkerLostError):
            # Somebody else runs it by now; what happened here does not count.
            self._done(job, Outcome("lost"))
            self._rest()
            return
        self._finished.append(job)
        self._has_finished.set()

    def _watch_inside(self, job: Job) -> None:
        """Tell whoever has sent a process what happens inside of it."""
        if not self._watched:
            self._watching.enter_context(events.subscribe(self._tell_of_inside))
        self._watched.add(job.id)

    def _tell_of_inside(self, event: events.Event) -> None:
        message = current_message.get()
        job = None if message is None or not message.watched else self._running.get(message.id)
        # What happens to the process itself is told of anyhow.
        if job is not None and job.envelope.reply and (event.process_id != job.id or event.kind == "output"):
            told = Reply(inside=job.id, told=[Told.of(event)])
            self.tell(job.envelope.reply, msgspec.json.encode(told))

    async def _orphaned(self, envelope: Envelope) -> str:
        """How it is cancelled, if the worker of the process that sent it is lost, or that has failed; else empty.

        If that has ended well, what it has left behind may run to its end.
        """
        assert self._redis is not None
        assert envelope.inside is not None
        asking: Any = partial(self._redis.hmget, self._keys.run(envelope.inside), ["attempt", "swept"])
        attempt, swept = await waited_out(asking, self._claiming)
        if attempt is not None:
            lost = attempt.isdigit() and (int(attempt) > envelope.inside_attempt or swept == attempt)
            return _ORPHANED if lost else ""
        raw: Any = await waited_out(partial(self._redis.get, self._prefix + envelope.inside.encode()), self._claiming)
        return _NOT_WANTED if raw is not None and is_failure(raw, envelope.inside, self.settings) else ""

    async def _leave(self, job: Job, scope: Scope, ctx: ProcessContext) -> None:
        # If it runs again elsewhere, nobody waits for what it did here.
        again = job.result is None or isinstance(job.cancelled, WorkerLostError)
        leaving = asyncio.ensure_future(scope.leave() if again else scope.aclose())
        await to_the_end(_ended(leaving))
        error = None if leaving.cancelled() else leaving.exception()
        if isinstance(error, StbassError) and job.result is not None and job.result.is_ok:
            job.result = failure_of(error, ctx)
        elif error is not None:
            _log.warning("process %s: %s", job.name, error)

    def _forget(self, job: Job) -> None:
        self._running.pop(job.id, None)
        if self._suspects.pop(job.id, None) is not None:
            self._try_suspects()
        if job.slot is not None:
            job.slot.close()
        if self._watched:
            self._watched.discard(job.id)
            if not self._watched:
                self._watching.close()

    def _lent(self, job: Job, more: int) -> None:
        self.lent += more
        if self.on_lent is not None:
            self.on_lent()
        self._lending.append((job.id, job.attempt, more))
        if self.runs_here:
            self._has_finished.set()
        else:
            with contextlib.suppress(RuntimeError):  # the loop has ended: nothing runs here any more
                self._loop.call_soon_threadsafe(self._has_finished.set)

    async def _note_lending(self, changes: dict[tuple[str, int], int]) -> None:
        assert self._redis is not None
        args = [part for (task_id, attempt), more in changes.items() for part in (task_id, attempt, more)]
        await self._redis.register_script(self._keys.script(keys.LEND))(args=[self._life, *args])

    def _tell(self, channel: str, message: bytes) -> None:
        self._messages.append((channel, message))
        self._has_finished.set()

    async def _publish(self, messages: list[tuple[str, bytes]]) -> None:
        assert self._redis is not None
        pipe = self._redis.pipeline(transaction=False)
        for channel, message in messages:
            pipe.publish(channel, message)
        await pipe.execute()

    def _rest(self) -> None:
        """Nothing runs, and what has run is stored: then the worker may end."""
        if not self._running and not self._finished:
            self._idle.set()

    async def _store_some(self) -> None:
        await self._has_finished.wait()
        self._has_finished.clear()
        # What a process has said comes before its result: also of one that ends while messages are published.
        ended = len(self._finished)
        changes: dict[tuple[str, int], int] = {}
        while self._lending and len(changes) < _AT_ONCE:
            task_id, attempt, more = self._lending.popleft()
            changes[task_id, attempt] = more
        if changes:
            try:
                await waited_out(partial(self._note_lending, changes), self._telling)
            except redis.RedisError as error:
                _log.warning("cannot note which processes lend their places: %s", error)
        messages, self._messages = self._messages, []
        if messages:
            if self._unkept:
                self._unkept = False
                await asyncio.wrap_future(self.keeper.flush())
            try:
                await waited_out(partial(self._publish, messages), self._telling)
            except redis.RedisError as error:
                _log.warning("%d messages of progress could not be sent: %s", len(messages), error)
        if ended:
            if self._writer.is_behind:
                await self._writer.flush()
            await self._store_next(min(ended, _AT_ONCE))
        if self._finished or self._lending:
            self._has_finished.set()

    async def _store_next(self, most: int = _AT_ONCE) -> None:
        batch, self._finished = self._finished[:most], self._finished[most:]
        try:
            sealed = [
                (job, seal_result(job.id, job.result, self.settings, job.ctx))
                for job in batch
                if job.result is not None
            ]
            await self._each(sealed, self._storing, self._store, self._not_stored)
        except asyncio.CancelledError:
            # The worker stops, and stores what has ended before it does.
            self._finished[:0] = batch
            raise
        self._rest()

    async def _store(self, batch: list[tuple[Job, bytes]]) -> None:
        packed = _pack(
            [
                (
                    job.id,
                    job.attempt,
                    meta.decode(),
                    job.envelope.reply,
                    job.tag if job.ends_message else "",
                    "" if job.is_lost else self._life,
                    job.envelope.queue,
                    *((job.envelope.follow,) if job.envelope.follow and job.envelope.inside is None else ()),
                )
                for job, meta in batch
            ]
        )
        stored = await self._finish(packed, self._free_after(batch))
        for (job, _), mine in zip(batch, stored, strict=True):
            # Of one that was never started, such as a message that was refused twice, a result is there already.
            status = "stored" if mine else "lost" if job.attempt else "done"
            acknowledged = bool(job.tag and job.ends_message and self._beside[0]) and status != "lost"
            self._done(job, Outcome(status, job.result, acknowledged))

    def _free_after(self, batch: list[tuple[Job, bytes]]) -> Sequence[str]:
        """Of which queues this worker may be given messages when these are stored."""
        is_all = len(self._jobs) <= len(batch) and self._jobs.keys() <= {job.id for job, _ in batch}
        return () if self.given is None or not is_all or self._closing else self.given.queues

    async def _finish(self, packed: bytes, free: Sequence[str] = ()) -> list[int]:
        args: list[str | int | bytes] = [self._prefix, self.settings.result_ttl, packed, *self._beside]
        if self.given is not None and self._beside[0]:
            args += [self._life, *free]
        stored, sent, alarms = await self._finish_script(args)
        if sent or alarms:
            await self._go_on(sent, alarms)
        return list(stored)

    def _not_stored(self, sealed: tuple[Job, bytes], error: Exception) -> None:
        job, meta = sealed
        _log.error("process %s (%s): its result cannot be stored: Redis refuses: %s", job.name, job.id, error)
        if job.envelope.reply:
            # Whoever waits is told all the same, though it is not kept.
            self._tell(job.envelope.reply, msgspec.json.encode(Reply(results=[msgspec.Raw(meta)])))
        self._done(job, Outcome("unstored", job.result))

    def _not_claimed(self, job: Job, error: Exception) -> None:
        _log.error("process %s (%s) cannot be started: Redis refuses: %s", job.name, job.id, error)
        reason = f"process {job.name!r} cannot be started on {self.worker}: Redis refuses: {error}"
        job.result = job.failed(BackendUnavailableError(reason), self.worker)
        self._finished.append(job)

    async def _each(
        self,
        items: list[T],
        vigil: Vigil,
        step: Callable[[list[T]], Awaitable[None]],
        refused: Callable[[T, Exception], None],
    ) -> None:
        """Do ``step`` for all of them until the server has answered: it may be done twice, but must not be left out.

        If the server refuses what was asked, each is tried alone: what is wrong with one concerns only that one.
        """
        try:
            await waited_out(partial(step, items), vigil)
        except redis.RedisError as error:
            if len(items) == 1:
                refused(items[0], error)
                return
            for item in items:
                await self._each([item], vigil, step, refused)

    async def _on_gap(self, first: bool) -> None:
        """What was cancelled, and what was given to this worker, while nobody listened here."""
        await self._check_cancelled()
        if not first and self.given is not None and self._beside[0]:
            assert self._redis is not None
            script = self._redis.register_script(self._keys.script(keys.GIVEN))
            for _queue, raw, tag in await script(args=[self._life, self._beside[0]]):
                if not any(job.tag == tag.decode() for job in self._jobs.values()):
                    self._take(raw)

    def _take(self, raw: bytes) -> None:
        if self.given is not None and (job := self.given.take(raw)) is not None:
            self.submit(job)

    async def _be_given_no_more(self) -> None:
        try:
            await self._give_back(all_of_it=False)
        except (redis.RedisError, OSError) as error:
            _log.debug("cannot say that this worker is to be given nothing more, which holds for a moment: %s", error)

    async def _give_back(self, *, all_of_it: bool) -> None:
        """Be given nothing more; and perhaps let others have what was given and has not ended."""
        if self.given is not None and self._beside[0]:
            assert self._redis is not None
            args: list[str | int] = [self._life, *self._beside, int(all_of_it)]
            await self._redis.register_script(self._keys.script(keys.GIVE_BACK))(args=args)

    async def _check_cancelled(self) -> None:
        ids = list(self._running)
        if ids:
            assert self._redis is not None
            known: list[Any] = await self._redis.mget([self._keys.cancelled(task_id) for task_id in ids])
            told = [(task_id, mark) for task_id, mark in zip(ids, known, strict=True) if mark]
            self._cancel([task_id for task_id, mark in told if self._is_cancelled(task_id, mark)], "cancelled")
        for job in list(self._running.values()):
            if job.envelope.inside is not None and (how := await self._orphaned(job.envelope)):
                self._cancel([job.id], how)

    async def _hear(self, channel: str, data: bytes) -> None:
        if channel == self._given_channel:
            self._take(data)
            return
        try:
            told = open_cancellation(data, self.settings)
        except (WireError, SignatureError) as error:
            self._refusals.note("cancellation", error, data)
            return
        self._cancel([one for one in told if isinstance(one, str)], "cancelled")
        for one in told:
            if isinstance(one, keys.Superseded):
                inside = [job.id for job in self._jobs.values() if _was_begun_by(job.envelope, one.inside, one.before)]
                self._cancel(inside, _ORPHANED)

    def _cancel(self, ids: list[str], how: str) -> None:
        for task_id in ids:
            job = self._jobs.get(task_id)
            if job is None or job.cancelled is not None or job.result is not None:
                continue
            doing = "waited" if job.task is None else "ran"
            job.cancelled = ProcessCancelled(f"process {job.name!r} was {how} while it {doing} on {self.worker}")
            self._interrupt(job)

    def _interrupt(self, job: Job) -> None:
        """Let a job that is ``cancelled`` end, if it runs."""
        # A task that is cancelled before its first step does not even do that one, and nobody would end the job.
        if job.task is not None and job.ctx is not None:
            job.task.cancel()

    def _named(self, task: asyncio.Task[Any]) -> str:
        for job in list(self._running.values()):
            if job.task is task:
                return f"process {job.name!r} ({job.id})"
        return f"a part of a process ({task.get_name()})"

    def _fence(self, ids: list[str]) -> None:
        for task_id in ids:
            job = self._running.get(task_id)
            if job is None or job.task is None:
                continue
            if task_id in self._unknown:
                job.cancelled = data_lost(job.name, self.settings.backend)
            else:
                _log.error(
                    "process %s (%s): the lease ran out and another worker has it; stopping it here", job.name, task_id
                )
                job.cancelled = WorkerLostError(
                    f"process {job.name!r}: {self.worker} lost its lease", worker=self.worker, attempt=job.attempt
                )
                if job.scope is not None:
                    job.scope.break_off()
            self._interrupt(job)
        self._unknown.difference_update(ids)

    # The keeper's thread -------------------------------------------------------------------------

    def _renew_leases(self, client: redis.Redis, jobs: Sequence[Job]) -> list[str]:
        self.watch.look()
        triples = [part for job in jobs for part in (job.id, job.attempt, int(job.envelope.lease * 1000))]
        answer: Any = client.register_script(self._keys.script(keys.RENEW))(
            args=[self._life, self._prefix, self.settings.result_ttl, *triples]
        )
        since, lost, gone = answer
        if gone:
            missing = set(gone)
            unknown = [job for job in jobs if job.id.encode() in missing]
            if self._data_since in (None, since):
                self._rewrite(client, unknown)
            else:
                self._unknown.update(job.id for job in unknown)
                lost += gone
        self._data_since = since
        if self.settings.broker is not None:
            tags = [job.tag for job in (*jobs, *self._apart.copy()) if job.tag]
            self._touch(self._broker or client, tags)
        return [raw.decode() for raw in lost]

    def _rewrite(self, client: redis.Redis, jobs: Sequence[Job]) -> None:
        """The server has lost what it knew of these and nothing else: it shall know it again."""
        packed = [
            (
                job.id,
                job.attempt,
                int(job.envelope.lease * 1000),
                job.envelope.reply,
                job.envelope.queue,
                job.envelope.max_attempts,
                job.tag,
                run_signature(job.id, self.settings),
                job.checkpoint.decode(),
            )
            for job in jobs
        ]
        client.register_script(self._keys.script(keys.REWRITE))(
            args=[self.worker, self._life, keys.RUN_TTL, _pack(packed)]
        )
        _log.warning(
            "Redis at %s has lost the records of %d processes that run here; they are written again, and the processes"
            " go on: somebody deletes keys, it evicts them (set its maxmemory-policy to noeviction), or it has failed"
            " over",
            self.settings.backend,
            len(jobs),
        )

    def _touch(self, client: redis.Redis, tags: list[str]) -> None:
        touch = client.register_script(keys.TOUCH)
        index = f"{self.settings.broker_prefix}{self.settings.unacked[1]}"
        try:
            for start in range(0, len(tags), _TOUCH_MOST):
                touch(keys=[index], args=tags[start : start + _TOUCH_MOST])
        except (redis.RedisError, OSError) as error:
            # What is handed out again for it is dropped, because its lease is held.
            _log.warning("cannot note at %s what is being worked on: %s", self.settings.broker, error)

    def _write_checkpoints(self, client: redis.Redis, checkpoints: Mapping[str, tuple[int, bytes]]) -> None:
        args = [part for task_id, (attempt, value) in checkpoints.items() for part in (task_id, attempt, value)]
        client.register_script(self._keys.script(keys.CHECKPOINT))(args=[self._life, *args])

    def _leases_lost(self, ids: list[str]) -> None:
        self._loop.call_soon_threadsafe(self._fence, ids)


_MOST_LEAVES = 5


def _log_failure(job: Job, failure: Failure, text: str, worker: str) -> None:
    """One line for each process that failed or was cancelled; its traceback only when debugging."""
    cancelled = issubclass(type(failure.error), ProcessCancelled)
    details = {
        "process": job.name,
        "id": job.id,
        "attempt": job.attempt,
        "endpoint": job.envelope.queue,
        "run": job.envelope.run or job.id,
        "worker": worker,
        "error": text,
    }
    _log.log(
        logging.WARNING if cancelled else logging.ERROR,
        "process %s (%s, %s, endpoint %s) %s: %s",
        printable(shortened(job.name, _LONGEST_NOTE)),
        job.id,
        f"attempt {job.attempt}" if job.attempt else "not started",
        job.envelope.queue,
        "was cancelled" if cancelled else "failed",
        printable(text),
        extra={DETAILS: details},
    )
    if failure.traceback_str:
        _log.debug("traceback of process %s (%s):\n%s", job.name, job.id, failure.traceback_str)


_CAUSE: Any = vars(BaseException)["__cause__"]
_CONTEXT: Any = vars(BaseException)["__context__"]
_PARTS: Any = vars(BaseExceptionGroup)["exceptions"]


def _drop_tracebacks(error: BaseException) -> None:
    """Nobody looks at them here, and all that is in their frames would lie there until the garbage collector comes."""
    seen: set[int] = set()
    rest: list[BaseException | None] = [error]
    while rest:
        one = rest.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            # Not its own attributes, which are anybody's.
            BaseException.with_traceback(one, None)
            rest += [_CAUSE.__get__(one), _CONTEXT.__get__(one)]
            if issubclass(type(one), BaseExceptionGroup):
                rest += _PARTS.__get__(one)


_has_failed = threading.Event()


def exit_code_of_failure() -> int | None:
    """With which the worker ends if it cannot go on, whatever it is told meanwhile; None if it can."""
    return _EXIT_CODE if _has_failed.is_set() else None


def _end_worker() -> None:
    """End this Python process with an exit code that says that it failed."""
    _has_failed.set()
    if current_process().name != "MainProcess":
        # A child of Celery's pool: its parent starts another one, and its message goes back to the queue.
        os._exit(_EXIT_CODE)
    state.should_stop = _EXIT_CODE


_current: Runtime | None = None
_current_pid = 0
_current_lock = threading.Lock()


def current_runtime(app: Any, worker: str, limit: int | None = None) -> Runtime:
    """The runtime of this Python process, made on first use; a forked child makes its own."""
    global _current, _current_pid
    with _current_lock:
        if _current is None or _current_pid != os.getpid():
            fleet = fleet_of(app)
            # The command line may have added modules to those that the application names.
            settings = replace(fleet.settings, include=included(app.conf))
            _current_pid = os.getpid()
            _current = Runtime(settings, worker, fleet.result_prefix, limit, fleet.refusals, fleet.registry, app)
        return _current


def this_runtime() -> Runtime | None:
    """The runtime of this Python process, if it has one."""
    return _current if _current_pid == os.getpid() else None


@worker_process_shutdown.connect
@worker_shutdown.connect
def close_current_runtime(**_details: Any) -> None:
    """Close the runtime of this Python process, if it has one."""
    global _current
    with _current_lock:
        runtime, _current = (_current, None) if _current_pid == os.getpid() else (None, None)
    if runtime is not None:
        runtime.close()
