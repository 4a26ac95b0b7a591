"""Edges between event loops: the end that sends, and the end that receives. Neither knows what carries them.

A host gives whatever goes to another host to an :class:`Outlet`, in order: values in batches, marks of checkpoints,
and the end. Whoever carries them gives them to the :class:`Inlet` of the same edge at the other host, in that order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from stbass._channels.choice import Choice
from stbass._channels.transport import Arm
from stbass.dataflow.engine.edge import Edge, EdgeUser, Inbox, OutEdge, fitted
from stbass.errors import ChannelClosedError

__all__ = ["CLOSED", "Inlet", "Outlet", "OutletEdge"]


CLOSED = -1
"""In the place of a mark's number: no mark will come any more."""


class Outlet(Protocol):
    """Carries one edge to another host. Its methods are called one at a time, each when the one before has returned."""

    async def send(self, items: Sequence[Any]) -> None:
        """Carry these values; return when the other side has room for more, which is when it has accepted them.

        Raises:
            ChannelClosedError: nobody takes them any more. Any other error fails the component that sends.
        """

    async def mark(self, n: int) -> None:
        """Carry the mark of checkpoint ``n``: what was sent before it belongs to the checkpoint, what follows not."""

    async def aclose(self) -> None:
        """Carry the end: nothing follows."""


class _Mark:
    __slots__ = ("n",)

    def __init__(self, n: int) -> None:
        self.n = n


class _End:
    __slots__ = ()


_END = _End()


class OutletEdge(OutEdge):
    """An edge to a component of another host.

    Args:
        spec: the edge.
        outlet: what carries it.
        source: who sends.
    """

    __slots__ = ("_ending", "_queue", "_task", "error", "outlet", "values")

    def __init__(self, spec: Edge, outlet: Outlet, source: EdgeUser) -> None:
        super().__init__(spec, source)  # what the receiver takes is known where it is
        self.outlet = outlet
        self.error: BaseException | None = None
        """Why it cannot be carried any more."""
        self.values = 0
        """How many values lie here, or are on their way."""
        self._queue: deque[Any] = deque()
        self._task: asyncio.Task[None] | None = None
        self._ending = False

    def offer(self, value: Any) -> bool:
        if self.error is not None:
            raise self.error
        if self.gone:
            raise ChannelClosedError(f"edge {self.id!r} is closed", channel_name=self.id)
        if self.values >= self.spec.maxsize:
            return False
        self.values += 1
        self._put(value)
        return True

    def mark(self, n: int) -> None:
        """What follows does not belong to checkpoint ``n``."""
        if not self.gone and not self._ending:
            self._put(_Mark(n))

    def close(self) -> None:
        if not self._ending:
            self._ending = True
            self._put(_END)

    async def finished(self) -> None:
        """Return when all that lies here has been carried.

        Raises:
            BaseException: it could not be.
        """
        if self._task is not None:
            await asyncio.wait((self._task,))  # whoever waits no longer does not end it by that
        if self.error is not None:
            raise self.error

    def abandon(self) -> None:
        """Carry nothing more."""
        if self._task is not None:
            self._task.cancel()

    def _put(self, what: Any) -> None:
        self._queue.append(what)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._carry())

    async def _carry(self) -> None:
        queue = self._queue
        try:
            while queue:
                kind = type(queue[0])
                if kind is _Mark:
                    await self.outlet.mark(queue.popleft().n)
                elif kind is _End:
                    queue.clear()
                    await self.outlet.aclose()
                else:
                    await self._carry_values()
        except ChannelClosedError:
            queue.clear()
            self.source.edge_gone(self)
        except Exception as error:
            queue.clear()
            self.error = error
            self.source.fail(error)

    async def _carry_values(self) -> None:
        queue, batch = self._queue, []
        while queue and type(queue[0]) not in (_Mark, _End):
            batch.append(queue.popleft())
        try:
            await self.outlet.send(batch)
        finally:
            self.values -= len(batch)
        self.source.waker.wake()


class Inlet:
    """An edge that comes from a component of another host: whoever carries it calls these, in order.

    Args:
        spec: the edge.
        inbox: where its values go.
        marked: called with the inlet and the number of a mark that came.
    """

    def __init__(self, spec: Edge, inbox: Inbox, marked: Callable[[Inlet, int], None]) -> None:
        self.spec = spec
        self.on_gone: Callable[[], None] | None = None
        """Called, once, when nobody takes anything from this edge any more: to be told to the other side.

        If that is so already when it is set, whoever sets it finds ``gone`` true.
        """
        self.gone = False
        """Whether the receiver has ended."""
        self.closed = False
        """Whether its source has ended."""
        self.record: Callable[[Any], None] | None = None
        """While a checkpoint waits for the mark of this edge: called with each value before it."""
        self.waiting: deque[Any] = deque()
        """Values that have arrived and wait for room."""
        self._inbox = inbox
        self._marked = marked
        self._room = _Room(inbox)

    async def deliver(self, items: Sequence[Any]) -> None:
        """Values have come. Returns when all have found room.

        Raises:
            ChannelClosedError: nobody takes them any more.
            ChannelTypeError: one does not fit the input that they are for.
        """
        inbox = self._inbox
        checker = inbox.checker
        for item in items:
            if checker is not None:
                item = fitted(checker, item, self.spec.target, "input", self.spec.input)
            if self.record is not None:
                self.record(item)
            self.waiting.append(item)
        if self.waiting and not inbox.line:
            self._push()
        if self.waiting:
            inbox.join(self._room.arm)
            try:
                while self.waiting:
                    self._push()
                    if self.waiting:
                        await self._room.wait()
            finally:
                inbox.leave(self._room.arm)

    def _push(self) -> None:
        """Put in as many values as there is room for."""
        inbox, waiting = self._inbox, self.waiting
        while waiting:
            if self.gone or inbox.link.closed:
                waiting.clear()
                raise ChannelClosedError(f"edge {self.spec.id!r} is closed", channel_name=self.spec.id)
            if not inbox.overflow and inbox.link.try_offer(waiting[0]):
                waiting.popleft()
            elif self.record is not None:
                # The mark may stand behind these, and must not wait until somebody takes them. They are few: whatever
                # sends them stops at the mark.
                inbox.overflow.extend(waiting)
                waiting.clear()
                inbox.owner.waker.wake()
            else:
                return

    def mark(self, n: int) -> None:
        """The mark of checkpoint ``n`` has come."""
        self._marked(self, n)

    def close(self) -> None:
        """The source has ended: nothing follows. Calling it again does nothing."""
        if not self.closed:
            self.closed = True
            if not self.gone:
                self._inbox.source_closed()
            self._marked(self, CLOSED)

    def lose(self) -> None:
        """The receiver has ended."""
        if not self.gone:
            self.gone = True
            self._room.wake()
            self._marked(self, CLOSED)
            if self.on_gone is not None:
                self.on_gone()

    def look_again(self) -> None:
        """A snapshot begins: whoever waits for room looks again."""
        self._room.wake()


class _Room(Choice):
    """Waits for room in an inbox."""

    __slots__ = ("arm",)

    passive = True

    def __init__(self, inbox: Inbox) -> None:
        super().__init__()
        self.arm = Arm(self, 0, inbox.link, reader=False)

    def wake(self) -> None:
        self.resolve()

    async def wait(self) -> None:
        self.waiter = asyncio.get_running_loop().create_future()
        await self.waiter
