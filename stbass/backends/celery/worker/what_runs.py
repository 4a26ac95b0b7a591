"""What runs on a worker and what has failed there, for whoever looks at the fleet."""

from __future__ import annotations

import time
from collections import Counter
from heapq import nlargest

import msgspec

from stbass._process.context import ProcessContext, age_of, progress_of
from stbass._values.texts import plain_text, short_text, shortened
from stbass.backends.celery import keys
from stbass.backends.celery.worker.runtime import Job, Runtime

__all__ = ["tell_what_runs"]

_LONGEST = 500


def tell_what_runs(runtime: Runtime, answer: keys.WorkerAnswer) -> None:
    """Put into the answer how many run, which have run longest, and which have failed last. From any thread."""
    jobs = runtime.running_jobs
    answer.running = dict(Counter(job.envelope.queue for job in jobs))
    begun = [(job, job.ctx) for job in jobs if job.ctx is not None]
    longest = nlargest(keys.MOST_TOLD, begun, key=lambda pair: age_of(pair[1]))
    answer.oldest = [_told(job, ctx) for job, ctx in longest]
    now = time.monotonic()
    failed = [msgspec.structs.replace(one, ago=round(now - at, 1)) for at, one in list(runtime.failed)]
    answer.failed = failed[::-1]


def _told(job: Job, ctx: ProcessContext) -> keys.RunningProcess:
    envelope, left, checkpoint = job.envelope, ctx.remaining, ctx.last_checkpoint
    name, queue, run = (shortened(plain_text(one), _LONGEST) for one in (job.name, envelope.queue, envelope.follow))
    return keys.RunningProcess(
        job.id,
        name,
        queue,
        ctx.attempt,
        round(age_of(ctx), 1),
        None if left is None else round(left, 1),
        shortened(progress_of(ctx), _LONGEST),
        "" if checkpoint is None else short_text(checkpoint),
        run,
        bool(run) and envelope.inside is None,
    )
