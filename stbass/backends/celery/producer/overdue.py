"""What to say of a process that has not answered when its time was over."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import redis.asyncio

from stbass._values.limits import Limit
from stbass._values.nearest import did_you_mean
from stbass.backends.celery.keys import FleetKeys
from stbass.backends.celery.line import waited_too_long
from stbass.backends.celery.producer.slots import consumed_queues, consumers
from stbass.backends.celery.producer.ticket import Ticket
from stbass.errors import DeadlineExceeded, NotConsumedError, StbassError, WorkerLostError

__all__ = ["KnownState", "look_up", "nobody_consumes", "overdue_error"]

_MOST_NAMED = 10


@dataclass(frozen=True, slots=True)
class KnownState:
    """What Redis knows of a process."""

    meta: bytes | None = None
    worker: str | None = None
    attempt: int = 1
    checkpoint: bytes | None = None
    leased: bool = False
    consumed: Sequence[str] | None = None
    """The queues that have workers, if its own has none."""
    limited: str | None = None
    """The limit that it waited for, if it did."""
    unknown: str | None = None
    """Why Redis could not be asked, if it could not."""


async def look_up(
    client: redis.asyncio.Redis, names: FleetKeys, prefix: str, tickets: list[Ticket]
) -> list[KnownState]:
    """Ask Redis about processes whose deadline is over. From here on none of them can start any more."""
    queues = sorted({ticket.envelope.queue for ticket in tickets})
    pipe = client.pipeline(transaction=True)
    pipe.time()
    for ticket in tickets:
        # A claim needs this key, so one that comes now is too late.
        pipe.delete(names.deadline(ticket.id))
        pipe.get(prefix + ticket.id)
        pipe.hmget(names.run(ticket.id), ["worker", "attempt", "checkpoint"])
        pipe.zscore(names.leases, ticket.id)
        pipe.hexists(names.parked, ticket.id)
        pipe.hget(names.limits, ticket.envelope.queue)
        pipe.zcard(names.places(ticket.envelope.queue))
    (seconds, micros), *rows = await pipe.execute()
    now = seconds * 1000 + micros // 1000
    lonely = {queue for queue in queues if not await consumers(client, names, queue)}
    consumed = await consumed_queues(client, names) if lonely else None
    states = []
    for index, ticket in enumerate(tickets):
        _, meta, (worker, attempt, checkpoint), lease, parked, kept, places = rows[index * 7 : index * 7 + 7]
        states.append(
            KnownState(
                meta,
                None if worker is None else worker.decode("utf-8", "backslashreplace"),
                int(attempt) if attempt is not None and attempt.isdigit() and len(attempt) < 10 else 1,
                checkpoint,
                lease is not None and lease > now,
                consumed if ticket.envelope.queue in lonely else None,
                (Limit.read(kept or b"") or Limit()).used_up(places) if parked else None,
            )
        )
    return states


def nobody_consumes(queue: str, consumed: Iterable[str]) -> str:
    """That a queue has no worker, which ones have, and how to start one."""
    consumed = list(consumed)
    others = ", ".join(consumed[:_MOST_NAMED]) + (", …" if len(consumed) > _MOST_NAMED else "")
    there = f"; there are workers for {others}" if consumed else ""
    command = f"stbass worker -e {shlex.quote(queue)}"
    return f"no worker consumes the queue {queue!r}{did_you_mean(queue, consumed)}{there}; start one: {command}"


def overdue_error(ticket: Ticket, state: KnownState) -> StbassError:
    """The error of a process that has not answered, by what is known of it."""
    deadline = ticket.envelope.deadline or 0.0
    passed = f"process {ticket.envelope.name!r}: its deadline of {deadline:g} s passed"
    if state.unknown is not None:
        where = f"while it ran on {ticket.worker}" if ticket.worker else "and nothing is known of it"
        return DeadlineExceeded(
            f"{passed} {where}; Redis could not be asked ({state.unknown})",
            deadline=deadline,
            phase="running" if ticket.worker else "queued",
            worker=ticket.worker,
        )
    if ticket.worker is None:
        if state.consumed is not None:
            return NotConsumedError(
                f"{passed} while it was queued: {nobody_consumes(ticket.envelope.queue, state.consumed)}",
                deadline=deadline,
                phase="queued",
                queue=ticket.envelope.queue,
            )
        reason = state.limited or "its workers were busy"
        return waited_too_long(ticket.envelope.name, deadline, ticket.envelope.queue, reason)
    if not state.leased:
        return WorkerLostError(
            f"{passed}, and its worker {ticket.worker} is lost (attempt {ticket.attempt})",
            worker=ticket.worker,
            attempt=ticket.attempt,
        )
    return DeadlineExceeded(
        f"{passed} while it ran on {ticket.worker}, which has not answered within {ticket.grace:g} s more",
        deadline=deadline,
        phase="running",
        worker=ticket.worker,
    )
