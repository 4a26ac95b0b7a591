"""How much room there is on a fleet: what each live worker consumes, how much it may run at once, and how much it runs.

It is a look at one moment: somebody else may take a slot in the next. Whoever needs several slots together looks first,
so that a fleet that is plainly too small is told at once, and then still waits a bounded time for all of them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import redis.asyncio

from stbass._values.ids import new_id
from stbass.backends.celery import keys

_log = logging.getLogger(__name__)

__all__ = ["WorkerSlots", "answered", "consumed_queues", "consumers", "free_slots", "lacking", "worker_slots"]


@dataclass(frozen=True, slots=True)
class WorkerSlots:
    """A live worker.

    Args:
        worker: its name.
        queues: what it consumes.
        slots: how many processes it runs at once at most.
        running: how many it runs now; not those that wait for others and lend their places meanwhile.
    """

    worker: str
    queues: tuple[str, ...]
    slots: int
    running: int

    @property
    def free(self) -> int:
        """How many more it would run now."""
        return max(0, self.slots - self.running)


async def consumers(client: redis.asyncio.Redis, names: keys.FleetKeys, queue: str) -> int:
    """How many live workers consume a queue."""
    [(_, count)] = await client.pubsub_numsub(names.queue_channel(queue))
    return int(count)


async def consumed_queues(client: redis.asyncio.Redis, names: keys.FleetKeys) -> list[str]:
    """The queues that live workers consume."""
    prefix = names.queue_channel("")
    found: list[Any] = await client.pubsub_channels(names.pattern(prefix))
    return sorted(channel.decode("utf-8", "backslashreplace").removeprefix(prefix) for channel in found)


async def answered(client: redis.asyncio.Redis, names: keys.FleetKeys, queue: str | None, seconds: float) -> bool:
    """Whether a worker that takes messages answers: the server may not know yet that it does not reach one any more.

    One whose event loop is blocked does not count, and is named in the log.
    """
    key = names.here(new_id())
    if queue is None:
        channels = await client.pubsub_channels(names.pattern(names.queue_channel("")))
    else:
        channels = [names.queue_channel(queue)]
    asked = 0
    for channel in channels:
        asked += await client.publish(channel, key)
    until = time.monotonic() + seconds
    for _ in range(asked):
        answer = await _next_answer(client, key, until - time.monotonic())
        if answer is None:
            return False
        if not answer.blocked:
            return True
        _log.warning("worker %s runs nothing: %s", answer.worker, answer.blocked)
    return False


async def _next_answer(client: redis.asyncio.Redis, key: str, seconds: float) -> keys.WorkerAnswer | None:
    """The next one that can be read, if it comes in time."""
    if seconds <= 0:
        return None
    asked: Any = client.blpop([key], timeout=seconds)
    found = await asked
    if not found:
        return None
    try:
        return msgspec.json.decode(found[1], type=keys.WorkerAnswer)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        _log.warning("refused a worker's answer to a health check: %s", error)
        return None


async def worker_slots(client: redis.asyncio.Redis, names: keys.FleetKeys) -> list[WorkerSlots]:
    """Every live worker of the fleet.

    Raises:
        redis.RedisError: the server cannot be reached.
    """
    found = [key async for key in client.scan_iter(match=names.pattern(names.worker("")), count=1000)]
    if not found:
        return []
    infos = [info for raw in await client.mget(found) if raw and (info := _announced(raw)) is not None]
    # An announcement outlives a worker that was killed; its subscription does not.
    alive = dict(await client.pubsub_numsub(*(names.alive_channel(info.instance) for info in infos))) if infos else {}
    by: Any = await client.register_script(names.script(keys.RUNNING))()
    raw = by[0]
    running = {name.decode(): int(number) for name, number in zip(raw[::2], raw[1::2], strict=True)}
    slots = []
    for info in infos:
        if alive.get(names.alive_channel(info.instance).encode()):
            # A pool that does not say how much it runs at once runs one after the other.
            most = info.concurrency or 1
            # What runs is known by name: of several workers of one name it is the sum that is right.
            here = min(most, running.get(info.name, 0))
            running[info.name] = running.get(info.name, 0) - here
            slots.append(WorkerSlots(info.name, tuple(info.queues), most, here))
    return slots


def _announced(raw: bytes | str) -> keys.WorkerInfo | None:
    """What a worker says of itself; None if no worker can have said it."""
    try:
        return msgspec.json.decode(raw, type=keys.WorkerInfo)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        _log.warning("refused the announcement of a worker: %s", error)
        return None


def free_slots(queues: Iterable[str], workers: Iterable[WorkerSlots]) -> dict[str, int]:
    """How many processes could start now on each queue. One worker may be counted for several of them."""
    workers = list(workers)
    return {queue: sum(worker.free for worker in workers if queue in worker.queues) for queue in queues}


def lacking(needed: Mapping[str, int], workers: Iterable[WorkerSlots]) -> dict[str, int] | None:
    """Queues that together need more than their workers have free, with what each needs; None if there is room.

    A worker that consumes several queues has its slots once.
    """
    workers = [worker for worker in workers if worker.free]
    taken: list[list[str]] = [[] for _ in workers]

    def seat(queue: str, seen: set[int]) -> bool:
        """Give a process of a queue a slot; others move to other workers for it where they can."""
        for index, worker in enumerate(workers):
            if queue in worker.queues and index not in seen:
                seen.add(index)
                if len(taken[index]) < worker.free:
                    taken[index].append(queue)
                    return True
                for place, other in enumerate(taken[index]):
                    if other != queue and seat(other, seen):
                        taken[index][place] = queue
                        return True
        return False

    for queue, number in needed.items():
        for _ in range(number):
            seen: set[int] = set()
            if not seat(queue, seen):
                # All who sit at the workers that this one could get to, one way or another, want the same slots.
                return {name: needed[name] for name in needed if name == queue or _wants(name, workers, seen)}
    return None


def _wants(queue: str, workers: list[WorkerSlots], among: set[int]) -> bool:
    return any(queue in workers[index].queues for index in among)
