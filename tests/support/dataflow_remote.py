"""Components for tests of processes whose components run elsewhere: they can be imported by their names."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any, ClassVar

from stbass.dataflow import Component, Event, IOController, Process, Resource, StopEvent, component
from tests.support.dataflow import Count, Endless, Join, Keep


class Oops(Exception):
    """What only this module knows."""

    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class Where(Component):
    """Passes a value on with the id of the Python process that it is in; writes that and what happens to a file."""

    io = IOController(inputs=["x"], outputs=["y"])
    exports: ClassVar[list[str] | None] = ["pid"]
    x: Any

    def __init__(self, log: Path | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.log = log
        self.pid = os.getpid()

    def tell(self, what: str) -> None:
        """One more line."""
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(f"{self.name} {what} {os.getpid()}\n")

    async def init(self) -> None:
        self.tell("init")

    async def step(self) -> None:
        self.y = self.x

    async def destroy(self) -> None:
        self.tell("destroy")


class Raises(Where):
    """Raises at a value."""

    def __init__(self, at: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.at = at

    async def step(self) -> None:
        if self.x == self.at:
            raise Oops(self.at)
        self.y = self.x


class RaisesAtInit(Where):
    """Cannot be initialised."""

    async def init(self) -> None:
        await super().init()
        raise Oops(1)


class Sleeps(Where):
    """A step that does not end; how it ended is in the log."""

    async def step(self) -> None:
        self.tell("asleep")
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.tell("cancelled")
            raise


class Ahead(Endless):
    """Writes how many values it has made to a file, before it sends them."""

    def __init__(self, path: Path, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path = path

    async def step(self) -> None:
        await super().step()
        self.path.write_text(str(self.made))


class Behind(Component):
    """Takes ``n`` values; knows how far ahead of it who makes them has been."""

    io = IOController(inputs=["x"])
    exports: ClassVar[list[str] | None] = ["most", "taken"]
    x: int

    def __init__(self, path: Path, n: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path, self.n = path, n
        self.most = self.taken = 0

    async def step(self) -> None:
        self.taken += 1
        if text := self.path.read_text():  # it may be just about to be written
            self.most = max(self.most, int(text) - self.taken)
        await asyncio.sleep(0.002)
        if self.taken == self.n:
            await self.io.close()


class Stops(Keep):
    """Stops the process at its third value."""

    io = IOController(output_events=[StopEvent])

    async def step(self) -> None:
        await super().step()
        if len(self.got) == 3:
            self.io.queue_event(StopEvent(source=self.name))


class Unmade(Keep):
    """Can be made once: here, and not where it should run."""

    there = 0

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        Unmade.there += 1
        if Unmade.there % 2 == 0:
            raise LookupError("it is only here")


class Silent(Component):
    """Takes values and sends none."""

    io = IOController(inputs=["x"], outputs=["y"])

    async def step(self) -> None:
        pass


class Stranger:
    """What cannot travel."""


class Sends(Component):
    """Sends one thing of a kind that has to be named."""

    io = IOController(outputs=["y"])
    y: Any

    def __init__(self, what: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.what = what

    async def step(self) -> None:
        if self.what == "array":
            import numpy as np

            self.y = np.arange(6.0).reshape(2, 3)
        elif self.what == "tuple":
            self.y = (1, {"a": {2, 3}}, b"\x00")
        else:
            self.y = Stranger()
        await self.io.close()


class Given(Component):
    """Shows what it was given."""

    exports: ClassVar[list[str] | None] = ["given", "all_parameters"]

    def __init__(self, given: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.given = given
        self.all_parameters: dict[str, Any] = {}

    async def step(self) -> None:
        self.all_parameters = self.parameters
        await self.io.close()


class Hungry(Where):
    """Needs more processors than there are."""

    resources = Resource(cpu=3)


class News(Event):
    data: int


class Tells(Component):
    """Tells of numbers, and closes."""

    io = IOController(output_events=[News])

    def __init__(self, n: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.n = n
        self.told = 0

    async def step(self) -> None:
        self.io.queue_event(News(source=self.name, data=self.told))
        self.told += 1
        if self.told == self.n:
            await self.io.close()


class Hears(Component):
    """Keeps what it hears."""

    io = IOController(input_events=[News])
    exports: ClassVar[list[str] | None] = ["heard"]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heard: list[int] = []

    @News.handler
    def on_news(self, event: News) -> None:
        self.heard.append(event.data)


class Bag(Component):
    """Sends its own list, in which it puts one number more in each step; on ``even`` nothing in every second step.

    It closes in a step in which it sends something on both.
    """

    io = IOController(outputs=["y", "even"])

    def __init__(self, n: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.n = n
        self.bag: list[int] = []

    async def step(self) -> None:
        number = len(self.bag)
        self.bag.append(number)
        self.y = self.bag
        if number % 2 == 0:
            self.even = number
        if number == 2 * self.n:
            await self.io.close()


class Spoils(Keep):
    """Keeps what comes, and does harm to it afterwards."""

    async def step(self) -> None:
        self.got.append(list(self.x))
        self.x.append("spoilt")


class Wrong(Component):
    """Says that it sends numbers, and sends text."""

    io = IOController(outputs={"y": int})
    y: Any

    async def step(self) -> None:
        self.y = "text"


Connections = list[tuple[str, str]]


def demanding() -> tuple[list[Component], Connections, dict[str, str]]:
    """A model that asks much of what goes between its components: what it is made of, connected by, and its groups."""
    components: list[Component] = [
        Bag(3, name="bag"),
        Spoils(name="near"),
        Spoils(name="far"),
        Keep(name="even"),
        Sends("array", name="array"),
        Sends("tuple", name="tuple"),
        Keep(name="values"),
        Sends("stranger", name="stranger"),
        Keep(name="host"),
        Count(3, name="short"),
        Endless(name="long"),
        Join(name="join"),
        Keep(name="pairs"),
    ]
    connections = [
        ("bag.y", "near.x"),
        ("bag.y", "far.x"),
        ("bag.even", "even.x"),
        ("array.y", "values.x"),
        ("tuple.y", "values.x"),
        ("stranger.y", "host.x"),
        ("short.y", "join.a"),
        ("long.y", "join.b"),
        ("join.y", "pairs.x"),
    ]
    together = {"one": ["bag", "near", "array", "tuple", "stranger", "host", "short", "long"]}
    groups = {name: group for group, names in together.items() for name in names}
    return components, connections, {one.name: groups.get(one.name, "two") for one in components}


def is_satisfied(process: Process) -> None:
    """Assert that all that the model asks for was given."""
    got: dict[str, Any] = {name: one.got for name, one in process.components.items() if isinstance(one, Keep)}
    bags = [list(range(length)) for length in range(1, 8)]
    assert got["near"] == bags  # each as it was when it was sent, whoever spoils it
    assert got["far"] == bags
    assert got["even"] == [0, 2, 4, 6]  # what was not set was not sent; what was set at the end was
    array, others = sorted(got["values"], key=lambda one: isinstance(one, tuple))
    assert array.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert others == (1, {"a": {2, 3}}, b"\x00")
    assert len(got["pairs"]) == 3  # and the other end of the join has ended
    assert {str(one.status) for one in process.components.values()} == {"completed"}


@component(inputs=["x"], outputs=["y"])
def triple(x: int) -> dict[str, int]:
    """Three times."""
    return {"y": 3 * x}
