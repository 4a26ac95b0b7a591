"""The workflow: processes and their dependencies, run as soon as these allow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any, Self

from stbass import observe
from stbass._engine.registry import BackendRegistry, checked_registry
from stbass._values.checks import checked_deadline, checked_limit
from stbass._values.ids import new_id
from stbass._values.texts import value_text
from stbass._values.usage import NO_USAGE, Budget, checked_budget
from stbass.workflow.code import overrides_execute
from stbass.workflow.config import ProcessId, checked_id, id_of
from stbass.workflow.diagram import workflow_mermaid
from stbass.workflow.graph import Graph
from stbass.workflow.pools import WorkflowPoolManager
from stbass.workflow.process import BaseProcess, WorkflowNode
from stbass.workflow.run import Run
from stbass.workflow.saved import read_saved, write_saved
from stbass.workflow.state import ProcessResult

__all__ = ["Workflow", "create_workflow"]


class Workflow:
    """Processes with dependencies. Each starts as soon as its own dependencies have ended.

    Args:
        max_processes: how many Python processes its pool may have; the number of CPUs by default.
        max_threads: how many threads its pool may have; ``min(32, number of CPUs + 4)`` by default.
        process_id: its name; made up by default.
        registry: where the placements of nodes are looked up; :func:`stbass.placement.default_registry` by default.

    Raises:
        TypeError, ValueError: an argument is out of range.

    Attributes:
        process_id: its name, as a text.
        nodes: its nodes, by the id of their process.
        results: what has ended so far in the current run, or all of the last one, by id.
        usage: what the nodes of the last run have used; nothing before it has ended.
        pool_manager: where its pools come from.
    """

    def __init__(
        self,
        max_processes: int | None = None,
        max_threads: int | None = None,
        process_id: str | ProcessId | None = None,
        *,
        registry: BackendRegistry | None = None,
    ) -> None:
        self.max_processes = checked_limit(max_processes, "max_processes")
        self.max_threads = checked_limit(max_threads, "max_threads")
        self.process_id = f"workflow_{new_id()}" if process_id is None else checked_id(process_id)
        self.registry = checked_registry(registry)
        self.nodes: dict[str, WorkflowNode] = {}
        self.results: dict[str, ProcessResult] = {}
        self.usage = NO_USAGE
        self.pool_manager = WorkflowPoolManager.get_instance()
        self._running = False
        self._resumed: dict[str, ProcessResult] = {}

    def add_node(self, node: WorkflowNode) -> Self:
        """Add a node; its dependencies may be added later. Gives back the workflow.

        Raises:
            TypeError: it is no :class:`WorkflowNode`, or its process overrides neither ``process`` nor ``execute``.
            ValueError: there is a node of that id.
            RuntimeError: the workflow is running.
        """
        given: Any = node
        if not isinstance(given, WorkflowNode):
            hint = "; wrap it: WorkflowNode(process)" if isinstance(given, BaseProcess) else ""
            raise TypeError(f"add_node takes a WorkflowNode, got {value_text(given)}{hint}")
        process, name = node.process, node.process_id
        if not isinstance(process, BaseProcess):
            raise TypeError(f"the process of a node must be a BaseProcess, got {value_text(process)}")
        if not overrides_execute(process) and type(process).process is BaseProcess.process:
            raise TypeError(f"node {name!r}: {type(process).__name__} overrides neither process() nor execute()")
        if name in self.nodes:
            raise ValueError(f"there is a node {name!r} already")
        self._check_idle("add a node to")
        process.set_workflow(self)
        self.nodes[name] = node
        return self

    @property
    def execution_graph(self) -> dict[str, set[str]]:
        """For each node, by id, the ids of the nodes that it depends on."""
        return {name: set(node.depends_on) for name, node in self.nodes.items()}

    @property
    def progress(self) -> float:
        """How far it is, from 0 to 1: the mean over its nodes. Nodes that ended without completing count as done."""
        if not self.nodes:
            return 1.0
        ended = sum(
            1.0 if name in self.results else node.process.metadata.progress for name, node in self.nodes.items()
        )
        return ended / len(self.nodes)

    async def execute(
        self,
        initial_data: Mapping[Any, Any] | None = None,
        *,
        deadline: float | None = None,
        progress: bool = False,
        budget: Budget | None = None,
    ) -> dict[str, ProcessResult]:
        """Run it.

        Args:
            initial_data: the input of nodes without dependencies, by id (or by process); None for those not named.
            deadline: seconds after which what runs is cancelled, and what has not started never will.
            progress: whether to show, on standard error, how far each node is.
            budget: how much all nodes together may use; then those that have not ended fail with ``BudgetExceeded``.

        Returns:
            The result of every node, by id, in the order in which they were added.

        Raises:
            WorkflowError: a required node failed whose configuration says ``fail_fast``, and the others have been
                cancelled. It has the results so far, and its cause is the error.
            ValueError: a dependency or a key of ``initial_data`` is no node, or the dependencies form a cycle.
            TypeError: a node for a Python process cannot be pickled, or ``initial_data`` is no mapping.
            NotTransportable: a node cannot go to where it is placed.
            RuntimeError: it is running already.

        Of these, all but the first come before anything has run.
        """
        self._check_idle("execute")
        run = Run(
            self.process_id,
            Graph(self.nodes),
            _checked_data(initial_data),
            checked_deadline(deadline),
            self._resumed,
            self.registry,
            checked_budget(budget),
        )
        self._running = True
        self.results = run.results
        try:
            # `observe` loads what draws when it is asked for: that takes longer than most workflows.
            with observe.progress() if progress else nullcontext():
                lease = self.pool_manager.lease(self.process_id, self.max_threads, self.max_processes)
                return await run.to_end(lease)
        finally:
            self.results, self.usage = run.ordered(), run.usage
            self._running = False
            self._resumed = {}

    def to_json(self, *, indent: int = 0) -> str:
        """Its graph, with the state and the result of each node, as JSON text.

        Results are written as the fleet sends them (see :mod:`stbass.wire`), so that they come back exact. Of one that
        cannot be, only a text is kept, and its node runs again after :meth:`resume`: a warning in the log of
        ``stbass.workflow`` names the node and what in its data it is.

        Args:
            indent: spaces per level; 0 for one line.
        """
        return write_saved(self.process_id, self.nodes, self.results, indent)

    def resume(self, text: str | bytes) -> Self:
        """Take over the completed nodes of an earlier run, so that the next :meth:`execute` runs only the rest.

        Args:
            text: what :meth:`to_json` of a workflow with the same nodes and dependencies gave back.

        Raises:
            ValueError: it is not such a text, or is of another graph; the message names the difference.
            RuntimeError: the workflow is running.
        """
        self._check_idle("resume")
        self._resumed = read_saved(self.process_id, self.nodes, text)
        self.results = dict(self._resumed)
        return self

    def to_mermaid(self, direction: str = "TD") -> str:
        """This workflow as a Mermaid flowchart: nodes with kind, placement and state, and an arrow per dependency.

        Args:
            direction: ``TD``, ``BT``, ``LR`` or ``RL``.

        Raises:
            ValueError: the direction is none of these.
        """
        return workflow_mermaid(self.nodes, direction)

    def _check_idle(self, what: str) -> None:
        if self._running:
            raise RuntimeError(f"cannot {what} workflow {self.process_id!r} while it is running")

    def __repr__(self) -> str:
        return f"<Workflow {self.process_id} of {len(self.nodes)} nodes>"


def _checked_data(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"initial_data must map ids of processes to their input, got {value_text(value)}")
    return {id_of(key, "a key of initial_data"): data for key, data in value.items()}


def create_workflow(
    *nodes: WorkflowNode | BaseProcess | tuple[BaseProcess, Iterable[Any]],
    max_processes: int | None = None,
    max_threads: int | None = None,
    process_id: str | ProcessId | None = None,
    registry: BackendRegistry | None = None,
) -> Workflow:
    """A workflow of these nodes: nodes, processes without dependencies, or pairs of a process and its dependencies.

    Raises:
        TypeError, ValueError: as from :class:`Workflow` and ``Workflow.add_node``.
    """
    made = Workflow(max_processes, max_threads, process_id, registry=registry)
    for node in nodes:
        if isinstance(node, BaseProcess):
            node = WorkflowNode(node)
        elif isinstance(node, tuple) and len(node) == 2:
            node = WorkflowNode(node[0], list(node[1]))
        made.add_node(node)
    return made
