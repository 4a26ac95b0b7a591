"""O: what it costs to look. Processor time of the producer and its workers with tracing, beside the same without.

Ours with tracing is a subject of the same benchmark: OpenTelemetry's SDK, a ``BatchSpanProcessor`` and an exporter that
drops what it is given, in the producer and in each worker. Once every trace is kept, once none is: what tracing costs
those that the sampler leaves out, nearly all of them where one in twenty or in a hundred is kept.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version

from benchmarks.fleet import Contender, ours, server_url
from benchmarks.harness import Row, median_alternating, versions
from benchmarks.targets import TARGETS, WORK, Target, at_most

__all__ = ["o1"]

COUNT = 5000

WORK["O1"] = "5,000 no-op processes, traced by OpenTelemetry: processor time of producer and workers"
TARGETS["O1"] = TARGETS["O1 not sampled"] = Target("≤ 5 % more than untraced", (at_most(1.05),))


def _traced(subject: str, share: str) -> Contender:
    return replace(ours(2, subject), settings={"BENCH_TRACED": share})


def o1() -> list[Row]:
    """Microseconds of processor time of a no-op, traced and not, and the ratio of the two."""
    versions["opentelemetry-sdk"] = version("opentelemetry-sdk")
    contenders = [ours(), _traced("stbass, all traced", "1"), _traced("stbass, not sampled", "0")]
    taken: dict[str, list[float]] = {contender.subject: [] for contender in contenders}
    with server_url() as url:

        def sampler(contender: Contender) -> Callable[[], float]:
            def sample() -> float:
                values = contender.run(url, "batch", COUNT)
                taken[contender.subject].append((values["producer_cpu"] + values["worker_cpu"]) * 1e6)
                return taken[contender.subject][-1]

            return sample

        medians = median_alternating({contender.subject: sampler(contender) for contender in contenders})
    rows = [Row("O1 cost", subject, value, "µs", False) for subject, value in medians.items()]
    if len(medians) == len(contenders):
        plain, *others = taken.values()
        for bench, traced in zip(("O1", "O1 not sampled"), others, strict=True):
            # Of neighbours in time: what the machine does to one it does to the other.
            ratio = statistics.median(more / less for less, more in zip(plain, traced, strict=False))
            rows.append(Row(bench, "stbass", ratio, "x untraced", False, "median of the ratios of neighbours"))
    return rows
