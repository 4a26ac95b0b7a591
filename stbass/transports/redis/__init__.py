"""Channels over Redis lists: the transport of a fleet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stbass._lazy import lazy
from stbass.errors import MissingDependencyError

if TYPE_CHECKING:
    from stbass.transports.redis.transport import RedisTransport

__all__ = ["RedisTransport"]


def _transport() -> Any:
    try:
        from stbass.transports.redis.transport import RedisTransport
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("stbass"):
            raise
        raise MissingDependencyError(
            f"channels on Redis need {error.name}: pip install 'stbass-celery[celery]'"
        ) from error
    return RedisTransport


__getattr__, __dir__ = lazy(__name__, globals(), {"RedisTransport": _transport})
