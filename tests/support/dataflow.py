"""Components that the tests of dataflow put together."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterable
from typing import Any, ClassVar

from stbass.dataflow import AsyncioConnector, Component, ConnectorSpec, IOController, LocalProcess, Process
from stbass.dataflow.engine.checkpoints import Checkpoints
from stbass.dataflow.model.components import wiring_of
from stbass.dataflow.state import DictStateBackend


def wire(source: str, target: str, **options: Any) -> AsyncioConnector:
    """A connector."""
    return AsyncioConnector(ConnectorSpec(source, target), **options)


def local(components: Iterable[Component], *connections: tuple[str, str], **options: Any) -> LocalProcess:
    """A process on this event loop, its connections as pairs of text."""
    return LocalProcess(list(components), [wire(source, target) for source, target in connections], **options)


class Lasting(DictStateBackend):
    """Outlives the process that uses it, in a test: as a file would."""

    durable = True

    def __init__(self, job_id: str | None = None, *, before: Lasting | None = None) -> None:
        super().__init__(job_id)
        if before is not None:
            self._jobs = copy.deepcopy(before._jobs)
            for job in self._jobs.values():
                job.holder = None  # as a lock ends with its holder

    def after_death(self) -> Lasting:
        """What a run that dies now leaves to the next; what it still does to the store here is not seen there."""
        return Lasting(self.job_id, before=self)


def checkpoints_of(process: Process) -> Checkpoints:
    """Takes the process's checkpoints: for tests that want one at a moment of their own."""
    [found] = [one for one in vars(process).values() if isinstance(one, Checkpoints)]
    return found


class Count(Component):
    """Sends 0 … n-1 on ``y``, and closes in the step of the last."""

    io = IOController(outputs=["y"])

    def __init__(self, n: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.n = n
        self.numbers = iter(range(n))
        self.made = 0

    async def step(self) -> None:
        number = next(self.numbers)
        self.y = number
        self.made += 1
        if number == self.n - 1:
            await self.io.close()


class Endless(Component):
    """Sends 0, 1, 2, … on ``y`` until somebody ends it."""

    io = IOController(outputs=["y"])

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.made = 0

    async def step(self) -> None:
        self.y = self.made
        self.made += 1


class Add(Component):
    """Sends ``x`` and a number more on ``y``."""

    io = IOController(inputs=["x"], outputs=["y"])
    x: Any

    def __init__(self, more: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.more = more

    async def step(self) -> None:
        self.y = self.x + self.more


class Join(Component):
    """Sends the pair of ``a`` and ``b``."""

    io = IOController(inputs=["a", "b"], outputs=["y"])
    a: Any
    b: Any

    async def step(self) -> None:
        self.y = (self.a, self.b)


class Keep(Component):
    """Keeps what comes on ``x``."""

    io = IOController(inputs=["x"])
    exports: ClassVar[list[str] | None] = ["got"]
    x: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.got: list[Any] = []

    async def step(self) -> None:
        self.got.append(self.x)


class Lingers(Keep):
    """Does not end when it is told that a checkpoint is safe, or that the run has ended."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.is_told = asyncio.Event()

    async def init(self) -> None:
        wiring_of(self).at_good_end = self._linger

    async def committed(self, n: int) -> None:
        await self._linger()

    async def _linger(self) -> None:
        self.is_told.set()
        await asyncio.get_running_loop().create_future()

    def checkpoint(self) -> dict[str, Any]:
        return {}


class Fail(Component):
    """Raises in the step number ``at``, from 1."""

    io = IOController(inputs=["x"], outputs=["y"])
    x: Any

    def __init__(self, at: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.at = at
        self.made = 0

    async def step(self) -> None:
        self.made += 1
        if self.made == self.at:
            raise ValueError("no more of this")
        self.y = self.x


class Forever(Component):
    """A step that never ends; tells when it began and how it ended."""

    io = IOController(outputs=["y"])
    transient = ("began",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.began = asyncio.Event()
        self.destroyed = self.was_cancelled = False

    async def step(self) -> None:
        self.began.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise

    async def destroy(self) -> None:
        self.destroyed = True
