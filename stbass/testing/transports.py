"""What every transport has to do: the conformance checks of the Transport contract.

Any implementation runs them with one call, and without pytest::

    asyncio.run(check_transport(lambda: MyTransport(url)))
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection
from contextlib import AsyncExitStack

from stbass.testing import _choice_checks, _transport_checks  # noqa: F401 - importing them adds their checks
from stbass.testing._transport_bench import TRANSPORT_CHECKS, Bench, Check, Make, require

__all__ = ["TRANSPORT_CHECKS", "check_transport"]


async def check_transport(
    make: Make,
    *,
    only: Collection[str] | None = None,
    seed: int = 1,
    rounds: int = 200,
    seconds: float = 20.0,
) -> None:
    """Run the checks on what ``make()`` gives, each on instances of its own.

    Args:
        make: gives a new transport, which is closed with ``aclose``; or an awaitable of one, or an async context
            manager. Instances must reach each other's channels, unless ``Link.share`` raises ``NotTransportable``.
        only: names of checks, as in :data:`TRANSPORT_CHECKS`; all if None.
        seed: of the random cancellations.
        rounds: how many values go through each check that counts.
        seconds: how long one check may take.

    Raises:
        ExceptionGroup: an ``AssertionError`` per check that failed, with the name of the check, and its cause.
        ValueError: there is no check of that name.
    """
    names = list(TRANSPORT_CHECKS) if only is None else list(only)
    unknown = [name for name in names if name not in TRANSPORT_CHECKS]
    if unknown:
        raise ValueError(f"no such check: {', '.join(unknown)}; there are {', '.join(TRANSPORT_CHECKS)}")
    failures: dict[str, Exception] = {}
    for name in names:
        try:
            await _run(make, TRANSPORT_CHECKS[name], random.Random(seed), rounds, seconds)
        except Exception as error:
            failures[name] = AssertionError(f"{name}: {type(error).__name__}: {error}")
            failures[name].__cause__ = error
    if failures:
        which = ", ".join(failures)
        raise ExceptionGroup(f"{len(failures)} of {len(names)} checks failed: {which}", [*failures.values()])


async def _run(make: Make, check: Check, rng: random.Random, rounds: int, seconds: float) -> None:
    before = asyncio.all_tasks()
    async with asyncio.timeout(seconds), AsyncExitStack() as stack:
        bench = Bench(make, rng, rounds, stack)
        stack.push_async_callback(bench.stop)
        await bench.start()
        await check(bench)
        await bench.stop()
    left = {task for task in asyncio.all_tasks() - before if not task.done()}
    require(not left, f"tasks are left after aclose(): {left}")
