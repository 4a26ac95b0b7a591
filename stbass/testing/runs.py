"""The conformance checks of runs: the same calls mean the same wherever a run is kept.

Any backend runs them with one call, and without pytest::

    asyncio.run(check_runs(lambda: MyBackend(...)))

A backend that sends processes away needs workers that know :mod:`stbass.testing.backend_agents`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from stbass._values.endpoint import Placement
from stbass.testing._backend_bench import BackendBench, BackendCheck, Make
from stbass.testing._checks import run_checks
from stbass.testing._run_checks import RUN_CHECKS

__all__ = ["RUN_CHECKS", "check_runs"]


async def check_runs(
    make: Make,
    *,
    only: Collection[str] | None = None,
    placement: Placement | None = None,
    host: str = "127.0.0.1",
    seconds: float = 60.0,
) -> None:
    """Run the checks on what ``make()`` gives, each on a backend of its own.

    Args:
        make: gives a new backend; or an awaitable of one, or an async context manager.
        only: names of checks, as in :data:`RUN_CHECKS`; all if None.
        placement: what the backend is registered for; ``Placement(endpoint="check")`` if None.
        host: the address of this machine by which processes there reach it.
        seconds: how long one check may take.

    Raises:
        ExceptionGroup: an ``AssertionError`` per check that failed, with the name of the check, and its cause.
        ValueError: there is no check of that name.
    """
    where = Placement(endpoint="check") if placement is None else placement

    async def run(check: BackendCheck) -> None:
        async with asyncio.timeout(seconds), BackendBench(make, where, host) as bench:
            await check(bench)

    await run_checks(RUN_CHECKS, only, run)
