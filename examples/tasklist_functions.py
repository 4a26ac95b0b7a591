"""Plain functions that :mod:`examples.tasklist_fleet` has called by real workers, whose include names this module."""

from __future__ import annotations

import asyncio
import os

__all__ = ["ask", "count_words"]


def count_words(text: str) -> tuple[int, int]:
    """How many words, and in which Python process they were counted."""
    return len(text.split()), os.getpid()


async def ask(question: str) -> str:
    """Ask somebody who takes a while."""
    await asyncio.sleep(0.2)
    return f"{question} Because."
