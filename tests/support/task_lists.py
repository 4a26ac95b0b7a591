"""The ways to execute a task list."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from stbass.tasklist import Process

__all__ = ["WAYS", "Run", "inside_a_loop", "on_a_loop", "sync"]

Run = Callable[..., Any]


def sync(process: Process, **options: Any) -> Any:
    return process.execute(**options)


def on_a_loop(process: Process, **options: Any) -> Any:
    return asyncio.run(process.execute_async(**options))


def inside_a_loop(process: Process, **options: Any) -> Any:
    async def program() -> Any:
        return process.execute(**options)

    return asyncio.run(program())


WAYS = [sync, on_a_loop, inside_a_loop]
