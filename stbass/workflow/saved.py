"""A workflow as JSON, and its completed nodes back from it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from logging import getLogger

import msgspec

from stbass import wire
from stbass._values.texts import text_of
from stbass.errors import NotTransportable, WireError
from stbass.workflow.process import WorkflowNode
from stbass.workflow.state import ProcessResult, ProcessState

__all__ = ["read_saved", "write_saved"]

_log = getLogger(__name__)

_FORMAT = "stbass.workflow/1"


class SavedResult(msgspec.Struct):
    """A result; ``omitted`` is a text of the data if that cannot be written."""

    success: bool
    execution_time: float
    start_time: datetime | None = None
    end_time: datetime | None = None
    error: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")
    omitted: str | None = None


class SavedNode(msgspec.Struct):
    """A node and its state."""

    process_id: str
    dependencies: list[str]
    process_type: str
    required: bool
    placement: str | None
    state: ProcessState
    retries: int
    progress: float
    start_time: datetime | None
    end_time: datetime | None
    last_error: str | None
    result: SavedResult | None


class SavedWorkflow(msgspec.Struct):
    """A workflow."""

    format: str
    process_id: str
    nodes: list[SavedNode]


_decoder = msgspec.json.Decoder(SavedWorkflow)


def write_saved(
    process_id: str, nodes: Mapping[str, WorkflowNode], results: Mapping[str, ProcessResult], indent: int
) -> str:
    """A workflow of that id as JSON text."""
    saved = []
    for name, node in nodes.items():
        metadata, result = node.process.metadata, results.get(name)
        saved.append(
            SavedNode(
                name,
                list(node.depends_on),
                node.process.config.process_type.value,
                node.required,
                None if node.placement is None else node.placement.summary,
                metadata.state,
                metadata.retries,
                metadata.progress,
                metadata.start_time,
                metadata.end_time,
                metadata.last_error,
                None if result is None else _saved(result, f"workflow {process_id!r}: node {name!r}"),
            )
        )
    text = msgspec.json.encode(SavedWorkflow(_FORMAT, process_id, saved))
    return (msgspec.json.format(text, indent=indent) if indent else text).decode()


def _saved(result: ProcessResult, what: str) -> SavedResult:
    made = SavedResult(
        result.success,
        result.execution_time,
        result.start_time,
        result.end_time,
        result.error,
        result.error_type,
        result.error_message,
    )
    try:
        made.data = msgspec.Raw(wire.dumps(result.data, what="data"))
    except NotTransportable as error:
        _log.warning(
            "%s has completed, but its data cannot be kept, and it will run again after resume(): %s", what, error
        )
        made.omitted = text_of(result.data)
    return made


def read_saved(process_id: str, nodes: Mapping[str, WorkflowNode], text: str | bytes) -> dict[str, ProcessResult]:
    """The results of the nodes that had completed.

    Raises:
        ValueError: it is no such text, or is of a workflow with other nodes or dependencies.
    """
    what = f"workflow {process_id!r} cannot be resumed from this"
    try:
        found = _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise ValueError(f"{what}: it is not what to_json() writes: {error}") from error
    if found.format != _FORMAT:
        raise ValueError(f"{what}: its format is {found.format!r}, not {_FORMAT!r}")
    _check_same(nodes, found, what)
    results = {}
    for node in found.nodes:
        result = node.result
        if node.state is not ProcessState.COMPLETED or result is None or result.omitted is not None:
            continue
        try:
            data = wire.loads(bytes(result.data))
        except WireError as error:
            raise ValueError(f"{what}: the data of node {node.process_id!r}: {error}") from error
        results[node.process_id] = ProcessResult(True, data, result.execution_time, result.start_time, result.end_time)
    return results


def _check_same(nodes: Mapping[str, WorkflowNode], found: SavedWorkflow, what: str) -> None:
    here = {name: set(node.depends_on) for name, node in nodes.items()}
    there = {node.process_id: set(node.dependencies) for node in found.nodes}
    for names, where in ((here.keys() - there.keys(), "the workflow"), (there.keys() - here.keys(), "the text")):
        if names:
            raise ValueError(f"{what}: only {where} has {', '.join(map(repr, sorted(names)))}")
    for name, needs in here.items():
        if needs != there[name]:
            raise ValueError(
                f"{what}: node {name!r} depends on {_listed(needs)} here, and on {_listed(there[name])} there"
            )


def _listed(names: set[str]) -> str:
    return ", ".join(map(repr, sorted(names))) or "nothing"
