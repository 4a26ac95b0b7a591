"""Parts of running a process that are none themselves."""

from __future__ import annotations

from stbass.context import ProcessContext
from stbass.outcome import ProcessResult
from stbass.process import Composable

__all__ = ["Quiet"]


class Quiet(Composable):
    """Something that the engine runs as it runs a process, and of which observers hear nothing.

    It runs processes of its own, and keeps their deadline. Override :meth:`execute`; it must not raise ``Exception``.
    """

    _runs_others = True

    async def _perform(self, ctx: ProcessContext) -> ProcessResult:
        return await self.execute(ctx)
