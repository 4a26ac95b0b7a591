"""The handle by which a process controls a group of components that runs elsewhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from stbass.dataflow.distributed.groups import Group, GroupListener, GroupView
from stbass.dataflow.distributed.reports import heard, returned
from stbass.dataflow.engine.arriving import LIMIT
from stbass.wire import dumps

__all__ = ["GroupHandle"]


class GroupHandle(ABC):
    """A group that runs elsewhere. Made by :meth:`DistributedProcess._place`, which gives it its listener.

    Whatever is awaited here raises what happened there: the components' own exceptions in an ``ExceptionGroup``, as far
    as the wire can carry them, or the error with which the group was lost.

    Args:
        group: the group.
        listener: who hears of what happens in it.
    """

    def __init__(self, group: Group, listener: GroupListener) -> None:
        self.name = group.name
        """What the group is called."""
        self.components = [one.name for one in group.components]
        """The names of its components."""
        self._listener = listener

    # What carries it ----------------------------------------------------------------------------

    @abstractmethod
    async def prepare(self) -> None:
        """Return when the group has its place and its components are made. Nothing else of the user's has run.

        Raises:
            AdmissionError: there is no room for it.
        """

    @abstractmethod
    async def _call(self, name: str, argument: bytes) -> bytes:
        """What :meth:`RemoteGroup.call` answers there.

        Raises:
            Exception: the error with which the group was lost.
        """

    @abstractmethod
    def _order(self, name: str, *arguments: Any) -> None:
        """Have :meth:`RemoteGroup.order` called there, after the orders before it."""

    def _heard(self, report: bytes) -> None:
        """A report of the group has come.

        Raises:
            WireError: it is none.
        """
        heard(self.name, report, self._listener)

    # What is asked of it ------------------------------------------------------------------------

    async def _ask(self, name: str, argument: Any = None) -> Any:
        return returned(await self._call(name, dumps(argument, limit=LIMIT)))

    async def init(self, parts: Mapping[str, bytes] | None) -> None:
        """Initialise the components, from the parts of a checkpoint, by component, if there is one."""
        # The parts are lines of JSON.
        await self._ask("init", None if parts is None else {name: part.decode() for name, part in parts.items()})

    async def step(self, number: int) -> bool:
        """One step of each component; ``number`` is that of this round. Returns when it is over here.

        Gives whether all of its components have ended.
        """
        return bool(await self._ask("step", number))

    async def run(self, number: int) -> bool:
        """Step until no more comes; ``number`` is that of this round. Gives whether all components have ended."""
        return bool(await self._ask("run", number))

    async def committed(self, n: int) -> None:
        """Checkpoint ``n`` is durable; returns when the components have been told."""
        await self._ask("committed", n)

    async def ended_well(self) -> None:
        """The whole run has ended well; returns when the components have been told."""
        await self._ask("ended_well")

    async def views(self) -> Mapping[str, GroupView]:
        """What can be seen of its components now, by name."""
        found: Mapping[str, GroupView] = await self._ask("views")
        return found

    async def destroy(self) -> Mapping[str, GroupView]:
        """Call ``destroy`` of the components that were initialised, and give the place back, whatever happens.

        Gives what there is to see of them afterwards; nothing if the group was lost.
        """
        found: Mapping[str, GroupView] = await self._ask("destroy")
        return found

    def end_round(self, number: int) -> None:
        """This round is over everywhere: components that still wait for something are skipped."""
        self._order("end_round", number)

    def stall(self, number: int, text: str) -> None:
        """Fail with this text: components wait for something that will never come."""
        self._order("stall", number, text)

    def request_snapshot(self, n: int) -> None:
        """Take the group's part of checkpoint ``n``; the listener is told of the outcome."""
        self._order("snapshot", n)

    def stop(self) -> None:
        """Let every component end after the step that it is in."""
        self._order("stop")

    def end(self, component: str, how: str) -> None:
        """End one component: ``"cancel"`` or ``"close"`` it."""
        self._order("end", component, how)

    def cancel(self) -> None:
        """End everything at once; what is awaited raises :class:`~stbass.errors.ProcessCancelled`."""
        self._order("cancel")
