"""What a fleet does at this moment: who consumes what, what runs, what waits, what was lost and refused."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any

import msgspec
import redis

from stbass._values.ids import new_id
from stbass._values.limits import Limit
from stbass.backends.celery import keys
from stbass.backends.celery.refusals import COUNTS, REFUSED
from stbass.backends.celery.settings import EXECUTE, FleetSettings
from stbass.transports.redis.address import unavailable

__all__ = ["EndpointStatus", "FleetStatus", "FleetWatch", "WorkerHealth", "look_at"]

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
    """All of it; ``refused`` counts what was ever refused, by kind; ``answers`` are those that workers gave in time."""

    endpoints: list[EndpointStatus]
    workers: list[WorkerHealth]
    refused: dict[str, int]
    answers: list[keys.WorkerAnswer]


def look_at(
    settings: FleetSettings, app: Any = None, endpoints: Iterable[str] = (), patience: float = 1.0
) -> FleetStatus:
    """Look at a fleet.

    Args:
        settings: of the fleet.
        app: the Celery application; needed if the broker is not Redis.
        endpoints: that are to be told of even if nothing is known of them.
        patience: seconds for workers to answer.

    Raises:
        BackendUnavailableError: Redis or the broker cannot be reached.
    """
    with closing(FleetWatch(settings, app)) as watch:
        return watch.look(endpoints, patience)


class FleetWatch:
    """Looks at a fleet, as often as one likes.

    Args:
        settings: of the fleet.
        app: the Celery application; needed if the broker is not Redis.
        detailed: whether workers are asked what they run, too.
    """

    def __init__(self, settings: FleetSettings, app: Any = None, detailed: bool = False) -> None:
        self._settings = settings
        self._app = app
        self._detailed = detailed
        self._client = settings.backend.client()
        self._broker: redis.Redis | None = None
        if settings.broker is not None:
            self._broker = self._client if settings.one_server else settings.broker.client()

    def close(self) -> None:
        """Close its connections."""
        self._client.close()
        if self._broker is not None:
            self._broker.close()

    def look(self, endpoints: Iterable[str] = (), patience: float = 1.0, find: bool = True) -> FleetStatus:
        """What the fleet does now.

        Args:
            endpoints: that are to be told of even if nothing is known of them.
            patience: seconds for workers to answer.
            find: whether queues that nobody consumes are looked for, which goes through all keys.

        Raises:
            BackendUnavailableError: Redis or the broker cannot be reached.
        """
        try:
            look = _Look(self._settings, self._app, self._client, self._broker, self._detailed)
            return look.result(endpoints, patience, find)
        except (redis.RedisError, OSError) as error:
            raise unavailable(self._settings.backend, "look at the fleet", error) from error

    def latest_runs(self, most: int) -> list[str]:
        """The ids of the runs that were started last, the latest first.

        Raises:
            BackendUnavailableError: Redis cannot be reached.
        """
        try:
            found: Any = self._client.zrange(self._settings.keys.runs, 0, most - 1, desc=True)
        except (redis.RedisError, OSError) as error:
            raise unavailable(self._settings.backend, "look for runs", error) from error
        return [run_id.decode("utf-8", "replace") for run_id in found]


class _Look:
    def __init__(
        self, settings: FleetSettings, app: Any, client: redis.Redis, broker: redis.Redis | None, detailed: bool
    ) -> None:
        self._app, self._settings, self._names = app, settings, settings.keys
        self._client, self._broker, self._detailed = client, broker, detailed
        self._endpoints: dict[str, EndpointStatus] = {}

    def result(self, endpoints: Iterable[str], patience: float, find: bool) -> FleetStatus:
        workers, answers = live_workers(self._client, self._names, patience, self._detailed)
        for worker in workers:
            for name in worker.endpoints:
                one = self._of(name)
                one.workers += 1
                one.healthy += worker.trouble is None
        for name in endpoints:
            self._of(name)
        self._running(answers, of=len(workers))
        limits = self._hash(self._names.limits)
        for name, kept in limits.items():
            limit = Limit.read(kept)
            self._of(name).limit = None if limit is None or limit.is_none else str(limit)
        for name in self._queues() if find else ():
            self._of(name)
        self._waiting()
        refused = self._refused()
        made = sorted(self._endpoints.values(), key=lambda one: one.endpoint)
        return FleetStatus(made, workers, refused, answers)

    def _of(self, name: str) -> EndpointStatus:
        return self._endpoints.setdefault(name, EndpointStatus(name))

    def _hash(self, key: str) -> dict[str, bytes]:
        found: Any = self._client.hgetall(key)
        return {name.decode("utf-8", "backslashreplace"): value for name, value in found.items()}

    def _running(self, answers: list[keys.WorkerAnswer], of: int) -> None:
        told = [answer.running for answer in answers if answer.running is not None]
        counts = Counter[str]()
        if self._detailed and len(told) == of:
            for one in told:
                counts.update(one)
        else:
            # Not all workers say it, so the record of each process that runs is read.
            counts.update(running_of(self._client, self._names)[1])
        for name, number in counts.items():
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
        return {name for name, _ in self._firsts(names)}

    def _waiting(self) -> None:
        lost = self._hash(self._names.lost)
        names = list(self._endpoints)
        pipe = self._client.pipeline(transaction=False)
        pipe.time()
        for name in names:
            pipe.zcard(self._names.line(name))
        (seconds, micros), *limited = pipe.execute()
        now = seconds + micros / 1e6
        pipe = self._client.pipeline(transaction=False)
        lines = [name for name, number in zip(names, limited, strict=True) if number]
        for name in lines:
            pipe.zrange(self._names.line(name), 0, 0, withscores=True)
        since = {name: [first[0][1] / 1e6] for name, first in zip(lines, pipe.execute(), strict=True) if first}
        lengths = self._lengths(names)
        for name, first in self._firsts([name for name in names if self._broker is not None and lengths.get(name)]):
            sent = first.get("stbass_sent")
            since.setdefault(name, []).extend([sent] if isinstance(sent, (int, float)) else [])
        for name, number in zip(names, limited, strict=True):
            one = self._endpoints[name]
            if name in lost and lost[name].isdigit():
                one.lost = max(0.0, round(now - int(lost[name]) / 1000, 1))
            one.limited = number
            one.queued = number + lengths.get(name, 0)
            one.oldest = max(0.0, round(now - min(since[name]), 1)) if since.get(name) else None

    def _lengths(self, queues: list[str]) -> dict[str, int]:
        """How many messages wait in each of these queues."""
        if self._broker is None:
            # It loads Celery, which takes longer than the look itself.
            from stbass.backends.celery.kombu_sender import KombuSender

            return KombuSender(self._app).lengths(queues)
        pipe = self._broker.pipeline(transaction=False)
        for name in queues:
            pipe.llen(f"{self._settings.broker_prefix}{name}")
        # Where somebody keeps something else there is no queue.
        found = pipe.execute(raise_on_error=False)
        return {name: number for name, number in zip(queues, found, strict=True) if isinstance(number, int)}

    def _firsts(self, queues: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Of each of these queues in which the next message asks for a process: the queue, and its headers."""
        if not queues:
            return
        assert self._broker is not None
        pipe = self._broker.pipeline(transaction=False)
        for name in queues:
            pipe.lindex(f"{self._settings.broker_prefix}{name}", -1)
        for name, raw in zip(queues, pipe.execute(raise_on_error=False), strict=True):
            if not isinstance(raw, bytes) or EXECUTE.encode() not in raw:
                continue
            try:
                headers = msgspec.json.decode(raw)["headers"]
                if headers["task"] == EXECUTE:
                    yield name, headers
            except (msgspec.MsgspecError, ValueError, RecursionError, KeyError, TypeError):
                continue  # it was not sent by Celery

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


