"""Runs on the fleet: started as one message, and found and followed by anybody."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Protocol

import msgspec
import redis

from stbass import wire
from stbass._engine.lending import lent
from stbass._engine.runs import (
    Progress,
    Run,
    RunEvent,
    RunStatus,
    checked_after,
    end_of_run,
    missed_events,
    run_event,
    taken_by,
)
from stbass._process.sync_threads import shared_threads
from stbass._values.checks import checked_deadline
from stbass._values.outcome import ProcessResult
from stbass.backends.celery import run_keys
from stbass.backends.celery.envelope import (
    ABSENT,
    Envelope,
    Told,
    failed_result,
    open_result,
    open_text,
    read_meta,
    seal_envelope,
    seal_result,
    seal_text,
)
from stbass.backends.celery.producer.client import FleetClient
from stbass.backends.celery.producer.ticket import Ticket
from stbass.backends.celery.settings import FleetSettings
from stbass.channel import Chan
from stbass.errors import ProcessCancelled, SignatureError, WireError
from stbass.observe.events import Event
from stbass.transports.redis import RedisTransport
from stbass.transports.redis.address import unavailable

__all__ = ["FleetRun", "KeptRun", "find_on_fleet", "list_on_fleet", "start_on_fleet"]

_AT_ONCE = 50
"""Entries that are read in one command; each may hold many events."""
_HEARD_MOST = 100
_ERRORS = (redis.RedisError, OSError)
_encode = msgspec.json.Encoder().encode
_Ago = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
_Number = Annotated[int, msgspec.Meta(ge=0)]


class KeptRun(msgspec.Struct, omit_defaults=True):
    """What is kept of a run for those who find it."""

    work: str
    envelope: Envelope
    """Of the whole, without what is to be run."""
    channels: msgspec.Raw = ABSENT
    """The channels of its processes: those of a composition of nothing, whose names there are their paths."""


class _Entry(msgspec.Struct, array_like=True):
    """Some events, as they are kept together and told of; without a text only the number of the last of them."""

    last: _Number
    count: _Number = 0
    at: Annotated[int, msgspec.Meta(ge=0, le=10**14)] = 0
    by: str = ""
    text: str = ""

    @property
    def first(self) -> int:
        return self.last - self.count + 1


class _Fleet(Protocol):
    """The backend of a run."""

    deadline_grace: float

    @property
    def settings(self) -> FleetSettings: ...

    def client(self) -> FleetClient: ...

    def transport(self) -> RedisTransport: ...


async def start_on_fleet(fleet: _Fleet, client: FleetClient, ticket: Ticket, kept: KeptRun) -> FleetRun:
    """Start a run, unless there is one of that id.

    Args:
        fleet: its backend.
        client: of this event loop.
        ticket: of the whole of it; its envelope says which run that is.
        kept: what others must know of it.

    Raises:
        RunConflictError: other work has that id.
        BackendUnavailableError: Redis cannot be reached.
    """
    settings, envelope = client.settings, ticket.envelope
    run_id = envelope.follow
    begun = Told.of(Event("queued", envelope.name, envelope.id, None, ticket.placement, path=envelope.name))
    first = seal_text("events", f"{run_id} {envelope.id}", b"[[0,%b]]" % _encode(begun), settings)
    fields: list[Any] = ["work", kept.work, "kept", seal_text("started", run_id, _encode(kept), settings)]
    left = "" if ticket.remaining is None else max(1, round(ticket.remaining * 1000))
    ticket.headers = seal_envelope(envelope, settings)
    where: tuple[Any, Any] = ("", "")
    if settings.one_server:
        where = f"{settings.broker_prefix}{envelope.queue}", client.publisher.message(ticket)
        fields += ["sent", 1]
    script = client.redis.register_script(settings.keys.script(run_keys.START))
    args = [run_id, envelope.id, run_keys.FOLLOW_TTL, first, left, *where, *fields]
    address = settings.backend
    try:
        raw: Any = await client.patiently(partial(script, args=args))
        known = dict(zip(raw[::2], raw[1::2], strict=True)) if raw else {}
        is_new = not known or known.get(b"process") == envelope.id.encode()
        found = kept if is_new else _read(known, run_id, client)
        if found.work != kept.work:
            raise taken_by(run_id, found.envelope.name)
        if not settings.one_server and b"sent" not in known:
            # Also if whoever has taken the id has died before it could send the message.
            envelope.id = found.envelope.id
            ticket.headers, ticket.remaining = seal_envelope(envelope, settings), None
            address = settings.broker or address
            await client.patiently(partial(client.publisher.send, [ticket]))
            address = settings.backend
            await client.patiently(partial(_hset, client, settings.keys.started(run_id), "sent", 1))
    except _ERRORS as error:
        raise unavailable(address, f"start run {run_id!r}", error) from error
    return FleetRun(fleet, run_id, found, is_new)


async def _hset(client: FleetClient, key: str, name: str, value: Any) -> None:
    setting: Any = client.redis.hset(key, name, value)
    await setting


async def find_on_fleet(fleet: _Fleet, client: FleetClient, run_id: str) -> FleetRun:
    """The run of that id.

    Raises:
        LookupError: there is none.
        WireError: what Redis says of it was not written by a producer.
        SignatureError: the fleet signs, and what Redis says of it was not signed with its key.
        BackendUnavailableError: Redis cannot be reached.
    """
    key = client.settings.keys.started(run_id)
    try:
        reading: Any = client.redis.hgetall(key)
        known = await reading
    except redis.ResponseError as error:
        raise WireError(f"what {key} in Redis at {client.settings.backend} says of run {run_id!r}: {error}") from error
    except _ERRORS as error:
        raise unavailable(client.settings.backend, f"look for run {run_id!r}", error) from error
    if not known:
        raise LookupError(f"no run {run_id!r} is known at {client.settings.backend}, or its result has expired")
    return FleetRun(fleet, run_id, _read(known, run_id, client))


async def list_on_fleet(fleet: _Fleet, client: FleetClient, most: int) -> list[FleetRun]:
    """The runs that were started last and are still known, the latest first.

    Raises:
        BackendUnavailableError: Redis cannot be reached.
    """
    names = client.settings.keys
    try:
        asking: Any = client.redis.zrange(names.runs, 0, most - 1, desc=True)
        ids = [run_id.decode("utf-8", "replace") for run_id in await asking]
        pipe = client.redis.pipeline(transaction=False)
        for run_id in ids:
            pipe.hgetall(names.started(run_id))
        records = await pipe.execute(raise_on_error=False)
    except _ERRORS as error:
        raise unavailable(client.settings.backend, "list runs", error) from error
    found = []
    for run_id, known in zip(ids, records, strict=True):
        if isinstance(known, dict) and known:
            # One that nobody of ours has written is told of when it is asked for, and keeps no other from being listed.
            with contextlib.suppress(WireError, SignatureError):
                found.append(FleetRun(fleet, run_id, _read(known, run_id, client)))
    return found


def _read(fields: Mapping[bytes, bytes], run_id: str, client: FleetClient) -> KeptRun:
    raw, settings = fields.get(b"kept", b""), client.settings
    try:
        found = msgspec.json.decode(open_text("started", run_id, raw, settings), type=KeptRun)
        found.envelope.read_placement()
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        client.refusals.note("run", error, raw, task_id=run_id)
        raise WireError(
            f"what {settings.keys.started(run_id)} in Redis at {settings.backend} says of run {run_id!r} cannot be"
            f" read: {error}"
        ) from error
    except SignatureError as error:
        client.refusals.note("run", error, raw, task_id=run_id)
        raise
    return found


def _moment(milliseconds: Any) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(int(milliseconds) / 1000, UTC)


class _News:
    """What is heard of a run's events."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.entries: deque[_Entry] = deque(maxlen=_HEARD_MOST)
        self.is_behind = True
        """Whether there may be entries that were not heard of."""

    def hear(self, data: bytes) -> None:
        try:
            self.entries.append(msgspec.msgpack.decode(data, type=_Entry))
        except msgspec.MsgspecError:
            # The subscription stands again after a gap; or somebody else has written that.
            self.is_behind = True
        self.event.set()

    def after(self, number: int) -> list[_Entry]:
        """The entries that follow an event, as far as they were heard of."""
        found: list[_Entry] = []
        while self.entries:
            entry = self.entries.popleft()
            if entry.last > number:
                if not entry.text or entry.first > number + 1:
                    # Some are missing: all that was heard is read with them.
                    self.entries.clear()
                    self.is_behind = True
                    break
                found.append(entry)
                number = entry.last
        return found


