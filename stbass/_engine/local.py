"""The backend that runs processes on the caller's own event loop."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from stbass._engine.backend import ExecutionBackend
from stbass._values.checks import checked_limit

if TYPE_CHECKING:
    from stbass._process.context import Composable, ProcessContext
    from stbass._values.outcome import ProcessResult

__all__ = ["LocalBackend"]


class LocalBackend(ExecutionBackend):
    """Runs processes directly, via asyncio.

    Args:
        concurrency_limit: how many may run at once; None: any number.
        name: for people.

    Raises:
        TypeError: the limit is not a whole number.
        ValueError: it is less than 1.
    """

    in_place = True

    def __init__(self, concurrency_limit: int | None = None, *, name: str = "local") -> None:
        self._concurrency_limit = checked_limit(concurrency_limit, "concurrency_limit")
        self._name = name

    async def execute(self, process: Composable, ctx: ProcessContext) -> ProcessResult:
        """Run it here."""
        return await process.execute(ctx)

    async def health_check(self) -> bool:
        """Always true: if this runs, so would a process."""
        return True

    @property
    def concurrency_limit(self) -> int:
        """The limit that was given; without one, ``sys.maxsize``."""
        return sys.maxsize if self._concurrency_limit is None else self._concurrency_limit

    @property
    def name(self) -> str:
        """The name that was given; ``local`` by default."""
        return self._name

    def __repr__(self) -> str:
        return f"LocalBackend(concurrency_limit={self._concurrency_limit!r}, name={self._name!r})"
