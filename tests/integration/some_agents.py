"""Agents for the tests of the command line."""

from __future__ import annotations

from stbass.process import Process, ProcessContext


@Process
async def greet(ctx: ProcessContext) -> str:
    ctx.log.info("greeting")
    return f"hello from {ctx.process_name}"
