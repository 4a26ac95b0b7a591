"""Programs of processes that talk over channels.

Where a process runs and what a channel runs on are chosen apart from the program::

    from stbass import PAR, PLACED_PAR, SEQ, Chan, Placement, Process

The names are loaded when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

import sys
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from stbass._lazy import lazy

DISTRIBUTION = "stbass-celery"
"""Of which this package is: another one has a package of this name too."""

if sys.version_info < (3, 11):  # noqa: UP036 - run from its files, nothing else says so
    raise ImportError(
        f"stbass needs Python 3.11 to 3.13, and {sys.executable} is Python {sys.version.partition(' ')[0]}:"
        " make an environment with a newer one, such as python3.12 -m venv .venv"
    )

if TYPE_CHECKING:
    from stbass.alt import ALT, PRI_ALT, Guard
    from stbass.channel import Chan
    from stbass.par import PAR
    from stbass.placement import PLACED_PAR, BackendRegistry, ExecutionBackend, LocalBackend, Placement
    from stbass.process import Process
    from stbass.replicator import PAR_FOR, SEQ_FOR
    from stbass.result import Budget, Failure, FailurePolicy, FailureReport, ProcessResult, Usage
    from stbass.runs import Run, find, run, run_sync, start
    from stbass.seq import SEQ
    from stbass.timer import DEADLINE, TIMER
    from stbass.topology import ChanArray, Collector, Distributor

__all__ = [
    "ALT",
    "DEADLINE",
    "PAR",
    "PAR_FOR",
    "PLACED_PAR",
    "PRI_ALT",
    "SEQ",
    "SEQ_FOR",
    "TIMER",
    "BackendRegistry",
    "Budget",
    "Chan",
    "ChanArray",
    "Collector",
    "Distributor",
    "ExecutionBackend",
    "Failure",
    "FailurePolicy",
    "FailureReport",
    "Guard",
    "LocalBackend",
    "Placement",
    "Process",
    "ProcessResult",
    "Run",
    "Usage",
    "find",
    "run",
    "run_sync",
    "start",
]

_HOME = {
    "ALT": "alt",
    "PRI_ALT": "alt",
    "Guard": "alt",
    "Chan": "channel",
    "PAR": "par",
    "PLACED_PAR": "placement",
    "BackendRegistry": "placement",
    "ExecutionBackend": "placement",
    "LocalBackend": "placement",
    "Placement": "placement",
    "Process": "process",
    "PAR_FOR": "replicator",
    "SEQ_FOR": "replicator",
    "Budget": "result",
    "Usage": "result",
    "Failure": "result",
    "FailurePolicy": "result",
    "FailureReport": "result",
    "ProcessResult": "result",
    "Run": "runs",
    "find": "runs",
    "run": "runs",
    "run_sync": "runs",
    "start": "runs",
    "SEQ": "seq",
    "DEADLINE": "timer",
    "TIMER": "timer",
    "ChanArray": "topology",
    "Collector": "topology",
    "Distributor": "topology",
}


def _version() -> str:
    from importlib import metadata

    return metadata.version(DISTRIBUTION)


# The modules of these names, and some others that programs use as `stbass.failure` or `stbass.mcp`.
_MODULES = {*_HOME.values(), "failure", "mcp", "observe"}

__getattr__, __dir__ = lazy(
    __name__,
    globals(),
    {
        **_HOME,
        **{name: partial(import_module, f"stbass.{name}") for name in _MODULES},
        "__version__": _version,
    },
)
