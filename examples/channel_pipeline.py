"""A pipeline of four stages on four endpoints, with a channel between each two: ``make channels``.

It starts a Redis and a worker for each endpoint itself. The program makes its channels in memory; because the stages
are placed on a fleet, the channels move to the fleet's Redis before anything starts. Without the placements the same
program runs on one event loop, which it does first.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from time import perf_counter

from examples.channel_stages import Source, measure, split, total
from stbass import PLACED_PAR, BackendRegistry, Chan, Placement
from stbass.backends.celery import CeleryBackend, make_app
from stbass.testing import RedisServer, Worker

ENDPOINTS = ("reader", "splitter", "measurer", "adder")
ROUNDS = 200


async def pipeline(registry: BackendRegistry, capacity: int = 0) -> list[str]:
    """Run the four stages; gives back what each tells."""
    texts: Chan[str] = Chan(str, name="texts", capacity=capacity)
    words: Chan[list[str]] = Chan(list[str], name="words", capacity=capacity)
    lengths: Chan[dict[str, int | str]] = Chan(dict[str, int | str], name="lengths", capacity=capacity)
    stages = [
        Source(ROUNDS).with_channels(out=texts),
        split.with_channels(inp=texts, out=words),
        measure.with_channels(inp=words, out=lengths),
        total.with_channels(inp=lengths),
    ]
    began = perf_counter()
    result = await PLACED_PAR(
        *((stage, Placement(endpoint=endpoint)) for stage, endpoint in zip(stages, ENDPOINTS, strict=True)),
        deadline=60.0,
        registry=registry,
    ).run()
    if not result.is_ok:
        raise SystemExit("\n".join(failure.detailed for failure in result.failures))
    print(f"{ROUNDS} values through four stages, channels on {texts.transport}: {perf_counter() - began:.2f} s")
    return [str(value) for value in result.value]


async def main() -> None:
    """On one event loop, then on four workers, then with room for 32 values in each channel."""
    await pipeline(BackendRegistry())
    with ExitStack() as stack:
        server = stack.enter_context(RedisServer())
        environment = {
            "STBASS_BROKER_URL": server.url,
            "STBASS_RESULT_BACKEND": server.url,
            "STBASS_INCLUDE": "examples.channel_stages",
        }
        workers = [Worker("celery_app", endpoint, env=environment) for endpoint in ENDPOINTS]
        async with asyncio.TaskGroup() as group:
            for worker in workers:
                group.create_task(asyncio.to_thread(stack.enter_context, worker))
        backend = CeleryBackend(make_app(broker_url=server.url, result_backend=server.url))
        registry = BackendRegistry()
        for endpoint in ENDPOINTS:
            registry.register(endpoint, backend)
        for endpoint, told in zip(ENDPOINTS, await pipeline(registry), strict=True):
            print(f"  {endpoint}: {told}")
        await pipeline(registry, capacity=32)
        await backend.aclose()
        left = [key for key in server.command("KEYS", "stbass:chan:*") if key]
        print(f"keys of channels that are left in Redis: {len(left)}")


if __name__ == "__main__":
    asyncio.run(main())
