"""The graph of dependencies: checked before anything runs, and followed during a run."""

from __future__ import annotations

import graphlib
from collections.abc import Iterable, Mapping

from stbass.workflow.process import WorkflowNode

__all__ = ["Graph", "Progression"]


class Graph:
    """Which node waits for which. Nodes are known by their index, in the order in which they were added.

    Args:
        nodes: by process id.

    Raises:
        ValueError: a dependency is no node, or there is a cycle; the message names them.
    """

    __slots__ = ("dependants", "dependencies", "ids", "index", "nodes", "waits_for")

    def __init__(self, nodes: Mapping[str, WorkflowNode]) -> None:
        self.ids = list(nodes)
        self.nodes = list(nodes.values())
        self.index = {name: index for index, name in enumerate(self.ids)}
        self.dependants: list[list[int]] = [[] for _ in self.ids]
        self.dependencies: list[list[int]] = []
        for index, node in enumerate(self.nodes):
            found = []
            for name in node.depends_on:
                if name not in self.index:
                    known = ", ".join(self.ids)
                    raise ValueError(
                        f"node {self.ids[index]!r} depends on {name!r}, which is no node; there are: {known}"
                    )
                found.append(self.index[name])
                self.dependants[self.index[name]].append(index)
            self.dependencies.append(found)
        self.waits_for = [len(found) for found in self.dependencies]
        self._check_cycles()

    def _check_cycles(self) -> None:
        waiting = list(self.waits_for)
        free = [index for index, count in enumerate(waiting) if not count]
        for index in free:
            for dependant in self.dependants[index]:
                waiting[dependant] -= 1
                if not waiting[dependant]:
                    free.append(dependant)
        if len(free) == len(self.ids):
            return
        # There is a cycle. graphlib names its nodes in order.
        sorter = graphlib.TopologicalSorter({node.process_id: node.depends_on for node in self.nodes})
        try:
            sorter.prepare()
        except graphlib.CycleError as error:
            cycle = " -> ".join(error.args[1])
            raise ValueError(f"the dependencies form a cycle: {cycle} (each is needed by the next)") from None

    @property
    def roots(self) -> list[int]:
        """Nodes without dependencies."""
        return [index for index, count in enumerate(self.waits_for) if not count]


class Progression:
    """How far a run of the graph is: which nodes can start, and which never will.

    A node can start when all that it depends on has ended. It never will when something required among that did not
    complete.
    """

    __slots__ = ("_before", "_graph", "_skipped", "_waiting")

    def __init__(self, graph: Graph, completed: Iterable[int] = ()) -> None:
        self._graph = graph
        self._waiting = list(graph.waits_for)
        self._skipped: set[int] = set()
        self._before = frozenset(completed)
        for index in self._before:
            for dependant in graph.dependants[index]:
                self._waiting[dependant] -= 1

    def begin(self) -> list[int]:
        """The nodes that can start at once, given those that had completed before."""
        return [index for index, count in enumerate(self._waiting) if not count and index not in self._before]

    def ended(self, index: int, completed: bool) -> tuple[list[int], list[tuple[int, int]]]:
        """A node has ended.

        Returns:
            The nodes that can start now; and those that never will, each with the one because of which.
        """
        ready: list[int] = []
        skipped: list[tuple[int, int]] = []
        ends = [(index, completed)]
        for ended, complete in ends:
            held_up = not complete and self._graph.nodes[ended].required
            for dependant in self._graph.dependants[ended]:
                if dependant in self._skipped or dependant in self._before:
                    continue
                self._waiting[dependant] -= 1
                if held_up:
                    self._skipped.add(dependant)
                    skipped.append((dependant, ended))
                    ends.append((dependant, False))
                elif not self._waiting[dependant]:
                    ready.append(dependant)
        return ready, skipped
