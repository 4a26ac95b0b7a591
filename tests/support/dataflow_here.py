"""Groups of components on this event loop, with a network between them that takes its time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from stbass.dataflow.distributed.group_handle import GroupHandle
from stbass.dataflow.distributed.group_side import RemoteGroup
from stbass.dataflow.distributed.groups import Group, GroupListener, GroupView
from stbass.dataflow.distributed.plan import plan_of
from stbass.dataflow.distributed.process import DistributedProcess
from stbass.dataflow.engine.edge import Edge
from stbass.dataflow.status import Status
from stbass.errors import WorkerLostError

network = random.Random(0)


async def travel() -> None:
    """A message is on its way: some turns of the event loop."""
    for _ in range(network.choice((0, 0, 1, 2, 7))):
        await asyncio.sleep(0)


class HereProcess(DistributedProcess):
    """A process whose groups are all here."""

    kind: ClassVar[str] = "ray"

    def status_changed(self, group: str, component: str, status: Status) -> None:
        super().status_changed(group, component, status)
        self.news.set()

    async def until(self, component: str, status: Status) -> None:
        """Return when this component has this status."""
        while self.components[component].status is not status:
            self.news.clear()
            await self.news.wait()

    async def _place(self, groups: Sequence[Group]) -> Sequence[GroupHandle]:
        homes = {one.name: group.name for group in groups for one in group.components}
        self.news = asyncio.Event()
        self.places: dict[str, Place] = {}
        for group in groups:
            plan = plan_of(group, self.parameters)
            self.places[group.name] = Place(group, plan, self.places, homes, self)
        return list(self.places.values())


class Place(GroupHandle):
    """A group here, which is its own ``Carrier``."""

    def __init__(
        self,
        group: Group,
        plan: bytes,
        places: Mapping[str, Place],
        homes: Mapping[str, str],
        listener: GroupListener,
    ) -> None:
        super().__init__(group, listener)
        self.remote: RemoteGroup
        self._plan = plan
        self._places = places
        self._homes = homes
        self._reports: asyncio.Queue[bytes] = asyncio.Queue()
        self._orders: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
        self._gone: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._tasks: list[asyncio.Task[None]] = []

    async def forth(self, edge: Edge, message: bytes) -> bytes:
        await travel()
        answer = await self._places[self._homes[edge.target]].remote.deliver(edge.id, message)
        await travel()
        return answer

    async def back(self, edge: Edge) -> None:
        await travel()
        self._places[self._homes[edge.source]].remote.gone(edge.id)

    async def prepare(self) -> None:
        self.remote = RemoteGroup(self._plan, self, self._reports.put_nowait)
        self._tasks = [asyncio.ensure_future(self._report()), asyncio.ensure_future(self._obey())]

    async def _report(self) -> None:
        while True:
            report = await self._reports.get()
            await travel()
            self._heard(report)

    async def _obey(self) -> None:
        while True:
            order = await self._orders.get()
            await travel()
            self.remote.order(*order)

    async def _call(self, name: str, argument: bytes) -> bytes:
        await travel()
        doing = asyncio.ensure_future(self.remote.call(name, argument))
        await asyncio.wait((doing, self._gone), return_when=asyncio.FIRST_COMPLETED)
        if self._gone.done():
            doing.cancel()
            raise self._gone.result()
        await travel()
        return doing.result()

    def _order(self, name: str, *arguments: Any) -> None:
        self._orders.put_nowait((name, *arguments))

    async def destroy(self) -> Mapping[str, GroupView]:
        try:
            if not self._tasks or self._gone.done():
                return {}
            return await super().destroy()
        finally:
            for task in self._tasks:
                task.cancel()

    def die(self) -> None:
        """Be there no more: nothing of it is ever heard again."""
        error = WorkerLostError(f"group {self.name!r} died", worker=self.name)
        for task in self._tasks:
            task.cancel()
        self._gone.set_result(error)
        self._listener.lost(self.name, error)
