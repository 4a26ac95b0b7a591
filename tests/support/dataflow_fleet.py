"""Components for the tests of processes on a fleet, and the program that a test kills.

``python -m tests.support.dataflow_fleet URL DATABASE JOB LOG`` runs the job on the fleet of that Redis, and prints what
came out as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from stbass.backends.celery import CeleryBackend, make_app
from stbass.dataflow import CeleryProcess, Component, IOController, StopEvent, component
from stbass.dataflow.state import SqliteStateBackend
from tests.support.dataflow import Count, Keep, wire
from tests.support.waiting import until

LEASE = 1.0
"""Of the tests' workers and producers, in seconds."""


class OurError(Exception):
    """Of the user's own."""


class Marked(Component):
    """Passes values on, and writes into a file what is done with it."""

    io = IOController(inputs=["x"], outputs=["y"])
    x: Any

    def __init__(
        self, log: str, *args: Any, fail: str = "", pause: float = 0.0, after: str = "", **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.log = log
        self.fail = fail
        self.pause = pause
        self.after = after
        self.count = 0
        self.note("made")

    def note(self, what: str) -> None:
        """A line in the file; it raises if it was made so."""
        with Path(self.log).open("a") as file:
            file.write(f"{self.name} {what}\n")
        if what == self.fail:
            raise OurError(f"{self.name} {what}")

    async def init(self) -> None:
        self.note("init")

    async def step(self) -> None:
        if self.after:
            # Another component, which writes into this file, has begun.
            await until(lambda: " step" in Path(self.after).read_text(), timeout=30)
        self.count += 1
        self.note(f"step {self.count}")
        if self.pause:
            await asyncio.sleep(self.pause)
        self.y = self.x

    async def destroy(self) -> None:
        self.note("destroy")

    def committed(self, n: int) -> None:
        self.note(f"committed {n}")


class Waits(Marked):
    """A step that never ends by itself."""

    async def step(self) -> None:
        self.note("step")
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.note("cancelled")
            raise


class Blocks(Marked):
    """A step that lets nobody else have the event loop, for so many seconds."""

    async def step(self) -> None:
        self.note("step")
        time.sleep(self.pause)  # noqa: ASYNC251 - that is what it is for


class Heavy(Component):
    """Large values, and a large state."""

    io = IOController(inputs=["x"], outputs=["y"])
    x: int

    def __init__(self, size: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.size = size
        self.kept = "k" * size

    async def step(self) -> None:
        self.y = str(self.x % 10) * self.size


class Length(Component):
    """How long its input is."""

    io = IOController(inputs=["x"], outputs=["y"])
    x: str

    async def step(self) -> None:
        self.y = [self.x[0], len(self.x)]


class Stops(Component):
    """Passes values on, and stops the process after so many."""

    io = IOController(inputs=["x"], outputs=["y"])
    x: Any

    def __init__(self, after: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.after = after

    async def step(self) -> None:
        self.y = self.x
        self.after -= 1
        if not self.after:
            self.io.queue_event(StopEvent(source=self.name))


class Tells(Component):
    """An endless source that writes down how many values it has given."""

    io = IOController(outputs=["y"])

    def __init__(self, path: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.path = path
        self.made = 0

    async def step(self) -> None:
        self.made += 1
        await asyncio.to_thread(Path(self.path).write_text, str(self.made))
        self.y = self.made


class Lags(Component):
    """Takes so many values, each when the source stands still, and keeps how far ahead that was."""

    io = IOController(inputs=["x"])
    exports: ClassVar[list[str] | None] = ["ahead"]
    x: int

    def __init__(self, path: str, count: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.path = path
        self.count = count
        self.ahead: list[int] = []

    async def step(self) -> None:
        # Time for the source to go ahead as far as it can; should it need more, the test only sees less.
        await asyncio.sleep(0.05)
        self.ahead.append(int(Path(self.path).read_text() or 0) - self.x)
        self.count -= 1
        if not self.count:
            await self.io.close()


class Scale(Component):
    """Its input times a parameter of the process."""

    io = IOController(inputs=["x"], outputs=["y"])
    x: int

    async def step(self) -> None:
        self.y = self.x * self.parameters["factor"]


@component(inputs=["x"], outputs=["y"])
def squared(x: int) -> dict[str, int]:
    """As a function."""
    return {"y": x * x}


class Options:
    """Nothing that could travel."""


class Takes(Component):
    """Takes anything."""

    def __init__(self, what: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.what = what

    async def step(self) -> None:
        await self.io.close()


def job(
    backend: CeleryBackend,
    database: Path | str,
    job_id: str,
    log: Path | str,
    *,
    n: int = 40,
    pause: float = 0.02,
    places: Mapping[str, str] | None = None,
) -> CeleryProcess:
    """A job that takes a while: a source on one worker, a step on another, a sink on the first."""
    return CeleryProcess(
        [Count(n, name="source"), Marked(str(log), name="middle", pause=pause), Keep(name="sink")],
        [wire("source.y", "middle.x", maxsize=4), wire("middle.y", "sink.x", maxsize=4)],
        name="job",
        state=SqliteStateBackend(str(database), job_id=job_id),
        placement=places or {"source": "one@left", "middle": "right", "sink": "two@left"},
        backend=backend,
        checkpoint_every=0.05,
    )


async def _main(url: str, database: str, job_id: str, log: str) -> None:
    backend = CeleryBackend(make_app("tests", broker_url=url, stbass_lease=LEASE), lease=LEASE)
    async with job(backend, database, job_id, log) as process:
        await process.run()
        sink = process.components["sink"]
        assert isinstance(sink, Keep)
        sys.stdout.write(json.dumps(sink.got))


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
