"""Processes on real workers that do what the test says, when it says so: no test has to guess, or to wait a while.

A :class:`Puppet` connects to the test's :class:`Puppeteer` over loopback, says which attempt it is and where it runs,
and follows orders. The end of the connection tells how it ended; that of a killed worker ends without a word.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from typing import Any, Self

from stbass._process.context import ProcessContext
from stbass.process import Process

__all__ = ["Hand", "Puppet", "Puppeteer", "imported"]


# On the worker -----------------------------------------------------------------------------------


class Puppet(Process):
    """Report to the port, and do as told: make a checkpoint, return, raise, run a system command."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def run(self, ctx: ProcessContext) -> Any:
        """Follow orders."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)

        def say(**what: Any) -> None:
            writer.write(json.dumps(what).encode() + b"\n")

        try:
            say(
                name=ctx.process_name,
                id=ctx.process_id,
                attempt=ctx.attempt,
                resumed_from=ctx.resumed_from,
                pid=os.getpid(),
                parent=os.getppid(),
            )
            while line := await reader.readline():
                what, value = json.loads(line)
                if what == "checkpoint":
                    ctx.checkpoint(value)
                elif what == "return":
                    say(end="returned")
                    return value
                elif what == "raise":
                    say(end="raised")
                    raise LookupError(value)
            raise ConnectionError("the test is over")
        except asyncio.CancelledError:
            say(end="cancelled")
            raise
        finally:
            writer.close()


class _Imported(Process):
    def __init__(self, *modules: str) -> None:
        self.modules = modules

    async def run(self, ctx: ProcessContext) -> list[str]:
        return [module for module in self.modules if module in sys.modules]


imported = _Imported
"""Which of the given modules the worker has imported."""


# In the test -------------------------------------------------------------------------------------


class Hand:
    """One run of a puppet."""

    def __init__(self, hello: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.name: str = hello["name"]
        self.process_id: str = hello["id"]
        self.attempt: int = hello["attempt"]
        self.resumed_from: Any = hello["resumed_from"]
        self.pid: int = hello["pid"]
        self.parent: int = hello["parent"]
        self._reader = reader
        self._writer = writer

    def __repr__(self) -> str:
        return f"<{self.name}, attempt {self.attempt}, in process {self.pid}>"

    def order(self, what: str, value: Any = None) -> None:
        """Tell it: ``checkpoint``, ``return`` or ``raise``."""
        self._writer.write(json.dumps([what, value]).encode() + b"\n")

    async def ended(self) -> str:
        """Wait for its end: ``returned``, ``raised``, ``cancelled``, or ``killed`` if it could say nothing."""
        try:
            line = await self._reader.readline()
        except ConnectionError:
            line = b""
        self._writer.close()
        return str(json.loads(line)["end"]) if line else "killed"


class Puppeteer:
    """Where puppets report: ``async with Puppeteer() as puppeteer: … Puppet(puppeteer.port) …``."""

    def __init__(self) -> None:
        self.hands: list[Hand] = []
        """Every run that ever reported, in order."""
        self.on_meeting: Callable[[Hand], None] = lambda hand: None
        """Called with each run when it reports."""
        self._changed = asyncio.Condition()
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def wait_for(self, count: int, which: Callable[[Hand], bool] = lambda hand: True) -> list[Hand]:
        """Wait until that many runs (of those that ``which`` accepts) have reported; gives them back."""
        async with self._changed:
            await self._changed.wait_for(lambda: sum(map(which, self.hands)) >= count)
        return [hand for hand in self.hands if which(hand)]

    async def named(self, name: str, attempt: int = 1) -> Hand:
        """Wait until that attempt of the puppet of that name has reported."""
        [found] = await self.wait_for(1, lambda hand: (hand.name, hand.attempt) == (name, attempt))
        return found

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._meet, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for hand in self.hands:
            hand._writer.close()

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        if not line:
            writer.close()
            return
        hand = Hand(json.loads(line), reader, writer)
        async with self._changed:
            self.hands.append(hand)
            self._changed.notify_all()
        self.on_meeting(hand)
