"""Where ``worker_pool="stbass.backends.celery.pool:AsyncioPool"`` finds the pool."""

from __future__ import annotations

from stbass.backends.celery.worker.pool import AsyncioPool

__all__ = ["AsyncioPool"]
