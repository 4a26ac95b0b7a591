"""Every error that stbass raises: one root, one class per cause.

The docstring of a class is its default message; a message given to the constructor replaces it.
Keyword fields are kept as attributes, so that a handler can act on them instead of reading text.
All of them survive a trip through a worker (see :mod:`stbass.wire`).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

if getattr(sys.modules["stbass"], "DISTRIBUTION", None) != "stbass-celery":
    # Here, since this module is of ours alone, and the first of ours that is loaded.
    raise ImportError(
        "the distribution 'stbass', which is another implementation, has put its files over those of stbass-celery:"
        " pip uninstall stbass, and then install stbass-celery once more, with pip install --force-reinstall"
    )

__all__ = [
    "AdmissionError",
    "AllGuardsDisabledError",
    "BackendUnavailableError",
    "BudgetExceeded",
    "ChannelClosedError",
    "ChannelProtocolError",
    "ChannelTopologyError",
    "ChannelTypeError",
    "CheckpointError",
    "ConfigurationError",
    "CopyError",
    "DataflowError",
    "DeadlineExceeded",
    "IOClosedError",
    "InvalidProcessError",
    "JobFinishedError",
    "JobInUseError",
    "MCPArgumentError",
    "MCPConnectionError",
    "MCPError",
    "MCPTimeoutError",
    "MCPToolError",
    "MCPUnknownToolError",
    "MissingDependencyError",
    "NotConsumedError",
    "NotFoundError",
    "NotInitialisedError",
    "NotTransportable",
    "ProcessCancelled",
    "ProcessFailed",
    "ProcessRefused",
    "ProcessSkipped",
    "RemoteError",
    "RunConflictError",
    "SignatureError",
    "SpecError",
    "StateError",
    "StateLostError",
    "StateUnavailable",
    "StbassError",
    "UnknownEndpointError",
    "ValidationFailed",
    "WireError",
    "WorkerLostError",
    "WorkflowError",
]


class StbassError(Exception):
    """Something in stbass went wrong."""

    def __init__(self, message: str | None = None, /, **fields: Any) -> None:
        text = message if message is not None else _first_line(type(self))
        super().__init__(text)
        self.__dict__.update(fields)

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else _first_line(type(self))


def _first_line(cls: type[BaseException]) -> str:
    doc = cls.__doc__ or cls.__name__
    return doc.strip().splitlines()[0]


# Set-up ------------------------------------------------------------------------------------------


class ConfigurationError(StbassError, ValueError):
    """A setting is wrong."""


class MissingDependencyError(StbassError, ImportError):
    """An optional package is not installed."""


class UnknownEndpointError(StbassError, LookupError):
    """No backend is registered for the endpoint of a placement, and the registry is strict."""

    endpoint: str | None = None


# Channels and choice -----------------------------------------------------------------------------


class ChannelTypeError(StbassError, TypeError):
    """A value does not fit the channel's type."""

    expected: Any = None
    actual: Any = None
    channel_name: str | None = None


class ChannelTopologyError(StbassError):
    """A channel is connected in a way that a channel cannot be."""

    channel_name: str | None = None


class ChannelClosedError(StbassError):
    """The channel is closed."""

    channel_name: str | None = None
    failed: bool = False
    """Whether it was not closed by anybody, but a process that had its other end has failed: values may be missing."""


class ChannelProtocolError(StbassError):
    """The channel's protocol does not allow this value now."""


class AllGuardsDisabledError(StbassError):
    """No guard of this choice can ever become ready."""


# Processes ---------------------------------------------------------------------------------------


class ProcessFailed(StbassError):
    """A process failed."""


class ProcessCancelled(StbassError):
    """The process was cancelled before it ended."""


class DeadlineExceeded(StbassError, TimeoutError):
    """The deadline passed before the process ended.

    ``deadline`` is in seconds; ``phase`` is ``"queued"`` or ``"running"``; ``worker`` names where it ran, if anywhere.
    """

    deadline: float | None = None
    phase: str = "running"
    worker: str | None = None


class BudgetExceeded(StbassError):
    """A composition has used up its budget.

    ``budget`` is the :class:`stbass.result.Budget`, ``used`` the :class:`stbass.result.Usage` when it was noticed.
    """

    budget: Any = None
    used: Any = None


# Travelling --------------------------------------------------------------------------------------


class NotTransportable(StbassError, TypeError):
    """A value or a process cannot be sent to another Python process.

    ``path`` says where in the value the offending part is, for example ``value["conn"][2]``. Of a result that could not
    travel, ``value_type`` is its ``module:qualname`` and ``value_text`` the beginning and the end of its ``repr``.
    """

    path: str | None = None
    value_type: str = ""
    value_text: str = ""


class WireError(StbassError, ValueError):
    """A message is not one that stbass wrote."""


class SignatureError(StbassError):
    """A message's signature is missing or wrong."""


