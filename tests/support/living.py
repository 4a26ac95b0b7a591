"""Processes, tasks, nodes and components that fail as agents do, go on where they were, log, and use tokens."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

from stbass.context import running_context
from stbass.dataflow import Component, IOController
from stbass.process import Process, ProcessContext
from stbass.workflow import BaseProcess, ProcessConfig

log = logging.getLogger("library.of.somebody")


class Response:
    """As those of HTTP clients: it cannot travel."""

    def __init__(self, headers: dict[str, str]) -> None:
        self.headers = headers
        self.socket = object()


class Refused(Exception):
    """An answer with a status, as SDKs raise it."""

    def __init__(self, status: int, headers: dict[str, str] | None = None) -> None:
        super().__init__(f"status {status}")
        self.status_code = status
        self.response = Response(headers or {})


class RateLimited(Refused):
    """Come back later."""


class Unauthorised(Refused):
    """Never come back."""


@Process
async def unauthorised(ctx: ProcessContext) -> None:
    """Fail with what no retry helps."""
    ctx.checkpoint(ctx.attempt)
    raise Unauthorised(401)


class GoesOn(Process):
    """Save a checkpoint and fail, until the attempt whose number is given; gives back what each found.

    Args:
        succeeds_at: that number.
        headers: of the responses that it fails with.
    """

    def __init__(self, succeeds_at: int, headers: dict[str, str] | None = None) -> None:
        self.succeeds_at = succeeds_at
        self.headers = headers

    async def run(self, ctx: ProcessContext) -> Any:
        """Fail, or say what came before."""
        found = [*(ctx.resumed_from or []), ctx.attempt]
        ctx.checkpoint(found)
        if ctx.attempt < self.succeeds_at:
            raise RateLimited(429, self.headers)
        return found


class Uses(Process):
    """Use some tokens and money, so many times, and fail then if told to.

    Args:
        times: how often.
        fails_below: the attempt before which it fails.
    """

    def __init__(self, times: int, fails_below: int = 1) -> None:
        self.times = times
        self.fails_below = fails_below

    async def run(self, ctx: ProcessContext) -> int:
        """Use them."""
        for _ in range(self.times):
            ctx.usage(tokens_in=6, tokens_out=4, cost=0.1, model="opus")
            await asyncio.sleep(0)
        if ctx.attempt < self.fails_below:
            raise RateLimited(429)
        return self.times


@Process
async def spends(ctx: ProcessContext) -> None:
    """Use ten tokens, again and again."""
    while True:
        ctx.usage(tokens_out=10)
        await asyncio.sleep(0.01)


@Process
async def for_ever(ctx: ProcessContext) -> None:
    """Wait until it is cancelled."""
    await asyncio.Event().wait()


@Process
async def logs(ctx: ProcessContext) -> str:
    """Log by oneself, and as a library does."""
    ctx.log.warning("own line of %s", ctx.process_id)
    await asyncio.sleep(0)
    log.warning("plain line of %s", ctx.process_id)
    return ctx.process_id


@Process
def logs_in_a_thread(ctx: ProcessContext) -> str:
    """The same, in a thread."""
    log.warning("plain line of %s", ctx.process_id)
    return ctx.process_id


# The same of those that are given no context -----------------------------------------------------


def use(tokens: int) -> int:
    """Use so many tokens."""
    ctx = running_context()
    assert ctx is not None
    ctx.usage(tokens_out=tokens)
    return tokens


async def keep_using() -> None:
    """Use ten tokens, again and again."""
    while True:
        use(10)
        await asyncio.sleep(0.01)


async def wait_for_ever() -> None:
    """Wait until it is cancelled."""
    await asyncio.Event().wait()


class Using(BaseProcess):
    """A node that uses so many tokens; with 0, ten again and again; with -1, it only waits.

    Args:
        name: its id.
        tokens: that number.
        config: what else its configuration says.
    """

    def __init__(self, name: str, tokens: int, **config: Any) -> None:
        super().__init__(ProcessConfig(process_id=name, **config))
        self.tokens = tokens

    async def execute(self, input_data: Any) -> int:
        """Use them."""
        await (wait_for_ever() if self.tokens < 0 else keep_using() if not self.tokens else asyncio.sleep(0))
        return use(self.tokens)


class UsingInThread(BaseProcess):
    """A node whose sync code uses so many tokens."""

    def __init__(self, name: str, tokens: int, **config: Any) -> None:
        super().__init__(ProcessConfig(process_id=name, **config))
        self.tokens = tokens

    def process(self, input_data: Any) -> int:
        """Use them."""
        return use(self.tokens)


class Spending(Component):
    """Passes values on, and uses ten tokens for each."""

    io = IOController(inputs=["x"], outputs=["y"])
    x: Any

    async def step(self) -> None:
        use(10)
        self.y = self.x


class UsesUntilItIsLost(Process):
    """Uses 50 tokens, and waits for the end of its worker; then 100, and fails; then 10.

    Args:
        path: a file in which each attempt writes a line with its number.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    async def run(self, ctx: ProcessContext) -> None:
        """Use them."""
        with self.path.open("a") as file:
            file.write(f"{ctx.attempt}\n")
        attempt = len(self.path.read_text().split())
        for _ in range({1: 5, 2: 10}.get(attempt, 1)):
            ctx.usage(tokens_in=4, tokens_out=6, model="opus")
        if attempt == 1:
            await asyncio.Event().wait()
        if attempt == 2:
            raise RateLimited(429)
