"""A process run by itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from stbass._engine.supervise import Child, supervise
from stbass._process.composable import failure_of
from stbass._process.context import ProcessContext
from stbass._values.policy import FailurePolicy
from stbass.errors import NotTransportable
from stbass.workflow.code import current_context
from stbass.workflow.config import ProcessType
from stbass.workflow.pools import WorkflowPoolManager
from stbass.workflow.running import NodeRun, check_picklable, reset, settle
from stbass.workflow.state import ProcessResult

if TYPE_CHECKING:
    from stbass.workflow.process import BaseProcess

__all__ = ["run_alone"]


async def run_alone(process: BaseProcess, input_data: Any) -> ProcessResult:
    """See ``BaseProcess.run``."""
    reset(process)
    name = str(process.config.process_id)
    outer = current_context()
    ctx = ProcessContext(name) if outer is None else outer.child(name)
    if process.config.process_type is ProcessType.PROCESS:
        try:
            check_picklable(process)
        except NotTransportable as error:
            return settle(process, failure_of(error, ctx), None)
    workflow = process._workflow
    if workflow is not None:
        limits = (workflow.process_id, workflow.max_threads, workflow.max_processes)
    else:
        limits = (f"without a workflow, on event loop {id(asyncio.get_running_loop())}", None, None)
    async with WorkflowPoolManager.get_instance().lease(*limits) as pools:
        run = NodeRun(process, None, pools, lambda: input_data)
        try:
            [result] = await supervise([Child(run, ctx)], ctx, FailurePolicy.COLLECT)
        except asyncio.CancelledError as error:
            settle(process, failure_of(error, ctx), run.began)
            raise
    return settle(process, result, run.began)
