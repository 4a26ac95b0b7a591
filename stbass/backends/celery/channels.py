"""The transport on which a fleet's channels run: made from one's own settings, on producers and on workers."""

from __future__ import annotations

from typing import Any

from stbass.backends.celery.settings import FleetSettings, settings_of
from stbass.transports.redis import RedisTransport

__all__ = ["make_transport", "transport_of"]


def make_transport(settings: FleetSettings) -> RedisTransport:
    """Channels in the Redis that holds the results."""
    return RedisTransport(
        settings.backend,
        lease=settings.lease,
        signing_key=settings.signer,
        max_message_bytes=settings.max_message_bytes,
    )


def transport_of(app: Any) -> RedisTransport:
    """The transport of an application, one for all of its backends."""
    found: RedisTransport | None = app.__dict__.get("_stbass_transport")
    if found is None:
        found = app.__dict__["_stbass_transport"] = make_transport(settings_of(app))
    return found
