"""Processes on a fleet of Celery workers. Needs the extra ``celery``."""

from __future__ import annotations

from stbass.errors import MissingDependencyError

try:
    import redis  # noqa: F401 - without it kombu raises an AttributeError

    from stbass.backends.celery.app import POOL, TRANSPORT, install, make_app
    from stbass.backends.celery.producer.backend import CeleryBackend
    from stbass.backends.celery.producer.celery_task import CeleryTaskProcess
    from stbass.backends.celery.producer.signature import signature
except ModuleNotFoundError as _error:
    if (_error.name or "").startswith("stbass"):
        raise
    raise MissingDependencyError(f"a fleet needs {_error.name}: pip install 'stbass-celery[celery]'") from _error

__all__ = ["POOL", "TRANSPORT", "CeleryBackend", "CeleryTaskProcess", "install", "make_app", "signature"]
