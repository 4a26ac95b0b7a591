"""What is started when a context is entered, and ended when it is left."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

__all__ = ["StartedInContext"]


class StartedInContext(ABC):
    """``with`` and ``async with`` around :meth:`start`; the latter does not block the event loop."""

    @abstractmethod
    def start(self) -> Self:
        """Start it."""

    @abstractmethod
    def _leave(self) -> None:
        """End it."""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._leave)
