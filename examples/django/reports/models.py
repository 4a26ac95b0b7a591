"""What is kept in the database."""

from __future__ import annotations

from django.db import models


class Report(models.Model):
    """A report, and as much of its text as is written."""

    topic = models.CharField(max_length=100)
    text = models.TextField(default="")

    @property
    def run_id(self) -> str:
        """The run that writes it: whoever knows the report finds it."""
        return f"report-{self.pk}"
