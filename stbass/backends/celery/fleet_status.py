"""What a fleet does at this moment: who consumes what, what runs, what waits, what was lost and refused."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack, closing
from typing import Any

import msgspec
import redis

from stbass._values.ids import new_id
from stbass._values.limits import Limit
from stbass.backends.celery import keys
from stbass.backends.celery.kombu_sender import KombuSender
from stbass.backends.celery.refusals import COUNTS, REFUSED
from stbass.backends.celery.settings import EXECUTE, FleetState
from stbass.transports.redis.address import unavailable

__all__ = ["EndpointStatus", "FleetStatus", "WorkerHealth", "look_at"]

_SCAN = 2000


class WorkerHealth(msgspec.Struct):
    """A live worker.

    Args:
        name: of the worker.
        endpoints: that it consumes.
        slots: how many processes it runs at once.
        trouble: why it runs nothing, or that it has not answered; None: it is well.
        include: the modules whose processes it knows.
        signs: what tells its signing key from others; empty: it does not sign.
    """

    name: str
    endpoints: list[str]
    slots: int
    trouble: str | None = None
    include: list[str] = []
    signs: str = ""


class EndpointStatus(msgspec.Struct):
    """An endpoint.

    Args:
        endpoint: its name.
        workers: how many live workers consume it.
        healthy: how many of them answer, and are not blocked.
        running: how many processes run.
        limit: of the whole fleet, as people write it; None: there is none.
        queued: how many processes wait, those for the limit included.
        limited: how many of them wait for the limit.
        oldest: seconds for which the first of them has waited, by the clock of who sent it; None: that is not known.
        lost: seconds since a process there has last lost its worker; None: none has.
        refused: how many of the last 1,000 refused things were in its queue.
    """

    endpoint: str
    workers: int = 0
    healthy: int = 0
    running: int = 0
    limit: str | None = None
    queued: int = 0
    limited: int = 0
    oldest: float | None = None
    lost: float | None = None
    refused: int = 0


class FleetStatus(msgspec.Struct):
    """All of it; ``refused`` counts what was ever refused, by kind."""

    endpoints: list[EndpointStatus]
    workers: list[WorkerHealth]
    refused: dict[str, int]


def look_at(fleet: FleetState, endpoints: Iterable[str] = (), patience: float = 1.0) -> FleetStatus:
    """Look at a fleet.

    Args:
        fleet: of the application.
        endpoints: that are to be told of even if nothing is known of them.
        patience: seconds for workers to answer.

    Raises:
        BackendUnavailableError: Redis or the broker cannot be reached.
    """
    address = fleet.settings.backend
    with ExitStack() as stack:
        client = stack.enter_context(closing(address.client()))
        broker: redis.Redis | None = client
        if fleet.settings.broker is None:
            broker = None
        elif not fleet.settings.one_server:
            broker = stack.enter_context(closing(fleet.settings.broker.client()))
        try:
            return _Look(fleet, client, broker).result(endpoints, patience)
        except (redis.RedisError, OSError) as error:
            raise unavailable(address, "look at the fleet", error) from error


class _Look:
    def __init__(self, fleet: FleetState, client: redis.Redis, broker: redis.Redis | None) -> None:
        self._app, self._settings, self._names = fleet.app, fleet.settings, fleet.settings.keys
        self._client, self._broker = client, broker
        self._endpoints: dict[str, EndpointStatus] = {}

    def result(self, endpoints: Iterable[str], patience: float) -> FleetStatus:
        workers = live_workers(self._client, self._names, patience)
        for worker in workers:
            for name in worker.endpoints:
                one = self._of(name)
                one.workers += 1
                one.healthy += worker.trouble is None
        for name in endpoints:
            self._of(name)
        self._running()
        limits = self._hash(self._names.limits)
        for name, kept in limits.items():
            limit = Limit.read(kept)
            self._of(name).limit = None if limit is None or limit.is_none else str(limit)
        for name in self._queues():
            self._of(name)
        self._waiting()
        refused = self._refused()
        made = sorted(self._endpoints.values(), key=lambda one: one.endpoint)
        return FleetStatus(made, workers, refused)

    def _of(self, name: str) -> EndpointStatus:
        return self._endpoints.setdefault(name, EndpointStatus(name))

    def _hash(self, key: str) -> dict[str, bytes]:
        found: Any = self._client.hgetall(key)
        return {name.decode("utf-8", "backslashreplace"): value for name, value in found.items()}

    def _running(self) -> None:
        _, raw = running_of(self._client, self._names)
        for name, number in raw.items():
            self._of(name).running = number

    def _queues(self) -> set[str]:
        """Queues in which processes wait, whether anybody consumes them or not."""
        if self._broker is None:
            return set()
        prefix = self._settings.broker_prefix
        pattern = self._names.pattern(prefix)
        names = [
            key.decode("utf-8", "backslashreplace").removeprefix(prefix)
            for key in self._broker.scan_iter(match=pattern, count=_SCAN, _type="list")
            if not key.startswith(f"{prefix}stbass:".encode())
        ]
        return {name for name in names if name in self._endpoints or self._first(name) is not None}

    def _first(self, queue: str) -> dict[str, Any] | None:
        """The message in a queue that is the next, if it asks for a process."""
        assert self._broker is not None
        raw: Any = self._broker.lindex(f"{self._settings.broker_prefix}{queue}", -1)
        if raw is None or EXECUTE.encode() not in raw:
            return None
        try:
            headers = msgspec.json.decode(raw)["headers"]
            return headers if headers["task"] == EXECUTE else None
        except (msgspec.MsgspecError, ValueError, RecursionError, KeyError, TypeError):
            return None

    def _waiting(self) -> None:
        seconds, micros = self._now()
        now = seconds + micros / 1e6
        lost = self._hash(self._names.lost)
        for name, one in self._endpoints.items():
            if name in lost and lost[name].isdigit():
                one.lost = max(0.0, round(now - int(lost[name]) / 1000, 1))
            one.limited = int(self._client.zcard(self._names.line(name)))
            first: Any = self._client.zrange(self._names.line(name), 0, 0, withscores=True)
            since = [first[0][1] / 1e6] if first else []
            if self._broker is not None:
                one.queued = self._length(name)
                sent = (self._first(name) or {}).get("stbass_sent") if one.queued else None
                since += [sent] if isinstance(sent, (int, float)) else []
            one.queued += one.limited
            one.oldest = max(0.0, round(now - min(since), 1)) if since else None
        if self._broker is None:
            lengths = KombuSender(self._app).lengths(list(self._endpoints))
            for name, length in lengths.items():
                self._endpoints[name].queued += length

    def _length(self, queue: str) -> int:
        assert self._broker is not None
        try:
            return int(self._broker.llen(f"{self._settings.broker_prefix}{queue}"))
        except redis.ResponseError:
            return 0  # somebody keeps something else there, which is no queue

    def _now(self) -> tuple[int, int]:
        found: Any = self._client.time()
        return int(found[0]), int(found[1])

    def _refused(self) -> dict[str, int]:
        address = self._settings.backend
        kept: Any = self._client.lrange(address.key(REFUSED), 0, -1)
        by_queue: Counter[str] = Counter()
        for raw in kept:
            try:
                by_queue[str(msgspec.json.decode(raw)["queue"])] += 1
            except (msgspec.MsgspecError, ValueError, RecursionError, KeyError, TypeError):
                by_queue[""] += 1
        for name, one in self._endpoints.items():
            one.refused = by_queue[name]
        counts = self._hash(address.key(COUNTS))
        return {kind: int(number) for kind, number in sorted(counts.items()) if number.isdigit()}


def running_of(client: redis.Redis, names: keys.FleetKeys) -> tuple[dict[str, int], dict[str, int]]:
    """How many processes run: by worker, and by queue."""
    raw: Any = client.register_script(names.script(keys.RUNNING))()
    by_worker, by_queue = (
        {name.decode("utf-8", "backslashreplace"): int(number) for name, number in zip(*[iter(one)] * 2, strict=True)}
        for one in raw
    )
    return by_worker, by_queue


def live_workers(client: redis.Redis, names: keys.FleetKeys, patience: float) -> list[WorkerHealth]:
    """The workers of a fleet that are there, each with what is the matter with it: all of them are asked.

    Args:
        client: of the results.
        names: of the fleet.
        patience: seconds for them to answer.
    """
    prefix = names.alive_channel("")
    channels: Any = client.pubsub_channels(names.pattern(prefix))
    instances = [channel.decode("utf-8", "backslashreplace").removeprefix(prefix) for channel in channels]
    if not instances:
        return []
    key = names.here(new_id())
    pipe = client.pipeline(transaction=False)
    for instance in instances:
        pipe.get(names.worker(instance))
    for instance in instances:
        pipe.publish(names.alive_channel(instance), key)
    found = pipe.execute()
    infos = [info for raw in found[: len(instances)] if raw and (info := _read(raw, keys.WorkerInfo)) is not None]
    answers = _answers(client, key, sum(found[len(instances) :]), patience)
    silent = f"it has not answered within {patience:g} s"
    return sorted(
        (
            WorkerHealth(
                info.name, info.queues, info.concurrency or 1, answers.get(info.name, silent), info.include, info.signs
            )
            for info in infos
        ),
        key=lambda worker: worker.name,
    )


def _answers(client: redis.Redis, key: str, count: int, patience: float) -> dict[str, str | None]:
    """What each worker that answered in time says is the matter with it."""
    answers: dict[str, str | None] = {}
    until = time.monotonic() + patience
    for _ in range(count):
        left = until - time.monotonic()
        found: Any = client.blpop([key], timeout=max(0.01, left)) if left > 0 else client.lpop(key)
        if found is None:
            break
        answer = _read(found[1] if isinstance(found, (list, tuple)) else found, keys.WorkerAnswer)
        if answer is not None:
            answers[answer.worker] = answer.blocked or None
    return answers


def _read(raw: bytes, kind: Any) -> Any:
    """What a worker says; None if none can have said it."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
