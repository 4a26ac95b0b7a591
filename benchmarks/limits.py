"""R3: what a limit of an endpoint costs, and how well a rate is kept."""

from __future__ import annotations

import json
from dataclasses import replace

from benchmarks.fleet import Contender, compare, ours, server_url
from benchmarks.harness import Row, median_alternating, rows_of

__all__ = ["r3"]

_RATED = 1000


def _limited(limit: str, subject: str) -> Contender:
    return replace(ours(2, subject), settings={"BENCH_LIMITS": json.dumps({"bench": limit})})


def r3() -> list[Row]:
    """10,000 processes of 0.1 s, 50 at once, on two workers; and 1,000 no-ops at 100 a second."""
    fifty = _limited("50", "stbass, two workers, 50 at once")
    rows = compare("R3", [fifty, ours(1, "one worker of concurrency 50", 50)], "batch", 10_000, 0.1, "total", 1.0, "s")
    rated = _limited("100/s", "stbass, two workers, 100/s")
    with server_url() as url:
        rates = median_alternating({rated.subject: lambda: _RATED / rated.run(url, "batch", _RATED)["total"]})
    return [*rows, *rows_of("R3 rate", rates, "/s", higher_is_better=True)]
