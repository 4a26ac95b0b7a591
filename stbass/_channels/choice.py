"""The state of one decision that several channels compete for.

An :class:`ALT <stbass.alt.ALT>` has one :class:`Choice`, and one :class:`~stbass._channels.transport.Arm` per channel
guard, through which links reach the choice. A claim is exclusive: however many channels become ready at once, exactly
one moves a value.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from stbass._values.ids import new_id

__all__ = ["CLAIMED", "DECIDING", "IDLE", "WAITING", "Choice"]

IDLE, WAITING, CLAIMED, DECIDING = range(4)


class Choice:
    """The state of one decision. It belongs to one event loop; nothing in it may be touched from another thread.

    ``IDLE``: nobody waits, or whoever waits is just looking at what is ready. ``WAITING``: the first claim gets it.
    ``CLAIMED``: a link is about to complete it, or to release it. ``DECIDING``: it has decided for an arm itself, and
    is inside that link's ``meet``.
    """

    __slots__ = ("_rank", "outcome", "state", "waiter")

    passive: ClassVar[bool] = False
    """It only wants to be told, and is never claimed: nobody should take it for a partner."""

    def __init__(self) -> None:
        self.state = IDLE
        self._rank: str | None = None
        self.waiter: asyncio.Future[None] | None = None
        self.outcome: tuple[int, Any] | None = None
        """Index of the arm that won, and the value that moved."""

    @property
    def rank(self) -> str:
        """An id for this choice that no other has anywhere: of two that compete, the lower comes first."""
        if self._rank is None:
            self._rank = new_id()
        return self._rank

    def begin(self) -> asyncio.Future[None]:
        """Start to wait; the future is resolved when there is an outcome, or a reason to look again."""
        self.outcome = None
        self.waiter = asyncio.get_running_loop().create_future()
        self.state = WAITING
        return self.waiter

    def wake(self) -> None:
        """Let whoever waits look again at what is ready. A claimed choice looks when the claim is released."""
        if self.state == WAITING:
            self.state = IDLE
            self.resolve()

    def mark(self, index: int) -> None:
        """Arm ``index`` may have become ready. A choice that keeps a list of such arms adds it."""

    def resolve(self) -> None:
        """Let the task that waits run again."""
        waiter = self.waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
