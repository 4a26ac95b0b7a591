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
        """Go back to a mark; None: begin afresh."""

    def write(self, rows: Sequence[Row]) -> None:
        """Write rows."""

    def mark(self) -> Any:
        """What is needed to come back to this point, even after a crash of the process or the machine."""

    def finish(self) -> None:
        """Complete what was written: there will be no more rows."""

    def publish(self) -> None:
        """Put it in its place, at once and whole. Nobody goes back to a mark afterwards. Idempotent, and needs no
        :meth:`open`: it may be called again after a crash."""

    def abandon(self) -> None:
        """Remove what was written. What stood in its place before still does."""

    def close(self) -> None:
        """Close it. Idempotent."""
