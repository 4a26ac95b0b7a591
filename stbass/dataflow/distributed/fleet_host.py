"""The worker's side of a process on a fleet: one placed, long-lived process of the core for each group of components.

It is told what to do, and says what happens, over two lines (see :mod:`stbass.dataflow.distributed.fleet_line`):

from the producer
    ``m`` all groups have a place: make the components · ``c<number> <name> <argument>`` a call · ``o<order>`` an order
to the producer
    ``+`` it runs · ``m`` the components are made · ``a<number> <answer>`` the answer to a call ·
    ``r<report>`` a report · ``x<error>`` it ends, though nobody told it to

Calls, orders, answers and reports are those of ``RemoteGroup``. The channels are made for
one run of the process and have names of their own: a group that was left over from an earlier run finds them gone, and
whatever it still says is heard by nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any

from stbass._channels.cancellation import to_the_end
from stbass._channels.waiting import resolve
from stbass._process.context import ProcessContext, frame_of
from stbass.backends.celery.worker.runtime import this_runtime
from stbass.dataflow.distributed.fleet_classes import Admitted
from stbass.dataflow.distributed.fleet_line import Line
from stbass.dataflow.distributed.fleet_links import Links
from stbass.dataflow.distributed.group_side import RemoteGroup
from stbass.errors import BackendUnavailableError, DataflowError, NotInitialisedError, WireError, WorkerLostError
from stbass.process import Process
from stbass.transports.redis import RedisTransport
from stbass.transports.redis.transport import Scope
from stbass.wire import dump_error, loads

__all__ = ["FleetHost"]


class FleetHost(Process):
    """Holds one group of components on a worker, and runs it as its producer says.

    Args:
        group: what the group is called.
        plan: what :func:`stbass.dataflow.distributed.plan.plan_of` says of it.
        homes: the number of the group of each component elsewhere that an edge leads to or comes from. The lines to and
            from group 3 are the channels ``to_3`` and ``from_3``.
        producer: what the producer's connection is known by (:attr:`stbass.transports.redis.RedisTransport.here`).
        piece: how many bytes a piece of a message may have.
    """

    def __init__(self, group: str, plan: str, homes: Mapping[str, int], producer: str, piece: int) -> None:
        self.group = group
        self.plan = plan
        self.homes = dict(homes)
        self.producer = producer
        self.piece = piece

    async def run(self, ctx: ProcessContext) -> None:
        """Serve the producer until it has told the components to end.

        Raises:
            WorkerLostError: another worker had the group before and gave it back: nobody knows what it has done.
            ProcessRefused: the worker was not told to include the module of a component.
            DataflowError: the producer is gone.
        """
        if ctx.attempt > 1:
            raise WorkerLostError(
                f"group {self.group!r} was given back by a worker that is stopping; a group does not go on elsewhere",
                attempt=ctx.attempt,
            )
        await _Service(self, ctx).serve()


class _Service:
    """One run of a :class:`FleetHost`."""

    def __init__(self, host: FleetHost, ctx: ProcessContext) -> None:
        self._host = host
        self._ctx = ctx
        self._worker = frame_of(ctx).worker or "a worker"
        self._commands = self._line("commands")
        self._reports = self._line("reports")
        peers = sorted(set(host.homes.values()))
        lines = {peer: (self._line(f"to_{peer}"), self._line(f"from_{peer}")) for peer in peers}
        self._peers = peers
        self._links = Links(host.homes, lines)
        self._group: RemoteGroup | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self._beside: set[asyncio.Task[None]] = set()
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._orphaned = False

    def _line(self, name: str) -> Line:
        return Line(self._ctx.get_channel(name), self._host.piece)

    @property
    def _transport(self) -> RedisTransport | Scope:
        transport = self._ctx.get_channel("commands").transport
        assert isinstance(transport, RedisTransport | Scope), "a worker opens channels in the fleet's Redis"
        return transport

    async def serve(self) -> None:
        self._spawn(self._obey())
        self._spawn(self._watch())
        self._reports.post(b"+")
        try:
            await self._end
        except asyncio.CancelledError:
            # Either the producer has withdrawn it, and hears no more; or this worker is about to end.
            lost = WorkerLostError(f"group {self._host.group!r}: {self._worker} is stopping", worker=self._worker)
            self._reports.post(b"x" + dump_error(lost))
            # A producer that runs anew waits for the end of this: it must be one, whoever cancels it once more.
            await to_the_end(self._give_up())
            raise
        except BaseException as error:
            self._reports.post(b"x" + dump_error(error))
            await to_the_end(self._give_up())
            raise
        finally:
            await to_the_end(self._leave())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        def ended(task: asyncio.Task[None]) -> None:
            self._beside.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                self._fail(error)

        task = asyncio.get_running_loop().create_task(work)
        self._beside.add(task)
        task.add_done_callback(ended)

    def _fail(self, error: BaseException) -> None:
        if not self._end.done():
            self._end.set_exception(error)

    # What the producer says -----------------------------------------------------------------------

    async def _obey(self) -> None:
        async for text in self._commands.messages():
            kind, rest = text[:1], text[1:]
            if kind == b"m":
                self._make()
            elif kind == b"c":
                number, name, argument = rest.split(b" ", 2)
                call = asyncio.get_running_loop().create_task(self._call(number, name.decode(), argument))
                self._calls.add(call)
                call.add_done_callback(self._calls.discard)
            elif kind == b"o":
                name, *arguments = loads(rest, what="order")
                self._made.order(name, *arguments)
            else:
                raise WireError(f"group {self._host.group!r} was told {kind!r}, which is nothing that there is")
        self._orphaned = True
        raise DataflowError(f"group {self._host.group!r}: its process has let go of it, or runs anew")

    @property
    def _made(self) -> RemoteGroup:
        if self._group is None:
            raise NotInitialisedError(f"group {self._host.group!r} was told to do something before it was made")
        return self._group

    def _make(self) -> None:
        """Make the components. Every group has its place by now; no code of the user has run before this."""
        plan = self._host.plan.encode()
        runtime = this_runtime()
        settings = None if runtime is None else runtime.settings
        placement = self._ctx.placement
        queue = None if placement is None else placement.endpoint
        named = Admitted(_nothing if settings is None else settings.allows, frame_of(self._ctx).worker, queue)
        group = self._group = RemoteGroup(plan, self._links, lambda report: self._reports.post(b"r" + report), named)
        for peer in self._peers:
            self._spawn(self._links.read(peer, group))
        self._reports.post(b"m")

    async def _call(self, number: bytes, name: str, argument: bytes) -> None:
        answer = await self._made.call(name, argument)
        self._reports.post(b"a%b %b" % (number, answer))
        if name == "destroy":
            await self._tell()
            resolve(self._end)

    # Whether there is somebody who says anything --------------------------------------------------

    async def _watch(self) -> None:
        """End when the producer is gone."""
        await self._until_gone()
        raise DataflowError(f"group {self._host.group!r}: whoever ran its process is gone")

    async def _until_gone(self) -> None:
        """Return when the producer is gone: look for it as often as leases are renewed."""
        while not await self._is_gone():  # noqa: ASYNC110 - whoever dies tells nobody
            await asyncio.sleep(self._pause)

    async def _is_gone(self) -> bool:
        """Whether the producer is gone: not one whose connection was cut, and is made anew at once."""
        if not self._orphaned and not await self._transport.connected(self._host.producer):
            await asyncio.sleep(self._pause)
            self._orphaned = not await self._transport.connected(self._host.producer)
        return self._orphaned

    @property
    def _pause(self) -> float:
        return self._transport.options.lease / 2

    # The end --------------------------------------------------------------------------------------

    async def _tell(self) -> None:
        """Return when everything that was reported is there; or nobody is left who would read it, and make room."""
        waits = [asyncio.ensure_future(self._reports.flush()), asyncio.ensure_future(self._until_gone())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _give_up(self) -> None:
        """End the components, whatever they are doing."""
        await self._tell()
        if self._group is not None:
            self._group.order("cancel")
            if self._calls:
                await asyncio.wait(self._calls)
            await self._group.call("destroy")

    async def _leave(self) -> None:
        await self._tell()
        self._links.close()
        for task in [*self._beside, *self._calls]:
            task.cancel()
        self._reports.abandon()
        ids = [str(one.described()["link"]["id"]) for one in self._ctx.channels.values()]
        try:
            if await self._is_gone():  # then nobody else is left who would clear away
                await self._transport.purge(ids)
        except BackendUnavailableError as error:
            raise DataflowError(f"group {self._host.group!r}: its channels are left to their time: {error}") from error


def _nothing(reference: str) -> bool:
    return False
