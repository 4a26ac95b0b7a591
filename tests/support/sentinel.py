"""Whether a server is there yet."""

from __future__ import annotations

import redis


def answers(port: int) -> bool:
    """Whether a server that speaks Redis's protocol is there."""
    try:
        with redis.Redis(port=port, socket_timeout=1) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False
