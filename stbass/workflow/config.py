"""Configuration of a workflow's process: its id, where it runs, its timeout, how often it is tried."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from stbass._values.checks import checked_count, checked_number, member_of, refuse_generator
from stbass._values.ids import new_id
from stbass._values.policy import ErrorKind, RetryPolicy, Wait
from stbass._values.texts import value_text

__all__ = ["ProcessConfig", "ProcessId", "ProcessType", "RetryStrategy", "ValidationRule", "checked_id", "id_of"]

ValidationRule = Callable[[Any], object]
"""Looks at a process's input. The input is wrong if it gives back a false value that is not None, or raises."""


class ProcessType(Enum):
    """Where a process runs."""

    ASYNC = "async"
    """On the event loop."""
    THREAD = "thread"
    """In a thread of the workflow's pool."""
    PROCESS = "process"
    """In a Python process of the workflow's pool."""


class ProcessId(NamedTuple):
    """Structured process identifier: as a text, ``base_name`` or ``base_name_index``."""

    base_name: str
    index: int | None = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return self.base_name if self.index is None else f"{self.base_name}_{self.index}"


def checked_id(value: object, what: str = "process_id") -> str:
    """The text of a process's id.

    Raises:
        TypeError: it is neither a str nor a :class:`ProcessId`.
        ValueError: it is empty.
    """
    if not isinstance(value, (str, ProcessId)):
        raise TypeError(f"{what} must be a str or a ProcessId, got {value_text(value)}")
    text = str(value)
    if not text:
        raise ValueError(f"{what} cannot be empty")
    return text


@dataclass(frozen=True, slots=True)
class RetryStrategy:
    """How often a process that failed is tried again, and after how long.

    Args:
        max_retries: attempts after the first; at least 0.
        delay_seconds: seconds before the first retry.
        backoff_factor: each further wait is so many times as long as the one before.
        on: kinds of error to try again after; any, if none is named.
        unless: kinds of error after which it is not tried again.
        wait: gives the seconds to wait in place of the two above, from the number of the attempt that failed (the first
            is 0) and its error.

    The last three, and how long a wait is if the error has a ``Retry-After``, are as :class:`stbass.RetryPolicy` says.

    Raises:
        TypeError, ValueError: an argument is out of range.
    """

    max_retries: int = 3
    delay_seconds: float = 1.0
    backoff_factor: float = 2.0
    on: ErrorKind | Iterable[ErrorKind] = ()
    unless: ErrorKind | Iterable[ErrorKind] = ()
    wait: Wait | None = None

    def __post_init__(self) -> None:
        checked_count(self.max_retries, "max_retries", 0)
        checked_number(self.delay_seconds, "delay_seconds", zero=True)
        checked_number(self.backoff_factor, "backoff_factor")
        BackoffPolicy(self)

    def delay_for(self, retry: int) -> float:
        """Seconds to wait before retry number ``retry`` (the first is 0)."""
        try:
            return self.delay_seconds * float(self.backoff_factor) ** retry
        except OverflowError:
            return math.inf


class BackoffPolicy(RetryPolicy):
    """A :class:`RetryStrategy` as the engine takes it."""

    # Without slots of its own, so that it can carry the strategy beside the fields of a frozen dataclass.
    def __init__(self, strategy: RetryStrategy) -> None:
        super().__init__(
            strategy.max_retries + 1,
            base_delay=strategy.delay_seconds,
            on=strategy.on,
            unless=strategy.unless,
            wait=strategy.wait,
        )
        object.__setattr__(self, "_strategy", strategy)

    _strategy: RetryStrategy

    def delay_for(self, attempt: int) -> float:
        """Seconds to wait after attempt number ``attempt`` (the first is 0) has failed."""
        return self._strategy.delay_for(attempt)


def _new_process_id() -> str:
    made = new_id()
    return f"process_{made[:8]}{made[9:13]}"


@dataclass(frozen=True)
class ProcessConfig:
    """Configuration of a process.

    Args:
        process_type: where it runs: a :class:`ProcessType`, or its value, such as ``"thread"``.
        process_id: its id, unique in a workflow; made up by default.
        timeout: seconds that each attempt may take; None for any time.
        retry_strategy: whether and how it is tried again when it fails; None for not at all.
        fail_fast: whether its failure, in a workflow that requires it, cancels the rest and raises ``WorkflowError``.
        validation_rules: callables that look at its input before it runs. It fails, and is not tried again, if one of
            them gives back a false value (other than None) or raises.

    Raises:
        TypeError, ValueError: an argument cannot be what it should be.
    """

    process_type: ProcessType = ProcessType.ASYNC
    process_id: str | ProcessId = field(default_factory=_new_process_id)
    timeout: float | None = None
    retry_strategy: RetryStrategy | None = None
    fail_fast: bool = True
    validation_rules: Iterable[ValidationRule] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "process_type", _checked_type(self.process_type))
        checked_id(self.process_id)
        if self.timeout is not None:
            checked_number(self.timeout, "timeout")
        if not isinstance(self.retry_strategy, (RetryStrategy, type(None))):
            raise TypeError(f"retry_strategy must be a RetryStrategy or None, got {value_text(self.retry_strategy)}")
        if not isinstance(self.fail_fast, bool):
            raise TypeError(f"fail_fast must be True or False, got {value_text(self.fail_fast)}")
        if self.validation_rules is not None:
            object.__setattr__(self, "validation_rules", _checked_rules(self.validation_rules))


def _checked_type(value: object) -> ProcessType:
    found = member_of(ProcessType, value)
    if found is None:
        known = ", ".join(f"ProcessType.{member.name}" for member in ProcessType)
        raise ValueError(f"unknown process_type {value_text(value)}; use one of {known}")
    return found


def _checked_rules(rules: object) -> tuple[ValidationRule, ...]:
    if callable(rules) or isinstance(rules, (str, bytes)) or not isinstance(rules, Iterable):
        raise TypeError(f"validation_rules must be a list of callables or None, got {value_text(rules)}")
    found = tuple(rules)
    for index, rule in enumerate(found):
        if not callable(rule):
            raise TypeError(f"validation_rules[{index}] must be callable, got {value_text(rule)}")
        if inspect.iscoroutinefunction(rule):
            raise TypeError(f"validation_rules[{index}] must not be a coroutine function: {value_text(rule)}")
        refuse_generator(rule, f"validation_rules[{index}]")
    return found


def id_of(value: object, what: str = "a process id") -> str:
    """The text of the id of a process, or of an id.

    Raises:
        TypeError: it is neither a process nor an id.
        ValueError: it is empty.
    """
    config = getattr(value, "config", None)
    return str(config.process_id) if isinstance(config, ProcessConfig) else checked_id(value, what)
