"""What runs in a Ray actor: a group of components.

Everything that goes to and from it beside names and numbers is bytes that :mod:`stbass.wire` wrote; nothing of the
user's is ever pickled.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ray.exceptions import RayActorError

from stbass._process.context import ProcessContext, frame_of, running_as
from stbass._process.meter import Meter
from stbass._values.usage import Usage
from stbass.dataflow.distributed.group_side import RemoteGroup
from stbass.dataflow.engine.edge import Edge
from stbass.wire import dump_error, dumps

__all__ = ["GroupActor"]


class _Peers:
    """Carries messages to other actors: a ``Carrier``."""

    def __init__(self, actors: Mapping[str, Any], homes: Mapping[str, str]) -> None:
        self._actors = actors
        self._homes = homes

    async def forth(self, edge: Edge, message: bytes) -> bytes:
        try:
            answer: bytes = await self._actors[self._homes[edge.target]].deliver.remote(edge.id, message)
        except RayActorError:
            await asyncio.Future[None]()  # whoever runs the process hears of it too, and ends this group
            raise
        return answer

    async def back(self, edge: Edge) -> None:
        try:
            await self._actors[self._homes[edge.source]].gone.remote(edge.id)
        except RayActorError:
            return  # then there is nobody who sends, either


class GroupActor:
    """The class of the actors. All methods are coroutines, so that they run on the actor's event loop.

    Args:
        path: where Python looks for modules in the program that runs the process.
    """

    def __init__(self, path: Sequence[str]) -> None:
        sys.path += [place for place in path if place not in sys.path]
        self._reports: list[bytes] = []
        self._has_news = asyncio.Event()
        self._group: RemoteGroup | None = None
        self._loop: asyncio.AbstractEventLoop
        self._meter = Meter(tell=self._used)
        self._context = ProcessContext(type(self).__name__)
        frame_of(self._context).meter = self._meter

    @property
    def group(self) -> RemoteGroup:
        """The group; it exists once ``prepare`` has answered."""
        assert self._group is not None, "nothing is asked of an actor before it has answered to prepare"
        return self._group

    async def prepare(self, plan: bytes, actors: Mapping[str, Any], homes: Mapping[str, str]) -> bytes:
        """Make the components.

        Args:
            plan: of the group.
            actors: all actors, by group.
            homes: the group of each component.
        """
        self._loop = asyncio.get_running_loop()
        try:
            self._group = RemoteGroup(plan, _Peers(actors, homes), self._tell)
        except Exception as error:
            return b'["error",' + dump_error(error) + b"]"
        return dumps(["ok", None])

    def _tell(self, report: bytes) -> None:
        self._reports.append(report)
        self._has_news.set()

    async def reports(self) -> list[bytes]:
        """Wait for reports, and give all that there are."""
        await self._has_news.wait()
        self._has_news.clear()
        found, self._reports = self._reports, []
        return found

    def _used(self, total: Usage) -> None:
        """Called in any thread."""
        self._loop.call_soon_threadsafe(self._tell, _report_of(total))

    async def call(self, name: str, argument: bytes) -> tuple[bytes, bytes]:
        """The answer, and a report of what was used up to then."""
        with running_as(self._context):
            answer = await self.group.call(name, argument)
        return answer, _report_of(self._meter.total)

    async def order(self, name: str, *arguments: Any) -> None:
        if self._group is not None:
            self._group.order(name, *arguments)

    async def deliver(self, edge: str, message: bytes) -> bytes:
        return await self.group.deliver(edge, message)

    async def gone(self, edge: str) -> None:
        self.group.gone(edge)


def _report_of(total: Usage) -> bytes:
    return dumps(["used", total])
