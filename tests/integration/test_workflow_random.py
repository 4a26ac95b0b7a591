"""Large random graphs of every mix of kinds and failures: run in an order that respects every edge, each node once."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stbass.workflow import (
    BaseProcess,
    ProcessConfig,
    ProcessResult,
    ProcessState,
    ProcessType,
    Workflow,
    WorkflowError,
)
from tests.support.nodes import Failing, Give

NODES = 1000
SLOW_NODES = 12
"""How many of them, at most, run in other Python processes."""


@dataclass
class Log:
    """When each node began and ended, and what it was given."""

    count: itertools.count[int] = field(default_factory=itertools.count)
    began: dict[str, int] = field(default_factory=dict)
    ended: dict[str, int] = field(default_factory=dict)
    given: dict[str, dict[str, ProcessResult]] = field(default_factory=dict)
    runs: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Logged(BaseProcess):
    """Notes when it begins and ends; waits a moment in between, on the loop or in a thread; fails or not."""

    def __init__(self, name: str, kind: ProcessType, log: Log, fails: bool, fail_fast: bool, turns: int) -> None:
        super().__init__(ProcessConfig(kind, name, fail_fast=fail_fast))
        self.log = log
        self.fails = fails
        self.turns = turns

    async def execute(self, input_data: Any) -> str:
        name = str(self.config.process_id)
        with self.log.lock:
            self.log.began[name] = next(self.log.count)
            self.log.runs.append(name)
            self.log.given[name] = input_data or {}
        for _ in range(self.turns):
            await asyncio.sleep(0)
        with self.log.lock:
            self.log.ended[name] = next(self.log.count)
        if self.fails:
            raise LookupError(name)
        return name


@dataclass(frozen=True)
class Plan:
    """A graph."""

    dependencies: list[list[int]]
    kinds: list[ProcessType]
    fails: list[bool]
    required: list[bool]
    fail_fast: bool
    turns: list[int]


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Hypothesis chooses the shape and the shares; a generator that it seeds fills in the thousand nodes."""
    choose = random.Random(draw(st.integers(0, 2**32)))
    reach = draw(st.sampled_from([1, 5, 100, NODES]))
    most = draw(st.sampled_from([0, 1, 3, 8]))
    threads = draw(st.sampled_from([0.0, 0.1, 0.5]))
    failures = draw(st.sampled_from([0.0, 0.01, 0.2]))
    optional = draw(st.sampled_from([0.0, 0.3, 1.0]))
    slow = set(choose.sample(range(NODES), draw(st.sampled_from([0, SLOW_NODES]))))
    dependencies, kinds = [], []
    for index in range(NODES):
        near = range(max(0, index - reach), index)
        dependencies.append(choose.sample(near, min(len(near), choose.randint(0, most))))
        kind = ProcessType.THREAD if choose.random() < threads else ProcessType.ASYNC
        kinds.append(ProcessType.PROCESS if index in slow else kind)
    return Plan(
        dependencies,
        kinds,
        [choose.random() < failures for _ in range(NODES)],
        [choose.random() >= optional for _ in range(NODES)],
        draw(st.booleans()),
        [choose.choice([0, 0, 1, 3]) for _ in range(NODES)],
    )


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example])
@given(plan=plans())
async def test_a_thousand_nodes_run_in_an_order_that_respects_every_edge(plan: Plan) -> None:
    # Given a graph, added in an order that is not that of its edges
    log, workflow = Log(), Workflow(max_threads=4, max_processes=1)
    order = list(range(NODES))
    random.Random(NODES).shuffle(order)
    for index in order:
        name, kind = str(index), plan.kinds[index]
        process: BaseProcess
        if kind is ProcessType.PROCESS:
            made = Failing if plan.fails[index] else Give
            process = made(name, kind=kind, fail_fast=plan.fail_fast)
        else:
            process = Logged(name, kind, log, plan.fails[index], plan.fail_fast, plan.turns[index])
        process.register_to(workflow, [str(needed) for needed in plan.dependencies[index]], plan.required[index])

    # When it runs
    async with asyncio.timeout(60):
        try:
            results, failed = await workflow.execute(), None
        except WorkflowError as error:
            results, failed = dict(error.results), error.failed

    # Then every node has a result, and none ran twice
    states = [workflow.nodes[str(index)].process.metadata.state for index in range(NODES)]
    assert len(results) == NODES
    assert len(log.runs) == len(set(log.runs))
    assert set(states) <= {ProcessState.COMPLETED, ProcessState.FAILED, ProcessState.SKIPPED}
    # and each began after all that it depends on had ended, and was given just what had completed
    for index in range(NODES):
        name = str(index)
        needs = [str(needed) for needed in plan.dependencies[index]]
        if name in log.began:
            assert all(log.ended[needed] < log.began[name] for needed in needs if needed in log.began)
            completed = {needed for needed in needs if results[needed].success}
            assert log.given[name].keys() == completed
            assert all(log.given[name][needed] is results[needed] for needed in completed)
    # and the failures have done what they must, and nothing else
    halting = {str(i) for i in range(NODES) if plan.fails[i] and plan.required[i] and plan.fail_fast}
    if failed is not None:
        assert failed in halting
        assert not results[failed].success
        return
    for index in range(NODES):
        held_up = any(states[n] is not ProcessState.COMPLETED and plan.required[n] for n in plan.dependencies[index])
        if held_up:
            assert states[index] is ProcessState.SKIPPED
        else:
            assert states[index] is (ProcessState.FAILED if plan.fails[index] else ProcessState.COMPLETED)
    assert not any(str(index) in halting for index in range(NODES) if states[index] is ProcessState.FAILED)
