"""Where the site's processes run: one registry for each Python process."""

from __future__ import annotations

from reports_site.celery import app
from stbass import BackendRegistry, Placement
from stbass.backends.celery import CeleryBackend

WRITERS = Placement(endpoint="reports")

registry = BackendRegistry(strict=True)
registry.register("reports", CeleryBackend(app))
