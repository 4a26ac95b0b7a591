"""A production line: orders from a CSV file go through three machines, and a CSV file says when each was done.

Run it with ``python -m examples.production_line``, or the same model from its file, with the command line:
``stbass process run examples/production_line.yaml``. Either reads ``examples/orders.csv`` and writes ``shipped.csv``.

Time is that of the model, in seconds. Between two machines there is room for a few jobs (``maxsize`` of the connector):
a machine whose neighbour is behind waits.
"""

from __future__ import annotations

import asyncio
import csv
import random
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from stbass.dataflow import AsyncioConnector, Component, ConnectorSpec, IOController, LocalProcess
from stbass.dataflow.library import FileReader, FileWriter

__all__ = ["Job", "Machine", "Release", "Ship"]


@dataclass(frozen=True)
class Job:
    """An order on its way; ``ready`` is when it was placed, then when it came out of the machine before."""

    order: str
    product: str
    pieces: int
    ready: float
    due: int


class Release(Component):
    """Makes jobs from orders."""

    io = IOController(inputs=["order", "product", "pieces", "placed", "due"], outputs=["job"])
    order: str
    product: str
    pieces: int
    placed: int
    due: int
    job: Job

    async def step(self) -> None:
        """One job for one order."""
        self.job = Job(self.order, self.product, self.pieces, self.placed, self.due)


class Machine(Component):
    """Works on one job at a time; another product means setting up, and sometimes it breaks down.

    Args:
        seconds: for one piece.
        set_up: seconds when the product changes.
        seed: of its breakdowns.
    """

    io = IOController(inputs=["given"], outputs=["done"])
    exports: ClassVar[list[str]] = ["jobs", "busy", "waited"]
    given: Job
    done: Job

    def __init__(self, seconds: float, set_up: float = 60.0, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seconds, self.set_up = seconds, set_up
        self.breakdowns = random.Random(seed)
        self.product = ""
        self.free = self.busy = self.waited = 0.0
        self.jobs = 0

    async def step(self) -> None:
        """Work on a job."""
        job = self.given
        begin = max(job.ready, self.free)
        takes = self.seconds * job.pieces
        if job.product != self.product:
            takes += self.set_up
        if self.breakdowns.random() < 0.1:
            takes += 120
        self.product = job.product
        self.free = begin + takes
        self.jobs += 1
        self.busy += takes
        self.waited += begin - job.ready
        self.done = replace(job, ready=self.free)


class Ship(Component):
    """Says when an order was done, and whether that was in time."""

    io = IOController(inputs=["job"], outputs=["order", "finished", "in_time"])
    job: Job
    order: str
    finished: int
    in_time: bool

    async def step(self) -> None:
        """One order."""
        self.order, self.finished = self.job.order, round(self.job.ready)
        self.in_time = self.job.ready <= self.job.due


def line(source: str, target: str) -> LocalProcess:
    """The model."""
    machines = [
        Machine(name="saw", seconds=20, seed=1),
        Machine(name="drill", seconds=32, set_up=30, seed=2),
        Machine(name="paint", seconds=25, set_up=90, seed=3),
    ]
    columns = ["order", "product", "pieces", "placed", "due"]
    report = ["order", "finished", "in_time"]
    edges = [
        *((f"orders.{column}", f"release.{column}") for column in columns),
        ("release.job", "saw.given"),
        ("saw.done", "drill.given"),
        ("drill.done", "paint.given"),
        ("paint.done", "ship.job"),
        *((f"ship.{column}", f"report.{column}") for column in report),
    ]
    return LocalProcess(
        name="production-line",
        components=[
            FileReader(name="orders", path=source, field_names=columns),
            Release(name="release"),
            *machines,
            Ship(name="ship"),
            FileWriter(name="report", path=target, field_names=report),
        ],
        connectors=[
            AsyncioConnector(ConnectorSpec(source=source, target=target), maxsize=3) for source, target in edges
        ],
    )


async def main() -> None:
    """Run it, and say how the machines did."""
    async with line("examples/orders.csv", "shipped.csv") as process:
        await process.run()
        machines = [one for one in process.components.values() if isinstance(one, Machine)]
        end = max(machine.free for machine in machines)
        print(f"{'machine':8} {'jobs':>4} {'busy':>5} {'a job waits':>12}")
        for machine in machines:
            print(
                f"{machine.name:8} {machine.jobs:4} {machine.busy / end:5.0%} {machine.waited / machine.jobs:10.0f} s"
            )
        print(f"{machines[-1].jobs} orders in {end:.0f} s")


if __name__ == "__main__":
    asyncio.run(main())
    with open("shipped.csv", newline="") as file:
        late = [row["order"] for row in csv.DictReader(file) if row["in_time"] == "False"]
    print(f"late: {', '.join(late) or 'none'}")
