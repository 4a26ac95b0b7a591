"""Processes that the fleet knows nothing of any more: nobody works on them, and their messages are in no queue."""

from __future__ import annotations

from typing import Any

import msgspec
import redis.asyncio

from stbass.backends.celery import keys
from stbass.backends.celery.envelope import delivery_tag
from stbass.backends.celery.producer.ticket import Ticket
from stbass.backends.celery.settings import FleetSettings

__all__ = ["find_missing"]

_AT_ONCE = 1000
_LONGEST_QUEUE = 10_000
"""Messages that are looked through to find one. In a longer queue everything counts as found."""


async def find_missing(
    client: redis.asyncio.Redis,
    broker: redis.asyncio.Redis | None,
    settings: FleetSettings,
    prefix: str,
    tickets: list[Ticket],
) -> list[Ticket]:
    """Those that are nowhere at this moment: for one moment it may be that a message is on its way.

    Args:
        client: of the results.
        broker: client of the broker; None if it is not Redis: then only what has been started can be missing.
        settings: of the fleet.
        prefix: of the keys of results.
        tickets: that have been sent.

    Raises:
        redis.RedisError: the server cannot be reached, or refuses.
        OSError: the server cannot be reached.
    """
    idle = await _idle(client, settings, prefix, tickets)
    if broker is None:
        return [ticket for ticket, has_record in idle if ticket.started_at is not None and not has_record]
    by_queue: dict[str, list[Ticket]] = {}
    for ticket, _ in idle:
        by_queue.setdefault(ticket.envelope.queue, []).append(ticket)
    nowhere: list[Ticket] = []
    for queue, its in by_queue.items():
        nowhere += await _not_queued(broker, settings, queue, its)
    # What was taken from its queue meanwhile has been claimed.
    return [ticket for ticket, _ in await _idle(client, settings, prefix, nowhere)]


async def _idle(
    client: redis.asyncio.Redis, settings: FleetSettings, prefix: str, tickets: list[Ticket]
) -> list[tuple[Ticket, bool]]:
    """Those that nobody works on and that have no result, and whether they have a record."""
    script = client.register_script(settings.keys.script(keys.KNOWN))
    idle = []
    for start in range(0, len(tickets), _AT_ONCE):
        some = tickets[start : start + _AT_ONCE]
        known: Any = await script(args=[prefix, msgspec.msgpack.encode([ticket.id for ticket in some])])
        idle += [(ticket, state == 1) for ticket, state in zip(some, known, strict=True) if state]
    return idle


async def _not_queued(
    broker: redis.asyncio.Redis, settings: FleetSettings, queue: str, tickets: list[Ticket]
) -> list[Ticket]:
    by_tag = {delivery_tag(ticket.id): ticket for ticket in tickets}
    names = [f"{settings.broker_prefix}{name}" for name in (settings.unacked[0], queue)]
    nowhere: Any = await broker.register_script(keys.NOWHERE)(
        keys=names, args=[_LONGEST_QUEUE, msgspec.msgpack.encode(list(by_tag))]
    )
    return [by_tag[tag.decode()] for tag in nowhere]
