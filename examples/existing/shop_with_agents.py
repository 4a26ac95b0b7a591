"""The same application with stbass: two lines, and nothing else of it changes."""

from __future__ import annotations

from examples.existing.shop import app
from stbass.backends.celery import install

__all__ = ["app"]

install(app)
app.conf.include = ["examples.existing.agents"]  # the processes that its workers may run
