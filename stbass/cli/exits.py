"""What ``stbass`` exits with.

======  ===========================================================
code    meaning
======  ===========================================================
0       it did what was asked
1       something failed
2       the command line is wrong
3       a setting is wrong, or something that is needed is missing
4       the deadline passed
130     interrupted (Ctrl-C)
======  ===========================================================
"""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Exit"]


class Exit(IntEnum):
    """An exit code."""

    OK = 0
    FAILED = 1
    USAGE = 2
    SETTINGS = 3
    DEADLINE = 4
    INTERRUPTED = 130
