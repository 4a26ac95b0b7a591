"""F: the fleet. 1,000 and 10,000 processes over real workers and one real Redis, ours and the peers'.

Every sample is one driver in a process group of its own: it starts its workers, sees each of them at work, does the
work once as a warm-up, then measures. All subjects use the same server, each a database of its own, emptied before.
"""

from __future__ import annotations

import itertools
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from redis import Redis

from benchmarks.harness import Row, child_environment, median_alternating, peer_python, rows_of, run_driver, versions
from stbass.testing import RedisServer

__all__ = ["f1", "f2", "f3", "f4", "f5", "f6", "f7", "f8"]

TIMEOUT, TIMEOUT_EACH = 120.0, 0.002
"""Seconds after which a driver is ended, start and warm-up included; and for each process of its work."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One subject of the fleet's benchmarks: which module drives it, with which Python and settings.

    Args:
        subject: its name in the table.
        module: the driver.
        database: number of the Redis database that only it uses.
        venv: the environment under ``.venvs`` that it runs in; None is this one.
        requirements: what that environment holds.
        variant: passed on to the driver.
        processes: worker processes.
        settings: passed on in the environment.
        note: for people.
    """

    subject: str
    module: str
    database: int
    venv: str | None = None
    requirements: tuple[str, ...] = ()
    variant: str = ""
    processes: int = 2
    settings: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    def python(self) -> Path:
        """The Python that runs the driver and its workers."""
        return Path(sys.executable) if self.venv is None else peer_python(self.venv, self.requirements)

    def run(self, server: str, work: str, count: int, seconds: float = 0.0) -> dict[str, float]:
        """Take one sample and give back its figures."""
        url = f"{server}/{self.database}"
        with Redis.from_url(url) as client:
            client.flushdb()
        command = [str(self.python()), "-m", "benchmarks.peers", self.module, "--work", work, "--count", str(count)]
        command += ["--seconds", str(seconds), "--processes", str(self.processes), "--variant", self.variant]
        environment = child_environment(BENCH_REDIS_URL=url, **self.settings)
        values: dict[str, float] = run_driver(command, timeout=TIMEOUT + TIMEOUT_EACH * count, environment=environment)[
            "values"
        ]
        return values


def ours(processes: int = 2, subject: str = "stbass", concurrency: int | None = None) -> Contender:
    """Our own contender; ``concurrency`` is how many processes each worker holds, its default if None."""
    variant = "" if concurrency is None else str(concurrency)
    note = "acknowledged late, with leases"
    return Contender(subject, "benchmarks.ours", 0, variant=variant, processes=processes, note=note)


def stock(pool: str, concurrency: int) -> Contender:
    """Stock Celery with one of its pools."""
    processes = concurrency if pool == "prefork" else 1
    name = f"stock Celery {pool} {concurrency}"
    return Contender(name, "benchmarks.peers.celery", 1, variant=f"{pool}:{concurrency}", processes=processes)


def huey(variant: str, subject: str = "huey", *, notify: bool = False) -> Contender:
    """Huey; with ``notify`` its results wake the waiter instead of being polled for."""
    settings = {"BENCH_HUEY_NOTIFY": "1"} if notify else {}
    note = "no acknowledgement: loses work when a worker dies"
    wants = ("huey", "redis[hiredis]")
    return Contender(subject, "benchmarks.peers.huey", 2, "huey", wants, variant, settings=settings, note=note)


def dramatiq(threads: int) -> Contender:
    """Dramatiq with so many threads in each of its two processes."""
    wants = ("dramatiq[redis]", "hiredis")
    return Contender("dramatiq", "benchmarks.peers.dramatiq", 3, "dramatiq", wants, str(threads))


def taskiq(every: float) -> Contender:
    """Taskiq, over a list, asking so often for results."""
    wants = ("taskiq", "taskiq-redis", "hiredis")
    note = f"asks for results every {every * 1000:g} ms"
    return Contender("taskiq", "benchmarks.peers.taskiq", 4, "taskiq", wants, f"{every:g}", note=note)


def arq(poll: float, jobs: int) -> Contender:
    """Arq, polling so often, with so many jobs at once."""
    settings = {"BENCH_ARQ_POLL": f"{poll:g}", "BENCH_ARQ_JOBS": str(jobs)}
    note = f"polls every {poll * 1000:g} ms"
    return Contender("arq", "benchmarks.peers.arq", 5, "arq", ("arq", "hiredis"), settings=settings, note=note)


