"""Processes whose worker died: found by their lease, and run again or failed.

Every worker looks after each half lease, and so does a producer while it waits: whoever finds a lease that has run out
deals with it, alone. A message of a dead worker is still among kombu's unacknowledged ones; it goes back to its queue.
"""

from __future__ import annotations

import json
import logging
from typing import Any

import msgspec
import redis

from stbass import wire
from stbass.backends.celery import keys
from stbass.backends.celery.envelope import write_result
from stbass.backends.celery.settings import FleetSettings
from stbass.errors import WorkerLostError
from stbass.result import Failure, ProcessResult, RunInfo

__all__ = ["Sweeper"]

_log = logging.getLogger(__name__)
_AT_ONCE = 200
_HOLD_MS = 5000


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
        self._broker: redis.Redis | None = None
        if settings.broker is not None:
            same = settings.broker.url == settings.backend.url
            self._broker = self._backend if same else settings.broker.client()
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
            for raw_id, (lost, tag, queue, worker, attempt, reply, checkpoint) in found:
                task_id, number = raw_id.decode(), int(attempt)
                names = (worker.decode(), queue.decode())
                if lost == b"fail":
                    self._fail(task_id, number, *names, reply.decode(), checkpoint)
                else:
                    self._redeliver(task_id, tag.decode(), *names)
                dealt += 1
            if len(found) < _AT_ONCE:
                break
        return dealt

    def close(self) -> None:
        """Close the connections."""
        self._backend.close()
        if self._broker is not None:
            self._broker.close()

    def _fail(self, task_id: str, attempt: int, worker: str, queue: str, reply: str, checkpoint: bytes) -> None:
        error = WorkerLostError(
            f"the worker {worker} (queue {queue!r}) died while it ran the process (attempt {attempt})",
            worker=worker,
            attempt=attempt,
        )
        failure = Failure(error, process_id=task_id, checkpoint=wire.loads(checkpoint) if checkpoint else None)
        info = RunInfo(process_id=task_id, worker=worker, attempt=attempt)
        meta = write_result(task_id, ProcessResult(False, None, failure, None, info), self._settings)
        packed = msgspec.msgpack.encode([(task_id, attempt, meta.decode(), reply)])
        self._finish(args=[self._prefix, self._settings.result_ttl, packed])
        _log.warning("%s", error)

    def _redeliver(self, task_id: str, tag: str, worker: str, queue: str) -> None:
        """Put the message back where kombu would put it, as kombu would: marked as redelivered, first in the queue."""
        if self._broker is not None:
            unacked, index = (f"{self._settings.broker_prefix}{name}" for name in self._settings.unacked)
            raw: Any = self._broker.hget(unacked, tag)
            if raw is not None:
                message, _exchange, _routing_key = json.loads(raw)
                message["headers"]["redelivered"] = True
                message["properties"]["delivery_info"]["redelivered"] = True
                pipe = self._broker.pipeline(transaction=True)
                pipe.rpush(f"{self._settings.broker_prefix}{queue}", json.dumps(message))
                pipe.hdel(unacked, tag)
                pipe.zrem(index, tag)
                pipe.execute()
        # With another broker, or if kombu was quicker, the message is on its way already.
        self._release(args=[task_id])
        _log.warning("worker %s (queue %r) is lost; its process %s goes to another one", worker, queue, task_id)
