"""Admission: does the fleet have room for all groups of a process at once?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from stbass.backends.celery.producer.overdue import nobody_consumes
from stbass.backends.celery.producer.slots import WorkerSlots, free_slots, lacking
from stbass.errors import AdmissionError

__all__ = ["check_room", "not_admitted"]


def check_room(process: str, endpoints: Iterable[str], workers: Sequence[WorkerSlots]) -> None:
    """Look whether there is room for a group at each of these endpoints, now.

    Raises:
        AdmissionError: there is not; says where, how many are needed and how many are free.
    """
    needed = dict(Counter(endpoints))
    short = lacking(needed, workers)
    if short is not None:
        free = free_slots(needed, workers)
        raise _error(process, needed, free, workers, _reasons(short, free, workers))


def not_admitted(
    process: str, admitted: Iterable[str], waiting: Mapping[str, str], seconds: float, workers: Sequence[WorkerSlots]
) -> AdmissionError:
    """The error for groups that were sent and have not all been taken in time.

    Args:
        process: its name.
        admitted: the endpoints of those that run.
        waiting: those that do not, with their endpoints.
        seconds: how long they had.
        workers: how it looks now, with those that run.
    """
    held = Counter(admitted)
    needed = dict(held + Counter(waiting.values()))
    # Those that run will be withdrawn: to anybody who asks, their slots are as good as free.
    free = {endpoint: number + held[endpoint] for endpoint, number in free_slots(needed, workers).items()}
    names = ", ".join(map(repr, waiting))
    reason = f"After {seconds:g} s no worker had taken {'groups' if len(waiting) > 1 else 'group'} {names}"
    return _error(process, needed, free, workers, [reason])


def _reasons(short: Mapping[str, int], free: Mapping[str, int], workers: Sequence[WorkerSlots]) -> list[str]:
    alone = [queue for queue, number in short.items() if number > free[queue]]
    if alone or len(short) < 2:
        return []
    together = sum(worker.free for worker in workers if any(queue in worker.queues for queue in short))
    return [f"Endpoints {', '.join(map(repr, short))} have the same workers, with {together} free together"]


def _error(
    process: str,
    needed: Mapping[str, int],
    free: Mapping[str, int],
    workers: Sequence[WorkerSlots],
    reasons: Sequence[str],
) -> AdmissionError:
    counts = "; ".join(f"{endpoint!r}: {number} needed, {free[endpoint]} free" for endpoint, number in needed.items())
    consumed = sorted({queue for worker in workers for queue in worker.queues})
    nobody = [nobody_consumes(endpoint, consumed) for endpoint in needed if endpoint not in consumed]
    remedy = [] if nobody else ["Start more workers there, or let them run more at once (-c)"]
    text = ". ".join([counts, *reasons, *(one[0].upper() + one[1:] for one in nobody), *remedy])
    return AdmissionError(
        f"process {process!r} needs a slot for each of its groups at the same time. {text}",
        needed=dict(needed),
        free=dict(free),
    )
