"""Components for the tests of models in files: they are imported by their names."""

from __future__ import annotations

import asyncio
import os
import sys
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

from stbass.dataflow.model.components import Component, IOController
from stbass.dataflow.model.events import Event
from stbass.dataflow.model.function import component

NUMBER = 7


class Colour(Enum):
    RED = 1
    BLUE = 2


class Counter(Component):
    """Counts from 0. Where the variable FLOW_WAIT is set, it does not end, and makes steps in which nothing happens."""

    io = IOController(outputs={"out": int})
    exports: ClassVar[list[str] | None] = ["n"]

    def __init__(self, iters: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.iters = iters
        self.n = 0

    async def step(self) -> None:
        if self.n < self.iters:
            self.out = self.n
            self.n += 1
        elif "FLOW_WAIT" in os.environ:
            await asyncio.sleep(0.005)
        else:
            await self.io.close()

    async def committed(self, n: int) -> None:
        sys.stderr.write(f"checkpoint {n}: {self.n}\n")
        sys.stderr.flush()


class Collect(Component):
    """Keeps what it gets, and writes it to a file if it has one."""

    io = IOController(inputs={"x": float})
    exports: ClassVar[list[str] | None] = ["total"]

    def __init__(self, path: Path | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path = path
        self.total = 0.0

    async def step(self) -> None:
        self.total += self.x
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(f"{self.x:g}\n")

    x: float


class Failing(Collect):
    """Fails at the third value."""

    async def step(self) -> None:
        if self.x == 2:
            raise RuntimeError("two is too much")
        await super().step()


class Choosy(Counter):
    """Takes arguments of many types."""

    def __init__(
        self,
        path: Path,
        shape: tuple[int, ...] = (),
        colour: Colour = Colour.RED,
        words: list[str] | None = None,
        anything: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.given: tuple[Any, ...] = (path, shape, colour, words, anything)


class Pick(Component):
    """Two inputs."""

    io = IOController(inputs=["a", "b"], outputs=["c"])

    async def step(self) -> None:
        self.c = self.a + self.b

    a: int
    b: int


class Broken(Component):
    """Cannot be made."""

    def __init__(self, **kwargs: Any) -> None:
        raise LookupError("there is no such thing")


class Abstract(Component):
    """Nothing is a value: an attribute of a class that is none."""

    class Inner(Counter):
        """A class in a class."""


class Ping(Event):
    """Tells that something was seen."""

    data: int


class Pings(Component):
    """Tells of each value."""

    io = IOController(inputs=["x"], output_events=[Ping])

    async def step(self) -> None:
        self.io.queue_event(Ping(source=self.name, data=self.x))

    x: int


class Hears(Component):
    """Counts what it hears."""

    io = IOController(input_events=[Ping])
    exports: ClassVar[list[str] | None] = ["heard"]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heard = 0

    @Ping.handler
    def on_ping(self, event: Ping) -> None:
        self.heard += 1


@component(inputs={"x": int}, outputs={"y": int})
def double(x: int) -> dict[str, int]:
    """Twice as much."""
    return {"y": 2 * x}


def plain_function(x: int) -> int:
    """No component."""
    return x
