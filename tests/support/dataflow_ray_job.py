"""A job on Ray, for tests that kill it: ``python -m tests.support.dataflow_ray_job ADDRESS DATABASE JOB N PIDS``.

Prints ``checkpoint N`` when one is safe; in the end what came out, as JSON. The components write the ids of the Python
processes that they run in to the file ``PIDS``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from pathlib import Path

import ray

from stbass.dataflow import AsyncioConnector, ConnectorSpec, RayProcess
from stbass.dataflow.state import SqliteStateBackend
from tests.support.dataflow_graphs import Keeps, Numbers, Sums
from tests.support.dataflow_remote import Where


class Slow(Where):
    """Takes a moment for each value, so that the job lasts for some checkpoints."""

    async def step(self) -> None:
        await asyncio.sleep(0.001)
        await super().step()


CONNECTIONS = [("a.y", "b.x"), ("b.y", "w.x"), ("w.y", "sink.x")]


class Printing(RayProcess):
    """Says when a checkpoint is safe."""

    async def _committed(self, n: int) -> None:
        await super()._committed(n)
        sys.stdout.write(f"checkpoint {n}\n")
        sys.stdout.flush()


def make(n: int, pids: Path, state: SqliteStateBackend, kind: type[Printing] = Printing) -> Printing:
    """The process."""
    return kind(
        [Numbers(n, name="a"), Sums(name="b"), Slow(pids, name="w"), Keeps(name="sink")],
        [AsyncioConnector(ConnectorSpec(source, target), maxsize=16) for source, target in CONNECTIONS],
        name="job",
        state=state,
        placement={"a": "first", "b": "first"},
        checkpoint_every=0.05,
    )


async def main(address: str, path: str, job: str, n: str, pids: str) -> None:
    """Run it to its end."""
    ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    async with make(int(n), Path(pids), SqliteStateBackend(path, job_id=job)) as process:
        await process.run()
    sink = process.components["sink"]
    assert isinstance(sink, Keeps)
    sys.stdout.write(json.dumps(sink.got) + "\n")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
