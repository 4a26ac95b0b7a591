"""A list of plain functions: first in order, then at the same time; then one with failures that are kept.

Run it with ``python examples/tasklist_report.py``; it needs nothing but stbass.
"""

from __future__ import annotations

import asyncio
import time

from stbass import FailurePolicy
from stbass.tasklist import Process

SALES = {"north": [12, 7, 31], "south": [4, 9], "east": []}
loaded: dict[str, list[int]] = {}


def load() -> int:
    """Load the figures; the tasks after it need them."""
    loaded.update(SALES)
    return len(loaded)


def check(least: int) -> str:
    """Check that there are enough of them."""
    if len(loaded) < least:
        raise ValueError(f"only {len(loaded)} regions")
    return "complete"


def mean(region: str) -> float:
    """The mean of a region's sales, slowly."""
    time.sleep(0.1)
    return round(sum(loaded[region]) / len(loaded[region]), 1)


async def post(text: str) -> str:
    """Tell somebody: a coroutine function is a task too."""
    await asyncio.sleep(0.1)
    return f"posted: {text}"


def main() -> None:
    """Two lists."""
    report = Process("report", strategy="hybrid")
    report.add_task(load)
    report.add_task(check, least=3)
    report.add_task(mean, "north")
    report.add_task(mean, "south")
    report.add_task(post, "the report is on its way")
    started = time.perf_counter()
    print(report.status)
    print(report.execute())
    print(f"{report.status}, three tasks of 0.1 s in less than 0.3 s: {time.perf_counter() - started < 0.3}")

    means = Process("means", "parallel", max_workers=2, on_failure=FailurePolicy.COLLECT)
    for region in SALES:
        means.add_step(mean, region)
    for region, result in zip(SALES, means.execute(), strict=True):
        print(f"{region}: {result.value if result.is_ok else result.failure.summary}")


if __name__ == "__main__":
    main()
