"""Processes on a fleet of Celery workers. Needs the extra ``celery``."""

from __future__ import annotations

from stbass.backends.celery.app import POOL, TRANSPORT, install, make_app
from stbass.backends.celery.producer.backend import CeleryBackend

__all__ = ["POOL", "TRANSPORT", "CeleryBackend", "install", "make_app"]
