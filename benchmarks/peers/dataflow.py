"""The same model of components for stbass and for plugboard. A script of its own: each runs in plugboard's environment.

``python -P dataflow.py SUBJECT WORK``: SUBJECT is ``stbass`` or ``plugboard``; WORK is ``import``, ``start`` or the
number of components that the items go through. Prints seconds for ``import`` and ``start``, items per second else.
"""

from __future__ import annotations

import asyncio
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, NamedTuple

ITEMS = {2: 4_000, 10: 1_000}
"""How many items, by the number of components."""
REPEATS = 3


class Names(NamedTuple):
    """What a library calls the parts; both use the same words."""

    component: Any
    io_controller: Any
    connector: Any
    spec: Any
    process: Any


def from_stbass() -> Names:
    """Ours."""
    from stbass.dataflow import AsyncioConnector, Component, ConnectorSpec, IOController, LocalProcess

    return Names(Component, IOController, AsyncioConnector, ConnectorSpec, LocalProcess)


def from_plugboard() -> Names:
    """The peer's."""
    from plugboard.component import Component, IOController
    from plugboard.connector import AsyncioConnector
    from plugboard.process import LocalProcess
    from plugboard.schemas import ConnectorSpec

    return Names(Component, IOController, AsyncioConnector, ConnectorSpec, LocalProcess)


LOAD: dict[str, Callable[[], Names]] = {"stbass": from_stbass, "plugboard": from_plugboard}


class Model:
    """A source of floats, components that add one, and a sink that counts and adds up."""

    def __init__(self, names: Names, length: int, items: int) -> None:
        base: Any = names.component
        model = self
        self.first_step = 0.0

        class Source(base):
            io = names.io_controller(outputs=["x"])

            async def init(self) -> None:
                self.left = items

            async def step(self) -> None:
                if self.left == items:
                    model.first_step = time.perf_counter()
                if not self.left:
                    await self.io.close()
                    return
                self.left -= 1
                self.x = float(self.left)

        class Add(base):
            io = names.io_controller(inputs=["x"], outputs=["y"])

            async def step(self) -> None:
                self.y = self.x + 1

        class Sink(base):
            io = names.io_controller(inputs=["x"])

            async def init(self) -> None:
                self.count, self.total = 0, 0.0

            async def step(self) -> None:
                self.count += 1
                self.total += self.x

        middle = [Add(name=f"add_{number}") for number in range(length - 2)]
        self.sink = Sink(name="sink")
        outputs = ["source.x", *(f"{one.name}.y" for one in middle)]
        inputs = [*(f"{one.name}.x" for one in middle), "sink.x"]
        self.process = names.process(
            components=[Source(name="source"), *middle, self.sink],
            connectors=[
                names.connector(spec=names.spec(source=source, target=target))
                for source, target in zip(outputs, inputs, strict=True)
            ],
        )
        self.expected = (items, items * (items - 1) / 2 + items * len(middle))

    def check(self) -> None:
        """Whether every item came through every component."""
        found = (self.sink.count, self.sink.total)
        if found != self.expected:
            raise RuntimeError(f"expected {self.expected}, got {found}")


async def rate(names: Names, length: int) -> float:
    """Items per second from the start of the run to its end; setting up is not in it."""
    rates = []
    for _ in range(REPEATS):
        model = Model(names, length, ITEMS[length])
        async with model.process:
            gc.collect()
            begun = time.perf_counter()
            await model.process.run()
            rates.append(ITEMS[length] / (time.perf_counter() - begun))
            model.check()
    return statistics.median(rates)


async def start(names: Names) -> float:
    """Seconds from nothing but imported modules to the first step."""
    begun = time.perf_counter()
    model = Model(names, 2, 1)
    async with model.process:
        await model.process.run()
        model.check()
    return model.first_step - begun


def main(subject: str, work: str) -> None:
    """Measure and print."""
    begun = time.perf_counter()
    names = LOAD[subject]()
    imported = time.perf_counter() - begun
    if work == "import":
        value = imported
    elif work == "start":
        value = asyncio.run(start(names))
    else:
        value = asyncio.run(rate(names, int(work)))
    versions = {"plugboard": version("plugboard")} if subject == "plugboard" else {}
    print(json.dumps({"values": {"value": value}, "versions": versions}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
