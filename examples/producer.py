"""A program that uses a fleet: four agents on two endpoints, all results within thirty seconds.

Start a fleet first, with ``docker compose up`` or ``make dev``, and set ``STBASS_BROKER_URL`` as that says.
"""

from __future__ import annotations

import asyncio

from celery_app import app
from celery_app.agents import classify, embed, reason, summarize
from stbass import PLACED_PAR, BackendRegistry, FailurePolicy, Placement
from stbass.backends.celery import CeleryBackend

REVIEWS = ["The parcel came a day early.", "The parcel never came.", "The parcel is blue."]


async def main() -> None:
    """Run the agents and print what came of each."""
    registry = BackendRegistry()
    registry.register("anthropic", CeleryBackend(app))  # the queue "anthropic"
    registry.register("local:*", CeleryBackend(app))  # the queue named as the endpoint
    result = await PLACED_PAR(
        (reason("Why is the sky blue?"), Placement(model="opus", endpoint="anthropic")),
        (classify(REVIEWS), Placement(model="haiku", endpoint="anthropic")),
        (summarize(REVIEWS), Placement(model="haiku", endpoint="anthropic")),
        (embed(REVIEWS), Placement(model="nomic", endpoint="local:8080")),
        on_failure=FailurePolicy.COLLECT,
        deadline=30.0,
        registry=registry,
    ).run()
    for each in result.results:
        name = each.run.process_name if each.run is not None else "?"
        print(f"{name}: {each.value}" if each.is_ok else each.failure.summary)
    if not result.is_ok:
        raise SystemExit(1)


if __name__ == "__main__":
    asyncio.run(main())
