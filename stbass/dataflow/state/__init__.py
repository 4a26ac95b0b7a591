"""Where the state of jobs is kept, so that a job that died can be gone on with.

Importing this package imports none of the databases' clients: each backend is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stbass.dataflow.state.base import StateBackend
    from stbass.dataflow.state.memory import DictStateBackend
    from stbass.dataflow.state.postgres import PostgresStateBackend
    from stbass.dataflow.state.redis import RedisStateBackend
    from stbass.dataflow.state.sqlite import SqliteStateBackend

__all__ = ["DictStateBackend", "PostgresStateBackend", "RedisStateBackend", "SqliteStateBackend", "StateBackend"]

_HOMES = {
    "DictStateBackend": "stbass.dataflow.state.memory",
    "PostgresStateBackend": "stbass.dataflow.state.postgres",
    "RedisStateBackend": "stbass.dataflow.state.redis",
    "SqliteStateBackend": "stbass.dataflow.state.sqlite",
    "StateBackend": "stbass.dataflow.state.base",
}


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
