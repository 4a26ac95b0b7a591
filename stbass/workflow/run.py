"""One run of a workflow: checked first, then given to the engine node by node."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from typing import Any

from stbass._engine.children import registry_of
from stbass._engine.composition import prepare_owner
from stbass._engine.lending import lent
from stbass._engine.registry import BackendRegistry
from stbass._engine.supervise import Child, supervise
from stbass._process.context import ProcessContext, emit_event, failure_of, top_context
from stbass._process.interrupts import interruptible
from stbass._values.outcome import ProcessResult as CoreResult
from stbass._values.policy import FailurePolicy
from stbass._values.usage import Budget, Usage
from stbass.errors import ProcessCancelled, ProcessSkipped, StbassError, ValidationFailed, WorkflowError
from stbass.observe import events
from stbass.workflow.code import fraction
from stbass.workflow.config import ProcessType
from stbass.workflow.graph import Graph, Progression
from stbass.workflow.pools import Pools
from stbass.workflow.process import WorkflowNode
from stbass.workflow.remote import remote_of
from stbass.workflow.running import NodeRun, Verdict, Watch, check_picklable, described, look_at_input, reset, settle
from stbass.workflow.state import ProcessResult, ProcessState

__all__ = ["Run"]


class Run:
    """One run of a workflow.

    Args:
        name: of the workflow.
        graph: its nodes and their dependencies.
        data: the input of nodes without dependencies, by id.
        deadline: seconds, or None.
        before: results of nodes that completed in an earlier run.
        registry: where placements are looked up, or None.
        budget: how much it may use, or None.

    Raises:
        ValueError: there is data for what is no node, or has dependencies.
        TypeError: a node cannot be pickled for its Python process.
        NotTransportable: a node cannot go to where it is placed.
    """

    def __init__(
        self,
        name: str,
        graph: Graph,
        data: Mapping[str, Any],
        deadline: float | None,
        before: Mapping[str, ProcessResult],
        registry: BackendRegistry | None,
        budget: Budget | None,
    ) -> None:
        self.results: dict[str, ProcessResult] = dict(before)
        """Of the nodes that have ended, in the order in which they did."""
        self._graph = graph
        self._data = data
        self._progression = Progression(graph, [graph.index[name] for name in before])
        self._watch: Watch | None = None
        self._owner = top_context(name)
        prepare_owner(self._owner, registry, deadline, budget)
        self._verdicts: dict[int, Verdict] = {}
        # In the order of the graph; None for nodes that completed in an earlier run.
        self._runs: list[NodeRun | None] = []
        self._contexts: list[ProcessContext] = []
        self._check_data()
        for node in graph.nodes:
            if node.process_id not in before:
                self._check_node(node)

    def _check_data(self) -> None:
        for name in self._data:
            index = self._graph.index.get(name)
            if index is None:
                known = ", ".join(self._graph.ids) or "none"
                raise ValueError(f"initial_data is given for {name!r}, which is no node; there are: {known}")
            depends_on = self._graph.nodes[index].depends_on
            if depends_on:
                raise ValueError(
                    f"initial_data is given for {name!r}, whose input is what it depends on: {', '.join(depends_on)}"
                )

    def _check_node(self, node: WorkflowNode) -> None:
        process = node.process
        if node.placement is not None:
            ctx = self._owner.child(node.process_id, placement=node.placement)
            registry_of(self._owner).get(node.placement).check(remote_of(process), ctx)
            self._watch = {}
        elif process.config.process_type is ProcessType.PROCESS:
            check_picklable(process)

    async def to_end(self, lease: AbstractAsyncContextManager[Pools]) -> dict[str, ProcessResult]:
        """Run it. However it ends, :attr:`results` and its processes say where each node stands.

        Args:
            lease: gives the pools while it runs.

        Raises:
            WorkflowError: a required node failed whose configuration says ``fail_fast``.
        """
        for name, node in self._graph_nodes():
            reset(node.process, self.results.get(name))
        self._check_inputs()
        emit_event(self._owner, "started")
        try:
            async with lease as pools:
                results = await self._run_all(pools)
        except BaseException:
            self._settle_rest(lambda index: self._cancelled(index, "the workflow was cancelled"))
            raise
        self._settle_rest(lambda index: results[index])
        return self._outcome()

    def _graph_nodes(self) -> zip[tuple[str, WorkflowNode]]:
        return zip(self._graph.ids, self._graph.nodes, strict=True)

    # Before it runs ------------------------------------------------------------------------------

    def _check_inputs(self) -> None:
        """Validate the input that is known already, before anything runs.

        Raises:
            WorkflowError: it is wrong, for a node whose failure ends the workflow.
        """
        for index in self._graph.roots:
            process = self._graph.nodes[index].process
            if self._graph.ids[index] not in self.results and process.config.validation_rules is not None:
                self._verdicts[index] = look_at_input(process, self._input(index))
        for index, verdict in self._verdicts.items():
            if isinstance(verdict, ValidationFailed) and _halts(self._graph.nodes[index]):
                self._fail_at_once(index, verdict)

    def _fail_at_once(self, culprit: int, error: ValidationFailed) -> None:
        name = self._graph.ids[culprit]
        failed = failure_of(error, self._context(name))
        self._settle_rest(
            lambda index: failed if index == culprit else self._cancelled(index, f"the input of {name!r} is wrong")
        )
        self._outcome()

    def _prepare(self, pools: Pools) -> None:
        for index, (name, node) in enumerate(self._graph_nodes()):
            self._contexts.append(self._owner.child(name))
            if name in self.results:
                self._runs.append(None)
                continue
            run = NodeRun(
                node.process,
                node.placement,
                pools,
                partial(self._input, index),
                self._watch,
                self._verdicts.get(index),
                optional=not _halts(node),
            )
            self._runs.append(run)

    def _context(self, name: str) -> ProcessContext:
        return self._owner.child(name)

    def _input(self, index: int) -> Any:
        names = self._graph.nodes[index].depends_on
        if not names:
            return self._data.get(self._graph.ids[index])
        results = self.results
        return {name: result for name in names if (result := results[name]).success}

    # While it runs -------------------------------------------------------------------------------

    async def _run_all(self, pools: Pools) -> dict[int, CoreResult]:
        self._prepare(pools)
        # The engine knows the nodes that are to run by their place among those alone.
        nodes = [index for index, run in enumerate(self._runs) if run is not None]
        place = {index: at for at, index in enumerate(nodes)}
        children = [Child(run, ctx) for run, ctx in zip(self._runs, self._contexts, strict=True) if run is not None]

        def then(at: int, result: CoreResult) -> list[int]:
            return [place[index] for index in self._then(nodes[at], result)]

        first = [place[index] for index in self._progression.begin()]
        async with AsyncExitStack() as stack:
            if self._watch is not None:
                stack.enter_context(events.subscribe(self._see))
            await stack.enter_async_context(lent(self._owner))
            stack.enter_context(interruptible())
            results = await supervise(children, self._owner, FailurePolicy.HALT, first=first, then=then)
        return dict(zip(nodes, results, strict=True))

    def _see(self, event: events.Event) -> None:
        """Note the progress of a process that runs elsewhere."""
        if event.kind == "progress" and self._watch is not None and event.done is not None:
            process = self._watch.get(event.process_id)
            if process is not None:
                process.metadata.progress = fraction(event.done, event.total)

    def _then(self, index: int, result: CoreResult) -> list[int]:
        self._settle(index, result)
        ready, skipped = self._progression.ended(index, result.is_ok)
        for one, because in skipped:
            name, needed = self._graph.ids[one], self._graph.ids[because]
            why = f"node {name!r} was not run: it depends on {needed!r}, which did not complete"
            self._settle(one, self._unrun(one, ProcessSkipped(why, depends_on=needed)))
        return ready

    def _unrun(self, index: int, error: StbassError) -> CoreResult:
        # Observers hear of it from the engine, when that has given up on starting it.
        return failure_of(error, self._contexts[index] if self._contexts else self._context(self._graph.ids[index]))

    def _cancelled(self, index: int, why: str) -> CoreResult:
        error = ProcessCancelled(f"node {self._graph.ids[index]!r} was cancelled: {why}", halted_by="")
        return self._unrun(index, error)

    def _settle(self, index: int, result: CoreResult) -> None:
        run = self._runs[index] if self._runs else None
        began = None if run is None else run.began
        self.results[self._graph.ids[index]] = settle(self._graph.nodes[index].process, result, began)

    # After it ------------------------------------------------------------------------------------

    def _settle_rest(self, result_of: Any) -> None:
        for index, name in enumerate(self._graph.ids):
            if name not in self.results:
                self._settle(index, result_of(index))

    @property
    def usage(self) -> Usage:
        """What its nodes have used."""
        return self._owner.used

    def ordered(self) -> dict[str, ProcessResult]:
        """The results that there are, in the order in which the nodes were added."""
        return {name: self.results[name] for name in self._graph.ids if name in self.results}

    def _outcome(self) -> dict[str, ProcessResult]:
        ordered = self.ordered()
        culprit = self._culprit(ordered)
        if events.subscribers:
            error = None if culprit is None else ordered[culprit].exception
            outcome = CoreResult.ok(dict(ordered)) if error is None else CoreResult.fail(error)
            emit_event(self._owner, "ended", result=outcome)
        if culprit is None:
            return dict(ordered)
        counts = ", ".join(
            f"{count} {state.value}"
            for state in (ProcessState.COMPLETED, ProcessState.FAILED, ProcessState.SKIPPED)
            if (count := sum(node.process.metadata.state is state for node in self._graph.nodes))
        )
        cause = ordered[culprit].exception
        assert cause is not None
        raise WorkflowError(
            f"workflow {self._owner.process_name!r}: node {culprit!r} failed: {described(cause)} (nodes: {counts})",
            failed=culprit,
            results=dict(ordered),
        ) from cause

    def _culprit(self, results: Mapping[str, ProcessResult]) -> str | None:
        """The node whose failure ended the workflow: the first that failed, and was not just cancelled for another."""
        found: list[tuple[float, str]] = []
        for name, node in self._graph_nodes():
            result = results[name]
            if result.success or result.exception is None or not _halts(node):
                continue
            if isinstance(result.exception, ProcessSkipped) or hasattr(result.exception, "halted_by"):
                continue
            found.append((0.0 if result.end_time is None else result.end_time.timestamp(), name))
        return min(found)[1] if found else None


def _halts(node: WorkflowNode) -> bool:
    """Whether its failure ends the workflow."""
    return node.required and node.process.config.fail_fast
