"""What tests of backends share."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from stbass import PLACED_PAR, BackendRegistry, ExecutionBackend, Placement, Process

__all__ = ["THERE", "registry_of", "run_four", "until_set"]

THERE = Placement(endpoint="there")


def registry_of(backend: ExecutionBackend, *names: str) -> BackendRegistry:
    """A registry in which the backend stands under these names, or else for every placement."""
    registry = BackendRegistry()
    for name in names or ("*",):
        registry.register(name, backend)
    return registry


async def run_four(backend: ExecutionBackend, process: Process) -> list[Any]:
    """The values of four runs at once."""
    values: list[Any] = (await PLACED_PAR(*[(process, THERE)] * 4, registry=registry_of(backend)).run()).value
    return values


async def until_set(event: threading.Event) -> None:
    """Wait for an event of another thread."""
    assert await asyncio.to_thread(event.wait, 5)
