"""What waits for the limit of its endpoint: on the fleet, in line, and not in a worker.

The scripts of :mod:`.keys` keep the line. Here is what they cannot do: to put messages back into queues that are on
another server, and to end what has waited beyond its deadline.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import msgspec
import redis

from stbass._values.limits import Limit
from stbass.backends.celery import keys
from stbass.backends.celery.envelope import Envelope, failed_result, seal_result
from stbass.backends.celery.kombu_sender import KombuSender
from stbass.backends.celery.settings import FleetSettings
from stbass.errors import BackendUnavailableError, DeadlineExceeded

__all__ = ["LimitState", "WaitingLine", "waited_too_long"]

_log = logging.getLogger(__name__)
_pack = msgspec.msgpack.Encoder().encode


class LimitState(msgspec.Struct, frozen=True):
    """The limit of an endpoint, and what it does now.

    Args:
        limit: None: nobody has set one.
        by: who has set it: ``settings`` or ``command``.
        running: how many have a place.
        waiting: how many wait for one.
    """

    limit: Limit | None
    by: str | None
    running: int
    waiting: int


def waited_too_long(name: str, deadline: float, queue: str, reason: str) -> DeadlineExceeded:
    """That the deadline of a process has passed while it was queued."""
    passed = f"process {name!r}: its deadline of {deadline:g} s passed while it was queued for {queue!r}"
    return DeadlineExceeded(f"{passed}: {reason}", deadline=deadline, phase="queued")


class WaitingLine:
    """The line of a fleet, for whoever runs its scripts. It blocks: not for an event loop's thread.

    Args:
        settings: of the fleet.
        result_prefix: what Celery puts before a task id to make the key of its result.
        app: the Celery application; needed if the broker is not Redis.
    """

    def __init__(self, settings: FleetSettings, result_prefix: bytes, app: Any = None) -> None:
        self._settings = settings
        self._prefix = result_prefix
        self._app = app

    @cached_property
    def _backend(self) -> redis.Redis:
        return self._settings.backend.client()

    @cached_property
    def _broker(self) -> redis.Redis | KombuSender:
        broker = self._settings.broker
        return KombuSender(self._app) if broker is None else broker.client()

    def _run(self, script: str, *args: Any) -> Any:
        return self._backend.register_script(self._settings.keys.script(script))(args=args)

    def put_back(self, messages: Sequence[Sequence[bytes]]) -> None:
        """Put messages of processes that waited into their queues, where those are not on the server of the results.

        Args:
            messages: as the scripts give them: of each the process's id, its queue, and the message.
        """
        if not messages:
            return
        try:
            if isinstance(self._broker, KombuSender):
                self._broker.send([_out_message(*message) for message in messages])
            else:
                pipe = self._broker.pipeline(transaction=False)
                for _, queue, message in messages:
                    pipe.rpush(self._settings.broker_prefix.encode() + queue, message)
                pipe.execute()
            self._run(keys.SENT, *(part for process_id, queue, _ in messages for part in (process_id, queue)))
        except (redis.RedisError, OSError, BackendUnavailableError) as error:
            # They are in line again in a moment, at their old places.
            _log.warning("%d messages that waited for a limit cannot be sent: %s", len(messages), error)

    def acknowledge(self, tags: Sequence[str]) -> None:
        """Forget messages that are kept in line now, on a broker that is another Redis than that of the results.

        Raises:
            redis.RedisError: the server cannot be reached, or refuses.
        """
        assert isinstance(self._broker, redis.Redis)
        unacked, index = (f"{self._settings.broker_prefix}{name}" for name in self._settings.unacked)
        pipe = self._broker.pipeline(transaction=True)
        pipe.zrem(index, *tags)
        pipe.hdel(unacked, *tags)
        pipe.execute()

    def leave(self, ids: Iterable[str]) -> None:
        """These are cancelled: they wait in line no longer.

        Raises:
            redis.RedisError: the server cannot be reached, or refuses.
        """
        self.put_back(self._run(keys.LEAVE, *self._settings.beside_results, _pack(list(ids))))

    def finish(self, packed: bytes) -> None:
        """Store results, as FINISH takes them, of what no worker will tell of.

        Raises:
            redis.RedisError: the server cannot be reached, or refuses.
        """
        _, sent, _ = self._run(
            keys.FINISH, self._prefix, self._settings.result_ttl, packed, *self._settings.beside_results
        )
        self.put_back(sent)

    def overdue(self, late: Iterable[Sequence[Any]]) -> bytes | None:
        """What FINISH takes to end those that have waited beyond their deadline; None if there are none.

        Args:
            late: as the scripts give them.
        """
        packed = []
        for *texts, places, kept in late:
            process_id, queue, reply, name, deadline, run = (text.decode("utf-8", "replace") for text in texts)
            if not reply.startswith(self._settings.keys.replies):
                reply = ""
            limit = Limit.read(kept) or Limit()
            error = waited_too_long(name, float(deadline), queue, limit.used_up(places))
            result = failed_result(error, Envelope(process_id, queue, name, 0.0))
            meta = seal_result(process_id, result, self._settings)
            packed.append((process_id, 0, meta.decode(), reply, "", "", queue, *([run] if run else [])))
        return _pack(packed) if packed else None

    def limit(self, queue: str, limit: Limit | None = None, by: str = "command") -> LimitState:
        """The limit of a queue, after it was set if one is given; but for one of the settings over one of a command.

        Raises:
            redis.RedisError: the server cannot be reached, or refuses.
        """
        text = "" if limit is None else limit.kept(by)
        kept, running, waiting, sent = self._run(
            keys.LIMIT, *self._settings.beside_results, queue, text, int(by == "settings")
        )
        self.put_back(sent)
        if kept is None:
            return LimitState(None, None, running, waiting)
        return LimitState(Limit.read(kept), kept.decode().rpartition(",")[2], running, waiting)

    def close(self) -> None:
        """Close the connections."""
        for name in ("_backend", "_broker"):
            if isinstance(client := self.__dict__.get(name), redis.Redis):
                client.close()


def _out_message(process_id: bytes, queue: bytes, message: bytes) -> tuple[str, str, str, dict[str, Any]]:
    found = msgspec.json.decode(message)
    return process_id.decode(), queue.decode(), found["body"], found["headers"]
