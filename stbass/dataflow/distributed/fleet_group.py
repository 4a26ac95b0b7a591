"""The producer's side of one group of components on a fleet."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from stbass.dataflow.distributed.fleet_line import Line
from stbass.dataflow.distributed.groups import Group, GroupListener, GroupView
from stbass.dataflow.distributed.reports import heard, returned
from stbass.errors import DataflowError, ProcessCancelled, StbassError, WireError
from stbass.wire import dumps, load_error

__all__ = ["FleetGroup"]


class FleetGroup:
    """A :class:`~stbass.dataflow.distributed.groups.GroupHandle` that talks over two lines (see ``_fleet_host``).

    Args:
        group: the group.
        endpoint: where it is placed.
        listener: who hears of what happens in it.
        commands: the line to it.
        reports: the line from it.
    """

    def __init__(self, group: Group, endpoint: str, listener: GroupListener, commands: Line, reports: Line) -> None:
        loop = asyncio.get_running_loop()
        self._group = group
        self.endpoint = endpoint
        """Where it is placed."""
        self._listener = listener
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

    @property
    def name(self) -> str:
        """See ``GroupHandle``."""
        return self._group.name

    @property
    def components(self) -> Sequence[str]:
        """See ``GroupHandle``."""
        return [one.name for one in self._group.components]

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
            heard(self.name, rest, self._listener)
        elif kind == b"a":
            number, _, answer = rest.partition(b" ")
            call = self._calls.pop(int(number), None)
            if call is not None and not call.done():
                call.set_result(answer)
        elif kind == b"+":
            _settle(self.running)
        elif kind == b"m":
            _settle(self._making)
        elif kind == b"x":
            error = load_error(rest)
            self.lose(error if isinstance(error, Exception) else DataflowError(f"group {self.name!r} ended: {error!r}"))
        else:
            raise WireError(f"group {self.name!r} sent {kind!r}, which is nothing that there is")

    def lose(self, error: Exception) -> None:
        """It is there no more. Again, or after it has ended in order, does nothing."""
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

    def _order(self, *order: Any) -> None:
        self._commands.post(b"o" + dumps(list(order)))

    async def _call(self, name: str, argument: bytes) -> Any:
        if self._lost is not None:
            raise self._lost
        self._number += 1
        number = self._number
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._calls[number] = answer
        self._commands.post(b"c%d %b %b" % (number, name.encode(), argument))
        return returned(await answer)

    async def make(self) -> None:
        """Tell it to make its components; returns when it has."""
        self._commands.post(b"m")
        await self._making

    async def prepare(self) -> None:
        """See ``GroupHandle``. Whoever made it sees to that, for all groups at once."""
        await self._making

    async def init(self, parts: Mapping[str, bytes] | None) -> None:
        """See ``GroupHandle``."""
        texts = None if parts is None else {name: part.decode() for name, part in parts.items()}
        await self._call("init", dumps(texts, limit=2**31))

    async def step(self, number: int) -> bool:
        """See ``GroupHandle``."""
        return bool(await self._call("step", b"%d" % number))

    async def run(self, number: int) -> bool:
        """See ``GroupHandle``."""
        return bool(await self._call("run", b"%d" % number))

    async def committed(self, n: int) -> None:
        """See ``GroupHandle``."""
        await self._call("committed", b"%d" % n)

    async def views(self) -> Mapping[str, GroupView]:
        """See ``GroupHandle``."""
        found: Mapping[str, GroupView] = await self._call("views", b"null")
        return found

    def end_round(self, number: int) -> None:
        """See ``GroupHandle``."""
        self._order("end_round", number)

    def stall(self, number: int, text: str) -> None:
        """See ``GroupHandle``."""
        self._order("stall", number, text)

    def request_cut(self, n: int) -> None:
        """See ``GroupHandle``."""
        self._order("cut", n)

    def stop(self) -> None:
        """See ``GroupHandle``."""
        self._order("stop")

    def end(self, component: str, how: str) -> None:
        """See ``GroupHandle``."""
        self._order("end", component, how)

    def cancel(self) -> None:
        """See ``GroupHandle``."""
        if self._making.done():
            self._order("cancel")
        else:
            self.lose(ProcessCancelled(f"group {self.name!r} was cancelled before it began"))

    async def destroy(self) -> Mapping[str, GroupView]:
        """See ``GroupHandle``; one that was lost has nothing to give back."""
        if self._over or self.is_lost or not self._making.done():
            return {}
        try:
            found: Mapping[str, GroupView] = await self._call("destroy", b"null")
        except Exception:
            if self._lost is not None:
                return {}
            raise
        finally:
            self._over = True
        return found

    @property
    def is_lost(self) -> bool:
        """Whether it is there no more, without having ended in order."""
        return self._lost is not None

    @property
    def has_ended(self) -> bool:
        """Whether it has ended in order, or was lost."""
        return self._over or self._lost is not None

    def close(self) -> None:
        """Hear no more of it."""
        self._over = True
        self._reading.cancel()
        self._commands.abandon()


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
