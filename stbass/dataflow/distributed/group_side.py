"""A group of components at the place where it runs, controlled by a process that is elsewhere.

Whoever carries it makes a ``RemoteGroup`` of a plan (``plan_of``), hands it calls and
what other groups send, and takes its reports and its answers back: all of them bytes of :mod:`stbass.wire`.

Over an edge between groups there is one message on its way at a time, which is answered when all in it has found room:

    b"v" and a list of values · b"m" and the number of a checkpoint's mark · b"e", the end

An answer is empty, or an error. Beside answers only one thing goes against the direction of an edge: that nobody takes
anything from it any more.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from stbass._channels.cancellation import is_being_cancelled
from stbass.dataflow.distributed.groups import Quiescence
from stbass.dataflow.distributed.plan import Named, made_of_plan
from stbass.dataflow.distributed.reports import error_answer, views
from stbass.dataflow.engine.arriving import LIMIT, arrived
from stbass.dataflow.engine.boundary import OutletEdge
from stbass.dataflow.engine.edge import Edge
from stbass.dataflow.engine.host import Host
from stbass.dataflow.spec.lookup import find
from stbass.dataflow.status import Status
from stbass.errors import DataflowError, NotTransportable, ProcessCancelled
from stbass.wire import dump_error, dumps, load_error

__all__ = ["Carrier", "RemoteGroup"]

STUCK_AFTER = 0.2
"""Seconds that a group is quiet in a run before it says so: the pauses of every pipeline are none of that."""


class Carrier(Protocol):
    """Carries messages between groups."""

    async def forth(self, edge: Edge, message: bytes) -> bytes:
        """Give a message to :meth:`RemoteGroup.deliver` of the group that the edge leads to; return the answer.

        Where that group is lost, this does not return: whoever runs the process notices, and cancels this one.
        """

    async def back(self, edge: Edge) -> None:
        """Call :meth:`RemoteGroup.gone` of the group that the edge comes from."""


class RemoteGroup:
    """A host of components, for a process that runs elsewhere.

    Making it makes the components; nothing else of the user's is run before ``init`` is called.

    Args:
        plan: from :func:`~stbass.dataflow.distributed.plan.plan_of`.
        carrier: carries what goes to other groups.
        tell: takes reports for :func:`~stbass.dataflow.distributed.reports.heard`; must not raise.
        named: gives the class of a name; by default any that can be imported.

    Raises:
        DataflowError: a component cannot be made here.
    """

    def __init__(
        self,
        plan: bytes,
        carrier: Carrier,
        tell: Callable[[bytes], None],
        named: Named = find,
    ) -> None:
        components, edges = made_of_plan(plan, named)
        self._tell = tell
        self._carrier = carrier
        self._edges = {edge.id: edge for edge in edges}
        here = {component.name for component in components}
        self._forth: Counter[str] = Counter()
        self._back: Counter[str] = Counter()
        leaving = [edge for edge in self._edges.values() if edge.target not in here]
        self.host = Host(
            components,
            self._edges.values(),
            outlets={edge.id: _Outlet(self, edge) for edge in leaving},
            listener=self,
        )
        self._leaving = {
            edge.id: edge
            for runner in self.host.runners.values()
            for edges in runner.edges.values()
            for edge in edges
            if isinstance(edge, OutletEdge)
        }
        for edge_id, inlet in self.host.inlets.items():
            inlet.on_gone = self._gone_of(edge_id)
        self._crossing = sorted([*self._leaving, *self.host.inlets])
        self._ready = asyncio.Event()
        self._round = 0
        self._watch_comes = self._stepping = False
        self._look_comes: asyncio.Handle | None = None
        self._told: Quiescence | None = None
        self._initialising: asyncio.Task[None] | None = None
        self._is_cancelled = False
        self._notes: set[asyncio.Task[None]] = set()

    # What whoever runs the process says -----------------------------------------------------------

    async def call(self, name: str, argument: bytes = b"null") -> bytes:
        """Do what is asked for: ``init``, ``step``, ``run``, ``committed``, ``ended_well``, ``views``, ``destroy``.

        The answer is for ``returned``; an error that the user's code raised is in it.
        """
        try:
            value = arrived(argument, what="argument")
            if name == "views":
                return views(self.host.runners)
            if name == "destroy":
                self._ready.set()
                try:
                    await self.host.destroy()
                finally:
                    self._let_go()
                return views(self.host.runners)
            work: dict[str, Callable[[Any], Awaitable[None]]] = {
                "init": self._init,
                "step": self._step,
                "run": self._run,
                "committed": self.host.committed,
                "ended_well": self.host.ended_well,
            }
            await work[name](value)
            return dumps(["ok", self.host.ended])
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and is_being_cancelled():
                raise
            return error_answer(error)

    def order(self, name: str, *arguments: Any) -> None:
        """Do this at once: ``snapshot``, ``end_round``, ``stall``, ``stop``, ``end`` of one, ``cancel``."""
        match name, arguments:
            case "snapshot", (int(n),):
                self.host.request_snapshot(n)
                self.look_soon()
            case "end_round", (int(number),):
                if number == self._round:
                    self.host.end_round()
            case "stall", (int(number), str(text)):
                self._stall(number, text)
            case "stop", ():
                self.host.stop()
            case "end", (str(component), "cancel"):
                self.host.runners[component].component.cancel()
            case "end", (str(component), "close"):
                self.host.runners[component].wiring.close()
            case "cancel", ():
                self._is_cancelled = True
                self.host.cancel()
                if self._initialising is not None:
                    self._initialising.cancel()
            case _:
                raise DataflowError(f"there is no order {name!r} with {arguments!r}")

    async def _init(self, parts: dict[str, str] | None) -> None:
        if self._is_cancelled:
            raise ProcessCancelled("the process was cancelled")
        known = None if parts is None else {name: part.encode() for name, part in parts.items()}
        self._initialising = asyncio.ensure_future(self.host.init(known))
        try:
            await self._initialising
        except asyncio.CancelledError:
            if is_being_cancelled():
                raise
            raise ProcessCancelled("the process was cancelled") from None
        finally:
            self._initialising = None
        self._ready.set()

    async def _step(self, number: int) -> None:
        await self._go(number, self.host.step, stepping=True)

    async def _run(self, number: int) -> None:
        await self._go(number, self.host.run, stepping=False)

    async def _go(self, number: int, work: Callable[[], Awaitable[None]], *, stepping: bool) -> None:
        # Nothing may come between these lines and the first of `work`, which says how many components are about to run:
        # a group that has not begun would seem to be quiet.
        self._round, self._stepping, self._told = number, stepping, None
        try:
            await work()
        finally:
            self.look_soon()

    def _stall(self, number: int, text: str) -> None:
        waiting = [runner for runner in self.host.runners.values() if runner.is_waiting]
        if number == self._round and waiting:
            waiting[0].fail(DataflowError(text))

    def _let_go(self) -> None:
        for note in self._notes:
            note.cancel()

    # What other groups say ------------------------------------------------------------------------

    async def deliver(self, edge_id: str, message: bytes) -> bytes:
        """A message has come over an edge; answers when all in it has found room."""
        self._forth[edge_id] += 1
        self.look_soon()
        try:
            await self._ready.wait()
            inlet = self.host.inlets[edge_id]
            kind, rest = message[:1], message[1:]
            if kind == b"v":
                await inlet.deliver(arrived(rest, what=edge_id))
            elif kind == b"m":
                inlet.mark(int(rest))
            else:
                inlet.close()
        except Exception as error:
            return dump_error(error, limit=LIMIT)
        finally:
            self._back[edge_id] += 1
            self.look_soon()
        return b""

    def gone(self, edge_id: str) -> None:
        """The receiver of an edge has ended."""
        self._back[edge_id] += 1
        edge = self._leaving[edge_id]
        edge.source.edge_gone(edge)
        self.look_soon()

    def _gone_of(self, edge_id: str) -> Callable[[], None]:
        def gone() -> None:
            self._back[edge_id] += 1
            note = asyncio.ensure_future(self._carrier.back(self._edges[edge_id]))
            self._notes.add(note)
            note.add_done_callback(self._notes.discard)

        return gone

    async def carry(self, edge: Edge, message: bytes) -> None:
        """Send a message over an edge that leaves; returns when it has been accepted.

        Raises:
            Exception: it was not: ChannelClosedError where nobody takes anything.
        """
        self._forth[edge.id] += 1
        answer = await self._carrier.forth(edge, message)
        self._back[edge.id] += 1
        self.look_soon()
        if answer:
            raise load_error(answer, limit=LIMIT)

    # HostListener ---------------------------------------------------------------------------------

    def snapshot_done(self, n: int, parts: Mapping[str, bytes]) -> None:
        """The parts of a checkpoint are lines of JSON."""
        self._tell(dumps(["snapshot", n, {name: part.decode() for name, part in parts.items()}], limit=LIMIT))

    def snapshot_failed(self, n: int, error: Exception) -> None:
        """The checkpoint cannot be taken."""
        self._tell(b'["no snapshot",%d,%b]' % (n, dump_error(error, limit=LIMIT)))

    def status_changed(self, component: str, status: Status) -> None:
        """A component has got another status."""
        self._tell(dumps(["status", component, str(status)]))

    def stop_requested(self) -> None:
        """Stop the components here at once; the process stops the other groups."""
        self.host.stop()
        self._tell(dumps(["stop"]))

    def quiet(self) -> None:
        """Look again, once everything that is about to happen has happened."""
        self.look_soon()

    def look_soon(self) -> None:
        """Look whether anything happens here, after all that is about to: a task that was made sends first."""
        if self._look_comes is not None:
            self._look_comes.cancel()  # it could come before a task that was made since
        self._look_comes = asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        self._look_comes = None
        if self.host.active or not self._round:
            return
        if self._stepping:
            self._say(self._state())
        elif not self._watch_comes:
            self._watch_comes = True
            asyncio.get_running_loop().call_later(STUCK_AFTER, self._look_again, self._state())

    def _look_again(self, before: Quiescence) -> None:
        self._watch_comes = False
        if self.host.active or self._stepping:
            return
        now = self._state()
        if now == before:
            self._say(now)
        else:
            self._look()

    def _say(self, state: Quiescence) -> None:
        if state != self._told:
            self._told = state
            self._tell(dumps(["quiet", asdict(state)], limit=LIMIT))

    def _state(self) -> Quiescence:
        waiting = [runner for runner in self.host.runners.values() if runner.is_waiting]
        return Quiescence(
            self._round,
            {edge: self._forth[edge] for edge in self._crossing},
            {edge: self._back[edge] for edge in self._crossing},
            [runner.waits_for for runner in waiting],
            any(not runner.inboxes and not runner.pending for runner in waiting),
        )


class _Outlet:
    """An ``Outlet``: carries one edge to another group."""

    def __init__(self, group: RemoteGroup, edge: Edge) -> None:
        self._group = group
        self._edge = edge

    async def send(self, items: Sequence[Any]) -> None:
        edge = self._edge
        try:
            message = b"v" + dumps(list(items), limit=LIMIT)
        except NotTransportable as error:
            raise NotTransportable(
                f"component {edge.source!r}, output {edge.output!r}: a value cannot travel to {edge.target!r}, which "
                f"is in another group: {error}. Send what can, or put both components into one group by placement=",
                path=error.path,
            ) from error
        await self._group.carry(edge, message)

    async def mark(self, n: int) -> None:
        await self._group.carry(self._edge, b"m%d" % n)

    async def aclose(self) -> None:
        await self._group.carry(self._edge, b"e")
