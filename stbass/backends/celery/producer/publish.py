"""Sending processes: all that are submitted in one turn of the event loop go out together."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

import msgspec
import redis.asyncio

from stbass._process.sync_threads import shared_threads
from stbass.backends.celery import keys
from stbass.backends.celery.envelope import delivery_tag, message_in_queue
from stbass.backends.celery.incoming import EMPTY_BODY
from stbass.backends.celery.kombu_sender import KombuSender, OutMessage
from stbass.backends.celery.producer.ticket import Ticket
from stbass.backends.celery.settings import EXECUTE, FleetSettings
from stbass.transports.redis.script_call import ScriptCall

__all__ = ["Publisher"]

_LONGEST = 10**15
"""Milliseconds: a time to live that Redis takes, and that is for ever."""

_encode = msgspec.json.Encoder().encode
_EMBEDDED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
_HEADERS_MOST = 64 * 1024


class Publisher:
    """Writes messages as Celery and kombu would, but many in one command.

    Args:
        settings: of the fleet.
        backend: client of the result backend.
        broker: client of the broker; a sender if the broker is not Redis.
    """

    def __init__(
        self, settings: FleetSettings, backend: redis.asyncio.Redis, broker: redis.asyncio.Redis | KombuSender
    ) -> None:
        self._settings = settings
        self._backend = backend
        self._broker = broker
        self._give: ScriptCall | None = None
        """Sends one message, if queues and results are on one server."""
        if settings.one_server and not isinstance(broker, KombuSender):
            self._give = ScriptCall(broker, settings.keys.script(keys.GIVE))
        self._origin = f"{os.getpid()}@{socket.gethostname()}"

    async def send(self, tickets: list[Ticket]) -> None:
        """Send them all; their deadlines, too, if those are noted on the same server."""
        if isinstance(self._broker, KombuSender):
            await shared_threads().call_plain(self._broker.send, [self._elsewhere(ticket) for ticket in tickets])
            return
        if self._give is not None and len(tickets) == 1:
            await self._give(self._given(tickets[0]))
            return
        queues: dict[str, list[bytes]] = {}
        for ticket in tickets:
            queues.setdefault(ticket.envelope.queue, []).append(self.message(ticket))
        timed = _timed(tickets) if self._broker is self._backend else []
        if not timed and len(queues) == 1:
            [(queue, raws)] = queues.items()
            await self._broker.lpush(f"{self._settings.broker_prefix}{queue}", *raws)
            return
        pipe = self._broker.pipeline(transaction=False)
        _add_deadlines(pipe, self._settings.keys, timed)
        for queue, raws in queues.items():
            pipe.lpush(f"{self._settings.broker_prefix}{queue}", *raws)
        await pipe.execute()

    def _given(self, ticket: Ticket) -> list[str | bytes]:
        names, queue = self._settings.keys, ticket.envelope.queue
        unacked, index, prefix = self._settings.beside_results
        to_whom = [f"{prefix}{queue}", queue, names.given_channel(""), unacked, index]
        deadline = [] if ticket.remaining is None else [names.deadline(ticket.id), str(_milliseconds(ticket))]
        return [*to_whom, delivery_tag(ticket.id), self.message(ticket), *deadline]

    async def note_deadlines(self, tickets: list[Ticket]) -> None:
        """Let their deadlines count, before the messages can be seen, if that does not go with sending them."""
        timed = _timed(tickets)
        if timed and self._broker is not self._backend:
            pipe = self._backend.pipeline(transaction=False)
            _add_deadlines(pipe, self._settings.keys, timed)
            await pipe.execute()

    def _headers(self, ticket: Ticket) -> dict[str, Any]:
        envelope = ticket.envelope
        return {
            "lang": "py",
            "task": EXECUTE,
            "id": envelope.id,
            "shadow": envelope.name,
            "eta": None,
            "expires": None,
            "group": ticket.group,
            "group_index": None,
            "retries": 0,
            "timelimit": [None, None],
            "root_id": envelope.id,
            "parent_id": None,
            "argsrepr": _for_people(ticket),
            "kwargsrepr": "{}",
            "origin": self._origin,
            "ignore_result": False,
            # For people only: nothing is reckoned with the clock of a producer.
            "stbass_sent": round(time.time(), 3),
            **ticket.headers,
        }

    def message(self, ticket: Ticket) -> bytes:
        """The message as kombu's Redis transport keeps it in the list."""
        return message_in_queue(ticket.id, ticket.envelope.queue, EMPTY_BODY, self._headers(ticket))

    def _elsewhere(self, ticket: Ticket) -> OutMessage:
        """The message for a broker that is not Redis: its headers may be bounded, as RabbitMQ's are to 128 KiB."""
        headers, body = self._headers(ticket), EMPTY_BODY
        if sum(map(len, ticket.headers.values())) > _HEADERS_MOST:
            headers = {name: value for name, value in headers.items() if name not in ticket.headers}
            body = _encode([[], ticket.headers, _EMBEDDED]).decode()
        return ticket.id, ticket.envelope.queue, body, headers


def _timed(tickets: list[Ticket]) -> list[Ticket]:
    return [ticket for ticket in tickets if ticket.remaining is not None]


def _for_people(ticket: Ticket) -> str:
    return f"({ticket.envelope.name} @ {ticket.envelope.queue})"


def _add_deadlines(pipe: Any, names: keys.FleetKeys, timed: list[Ticket]) -> None:
    for ticket in timed:
        pipe.set(names.deadline(ticket.id), ticket.envelope.queue, px=_milliseconds(ticket))


def _milliseconds(ticket: Ticket) -> int:
    assert ticket.left is not None
    return min(_LONGEST, max(1, round(ticket.left * 1000)))
