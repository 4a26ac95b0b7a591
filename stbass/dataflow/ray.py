"""Processes on a Ray cluster: an actor for each group of components."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from stbass.dataflow.distributed.groups import Group, GroupHandle
from stbass.dataflow.distributed.plan import plan_of
from stbass.dataflow.distributed.process import DistributedProcess
from stbass.dataflow.model.components import Component
from stbass.dataflow.model.connector import Connector
from stbass.dataflow.state.base import StateBackend
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

    A component is made again in its actor, from its class and the arguments that it was made with, so its module has to
    be there too; what was done to it after that does not travel. After a step or a run, what it exports, its fields and
    its status are copied back to the component here.

    Args:
        components: the components, each with a name of its own.
        connectors: what connects their fields.
        name: its name; made up if None.
        parameters: what every component is given beside its inputs.
        state: where it keeps what it is, how far it came, and its checkpoints. It is used from here; components have
            none there.
        placement: components that run together, each with the name of its group.
        checkpoint_every: seconds between two checkpoints, if the state lasts; None: only when the process
            begins and ends.
        admission_timeout: seconds within which the cluster has to have room for all actors.

    Raises:
        InvalidProcessError: a part is of the wrong type, or a name is malformed or there twice; or ``placement`` names
            a component that is not there.
        TypeError: an argument is of the wrong type.
        ValueError: a number of seconds is not above 0.
    """

    kind: ClassVar[str] = "ray"

    def __init__(
        self,
        components: Iterable[Component],
        connectors: Iterable[Connector],
        name: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        state: StateBackend | None = None,
        *,
        placement: Mapping[str, str] | None = None,
        checkpoint_every: float | None = 1.0,
        admission_timeout: float = 10.0,
    ) -> None:
        super().__init__(
            components, connectors, name, parameters, state, placement=placement, checkpoint_every=checkpoint_every
        )
        if isinstance(admission_timeout, bool) or not isinstance(admission_timeout, int | float):
            raise TypeError(f"RayProcess(admission_timeout=…) takes seconds, got {admission_timeout!r}")
        if not admission_timeout > 0:
            raise ValueError(f"RayProcess(admission_timeout={admission_timeout}): more than 0 seconds")
        self.admission_timeout = admission_timeout
        """Seconds within which the cluster has to have room for all actors."""
        self._cluster: Cluster | None = None

    async def _place(self, groups: Sequence[Group]) -> Sequence[GroupHandle]:
        plans = [plan_of(group, process=self.name, parameters=self.parameters) for group in groups]
        try:
            from stbass.dataflow.distributed.ray_cluster import Cluster
        except ImportError as error:
            raise MissingDependencyError(f"RayProcess needs Ray ({error}): pip install 'stbass[ray]'") from error
        self._cluster = Cluster(self.name)
        await self._cluster.open()
        await self._cluster.admit(groups, self.admission_timeout)
        return self._cluster.place(groups, plans, self)

    async def _unplace(self) -> None:
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            await cluster.close()
