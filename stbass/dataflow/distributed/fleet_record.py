"""The record in Redis of the groups of a durable job, so that the run that resumes the job ends them first.

``stbass:flow:<job id>``
    string (JSON): the groups' process ids and channels; the producer, before it sends the groups, and again by the
    next one; deleted when the groups have ended; ``RUN_TTL``.

A producer that was killed leaves groups behind for a while: they end by themselves, but not at once. The next run must
not begin while one of them may still write somewhere. So it takes their channels away, withdraws them, and waits until
each has ended or its lease has.
"""

from __future__ import annotations

import msgspec

from stbass.backends.celery import CeleryBackend, keys
from stbass.errors import JobInUseError, StateError

__all__ = ["Record", "end_former", "flow_key", "forget", "keep"]


class Record(msgspec.Struct):
    """The groups of one run."""

    groups: list[tuple[str, str, str]]
    """Of each: process id, name, queue."""
    channels: list[str]
    lease: float
    keys: list[str] = []
    """What else is left of it in Redis."""


def flow_key(backend: CeleryBackend, job_id: str) -> str:
    """Key of what is known of a job's groups; under the fleet's prefix."""
    return backend.settings.keys.key(f"flow:{job_id}")


async def keep(backend: CeleryBackend, job_id: str, record: Record) -> None:
    """Note the groups of a run that is about to begin."""
    await backend.client().redis.set(flow_key(backend, job_id), msgspec.json.encode(record), ex=keys.RUN_TTL)


async def forget(backend: CeleryBackend, job_id: str) -> None:
    """The groups have ended."""
    await backend.client().redis.delete(flow_key(backend, job_id))


async def end_former(backend: CeleryBackend, job_id: str) -> None:
    """End the groups of an earlier run of the job, if there are any, and wait until they have ended.

    Raises:
        JobInUseError: one does not end, although its producer is gone and it was told to.
        StateError: what Redis holds about them cannot be read.
    """
    redis = backend.client().redis
    raw = await redis.get(flow_key(backend, job_id))
    if raw is None:
        return
    try:
        record = msgspec.json.decode(raw, type=Record)
    except msgspec.DecodeError as error:
        raise StateError(
            f"what {flow_key(backend, job_id)} in Redis says of the groups of {job_id} cannot be read: {error}"
        ) from error
    await backend.transport().purge(record.channels)
    patience = 2 * record.lease + 1.0
    running = await backend.end_others(record.groups, lease=record.lease, patience=patience)
    if running:
        name, worker = running[0]
        raise JobInUseError(
            f"{job_id} cannot go on yet: {name} of the run before still runs on {worker}, although it was told to end "
            f"{patience:g} s ago; a step that does not let others run may hold it up",
            job_id=job_id,
            holder=worker,
        )
    await redis.delete(flow_key(backend, job_id), *record.keys)
