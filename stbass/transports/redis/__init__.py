"""Channels over Redis lists: the transport of a fleet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stbass._lazy import lazy
from stbass.errors import MissingDependencyError

try:
    # What is missing is named here, and not where it is first used.
    import hiredis  # noqa: F401
    import redis  # noqa: F401
except ModuleNotFoundError as _error:
    raise MissingDependencyError(
        f"channels on Redis need {_error.name}: pip install 'stbass-celery[celery]'"
    ) from _error

if TYPE_CHECKING:
    from stbass.transports.redis.transport import RedisTransport

__all__ = ["RedisTransport"]

__getattr__, __dir__ = lazy(__name__, globals(), {"RedisTransport": "transport"})