class RemoteError(StbassError):
    """An error of a class that is not known here, or cannot be made here, was raised on a worker.

    ``type_name`` is its ``module:qualname``, ``type_bases`` are those of the classes that it derives from,
    ``remote_args`` is the text of its arguments; ``errors`` is what its
    ``errors()`` said, as plain data, if compiled code made the class. Other attributes of the error (``status_code``,
    ``body``, ``response``, …) are attributes here too.
    """

    type_name: str = ""
    type_bases: tuple[str, ...] = ()
    remote_args: tuple[str, ...] = ()
    errors: Any = None


# Where processes run -----------------------------------------------------------------------------


class ProcessRefused(StbassError):
    """A worker refused a process that it does not know.

    ``reference`` is the process, ``queue`` where it was sent, ``worker`` who refused it.
    """

    reference: str | None = None
    queue: str | None = None
    worker: str | None = None


class BackendUnavailableError(StbassError, ConnectionError):
    """The place where processes should run cannot be reached."""


class NotConsumedError(DeadlineExceeded):
    """No worker consumes the queue that the process was sent to."""

    queue: str | None = None


class RunConflictError(StbassError):
    """The id of a run is taken by other work; ``run_id`` is that id, and ``runs`` the name of what it stands for."""

    run_id: str = ""
    runs: str = ""


class WorkerLostError(StbassError):
    """The worker that ran the process died."""

    worker: str | None = None
    attempt: int = 1


class StateLostError(StbassError):
    """The server that keeps track of running processes lost its data."""


# Workflows ---------------------------------------------------------------------------------------


class WorkflowError(StbassError):
    """A workflow ended because a process that it requires failed.

    ``failed`` is the id of that process; ``results`` are the results of all of them, by id, as far as they came.
    """

    failed: str = ""
    results: Mapping[str, Any] = MappingProxyType({})


class ValidationFailed(StbassError, ValueError):
    """The input of a process does not fulfil one of its validation rules."""


class ProcessSkipped(StbassError):
    """The process was not run, because something that it depends on did not complete."""


# Dataflow ----------------------------------------------------------------------------------------


class DataflowError(StbassError):
    """A process of components could not go on."""


class NotInitialisedError(DataflowError):
    """The process was told to step or to run before it was initialised."""


class InvalidProcessError(DataflowError, ValueError):
    """The process is put together in a way that cannot work.

    ``findings`` are all that is wrong with it, a sentence each.
    """

    findings: tuple[str, ...] = ()


class SpecError(DataflowError, ValueError):
    """The description of a process is wrong.

    ``findings`` are all that is wrong with it, a sentence each.
    """

    findings: tuple[str, ...] = ()


class IOClosedError(DataflowError):
    """The component has said that no more comes from it, or nobody is left who would take it."""


class CopyError(DataflowError, TypeError):
    """A value that was set on an output cannot be copied for who receives it."""


class CheckpointError(DataflowError):
    """The state of a component cannot be saved.

    ``component`` is its name; ``field`` the attribute, or the field, that holds what cannot be saved.
    """

    component: str = ""
    field: str | None = None


class AdmissionError(DataflowError):
    """There is too little room for the process where it should run.

    ``needed`` and ``free`` are how many slots of the fleet, by endpoint; on Ray how much of each resource, by name.
    """

    needed: Mapping[str, float] = MappingProxyType({})
    free: Mapping[str, float] = MappingProxyType({})


class NotFoundError(DataflowError, LookupError):
    """The state knows nothing of that name."""


class StateError(DataflowError):
    """The state cannot be read or written."""


class StateUnavailable(StateError):
    """The server or the file of the state cannot be used just now. What failed can be tried again later."""


class JobInUseError(StateError):
    """Another process is running this job.

    ``job_id`` is the job; ``holder`` says who has it, as far as it is known.
    """

    job_id: str = ""
    holder: str | None = None


class JobFinishedError(StateError):
    """The job has run to its end. ``job_id`` is the job."""

    job_id: str = ""


# Tools of MCP servers ----------------------------------------------------------------------------


class MCPError(StbassError):
    """A tool, a resource or a prompt of an MCP server could not be used.

    ``tool`` is its name (None: the error is about the server as a whole), ``server`` the server's address as it may be
    shown: passwords and tokens in it are masked.
    """

    tool: str | None = None
    server: str | None = None


class MCPConnectionError(MCPError, ConnectionError):
    """The MCP server cannot be reached, or the connection to it was lost.

    ``status`` is the HTTP status that it answered with, if it answered.
    """

    status: int | None = None


class MCPTimeoutError(MCPError, DeadlineExceeded):
    """The MCP server did not answer in time; ``deadline`` is how long it had, in seconds."""


class MCPToolError(MCPError):
    """The server answered that the tool failed, or that there is no resource or prompt to give.

    ``content`` is what it said, as plain data; ``code`` the protocol's error code, if it answered with one.
    """

    content: Any = None
    code: int | None = None


class MCPUnknownToolError(MCPToolError):
    """The MCP server has no tool, resource or prompt of that name; ``known`` are the names that it has."""

    known: tuple[str, ...] = ()


class MCPArgumentError(MCPToolError, ValueError):
    """The arguments do not fit the tool, the prompt or the resource's address."""
