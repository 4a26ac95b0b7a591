"""A workflow whose nodes sit on three endpoints, with a real worker for each, which it starts itself.

Run it with ``python -m examples.workflow_fleet``; it needs
``pip install "stbass-celery[celery]"`` and a ``redis-server``.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path

from examples.workflow_nodes import Crawl, Embed, Reason, Report
from stbass import BackendRegistry, Placement
from stbass.backends.celery import CeleryBackend, make_app
from stbass.testing import RedisServer, Worker
from stbass.workflow import Workflow

ROOT = Path(__file__).parents[1]
ENDPOINTS = ("web", "anthropic", "local:8080")


def research(registry: BackendRegistry) -> Workflow:
    """The workflow: crawl, then reason and embed at the same time, each elsewhere; then report here."""
    workflow = Workflow(process_id="research", registry=registry)
    crawl = Crawl(pages=5).register_to(workflow, placement=Placement(endpoint="web"))
    reason = Reason().register_to(workflow, [crawl], placement=Placement(model="opus", endpoint="anthropic"))
    embed = Embed().register_to(workflow, [crawl], placement=Placement(model="nomic", endpoint="local:8080"))
    Report().register_to(workflow, [reason, embed])
    return workflow


async def run(url: str, workers: dict[str, Worker]) -> None:
    """Run it on the fleet at ``url``, and say who did what."""
    backend = CeleryBackend(make_app(broker_url=url))
    registry = BackendRegistry()
    registry.register("*", backend)
    workflow = research(registry)
    results = await workflow.execute({"crawl": {"site": "example.org"}}, deadline=30)
    pids = {worker.pid: endpoint for endpoint, worker in workers.items()}
    for name in ("crawl", "reason", "embed"):
        process = workflow.nodes[name].process
        print(f"{name}: {process.metadata.state.value} by the worker of {pids[results[name].data['pid']]}")
    print(f"report: {results['report'].data}")
    print(workflow.to_mermaid("LR"))
    await backend.aclose()


def main() -> None:
    """Start a Redis and a worker per endpoint; all of it ends with this program."""
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        env = {"STBASS_BROKER_URL": redis.url, "STBASS_RESULT_BACKEND": redis.url}
        workers = {
            endpoint: stack.enter_context(
                Worker("celery_app", endpoint, env=env, include=["examples.workflow_nodes"], cwd=ROOT)
            )
            for endpoint in ENDPOINTS
        }
        asyncio.run(run(redis.url, workers))


if __name__ == "__main__":
    main()
