"""A site whose reports are written by a fleet."""

from reports_site.celery import app as celery_app

__all__ = ["celery_app"]
