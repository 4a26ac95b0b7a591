"""The cluster: room for the actors of a process, and the actors as groups."""

from __future__ import annotations

import asyncio
import logging
import math
import sys
import threading
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, TypeVar

import ray
from ray.exceptions import RayActorError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from stbass._process.sync_threads import shared_threads
from stbass.dataflow.distributed.group_handle import GroupHandle
from stbass.dataflow.distributed.groups import Group, GroupListener, GroupView
from stbass.dataflow.distributed.ray_actor import GroupActor
from stbass.dataflow.distributed.reports import returned
from stbass.dataflow.model.resource import Resource
from stbass.errors import AdmissionError, WireError, WorkerLostError

__all__ = ["Cluster", "RayGroup", "needs_of"]

T = TypeVar("T")

_CALLS = 64
"""How many calls an actor takes at once beside one for each edge."""


class _Connection:
    """The program's connection to Ray: of all processes that use it; the last one leaves."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._users = 0
        self._is_ours = False

    def enter(self) -> None:
        """Connect, unless the program is connected."""
        with self._turn:
            if not ray.is_initialized():
                ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
                self._is_ours = True
            self._users += 1

    def leave(self) -> None:
        """Disconnect, if nobody uses it any more and :meth:`enter` connected."""
        with self._turn:
            self._users -= 1
            if not self._users and self._is_ours:
                self._is_ours = False
                ray.shutdown()


_connection = _Connection()


class Cluster:
    """Room on a Ray cluster for one process.

    Args:
        process: its name.
    """

    def __init__(self, process: str) -> None:
        self._process = process
        self._entering: asyncio.Future[None] | None = None
        self._room: PlacementGroup | None = None
        self._bundles: dict[str, int] = {}

    async def open(self) -> None:
        """Connect to the cluster that the program is connected to, or that there is, or start one on this machine."""
        # In a thread: it takes seconds in which whatever else runs on this event loop should go on.
        self._entering = asyncio.ensure_future(asyncio.to_thread(_connection.enter))
        await asyncio.shield(self._entering)

    async def admit(self, groups: Sequence[Group], timeout: float) -> None:
        """Have room for all of these kept free: for all or none.

        Raises:
            AdmissionError: the cluster has not had that much room within ``timeout`` seconds.
        """
        bundles = {group.name: bundle for group in groups if (bundle := _bundle(needs_of(group)))}
        if not bundles:
            return
        self._bundles = {name: index for index, name in enumerate(bundles)}
        self._room = placement_group(list(bundles.values()), strategy="PACK")
        if await shared_threads().call_plain(self._room.wait, timeout):
            return
        needed: dict[str, float] = {}
        for bundle in bundles.values():
            for kind, amount in bundle.items():
                needed[kind] = needed.get(kind, 0) + amount
        there = await asyncio.to_thread(ray.available_resources)
        free = {kind: there.get(kind, 0) for kind in needed}
        raise AdmissionError(
            f"process {self._process!r}: the Ray cluster has no room for its {len(bundles)} actors that need some: "
            f"needed {_listed(needed)}; free {_listed(free)}, maybe on several machines, and each actor has to fit on "
            f"one. Wait, enlarge the cluster, put components together with placement=, or ask for less (resources=)",
            needed=needed,
            free=free,
        )

    def place(self, groups: Sequence[Group], plans: Sequence[bytes], listener: GroupListener) -> list[RayGroup]:
        """Start an actor for each group."""
        remote = ray.remote(GroupActor)
        actors: dict[str, Any] = {}
        for group in groups:
            options = needs_of(group).to_ray_options()
            if self._room is not None and group.name in self._bundles:
                options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
                    self._room, placement_group_bundle_index=self._bundles[group.name]
                )
            actors[group.name] = remote.options(
                **options, max_restarts=0, max_task_retries=0, max_concurrency=_CALLS + len(group.edges)
            ).remote(sys.path)
        homes = {one.name: group.name for group in groups for one in group.components}
        return [
            RayGroup(group, plan, actors, homes, listener, self._process)
            for group, plan in zip(groups, plans, strict=True)
        ]

    async def close(self) -> None:
        """Give the room back; the last process of the program leaves the cluster, if :meth:`open` went there."""
        if self._room is not None:
            remove_placement_group(self._room)
            self._room = None
        entering, self._entering = self._entering, None
        if entering is not None:
            # It goes on in its thread, whoever was cancelled.
            await asyncio.wait((entering,))
            if entering.exception() is None:
                await asyncio.to_thread(_connection.leave)


class RayGroup(GroupHandle):
    """A group in an actor."""

    grace = 5.0
    """Seconds for ``destroy`` of the components of a group that was cancelled."""

    def __init__(
        self,
        group: Group,
        plan: bytes,
        actors: Mapping[str, Any],
        homes: Mapping[str, str],
        listener: GroupListener,
        process: str,
    ) -> None:
        super().__init__(group, listener)
        self._plan = plan
        self._actors = actors
        self._actor = actors[group.name]
        self._homes = homes
        self._process = process
        self._preparing: asyncio.Task[Any] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._is_prepared = self._is_cancelled = self._is_ending = False
        self._loss: WorkerLostError | None = None

    # Being there --------------------------------------------------------------------------------

    async def prepare(self) -> None:
        self._preparing = asyncio.current_task()
        self._listening = asyncio.ensure_future(self._listen())
        try:
            returned(await self._answer(self._actor.prepare.remote(self._plan, self._actors, self._homes)))
        finally:
            self._preparing = None
        self._is_prepared = True

    async def _listen(self) -> None:
        while True:
            try:
                reports = await self._actor.reports.remote()
            except RayActorError as error:
                if not self._is_ending:
                    self._listener.lost(self.name, self._lost(error))
                return
            try:
                for report in reports:
                    self._heard(report)
            except WireError as error:
                self._loss = WorkerLostError(f"process {self._process!r}: {error}", worker=self.name)
                self._listener.lost(self.name, self._loss)
                return

    async def _answer(self, answer: Awaitable[T]) -> T:
        try:
            return await answer
        except RayActorError as error:
            raise self._lost(error) from error

    def _lost(self, error: RayActorError) -> WorkerLostError:
        if self._loss is None:
            names = ", ".join(map(repr, self.components))
            self._loss = WorkerLostError(
                f"process {self._process!r}: the Ray actor with {names} died: {error}", worker=self.name
            )
            self._loss.__cause__ = error
        return self._loss

    # What is asked of it ------------------------------------------------------------------------

    async def _call(self, name: str, argument: bytes) -> bytes:
        called: Awaitable[tuple[bytes, bytes]] = self._actor.call.remote(name, argument)
        answer, used = await self._answer(called)
        self._heard(used)
        return answer

    def _order(self, name: str, *arguments: Any) -> None:
        self._actor.order.remote(name, *arguments)

    def cancel(self) -> None:
        self._is_cancelled = True
        if self._preparing is not None:
            self._preparing.cancel()
        super().cancel()

    async def destroy(self) -> Mapping[str, GroupView]:
        self._is_ending = True
        try:
            if not self._is_prepared or self._loss is not None:
                return {}
            async with asyncio.timeout(self.grace if self._is_cancelled else None):
                return await super().destroy()
        finally:
            if self._listening is not None:
                self._listening.cancel()
            ray.kill(self._actor)


def needs_of(group: Group) -> Resource:
    """What the components of a group need together."""
    wanted = [one.resources for one in group.components if one.resources is not None]
    names = {name: None for one in wanted for name in one.resources}

    def total(amounts: Sequence[float | str]) -> float:
        return math.fsum(float(amount) for amount in amounts)

    return Resource(
        cpu=total([one.cpu for one in wanted]),
        gpu=total([one.gpu for one in wanted]),
        memory=total([one.memory for one in wanted]),
        resources={name: total([one.resources.get(name, 0) for one in wanted]) for name in names},
    )


def _bundle(needs: Resource) -> dict[str, float]:
    amounts = {"CPU": needs.cpu, "GPU": needs.gpu, "memory": needs.memory, **needs.resources}
    return {name: float(amount) for name, amount in amounts.items() if amount}


def _listed(amounts: Mapping[str, float]) -> str:
    return ", ".join(f"{name}: {amount:g}" for name, amount in amounts.items())
