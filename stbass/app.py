"""The Celery application that the environment describes: for programs, and for ``celery -A stbass.app worker``.

What it is set to comes from environment variables: see ``docs/settings.md``. ``stbass worker`` and ``stbass dev`` use
it unless they are told otherwise.
"""

from __future__ import annotations

from stbass.backends.celery import make_app
from stbass.settings import Settings

__all__ = ["app"]

app = make_app("stbass", **Settings.from_environment().for_celery())
