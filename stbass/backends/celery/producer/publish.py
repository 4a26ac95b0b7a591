"""Sending processes: all that are submitted in one turn of the event loop go out together."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import msgspec
import redis.asyncio

from stbass._values.ids import new_id
from stbass.backends.celery import keys
from stbass.backends.celery.settings import EXECUTE, FleetSettings
from stbass.backends.celery.worker.task import ENVELOPE_HEADER, SIGNATURE_HEADER

__all__ = ["Message", "Publisher", "routing_in_message"]

_LONGEST = 10**15
"""Milliseconds: a time to live that Redis takes, and that is for ever."""

_encode = msgspec.json.Encoder().encode
_BODY = _encode([[], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]).decode()


def routing_in_message(queue: str) -> bytes:
    """How the routing stands in the messages written here, right before the delivery tag, which is the last member.

    The transport's script knows a message by it and need not parse it.
    """
    info = _encode({"exchange": "", "routing_key": queue})
    return b'"delivery_info":' + info + b',"priority":0,"body_encoding":"utf-8",'


class Message(msgspec.Struct):
    """One process on its way to a queue."""

    task_id: str
    queue: str
    text: str
    signature: str | None
    name: str
    group: str | None
    remaining: float | None
    """Seconds to the deadline when it was submitted."""


class Publisher:
    """Writes messages as Celery and kombu would, but many in one command.

    Args:
        app: the Celery application.
        settings: of the fleet.
        backend: client of the result backend.
        broker: client of the broker; None if the broker is not Redis: then kombu sends, in a thread.
    """

    def __init__(
        self, app: Any, settings: FleetSettings, backend: redis.asyncio.Redis, broker: redis.asyncio.Redis | None
    ) -> None:
        self._app = app
        self._settings = settings
        self._backend = backend
        self._broker = broker
        self._origin = f"{os.getpid()}@{socket.gethostname()}"

    async def send(self, messages: list[Message]) -> None:
        """Send them all; a deadline starts to count before the message can be seen."""
        timed = [message for message in messages if message.remaining is not None]
        if self._broker is None:
            await self._note_deadlines(timed)
            await asyncio.to_thread(self._send_with_kombu, messages)
            return
        queues: dict[str, list[bytes]] = {}
        for message in messages:
            queues.setdefault(message.queue, []).append(self._raw(message))
        if self._broker is not self._backend:
            await self._note_deadlines(timed)
            timed = []
        if not timed and len(queues) == 1:
            [(queue, raws)] = queues.items()
            await self._broker.lpush(f"{self._settings.broker_prefix}{queue}", *raws)
            return
        pipe = self._broker.pipeline(transaction=False)
        _add_deadlines(pipe, timed)
        for queue, raws in queues.items():
            pipe.lpush(f"{self._settings.broker_prefix}{queue}", *raws)
        await pipe.execute()

    async def _note_deadlines(self, timed: list[Message]) -> None:
        if timed:
            pipe = self._backend.pipeline(transaction=False)
            _add_deadlines(pipe, timed)
            await pipe.execute()

    def _headers(self, message: Message) -> dict[str, Any]:
        headers: dict[str, Any] = {
            "lang": "py",
            "task": EXECUTE,
            "id": message.task_id,
            "shadow": message.name,
            "eta": None,
            "expires": None,
            "group": message.group,
            "group_index": None,
            "retries": 0,
            "timelimit": [None, None],
            "root_id": message.task_id,
            "parent_id": None,
            "argsrepr": f"({message.name} @ {message.queue})",
            "kwargsrepr": "{}",
            "origin": self._origin,
            "ignore_result": False,
        }
        return {**headers, **_own_headers(message)}

    def _raw(self, message: Message) -> bytes:
        """The message as kombu's Redis transport keeps it in the list."""
        return _encode(
            {
                "body": _BODY,
                "content-encoding": "utf-8",
                "content-type": "application/json",
                "headers": self._headers(message),
                # The order matters, see routing_in_message.
                "properties": {
                    "correlation_id": message.task_id,
                    "reply_to": "",
                    "delivery_mode": 2,
                    "delivery_info": {"exchange": "", "routing_key": message.queue},
                    "priority": 0,
                    "body_encoding": "utf-8",
                    "delivery_tag": new_id(),
                },
            }
        )

    def _send_with_kombu(self, messages: list[Message]) -> None:
        with self._app.producer_or_acquire() as producer:
            for message in messages:
                self._app.send_task(
                    EXECUTE,
                    task_id=message.task_id,
                    queue=message.queue,
                    producer=producer,
                    headers=_own_headers(message),
                    shadow=message.name,
                    group_id=message.group,
                    serializer="json",
                    argsrepr=f"({message.name} @ {message.queue})",
                    retry=False,
                )


def _own_headers(message: Message) -> dict[str, Any]:
    # In a header and not among the arguments: there it would be text within text within text.
    own: dict[str, Any] = {ENVELOPE_HEADER: message.text}
    if message.signature is not None:
        own[SIGNATURE_HEADER] = message.signature
    return own


def _add_deadlines(pipe: Any, timed: list[Message]) -> None:
    for message in timed:
        assert message.remaining is not None
        left = min(_LONGEST, max(1, round(message.remaining * 1000)))
        pipe.set(keys.deadline_key(message.task_id), message.queue, px=left)
