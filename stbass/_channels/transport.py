"""The Transport contract: what a channel runs on.

A :class:`Transport` makes one :class:`Link` per channel (or opens the other end of one that was made elsewhere). The
link is where the two sides meet; :class:`~stbass.channel.Chan` adds types and binding, :class:`~stbass.alt.ALT` choice.
``stbass.testing.check_transport(make)`` runs every check that ours pass.

What a link promises
--------------------
- **Rendezvous.** With ``capacity == 0`` an offer is accepted only when a receiver has the value for good.
- **It happened or it did not.** A waiter resolves once, on both sides or on none. :meth:`Link.withdraw` gives the final
  answer; so a send that was cancelled was never received, and one that returned was received exactly once.
- **One meeting.** A choice moves one channel. A link never moves a value for an arm without that arm's claim, or
  :meth:`Link.meet` having been called by the choice itself.
- **No polling.** Whoever waits, waits on a future.
- **One thread.** A link is used from one event loop; a remote link reaches its other end from there.

Links in memory answer at once (``local``): :meth:`Link.try_take` and :meth:`Link.try_offer` are their whole truth.
A remote link knows only what it was told; it is asked by :meth:`Link.probe`, tells arms by
:meth:`Arm.notify`, and commits in :meth:`Link.meet`.

Two choices that face each other over a remote link
---------------------------------------------------
Each has an arm attached, and the meeting needs both at the same time. The one that looks second finds the other ready
and proposes: it is inside :meth:`Link.meet`, so nobody else can have it. The link at the other side claims its arm
there, completes it, and accepts. If the claim fails because that choice is ``DECIDING`` itself, the two ranks
(:attr:`Choice.rank <stbass._channels.choice.Choice.rank>`) tell what to do: a proposer with the higher rank is refused
at once; one with the lower rank is answered when the other has decided, which is when its arm is detached (refuse) or
resumed (claim again). So in every ring of proposals somebody is refused, and the lowest never waits for a refusal that
does not come: no deadlock, no livelock. A proposer that was refused is told by ``notify`` when the other resumes.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, ClassVar, Final, Literal, TypeAlias

import msgspec

from stbass._channels.choice import CLAIMED, IDLE, WAITING, Choice
from stbass.errors import ChannelClosedError, ChannelTopologyError

__all__ = ["NOTHING", "Arm", "ChannelStats", "Happened", "Link", "LinkSpec", "Side", "Transport"]

Side: TypeAlias = Literal["writer", "reader"]


class _Nothing(Enum):
    NOTHING = "nothing"

    def __repr__(self) -> str:
        return "NOTHING"


NOTHING: Final = _Nothing.NOTHING
"""There is no value; None is one."""


@dataclass(frozen=True, slots=True)
class Happened:
    """An operation took place; ``value`` is what a reader got, None for a writer."""

    value: Any = None


@dataclass(frozen=True, slots=True)
class ChannelStats:
    """What a channel has done so far.

    Args:
        sent: values whose send has returned, or is about to.
        received: values that a receiver has.
        waiting: the side that waits for the other, or None.
        last_at: when the last value was handed over (with its zone), or None.
    """

    sent: int
    received: int
    waiting: Literal["sender", "receiver"] | None
    last_at: datetime | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as they are kept with a failure; the time is ISO 8601 text."""
        return {
            "sent": self.sent,
            "received": self.received,
            "waiting": self.waiting,
            "last_at": None if self.last_at is None else self.last_at.isoformat(),
        }


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """What a link has to know about its channel.

    Args:
        name: the channel's name, for messages; two channels may have the same.
        capacity: how many values may be accepted before a receiver has them; 0: none.
        type_name: the channel's type as text that is equal at both ends; a remote link compares it when an end is
            bound.
        accept: given a value that came from another Python process and its place in the channel's life (from 0), gives
            back the value to hand on. Raises ``ChannelTypeError`` or ``ChannelProtocolError``, which the receiver gets.
    """

    name: str
    capacity: int
    type_name: str
    accept: Callable[[Any, int], Any]


class Arm(msgspec.Struct, eq=False):
    """One guard of a choice, attached to one side of a link.

    Args:
        choice: the decision that it belongs to.
        index: which guard of it this is.
        link: the channel's link.
        reader: whether it takes a value; else it offers ``value``.
        value: what it offers, already checked.
        open: false while the guard's precondition is: it must not win then, but wants to hear of a partner, for which
            the precondition is asked anew.
    """

    choice: Choice
    index: int
    link: Link
    reader: bool
    value: Any = None
    open: bool = True

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
        choice.resolve()

    def release(self) -> None:
        """Give the claim back: nothing moved, and the choice looks again at what is ready."""
        choice = self.choice
        choice.state = IDLE
        choice.resolve()

    def notify(self) -> None:
        """This side of the link may be ready now: a partner came, a buffer changed, or the channel was closed."""
        self.choice.mark(self.index)
        self.choice.wake()


