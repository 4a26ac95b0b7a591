"""Processes whose worker died: found by their lease, and run again or failed.

Every worker looks after each half lease, and so does a producer while it waits: whoever finds a lease that has run out
deals with it, alone. A message of a dead worker is still among kombu's unacknowledged ones; it goes back to its queue.
"""

from __future__ import annotations

import json
import logging
from typing import Any

import msgspec

from stbass.backends.celery import keys
from stbass.backends.celery.envelope import Envelope, failed_result, seal_result
from stbass.backends.celery.settings import EXECUTE, FleetSettings
from stbass.errors import WorkerLostError

__all__ = ["Sweeper", "worker_lost"]

_log = logging.getLogger(__name__)
_AT_ONCE = 200
_HOLD_MS = 5000
_WHENEVER = 1e18


def worker_lost(deaths: int, worker: str, queue: str, attempt: int) -> WorkerLostError:
    """That a process has lost as many workers as it may."""
    died = f"the worker {worker} (queue {queue!r}) died while it ran the process (attempt {attempt})"
    if deaths > 1:
        died += f"; its worker died {deaths} times: it is likely what kills them"
    return WorkerLostError(died, worker=worker, attempt=attempt)


class Sweeper:
    """Deals with processes whose lease has run out.

    Args:
        settings: of the fleet.
        result_prefix: what Celery puts before a task id to make the key of its result.
    """

    def __init__(self, settings: FleetSettings, result_prefix: bytes) -> None:
        self._settings = settings
        self._prefix = result_prefix
        self._backend = settings.backend.client()
        # Typed as redis-py types its commands: for both its clients at once.
        self._broker: Any = None
        if settings.broker is not None:
            self._broker = self._backend if settings.one_server else settings.broker.client()
            self._restore = self._broker.register_script(keys.RESTORE)
        self._unacked, self._index = (f"{settings.broker_prefix}{name}" for name in settings.unacked)
        self._find = self._backend.register_script(keys.SWEEP)
        self._finish = self._backend.register_script(keys.FINISH)
        self._release = self._backend.register_script(keys.RELEASE)

    def sweep(self) -> int:
        """Deal with all there are now; gives back how many there were.

        Raises:
            redis.RedisError: the server cannot be reached; what was found is found again later.
        """
        dealt = 0
        while found := self._find(args=[_HOLD_MS, _AT_ONCE]):
            for raw_id, is_last, deaths, (tag, queue, worker, attempt, reply, checkpoint) in found:
                task_id, names = raw_id.decode(), (worker.decode(), queue.decode())
                if is_last:
                    self._fail(task_id, deaths, int(attempt), *names, reply.decode(), checkpoint)
                else:
                    self._redeliver(task_id, tag.decode(), *names)
                dealt += 1
            if len(found) < _AT_ONCE:
                break
        if self._broker is not None:
            self._sweep_taken()
        return dealt

    def close(self) -> None:
        """Close the connections."""
        self._backend.close()
        if self._broker is not None:
            self._broker.close()

    def _fail(
        self, task_id: str, deaths: int, attempt: int, worker: str, queue: str, reply: str, checkpoint: bytes
    ) -> None:
        error = worker_lost(deaths, worker, queue, attempt)
        # Its name is known to whoever waits for it.
        lost = Envelope(task_id, queue, "unknown", 0.0)
        result = failed_result(error, lost, worker=worker, attempt=attempt, checkpoint=checkpoint)
        meta = seal_result(task_id, result, self._settings)
        packed = msgspec.msgpack.encode([(task_id, attempt, meta.decode(), reply)])
        self._finish(args=[self._prefix, self._settings.result_ttl, packed])
        _log.warning("process %s: %s", task_id, error)

    def _redeliver(self, task_id: str, tag: str, worker: str, queue: str) -> None:
        """Put the message back where kombu would put it, as kombu would: marked as redelivered, first in the queue."""
        if self._broker is not None:
            raw: Any = self._broker.hget(self._unacked, tag)
            if raw is not None:
                self._put_back(tag, json.loads(raw)[0], queue, _WHENEVER)
        # With another broker, or if kombu was quicker, the message is on its way already.
        self._release(args=[task_id])
        _log.warning("worker %s (queue %r) is lost; its process %s goes to another one", worker, queue, task_id)

    def _put_back(self, tag: str, message: dict[str, Any], queue: str, taken_by: float) -> bool:
        message["headers"]["redelivered"] = True
        message["properties"]["delivery_info"]["redelivered"] = True
        names = [self._unacked, self._index, f"{self._settings.broker_prefix}{queue}"]
        return bool(self._restore(keys=names, args=[tag, taken_by, json.dumps(message)]))

    def _sweep_taken(self) -> None:
        """Put back what was taken by a worker that died before it could claim the process.

        A worker keeps the time of taking up to date for what it runs; what is older than a lease is nobody's, unless
        somebody holds the process's lease all the same. Should it be somebody's who is only slow: a process that comes
        twice is claimed once.
        """
        seconds, _ = self._broker.time()
        bound, offset = seconds - self._settings.lease - 1, 0
        while tags := self._broker.zrange(self._index, "-inf", bound, byscore=True, offset=offset, num=_AT_ONCE):
            found: list[Any] = self._broker.hmget(self._unacked, tags)
            messages = {tag.decode(): _our_message(raw) for tag, raw in zip(tags, found, strict=True)}
            ours = {tag: message for tag, message in messages.items() if message is not None}
            offset += len(tags) - sum(self._settle(tag, message, bound) for tag, message in ours.items())

    def _settle(self, tag: str, message: dict[str, Any], bound: float) -> bool:
        """Whether the message is among the unacknowledged ones no longer."""
        task_id, queue = message["headers"]["id"], message["properties"]["delivery_info"]["routing_key"]
        if self._backend.exists(self._prefix + task_id.encode()):
            pipe = self._broker.pipeline(transaction=True)
            pipe.hdel(self._unacked, tag).zrem(self._index, tag)
            pipe.execute()
            return True
        if self._backend.zscore(keys.LEASES, task_id) is not None:
            return False
        if self._put_back(tag, message, queue, bound):
            _log.warning(
                "process %s (queue %r) was taken by a worker that is lost; it goes to another one", task_id, queue
            )
            return True
        return False


def _our_message(raw: bytes | None) -> dict[str, Any] | None:
    """The message in an entry of kombu's unacknowledged ones, if it asks for a process."""
    if raw is None or EXECUTE.encode() not in raw:
        return None
    try:
        message = json.loads(raw)[0]
        if message["headers"]["task"] != EXECUTE:
            return None
        str(message["headers"]["id"] + message["properties"]["delivery_info"]["routing_key"])
    except (ValueError, KeyError, IndexError, TypeError):
        # Not one of ours then, whoever wrote it; kombu deals with it.
        return None
    found: dict[str, Any] = message
    return found
