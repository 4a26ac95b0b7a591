"""A worker's log as JSON, one object per line: for those who collect logs."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
from celery import Celery
from celery.utils.imports import symbol_by_name
from celery.utils.log import ColorFormatter

from stbass._process.logs import NO_FIELDS, RECORD_FIELDS
from stbass._values.masking import MASK, is_secret_name, masked
from stbass._values.texts import plain_text, shortened, text_of
from stbass.errors import ConfigurationError

__all__ = ["DETAILS", "FORMATS", "JsonFormatter", "MaskingFormatter", "use_log_format"]

DETAILS = "stbass"
"""Attribute of a record that holds what it is about: process, id, attempt, endpoint, run, worker, error."""

FORMATS = ("text", "json")
_OWN = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", RECORD_FIELDS, DETAILS}


class JsonFormatter(logging.Formatter):
    """``at``, ``level``, ``logger``, ``message``; ``traceback`` if any; of a process ``process``, ``id``, …

    What a process logs with ``extra=`` stands under ``extra``.
    """

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
            "message": _shown(message),
        }
        made |= (fields := getattr(record, RECORD_FIELDS, NO_FIELDS))
        if fields:
            # What begins with an underscore is of whoever makes or handles records, Ray for one.
            added = [name for name in vars(record) if name not in _OWN and not name.startswith("_")]
            if added:
                made["extra"] = {name: _extra(name, getattr(record, name)) for name in added}
        details = getattr(record, DETAILS, None)
        if type(details) is dict:
            made |= details
        if record.exc_info:
            made["traceback"] = _shown(self.formatException(record.exc_info))
        return msgspec.json.encode(made).decode()


def _extra(name: str, value: Any) -> Any:
    """What a process's own code gave a record as ``extra``: numbers as they are, all else as text."""
    if is_secret_name(name):
        return MASK
    if value is None or type(value) in (bool, float) or (type(value) is int and value.bit_length() < 64):
        return value
    return _shown(value) if type(value) is str else text_of(value)


def _shown(text: str) -> str:
    text = masked(plain_text(text))
    return shortened(text, len(text))


class MaskingFormatter(logging.Formatter):
    """Another formatter's lines, secrets masked: also those of tracebacks, and of what processes log themselves.

    The first line of what a process logs ends with which process it is.
    """

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self.inner = inner

    def format(self, record: logging.LogRecord) -> str:
        """The inner one's lines."""
        text = self.inner.format(record)
        if fields := getattr(record, RECORD_FIELDS, NO_FIELDS):
            line, end, rest = text.partition("\n")
            text = f"{line} [{fields}]{end}{rest}"
        return masked(text)


def use_log_format(app: Celery) -> None:
    """Let what Celery writes for this application be in the format that its ``stbass_log_format`` says at that time.

    Other applications of the same Python process, and handlers that are not Celery's, stay as they are.
    """
    app.log_cls = partial(_make_log, app.log_cls)
    app.__dict__.pop("log", None)


def _make_log(log_cls: Any, app: Celery) -> Any:
    kind = symbol_by_name(log_cls)
    return type(kind.__name__, (_InFormat, kind), {})(app)


class _InFormat:
    """What is added to an application's class for logging."""

    app: Celery

    def setup_handlers(self, *args: Any, **kwargs: Any) -> Any:
        """See Celery.

        Raises:
            ConfigurationError: there is no such format.
        """
        log_format = self.app.conf.get("stbass_log_format", "text")
        if log_format not in FORMATS:
            raise ConfigurationError(
                f"stbass_log_format (STBASS_LOG_FORMAT) must be one of {', '.join(FORMATS)}, got {log_format!r}"
            )
        inner = kwargs.get("formatter", ColorFormatter)
        kwargs["formatter"] = _json_formatter if log_format == "json" else partial(_masking_formatter, inner)
        kind: Any = super()
        return kind.setup_handlers(*args, **kwargs)


def _json_formatter(*_format: Any, **_options: Any) -> JsonFormatter:
    return JsonFormatter()


def _masking_formatter(inner: Any, *args: Any, **options: Any) -> MaskingFormatter:
    return MaskingFormatter(inner(*args, **options))
