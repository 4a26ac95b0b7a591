"""One run of a process on a fleet: it opens the channels, places all groups at once, and cleans up afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

import redis
from celery.result import GroupResult

from stbass._channels.waiting import resolve
from stbass._engine.registry import BackendRegistry
from stbass._process.context import Composable, ProcessContext
from stbass._values.endpoint import Placement
from stbass._values.outcome import ProcessResult
from stbass._values.policy import FailurePolicy
from stbass.backends.celery import CeleryBackend
from stbass.channel import Chan
from stbass.dataflow.distributed.fleet_admission import check_room, not_admitted
from stbass.dataflow.distributed.fleet_group import FleetGroup
from stbass.dataflow.distributed.fleet_host import FleetHost
from stbass.dataflow.distributed.fleet_line import CAPACITY, Line, piece_size
from stbass.dataflow.distributed.fleet_record import Record, end_former, forget, keep
from stbass.dataflow.distributed.groups import Group, GroupListener
from stbass.errors import BackendUnavailableError, DataflowError
from stbass.placement import PLACED_PAR
from stbass.transports.redis.address import unavailable

__all__ = ["FleetRun"]


class FleetRun:
    """The groups of a process on a fleet, from before they are sent until they are cleaned up.

    Args:
        process: the process's name.
        backend: where the groups go. A group whose worker dies fails, whatever it says of other processes.
        groups: the groups.
        plans: what each is made from, by the group's name.
        endpoints: where each goes, by the group's name.
        listener: who hears of what happens in them.
        job_id: the job, if its state lasts: then no group of an earlier run of it is left when these begin.
        admission_timeout: seconds in which all groups must have been taken by workers.
    """

    def __init__(
        self,
        process: str,
        backend: CeleryBackend,
        groups: Sequence[Group],
        plans: Mapping[str, str],
        endpoints: Mapping[str, str],
        listener: GroupListener,
        job_id: str | None,
        admission_timeout: float,
    ) -> None:
        self._process = process
        self._backend = backend.failing(_GroupBackend)
        self._backend.group_run = self
        self._endpoints = endpoints
        self._job_id = job_id
        self._timeout = admission_timeout
        # All that is opened here is left when the run is over, whatever lies in it then.
        self._scope = backend.transport().scope()
        self._channels: list[Chan[bytes]] = []
        self._placing: asyncio.Task[Any] | None = None
        self._sent: list[str] = []
        self._done: list[str] = []
        loop = asyncio.get_running_loop()
        self._results: dict[str, asyncio.Future[None]] = {group.name: loop.create_future() for group in groups}
        self._group_id = ""
        piece = piece_size(backend.settings.max_message_bytes)
        homes = {one.name: index for index, group in enumerate(groups) for one in group.components}
        between = self._between(groups, homes)
        self.handles: list[FleetGroup] = []
        self._hosts: list[FleetHost] = []
        for index, group in enumerate(groups):
            commands, reports = self._channel(f"{group.name} commands"), self._channel(f"{group.name} reports")
            ends = {name for edge in group.edges for name in (edge.source, edge.target)}
            away = {name: homes[name] for name in ends if homes[name] != index}
            host = FleetHost(group.name, plans[group.name], away, backend.transport().here, piece)
            lines = {
                name: channel
                for peer in set(away.values())
                for name, channel in ((f"to_{peer}", between[index, peer]), (f"from_{peer}", between[peer, index]))
            }
            self._hosts.append(
                host.with_name(f"{process}/{group.name}").with_channels(commands=commands, reports=reports, **lines)
            )
            self.handles.append(
                FleetGroup(group, endpoints[group.name], listener, Line(commands, piece), Line(reports, piece))
            )

    def _between(self, groups: Sequence[Group], homes: Mapping[str, int]) -> dict[tuple[int, int], Chan[bytes]]:
        """A channel each way between two groups that have an edge between them."""
        pairs = {
            pair
            for group in groups
            for edge in group.edges
            if homes[edge.source] != homes[edge.target]
            for pair in permutations((homes[edge.source], homes[edge.target]))
        }
        return {
            (one, other): self._channel(f"{groups[one].name} to {groups[other].name}") for one, other in sorted(pairs)
        }

    def _channel(self, name: str) -> Chan[bytes]:
        made = Chan(bytes, name=f"{self._process}: {name}", capacity=CAPACITY, transport=self._scope)
        made.mark_outside()
        self._channels.append(made)
        return made

    # The beginning --------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Place all groups, or none; then have their components made.

        Raises:
            AdmissionError: the fleet has no room for all of them at once.
            JobInUseError: a group of an earlier run of the job does not end.
            BackendUnavailableError: Redis cannot be reached.
            ProcessRefused: a worker was not told to include a component's module.
            ExceptionGroup: what components' constructors raised.
        """
        try:
            if self._job_id is not None:
                await end_former(self._backend, self._job_id)
            check_room(self._process, self._endpoints.values(), await self._backend.workers())
            self._placing = asyncio.create_task(self._place(), name=f"stbass-fleet-{self._process}")
            await self._admitted()
            await _all([handle.make() for handle in self.handles])
        except BackendUnavailableError:
            raise
        except (OSError, redis.RedisError) as error:
            raise unavailable(self._backend.settings.backend, f"start process {self._process!r}", error) from error

    async def _place(self) -> None:
        registry = BackendRegistry()
        registry.register("*", self._backend)
        pairs = [
            (host, Placement(endpoint=handle.endpoint)) for host, handle in zip(self._hosts, self.handles, strict=True)
        ]
        # Groups that are left are told what to do by whoever runs the process, so that they can end in order.
        placed = PLACED_PAR(*pairs, on_failure=FailurePolicy.COLLECT, registry=registry)
        await placed.with_name(self._process).run()

    async def _admitted(self) -> None:
        assert self._placing is not None
        running = [handle.running for handle in self.handles]
        everyone = asyncio.ensure_future(_all(running))
        everyone.add_done_callback(_known)
        try:
            async with asyncio.timeout(self._timeout):
                await asyncio.wait((everyone, self._placing), return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            waiting = {one.name: one.endpoint for one in self.handles if not one.running.done()}
            if waiting:
                admitted = [one.endpoint for one in self.handles if one.running.done()]
                workers = await self._backend.workers()
                raise not_admitted(self._process, admitted, waiting, self._timeout, workers) from None
        finally:
            if not everyone.done():
                everyone.cancel()
        if self._placing.done():
            self._placing.result()  # it could not even be sent
        await _all(running)

    async def sent(self, group_id: str, ids: Sequence[str]) -> None:
        """The groups are about to be sent, as processes with these ids, in a Celery group with this id."""
        self._group_id = group_id
        self._sent += ids
        if self._job_id is not None:
            groups = [
                (process_id, f"group {handle.name!r}", self._backend.queue or handle.endpoint)
                for process_id, handle in zip(self._sent, self.handles, strict=True)
            ]
            left = self._backend.group_keys(group_id)
            record = Record(groups, self._channel_ids(), self._backend.settings.lease, left)
            await keep(self._backend, self._job_id, record)

    def ended(self, process: Composable, process_id: str, result: ProcessResult) -> None:
        """A group has ended, in order or not."""
        if result.is_ok:
            self._done.append(process_id)
        for host, handle in zip(self._hosts, self.handles, strict=True):
            if host is process:
                resolve(self._results[handle.name])
                error: Exception = DataflowError(f"group {handle.name!r} has ended, though nobody told it to")
                if result.is_fail:
                    found = result.failure.error
                    error = found if isinstance(found, Exception) else DataflowError(f"{found!r}")
                handle.lose(error)

    # The end --------------------------------------------------------------------------------------

    async def close(self, grace: float) -> None:
        """Withdraw what still runs, and leave nothing in Redis.

        Args:
            grace: seconds that groups which were told to end have to do so.
        """
        try:
            in_order = await self._over(grace)
        finally:
            for handle in self.handles:
                handle.close()
        await self._backend.transport().purge(self._channel_ids())
        await self._scope.leave()
        try:
            if self._job_id is not None and in_order:
                await forget(self._backend, self._job_id)
            if self._group_id:
                # Nobody will ask for these: the process that its caller has is not made of them. The other results stay
                # their time, so that a message which comes back from a dead worker is not taken for a new one.
                await self._backend.forget(self._group_id, self._done)
        except (OSError, redis.RedisError) as error:
            raise unavailable(self._backend.settings.backend, f"end process {self._process!r}", error) from error

    async def _over(self, grace: float) -> bool:
        """Wait until all groups have ended; true if they did so by themselves."""
        placing = self._placing
        if placing is None:
            return True
        # Those that were lost may never give a result: their worker is gone, or has given them back.
        ending = [self._results[handle.name] for handle in self.handles if not handle.is_lost]
        if ending and self._told:
            await asyncio.wait(ending, timeout=grace)
        if all(result.done() for result in self._results.values()):
            await asyncio.wait((placing,))
            return placing.exception() is None
        placing.cancel()
        await asyncio.wait((placing,))
        return False

    @property
    def _told(self) -> bool:
        return all(handle.has_ended for handle in self.handles)

    def _channel_ids(self) -> list[str]:
        return [str(channel.described()["link"]["id"]) for channel in self._channels]


class _GroupBackend(CeleryBackend):
    """The backend for the groups of one run: it tells the run when they are sent, and how each ends."""

    group_run: FleetRun

    async def open_group(self, group_id: str, members: Sequence[tuple[Composable, ProcessContext]]) -> GroupResult:
        handle = await super().open_group(group_id, members)
        await self.group_run.sent(group_id, [ctx.process_id for _, ctx in members])
        return handle

    async def execute(self, process: Composable, ctx: ProcessContext) -> ProcessResult:
        result = await super().execute(process, ctx)
        self.group_run.ended(process, ctx.process_id, result)
        return result


async def _all(waiting: Sequence[Any]) -> None:
    """Wait until all are done; raise the error of the first that fails."""
    tasks = [asyncio.ensure_future(one) for one in waiting]
    for task in tasks:
        task.add_done_callback(_known)  # of several that fail, one is told
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    for task in done:
        task.result()


def _known(task: asyncio.Future[Any]) -> None:
    if not task.cancelled():
        task.exception()