def streaq(jobs: int) -> Contender:
    """streaQ, with so many tasks at once in each of its two processes."""
    settings = {"BENCH_STREAQ_JOBS": str(jobs)}
    note = "a subscription for each result, 50 at once"
    return Contender("streaq", "benchmarks.peers.streaq", 6, "streaq", ("streaq",), settings=settings, note=note)


def celery_aio_pool() -> Contender:
    """Celery's worker with the pool ``celery-aio-pool``, of which there is nothing but candidates for a release."""
    pool = {"CELERY_CUSTOM_WORKER_POOL": "celery_aio_pool.pool:AsyncIOPool", "BENCH_CELERY_WITH": "celery-aio-pool"}
    wants = ("celery[redis]", "hiredis", "celery-aio-pool>=0.1.0rc8")
    module = "benchmarks.peers.celery_coroutines"
    name, note = "Celery with celery-aio-pool", "runs its coroutines one at a time"
    return Contender(name, module, 7, "celery-aio-pool", wants, "custom:1", settings=pool, note=note)


def celery_asyncio() -> Contender:
    """A Celery made over for asyncio, by somebody else and not finished; it takes the place of Celery itself."""
    wants = ("celery-asyncio>=6.0.0a1", "kombu-asyncio>=6.0.0a1", "redis", "hiredis")
    module = "benchmarks.peers.celery_coroutines"
    return Contender("celery-asyncio", module, 8, "celery-asyncio", wants, "threads:100", processes=1)


@contextmanager
def server_url() -> Iterator[str]:
    """A Redis server for one benchmark, without a database number."""
    with RedisServer() as server:
        with Redis.from_url(server.url) as client:
            versions["Redis"] = str(client.info("server")["redis_version"])
        yield server.url.removesuffix("/0").rstrip("/")


def compare(
    bench: str, contenders: list[Contender], work: str, count: int, seconds: float, key: str, scale: float, unit: str
) -> list[Row]:
    """Sample the contenders in turn; a smaller figure is better."""
    with server_url() as url:

        def sampler(contender: Contender) -> Callable[[], float]:
            return lambda: contender.run(url, work, count, seconds)[key] * scale

        medians = median_alternating({contender.subject: sampler(contender) for contender in contenders})
    notes = {contender.subject: contender.note for contender in contenders}
    return rows_of(bench, medians, unit, higher_is_better=False, notes=notes)


def f1() -> list[Row]:
    """1,000 no-ops, submit to last result, two worker processes."""
    contenders = [
        ours(),
        stock("prefork", 2),
        stock("threads", 100),
        huey("process:2"),
        dramatiq(8),
        taskiq(0.01),
        arq(0.01, 1000),
        streaq(1000),
        celery_aio_pool(),
        celery_asyncio(),
    ]
    return compare("F1", contenders, "batch", 1000, 0.0, "total", 1.0, "s")


def f2() -> list[Row]:
    """300 no-ops there and back, one after another."""
    contenders = [
        ours(),
        stock("prefork", 2),
        huey("process:2"),
        huey("process:2", "huey notify_result", notify=True),
        dramatiq(8),
        taskiq(0.002),
        arq(0.002, 1000),
        streaq(1000),
        celery_aio_pool(),
        celery_asyncio(),
    ]
    tails: dict[str, list[float]] = {contender.subject: [] for contender in contenders}
    with server_url() as url:

        def sampler(contender: Contender) -> Callable[[], float]:
            def sample() -> float:
                values = contender.run(url, "trip", 300)
                tails[contender.subject].append(values["p99"] * 1000)
                return values["median"] * 1000

            return sample

        medians = median_alternating({contender.subject: sampler(contender) for contender in contenders})
    notes = {contender.subject: contender.note for contender in contenders}
    p99s = {subject: statistics.median(tails[subject]) for subject in medians}
    return [
        *rows_of("F2 median", medians, "ms", higher_is_better=False, notes=notes),
        *rows_of("F2 p99", p99s, "ms", higher_is_better=False),
    ]


