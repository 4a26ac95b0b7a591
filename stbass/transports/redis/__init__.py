"""Channels over Redis lists: the transport of a fleet."""

from stbass.transports.redis.transport import RedisTransport

__all__ = ["RedisTransport"]
