"""What happens in the runs of which this worker runs a part, on its way to those who follow them.

Events are written in batches, all of a worker's in one command, at most ten times a second; the first after a pause at
once. What a process has emitted, and the checkpoints that it has made, go out together and in order: if the worker is
killed, the next attempt finds the checkpoint that the last event before it calls for.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import msgspec
import redis
import redis.asyncio

from stbass._engine.runs import MOST_EVENTS
from stbass._values.numbers import finite
from stbass.backends.celery import run_keys
from stbass.backends.celery.envelope import Told, seal_text
from stbass.backends.celery.settings import FleetSettings
from stbass.observe.events import Event
from stbass.transports.redis.trouble import Vigil, waited_out

__all__ = ["EventWriter", "ProcessRecorder"]

_log = logging.getLogger(__name__)
_PACE = 0.1
"""Seconds between two commands at least."""
_ROOM_BYTES = 8 * 2**20
_ROOM_EVENTS = 20_000
_ENTRY_BYTES = 60_000
"""Of the events of one entry, unless one alone is larger."""
_ENTRY_EVENTS = 500
_pack = msgspec.msgpack.Encoder().encode
_encode = msgspec.json.Encoder().encode

_Batch = tuple[int, list[tuple[float, bytes]], bytes, bytes, int]
"""Its number, events with when they happened, checkpoint, latest, whether it is the first."""


class ProcessRecorder:
    """Keeps what happens in one process of a run, and in all that it runs here.

    Args:
        writer: writes it.
        run_id: of the run.
        process_id: of the process.
        attempt: which attempt at it this is.
        checkpoint: that of the attempt before, as it travels; empty: there is none.
    """

    def __init__(self, writer: EventWriter, run_id: str, process_id: str, attempt: int, checkpoint: bytes) -> None:
        self.run_id = run_id
        self.fleet: object = writer.settings.backend
        self.process_id = process_id
        self.attempt = attempt
        self._writer = writer
        self._lock = threading.Lock()
        self._events: list[tuple[float, bytes]] = []
        self._bytes = 0
        self._checkpoint = b""
        self._latest = run_keys.Latest()
        if checkpoint:
            self._latest.checkpoint = msgspec.Raw(checkpoint)
        self._latest_is_new = False
        self._number = 0
        self._under_way: _Batch | None = None
        self.until = 0
        """When the latest of the events that are written was (ms, the server's clock)."""

    def record(self, event: Event) -> None:
        """See :class:`stbass._process.frame.RunRecorder`."""
        own = event.process_id == self.process_id
        if own and event.kind == "ended":
            return  # whoever waits for it tells of that: it may also end without having run
        text = _encode(Told.of(event, self._writer.settings.max_message_bytes))
        with self._lock:
            self._events.append((time.monotonic(), text))
            self._bytes += len(text)
            if own:
                self._note(event)
        self._writer.has_news_of(self)

    def _note(self, event: Event) -> None:
        if event.kind == "progress":
            self._latest.progress = finite(event.done) or 0.0, finite(event.total), event.note
        elif event.kind == "started":
            self._latest.worker, self._latest.attempt = event.worker, event.attempt
        else:
            return
        self._latest_is_new = True

    def checkpoint(self, text: bytes, sealed: bytes) -> None:
        """The process has made a checkpoint.

        Args:
            text: as it travels.
            sealed: as it is kept with the process.
        """
        with self._lock:
            self._checkpoint, self._latest.checkpoint, self._latest_is_new = sealed, msgspec.Raw(text), True
        self._writer.has_news_of(self)

    @property
    def _is_full(self) -> bool:
        return self._bytes > _ROOM_BYTES or len(self._events) > _ROOM_EVENTS

    async def room(self) -> None:
        """See :class:`stbass._process.frame.RunRecorder`."""
        while self._is_full:
            await self.flush()

    async def flush(self) -> None:
        """See :class:`stbass._process.frame.RunRecorder`."""
        await self._writer.flush_from_anywhere()

    def take(self) -> _Batch | None:
        """What is to be written next; the same again until :meth:`taken`."""
        with self._lock:
            if self._under_way is None and (self._events or self._checkpoint):
                self._number += 1
                settings, latest = self._writer.settings, b""
                if self._latest_is_new:
                    latest = seal_text("latest", self.run_id, _encode(self._latest), settings)
                self._under_way = self._number, self._events, self._checkpoint, latest, int(self._number == 1)
                self._events, self._bytes, self._checkpoint, self._latest_is_new = [], 0, b"", False
            return self._under_way

    def taken(self) -> None:
        """It is written."""
        self._under_way = None


class EventWriter:
    """Writes for all recorders of a worker. It belongs to the event loop on which processes run.

    Args:
        settings: of the fleet.
        life: of the worker.
        result_prefix: what Celery puts before a task id to make the key of its result.
    """

    def __init__(self, settings: FleetSettings, life: str, result_prefix: bytes) -> None:
        self.settings = settings
        self._life = life
        self._prefix = result_prefix
        self._loop: asyncio.AbstractEventLoop | None = None
        self._script: Any = None
        self._waiting: dict[ProcessRecorder, None] = {}
        self._has_news = asyncio.Event()
        self._writing = asyncio.Lock()
        self._written_at = 0.0
        self._vigil = Vigil("write events of runs", settings.backend, _log)

    @property
    def is_behind(self) -> bool:
        """Whether there is something to be written, or being written."""
        return bool(self._waiting) or self._writing.locked()

    def open(self, client: redis.asyncio.Redis) -> None:
        """Use this client, on this event loop."""
        self._loop = asyncio.get_running_loop()
        self._script = client.register_script(self.settings.keys.script(run_keys.RECORD))

    def has_news_of(self, recorder: ProcessRecorder) -> None:
        """Something is to be written. From any thread."""
        if asyncio._get_running_loop() is self._loop:
            self._note(recorder)
        elif self._loop is not None:
            self._loop.call_soon_threadsafe(self._note, recorder)

    def _note(self, recorder: ProcessRecorder) -> None:
        self._waiting[recorder] = None
        self._has_news.set()

    async def write_some(self) -> None:
        """Write what there is, once there is something and the last time is long enough ago."""
        await self._has_news.wait()
        rest = self._written_at + _PACE - time.monotonic()
        if rest > 0:
            await asyncio.sleep(rest)
        await self.flush()

    async def flush_from_anywhere(self) -> None:
        """:meth:`flush`, from any event loop."""
        if asyncio.get_running_loop() is self._loop or self._loop is None:
            await self.flush()
        else:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.flush(), self._loop))

    async def flush(self) -> None:
        """Return when all that was recorded until now is written. Cancelled, it leaves the rest for the next time."""
        async with self._writing:
            self._has_news.clear()
            recorders, self._waiting = self._waiting, {}
            batches = [(one, batch) for one in recorders if (batch := one.take()) is not None]
            if not batches:
                return
            self._written_at = time.monotonic()
            try:
                await self._write(batches)
            except BaseException:
                for recorder in recorders:
                    self._note(recorder)
                raise
            for recorder, _ in batches:
                recorder.taken()

    async def _write(self, batches: list[tuple[ProcessRecorder, _Batch]]) -> None:
        settings = self.settings
        now = time.monotonic()
        packed = _pack([self._packed(recorder, batch, now) for recorder, batch in batches])
        args = [self._life, self._prefix, settings.keys.database, MOST_EVENTS, run_keys.FOLLOW_TTL, packed]
        try:
            kept = await waited_out(partial(self._script, args=args), self._vigil)
        except redis.RedisError as error:
            _log.error("events of %d processes of runs are lost: Redis refuses: %s", len(batches), error)
            return
        for (recorder, (_, events, *_)), at in zip(batches, kept, strict=True):
            if not at:
                _log.debug("events of process %s of run %r are not kept", recorder.process_id, recorder.run_id)
            elif events and at > 1:
                recorder.until = at - math.floor(1000 * (now - events[-1][0]))

    def _packed(self, recorder: ProcessRecorder, batch: _Batch, now: float) -> tuple[Any, ...]:
        number, events, checkpoint, latest, is_first = batch
        # However long a batch is on its way, what is in it was not before what is in the one before.
        least = recorder.until + math.ceil(1000 * (now - events[0][0])) if events else 0
        by = f"{recorder.run_id} {recorder.process_id}"
        entries = []
        for some in _entries(events):
            text = b"[" + b",".join(b"[%.3f,%b]" % (now - at, told) for at, told in some) + b"]"
            entries.append((len(some), seal_text("events", by, text, self.settings).decode()))
        of = recorder.run_id, recorder.process_id, recorder.attempt, number
        return *of, entries, checkpoint.decode(), latest.decode(), is_first, least


def _entries(events: list[tuple[float, bytes]]) -> Iterator[list[tuple[float, bytes]]]:
    some: list[tuple[float, bytes]] = []
    size = 0
    for event in events:
        if some and (len(some) == _ENTRY_EVENTS or size + len(event[1]) > _ENTRY_BYTES):
            yield some
            some, size = [], 0
        some.append(event)
        size += len(event[1])
    if some:
        yield some
