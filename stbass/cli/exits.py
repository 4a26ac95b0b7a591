"""What ``stbass`` exits with.

======  ===================================================================================================
code    meaning
======  ===================================================================================================
0       it did what was asked
1       something failed
2       the command line cannot be read: no such command or option, or an argument too few
3       what an option or a setting says cannot be used, or something that is needed is missing
4       the deadline passed
130     interrupted (Ctrl-C)
======  ===================================================================================================
"""

from __future__ import annotations

import sys
from enum import IntEnum

__all__ = ["Exit", "complain"]


class Exit(IntEnum):
    """An exit code."""

    OK = 0
    FAILED = 1
    USAGE = 2
    SETTINGS = 3
    DEADLINE = 4
    INTERRUPTED = 130


def complain(text: str) -> None:
    """Write on standard error what went wrong: as text, whatever it would do to a terminal."""
    from stbass._values.texts import printable_lines  # loaded only when something went wrong

    sys.stderr.write(f"{printable_lines(text)}\n")
