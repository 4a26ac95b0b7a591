"""Programs of processes that talk over channels.

Where a process runs and what a channel runs on are chosen apart from the program::

    from stbass import PAR, PLACED_PAR, SEQ, Chan, Placement, Process

The names are loaded when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stbass.alt import ALT, PRI_ALT, Guard
    from stbass.channel import Chan
    from stbass.par import PAR
    from stbass.placement import PLACED_PAR, BackendRegistry, ExecutionBackend, LocalBackend, Placement
    from stbass.process import Process
    from stbass.replicator import PAR_FOR, SEQ_FOR
    from stbass.result import Failure, FailurePolicy, FailureReport, ProcessResult
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
    "Failure": "result",
    "FailurePolicy": "result",
    "FailureReport": "result",
    "ProcessResult": "result",
    "SEQ": "seq",
    "DEADLINE": "timer",
    "TIMER": "timer",
    "ChanArray": "topology",
    "Collector": "topology",
    "Distributor": "topology",
}


_MODULES = {*_HOME.values(), "failure", "mcp", "observe"}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        found = getattr(importlib.import_module(f"stbass.{_HOME[name]}"), name)
    elif name in _MODULES:
        return importlib.import_module(f"stbass.{name}")
    elif name == "__version__":
        found = importlib.import_module("importlib.metadata").version("stbass")
    else:
        raise AttributeError(f"module 'stbass' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES, "__version__"})
