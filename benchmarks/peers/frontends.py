"""Workflows and task lists beside what people write by hand.

``python -P frontends.py SUBJECT WORK``: SUBJECT is ``hand`` or ``stbass``; WORK is ``workflow``, ``workflow-built`` or
``tasklist``. Prints the seconds that one run takes, the median of several.
"""

from __future__ import annotations

import asyncio
import gc
import graphlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

LAYERS, WIDTH, NEEDS = 10, 100, 3
"""A graph: each node depends on so many of the layer before."""
TASKS = 10_000
REPEATS = 9


def graph() -> dict[str, list[str]]:
    """For each node what it depends on."""
    return {
        f"{layer}.{place}": [f"{layer - 1}.{(place + step) % WIDTH}" for step in range(NEEDS)] if layer else []
        for layer in range(LAYERS)
        for place in range(WIDTH)
    }


def no_op(_: int = 0) -> None:
    """Do nothing."""


# By hand -----------------------------------------------------------------------------------------


async def hand_node(given: dict[str, Any]) -> int:
    """Do nothing with what it depends on."""
    return len(given)


async def hand_workflow(needs: dict[str, list[str]]) -> dict[str, Any]:
    """Each node as soon as its own dependencies are done."""
    sorter = graphlib.TopologicalSorter(needs)
    sorter.prepare()
    results: dict[str, Any] = {}

    async def run(name: str) -> None:
        results[name] = await hand_node({needed: results[needed] for needed in needs[name]})
        sorter.done(name)
        for ready in sorter.get_ready():
            group.create_task(run(ready))

    async with asyncio.TaskGroup() as group:
        for ready in sorter.get_ready():
            group.create_task(run(ready))
    return results


async def hand_graph(built: bool) -> list[float]:
    """Samples of the workflow."""
    needs = graph()
    return [await timed_async(lambda: hand_workflow(graph() if built else needs)) for _ in range(REPEATS)]


def hand_tasks() -> None:
    """The executor's own map."""
    with ThreadPoolExecutor() as pool:
        assert len(list(pool.map(no_op, range(TASKS)))) == TASKS


# Ours --------------------------------------------------------------------------------------------


async def our_graph(built: bool) -> list[float]:
    """Samples of the workflow; ``built``: with making it."""
    from stbass.workflow import BaseProcess, ProcessConfig, Workflow, WorkflowNode

    class Node(BaseProcess):
        async def execute(self, input_data: Any) -> int:
            return len(input_data or {})

    needs = graph()

    def make() -> Workflow:
        workflow = Workflow()
        for name, dependencies in needs.items():
            workflow.add_node(WorkflowNode(Node(ProcessConfig(process_id=name)), dependencies))
        return workflow

    made = make()

    async def our_run() -> Any:
        return await (make() if built else made).execute()

    return [await timed_async(our_run) for _ in range(REPEATS)]


def our_tasks() -> None:
    """Filled and executed."""
    from stbass.tasklist import Process

    process = Process("benchmark", "parallel")
    for number in range(TASKS):
        process.add_task(no_op, number)
    assert len(process.execute()) == TASKS


# -------------------------------------------------------------------------------------------------


async def timed_async(work: Callable[[], Any]) -> float:
    """Seconds that it takes, without what earlier samples left for the garbage collector."""
    gc.collect()
    begun = time.perf_counter()
    assert len(await work()) == LAYERS * WIDTH
    return time.perf_counter() - begun


def timed(work: Callable[[], None]) -> float:
    """The same, for what is not awaited."""
    gc.collect()
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main(subject: str, work: str) -> None:
    """Measure, and print."""
    if work == "tasklist":
        tasks = {"hand": hand_tasks, "stbass": our_tasks}[subject]
        samples = [timed(tasks) for _ in range(REPEATS)]
    else:
        workflow = {"hand": hand_graph, "stbass": our_graph}[subject]
        samples = asyncio.run(workflow(work == "workflow-built"))
    print(json.dumps({"values": {"total": statistics.median(samples)}, "versions": {}}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