class Transport(ABC):
    """Where channels live: in memory, in a Redis server, …"""

    scheme: ClassVar[str]
    """A short name, which shared channels carry."""
    by_name: bool = False
    """Whether channels of one name are the same channel, whoever makes them."""

    @abstractmethod
    def link(self, spec: LinkSpec) -> Link:
        """A new channel. No input or output happens before its first operation, or :meth:`Link.bound`."""

    @abstractmethod
    def open(self, spec: LinkSpec, shared: Mapping[str, Any]) -> Link:
        """The other end of a channel, from what :meth:`Link.share` gave.

        Raises:
            ChannelTopologyError: ``shared`` is not of this transport, or it has only one end.
        """

    def reaches(self, other: Transport) -> bool:
        """Whether this transport opens channels of that one: by default only of itself."""
        return other is self

    async def aclose(self) -> None:  # noqa: B027 - a transport may hold nothing
        """Give back connections. Channels are closed by their owners, not by this."""


class Link(ABC):
    """A channel as its transport sees it: two sides that meet.

    Futures that :meth:`offer` and :meth:`take` return are *waiters*: they belong to one caller, who awaits each once,
    and who calls :meth:`withdraw` if it is cancelled meanwhile.
    """

    __slots__ = ("capacity", "closed", "forsaken", "name", "reader", "writer")

    local: ClassVar[bool] = False
    """Whether ``try_offer``, ``try_take`` and ``ready`` tell the whole truth at once."""

    def __init__(self, spec: LinkSpec) -> None:
        self.name = spec.name
        self.capacity = spec.capacity
        self.closed = False
        self.forsaken: tuple[str, bool] | None = None
        """If nobody is left at the other end: who has ended and how, and whether one of them has failed."""
        self.writer: str | None = None
        self.reader: str | None = None

    # A value moves ------------------------------------------------------------------------------

    @abstractmethod
    def offer(self, value: Any) -> asyncio.Future[None] | None:
        """Offer a value, which has been checked. None: it was accepted at once. Else a waiter, resolved when it is.

        Raises:
            ChannelClosedError: the channel is closed; from the waiter too, if it is closed before a receiver came.
        """

    @abstractmethod
    def take(self) -> asyncio.Future[Any]:
        """A waiter for the next value.

        Raises:
            ChannelClosedError: closed and empty; from the waiter too.
        """

    def try_offer(self, value: Any) -> bool:
        """Offer a value if it is accepted at once; else change nothing. A remote link may always say False.

        Raises:
            ChannelClosedError: the channel is closed.
        """
        if self.closed:
            raise self.closed_error()
        return False

    def try_take(self) -> Any:
        """The next value if there is one here and now, else ``NOTHING``. A remote link may always say that.

        Raises:
            ChannelClosedError: closed and empty.
        """
        return NOTHING

    @abstractmethod
    async def withdraw(self, waiter: asyncio.Future[Any]) -> Happened | None:
        """The caller was cancelled: undo what the waiter stands for, unless it has happened.

        Returns:
            None: it has not happened and never will; nothing was lost and nobody saw it. ``Happened``: it is too late,
            and this is the result, also if the waiter itself was cancelled.

        Raises:
            StbassError: the answer cannot be had (the connection is lost); says that the outcome is unknown.
        """

    async def flush(self) -> None:  # noqa: B027 - in memory nothing is put off
        """Return when all that has happened at this end is known to whoever survives this Python process.

        Raises:
            StbassError: whether it is, cannot be found out.
        """

    # The end ------------------------------------------------------------------------------------

    @abstractmethod
    def close(self) -> None:
        """Close; again does nothing. Waiting senders and receivers get ``ChannelClosedError``, arms are notified,
        offered values that nobody took are withdrawn; values that were accepted can still be taken."""

    async def aclose(self) -> None:
        """Close, and return when the other end knows or can be told no more."""
        self.close()

    def forsake(self, told: str, *, failed: bool) -> None:
        """Nobody is left who could be at the other end: what would wait for one fails, now and later.

        A link that has values goes on giving them, and one that has room taking them.
        """
        self.forsaken = told, failed
        self.close()

    def reopen(self) -> bool:
        """Undo :meth:`forsake`; False: this link cannot, and a new one is needed."""
        return False

    async def given_up(self) -> None:  # noqa: B027 - in memory there is nothing to leave
        """Return when nothing is kept elsewhere any more for a link that could not :meth:`reopen`."""

    def closed_error(self) -> ChannelClosedError:
        """The error for an operation on this channel after its close."""
        told, failed = self.forsaken or ("", False)
        why = f": its other end will never come again: {told}" if told else ""
        return ChannelClosedError(f"channel {self.name!r} is closed{why}", channel_name=self.name, failed=failed)

    # Choice -------------------------------------------------------------------------------------

    @abstractmethod
    def attach(self, arm: Arm) -> None:
        """Until :meth:`detach`, tell ``arm`` when its side may be ready; while its choice waits, it may win."""

    @abstractmethod
    def detach(self, arm: Arm) -> None:
        """Tell it no more. A link that holds a claim on its choice still ends it."""

    @abstractmethod
    def ready(self, arm: Arm) -> bool:
        """As far as is known here: could the arm's operation complete at once? A closed channel is ready: it raises.

        For a remote link: false after a :meth:`meet` that came to nothing, until the next ``notify``.
        """

    def announce(self, arm: Arm) -> None:  # noqa: B027 - only arms that can be shut need it
        """An attached arm has become open or shut: partners that it was shut to may want to know."""

    def resume(self, arm: Arm) -> None:  # noqa: B027 - only links that claim from afar need it
        """The choice of an attached arm starts to wait, or waits again: claims can succeed from now on.

        Called for every arm each time, so a remote link should act only if it refused or put off a claim before.
        """

    def faced(self, arm: Arm) -> bool:
        """Whether a choice is attached to the other side, which may begin to wait without this arm being told."""
        return False

    async def probe(self, arm: Arm) -> bool:
        """Like :meth:`ready`, but asks the other end too. The arm is attached, so that nothing is missed after it."""
        return self.ready(arm)

    async def meet(self, arm: Arm) -> Happened | None:
        """Complete the operation of an arm, whose choice is not waiting and so has decided for it. None: too late.

        It runs to its end also if the choice's task is cancelled; its time has to be bounded.

        Raises:
            ChannelClosedError: the channel is closed.
        """
        if arm.reader:
            value = self.try_take()
            return None if value is NOTHING else Happened(value)
        return Happened() if self.try_offer(arm.value) else None

    # Who holds the sides ------------------------------------------------------------------------

    def bind(self, side: Side, owner: str) -> None:
        """Give a side to a process. Again by the same owner does nothing.

        A remote link takes the lease in the background; :meth:`bound`, or the first operation, raises what it found.

        Raises:
            ChannelTopologyError: another process has it; names both.
        """
        holder = self.writer if side == "writer" else self.reader
        if holder is not None and holder != owner:
            raise ChannelTopologyError(
                f"channel {self.name!r} already has a {side}: {holder!r}; {owner!r} cannot be another. "
                f"A channel has one writer and one reader; unbind the first, or use a channel for each",
                channel_name=self.name,
                holder=holder,
                refused=owner,
            )
        if side == "writer":
            self.writer = owner
        else:
            self.reader = owner

    def unbind(self, side: Side) -> None:
        """Free a side; again does nothing."""
        if side == "writer":
            self.writer = None
        else:
            self.reader = None

    async def bound(self) -> None:  # noqa: B027 - in memory a side is held at once
        """Return when the sides bound here are held, and those given back are free.

        Raises:
            ChannelTopologyError: another process holds one (who, since when), or the two ends' types differ.
        """

    # What it tells ------------------------------------------------------------------------------

    @abstractmethod
    def stats(self) -> ChannelStats:
        """What this channel has done, as far as is known here. ``sent`` counts all that its writers ever sent."""

    def accepted(self) -> tuple[Any, ...]:
        """Values that were accepted and that no receiver has yet, first to last; looking at them changes nothing.

        Only a local link knows them; any other gives none.
        """
        return ()

    @property
    @abstractmethod
    def sent(self) -> int:
        """How many values were ever sent, by any writer: known once :meth:`bound` has returned at the writer's end."""

    @property
    @abstractmethod
    def used(self) -> bool:
        """Whether a value was ever sent, or anybody waits. Only an unused channel may be promoted."""

    def outlive(self) -> None:  # noqa: B027 - a default, not a stub
        """Let the channel be there again for whoever opens it after all its ends were left, and not be closed by that.

        What was sent and received by then is known to both sides; where a channel does not outlive its ends anyway, as
        in memory, nothing happens.
        """

    @abstractmethod
    def share(self) -> dict[str, Any]:
        """A plain description by which :meth:`Transport.open` finds this channel in another Python process.

        It carries no secrets and no address: the process that opens it uses the transport that it trusts itself.

        Raises:
            NotTransportable: there is no way to reach it from elsewhere.
        """
