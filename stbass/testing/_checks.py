"""What every set of conformance checks needs: assertions, and a run that tells of each check that failed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TypeVar

__all__ = ["name_of_check", "require", "run_checks"]

C = TypeVar("C")


def require(condition: object, complaint: str) -> None:
    """An assertion that also holds under ``python -O``.

    Raises:
        AssertionError: the condition is false.
    """
    if not condition:
        raise AssertionError(complaint)


def name_of_check(function: object) -> str:
    """The name of the function."""
    return getattr(function, "__name__", repr(function))


async def run_checks(
    checks: Mapping[str, C], only: Collection[str] | None, run: Callable[[C], Awaitable[None]]
) -> None:
    """Run checks one after another.

    Args:
        checks: all there are, by name.
        only: the names of those to run; all if None.
        run: runs one.

    Raises:
        ExceptionGroup: an ``AssertionError`` per check that failed, with the name of the check, and its cause.
        ValueError: there is no check of that name.
    """
    names = list(checks) if only is None else list(only)
    unknown = [name for name in names if name not in checks]
    if unknown:
        raise ValueError(f"no such check: {', '.join(unknown)}; there are {', '.join(checks)}")
    failures: dict[str, Exception] = {}
    for name in names:
        try:
            await run(checks[name])
        except Exception as error:
            failures[name] = AssertionError(f"{name}: {type(error).__name__}: {error}")
            failures[name].__cause__ = error
    if failures:
        which = ", ".join(failures)
        raise ExceptionGroup(f"{len(failures)} of {len(names)} checks failed: {which}", [*failures.values()])
