"""Processes of several shapes, for tests that break them off; and the program that a test kills.

``python -m tests.support.dataflow_graphs SHAPE DATABASE JOB SEED STEP`` runs the job, and kills itself (SIGKILL) in the
user's code of step ``STEP`` (of all components together; 0: never). Prints what came out as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import Callable
from typing import Any, ClassVar

from stbass.dataflow import Component, Event, IOController, LocalProcess, Process
from stbass.dataflow.state import SqliteStateBackend
from tests.support.dataflow import wire

pauses = random.Random(0)
"""How long a step takes: not a part of any state, so it is another every time."""
longest = 0.0
kill_at = 0
steps = 0


async def user_code() -> None:
    """What a step does beside its work: it takes a while, and perhaps it is the last."""
    global steps
    steps += 1
    if steps == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    if longest:
        await asyncio.sleep(pauses.random() * longest)
    else:
        for _ in range(pauses.choice((0, 0, 0, 1, 2, 5))):
            await asyncio.sleep(0)


class Tick(Event):
    data: int


class Echo(Event):
    data: int


class Numbers(Component):
    """0 … n-1 on ``y``, in the last step with ``close``."""

    io = IOController(outputs=["y"], output_events=[Tick])

    def __init__(self, n: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.numbers = enumerate(iter(range(100, 100 + n)))
        self.n = n

    async def step(self) -> None:
        number, _ = next(self.numbers)
        await user_code()
        self.y = number
        if number % 3 == 0 and self.name == "a":
            self.io.queue_event(Tick(source=self.name, data=number))
        if number == self.n - 1:
            await self.io.close()


class Sums(Component):
    """The sum of everything so far; nothing for every fifth value."""

    io = IOController(inputs=["x"], outputs=["y"])
    x: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sum = 0
        self.dice = random.Random(7)

    async def step(self) -> None:
        self.sum += self.x
        await user_code()
        if self.x % 5:
            self.y = [self.x, self.sum, self.dice.randint(0, 99)]


class Pair(Component):
    """Both inputs."""

    io = IOController(inputs=["a", "b"], outputs=["y"])
    a: Any
    b: Any

    async def step(self) -> None:
        await user_code()
        self.y = [self.a, self.b]


class Feedback(Component):
    """The input and what came round the cycle."""

    io = IOController(inputs=["x", "back"], outputs=["y"])
    x: int
    back: int

    async def step(self) -> None:
        await user_code()
        self.y = self.x + 2 * self.back % 1000


class Pass(Component):
    """Its input."""

    io = IOController(inputs=["x"], outputs=["y"])
    x: Any

    async def step(self) -> None:
        await user_code()
        self.y = self.x


class Listen(Component):
    """Every event that it hears of, and one to itself for every second of them."""

    io = IOController(outputs=["y"], input_events=[Tick, Echo], output_events=[Echo])

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.heard = 0

    @Tick.handler
    async def on_tick(self, event: Tick) -> None:
        self.heard += 1
        await user_code()
        self.y = ["tick", event.data, self.heard]
        if event.data % 2:
            self.io.queue_event(Echo(source=self.name, data=-event.data))

    @Echo.handler
    def on_echo(self, event: Echo) -> None:
        self.heard += 1
        self.y = ["echo", event.data]


class Populated(Component):
    """An input that an event brings, and one that is sent."""

    io = IOController(inputs=["x", "tick"], outputs=["y"], input_events=[Tick])
    x: int
    tick: int

    @Tick.handler(populates_fields=["tick"])
    async def on_tick(self, event: Tick) -> None:
        await user_code()
        self.tick = event.data

    async def step(self) -> None:
        await user_code()
        self.y = [self.x, self.tick]


class Keeps(Component):
    """What came."""

    io = IOController(inputs=["x"])
    exports: ClassVar[list[str] | None] = ["got"]
    x: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.got: list[Any] = []

    async def step(self) -> None:
        await user_code()
        self.got.append(self.x)


class Saving(Pass):
    """Has its own way of saving its state, which takes a while."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.handle = object()
        self.count = 0

    async def step(self) -> None:
        self.count += 1
        await super().step()
        self.y = [self.x, self.count]

    async def checkpoint(self) -> dict[str, Any]:
        count = self.count
        for _ in range(3):
            await asyncio.sleep(0)
        assert count == self.count, "a step was made while the state was being saved"
        return {"count": count}

    async def restore(self, state: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        self.count = state["count"]


Parts = tuple[list[Component], list[tuple[str, str]]]


def chain(n: int) -> Parts:
    return (
        [Numbers(n, name="a"), Sums(name="b"), Saving(name="c"), Keeps(name="sink")],
        [("a.y", "b.x"), ("b.y", "c.x"), ("c.y", "sink.x")],
    )


def join(n: int) -> Parts:
    return (
        [Numbers(n, name="a"), Pass(name="b"), Pass(name="c"), Pass(name="d"), Pair(name="join"), Keeps(name="sink")],
        [("a.y", "b.x"), ("a.y", "c.x"), ("c.y", "d.x"), ("b.y", "join.a"), ("d.y", "join.b"), ("join.y", "sink.x")],
    )


def cycle(n: int) -> Parts:
    return (
        [
            Numbers(n, name="a"),
            Feedback(name="b", initial_values={"back": [1, 2, 3]}),
            Pass(name="c"),
            Keeps(name="sink"),
        ],
        [("a.y", "b.x"), ("b.y", "c.x"), ("c.y", "b.back"), ("b.y", "sink.x")],
    )


def many(n: int) -> Parts:
    return (
        [Numbers(n, name="a"), Numbers(n // 2, name="b"), Pass(name="c"), Keeps(name="sink")],
        [("a.y", "sink.x"), ("b.y", "c.x"), ("c.y", "sink.x")],
    )


def events(n: int) -> Parts:
    return (
        [Numbers(n, name="a"), Listen(name="b"), Keeps(name="sink"), Keeps(name="rest")],
        [("a.y", "rest.x"), ("b.y", "sink.x")],
    )


def populated(n: int) -> Parts:
    return (
        [Numbers(n, name="a"), Populated(name="b"), Numbers(n // 4, name="x"), Keeps(name="sink")],
        [("x.y", "b.x"), ("b.y", "sink.x")],
    )


SHAPES: dict[str, Callable[[int], Parts]] = {
    "chain": chain,
    "join": join,
    "cycle": cycle,
    "many": many,
    "events": events,
    "populated": populated,
}


def make(shape: str, n: int, state: Any, maxsize: int = 4, **options: Any) -> LocalProcess:
    """A process of that shape."""
    components, connections = SHAPES[shape](n)
    connectors = [wire(source, target, maxsize=maxsize) for source, target in connections]
    return LocalProcess(components, connectors, state=state, **options)


async def whole(shape: str, n: int) -> list[Any]:
    """What comes out if nothing happens."""
    async with asyncio.timeout(10), make(shape, n, None) as process:
        await process.run()
        return came_out(shape, process)


def came_out(shape: str, process: Process) -> list[Any]:
    """What its sink has got; in the order in which it came, if that is always the same."""
    sink = process.components["sink"]
    assert isinstance(sink, Keeps)
    return sorted(sink.got) if shape in ("many", "populated") else sink.got


async def _main(shape: str, path: str, job: str, seed: int) -> None:
    global longest
    pauses.seed(seed)
    longest = 0.002
    state = SqliteStateBackend(path, job_id=job)
    async with make(shape, 60, state, checkpoint_every=0.01) as process:
        await process.run()
        sys.stdout.write(json.dumps(came_out(shape, process)))


if __name__ == "__main__":
    kill_at = int(sys.argv[5])
    asyncio.run(_main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
