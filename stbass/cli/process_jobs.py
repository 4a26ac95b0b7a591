"""``stbass process jobs``: the jobs that a state backend keeps, listed and deleted."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from stbass.cli.exits import Exit, complain
from stbass.cli.process import state_part
from stbass.dataflow.spec.lookup import find
from stbass.dataflow.state._records import check_job_id
from stbass.dataflow.state.base import JobSummary, StateBackend
from stbass.errors import ConfigurationError, JobInUseError, NotFoundError

__all__ = ["list_jobs"]

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def list_jobs(state: str, job_ids: Sequence[str], older_than: str | None, delete: bool, as_json: bool) -> int:
    """List the jobs, or delete those that have ended or are named; gives back the exit code.

    Raises:
        ConfigurationError: the state, a job id or the time is none.
        StateError: the store cannot be used.
    """
    part = state_part(state)
    backend: StateBackend = find(part.type)(**part.args)
    before = None if older_than is None else datetime.now(UTC) - _time(older_than)
    return asyncio.run(_list(backend, [check_job_id(one) for one in job_ids], before, delete, as_json))


async def _list(
    backend: StateBackend, job_ids: Sequence[str], before: datetime | None, delete: bool, as_json: bool
) -> int:
    found = [job for job in await backend.jobs() if before is None or datetime.fromisoformat(job.created_at) < before]
    if job_ids:
        found = [job for job in found if job.job_id in job_ids]
    elif delete:
        found = [job for job in found if job.status.is_terminal]
    missing = set(job_ids) - {job.job_id for job in found}
    problems = [f"there is no {job_id}" + (" as old as that" if before else "") for job_id in sorted(missing)]
    done: list[JobSummary] = []
    for job in found:
        try:
            if delete:
                await backend.delete_job(job.job_id)
        except NotFoundError:
            continue  # somebody else has deleted it meanwhile
        except JobInUseError as error:
            problems.append(str(error))
        else:
            done.append(job)
    if as_json:
        jobs = [{"job_id": job.job_id, "created_at": job.created_at, "status": str(job.status)} for job in done]
        sys.stdout.write(json.dumps({"deleted" if delete else "jobs": jobs, "errors": problems}) + "\n")
    else:
        for job in done:
            sys.stdout.write(f"{'deleted ' if delete else ''}{job.job_id}  {job.created_at}  {job.status}\n")
        for text in problems:
            complain(f"stbass: {text}")
    return Exit.FAILED if problems else Exit.OK


def _time(text: str) -> timedelta:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    try:
        if found is not None:
            return timedelta(**{_UNITS[found[2]]: float(found[1])})
    except OverflowError:
        pass
    raise ConfigurationError(f"--older-than {text!r}: write a number with s, m, h, d or w, such as 12h or 30d")
