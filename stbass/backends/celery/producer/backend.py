"""Processes on a Celery fleet: the queue is the placement's endpoint."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

import msgspec
import redis
from celery import Celery
from celery.result import GroupResult

from stbass import wire
from stbass._engine.backend import ExecutionBackend, GroupPart
from stbass._engine.channel_migration import channels_by_path, migrate, promoted
from stbass._engine.lending import lent
from stbass._engine.runs import RunOrder
from stbass._process.context import (
    Composable,
    ProcessContext,
    given_to,
    note_sent,
    own_channels,
    peek_frame,
    running_context,
)
from stbass._process.sync_threads import shared_threads
from stbass._values.checks import is_between, is_whole
from stbass._values.ids import new_id
from stbass._values.texts import shortened, value_text
from stbass.backends.celery.current_message import current_message
from stbass.backends.celery.envelope import (
    ABSENT,
    LONGEST_SECONDS,
    MOST_ATTEMPTS,
    Envelope,
    KeptGroup,
    open_text,
    seal_text,
    wired_placement,
)
from stbass.backends.celery.kombu_sender import KombuSender
from stbass.backends.celery.producer.client import FleetClient
from stbass.backends.celery.producer.group import IdleGroupResult
from stbass.backends.celery.producer.runs import FleetRun, KeptRun, find_on_fleet, list_on_fleet, start_on_fleet
from stbass.backends.celery.producer.slots import WorkerSlots, answered, worker_slots
from stbass.backends.celery.producer.ticket import Ticket
from stbass.backends.celery.producer.time_slice import TimeSlice
from stbass.backends.celery.settings import (
    LONGEST_GRACE,
    LONGEST_LEASE,
    QUEUE_RULE,
    SHORTEST_LEASE,
    FleetSettings,
    fleet_of,
    is_queue,
)
from stbass.errors import ConfigurationError, SignatureError, StbassError, WireError, WorkerLostError
from stbass.observe import events, spans
from stbass.par import PAR
from stbass.result import ProcessResult
from stbass.transports.redis import RedisTransport
from stbass.transports.redis.address import unavailable

__all__ = ["CeleryBackend"]

B = TypeVar("B", bound="CeleryBackend")

_HEALTH_SECONDS = 1.5
_LONGEST_NAME = 1000
_ANSWER_SECONDS = 1.2


class CeleryBackend(ExecutionBackend):
    """Sends processes to Celery workers, and waits for their results without blocking the event loop.

    Args:
        app: a Celery application made with :func:`make_app` or prepared with :func:`install`.
        queue: send everything here; by default to the queue named after the placement's endpoint.
        concurrency_limit: how many processes may be on the fleet at once; by default as many as the live workers of the
            queue announce (they bound it themselves; the rest waits in the queue).
        on_worker_lost: what becomes of a process whose worker died: ``"redeliver"`` (another worker runs it again, with
            ``ctx.attempt`` 2 and ``ctx.resumed_from``) or ``"fail"``.
        max_attempts: how many workers a process may lose before it fails with :class:`~stbass.errors.WorkerLostError`:
            it is likely what kills them. With ``on_worker_lost="fail"`` it is one. A worker that stops hands back what
            it runs, and is not lost. A worker on which others ran too counts in part: its death is shared out among
            them.
        lease: seconds after which a worker that is not heard of is lost.
        grace: seconds beyond a deadline that a worker has to answer.

    Raises:
        ConfigurationError: an argument is out of range.
    """

    def __init__(
        self,
        app: Celery,
        *,
        queue: str | None = None,
        concurrency_limit: int | None = None,
        on_worker_lost: Literal["redeliver", "fail"] = "redeliver",
        max_attempts: int = 3,
        lease: float = 10.0,
        grace: float = 2.0,
    ) -> None:
        if not isinstance(app, Celery):
            raise ConfigurationError(f"CeleryBackend takes a Celery application, got {app!r}; make one with make_app()")
        _check("queue", queue, queue is None or is_queue(queue), f"a name or None; {QUEUE_RULE}")
        _check(
            "concurrency_limit",
            concurrency_limit,
            concurrency_limit is None or (type(concurrency_limit) is int and concurrency_limit >= 1),
            "a whole number of at least 1 or None",
        )
        _check("on_worker_lost", on_worker_lost, on_worker_lost in ("redeliver", "fail"), "'redeliver' or 'fail'")
        _check(
            "max_attempts", max_attempts, is_whole(max_attempts) and max_attempts >= 1, "a whole number of at least 1"
        )
        for name, value, least, most in (
            ("lease", lease, SHORTEST_LEASE, LONGEST_LEASE),
            ("grace", grace, 0.001, LONGEST_GRACE),
        ):
            _check(name, value, is_between(value, least, most), f"a number of seconds from {least:g} to {most:g}")
        self._app = app
        self._fleet = fleet_of(app)
        if app.configured:
            # Wrong settings show here; an application without any yet must not be configured by this. The first look at
            # Celery's result backend reads the entry points of all packages, which would hold up the event loop later.
            _ = self.settings, self._fleet.result_prefix
        self._queue = queue
        self._limit = concurrency_limit
        self._announced: int | None = None
        self._max_attempts = 1 if on_worker_lost == "fail" else min(max_attempts, MOST_ATTEMPTS)
        self._lease = float(lease)
        self._grace = float(grace)
        # Of processes that were checked and have not been sent. One that is never sent goes with its context.
        self._checked: weakref.WeakKeyDictionary[ProcessContext, Envelope] = weakref.WeakKeyDictionary()
        # The workers bound themselves; a limit given here is for the caller to keep.
        self.enforces_limit = concurrency_limit is None
        self.deadline_grace = self._grace

    @property
    def name(self) -> str:
        """``celery:<queue>``, or ``celery:*`` if the endpoint names the queue."""
        return f"celery:{self._queue or '*'}"

    @property
    def concurrency_limit(self) -> int | None:
        """As given, else what the live workers announced at the last :meth:`health_check`; None if that is unknown."""
        return self._limit if self._limit is not None else self._announced

    @property
    def queue(self) -> str | None:
        """Where everything goes; None: to the queue named after the placement's endpoint."""
        return self._queue

    @property
    def default_queue(self) -> str:
        """The application's own default queue."""
        return str(self._app.conf.task_default_queue)

    @property
    def settings(self) -> FleetSettings:
        """What producers and workers of the fleet agree on.

        Raises:
            ConfigurationError: the application's settings do not make a fleet; the message names the setting.
        """
        return self._fleet.settings

    async def execute(self, process: Composable, ctx: ProcessContext) -> ProcessResult:
        """Run a process on the fleet. Cancelling this cancels it there.

        Raises:
            NotTransportable: the process, or a value in it, cannot travel; nothing was sent.
            ConfigurationError: neither the placement names an endpoint nor the backend a queue.
            BackendUnavailableError: Redis cannot be reached.
        """
        client = self.client()
        envelope = self._checked.pop(ctx, None)
        if envelope is None:
            envelope = self._envelope(process, ctx)
            if process.bound_channels or process.runs_others or own_channels(ctx):
                # The composition around it did not know this process yet.
                await migrate(self, process, own_channels(ctx))
        frame = peek_frame(ctx)
        if frame.deadline_span is not None:
            envelope.deadline = min(LONGEST_SECONDS, round(frame.deadline_span, 3))
        envelope.reply, envelope.attempt = client.reply, ctx.attempt
        message = current_message.get()
        recorder = frame.recorder
        follows = recorder is not None and recorder.fleet == self.settings.backend
        if recorder is not None or (events.subscribers and (message is None or message.watched)):
            envelope.path = frame.path
        if recorder is not None and follows:
            envelope.follow = recorder.run_id
            # What was before this comes before what happens there.
            await recorder.flush()
        if message is not None:
            envelope.inside, envelope.inside_attempt = message.id, message.attempt
        ticket = Ticket(envelope, self._grace, ctx.remaining, ctx.placement, frame.group, sender=message, ctx=ctx)
        ticket.complete = partial(self._complete, envelope, process, ctx)
        ticket.recorder = None if follows else recorder
        if running_context() is None:
            result = await client.run(ticket)
        else:
            # A process calls this itself.
            async with lent():
                result = await client.run(ticket)
        if result.usage and result.run is not None:
            ticket.note_usage(result.run.attempt - ctx.attempt + 1, result.usage)
        if ticket.output:
            note_sent(ctx, ticket.output)
        if recorder is not None and follows:
            recorder.record(ticket.event("ended", result=result))
        return result

    def _envelope(self, process: Composable, ctx: ProcessContext, default_queue: str | None = None) -> Envelope:
        """What is known before the process is encoded."""
        meter = peek_frame(ctx).meter
        return Envelope(
            ctx.process_id,
            self._queue_of(process, ctx, default_queue),
            shortened(ctx.process_name, _LONGEST_NAME),
            self._lease,
            placement=wired_placement(ctx.placement),
            parent=None if ctx.parent is None else shortened(ctx.parent, _LONGEST_NAME),
            max_attempts=self._max_attempts,
            is_optional=process.is_optional,
            run="" if meter is None else meter.run_id,
            trace=spans.carried(),
        )

    def _complete(self, envelope: Envelope, process: Composable, ctx: ProcessContext) -> None:
        """Encode what is not encoded yet: when it is sent, so that many at once do not hold up the event loop."""
        if envelope.process is ABSENT:
            envelope.process = self._encode(process, ctx)
        given = given_to(ctx)
        if given is not None:
            envelope.given = self._wired(list(given), "input")
        if ctx.resumed_from is not None:
            envelope.resumed = self._wired(ctx.resumed_from, "checkpoint")

    async def start_run(self, process: Composable, order: RunOrder) -> FleetRun:
        """Send a process as one message, which belongs to nobody; or find the run that has its id.

        Raises:
            RunConflictError: other work has that id.
            NotTransportable: it cannot travel; nothing was sent.
            BackendUnavailableError: Redis cannot be reached.
        """
        client = self.client()
        ctx = ProcessContext(process.name, None, None, None, order.placement)
        envelope = self._envelope(process, ctx, self.default_queue)
        for channel in promoted(self, process):
            channel.link.outlive()  # this program
        envelope.process = self._encode(process, ctx)
        envelope.deadline = None if order.deadline is None else min(LONGEST_SECONDS, order.deadline)
        envelope.run = envelope.follow = order.id
        envelope.path = ""
        channels = channels_by_path(process)
        carrier = self._wired(PAR().with_channels(**channels), "process") if channels else ABSENT
        kept = KeptRun(order.work, envelope.emptied(), carrier)
        ticket = Ticket(envelope, self._grace, order.deadline, order.placement)
        return await start_on_fleet(self, client, ticket, kept)

    async def find_run(self, run_id: str) -> FleetRun:
        """The run of that id, whoever has started it.

        Raises:
            LookupError: there is none, or its result has expired.
            WireError: what Redis says of it was not written by a producer.
            SignatureError: the fleet signs, and what Redis says of it was not signed with its key.
            BackendUnavailableError: Redis cannot be reached.
        """
        return await find_on_fleet(self, self.client(), run_id)

    async def list_runs(self, most: int = 100) -> list[FleetRun]:
        """The runs that were started last and are still known, the latest first.

        Raises:
            BackendUnavailableError: Redis cannot be reached.
        """
        return await list_on_fleet(self, self.client(), most)

    def check(self, process: Composable, ctx: ProcessContext) -> None:
        """Check that it can travel.

        Raises:
            NotTransportable: it, or a value in it, cannot.
            ConfigurationError: neither the placement names an endpoint nor the backend a queue.
        """
        self._queue_of(process, ctx)
        self._encode(process, ctx)

    def transport(self) -> RedisTransport:
        """Channels are kept where results are; one transport for all backends of an application."""
        return self._fleet.transport

    def _wired(self, value: object, what: str) -> msgspec.Raw:
        return msgspec.Raw(wire.dumps(value, limit=self.settings.max_message_bytes, what=what))

    def _encode(self, process: Composable, ctx: ProcessContext) -> msgspec.Raw:
        # Channels that it has from the compositions around it travel with it.
        around = {name: one for name, one in own_channels(ctx).items() if name not in process.bound_channels}
        if around:
            process = process.with_channels(**around)
        return self._wired(process, "process")

    def _queue_of(self, process: Composable, ctx: ProcessContext, default: str | None = None) -> str:
        queue = self._queue or (ctx.placement.endpoint if ctx.placement is not None else None) or default
        if not queue:
            raise ConfigurationError(
                f"process {process.name!r} has no endpoint, and {self.name} no queue: place it with"
                " Placement(endpoint=...), or make the backend with queue=..."
            )
        if not is_queue(queue):
            raise ConfigurationError(
                f"process {process.name!r}: the endpoint {value_text(queue)} cannot be a queue: {QUEUE_RULE}"
            )
        return queue

    async def health_check(self) -> bool:
        """Whether a live worker consumes the queue and the broker answers; known in under 2 s.

        If the endpoint names the queue, any queue's worker will do.
        """
        try:
            async with asyncio.timeout(_HEALTH_SECONDS):
                client = self.client()
                if not await answered(client.redis, self.settings.keys, self._queue, _ANSWER_SECONDS):
                    return False
                await self._ping_broker(client)
                self._announced = await self._announced_limit(client)
                return True
        except (TimeoutError, OSError, StbassError, redis.RedisError):
            return False

    async def _ping_broker(self, client: FleetClient) -> None:
        if isinstance(client.broker, KombuSender):
            await shared_threads().call_plain(client.broker.ping)
        elif client.broker is not client.redis:
            await client.broker.ping()

    async def _announced_limit(self, client: FleetClient) -> int | None:
        workers = await worker_slots(client.redis, self.settings.keys)
        return sum(one.slots for one in workers if self._queue is None or self._queue in one.queues) or None

    async def workers(self) -> list[WorkerSlots]:
        """The live workers of the fleet: what each consumes, how much it may run at once, and how much it runs now.

        Raises:
            BackendUnavailableError: Redis cannot be reached.
        """
        try:
            return await worker_slots(self.client().redis, self.settings.keys)
        except (OSError, redis.RedisError) as error:
            raise unavailable(self.settings.backend, "look for workers", error) from error

    def failing(self, kind: type[B]) -> B:
        """A backend like this, but that a process whose worker dies fails: for what must not be run again by itself.

        Args:
            kind: its class: :class:`CeleryBackend`, or a subclass that hears what is sent and how it ends, by what it
                does around :meth:`open_group` and :meth:`execute`.
        """
        return kind(
            self._app,
            queue=self._queue,
            concurrency_limit=self._limit,
            on_worker_lost="fail",
            lease=self._lease,
            grace=self._grace,
        )

    async def open_group(self, group_id: str, members: Sequence[tuple[Composable, ProcessContext]]) -> GroupResult:
        """Check that all can travel, and keep the group so that another producer can :meth:`find_group` it.

        Raises:
            NotTransportable: a process cannot travel; nothing has been sent.
            BackendUnavailableError: Redis cannot be reached.
        """
        checked = []
        time_slice = TimeSlice()
        for process, ctx in members:
            await time_slice.pause()
            envelope = self._checked[ctx] = self._envelope(process, ctx)
            envelope.process = self._encode(process, ctx)
            checked.append(envelope.emptied())
        client = self.client()
        group = IdleGroupResult(group_id, [envelope.id for envelope in checked], self._app, self._fleet.results)
        group_meta = self._fleet.results.encode({"result": group.as_tuple()})
        ttl = self.settings.result_ttl or None
        places = [place for _, ctx in members if (place := peek_frame(ctx).place) is not None]
        part = KeptGroup(checked, [place for place, _ in places], list(places[0][1]) if places else [])
        kept = seal_text("group", group_id, msgspec.json.encode(part), self.settings)

        async def keep() -> None:
            pipe = client.redis.pipeline(transaction=False)
            pipe.set(self._fleet.results.get_key_for_group(group_id), group_meta, ex=ttl)
            pipe.hset(self.settings.keys.group(group_id), new_id(), kept)
            if ttl is not None:
                pipe.expire(self.settings.keys.group(group_id), ttl)
            await pipe.execute()

        try:
            await client.patiently(keep)
        except (OSError, redis.RedisError) as error:
            raise unavailable(self.settings.backend, f"start a group of {len(checked)} processes", error) from error
        return group

    def group_keys(self, group_id: str) -> list[str]:
        """What :meth:`open_group` has left in Redis."""
        return [self.settings.keys.group(group_id), self._fleet.results.get_key_for_group(group_id).decode()]

    async def forget(self, group_id: str, process_ids: Iterable[str]) -> None:
        """Delete a group, and the results of these processes of it: nobody will ask for them.

        Raises:
            redis.RedisError: the server cannot be reached.
        """
        client = self.client()
        results = [client.prefix + process_id for process_id in process_ids]
        await client.redis.delete(*self.group_keys(group_id), *results)

    async def end_others(
        self, processes: Iterable[tuple[str, str, str]], *, lease: float, patience: float
    ) -> list[tuple[str, str | None]]:
        """Withdraw processes that another producer has sent, and wait until each has ended, or its lease has.

        Args:
            processes: of each its id, its name, and its queue.
            lease: seconds after which their worker is lost if it is not heard of.
            patience: seconds to wait.

        Returns:
            of those that still run their name and worker.

        Raises:
            redis.RedisError: the server cannot be reached.
        """
        client, processes = self.client(), list(processes)
        await client.withdraw([process_id for process_id, _, _ in processes])

        async def runs(process_id: str) -> bool:
            return bool(await client.redis.exists(self.settings.keys.run(process_id)))

        tickets = [
            Ticket(Envelope(process_id, queue, name, lease, deadline=patience), grace=1.0, remaining=patience)
            for process_id, name, queue in processes
            if await runs(process_id)
        ]
        return [
            (ticket.envelope.name, ticket.worker)
            for ticket, result in zip(tickets, await client.adopt(tickets), strict=True)
            if not (result.is_fail and isinstance(result.failure.error, WorkerLostError)) and await runs(ticket.id)
        ]

    async def find_group(self, group_id: str) -> GroupPart:
        """What Redis knows of a group, whoever has started it, and by which backends of the application.

        Raises:
            LookupError: no such group is known, or it is too long ago.
            WireError: what Redis says of it was not written by a producer.
            SignatureError: the fleet signs, and what Redis says of it was not signed with its key.
            BackendUnavailableError: Redis cannot be reached.
        """
        client, key = self.client(), self.settings.keys.group(group_id)
        raw: dict[bytes, bytes] = {}
        try:
            reading: Any = client.redis.hgetall(key)
            raw = await reading
            if not raw:
                raise LookupError(
                    f"group {group_id} is not known at {self.settings.backend}:"
                    " the id is wrong, or its results have expired, or Redis has lost its data"
                )
            texts = [open_text("group", group_id, part, self.settings) for part in raw.values()]
            kept = [msgspec.json.decode(text, type=KeptGroup) for text in texts]
            envelopes = {
                place: (envelope, envelope.read_placement()) for part in kept for place, envelope in part.at_places()
            }
            members = kept[0].members or [repr(envelope.name) for envelope in kept[0].envelopes]
            if max(envelopes) >= len(members):
                raise WireError(f"it has {len(members)} processes, and says something of number {max(envelopes)}")
        except (msgspec.MsgspecError, ValueError, RecursionError, WireError, redis.ResponseError) as error:
            self._fleet.refusals.note("group", error, b" ".join(raw.values()), task_id=group_id)
            raise WireError(
                f"what {key} in Redis at {self.settings.backend} says of group {group_id} cannot be read: {error};"
                " its results may be fetched one by one, by their ids"
            ) from error
        except SignatureError as error:
            self._fleet.refusals.note("group", error, b" ".join(raw.values()), task_id=group_id)
            raise
        except (OSError, redis.RedisError) as error:
            raise unavailable(self.settings.backend, f"attach to group {group_id}", error) from error

        async def results(deadline: float | None) -> list[tuple[ProcessResult, bool]]:
            tickets = []
            for envelope, placement in envelopes.values():
                envelope.deadline = deadline
                tickets.append(Ticket(envelope, self._grace, deadline, placement))
            found = await client.adopt(tickets)
            return [(result, ticket.envelope.is_optional) for result, ticket in zip(found, tickets, strict=True)]

        return GroupPart(members, list(envelopes), results)

    async def aclose(self) -> None:
        """Close this event loop's connections. What is in flight goes on on the fleet.

        Raises:
            StbassError: what was sent over channels with a capacity may be lost; everything is closed.
        """
        try:
            await self.transport().aclose()
        finally:
            client: FleetClient | None = self._fleet.clients.pop()
            if client is not None:
                await client.aclose()

    def client(self) -> FleetClient:
        """This event loop's part of the fleet, for what is built on it."""
        client: FleetClient = self._fleet.clients.get(lambda: FleetClient(self._fleet))
        return client


def _check(name: str, value: object, right: bool, wanted: str) -> None:
    if not right:
        raise ConfigurationError(f"CeleryBackend({name}={value_text(value)}): {name} must be {wanted}")
