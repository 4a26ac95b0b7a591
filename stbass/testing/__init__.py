"""For people who test programs made with stbass, and their own backends and transports.

Importing this package imports none of its parts: each is loaded when it is first used, so that a test of a local
program needs neither Celery nor Redis.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stbass.testing._guarded import SubprocessError
    from stbass.testing.backends import check_backend
    from stbass.testing.fake_llm import FakeLLM
    from stbass.testing.redis_server import RedisServer
    from stbass.testing.transports import check_transport
    from stbass.testing.worker import Worker

__all__ = ["FakeLLM", "RedisServer", "SubprocessError", "Worker", "check_backend", "check_transport"]

_HOMES = {
    "FakeLLM": "stbass.testing.fake_llm",
    "RedisServer": "stbass.testing.redis_server",
    "SubprocessError": "stbass.testing._guarded",
    "Worker": "stbass.testing.worker",
    "check_backend": "stbass.testing.backends",
    "check_transport": "stbass.testing.transports",
}


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
