"""Connections to Redis, for the fleet."""

from __future__ import annotations

from stbass.transports.redis.address import CONNECT_TIMEOUT, RedisAddress, hide_password, unavailable

__all__ = ["CONNECT_TIMEOUT", "RedisAddress", "hide_password", "unavailable"]
