"""One decision that several channels compete for: the part of a choice that a transport sees.

An :class:`ALT <stbass.alt.ALT>` has one :class:`Choice`, and one :class:`Arm` per channel guard. A link that has an arm
attached tells it when its side may be ready (:meth:`Arm.notify`), or completes the choice itself when the other side
comes (:meth:`Arm.claim`, then :meth:`Arm.complete` or :meth:`Arm.release`). A claim is exclusive, so that however many
channels become ready at once, exactly one moves.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar

from stbass._values.ids import new_id

if TYPE_CHECKING:
    from stbass._channels.transport import Link

__all__ = ["CLAIMED", "DECIDING", "IDLE", "WAITING", "Arm", "Choice"]

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
            self._resolve()

    def mark(self, index: int) -> None:
        """Arm ``index`` may have become ready. A choice that keeps a list of such arms adds it."""

    def _resolve(self) -> None:
        waiter = self.waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


class Arm:
    """One guard of a choice, attached to one side of a link.

    Args:
        choice: the decision that it belongs to.
        index: which guard of it this is.
        link: the channel's link.
        reader: whether it takes a value; else it offers ``value``.
        value: what it offers, already checked.

    ``open`` is false while the guard's precondition is: it must not win then, but wants to hear of a partner, for
    which the precondition is asked anew.
    """

    __slots__ = ("choice", "index", "link", "open", "reader", "value")

    def __init__(self, choice: Choice, index: int, link: Link, reader: bool, value: Any = None) -> None:
        self.choice = choice
        self.index = index
        self.link = link
        self.reader = reader
        self.value = value
        self.open = True

    @property
    def claimable(self) -> bool:
        """Whether :meth:`claim` would succeed now."""
        choice = self.choice
        # A waiter that is done while the choice still waits is a task that has been cancelled and did not run yet.
        return choice.state == WAITING and self.open and choice.waiter is not None and not choice.waiter.done()

    def claim(self) -> bool:
        """Take the exclusive right to complete the choice. False if it is not waiting (any more), or is claimed.

        The claim must end in :meth:`complete` or :meth:`release` in bounded time: the choice waits for that even if
        its task is cancelled.
        """
        if self.claimable:
            self.choice.state = CLAIMED
            return True
        return False

    def complete(self, value: Any = None) -> None:
        """This arm wins: a reader with the value that it got, a writer with the one that it offered. Needs a claim."""
        choice = self.choice
        choice.state = IDLE
        choice.outcome = self.index, value if self.reader else self.value
        choice._resolve()

    def release(self) -> None:
        """Give the claim back: nothing moved, and the choice looks again at what is ready."""
        choice = self.choice
        choice.state = IDLE
        choice._resolve()

    def notify(self) -> None:
        """This side of the link may be ready now: a partner came, a buffer changed, or the channel was closed."""
        self.choice.mark(self.index)
        self.choice.wake()