class FleetRun(Run[Any]):
    """A run on the fleet.

    Args:
        fleet: its backend.
        run_id: its id.
        kept: what is known of it.
        is_new: whether this program has started it.
    """

    def __init__(self, fleet: _Fleet, run_id: str, kept: KeptRun, is_new: bool = False) -> None:
        super().__init__(run_id, kept.envelope.name, is_new)
        self._fleet = fleet
        self._kept = kept
        self._process_id = kept.envelope.id

    # The end -------------------------------------------------------------------------------------

    async def _result(self, deadline: float | None = None) -> ProcessResult:
        seconds = checked_deadline(deadline)
        client = self._fleet.client()
        scope = asyncio.timeout(seconds)
        try:
            async with scope:
                return await client.shared(self._process_id, partial(self._wait, client))
        except TimeoutError:
            if seconds is None or not scope.expired():
                raise
            return self._waited_for(seconds)

    async def _wait(self, client: FleetClient) -> ProcessResult:
        envelope = self._kept.envelope
        try:
            remaining = await client.patiently(partial(self._remaining, client))
            ticket = Ticket(envelope, self._fleet.deadline_grace, remaining, envelope.read_placement())
            [result] = await client.adopt([ticket])
            return await client.patiently(partial(self._settled, client, result))
        except _ERRORS as error:
            raise unavailable(client.settings.backend, f"wait for run {self.id!r}", error) from error

    async def _remaining(self, client: FleetClient) -> float | None:
        deadline = self._kept.envelope.deadline
        if deadline is None:
            return None
        pipe = client.redis.pipeline(transaction=False)
        pipe.time()
        pipe.hget(client.settings.keys.started(self.id), "queued")
        (seconds, micros), queued = await pipe.execute()
        since = 0.0 if queued is None else seconds + micros / 1e6 - int(queued) / 1000
        return max(0.0, deadline - since)

    async def _settled(self, client: FleetClient, result: ProcessResult) -> ProcessResult:
        """How it has ended, for all alike: what was found out here counts only if nobody was first."""
        known: Any = client.redis.pipeline(transaction=False)
        known.exists(client.prefix + self._process_id, client.settings.keys.started(self.id))
        known.exists(client.settings.keys.started(self.id))
        both, record = await known.execute()
        if both != record or not record:
            return result  # it is stored; or Redis knows nothing of the run any more
        return await self._end(client, result)

    async def _end(self, client: FleetClient, result: ProcessResult) -> ProcessResult:
        settings, envelope = client.settings, self._kept.envelope
        meta = seal_result(self._process_id, result, settings).decode()
        packed = msgspec.msgpack.encode([(self._process_id, 0, meta, "", "", "", envelope.queue, self.id)])
        await shared_threads().call_plain(client.line.finish, packed)
        raw: Any = await client.redis.get(client.prefix + self._process_id)
        return result if raw is None else open_result(read_meta(raw), envelope, settings, envelope.read_placement())

    async def cancel(self) -> None:
        client = self._fleet.client()
        try:
            if await client.redis.exists(client.prefix + self._process_id):
                return
            await client.tell_cancelled([self._process_id])
            if await client.redis.zscore(client.settings.keys.leases, self._process_id) is None:
                error = ProcessCancelled(f"process {self.name!r} was cancelled before it ran")
                await self._end(client, failed_result(error, self._kept.envelope))
        except _ERRORS as error:
            raise unavailable(client.settings.backend, f"cancel run {self.id!r}", error) from error

    # How far it is -------------------------------------------------------------------------------

    async def status(self) -> RunStatus:
        client = self._fleet.client()
        names = client.settings.keys
        pipe = client.redis.pipeline(transaction=False)
        pipe.hmget(names.started(self.id), ["queued", "started", "ended", "latest"])
        pipe.exists(client.prefix + self._process_id)
        pipe.hmget(names.run(self._process_id), ["attempt", "worker", "swept"])
        pipe.zscore(names.leases, self._process_id)
        try:
            (queued, started, ended, latest), has_ended, (attempt, worker, swept), lease = await pipe.execute()
        except _ERRORS as error:
            raise unavailable(client.settings.backend, f"ask for run {self.id!r}", error) from error
        if queued is None:
            raise LookupError(f"nothing is known of run {self.id!r} any more at {client.settings.backend}")
        known = run_keys.Latest(attempt=0)
        if latest is not None:
            try:
                text = open_text("latest", self.id, latest, client.settings)
                known = msgspec.json.decode(text, type=run_keys.Latest)
            except (msgspec.MsgspecError, SignatureError) as error:
                # Nobody of the fleet has written it.
                client.refusals.note("run", error, latest, task_id=self.id)
        runs = lease is not None and attempt is not None and swept != attempt
        if runs:
            known.worker, known.attempt = worker.decode("utf-8", "backslashreplace"), int(attempt)
        raw = bytes(known.checkpoint)
        return RunStatus(
            "ended" if has_ended else "running" if runs else "queued",
            known.worker,
            known.attempt,
            None if known.progress is None else Progress(*known.progress),
            wire.loads(raw, what="checkpoint", limit=client.settings.max_message_bytes) if raw else None,
            _moment(queued),
            _moment(started),
            _moment(ended),
        )

    # What happens in it --------------------------------------------------------------------------

    async def events(self, after: str | None = None) -> AsyncIterator[RunEvent]:
        client, news = self._fleet.client(), _News()
        channel = client.settings.keys.event_channel(self.id)
        end: asyncio.Future[ProcessResult] | None = None
        try:
            await client.listen(channel, news.hear)
            number = 0
            if after is not None:
                latest, ended = await client.patiently(partial(self._count, client))
                number = checked_after(after, latest + ended, self.id)
                if number > latest:
                    return
            while True:
                news.event.clear()
                over = end is not None and end.done()
                entries = news.after(number)
                if not entries and (over or news.is_behind):
                    news.is_behind = False
                    entries = await client.patiently(partial(self._entries, client, number))
                for entry in entries:
                    for event in self._told(entry, number, client):
                        yield event
                    number = max(number, entry.last)
                if len(entries) == _AT_ONCE:
                    news.is_behind = True
                if end is None:
                    # After what there is already: that is not to wait for it.
                    end = asyncio.ensure_future(self._result())
                    end.add_done_callback(lambda _end: news.event.set())
                elif not entries and over:
                    break
                elif not entries and not news.is_behind:
                    async with lent():
                        await news.event.wait()
            async for event in self._rest(client, number, await end):
                yield event
        except _ERRORS as error:
            raise unavailable(client.settings.backend, f"follow run {self.id!r}", error) from error
        finally:
            client.listen_no_more(channel, news.hear)
            if end is not None:
                end.cancel()

    async def _count(self, client: FleetClient) -> tuple[int, bool]:
        """The number of the latest event that is kept, and whether the end, which is not, came after it."""
        pipe = client.redis.pipeline(transaction=True)
        pipe.hget(client.settings.keys.started(self.id), "events")
        pipe.exists(client.prefix + self._process_id)
        latest, has_ended = await pipe.execute()
        return int(latest or 0), bool(has_ended)

    async def _entries(self, client: FleetClient, number: int) -> list[_Entry]:
        key = client.settings.keys.events(self.id)
        found: Any = await client.redis.xrange(key, f"{number + 1}-0", "+", count=_AT_ONCE)
        fields = [(name.partition(b"-")[0], one[b"n"], one[b"at"], one[b"by"], one[b"e"]) for name, one in found]
        texts = [tuple(part.decode() for part in parts) for parts in fields]
        return msgspec.convert(texts, list[_Entry], strict=False)

    def _told(self, entry: _Entry, after: int, client: FleetClient) -> list[RunEvent]:
        """The events of an entry, with word of those that are kept no more before it."""
        at = datetime.fromtimestamp(entry.at / 1000, UTC)
        found: list[RunEvent] = []
        if entry.first > after + 1:
            found.append(missed_events(after + 1, entry.first - 1, self.name, self._process_id, at))
        raw = entry.text.encode()
        try:
            text = open_text("events", f"{self.id} {entry.by}", raw, client.settings)
            told = msgspec.json.decode(text, type=list[tuple[_Ago, Told]])
            for number, (ago, one) in enumerate(told, entry.first):
                if number > after:
                    happened = datetime.fromtimestamp(entry.at / 1000 - ago, UTC)
                    found.append(run_event(one.event(client.settings.max_message_bytes), number, happened))
        except (msgspec.MsgspecError, WireError, SignatureError) as error:
            # Nobody of the fleet has written it: whoever follows is told that something is not there.
            client.refusals.note("events", error, raw, task_id=self.id)
            found.append(missed_events(max(entry.first, after + 1), entry.last, self.name, self._process_id, at))
        return found

    async def _rest(self, client: FleetClient, number: int, result: ProcessResult) -> AsyncIterator[RunEvent]:
        reading: Any = partial(client.redis.hmget, client.settings.keys.started(self.id), ["events", "ended"])
        events, ended = await client.patiently(reading)
        latest = int(events or number)
        at = _moment(ended) or (result.failure.failed_at if result.is_fail else datetime.now(UTC))
        if latest > number:
            yield missed_events(number + 1, latest, self.name, self._process_id, at)
        yield end_of_run(result, latest + 1, self.name, self._process_id, at)

    # Its channels --------------------------------------------------------------------------------

    @asynccontextmanager
    async def _channels(self) -> AsyncIterator[Mapping[str, Chan[Any]]]:
        raw = bytes(self._kept.channels)
        if not raw:
            yield {}
            return
        scope = self._fleet.transport().scope(f"a user of run {self.id!r}")
        try:
            limit = self._fleet.settings.max_message_bytes
            yield wire.loads_process(raw, allowed=lambda _name: False, transport=scope, limit=limit).bound_channels
        finally:
            await scope.leave()
