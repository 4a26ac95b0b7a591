"""The worker application that is deployed: ``celery -A celery_app worker -Q anthropic``.

What it is set to comes from the environment; see ``docs/settings.md``.
"""

from __future__ import annotations

from celery_app.settings import Settings
from stbass.backends.celery import make_app

__all__ = ["app"]

app = make_app("celery_app", **Settings.from_environment().for_celery())
