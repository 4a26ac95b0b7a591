"""The conformance checks of the Transport contract.

Any implementation runs them with one call, and without pytest::

    asyncio.run(check_transport(lambda: MyTransport(url)))
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection
from contextlib import AsyncExitStack

from stbass.testing import _transport_checks  # noqa: F401 - importing it adds its checks
from stbass.testing._checks import require, run_checks
from stbass.testing._transport_bench import TRANSPORT_CHECKS, Make, TransportBench, TransportCheck

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
    await run_checks(
        TRANSPORT_CHECKS, only, lambda check: _run_check(make, check, random.Random(seed), rounds, seconds)
    )


async def _run_check(make: Make, check: TransportCheck, rng: random.Random, rounds: int, seconds: float) -> None:
    before = asyncio.all_tasks()
    async with asyncio.timeout(seconds), AsyncExitStack() as stack:
        bench = TransportBench(make, rng, rounds, stack)
        stack.push_async_callback(bench.stop)
        await bench.start()
        await check(bench)
        await bench.stop()
    left = {task for task in asyncio.all_tasks() - before if not task.done()}
    require(not left, f"tasks are left after aclose(): {left}")
