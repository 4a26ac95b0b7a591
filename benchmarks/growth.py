"""G: how far a fleet goes. What one process costs each part of it, measured; what more of each part carry, computed.

The computation is mean value analysis of a closed network: a fixed number of processes is in flight, each takes its
turn at producers, servers and workers, waits for those before it there, and then waits without using anything. Every
figure but the costs is exact, so the same costs give the same table.
"""

from __future__ import annotations

import re
import statistics
from dataclasses import dataclass

from redis import Redis

from benchmarks.fleet import ours, server_url
from benchmarks.harness import Row, median_alternating
from benchmarks.report import figure
from benchmarks.targets import WORK

__all__ = ["Costs", "Fleet", "carried", "costs_of", "g1", "growth_table"]

FEW, MANY = 1_000, 6_000
WORK["G1"] = "what one no-op process costs producer, worker and server, in a PLACED_PAR of thousands"
_FIGURES = {
    "G1 producer CPU": ("producer_cpu", "µs"),
    "G1 worker CPU": ("worker_cpu", "µs"),
    "G1 server CPU": ("cpu", "µs"),
    "G1 commands": ("commands", "a process"),
    "G1 on the wire": ("wire", "bytes"),
    "G1 in the server": ("peak", "bytes at most"),
}


# Measured ----------------------------------------------------------------------------------------


def _once(count: int) -> dict[str, float]:
    """Run so many twice on a server of their own: what that server did, and what ours used for each process."""
    with server_url() as url, Redis.from_url(url) as client:
        values = ours().run(url, "batch", count)
        info = client.info()
    return values | {
        "cpu": (info["used_cpu_user"] + info["used_cpu_sys"]) * 1e6,
        "commands": info["total_commands_processed"],
        "wire": info["total_net_input_bytes"] + info["total_net_output_bytes"],
        "peak": info["used_memory_peak"],
    }


def _each() -> dict[str, float]:
    """What a process costs: the difference between many and few, in which start and warm-up are no part."""
    few, many = _once(FEW), _once(MANY)
    more = MANY - FEW
    # A driver runs its batch once to warm up and once to measure; the second finds the memory of the first free again.
    twice = {name: (many[name] - few[name]) / (2 * more) for name in ("cpu", "commands", "wire")}
    processors = {name: many[name] * 1e6 for name in ("producer_cpu", "worker_cpu")}
    return {**processors, **twice, "peak": (many["peak"] - few["peak"]) / more}


def g1() -> list[Row]:
    """Processor time of producer, worker and server, commands and bytes, for one no-op process."""
    taken: list[dict[str, float]] = []

    def sample() -> float:
        taken.append(_each())
        return taken[-1]["cpu"]

    median_alternating({"stbass": sample})
    return [
        Row(bench, "stbass", statistics.median(one[key] for one in taken), unit, False)
        for bench, (key, unit) in _FIGURES.items()
        if taken
    ]


# Computed ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of processor time that one process takes of a producer, of a server, and of a worker."""

    producer: float
    server: float
    worker: float


@dataclass(frozen=True, slots=True)
class Fleet:
    """How many of each, each with a core of its own.

    Args:
        producers: Python processes that send.
        servers: Redis servers; the endpoints are spread over them evenly.
        workers: worker processes.
    """

    producers: int
    servers: int
    workers: int


def carried(costs: Costs, fleet: Fleet, in_flight: int, seconds: float) -> tuple[float, float]:
    """How many processes a second a fleet ends, and for how many seconds each of them is under way.

    Args:
        costs: of one process.
        fleet: what there is.
        in_flight: processes sent and not ended, at any time.
        seconds: for which each waits, as for the answer of a model, and uses nothing.
    """
    stations = [
        (costs.producer / fleet.producers, fleet.producers),
        (costs.server / fleet.servers, fleet.servers),
        (costs.worker / fleet.workers, fleet.workers),
    ]
    queues = [0.0] * len(stations)  # at each of the alike stations
    rate = under_way = 0.0
    for number in range(1, in_flight + 1):
        stays = [demand * (1 + queue) for (demand, _), queue in zip(stations, queues, strict=True)]
        under_way = seconds + sum(stay * alike for stay, (_, alike) in zip(stays, stations, strict=True))
        rate = number / under_way
        queues = [rate * stay for stay in stays]
    return rate, under_way


FLEETS = (Fleet(1, 1, 1), Fleet(1, 1, 2), Fleet(4, 1, 10), Fleet(10, 1, 100), Fleet(10, 10, 100), Fleet(40, 10, 100))
_PARTS = ("producer", "server", "worker")
_LOADS = ((1_000, 0.0), (10_000, 1.0), (100_000, 1.0))


def costs_of(results: str) -> Costs:
    """The costs that the results say.

    Raises:
        LookupError: they have no section G1.
    """
    found = {name: re.search(rf"^\| G1 {name} CPU \| stbass \| ([\d.,]+) µs", results, re.M) for name in _PARTS}
    costs = [float(each[1].replace(",", "")) / 1e6 for each in found.values() if each]
    if len(costs) != len(_PARTS):
        raise LookupError("benchmarks/results.md has no section G1: python -m benchmarks G1 measures it")
    return Costs(*costs)


def growth_table(costs: Costs) -> str:
    """Markdown: what fleets of several sizes carry, and which part of them is busy first."""
    load = [f"{count:,} in flight, {f'{wait:g} s each' if wait else 'no-ops'}" for count, wait in _LOADS]
    return "\n".join(
        [
            f"| producers | servers | workers | {' | '.join(load)} | full first |",
            f"|{'---|' * (len(load) + 4)}",
            *(_line(costs, fleet) for fleet in FLEETS),
        ]
    )


def _line(costs: Costs, fleet: Fleet) -> str:
    cells = [f"{figure(carried(costs, fleet, count, wait)[0])}/s" for count, wait in _LOADS]
    counts = (fleet.producers, fleet.servers, fleet.workers)
    return f"| {' | '.join(str(count) for count in counts)} | {' | '.join(cells)} | {_full_first(costs, fleet)} |"


def _full_first(costs: Costs, fleet: Fleet) -> str:
    demands = {
        "producers": costs.producer / fleet.producers,
        "servers": costs.server / fleet.servers,
        "workers": costs.worker / fleet.workers,
    }
    return max(demands, key=demands.__getitem__)
