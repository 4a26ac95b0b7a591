"""Processes on a fleet of Celery workers. Needs the extra ``celery``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stbass._lazy import lazy
from stbass.errors import MissingDependencyError

try:
    # What is missing is named here, and not where it is first used. Without redis kombu raises an AttributeError.
    import celery  # noqa: F401
    import kombu  # noqa: F401
    import redis  # noqa: F401
except ModuleNotFoundError as _error:
    raise MissingDependencyError(f"a fleet needs {_error.name}: pip install 'stbass-celery[celery]'") from _error

if TYPE_CHECKING:
    from stbass.backends.celery.app import POOL, TRANSPORT, install, make_app
    from stbass.backends.celery.producer.backend import CeleryBackend
    from stbass.backends.celery.producer.celery_task import CeleryTaskProcess
    from stbass.backends.celery.producer.signature import signature

__all__ = ["POOL", "TRANSPORT", "CeleryBackend", "CeleryTaskProcess", "install", "make_app", "signature"]

_HOME = {
    "POOL": "app",
    "TRANSPORT": "app",
    "CeleryBackend": "producer.backend",
    "CeleryTaskProcess": "producer.celery_task",
    "install": "app",
    "make_app": "app",
    "signature": "producer.signature",
}

__getattr__, __dir__ = lazy(__name__, globals(), _HOME)
