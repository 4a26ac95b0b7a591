"""What to do when a process fails."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Literal, cast

from stbass._values.checks import checked_wait, is_number, is_whole
from stbass._values.retry_after import retry_after
from stbass._values.texts import error_text, text_of, type_name_of, value_text
from stbass.errors import BudgetExceeded, ConfigurationError, RemoteError

__all__ = ["ErrorKind", "FailurePolicy", "OnFailure", "RetryPolicy", "Wait", "leaf_errors"]

_BACKOFFS = ("exponential", "linear", "constant")

ErrorKind = type[BaseException] | str
"""A kind of error: a class, or the name of one that is not imported here (``"RateLimitError"``,
``"openai.RateLimitError"``)."""

Wait = Callable[[int, BaseException], float]
"""Gives the seconds to wait after attempt number ``attempt`` (the first is 0) has failed with that error."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Try again, up to ``max_attempts`` times in all, waiting longer and longer.

    Args:
        max_attempts: attempts in all, the first one included; at least 1.
        backoff: ``"exponential"``, ``"linear"`` or ``"constant"``.
        base_delay: seconds; the unit of the waits.
        max_delay: seconds; no wait is longer (None: no bound).
        jitter: fraction of each wait, 0 to 1, by which it varies at random to either side.
        on: kinds of error to try again after; any, if none is named. An exception group is of a kind if all its members
            are.
        unless: kinds of error that end it at once, also if ``on`` names them; one member of a group is enough.
        wait: gives the wait in place of ``backoff``, ``base_delay``, ``max_delay`` and ``jitter``.

    A kind is a class, with its subclasses, or the name of one. An error that was raised elsewhere, of a class that is
    not imported here, is known by its name.

    If the error says when to come back (``Retry-After``: see :func:`stbass._values.retry_after.retry_after`), and that
    is later than the wait, the wait is as long as that.

    Raises:
        TypeError: a kind is neither a class of errors nor a name, or ``wait`` takes other arguments than :data:`Wait`.
        ValueError: an argument is out of range, or the backoff is unknown.
    """

    max_attempts: int = 3
    backoff: Literal["exponential", "linear", "constant"] = "exponential"
    base_delay: float = 1.0
    max_delay: float | None = None
    jitter: float = 0.0
    on: ErrorKind | Iterable[ErrorKind] = ()
    unless: ErrorKind | Iterable[ErrorKind] = ()
    wait: Wait | None = None

    def __post_init__(self) -> None:
        if self.backoff not in _BACKOFFS:
            raise ValueError(f"unknown backoff {value_text(self.backoff)}; use one of {', '.join(_BACKOFFS)}")
        if not is_whole(self.max_attempts) or self.max_attempts < 1:
            raise ValueError(f"max_attempts must be a whole number of at least 1, got {value_text(self.max_attempts)}")
        checked_wait(self.base_delay, "base_delay")
        if self.max_delay is not None:
            checked_wait(self.max_delay, "max_delay")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter must be from 0 to 1, got {value_text(self.jitter)}")
        object.__setattr__(self, "on", _checked_kinds(self.on, "on"))
        object.__setattr__(self, "unless", _checked_kinds(self.unless, "unless"))
        if self.wait is not None:
            _check_wait_function(self.wait)

    def tries_again(self, error: BaseException) -> bool:
        """Whether an error is of a kind after which the process is tried again.

        None is after a budget that is used up: the attempts together have one.
        """
        on, unless = cast("tuple[ErrorKind, ...]", self.on), cast("tuple[ErrorKind, ...]", self.unless)
        leaves = list(leaf_errors(error))
        if any(_is_of(one, (*unless, BudgetExceeded)) for one in (error, *leaves)):
            return False
        return not on or _is_of(error, on) or all(_is_of(leaf, on) for leaf in leaves)

    def wait_after(self, attempt: int, error: BaseException) -> float:
        """Seconds to wait after attempt number ``attempt`` (the first is 0) has failed with ``error``.

        Raises:
            ConfigurationError: ``wait`` raised, or gave back what is no number of seconds.
        """
        delay = self.delay_for(attempt) if self.wait is None else _asked(self.wait, attempt, error)
        wanted = retry_after(error)
        return delay if wanted is None else max(delay, wanted)

    def delay_for(self, attempt: int) -> float:
        """Seconds to wait after attempt number ``attempt`` (the first is 0) has failed.

        Raises:
            ValueError: ``attempt`` is negative.
        """
        if attempt < 0:
            raise ValueError(f"attempt must be at least 0, got {value_text(attempt)}")
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
        on: ErrorKind | Iterable[ErrorKind] = (),
        unless: ErrorKind | Iterable[ErrorKind] = (),
        wait: Wait | None = None,
    ) -> RetryPolicy:
        """Try each failing process again; see :class:`RetryPolicy`."""
        return RetryPolicy(max_attempts, backoff, base_delay, max_delay, jitter, on, unless, wait)


OnFailure = FailurePolicy | RetryPolicy
"""What every composition takes as ``on_failure``."""


def _checked_kinds(value: object, what: str) -> tuple[ErrorKind, ...]:
    """Kinds of errors, if that is what they are; a single one too.

    Raises:
        TypeError: one is neither a class of errors nor a str.
        ValueError: one is a str that no class can be called.
    """
    single = isinstance(value, (type, str)) or not isinstance(value, Iterable)
    kinds: tuple[object, ...] = (value,) if single else tuple(value)  # type: ignore[arg-type]
    found: list[ErrorKind] = []
    for kind in kinds:
        if isinstance(kind, str):
            if not all(part.isidentifier() or part == "<locals>" for part in kind.replace(":", ".").split(".")):
                raise ValueError(f"{what} names classes of errors, such as 'openai.RateLimitError'; got {kind!r}")
            found.append(kind)
        elif isinstance(kind, type) and issubclass(kind, BaseException):
            found.append(kind)
        else:
            raise TypeError(f"{what} takes classes of errors, or their names, got {kind!r}")
    return tuple(found)


def _check_wait_function(wait: object) -> None:
    wanted = "wait must be a function that takes the number of the attempt that failed and its error"
    if not callable(wait) or inspect.iscoroutinefunction(wait):
        raise TypeError(f"{wanted}, and gives back seconds; got {value_text(wait)}")
    try:
        inspect.signature(wait).bind(0, RuntimeError())
    except TypeError as error:
        raise TypeError(f"{wanted}: wait(attempt, error); {value_text(wait)} takes others: {error}") from None
    except ValueError:
        return  # of a function in C that does not say what it takes


def _asked(wait: Wait, attempt: int, error: BaseException) -> float:
    given: object = None
    try:
        given = wait(attempt, error)
        if not is_number(given):
            raise TypeError("not a number")
        return checked_wait(float(given), "it")
    except Exception as wrong:
        gave = "" if given is None else f" (it gave back {text_of(given, 100)})"
        raise ConfigurationError(
            f"the function {text_of(wait, 100)} of a retry policy, which gives the seconds to wait after"
            f" {error_text(error, 200)}, failed: {error_text(wrong, 200)}{gave}"
        ) from wrong


def leaf_errors(error: BaseException) -> Iterator[BaseException]:
    """The errors in a group and in the groups in it; of any other error itself."""
    # (Its type is asked, not the error: a class of the user's may raise whatever it is asked for.)
    if issubclass(type(error), BaseExceptionGroup):
        for member in vars(BaseExceptionGroup)["exceptions"].__get__(error):
            yield from leaf_errors(member)
    else:
        yield error


def _is_of(error: BaseException, kinds: Iterable[ErrorKind]) -> bool:
    if not kinds:
        return False
    cls = type(error)
    names = [type_name_of(base) for base in cls.__mro__]
    there: tuple[str, ...] = ()
    if issubclass(cls, RemoteError):
        remote = cast("RemoteError", error)
        there = (remote.type_name, *remote.type_bases)
    names += there
    return any(
        issubclass(cls, kind) or type_name_of(kind) in there
        if isinstance(kind, type)
        else any(_is_called(name, kind) for name in names)
        for kind in kinds
    )


def _is_called(full_name: str, name: str) -> bool:
    name, full_name = name.replace(":", "."), full_name.replace(":", ".")
    return full_name == name or ("." not in name and full_name.rpartition(".")[2] == name)
