"""Which process a log record comes from: records carry it, whoever writes them."""

from __future__ import annotations

import logging
from collections.abc import Callable, MutableMapping
from contextlib import AbstractContextManager
from typing import Any

from stbass._values.masking import masked

__all__ = ["NO_FIELDS", "RECORD_FIELDS", "LogFields", "ProcessLog", "carry"]

RECORD_FIELDS = "stbass_process"
"""Attribute of each log record: the :class:`LogFields` of the process that it comes from, empty outside of any."""

_logger = logging.getLogger("stbass.process")
_formatter = logging.Formatter()


def _mask(record: logging.LogRecord) -> bool:
    """Take the secrets out of a record, if there are any."""
    try:
        text = record.getMessage()
    except Exception:  # the handlers say so, in their way
        return True
    shown = masked(text)
    if shown != text:
        record.msg, record.args = shown, None
    if record.exc_info and not record.exc_text:
        trace = _formatter.formatException(record.exc_info)
        shown = masked(trace)
        if shown != trace:
            record.exc_text = shown  # which formatters take
    return True


_logger.addFilter(_mask)


class LogFields(dict[str, Any]):
    """``process``, ``id``, ``attempt``, ``endpoint``, ``run`` and ``worker`` of a process; as a text, for people."""

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.items())


NO_FIELDS = LogFields()


def carry(find: Callable[[], LogFields]) -> None:
    """From now on let every log record of this Python process have what ``find`` gives when it is made."""
    make = logging.getLogRecordFactory()

    def make_with_fields(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        setattr(record, RECORD_FIELDS, find())
        return record

    logging.setLogRecordFactory(make_with_fields)


class ProcessLog(logging.LoggerAdapter[logging.Logger]):
    """The logger of one process. Its records carry that process's fields, whatever thread they are written in; in their
    messages and tracebacks secrets are masked.

    Args:
        within: a scope in which what is logged comes from that process.
    """

    def __init__(self, within: Callable[[], AbstractContextManager[None]]) -> None:
        super().__init__(_logger)
        self._within = within

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """As they are: the fields come from the scope."""
        return msg, kwargs

    def log(self, level: int, msg: Any, *args: Any, **kwargs: Any) -> None:
        """Write a record, if the level is wanted."""
        if self.isEnabledFor(level):
            kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
            with self._within():
                self.logger.log(level, msg, *args, **kwargs)
