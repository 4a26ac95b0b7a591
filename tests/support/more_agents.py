"""Processes of a module that the tests' workers are not told to import."""

from __future__ import annotations

from stbass._process.context import ProcessContext
from stbass.process import Process


@Process
async def double(ctx: ProcessContext) -> int:
    """Never runs on a worker."""
    return 2
