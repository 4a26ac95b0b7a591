"""Outcomes: what happened, what to do about a failure, and what many failures have in common.

The classes live in smaller modules; this one is where to import them from.
"""

from __future__ import annotations

from stbass._values.outcome import Failure, ProcessResult, RunInfo, utc_now
from stbass._values.policy import FailurePolicy, OnFailure, RetryPolicy
from stbass._values.report import FailureReport
from stbass._values.span import Span
from stbass._values.timeline import Timeline
from stbass._values.usage import Budget, Usage

__all__ = [
    "Budget",
    "Failure",
    "FailurePolicy",
    "FailureReport",
    "OnFailure",
    "ProcessResult",
    "RetryPolicy",
    "RunInfo",
    "Span",
    "Timeline",
    "Usage",
    "utc_now",
]
