"""Where the state of jobs is kept, so that a job that died can be gone on with.

Importing this package imports none of the databases' clients: each backend is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stbass._lazy import lazy

if TYPE_CHECKING:
    from stbass.dataflow.state.base import JobSummary, StateBackend
    from stbass.dataflow.state.memory import DictStateBackend
    from stbass.dataflow.state.postgres import PostgresStateBackend
    from stbass.dataflow.state.redis import RedisStateBackend
    from stbass.dataflow.state.sqlite import SqliteStateBackend

__all__ = [
    "DictStateBackend",
    "JobSummary",
    "PostgresStateBackend",
    "RedisStateBackend",
    "SqliteStateBackend",
    "StateBackend",
]

_HOME = {
    "DictStateBackend": "memory",
    "JobSummary": "base",
    "PostgresStateBackend": "postgres",
    "RedisStateBackend": "redis",
    "SqliteStateBackend": "sqlite",
    "StateBackend": "base",
}

__getattr__, __dir__ = lazy(__name__, globals(), _HOME)
