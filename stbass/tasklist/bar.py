"""A progress bar for a list, on standard error."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from stbass._values.outcome import ProcessResult
from stbass._values.texts import one_line
from stbass.observe.display import standard_error

__all__ = ["Bar"]

_LONGEST_NAME = 60


class Bar:
    """Shows how many tasks have ended, and how many of them failed, while its context lasts.

    Where there is no terminal, it is one line at the end.
    """

    def __init__(self, name: str, total: int, console: Console | None = None) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[failed]}", style="red"),
            TimeElapsedColumn(),
            console=standard_error() if console is None else console,
        )
        self._failed = 0
        self._task = self._progress.add_task(one_line(name, _LONGEST_NAME), total=total, failed="")

    def on_end(self, result: ProcessResult) -> None:
        """A task has ended."""
        if result.is_fail:
            self._failed += 1
            self._progress.update(self._task, failed=f"{self._failed} failed")
        self._progress.advance(self._task)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
