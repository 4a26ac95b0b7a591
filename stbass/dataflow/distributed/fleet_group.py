"""The producer's side of one group of components on a fleet."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from stbass._channels.waiting import resolve
from stbass.dataflow.distributed.fleet_line import Line
from stbass.dataflow.distributed.group_handle import GroupHandle
from stbass.dataflow.distributed.groups import Group, GroupListener, GroupView
from stbass.errors import DataflowError, ProcessCancelled, StbassError, WireError
from stbass.wire import dumps, load_error

__all__ = ["FleetGroup"]


class FleetGroup(GroupHandle):
    """A group that is talked to over two lines: see :mod:`stbass.dataflow.distributed.fleet_host`.

    Args:
        group: the group.
        endpoint: where it is placed.
        listener: who hears of what happens in it.
        commands: the line to it.
        reports: the line from it.
    """

    def __init__(self, group: Group, endpoint: str, listener: GroupListener, commands: Line, reports: Line) -> None:
        super().__init__(group, listener)
        loop = asyncio.get_running_loop()
        self.endpoint = endpoint
        """Where it is placed."""
        self._commands = commands
        self._reports = reports
        self.running: asyncio.Future[None] = loop.create_future()
        """Done when a worker runs it; with an error if it was lost before."""
        self._making: asyncio.Future[None] = loop.create_future()
        self._calls: dict[int, asyncio.Future[bytes]] = {}
        self._number = 0
        self._over = False
        self._lost: Exception | None = None
        self._reading = loop.create_task(self._read(), name=f"stbass-group-{group.name}")

    # What it says ---------------------------------------------------------------------------------

    async def _read(self) -> None:
        try:
            async for text in self._reports.messages():
                self._take(text[:1], text[1:])
        except (StbassError, ValueError) as error:
            self.lose(error)
        else:
            self.lose(DataflowError(f"group {self.name!r} says no more"))

    def _take(self, kind: bytes, rest: bytes) -> None:
        if kind == b"r":
            self._heard(rest)
        elif kind == b"a":
            number, _, answer = rest.partition(b" ")
            call = self._calls.pop(int(number), None)
            if call is not None and not call.done():
                call.set_result(answer)
        elif kind == b"+":
            resolve(self.running)
        elif kind == b"m":
            resolve(self._making)
        elif kind == b"x":
            error = load_error(rest)
            self.lose(error if isinstance(error, Exception) else DataflowError(f"group {self.name!r} ended: {error!r}"))
        else:
            raise WireError(f"group {self.name!r} sent {kind!r}, which is nothing that there is")

    def lose(self, error: Exception) -> None:
        """The group is lost. Does nothing if that is known, or if it has ended in order."""
        if self._over or self._lost is not None:
            return
        self._lost = error
        waiting: list[asyncio.Future[Any]] = [self.running, self._making, *self._calls.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(error)
                future.exception()  # who waits for it hears of it; perhaps nobody does
        self._calls.clear()
        self._listener.lost(self.name, error)

    # What it is told ------------------------------------------------------------------------------

    def _order(self, name: str, *arguments: Any) -> None:
        self._commands.post(b"o" + dumps([name, *arguments]))

    async def _call(self, name: str, argument: bytes) -> bytes:
        if self._lost is not None:
            raise self._lost
        self._number += 1
        number = self._number
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._calls[number] = answer
        self._commands.post(b"c%d %b %b" % (number, name.encode(), argument))
        return await answer

    async def make(self) -> None:
        """Tell it to make its components; returns when it has."""
        self._commands.post(b"m")
        await self._making

    async def prepare(self) -> None:
        """Wait until its components are made; :class:`FleetRun` places all groups at once."""
        await self._making

    def cancel(self) -> None:
        if self._making.done():
            super().cancel()
        else:
            self.lose(ProcessCancelled(f"group {self.name!r} was cancelled before it began"))

    async def destroy(self) -> Mapping[str, GroupView]:
        if self.has_ended or not self._making.done():
            return {}
        try:
            return await super().destroy()
        except Exception:
            if self._lost is not None:
                return {}
            raise
        finally:
            self._over = True

    @property
    def is_lost(self) -> bool:
        """Whether the group was lost before it ended in order."""
        return self._lost is not None

    @property
    def has_ended(self) -> bool:
        """Whether it has ended in order, or was lost."""
        return self._over or self._lost is not None

    def close(self) -> None:
        """Stop reading its reports."""
        self._over = True
        self._reading.cancel()
        self._commands.abandon()
