"""The messages between groups on a fleet: one line in each direction between two groups that an edge connects.

A line from one group to another carries, for all edges between the two:

    ``f<edge> <message>`` a message over an edge · ``a<edge> <answer>`` the answer to one that went the other way ·
    ``g<edge>`` nobody takes anything any more from an edge that comes from the other group

See :mod:`stbass.dataflow.distributed.group_side` for what the messages and answers are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from stbass.dataflow.distributed.fleet_line import Line
from stbass.dataflow.distributed.group_side import RemoteGroup
from stbass.dataflow.engine.edge import Edge
from stbass.errors import WireError

__all__ = ["Links"]


class Links:
    """Carries the messages of one group to and from the others: a ``Carrier``.

    Args:
        homes: which group each component is in that an edge of ours leads to or comes from, by its number.
        lines: by the other group's number, the line to it and the line from it.
    """

    def __init__(self, homes: Mapping[str, int], lines: Mapping[int, tuple[Line, Line]]) -> None:
        self._homes = homes
        self._lines = lines
        self._answers: dict[str, asyncio.Future[bytes]] = {}
        self._deliveries: set[asyncio.Task[None]] = set()

    async def forth(self, edge: Edge, message: bytes) -> bytes:
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._answers[edge.id] = answer
        self._lines[self._homes[edge.target]][0].post(b"f%b %b" % (edge.id.encode(), message))
        return await answer

    async def back(self, edge: Edge) -> None:
        self._lines[self._homes[edge.source]][0].post(b"g%b" % edge.id.encode())

    async def read(self, peer: int, group: RemoteGroup) -> None:
        """Deal with what comes from another group, until it has ended.

        Raises:
            WireError: it is nothing that a group sends.
            StbassError: the server cannot be reached any more.
        """
        to, come = self._lines[peer]
        async for text in come.messages():
            head, _, rest = text.partition(b" ")
            kind, edge = head[:1], head[1:].decode()
            if kind == b"f" and edge in group.host.inlets:
                # Beside: what is on its way over one edge may have to wait for room, and others must not.
                task = asyncio.get_running_loop().create_task(self._deliver(group, edge, rest, to))
                self._deliveries.add(task)
                task.add_done_callback(self._deliveries.discard)
            elif kind == b"a" and edge in self._answers:
                answer = self._answers.pop(edge)
                if not answer.done():
                    answer.set_result(rest)
            elif kind == b"g":
                group.gone(edge)
            else:
                raise WireError(f"a group sent {head!r:.100} over a line between groups")

    async def _deliver(self, group: RemoteGroup, edge: str, message: bytes, to: Line) -> None:
        to.post(b"a%b %b" % (edge.encode(), await group.deliver(edge, message)))

    def close(self) -> None:
        """Carry nothing more."""
        for task in self._deliveries:
            task.cancel()
        for to, _ in self._lines.values():
            to.abandon()
