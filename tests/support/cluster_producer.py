"""A producer as a program of its own: ``python -m tests.support.cluster_producer BROKER BACKEND PORT``."""

from __future__ import annotations

import asyncio
import sys

from stbass._values.endpoint import Placement
from stbass.backends.celery import CeleryBackend, make_app
from stbass.placement import PLACED_PAR
from stbass.result import FailurePolicy
from tests.support.backends import registry_of
from tests.support.puppets import Puppet


async def main(broker: str, results: str, port: int) -> None:
    """Run three puppets on two endpoints."""
    registry = registry_of(CeleryBackend(make_app(broker_url=broker, result_backend=results)))
    places = {"one": "anthropic", "two": "local:8080", "three": "anthropic"}
    await PLACED_PAR(
        *((Puppet(port).with_name(name), Placement(endpoint=endpoint)) for name, endpoint in places.items()),
        on_failure=FailurePolicy.COLLECT,
        registry=registry,
    ).run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
