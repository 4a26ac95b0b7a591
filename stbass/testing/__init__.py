"""For people who test programs made with stbass, and their own backends and transports.

Importing this package imports none of its parts: each is loaded when it is first used, so that a test of a local
program needs neither Celery nor Redis.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stbass._lazy import lazy

if TYPE_CHECKING:
    from stbass.testing._guarded import SubprocessError
    from stbass.testing.backends import check_backend
    from stbass.testing.fake_llm import FakeLLM
    from stbass.testing.memory import MemoryBackend
    from stbass.testing.redis_server import RedisServer
    from stbass.testing.runs import check_runs
    from stbass.testing.transports import check_transport
    from stbass.testing.worker import Worker

__all__ = [
    "FakeLLM",
    "MemoryBackend",
    "RedisServer",
    "SubprocessError",
    "Worker",
    "check_backend",
    "check_runs",
    "check_transport",
]

_HOME = {
    "FakeLLM": "fake_llm",
    "MemoryBackend": "memory",
    "RedisServer": "redis_server",
    "SubprocessError": "_guarded",
    "Worker": "worker",
    "check_backend": "backends",
    "check_runs": "runs",
    "check_transport": "transports",
}

__getattr__, __dir__ = lazy(__name__, globals(), _HOME)
