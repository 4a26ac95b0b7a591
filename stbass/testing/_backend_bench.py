"""What the conformance checks of backends work with."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Self, TypeAlias

from stbass._engine.backend import ExecutionBackend
from stbass._engine.registry import BackendRegistry
from stbass._process.context import Composable
from stbass._values.endpoint import Placement
from stbass.testing._checks import require
from stbass.testing.backend_agents import Held

__all__ = ["BackendBench", "BackendCheck", "Make", "Visitor"]

Make: TypeAlias = Callable[
    [], ExecutionBackend | Awaitable[ExecutionBackend] | AbstractAsyncContextManager[ExecutionBackend]
]


class Visitor:
    """A :class:`Held` process that has called."""

    def __init__(self, label: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.label = label
        self._reader = reader
        self._writer = writer

    def let_go(self) -> None:
        """Let it end."""
        self._writer.write(b"go\n")

    async def last_words(self) -> str:
        """Wait until it has ended: ``cancelled``, or nothing if it was let go or killed."""
        return (await self._reader.read()).decode().strip()


class BackendBench:
    """A backend, registered for a placement, and a door where its processes call.

    Args:
        make: gives a new instance of the backend.
        placement: what it is registered for.
        host: the address by which its processes reach this machine.
    """

    def __init__(self, make: Make, placement: Placement, host: str) -> None:
        self._make = make
        self._host = host
        self._stack = AsyncExitStack()
        self._arrivals: asyncio.Queue[Visitor] = asyncio.Queue()
        self._port = 0
        self.placement = placement
        self.registry = BackendRegistry()
        self.backend: ExecutionBackend

    async def __aenter__(self) -> Self:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        server = await asyncio.start_server(self._open, self._host, 0, family=family)
        self._port = server.sockets[0].getsockname()[1]
        self._stack.callback(server.close)
        made: Any = self._make()
        if isinstance(made, AbstractAsyncContextManager):
            made = await self._stack.enter_async_context(made)
        elif isinstance(made, Awaitable):
            made = await made
        require(isinstance(made, ExecutionBackend), f"make() gave {made!r}, which is not an ExecutionBackend")
        self.backend = made
        self.registry.register(self.placement.endpoint or self.placement.model or "check", made)
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._stack.__aexit__(*error)

    async def _open(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._stack.callback(writer.close)
        label = (await reader.readline()).decode().strip()
        if label:
            self._arrivals.put_nowait(Visitor(label, reader, writer))

    def held(self, label: str) -> Held:
        """A process that calls, and waits until it is let go."""
        return Held(self._host, self._port, label)

    async def arrival(self) -> Visitor:
        """The next of them that calls."""
        return await self._arrivals.get()

    @property
    def nobody_called(self) -> bool:
        """Whether none has called that was not yet asked for."""
        return self._arrivals.empty()

    def pair(self, process: Composable) -> tuple[Composable, Placement]:
        """The process on the backend."""
        return process, self.placement


BackendCheck: TypeAlias = Callable[[BackendBench], Awaitable[None]]
