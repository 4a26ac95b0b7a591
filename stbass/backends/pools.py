"""Pools on this machine: event loops in threads, and Python processes."""

from __future__ import annotations

from stbass.backends.processes import ProcessPoolBackend
from stbass.backends.threads import ThreadBackend

__all__ = ["ProcessPoolBackend", "ThreadBackend"]
