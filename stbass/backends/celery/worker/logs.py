"""A worker's log as JSON, one object per line: for those who collect logs."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

import msgspec

from stbass._values.texts import shortened
from stbass.errors import ConfigurationError

__all__ = ["DETAILS", "FORMATS", "JsonFormatter", "use_log_format"]

DETAILS = "stbass"
"""Attribute of a record that holds what it is about: process, id, attempt, endpoint, error."""

FORMATS = ("text", "json")


class JsonFormatter(logging.Formatter):
    """``at``, ``level``, ``logger``, ``message``; ``traceback`` if any; of a process ``process``, ``id``, …."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        try:
            message = record.getMessage()
        except Exception as error:  # an argument that does not fit, or whose __str__ raises
            message = f"{record.msg!r} ({type(error).__name__} while it was formatted)"
        made: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": shortened(message, len(message)),
        }
        details = getattr(record, DETAILS, None)
        if type(details) is dict:
            made |= details
        if record.exc_info:
            text = self.formatException(record.exc_info)
            made["traceback"] = shortened(text, len(text))
        return msgspec.json.encode(made).decode()


def use_log_format(logger: logging.Logger, log_format: object) -> None:
    """Let all that the logger's handlers write be of this format: ``text`` (Celery's own) or ``json``.

    Raises:
        ConfigurationError: there is no such format.
    """
    if log_format not in FORMATS:
        raise ConfigurationError(
            f"stbass_log_format (STBASS_LOG_FORMAT) must be one of {', '.join(FORMATS)}, got {log_format!r}"
        )
    if log_format == "json":
        for handler in logger.handlers:
            handler.setFormatter(JsonFormatter())
