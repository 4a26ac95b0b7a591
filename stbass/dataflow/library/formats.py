"""What readers and writers of files need of a file format. All of it may block, and is called from a thread."""

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
        rows: the rows, at least one.
        following: where the chunk after this one begins, as plain data.
    """

    rows: Sequence[Row]
    following: Any


class Source(Protocol):
    """A file to read from."""

    def open(self, position: Any) -> Any:
        """Go to the position of a chunk, or for None to the beginning. Returns that position."""

    def read(self) -> Chunk | None:
        """The next rows; None if there are no more."""

    def close(self) -> None:
        """Close it. Idempotent."""


class Sink(Protocol):
    """A file to write to."""

    whole_chunks: bool
    """Whether it has to get its rows in chunks of equal size, except for the last."""

    def check(self) -> None:
        """Raise an error if it cannot be written, as far as that shows without a change."""

    def open(self, mark: Any) -> None:
        """Go back to a mark; None: begin afresh, and replace what is there."""

    def write(self, rows: Sequence[Row]) -> None:
        """Write rows."""

    def mark(self) -> Any:
        """What is needed to come back to this point, even after a crash of the process or the machine."""

    def finish(self) -> None:
        """Complete the file, so that others can read it."""

    def clean(self) -> None:
        """Remove what only marks need: no mark will be used again. Idempotent."""

    def close(self) -> None:
        """Close it. Idempotent."""
