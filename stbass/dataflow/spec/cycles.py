"""Cycles of components that deadlock, because each waits for another."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence

from stbass.dataflow.model.connector import Connector

__all__ = ["deadlocked_cycles"]

Needs = Mapping[str, Sequence[Sequence[Connector]]]


def deadlocked_cycles(needs: Needs) -> Iterator[list[Connector]]:
    """One cycle of each group of components that wait for each other and can never begin.

    Args:
        needs: for every component what it needs for its first step. Of each list it needs one connector.

    Yields:
        connectors in order; the last leads to where the first comes from.
    """
    stuck = _stuck(needs)
    blocking = {
        name: [one for fed in needs[name] for one in fed if all(each.spec.source_component in stuck for each in fed)]
        for name in stuck
    }
    for group in _groups(blocking):
        yield _cycle(blocking, group)


def _stuck(needs: Needs) -> set[str]:
    """Components that can never make a step."""
    waiting = {name: len(lists) for name, lists in needs.items()}
    takers: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for name, lists in needs.items():
        for index, fed in enumerate(lists):
            for connector in fed:
                takers[connector.spec.source_component].append((name, index))
    served: set[tuple[str, int]] = set()
    ready = deque(name for name, count in waiting.items() if count == 0)
    while ready:
        for taker in takers[ready.popleft()]:
            if taker not in served:
                served.add(taker)
                waiting[taker[0]] -= 1
                if waiting[taker[0]] == 0:
                    ready.append(taker[0])
    return {name for name, count in waiting.items() if count > 0}


def _groups(blocking: Mapping[str, Sequence[Connector]]) -> Iterator[set[str]]:
    """The strongly connected components that have a cycle (Kosaraju, without recursion)."""
    sources = {name: [one.spec.source_component for one in found] for name, found in blocking.items()}
    targets: dict[str, list[str]] = defaultdict(list)
    for name, found in sources.items():
        for source in found:
            targets[source].append(name)
    order: list[str] = []
    seen: set[str] = set()
    for root in sources:
        if root in seen:
            continue
        seen.add(root)
        stack = [(root, iter(targets[root]))]
        while stack:
            name, rest = stack[-1]
            following = next((one for one in rest if one not in seen), None)
            if following is None:
                order.append(name)
                stack.pop()
            else:
                seen.add(following)
                stack.append((following, iter(targets[following])))
    assigned: set[str] = set()
    for root in reversed(order):
        if root in assigned:
            continue
        group = {root}
        front = [root]
        while front:
            for source in sources[front.pop()]:
                if source not in assigned and source not in group:
                    group.add(source)
                    front.append(source)
        assigned |= group
        if len(group) > 1 or root in sources[root]:
            yield group


def _cycle(blocking: Mapping[str, Sequence[Connector]], group: set[str]) -> list[Connector]:
    """A shortest cycle through the first component of the group."""
    start = next(name for name in blocking if name in group)
    came: dict[str, Connector] = {}
    front = deque([start])
    while front:
        name = front.popleft()
        for connector in blocking[name]:
            source = connector.spec.source_component
            if source == start:
                cycle, at = [connector], name
                while at != start:
                    cycle.append(came[at])
                    at = came[at].spec.target_component
                return cycle
            if source in group and source not in came:
                came[source] = connector
                front.append(source)
    raise AssertionError(f"{group} has no cycle")
