"""Workflows: processes with dependencies, each started as soon as its own have ended.

    workflow = Workflow()
    fetch = Fetch(ProcessConfig(process_id="fetch")).register_to(workflow)
    Parse(ProcessConfig(process_id="parse", process_type=ProcessType.PROCESS)).register_to(workflow, [fetch])
    results = await workflow.execute({"fetch": "https://example.org"})

A front end over the core: its engine runs the nodes, its backends are the pools, and ``placement=`` sends a node to
where the registry says.
"""

from __future__ import annotations

from stbass.errors import ProcessSkipped, ValidationFailed, WorkflowError
from stbass.workflow.config import ProcessConfig, ProcessId, ProcessType, RetryStrategy
from stbass.workflow.flow import Workflow, create_workflow
from stbass.workflow.pools import WorkflowPoolManager
from stbass.workflow.process import BaseProcess, WorkflowNode
from stbass.workflow.state import ProcessMetadata, ProcessResult, ProcessState

__all__ = [
    "BaseProcess",
    "ProcessConfig",
    "ProcessId",
    "ProcessMetadata",
    "ProcessResult",
    "ProcessSkipped",
    "ProcessState",
    "ProcessType",
    "RetryStrategy",
    "ValidationFailed",
    "Workflow",
    "WorkflowError",
    "WorkflowNode",
    "WorkflowPoolManager",
    "create_workflow",
]
