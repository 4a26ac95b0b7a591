"""What to do when a process fails."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from stbass._values.checks import checked_wait, is_whole

__all__ = ["FailurePolicy", "OnFailure", "RetryPolicy"]

_BACKOFFS = ("exponential", "linear", "constant")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Try again, up to ``max_attempts`` times in all, waiting longer and longer.

    Args:
        max_attempts: attempts in all, the first one included; at least 1.
        backoff: ``"exponential"``, ``"linear"`` or ``"constant"``.
        base_delay: seconds; the unit of the waits.
        max_delay: seconds; no wait is longer (None: no bound).
        jitter: fraction of each wait, 0 to 1, by which it varies at random to either side.

    Raises:
        ValueError: an argument is out of range, or the backoff is unknown.
    """

    max_attempts: int = 3
    backoff: Literal["exponential", "linear", "constant"] = "exponential"
    base_delay: float = 1.0
    max_delay: float | None = None
    jitter: float = 0.0

    def __post_init__(self) -> None:
        if self.backoff not in _BACKOFFS:
            raise ValueError(f"unknown backoff {self.backoff!r}; use one of {', '.join(_BACKOFFS)}")
        if not is_whole(self.max_attempts) or self.max_attempts < 1:
            raise ValueError(f"max_attempts must be a whole number of at least 1, got {self.max_attempts!r}")
        checked_wait(self.base_delay, "base_delay")
        if self.max_delay is not None:
            checked_wait(self.max_delay, "max_delay")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter must be from 0 to 1, got {self.jitter!r}")

    def delay_for(self, attempt: int) -> float:
        """Seconds to wait after attempt number ``attempt`` (the first is 0) has failed.

        Raises:
            ValueError: ``attempt`` is negative.
        """
        if attempt < 0:
            raise ValueError(f"attempt must be at least 0, got {attempt!r}")
        if self.backoff == "exponential":
            # Beyond this many doublings the wait is longer than any clock counts; float overflow is an error.
            delay = self.base_delay * 2.0 ** min(attempt, 1000)
        elif self.backoff == "linear":
            delay = self.base_delay * (attempt + 1)
        else:
            delay = self.base_delay
        if self.jitter:
            delay *= 1 + self.jitter * random.uniform(-1, 1)
        return delay if self.max_delay is None else min(delay, self.max_delay)


class FailurePolicy(Enum):
    """What a composition does when one of its processes fails."""

    HALT = "halt"
    """Cancel the rest."""
    COLLECT = "collect"
    """Let the rest go on; every process has a result."""

    @staticmethod
    def retry(
        max_attempts: int,
        backoff: Literal["exponential", "linear", "constant"] = "exponential",
        base_delay: float = 1.0,
        *,
        max_delay: float | None = None,
        jitter: float = 0.0,
    ) -> RetryPolicy:
        """Try each failing process again; see :class:`RetryPolicy`."""
        return RetryPolicy(max_attempts, backoff, base_delay, max_delay, jitter)


OnFailure = FailurePolicy | RetryPolicy
"""What every composition takes as ``on_failure``."""
