"""The Celery application of the site: as Django's people write it, and one line for stbass."""

from __future__ import annotations

import os

from celery import Celery

from stbass.backends.celery import install

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "reports_site.settings")

app = Celery("reports_site")
app.config_from_object("django.conf:settings", namespace="CELERY")
install(app)
app.autodiscover_tasks()
