"""What something costs while nothing happens: its processor time, and the commands it sends to Redis."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable

import psutil
from redis.asyncio import Redis

from benchmarks.peers.driver import processor_seconds

__all__ = ["Cost", "cost_of", "local_ports"]

Cost = tuple[float, float]
"""Share of one core in percent; Redis commands per second."""


def local_ports(pid: int) -> set[int]:
    """The local TCP ports of a process and its children, by which Redis knows their connections."""
    process = psutil.Process(pid)
    everyone = [process, *process.children(recursive=True)]
    return {int(one.laddr.port) for each in everyone for one in each.net_connections(kind="tcp")}


async def cost_of(url: str, pids: Iterable[int], seconds: float, *, beside: Iterable[int] = ()) -> dict[int, Cost]:
    """What each process costs over so many seconds, everything it and its children send to Redis included.

    Args:
        beside: children of it that are something else: what they send does not count.
    """
    pids = list(pids)
    counts: Counter[int] = Counter()

    async def watch(client: Redis) -> None:
        async with client.monitor() as monitor:
            ready.set_result(None)
            async for command in monitor.listen():
                # What a Lua script calls is part of the one command that runs the script.
                if command["client_type"] != "lua":
                    counts[int(command["client_port"])] += 1

    ready = asyncio.get_running_loop().create_future()
    async with Redis.from_url(url) as client:
        watcher = asyncio.create_task(watch(client))
        await ready
        before = {pid: processor_seconds(pid) for pid in pids}
        counts.clear()
        await asyncio.sleep(seconds)
        after = {pid: processor_seconds(pid) for pid in pids}
        watcher.cancel()
        await asyncio.wait([watcher])
    costs = {}
    others = {port for pid in beside for port in local_ports(pid)}
    for pid in pids:
        commands = sum(counts[port] for port in local_ports(pid) - others)
        costs[pid] = ((after[pid] - before[pid]) / seconds * 100, commands / seconds)
    return costs
