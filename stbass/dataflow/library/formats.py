"""What a reader and a writer of files ask of a file's format. All of it may block; it is called from a thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Chunk", "Row", "Sink", "Source"]

Row = tuple[Any, ...]
"""The values of a row, in the order of the fields."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some rows.

    Args:
        rows: the rows; never none.
        following: where the chunk after this one begins, as plain data.
    """

    rows: Sequence[Row]
    following: Any


class Source(Protocol):
    """A file to read from."""

    def open(self, position: Any) -> Any:
        """Go to a position: one that a chunk had, or None for the beginning. Gives back where that is."""

    def read(self) -> Chunk | None:
        """The next rows; None if there are no more."""

    def close(self) -> None:
        """Give back what it holds. Idempotent."""


class Sink(Protocol):
    """A file to write to."""

    whole_chunks: bool
    """Whether it has to get its rows in chunks of equal size, except for the last."""

    def check(self) -> None:
        """Whether it could be written, as far as can be said without changing anything."""

    def open(self, mark: Any) -> None:
        """Go back to a mark; None: begin afresh, in the place of what is there."""

    def write(self, rows: Sequence[Row]) -> None:
        """Write rows."""

    def mark(self) -> Any:
        """What it takes to come back to what is written now, whatever happens to the process or the machine."""

    def finish(self) -> None:
        """Nothing more comes: the file becomes what others can read."""

    def clean(self) -> None:
        """No mark will be asked for again: remove what only they needed. Idempotent."""

    def close(self) -> None:
        """Give back what it holds. Idempotent."""
