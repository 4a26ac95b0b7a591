"""``python -m tests.soak [--seconds 600] [--seed 1] [--processes 20000] [--folder DIR]``.

Exit code 0: all of it holds; 1: something does not, and the last lines say what. Everything random comes from the seed.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from stbass.backends.celery import CeleryBackend, make_app
from stbass.channel import Chan
from stbass.errors import ChannelClosedError, StbassError
from stbass.placement import PLACED_PAR, BackendRegistry, Placement
from stbass.result import FailurePolicy
from stbass.testing import RedisServer, Worker
from tests.soak.faults import Faults
from tests.soak.tally import Pipeline, Tally
from tests.soak.work import LOG_VARIABLE, Job, Relay, read_log
from tests.support.backends import registry_of
from tests.support.proxy import Proxy

LEASE = 5.0
WORKERS = 4
CONCURRENCY = 200
GROUP = 50
PIPELINES = 4
STAGES = 2
CAPACITY = 16
JOBS, RELAYS = Placement(endpoint="soak"), Placement(endpoint="soak-relays")
QUIET = 180.0
"""Seconds that everything may take to end when no more harm is done."""
_log = logging.getLogger("soak")


class Soak:
    """One run."""

    def __init__(self, seconds: float, seed: int, processes: int, folder: Path) -> None:
        self.seconds, self.processes = seconds, processes
        self.seed, self.rng = seed, random.Random(seed)
        self.tally = Tally(LEASE)
        self.log = folder / "noted.txt"
        self.log.write_text("")
        self.folder = folder

    async def run(self) -> Faults:
        """Run it; gives back what harm was done."""
        async with AsyncExitStack() as stack:
            always = ("--appendfsync", "always")
            server = await stack.enter_async_context(RedisServer(persistent=True, args=always))
            proxy = await stack.enter_async_context(Proxy(server.port))
            workers = [self._worker(proxy.url, number) for number in range(WORKERS)]
            await asyncio.gather(*(stack.enter_async_context(worker) for worker in workers))
            app = make_app("soak", broker_url=proxy.url, stbass_lease=LEASE)
            backend = CeleryBackend(app, lease=LEASE, max_attempts=1000)
            stack.push_async_callback(backend.aclose)
            faults = Faults(server, workers, proxy, random.Random(self.rng.random()), LEASE)
            await self._at_work(backend, faults)
        (self.folder / "harms.txt").write_text("".join(f"{one}\n" for one in [*faults.harms, *faults.troubles]))
        self.tally.explain(read_log(self.log), faults.harms, faults.troubles)
        return faults

    def _worker(self, url: str, number: int) -> Worker:
        env = {"STBASS_BROKER_URL": url, "STBASS_RESULT_BACKEND": url, LOG_VARIABLE: str(self.log)}
        env |= {"STBASS_LEASE": str(LEASE), "STBASS_GRACE": "3"}
        log = (self.folder / f"worker-{number}.log").open("a")

        def keep(line: str | None) -> None:
            if line is not None:
                log.write(line)
                log.flush()

        queues = (JOBS.endpoint or "", RELAYS.endpoint or "")
        return Worker(
            "celery_app", *queues, env=env, include=["tests.soak.work"], concurrency=CONCURRENCY, on_line=keep
        )

    async def _at_work(self, backend: CeleryBackend, faults: Faults) -> None:
        registry = registry_of(backend)
        sending = asyncio.Event()
        self.tally.pipelines = [Pipeline() for _ in range(PIPELINES)]
        parts = {f"pipeline {n}": self._pipeline(n, backend, registry, sending) for n in range(PIPELINES)}
        parts["jobs"] = self._jobs(registry)
        work = [asyncio.create_task(part, name=name) for name, part in parts.items()]
        try:
            await faults.run(self.seconds)
            sending.set()
            _log.warning("no more harm; everything may end now")
            done, left = await asyncio.wait(work, timeout=QUIET)
            self.tally.broken += [f"{one.get_name()}: {one.exception()!r}" for one in done if one.exception()]
            self.tally.broken += [f"{one.get_name()} still runs" for one in left]
            self.tally.hung = self.tally.waiting
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)

    # Processes ---------------------------------------------------------------------------------------

    async def _jobs(self, registry: BackendRegistry) -> None:
        """All processes, in groups, spread evenly over the time."""
        began, groups = time.monotonic(), -(-self.processes // GROUP)
        async with asyncio.TaskGroup() as group:
            for number in range(groups):
                await asyncio.sleep(max(0.0, began + number * self.seconds / groups - time.monotonic()))
                count = min(GROUP, self.processes - number * GROUP)
                names = [f"job-{number * GROUP + index}" for index in range(count)]
                group.create_task(self._group(names, registry))

    async def _group(self, names: list[str], registry: BackendRegistry) -> None:
        jobs = [Job(3, self.rng.uniform(0.2, 3.0)).with_name(name) for name in names]
        self.tally.sent += len(jobs)
        composition = PLACED_PAR(*[(job, JOBS) for job in jobs], registry=registry, on_failure=FailurePolicy.COLLECT)
        self.tally.waiting += len(jobs)
        try:
            results = (await composition.run()).results
        except StbassError as error:
            self.tally.failures += [f"{name}: {error!r}" for name in names]
            results = []
        self.tally.waiting -= len(jobs)
        for name, result in zip(names, results, strict=False):
            if result.is_ok:
                assert result.value["name"] == name, (result.value, name)
                self.tally.results[name] += 1
                self.tally.stored[name] = result.value["attempt"]
            else:
                self.tally.failures.append(f"{name}: {result.failure.error!r}")

    # Pipelines ---------------------------------------------------------------------------------------

    async def _pipeline(
        self, number: int, backend: CeleryBackend, registry: BackendRegistry, enough: asyncio.Event
    ) -> None:
        """Values go in here, through stages on workers, and come out here."""
        line = self.tally.pipelines[number]
        transport: Any = backend.transport()
        channels: list[Chan[int]] = [Chan(int, capacity=CAPACITY, transport=transport) for _ in range(STAGES + 1)]
        stages = [
            Relay().with_name(f"relay-{number}-{stage}").with_channels(inp=channels[stage], out=channels[stage + 1])
            for stage in range(STAGES)
        ]
        relays = PLACED_PAR(*[(stage, RELAYS) for stage in stages], registry=registry)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._relay(relays))
            group.create_task(self._feed(line, channels[0], enough))
            group.create_task(self._drain(line, channels[-1]))

    async def _relay(self, relays: PLACED_PAR[Any]) -> None:
        # A stage that failed raises: the rest of its pipeline would wait for it for ever.
        _ = (await relays.run()).value

    async def _feed(self, line: Pipeline, out: Chan[int], enough: asyncio.Event) -> None:
        while not enough.is_set():
            await out.send(line.sent)
            line.sent += 1
            await asyncio.sleep(0.01)  # a pace at which they last as long as the rest
        await out.aclose()

    async def _drain(self, line: Pipeline, inp: Chan[int]) -> None:
        try:
            while True:
                line.received.append(await inp.recv() - STAGES)
        except ChannelClosedError:
            line.ended = True


def report(soak: Soak, faults: Faults, took: float) -> Table:
    """The table."""
    tally = soak.tally
    table = Table("what", "count", title=f"{took:.0f} s, seed {soak.seed}")
    lines = tally.pipelines
    rows: dict[str, object] = {
        "processes sent": tally.sent,
        "results": sum(tally.results.values()),
        "lost": tally.lost,
        "doubled": tally.doubled,
        "failed": len(tally.failures),
        "hung": tally.hung,
        "run to the end twice": sum(tally.ended_twice.values()),
        **{f"  {reason}": number for reason, number in sorted(tally.ended_twice.items())},
        "values sent": sum(line.sent for line in lines),
        "values received": sum(len(line.received) for line in lines),
        "values lost": sum(line.lost for line in lines),
        "values doubled": sum(line.doubled for line in lines),
        "pipelines that ended": f"{sum(line.ended for line in lines)} of {len(lines)}",
        **faults.counts,
        "workers that ended by themselves": len(faults.died),
    }
    for what, count in rows.items():
        table.add_row(what, str(count))
    return table


def main(argv: list[str] | None = None) -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="for how long the fleet is harmed")
    parser.add_argument("--seed", type=int, default=1, help="of all that is random")
    parser.add_argument("--processes", type=int, help="by default 20,000 in ten minutes")
    parser.add_argument("--folder", type=Path, help="where logs are kept; by default a new one")
    given = parser.parse_args(argv)
    folder = given.folder or Path(tempfile.mkdtemp(prefix="stbass-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(filename=folder / "producer.log", format="%(asctime)s %(name)s %(message)s", level="WARNING")
    processes = given.processes or max(1, round(given.seconds / 600 * 20_000))
    soak = Soak(given.seconds, given.seed, processes, folder)
    console = Console(width=100)
    console.print(f"{processes} processes in {given.seconds:g} s, seed {given.seed}; logs in {folder}")
    began = time.monotonic()
    faults = asyncio.run(soak.run())
    console.print(report(soak, faults, time.monotonic() - began))
    wrong = [*soak.tally.faults(), *(f"nothing of: {what}" for what, count in faults.counts.items() if not count)]
    wrong += [f"{len(faults.died)} workers ended by themselves"] if faults.died else []
    for one in (*wrong, *soak.tally.failures[:20], *soak.tally.broken, *faults.died):
        console.print(one)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
