"""A workflow: a coroutine, threads and a Python process, one that is tried again, one that may fail; then a resume.

Run it with ``python examples/workflow_article.py``; it needs nothing but stbass.
"""

from __future__ import annotations

import asyncio
from typing import Any

from stbass.workflow import (
    BaseProcess,
    ProcessConfig,
    ProcessType,
    RetryStrategy,
    Workflow,
    WorkflowError,
    create_workflow,
)


class Fetch(BaseProcess):
    """Fetches a text: waits for somebody else, so it is a coroutine on the event loop."""

    async def execute(self, input_data: dict[str, str]) -> str:
        """Fetch it."""
        await asyncio.sleep(0.05)
        return f"{input_data['title']}: processes that talk over channels do not share memory"


class Lookup(BaseProcess):
    """Looks something up with a library that blocks, in a thread; the first time, the line is busy."""

    tries = 0

    def process(self, input_data: Any) -> list[str]:
        """Look it up."""
        self.tries += 1
        if self.tries == 1:
            raise ConnectionError("the line is busy")
        return ["Hoare 1978", "May 1984"]


class Count(BaseProcess):
    """Computes, in a Python process of its own."""

    def process(self, input_data: Any) -> int:
        """Count the words."""
        return len(self.get_process_result(input_data, "fetch").split())


class Illustrate(BaseProcess):
    """Fails; the article can do without."""

    def process(self, input_data: Any) -> str:
        """Fail."""
        raise FileNotFoundError("no picture")


class Write(BaseProcess):
    """Puts everything together; the first time, it has no paper."""

    def __init__(self, config: ProcessConfig, paper: bool) -> None:
        super().__init__(config)
        self.paper = paper

    def process(self, input_data: Any) -> str:
        """Write it."""
        if not self.paper:
            raise RuntimeError("out of paper")
        sources = ", ".join(self.get_process_result(input_data, "lookup"))
        picture = "with" if "illustrate" in input_data else "without"
        return f"{self.get_process_result(input_data, 'count')} words, from {sources}, {picture} a picture"


def article(paper: bool) -> Workflow:
    """The workflow, with or without paper."""
    workflow = Workflow(max_threads=2, max_processes=1, process_id="article")
    fetch = Fetch(ProcessConfig(process_id="fetch")).register_to(workflow)
    lookup = Lookup(
        ProcessConfig(ProcessType.THREAD, "lookup", timeout=5, retry_strategy=RetryStrategy(2, delay_seconds=0.05))
    ).register_to(workflow)
    count = Count(ProcessConfig(ProcessType.PROCESS, "count", timeout=30)).register_to(workflow, [fetch])
    Illustrate(ProcessConfig(process_id="illustrate")).register_to(workflow, [fetch], required=False)
    Write(ProcessConfig(process_id="write"), paper).register_to(workflow, [lookup, count, "illustrate"])
    return workflow


def show(workflow: Workflow) -> None:
    """Where each node stands."""
    for name, node in workflow.nodes.items():
        metadata = node.process.metadata
        print(f"  {name}: {metadata.state.value}, {metadata.retries} retries, {metadata.last_error or 'no error'}")


async def main() -> None:
    """Run it until it fails, and go on from there."""
    first = article(paper=False)
    try:
        await first.execute({"fetch": {"title": "CSP"}})
    except WorkflowError as error:
        print(error)
    show(first)
    saved = first.to_json()

    second = article(paper=True).resume(saved)
    results = await second.execute()
    print(results["write"].data)
    print(f"fetched anew: {results['fetch'].start_time != first.results['fetch'].start_time}")
    print(second.to_mermaid("LR"))

    # A small one, in one expression.
    alone = create_workflow(Fetch(ProcessConfig(process_id="only")))
    print((await alone.execute({"only": {"title": "occam"}}))["only"].data)


if __name__ == "__main__":
    asyncio.run(main())