def live_workers(
    client: redis.Redis, names: keys.FleetKeys, patience: float, detailed: bool = False
) -> tuple[list[WorkerHealth], list[keys.WorkerAnswer]]:
    """The workers of a fleet that are there, each with what is the matter with it, and what they have answered.

    Args:
        client: of the results.
        names: of the fleet.
        patience: seconds for them to answer.
        detailed: whether they are asked what they run, too.
    """
    prefix = names.alive_channel("")
    channels: Any = client.pubsub_channels(names.pattern(prefix))
    instances = [channel.decode("utf-8", "backslashreplace").removeprefix(prefix) for channel in channels]
    if not instances:
        return [], []
    key = names.here(new_id(), detailed)
    pipe = client.pipeline(transaction=False)
    pipe.mget([names.worker(instance) for instance in instances])
    for instance in instances:
        pipe.publish(names.alive_channel(instance), key)
    told, *heard = pipe.execute()
    infos = [info for raw in told if raw and (info := _read(raw, keys.WorkerInfo)) is not None]
    answers = _answers(client, key, sum(heard), patience)
    silent = f"it has not answered within {patience:g} s"
    found, told_by = [], []
    for info in infos:
        answer = answers.get(info.instance) or answers.get(info.name)
        if answer is not None:
            told_by.append(answer)
        trouble = silent if answer is None else answer.blocked or None
        slots = info.concurrency or 1
        found.append(WorkerHealth(info.name, info.queues, slots, trouble, info.include, info.signs))
    return sorted(found, key=lambda worker: worker.name), told_by


def _answers(client: redis.Redis, key: str, count: int, patience: float) -> dict[str, keys.WorkerAnswer]:
    """What each worker answers that does so in time, by its instance, or else by its name."""
    answers: dict[str, keys.WorkerAnswer] = {}
    until, heard = time.monotonic() + patience, 0
    while heard < count:
        left = until - time.monotonic()
        first: Any = client.blpop([key], timeout=max(0.01, left)) if left > 0 else None
        # Those that have come meanwhile, in one go.
        rest: Any = client.lpop(key, count) or []
        raws = [*([] if first is None else [first[1]]), *rest]
        if not raws:
            break
        heard += len(raws)
        for raw in raws:
            answer = _read(raw, keys.WorkerAnswer)
            if answer is not None:
                answers[answer.instance or answer.worker] = answer
    return answers


def _read(raw: bytes, kind: Any) -> Any:
    """What a worker says; None if none can have said it."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
