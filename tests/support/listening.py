"""A process that does what an ordinary task of the application beside it does; see :mod:`.listening_app`."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

from stbass._process.context import ProcessContext
from stbass.process import Process

LOG = "listened"
seen: ContextVar[str] = ContextVar("seen", default="nothing")


def fails_here(text: str) -> None:
    """Fail.

    Raises:
        ValueError: always.
    """
    raise ValueError(text)


class Work(Process):
    """The same, as a process."""

    def __init__(self, text: str = "", seconds: float = 0.0) -> None:
        self.text = text
        self.seconds = seconds

    async def run(self, ctx: ProcessContext) -> list[Any]:
        """Fail, or give something."""
        await asyncio.sleep(self.seconds)
        if self.text:
            fails_here(self.text)
        return [seen.get().split()[0], 1]
