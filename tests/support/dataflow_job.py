"""A job that reads, adds and writes, for tests that kill it: ``python -m tests.support.dataflow_job '{…}'``.

What it is given, as JSON:

========== ===================================================================================================
``state``  path of the SQLite database of its state
``job``    job id
``reader`` ``[class, arguments]`` of :mod:`stbass.dataflow.library`; it has the output ``n``
``writer`` the same; it has the inputs ``n`` and ``double``
``every``  seconds between checkpoints
``die``    ``[where, count, flag]``: the writer kills the program where it says, the count-th time that it comes there;
           only if there is no file ``flag``, which is made then. None: it does not.
========== ===================================================================================================

It prints ``checkpoint N`` when a checkpoint is safe, and ``done`` in the end.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from stbass.dataflow import AsyncioConnector, Component, ConnectorSpec, IOController, LocalProcess, library
from stbass.dataflow.library import DataWriter
from stbass.dataflow.state import SqliteStateBackend


class Double(Component):
    """Passes a number on, with twice as much; has counted them all, so that its own state matters too."""

    io = IOController(inputs=["n"], outputs=["n_out", "double"])
    n: int

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.count = 0

    def step(self) -> None:  # type: ignore[override]  # a step without `async` is allowed
        """Double it."""
        if self.count != self.n:
            raise RuntimeError(f"expected {self.count}, got {self.n}: lost or twice")
        self.count += 1
        self.n_out, self.double = self.n, 2 * self.n

    def committed(self, n: int) -> None:
        """Tell the test."""
        sys.stdout.write(f"checkpoint {n}\n")
        sys.stdout.flush()


def dying(kind: type[DataWriter], where: str, count: int, flag: Path) -> type[DataWriter]:
    """The same kind of writer, which kills its program at one point: before or after what a method does."""
    when, _, method = where.partition(" ")
    left = count

    def die() -> None:
        nonlocal left
        left -= 1
        if left == 0 and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    original = getattr(kind, method)

    def replaced(self: Any, *args: Any) -> Any:
        if when == "before":
            die()
        made = original(self, *args)
        if inspect.isawaitable(made):
            return finished(made)
        if when == "after":
            die()
        return made

    async def finished(made: Any) -> Any:
        found = await made
        if when == "after":
            die()
        return found

    return type(kind.__name__, (kind,), {method: replaced})


async def main(given: dict[str, Any]) -> None:
    """Run it to its end."""
    reader_kind, reader_arguments = given["reader"]
    writer_kind, writer_arguments = given["writer"]
    writer_class = getattr(library, writer_kind)
    if given.get("die"):
        where, count, flag = given["die"]
        writer_class = dying(writer_class, where, count, Path(flag))
    reader = getattr(library, reader_kind)(name="reader", field_names=["n"], **reader_arguments)
    writer = writer_class(name="writer", field_names=["n", "double"], **writer_arguments)
    process = LocalProcess(
        [reader, Double(name="double"), writer],
        [
            AsyncioConnector(ConnectorSpec(source=source, target=target))
            for source, target in (
                ("reader.n", "double.n"),
                ("double.n_out", "writer.n"),
                ("double.double", "writer.double"),
            )
        ],
        name="job",
        state=SqliteStateBackend(given["state"], job_id=given["job"]),
        checkpoint_every=given["every"],
    )
    async with process:
        await process.run()
    sys.stdout.write("done\n")


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