def f3() -> list[Row]:
    """1,000 processes that wait half a second, as one that calls a model does."""
    contenders = [
        ours(),
        stock("threads", 100),
        huey("thread:100"),
        dramatiq(100),
        taskiq(0.01),
        arq(0.01, 1000),
        streaq(1000),
        celery_asyncio(),
    ]
    computed = Row("F3", celery_aio_pool().subject, 250.0, "s", False, "computed: 1,000 / 2 x 0.5 s, one at a time")
    return [*compare("F3", contenders, "batch", 1000, 0.5, "total", 1.0, "s"), computed]


def f4() -> list[Row]:
    """10,000 processes that wait a second, on one worker process and on two; and what one of them weighs."""
    memory: list[float] = []
    one, two = ours(1, "stbass, one worker", 10_000), ours(2, "stbass, two workers", 10_000)
    with server_url() as url:

        def single() -> float:
            values = one.run(url, "batch", 10_000, 1.0)
            memory.append(values["bytes_each"] / 1024)
            return values["total"]

        def double() -> float:
            return two.run(url, "batch", 10_000, 1.0)["total"]

        medians = median_alternating({one.subject: single, two.subject: double})
    rows = []
    for bench, contender in (("F4 one worker", one), ("F4 two workers", two)):
        if contender.subject in medians:
            rows.append(Row(bench, contender.subject, medians[contender.subject], "s", False))
            rows.append(Row(bench, "stock Celery threads 100", 100.0, "s", False, "computed: 10,000 / 100 x 1 s"))
    if memory:
        note = "highest resident memory of the worker less that before, per process"
        rows.append(Row("F4 memory", one.subject, statistics.median(memory), "KiB", False, note))
    return rows


def f5() -> list[Row]:
    """The longest time for which the producer's event loop does not answer while 1,000 are in flight."""
    frozen = replace(ours(2, "stbass, gc frozen"), settings={"BENCH_FROZEN": "1"}, note="gc.freeze() after the imports")
    contenders = [ours(), frozen, stock("threads", 100)]
    return compare("F5", contenders, "gap", 1000, 0.5, "longest", 1000.0, "ms")


def steepest(costs: list[float]) -> float:
    """The largest ratio of a cost to one before it: above 1 something grows, and 1 at least by definition.

    A batch of a hundred costs more for each than one of a thousand, because the way there and back is shared by fewer;
    that is no fault, so only growth counts.
    """
    return max([1.0, *(later / earlier for earlier, later in itertools.combinations(costs, 2))])


def f6() -> list[Row]:
    """What a no-op costs in a PLACED_PAR of 100, 1,000, 10,000 and 100,000."""
    counts = (100, 1000, 10_000, 100_000)
    contender = ours()
    with server_url() as url:

        def sampler(count: int) -> Callable[[], float]:
            return lambda: contender.run(url, "batch", count)["total"] / count * 1e6

        medians = median_alternating({f"stbass, {count:,} processes": sampler(count) for count in counts})
    rows = [Row("F6 cost", subject, value, "µs", False) for subject, value in medians.items()]
    if len(medians) == len(counts):
        rows.append(
            Row("F6", "stbass", steepest(list(medians.values())), "x", False, "steepest growth from fewer to more")
        )
    return rows


def f7() -> list[Row]:
    """What an idle worker and a producer that waits cost over ten seconds."""
    figures = {
        "F7 worker CPU": ("worker_cpu", "% of a core"),
        "F7 worker commands": ("worker_commands", "a second"),
        "F7 waiter CPU": ("waiter_cpu", "% of a core"),
        "F7 waiter commands": ("waiter_commands", "a second"),
    }
    taken: dict[str, list[float]] = {bench: [] for bench in figures}
    contender = ours()
    with server_url() as url:

        def sample() -> float:
            values = contender.run(url, "idle", 1, 10.0)
            for bench, (key, _) in figures.items():
                taken[bench].append(values[key])
            return values["worker_cpu"]

        measured = median_alternating({contender.subject: sample})
    return [
        Row(bench, contender.subject, statistics.median(taken[bench]), unit, False)
        for bench, (_, unit) in figures.items()
        if measured
    ]


def f8() -> list[Row]:
    """How long after a deadline of 0.3 s the answer to a process that takes 5 s arrives."""
    return compare("F8", [ours(), stock("threads", 100)], "late", 15, 0.3, "median", 1000.0, "ms")
