"""Processes with arguments, for the tests of them; on a worker some of them are of another version."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pydantic

from stbass.placement import Placement
from stbass.process import Process, ProcessContext
from stbass.result import ProcessResult

ran: list[str] = []
if TYPE_CHECKING or os.environ.get("ARGUED_ON") != "worker":
    Number = str
else:
    Number = int


class Order(pydantic.BaseModel):
    number: int
    items: list[str] = []


@dataclass(frozen=True)
class Point:
    x: int
    y: int


@Process
async def summarise(ctx: ProcessContext, url: str, *, depth: int = 2, api_key: str = "none") -> str:
    ran.append(url)
    return f"{url} at {depth} with {api_key}"


@Process
def blocking(ctx: ProcessContext, left: int, right: int = 1) -> int:
    return left + right


@Process
async def fetch(ctx: ProcessContext, url: str) -> ProcessResult[str]:
    ran.append(url)
    return ProcessResult.ok(f"page of {url}")


@Process
async def described(ctx: ProcessContext, *values: Any, **named: Any) -> tuple[Any, ...]:
    return values, named


@Process(placement=Placement(endpoint="argued"))
async def resident(ctx: ProcessContext, *values: Any) -> tuple[Any, ...]:
    return values


@Process
async def shipped(ctx: ProcessContext, order: Order, at: Point | None = None) -> str:
    return f"{type(order).__name__} {order.number} {at}"


@Process
async def added(ctx: ProcessContext, left: int, right: int) -> int:
    return left + right


@Process
async def numbered(ctx: ProcessContext, number: Number) -> str:
    return f"number {number}"


@Process
async def nothing(ctx: ProcessContext) -> str:
    ran.append("nothing")
    return "nothing"


@Process
async def forgetful(ctx: ProcessContext, url: str) -> str:
    """Fails once, so that it is tried again."""
    if ctx.attempt == 1:
        raise ValueError("not yet")
    return f"{url}, attempt {ctx.attempt}"


@Process
async def several(ctx: ProcessContext) -> None:
    for each in ("first", "second"):
        await ctx.send("output", each)


class Titled(Process):
    def __init__(self, title: str, token: str = "", *, options: Any = None) -> None:
        self.title = title

    async def run(self, ctx: ProcessContext) -> str:
        return self.title
