"""``python -m celery_app`` prints the page that documents the settings."""

from __future__ import annotations

import sys

from celery_app.settings import page

sys.stdout.write(page())
