"""What a job that lasts leaves in Redis of its groups, so that the run that goes on with it ends them first.

``stbass:flow:<job id>``
    string (JSON): the groups' process ids and channels; the producer, before it sends the groups, and again by the
    next one; deleted when the groups have ended; ``RUN_TTL``.

A producer that was killed leaves groups behind for a while: they end by themselves, but not at once. The next run must
not begin while one of them may still write somewhere. So it takes their channels away, withdraws them, and waits until
each has ended or its lease has.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from stbass.backends.celery import keys
from stbass.backends.celery.envelope import Envelope
from stbass.backends.celery.producer.client import FleetClient
from stbass.backends.celery.producer.ticket import Ticket
from stbass.errors import JobInUseError, StateError, WorkerLostError
from stbass.transports.redis import RedisTransport

__all__ = ["Record", "end_former", "flow_key", "forget", "keep"]


class Record(msgspec.Struct):
    """The groups of one run."""

    groups: list[tuple[str, str, str]]
    """Of each: process id, name, queue."""
    channels: list[str]
    lease: float
    keys: list[str] = []
    """What else is left of it in Redis."""


def flow_key(job_id: str) -> str:
    """Key of what is known of a job's groups."""
    return f"stbass:flow:{job_id}"


async def keep(client: FleetClient, job_id: str, record: Record) -> None:
    """Note the groups of a run that is about to begin."""
    await client.redis.set(flow_key(job_id), msgspec.json.encode(record), ex=keys.RUN_TTL)


async def forget(client: FleetClient, job_id: str) -> None:
    """The groups have ended."""
    await client.redis.delete(flow_key(job_id))


async def end_former(client: FleetClient, transport: RedisTransport, job_id: str) -> None:
    """End the groups of an earlier run of the job, if there are any, and wait until they have ended.

    Raises:
        JobInUseError: one does not end, although its producer is gone and it was told to.
        StateError: what Redis holds about them cannot be read.
    """
    raw = await client.redis.get(flow_key(job_id))
    if raw is None:
        return
    try:
        record = msgspec.json.decode(raw, type=Record)
    except msgspec.DecodeError as error:
        raise StateError(
            f"what {flow_key(job_id)} in Redis says of the groups of {job_id} cannot be read: {error}"
        ) from error
    await transport.purge(record.channels)
    await client.withdraw([process_id for process_id, _, _ in record.groups])
    running = [group for group in record.groups if await client.redis.exists(keys.run_key(group[0]))]
    await _ended(client, job_id, running, record.lease)
    await client.redis.delete(flow_key(job_id), *record.keys)


async def _ended(client: FleetClient, job_id: str, groups: Sequence[tuple[str, str, str]], lease: float) -> None:
    span = 2 * lease + 1.0
    tickets = [
        Ticket(Envelope(process_id, queue, name, lease, deadline=span), grace=1.0, remaining=span)
        for process_id, name, queue in groups
    ]
    for ticket, result in zip(tickets, await client.adopt(tickets), strict=True):
        if not await client.redis.exists(keys.run_key(ticket.id)):
            continue
        error = None if result.is_ok else result.failure.error
        if not isinstance(error, WorkerLostError):
            raise JobInUseError(
                f"{job_id} cannot go on yet: {ticket.envelope.name} of the run before still runs on {ticket.worker}, "
                f"although it was told to end {span:g} s ago; a step that does not let others run may hold it up",
                job_id=job_id,
                holder=ticket.worker,
            )
