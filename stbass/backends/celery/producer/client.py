"""A producer's side of the fleet: one per event loop and application, for everything that is in flight there."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

# Celery imports it with the first use of the application's backend, which would hold up the event loop.
import celery.backends.redis  # noqa: F401
import msgspec
import redis
import redis.asyncio

from stbass import wire
from stbass._process.sync_threads import shared_threads
from stbass._values.ids import new_id
from stbass._values.outcome import ProcessResult
from stbass.backends.celery import keys
from stbass.backends.celery.current_message import RunningMessage, current_message, ordinary_task
from stbass.backends.celery.envelope import (
    Keeper,
    Meta,
    Told,
    cancelled_mark,
    failed_result,
    open_result,
    read_meta,
    read_reply,
    seal_cancellation,
    seal_envelope,
    sent_of,
    trusted_checkpoint,
)
from stbass.backends.celery.kombu_sender import KombuSender
from stbass.backends.celery.line import WaitingLine
from stbass.backends.celery.producer.missing import find_missing
from stbass.backends.celery.producer.overdue import KnownState, look_up, nobody_consumes, overdue_error
from stbass.backends.celery.producer.publish import Publisher
from stbass.backends.celery.producer.slots import consumed_queues, consumers, worker_slots
from stbass.backends.celery.producer.ticket import Ticket
from stbass.backends.celery.producer.time_slice import TimeSlice
from stbass.backends.celery.settings import FleetState
from stbass.backends.celery.sweep import Sweeper, data_lost
from stbass.errors import BackendUnavailableError, DeadlineExceeded, StbassError, WireError
from stbass.observe import events
from stbass.transports.redis.address import unavailable
from stbass.transports.redis.subscription import Subscription
from stbass.transports.redis.trouble import Trouble, Vigil, trouble_of, waited_out

__all__ = ["FleetClient"]

_log = logging.getLogger(__name__)
_SEND_MOST = 250
"""Messages in one command: the first ones are at work while the next are still being written."""
_CANCEL_WAIT = 2.0
_PATIENCE = 60.0
"""Seconds to wait until a server that is away or refuses takes a process."""
_PATIENCE_CANCEL = 10.0
_CLOSE_SECONDS = 0.2
_LOOK_MOST = 5.0
_MISSING_MOST = 10.0
"""Seconds for which a process may be nowhere, if that is shorter than its lease: then it is lost."""
_EARLY = 1.0
"""Seconds by which a worker may be early when it finds that a deadline is over."""
_REDIS_ERRORS = (redis.RedisError, OSError)
T = TypeVar("T")


class FleetClient:
    """Sends processes, waits for their results, cancels them."""

    def __init__(self, fleet: FleetState) -> None:
        self.settings = settings = fleet.settings
        self.closing = False
        self._loop = asyncio.get_running_loop()
        self.reply = settings.keys.reply_channel(new_id())
        """The channel on which this producer is told."""
        self.redis = settings.backend.async_client()
        self.broker: redis.asyncio.Redis | KombuSender = self.redis
        if settings.broker is None:
            self.broker = KombuSender(fleet.app)
        elif not settings.one_server:
            self.broker = settings.broker.async_client()
        self.publisher = Publisher(settings, self.redis, self.broker)
        self.prefix = fleet.result_prefix.decode()
        self.refusals = fleet.refusals
        self.line = WaitingLine(settings, fleet.result_prefix, fleet.app)
        """Of what waits for the limits of endpoints."""
        self._make_sweeper = partial(Sweeper, settings, fleet.result_prefix, fleet.refusals, fleet.app)
        self._replies = Subscription(settings.backend, self.reply, self._on_message, self._on_gap)
        self._was_there = False
        """Whether the server has ever done what it was asked."""
        broker = self.broker.name if isinstance(self.broker, KombuSender) else settings.broker or settings.backend
        self._sending = Vigil("send processes", broker, _log)
        self._asking = Vigil("ask for results", settings.backend, _log)
        self._noting = Vigil("note the deadlines of processes", settings.backend, _log)
        self._sweeping = Vigil("look for lost workers", settings.servers, _log)
        self._withdrawing = Vigil("cancel processes", settings.backend, _log)
        self._tickets: dict[str, Ticket] = {}
        self._outbox: list[Ticket] = []
        self._cancels: list[str] = []
        self._cancelling: asyncio.Future[None] | None = None
        self._overdue: list[tuple[Ticket, bool]] = []
        self._watched: set[str] = set()
        self._unwatched: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listeners: dict[str, list[Callable[[bytes], None]]] = {}
        self._shared: dict[str, tuple[asyncio.Future[ProcessResult], list[object]]] = {}
        """Processes that many here wait for, all by one ticket: the result, and who waits."""
        self._sweeper: Sweeper | None = None
        self._look_timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None
        self._end = self._spawn(self._close_at_the_end())

    async def aclose(self) -> None:
        """Close the connections. What is in flight goes on on the fleet."""
        self._end.cancel()
        await asyncio.gather(self._end, return_exceptions=True)

    # Sending -------------------------------------------------------------------------------------

    async def run(self, ticket: Ticket) -> ProcessResult:
        """Send a process and wait for its result; cancelling this cancels the process."""
        self._tickets[ticket.id] = ticket
        self._look_in(ticket.envelope.lease)
        try:
            if not self._outbox:
                self._spawn(self._flush())
            self._outbox.append(ticket)
            if ticket.remaining is not None:
                ticket.timer = self._loop.call_later(ticket.remaining, self._deadline_passed, ticket, False)
            return await ticket.future
        except asyncio.CancelledError:
            await self._cancel(ticket)
            raise
        finally:
            self._forget(ticket)

    async def adopt(self, tickets: list[Ticket]) -> list[ProcessResult]:
        """Wait for processes that another producer has sent. Cancelling this leaves them as they are."""
        try:
            await self.patiently(self._replies.ready)
        except _REDIS_ERRORS as error:
            raise unavailable(self.settings.backend, "wait for a group", error) from error
        for ticket in tickets:
            ticket.sent = True
            self._look_in(ticket.envelope.lease)
            self._follow(ticket)
            if ticket.remaining is not None:
                ticket.timer = self._loop.call_later(ticket.remaining, self._deadline_passed, ticket, False)
        waits = current_message.get() or ordinary_task()
        if waits is not None and waits.keeping():
            for ticket in tickets:
                ticket.sender = waits
            self._attend_later(tickets)
        try:
            await self._watch(tickets)
            return [await ticket.future for ticket in tickets]
        finally:
            for ticket in tickets:
                self._forget(ticket)

    async def shared(self, process_id: str, waiting: Callable[[], Awaitable[ProcessResult]]) -> ProcessResult:
        """What ``waiting`` gives, which waits for a process that others here may wait for too: once for all of them.

        Cancelling this cancels the wait of this caller; with the last of them ``waiting`` is cancelled.
        """
        found, who = self._shared.get(process_id) or (None, [])
        if found is None:
            found = self._loop.create_future()
            self._shared[process_id] = found, who
            self._spawn(self._share(process_id, found, waiting))
        me = object()
        who.append(me)
        try:
            return await asyncio.shield(found)
        finally:
            who.remove(me)
            if not who and self._is_shared(process_id, found):
                del self._shared[process_id]
                found.cancel()

    async def _share(
        self, process_id: str, found: asyncio.Future[ProcessResult], waiting: Callable[[], Awaitable[ProcessResult]]
    ) -> None:
        work = asyncio.ensure_future(waiting())
        found.add_done_callback(lambda _found: work.cancel())
        try:
            await asyncio.wait((work,))
            if not found.done():
                if work.cancelled():
                    found.cancel()
                elif error := work.exception():
                    found.set_exception(error)
                else:
                    found.set_result(work.result())
        finally:
            work.cancel()
            found.cancel()
            if self._is_shared(process_id, found):
                del self._shared[process_id]

    def _is_shared(self, process_id: str, found: asyncio.Future[ProcessResult]) -> bool:
        return process_id in self._shared and self._shared[process_id][0] is found

    async def listen(self, channel: str, hear: Callable[[bytes], None]) -> None:
        """Have ``hear`` called with each message on a channel, and with nothing when some may have been missed.

        Raises:
            redis.RedisError: the server cannot be reached.
            OSError: the server cannot be reached.
        """
        self._listeners.setdefault(channel, []).append(hear)
        await self._replies.ready()
        await self._replies.also({channel})

    def listen_no_more(self, channel: str, hear: Callable[[bytes], None]) -> None:
        """Undo :meth:`listen`."""
        listeners = self._listeners.get(channel, [])
        if hear in listeners:
            listeners.remove(hear)
        if not listeners and self._listeners.pop(channel, None) is not None:
            if not self._unwatched:
                self._spawn(self._stop_watching())
            self._unwatched.add(channel)

    def _follow(self, ticket: Ticket) -> None:
        """Wait for a process that somebody else may wait for on this very event loop."""
        first = self._tickets.setdefault(ticket.id, ticket)
        if first is ticket:
            return

        def ended(future: asyncio.Future[ProcessResult]) -> None:
            if ticket.future.done():
                return
            if future.cancelled():
                self._follow(ticket)
            else:
                ticket.future.set_result(future.result())

        first.future.add_done_callback(ended)

    def _forget(self, ticket: Ticket) -> None:
        if self._tickets.get(ticket.id) is ticket:
            del self._tickets[ticket.id]
        if ticket.timer is not None:
            ticket.timer.cancel()
        if ticket.id in self._watched:
            self._watched.discard(ticket.id)
            if not self._unwatched:
                self._spawn(self._stop_watching())
            self._unwatched.add(self.prefix + ticket.id)

    async def _stop_watching(self) -> None:
        await asyncio.sleep(0)
        wanted = {*self._listeners, *(self.prefix + process_id for process_id in self._watched)}
        channels, self._unwatched = self._unwatched - wanted, set()
        try:
            await self._replies.no_longer(channels)
        except _REDIS_ERRORS as error:
            # The connection is gone, and its subscriptions with it.
            _log.debug("cannot unsubscribe: %s", error)

    async def _flush(self) -> None:
        batch, self._outbox = self._outbox, []
        address = self.settings.backend
        try:
            if not self._replies.stands:
                async with asyncio.timeout(_PATIENCE):
                    await waited_out(self._replies.ready, self._sending, away=self._was_there)
            position, task = 0, ordinary_task()
            while position < len(batch):
                ready, position = self._prepared(batch, position, task)
                # One that is sent twice runs once. Only a server that was there before is waited for.
                note, send = partial(self.publisher.note_deadlines, ready), partial(self.publisher.send, ready)
                if self.broker is not self.redis:
                    await waited_out(note, self._noting, seconds=_PATIENCE, away=self._was_there)
                address = self.settings.broker or address
                await waited_out(send, self._sending, seconds=_PATIENCE, away=self._was_there)
                self._was_there = True
                address = self.settings.backend
                for ticket in ready:
                    ticket.headers = {}
        except Exception as error:
            for ticket in batch:
                if not ticket.future.done():
                    ticket.future.set_exception(unavailable(address, f"send process {ticket.envelope.name!r}", error))
                    ticket.future.exception()
            if not isinstance(error, (*_REDIS_ERRORS, BackendUnavailableError)):
                raise
            return
        self._attend_later(batch)

    def _prepared(self, batch: list[Ticket], position: int, task: RunningMessage | None) -> tuple[list[Ticket], int]:
        """The next to send, as many as can be made ready before others on the event loop should have their turn.

        Args:
            task: the ordinary task that sends them, if it is one.
        """
        ready: list[Ticket] = []
        time_slice = TimeSlice()
        while position < len(batch) and len(ready) < _SEND_MOST and not time_slice.used_up:
            ticket = batch[position]
            position += 1
            complete, ticket.complete = ticket.complete, None
            if ticket.future.done() or complete is None:
                continue
            try:
                complete()
                ticket.sender = ticket.sender or task
                if ticket.sender is not None:
                    ticket.envelope.keepers = Keeper.all_of(ticket.sender)
                ticket.headers = seal_envelope(ticket.envelope, self.settings)
            except Exception as error:
                ticket.future.set_exception(error)
            else:
                # What is to be run goes with the message; whoever waits has no more need of it.
                ticket.envelope.let_go()
                ticket.sent = True
                ready.append(ticket)
        return ready, position

    # What comes back -----------------------------------------------------------------------------

    async def _on_message(self, channel: str, data: bytes) -> None:
        if channel in self._listeners:
            for hear in list(self._listeners[channel]):
                hear(data)
            return
        if channel != self.reply:
            self._on_raw(data)
            return
        try:
            reply = read_reply(data)
        except WireError as error:
            self.refusals.note("reply", error, data)
            return
        time_slice = TimeSlice()
        for raw in reply.results:
            self._on_raw(raw)
            # Each result wakes who waits for it: they shall have their turn before the next ones.
            await time_slice.pause()
        if reply.ready:
            self._spawn(self._look_up(reply.ready))
        for task_id, attempt in reply.started:
            ticket = self._tickets.get(task_id)
            if ticket is not None:
                self._started(ticket, reply.worker, attempt)
        if reply.checkpoint is not None:
            ticket = self._tickets.get(reply.checkpoint)
            value = bytes(reply.value)
            if ticket is not None and (text := trusted_checkpoint(value, ticket.id, self.settings, self.refusals)):
                ticket.checkpoint = msgspec.Raw(text)
                if ticket.is_observed:
                    self._tell_of_checkpoint(ticket, text)
        if reply.usage is not None and reply.used is not None:
            ticket = self._tickets.get(reply.usage)
            if ticket is not None:
                ticket.note_usage(reply.attempt, reply.used.usage())
        if reply.progress is not None:
            ticket = self._tickets.get(reply.progress)
            if ticket is not None and ticket.is_observed:
                progress = {"done": reply.done, "total": reply.total, "note": reply.note}
                self._emit(ticket, ticket.event("progress", **progress))

        if reply.inside is not None:
            ticket = self._tickets.get(reply.inside)
            if ticket is not None and ticket.is_observed:
                self._tell_of_inside(ticket, reply.told)

    def _tell_of_inside(self, ticket: Ticket, told: Iterable[Told]) -> None:
        for one in told:
            try:
                event = one.event(self.settings.max_message_bytes)
            except WireError as error:
                self.refusals.note("event", error, b"", queue=ticket.envelope.queue, task_id=ticket.id)
            else:
                self._emit(ticket, event)

    def _emit(self, ticket: Ticket, event: events.Event) -> None:
        """Tell those who observe or follow, as part of the message that the process was sent by, if any."""
        if ticket.recorder is not None:
            ticket.recorder.record(event)
        token = current_message.set(ticket.sender)
        try:
            events.emit(event)
        finally:
            current_message.reset(token)

    def _tell_of_checkpoint(self, ticket: Ticket, raw: bytes) -> None:
        try:
            value = wire.loads(raw, what="checkpoint", limit=self.settings.max_message_bytes)
        except WireError as error:
            self.refusals.note("checkpoint", error, raw, queue=ticket.envelope.queue, task_id=ticket.id)
        else:
            self._emit(ticket, ticket.event("checkpoint", value=value))

    async def _on_gap(self, first: bool) -> None:
        if not first:
            for listeners in list(self._listeners.values()):
                for hear in listeners:
                    hear(b"")
            await self._look_up(list(self._tickets))
            # It may have been restarted without its data.
            self._look_in(0.0)

    def _started(self, ticket: Ticket, worker: str | None, attempt: int) -> None:
        ticket.started_at, ticket.worker, ticket.attempt = time.monotonic(), worker, attempt
        if ticket.is_observed:
            self._emit(ticket, ticket.event("started"))

    def _on_raw(self, raw: bytes | msgspec.Raw, wanted: str | None = None) -> None:
        """A result came; ``wanted``: the process under whose id it was kept, which gets no other one."""
        try:
            meta = read_meta(raw)
            if wanted is not None and meta.task_id != wanted:
                raise WireError(f"what is kept as the result of {wanted} is that of {meta.task_id}")
        except WireError as error:
            self.refusals.note("result", error, bytes(raw), task_id=wanted or "")
            if wanted is not None and (ticket := self._tickets.get(wanted)) is not None:
                self._end_with(ticket, failed_result(error, ticket.envelope, ticket.placement))
            return
        ticket = self._tickets.get(meta.task_id)
        # Celery also publishes that a task is on its way.
        if ticket is not None and meta.status in ("SUCCESS", "FAILURE", "REVOKED"):
            self._settle(ticket, meta)

    def _settle(self, ticket: Ticket, meta: Meta) -> None:
        if ticket.future.done():
            return
        queued = None if ticket.started_at is None else timedelta(seconds=ticket.started_at - ticket.submitted_at)
        result = open_result(meta, ticket.envelope, self.settings, ticket.placement, queued)
        if result.is_ok:
            ticket.output = sent_of(meta, self.settings)
        elif issubclass(type(result.failure.error), DeadlineExceeded):
            error: Any = result.failure.error
            # Of the fleet's own: the key that lives as long as the process may is gone too early.
            if error.phase == "queued" and (left := ticket.left) is not None and left > _EARLY:
                result = self._lost(ticket)
        self._end_with(ticket, result)

    def _end_with(self, ticket: Ticket, result: ProcessResult) -> None:
        if not ticket.future.done():
            ticket.future.set_result(result)
            if ticket.is_observed:
                self._emit(ticket, ticket.event("ended", result=result))

    async def _look_up(self, ids: Iterable[str]) -> None:
        """Fetch results that were stored while nobody listened."""
        wanted = [task_id for task_id in ids if task_id in self._tickets]
        for start in range(0, len(wanted), _SEND_MOST):
            names = [self.prefix + task_id for task_id in wanted[start : start + _SEND_MOST]]
            found: list[Any] = await waited_out(partial(self.redis.mget, names), self._asking)
            for task_id, raw in zip(wanted[start:], found, strict=False):
                if raw is not None:
                    self._on_raw(raw, task_id)

    # Those that nobody starts --------------------------------------------------------------------

    def _attend_later(self, tickets: list[Ticket]) -> None:
        grace = max((ticket.grace for ticket in tickets), default=0.0)
        # By id: what has ended by then, with its result and its context, is not kept for so long.
        self._loop.call_later(grace, self._attend, [ticket.id for ticket in tickets])

    def _attend(self, ids: list[str]) -> None:
        """A while after sending: are there some that no worker has started?"""
        out = [self._tickets[process_id] for process_id in ids if process_id in self._tickets]
        waiting = [ticket for ticket in out if not ticket.future.done() and ticket.started_at is None]
        if waiting:
            self._spawn(self._watch(waiting, warn=True))

    async def _watch(self, tickets: list[Ticket], warn: bool = False) -> None:
        """Listen to the processes' own result channels: somebody who knows nothing of us may write there."""
        ids = [ticket.id for ticket in tickets if ticket.id in self._tickets]
        try:
            self._watched.update(ids)
            await self._replies.also({self.prefix + task_id for task_id in ids})
            await self._look_up(ids)
            if warn:
                for queue in {ticket.envelope.queue for ticket in tickets if not ticket.future.done()}:
                    if not await consumers(self.redis, self.settings.keys, queue):
                        others = await consumed_queues(self.redis, self.settings.keys)
                        _log.warning("%s", nobody_consumes(queue, others))
                    else:
                        await self._tell_who_is_in_the_way(queue, tickets)
        except _REDIS_ERRORS as error:
            _log.warning("%s", unavailable(self.settings.backend, f"look after {len(ids)} waiting processes", error))

    async def _tell_who_is_in_the_way(self, queue: str, tickets: list[Ticket]) -> None:
        """Say whose code keeps the place, in the only worker of a queue, that what it waits for would need there."""
        first: dict[RunningMessage, Ticket] = {}
        for ticket in tickets:
            if ticket.sender is not None and ticket.envelope.queue == queue and not ticket.future.done():
                for keeper in ticket.sender.keeping():
                    first.setdefault(keeper, ticket)
        if not first:
            return
        workers = [one for one in await worker_slots(self.redis, self.settings.keys) if queue in one.queues]
        for keeper, ticket in first.items():
            own = [one for one in workers if one.worker == keeper.worker]
            # How many ordinary tasks a worker runs is not known here.
            is_full = bool(own) and (not keeper.attempt or not own[0].free)
            if is_full and not any(one.free for one in workers if one.worker != keeper.worker):
                if await self.redis.zscore(self.settings.keys.leases, ticket.id) is not None:
                    continue  # it runs: who waits for what others have sent does not hear of that
                _log.warning(
                    "%s on the worker %s waits%s for process %r (%s), which only that worker could run now (queue %r):"
                    " it keeps its place there while it waits, and they may wait for each other for ever. Give the"
                    " worker more places (-c), place the process elsewhere, or use the asyncio pool, on which a process"
                    " lends its place while it waits",
                    keeper,
                    keeper.worker,
                    "" if keeper == ticket.sender else f", through {ticket.sender},",
                    ticket.envelope.name,
                    ticket.id,
                    queue,
                )

    def _look_in(self, seconds: float) -> None:
        """Look after what is out then, or sooner."""
        due = self._loop.time() + min(_LOOK_MOST, seconds)
        if self._looking is None and (self._look_timer is None or due < self._look_timer.when()):
            if self._look_timer is not None:
                self._look_timer.cancel()
            self._look_timer = self._loop.call_at(due, self._look_soon)

    def _look_soon(self) -> None:
        self._look_timer = None
        if self._tickets:
            self._looking = self._spawn(self._look())

    async def _look(self) -> None:
        """While processes are out: have their workers died, and does the fleet still know all of them?"""
        try:
            await self._sweep()
            await self._find_missing()
        finally:
            self._looking = None
            if self._tickets:
                self._look_in(min(ticket.envelope.lease for ticket in self._tickets.values()) / 2)

    async def _sweep(self) -> None:
        """If no worker is left, it falls to us to notice that theirs have died."""
        if self._sweeper is None:
            self._sweeper = self._make_sweeper()
        try:
            await shared_threads().call_plain(self._sweeper.sweep)
            self._sweeping.over()
        except Exception as error:
            if trouble_of(error) is Trouble.NEVER:
                _log.exception("cannot look for lost workers")
            else:
                self._sweeping.pause(error)  # which tells of the first; the next turn comes by itself

    async def _find_missing(self) -> None:
        now = time.monotonic()
        waiting = [
            ticket
            for ticket in self._tickets.values()
            if ticket.sent and not ticket.headers and now - ticket.submitted_at > min(_LOOK_MOST, ticket.envelope.lease)
        ]
        if not waiting:
            return
        try:
            missing = await self._nowhere(waiting)
        except _REDIS_ERRORS as error:
            _log.debug("cannot look for %d processes: %s", len(waiting), error)
            return
        now = time.monotonic()
        for ticket in set(waiting) - set(missing):
            ticket.missing_since = None
        lost = []
        for ticket in missing:
            if ticket.missing_since is None:
                ticket.missing_since = now
            elif now - ticket.missing_since >= min(_MISSING_MOST, ticket.envelope.lease) and not ticket.future.done():
                self._end_with(ticket, self._lost(ticket))
                lost.append(ticket.id)
        if lost:
            # Should they be somewhere all the same, nobody waits for them.
            await self.withdraw(lost)

    async def _nowhere(self, tickets: list[Ticket]) -> list[Ticket]:
        broker = None if isinstance(self.broker, KombuSender) else self.broker
        return await find_missing(self.redis, broker, self.settings, self.prefix, tickets)

    def _lost(self, ticket: Ticket) -> ProcessResult:
        error = data_lost(ticket.envelope.name, self.settings.backend)
        _log.error("process %s: %s", ticket.id, error)
        raw = None if ticket.checkpoint is None else bytes(ticket.checkpoint)
        return failed_result(
            error, ticket.envelope, ticket.placement, worker=ticket.worker, attempt=ticket.attempt, checkpoint=raw
        )

    # Deadlines -----------------------------------------------------------------------------------

    def _deadline_passed(self, ticket: Ticket, final: bool) -> None:
        if not self._overdue:
            self._spawn(self._judge())
        self._overdue.append((ticket, final))

    async def _judge(self) -> None:
        await asyncio.sleep(0)
        overdue, self._overdue = self._overdue, []
        overdue = [(ticket, final) for ticket, final in overdue if not ticket.future.done()]
        if not overdue:
            return
        grace = min(ticket.grace for ticket, _ in overdue)
        try:
            async with asyncio.timeout(max(0.2, grace / 4)):
                states = await look_up(self.redis, self.settings.keys, self.prefix, [ticket for ticket, _ in overdue])
                missing = set(await self._nowhere([ticket for ticket, _ in overdue if ticket.sent]))
        except (TimeoutError, *_REDIS_ERRORS) as error:
            states, missing = [KnownState(unknown=str(error) or "no answer")] * len(overdue), set()
        for (ticket, final), state in zip(overdue, states, strict=True):
            if ticket.future.done():
                continue
            if state.meta is not None:
                self._on_raw(state.meta, ticket.id)
                if ticket.future.done():
                    continue
            if state.worker is not None and ticket.worker is None:
                self._started(ticket, state.worker, state.attempt)
            if ticket in missing:
                self._end_with(ticket, self._lost(ticket))
                continue
            if not final and (ticket.worker is not None or state.unknown is not None):
                # It runs: the worker cancels it and answers, with its traceback and last checkpoint.
                ticket.timer = self._loop.call_later(ticket.grace / 2, self._deadline_passed, ticket, True)
                continue
            self._give_up(ticket, overdue_error(ticket, state), state)
        gone = [ticket.id for ticket, _ in overdue if ticket.future.done()]
        if gone:
            self._cancels += gone
            await self._flush_cancels()

    def _give_up(self, ticket: Ticket, error: StbassError, state: KnownState) -> None:
        raw = trusted_checkpoint(state.checkpoint, ticket.id, self.settings, self.refusals)
        if raw is None and ticket.checkpoint is not None:
            raw = bytes(ticket.checkpoint)
        result = failed_result(
            error, ticket.envelope, ticket.placement, worker=ticket.worker, attempt=ticket.attempt, checkpoint=raw
        )
        self._end_with(ticket, result)

    # Cancelling ----------------------------------------------------------------------------------

    async def withdraw(self, ids: Iterable[str]) -> None:
        """Tell the fleet that these are to end, or not to start, whoever has sent them."""
        self._cancels += ids
        await self._flush_cancels()

    async def _cancel(self, ticket: Ticket) -> None:
        """Tell the fleet; all that is cancelled in one turn is told in one message."""
        ticket.future.cancel()
        if not ticket.sent:
            return
        if self._cancelling is None:
            self._cancelling = self._loop.create_future()
            self._spawn(self._cancel_soon(self._cancelling))
        self._cancels.append(ticket.id)
        await asyncio.wait([self._cancelling], timeout=_CANCEL_WAIT)

    async def _cancel_soon(self, done: asyncio.Future[None]) -> None:
        await asyncio.sleep(0)
        self._cancelling = None
        try:
            await self._flush_cancels()
        finally:
            if not done.done():
                done.set_result(None)

    async def _flush_cancels(self) -> None:
        ids, self._cancels = self._cancels, []
        if not ids:
            return

        try:
            await self.tell_cancelled(ids)
        except _REDIS_ERRORS as error:
            _log.warning("cannot cancel %d processes: Redis at %s: %s", len(ids), self.settings.backend, error)

    async def tell_cancelled(self, ids: Sequence[str]) -> None:
        """Tell the fleet that these are to end, or not to start.

        Raises:
            redis.RedisError: the server cannot be reached, or refuses.
            OSError: the server cannot be reached.
        """

        async def tell() -> None:
            pipe = self.redis.pipeline(transaction=False)
            for task_id in ids:
                mark = cancelled_mark(task_id, self.settings)
                pipe.set(self.settings.keys.cancelled(task_id), mark, ex=keys.CANCEL_TTL)
            pipe.publish(self.settings.keys.cancel_channel, seal_cancellation(ids, self.settings))
            pipe.hlen(self.settings.keys.parked)
            # Who is about to let one wait in line finds it cancelled.
            if (await pipe.execute())[-1]:
                await shared_threads().call_plain(self.line.leave, ids)

        await waited_out(tell, self._withdrawing, seconds=_PATIENCE_CANCEL)

    async def patiently(self, step: Callable[[], Awaitable[T]]) -> T:
        """Do ``step``, again and again while the server refuses for now, or is away and was there before.

        Raises:
            redis.RedisError: the server never will do it, has refused it for a minute, or is away.
            OSError: the server is away.
        """
        found = await waited_out(step, self._sending, seconds=_PATIENCE, away=self._was_there)
        self._was_there = True
        return found

    # Housekeeping --------------------------------------------------------------------------------

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._spawned_ended)
        return task

    def _spawned_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("something that a producer did beside its calls failed", exc_info=error)

    async def _close_at_the_end(self) -> None:
        """Wait to be cancelled, which at the latest ``asyncio.run`` does, and close the connections."""
        try:
            await self._loop.create_future()
        finally:
            self.closing = True
            if self._look_timer is not None:
                self._look_timer.cancel()
            if self._sweeper is not None:
                self._sweeper.close()
            self.line.close()
            if others := self._tasks - {self._end}:
                # What is told in a moment is told; what waits for a server that is away is not waited for.
                _, left = await asyncio.wait(others, timeout=_CLOSE_SECONDS)
                for task in left:
                    task.cancel()
                await asyncio.gather(*left, return_exceptions=True)
            await self._replies.close()
            await self.redis.aclose()
            if not isinstance(self.broker, KombuSender) and self.broker is not self.redis:
                await self.broker.aclose()
