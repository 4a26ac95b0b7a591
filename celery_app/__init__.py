"""The application that is deployed: ``celery -A celery_app worker -Q anthropic``.

It is the one of :mod:`stbass.app`, with the settings of ``docs/settings.md``, and knows the processes of
:mod:`celery_app.agents` besides, unless ``STBASS_INCLUDE`` names others.
"""

from __future__ import annotations

from stbass.app import app

__all__ = ["app"]

app.conf.include = app.conf.include or ["celery_app.agents"]
