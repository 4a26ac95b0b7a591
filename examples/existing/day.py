"""A day in the shop: ``python -m examples.existing.day``; with ``--agents`` also what only processes do.

Workers first, each in a terminal of its own (``SHOP_REDIS`` says where Redis is)::

    celery -A examples.existing.shop_with_agents worker -B -Q shop,paper
    stbass worker -A examples.existing.shop_with_agents -e agents
"""

from __future__ import annotations

import asyncio
import sys

from celery import chain

from examples.existing.agents import advert, describe
from examples.existing.shop import order, price, total, with_tax
from examples.existing.shop_with_agents import app
from stbass import PAR, PLACED_PAR, SEQ, BackendRegistry, Placement
from stbass.backends.celery import CeleryBackend, CeleryTaskProcess, signature

AGENTS = Placement(endpoint="agents")


def tasks() -> None:
    """What the application did before."""
    print("receipt:", order(["cup", "plate", "pot"]).delay().get(timeout=60))
    print("price:", price.delay("cup").get(timeout=60))
    print("chain:", chain(price.s("pot"), with_tax.s(percent=10)).delay().get(timeout=60))


async def agents() -> None:
    """Processes on their own workers, tasks as processes, and a process in a chain."""
    backend = CeleryBackend(app)
    registry = BackendRegistry(strict=True)
    registry.register("agents", backend)
    described = PLACED_PAR(*((describe(item), AGENTS) for item in ("cup", "pot")), registry=registry, deadline=60)
    print("descriptions:", (await described.run()).value)
    cost = CeleryTaskProcess(price)
    summed = await SEQ(PAR(cost("cup"), cost("pot")), CeleryTaskProcess(total), CeleryTaskProcess(with_tax)).run()
    print("tasks in a SEQ:", summed.value)
    await backend.aclose()


def main() -> None:
    """Run the day."""
    tasks()
    if "--agents" in sys.argv:
        asyncio.run(agents())
        in_a_chain = chain(price.s("plate"), with_tax.s(), signature(advert, app, queue="agents"))
        print("process in a chain:", in_a_chain.delay().get(timeout=60))


if __name__ == "__main__":
    main()
