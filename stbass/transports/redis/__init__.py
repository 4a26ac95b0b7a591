"""Channels over Redis lists: the transport of a fleet."""

from stbass.errors import MissingDependencyError

try:
    from stbass.transports.redis.transport import RedisTransport
except ModuleNotFoundError as _error:
    if (_error.name or "").startswith("stbass"):
        raise
    raise MissingDependencyError(
        f"channels on Redis need {_error.name}: pip install 'stbass-celery[celery]'"
    ) from _error

__all__ = ["RedisTransport"]
