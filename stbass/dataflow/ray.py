"""Processes on a Ray cluster: an actor for each group of components."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from stbass.dataflow.distributed.group_handle import GroupHandle
from stbass.dataflow.distributed.groups import Group
from stbass.dataflow.distributed.plan import plan_of
from stbass.dataflow.distributed.process import DistributedProcess
from stbass.errors import MissingDependencyError

if TYPE_CHECKING:
    from stbass.dataflow.distributed.ray_cluster import Cluster

__all__ = ["RayProcess"]


class RayProcess(DistributedProcess):
    """A process whose components run in Ray actors: each in one of its own, or together as ``placement`` says.

    If the program has not called ``ray.init``, entering the process does, and leaving it shuts Ray down again; what
    components print is then seen nowhere (it is if the program calls ``ray.init`` itself). An actor has what the
    components in it need (``resources``), together; one that says nothing takes no processor for itself. The actors are
    admitted all at once or not at all, and killed when the process ends.

    It takes what :class:`DistributedProcess` takes. The state is used from here; components have none in their actors.
    """

    kind: ClassVar[str] = "ray"

    _cluster: Cluster | None = None

    async def _place(self, groups: Sequence[Group]) -> Sequence[GroupHandle]:
        plans = [plan_of(group, self.parameters) for group in groups]
        try:
            from stbass.dataflow.distributed.ray_cluster import Cluster
        except ImportError as error:
            raise MissingDependencyError(f"RayProcess needs Ray ({error}): pip install 'stbass-celery[ray]'") from error
        self._cluster = Cluster(self.name)
        await self._cluster.open()
        await self._cluster.admit(groups, self.admission_timeout)
        return self._cluster.place(groups, plans, self)

    async def _unplace(self) -> None:
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            await cluster.close()
