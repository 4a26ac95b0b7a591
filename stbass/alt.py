"""Choice: wait for several channels and timers at once, and take exactly one.

A choice that waits is told when something is ready: until then it costs nothing. Only the winner's channel moves; every
other sender stays as blocked as it was.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from abc import abstractmethod
from asyncio import CancelledError, get_running_loop
from bisect import bisect_left
from collections.abc import Callable, Coroutine, Generator, Sequence, Set
from enum import Enum
from operator import attrgetter
from time import monotonic
from types import TracebackType
from typing import Any, ClassVar, Final, TypeAlias

from stbass._channels.cancellation import defer, owed, raise_owed, to_the_end
from stbass._channels.choice import CLAIMED, DECIDING, IDLE, WAITING, Choice
from stbass._channels.memory import attach_all, detach_all, ready_among
from stbass._channels.ready_list import FairList, ListedChoice, PriorityList, ReadyList, attempt, pick
from stbass._channels.transport import NOTHING, Arm
from stbass._channels.waiting import LONG_WAIT, note_wait
from stbass._values.checks import checked_verdict, refuse_generator, refuse_unrun
from stbass._values.texts import plain_text, value_text
from stbass.channel import Chan
from stbass.errors import AllGuardsDisabledError, ChannelClosedError
from stbass.observe import spans
from stbass.timer import DEADLINE, TIMER, Countdown

__all__ = ["ALT", "PRI_ALT", "SKIP", "AllGuardsDisabledError", "Guard"]


class _Skip(Enum):
    SKIP = "skip"

    def __repr__(self) -> str:
        return "SKIP"


SKIP: Final = _Skip.SKIP
"""A guard on this is always ready, and wins only when nothing else is."""


class Guard:
    """One of the things a choice waits for.

    Args:
        channel: a channel to receive from (or to send to: see ``send``), a :class:`TIMER`, a :class:`DEADLINE`, or
            ``SKIP``. A closed channel is ready: if it is chosen, the choice raises ``ChannelClosedError``. One at whose
            other end nobody is left is not ready, unless there is no other guard that could be.
        precondition: whether the guard takes part. A callable is asked when the choice starts, and again when a
            partner comes to one of the choice's channels or :meth:`ALT.recheck` is called; nothing polls it.
        handler: called with what the guard gives if it wins (or with nothing, if it takes no argument); may be async.
            What it returns is the choice's result.
        send: makes it an output guard: ready when a receiver waits for a value, which then gets this one.

    A channel gives the value received, an output guard the value sent, a timer a
    :class:`~stbass.timer.TimerExpired`, ``SKIP`` None.

    Raises:
        TypeError: ``channel`` is nothing that can be waited for, or ``send`` is given for something else.
    """

    __slots__ = ("_takes_value", "channel", "handler", "precondition", "send")

    def __init__(
        self,
        channel: Chan[Any] | TIMER | DEADLINE | _Skip,
        precondition: bool | Callable[[], bool] = True,
        handler: Callable[..., Any] | None = None,
        *,
        send: Any = NOTHING,
    ) -> None:
        # Some programs make all guards anew for each choice, so the usual guard is asked for nothing else.
        if not isinstance(channel, Chan):
            if not isinstance(channel, (TIMER, DEADLINE, _Skip)):
                raise TypeError(f"a guard waits for a Chan, a TIMER, a DEADLINE or SKIP, not {value_text(channel)}")
            if send is not NOTHING:
                raise TypeError(f"only a channel can be sent to, not {value_text(channel)}")
        if precondition is not True and callable(precondition):
            refuse_generator(precondition, "a guard's precondition")
        if handler is not None:
            refuse_generator(handler, "a guard's handler")
        self.channel = channel
        self.precondition = precondition
        self.handler = handler
        self.send = send
        self._takes_value: bool | None = None

    @property
    def is_eligible(self) -> bool:
        """Whether its precondition holds now."""
        if not callable(self.precondition):
            return bool(self.precondition)
        return checked_verdict(self.precondition(), "a guard's precondition")

    async def handle(self, handler: Callable[..., Any], value: Any) -> Any:
        """Call the handler with the value, or without one, and wait for it if it is async."""
        if self._takes_value is None:
            self._takes_value = _takes_argument(handler)
        result = handler(value) if self._takes_value else handler()
        if inspect.isawaitable(result):
            result = await result
        refuse_unrun(result, "a guard's handler")
        return result

    def __repr__(self) -> str:
        offer = "" if self.send is NOTHING else ", send=…"
        return f"Guard({self.channel!r}{offer})"


def _takes_argument(handler: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(handler).parameters.values()
    except ValueError:
        return True  # some builtins have no signature; those that make sense as a handler take a value
    return any(one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD, one.VAR_POSITIONAL) for one in parameters)


Outcome: TypeAlias = tuple[int, Any]
_NONE: Set[int] = frozenset()


class _Alternation(Coroutine[Any, Any, Any]):
    """What ALT and PRI_ALT have in common: all but the order."""

    __slots__ = (
        "__weakref__",
        "_arms",
        "_attached",
        "_choice",
        "_coroutine",
        "_countdowns",
        "_dynamic",
        "_guards",
        "_kept",
        "_loop",
        "_offering",
        "_offers",
        "_reached",
        "_remote",
        "_running",
        "_skips",
        "_timers",
        "chosen",
    )

    _ready_list: ClassVar[type[ReadyList]]

    def __init__(self, *guards: Guard) -> None:
        self._guards = guards
        self.chosen: Guard | None = None
        """The guard that won the latest time, also if its channel then proved to be closed."""
        self._choice: Choice | None = None
        self._arms: list[Arm] = []
        self._attached: list[Arm] = []
        self._timers: list[int] = []
        self._skips: list[int] = []
        self._dynamic: list[int] = []
        self._countdowns: dict[int, Countdown] = {}
        self._offers: list[Arm] = []
        self._remote: list[Arm] = []
        self._offering: list[Chan[Any]] = []
        self._reached = -math.inf
        self._running = False
        self._kept = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._coroutine: Coroutine[Any, Any, Any] | None = None

    @abstractmethod
    def _pick(self, ready: Sequence[int]) -> int:
        """Pick one of ``ready``, which is in order except for timers: these come last."""

    def recheck(self) -> None:
        """Ask the preconditions again, because something that they depend on has changed."""
        if self._choice is not None:
            self._choice.wake()

    # The choice ---------------------------------------------------------------------------------

    async def _run(self) -> Any:
        if self._running:
            raise RuntimeError(f"this {type(self).__name__} is waiting already; make one for each task")
        self._running = True
        try:
            if self._choice is None:
                self._sort_guards()
            elif self._loop is not get_running_loop() if self._kept else self._keepable():
                self._keep()
            elif not self._kept:
                self._sort_guards()
            for index in self._timers:
                timer = self._guards[index].channel
                assert isinstance(timer, (TIMER, DEADLINE))
                self._countdowns[index] = timer.begin()
            index, value = await (self._decide_kept() if self._kept else self._decide())
        finally:
            self._running = False
        guard = self.chosen = self._guards[index]
        if self._timers and index in self._countdowns:
            value = self._countdowns[index].expire()
        return value if guard.handler is None else await guard.handle(guard.handler, value)

    def _sort_guards(self) -> None:
        choice = Choice() if self._choice is None else self._choice
        arms, offers, remote, timers, skips, dynamic = [], [], [], [], [], []
        for index, guard in enumerate(self._guards):
            if not isinstance(guard, Guard):
                raise TypeError(f"{type(self).__name__} takes guards, not {value_text(guard)}")
            if guard.precondition is not True:
                if callable(guard.precondition):
                    dynamic.append(index)
                elif not guard.precondition:
                    continue
            channel = guard.channel
            if isinstance(channel, Chan):
                link = channel.link
                arms.append(arm := Arm(choice, index, link, guard.send is NOTHING))
                if guard.send is not NOTHING:
                    offers.append(arm)
                if not link.local:
                    remote.append(arm)
            elif channel is not SKIP:
                timers.append(index)
            else:
                skips.append(index)
        if not arms and not timers and not skips:
            raise self._all_disabled()
        self._choice, self._arms, self._offers, self._remote = choice, arms, offers, remote
        self._timers, self._skips, self._dynamic = timers, skips, dynamic

    def _all_disabled(self) -> AllGuardsDisabledError:
        count = len(self._guards)
        what = f"the preconditions of all its {count} guards are false" if count else "it has no guards"
        return AllGuardsDisabledError(f"{type(self).__name__} can never be ready: {what}")

    async def _decide(self) -> Outcome:
        """Decide once, and leave nothing behind."""
        choice = self._choice
        assert choice is not None
        try:
            for arm in self._offers:
                channel: Chan[Any] = self._guards[arm.index].channel  # type: ignore[assignment]
                arm.value = await channel.begin_offer(self._guards[arm.index].send)
                self._offering.append(channel)
            if self._offers:
                self._renew_links()
            shut = self._ask_preconditions() if self._dynamic else _NONE
            if self._remote:
                await self._ask_links(self._remote)
            forsaken: set[int] = set()
            attached = False
            while True:
                ready = ready_among(self._arms)
                if forsaken:
                    ready = [
                        index for index in ready if index not in forsaken or self._arm(index).link.forsaken is None
                    ]
                ready += self._due(shut)
                if ready:
                    index = self._pick(ready)
                    try:
                        outcome = await self._commit(index)
                    except ChannelClosedError:
                        forsaken.add(index)
                        if self._is_over(index, forsaken):
                            raise
                        outcome = None
                else:
                    for index in self._skips:
                        if index not in shut:
                            return index, None
                    if not self._arms and all(index in shut for index in self._timers):
                        raise self._all_disabled()  # no partner can come, and no timer expire
                    if attached:
                        outcome = await self._wait(choice, self._arms, (), shut)
                    else:
                        local = [arm for arm in self._arms if arm.link.local] if self._remote else self._arms
                        outcome = await self._wait(choice, self._remote, local, shut)
                        attached = True
                if outcome is not None:
                    return outcome
                if self._dynamic:
                    shut = self._ask_preconditions()
        finally:
            self._detach()
            while self._offering:
                self._offering.pop().end_offer()

    def _renew_links(self) -> None:
        """While an offer was prepared, a channel may have moved to another transport."""
        self._remote = []
        for arm in self._arms:
            channel: Chan[Any] = self._guards[arm.index].channel  # type: ignore[assignment]
            arm.link = channel.link
            if not arm.link.local:
                self._remote.append(arm)

    async def _ask_links(self, asked: Sequence[Arm]) -> None:
        """Ask remote links what is ready. They are attached first, so that nothing is missed afterwards."""
        attach_all(asked, self._attached)
        try:
            async with asyncio.TaskGroup() as group:
                for arm in asked:
                    group.create_task(arm.link.probe(arm))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    def _ask_preconditions(self) -> Set[int]:
        """Ask the callable ones; gives back the guards that are shut."""
        shut = {index for index in self._dynamic if not self._guards[index].is_eligible}
        for arm in self._arms:
            was_open, arm.open = arm.open, arm.index not in shut
            if arm.open != was_open and self._attached:
                arm.link.announce(arm)
        return shut

    def _due(self, shut: Set[int] = _NONE) -> list[int]:
        """The timers that have expired."""
        if not self._timers:
            return []
        # The event loop may call a timer a little early by its own clock.
        now = max(get_running_loop().time(), self._reached)
        return [index for index in self._timers if self._countdowns[index].at <= now and index not in shut]

    async def _commit(self, index: int) -> Outcome | None:
        """Complete guard ``index``. None: it was too late, and nothing has moved."""
        if index in self._countdowns:
            return index, None
        arm = self._arm(index)
        self.chosen = self._guards[index]
        if arm.link.local:
            value = attempt(arm)
            return None if value is NOTHING else (index, value)
        arm.choice.state = DECIDING
        try:
            happened, cancel = await to_the_end(arm.link.meet(arm))
        finally:
            arm.choice.state = IDLE
        if happened is None:
            if cancel is not None:
                raise cancel
            return None
        if cancel is not None:
            defer(cancel)
        return index, happened.value if arm.reader else arm.value

    def _arm(self, index: int) -> Arm:
        """The arm of guard ``index``, which is a channel's."""
        return self._arms[bisect_left(self._arms, index, key=attrgetter("index"))]

    def _is_over(self, index: int, forsaken: Set[int]) -> bool:
        """Whether guard ``index`` is closed, or nobody is left at its other end, nor at that of any other guard.

        Args:
            forsaken: those at which nobody is left, and that have no more to give.
        """
        links = {arm.index: arm.link for arm in self._arms}
        if links[index].forsaken is None:
            return True
        return not (self._timers or self._skips) and all(
            link.forsaken is not None and place in forsaken for place, link in links.items()
        )

    async def _wait(
        self, choice: Choice, resumed: Sequence[Arm], attached: Sequence[Arm] = (), shut: Set[int] = _NONE
    ) -> Outcome | None:
        """Wait until a partner completes the choice, or until there is a reason to look again (None).

        Args:
            resumed: arms that were attached before.
            attached: those to attach first.
            shut: the guards that are shut.
        """
        if owed:
            raise_owed()
        loop = get_running_loop()
        handle: asyncio.TimerHandle | None = None
        if self._timers:
            at = min((self._countdowns[index].at for index in self._timers if index not in shut), default=math.inf)
            if at < math.inf:
                handle = loop.call_at(at, self._time_has_come, at)
        waiter = choice.begin()
        since = monotonic()
        try:
            attach_all(attached, self._attached)
            for arm in resumed:
                arm.link.resume(arm)
            await waiter
        except CancelledError as cancel:
            await self._released(choice)
            if choice.outcome is None:
                raise
            defer(cancel)
        finally:
            if monotonic() - since >= LONG_WAIT or spans.current is not None:
                note_wait(", ".join([plain_text(arm.link.name) for arm in self._arms]), "choose", since)
            if handle is not None:
                handle.cancel()
            if choice.state == WAITING:
                choice.state = IDLE  # the coroutine is closed
        if choice.outcome is None:
            return None
        index, value = choice.outcome
        choice.outcome = choice.waiter = None
        return index, value

    async def _released(self, choice: Choice) -> None:
        """Wait until nobody holds a claim: whoever does is completing the choice, and alone knows its outcome."""
        while choice.state == CLAIMED:
            choice.waiter = get_running_loop().create_future()
            try:
                await choice.waiter
            except CancelledError:
                continue  # the caller deals with a cancellation already
        choice.state = IDLE

    def _time_has_come(self, at: float) -> None:
        self._reached = at
        assert self._choice is not None
        self._choice.wake()

    def _detach(self) -> None:
        attached, self._attached = self._attached, []
        detach_all(attached)

    # The same choice again ----------------------------------------------------------------------

    def _keepable(self) -> bool:
        """Whether it can stay attached: all links are local, and no precondition or type has to be asked anew."""
        channels = [self._guards[arm.index].channel for arm in self._arms]
        return not self._dynamic and all(
            isinstance(one, Chan) and one.link.local and (arm.reader or not one.is_sequence)
            for arm, one in zip(self._arms, channels, strict=True)
        )

    def _keep(self) -> None:
        """Stay attached from now on, so that the number of guards no longer matters."""
        self._detach()
        self._loop = get_running_loop()
        choice = ListedChoice()
        by_index: list[Arm | None] = [None] * len(self._guards)
        for old in self._arms:
            guard = self._guards[old.index]
            assert isinstance(guard.channel, Chan)
            by_index[old.index] = Arm(choice, old.index, guard.channel.link, old.reader, old.value)
        self._arms = [arm for arm in by_index if arm is not None]
        choice.ready = self._ready_list(by_index, alone=not self._timers and not self._skips)
        self._choice = choice
        self._kept = True
        attach_all(self._arms, self._attached)

    async def _decide_kept(self) -> Outcome:
        choice = self._choice
        assert isinstance(choice, ListedChoice)
        ready = choice.ready
        while True:
            try:
                outcome = ready.choose(self._due() if self._timers else ())
            except ChannelClosedError:
                self.chosen = self._guards[ready.tried]
                raise
            if outcome is not None:
                return outcome
            if self._skips:
                return self._skips[0], None
            outcome = await self._wait(choice, ready.faced)
            if outcome is not None:
                return outcome

    def __del__(self) -> None:
        if self._kept:
            self._detach()

    # A coroutine, so that asyncio.create_task(ALT(...)) works, and one that can be awaited again ------------------

    def __await__(self) -> Generator[Any, None, Any]:
        """Decide: the result of the winner's handler, else what the winner gives.

        Raises:
            AllGuardsDisabledError: no guard can ever be ready.
            ChannelClosedError: a closed channel was chosen.
            ChannelTypeError: the value of an output guard does not fit its channel.
            RuntimeError: it is being awaited already.
        """
        return self._run().__await__()

    def send(self, value: Any, /) -> Any:
        return self._step(lambda coroutine: coroutine.send(value))

    def throw(self, typ: Any, val: Any = None, tb: TracebackType | None = None, /) -> Any:
        error = typ if isinstance(typ, BaseException) else val if isinstance(val, BaseException) else typ()
        return self._step(lambda coroutine: coroutine.throw(error))

    def close(self) -> None:
        if self._coroutine is not None:
            coroutine, self._coroutine = self._coroutine, None
            coroutine.close()

    def _step(self, step: Callable[[Coroutine[Any, Any, Any]], Any]) -> Any:
        if self._coroutine is None:
            self._coroutine = self._run()
        try:
            return step(self._coroutine)
        except BaseException:
            self._coroutine = None
            raise

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self._guards))})"


class ALT(_Alternation):
    """``await ALT(*guards)``: wait until a guard is ready, and take it; of several, each is as likely.

    Awaited again, it chooses again: over channels in memory it then stays attached to them until it is dropped, and
    its cost no longer grows with the number of guards. One task may await it at a time.

    Args:
        guards: what to wait for.
    """

    __slots__ = ()

    _ready_list = FairList

    def _pick(self, ready: Sequence[int]) -> int:
        return pick(ready)


class PRI_ALT(_Alternation):
    """``await PRI_ALT(*guards)``: like :class:`ALT`, but of several ready guards the first in order is taken.

    Args:
        guards: what to wait for, the most urgent first. ``SKIP`` comes last, wherever it stands.
    """

    __slots__ = ()

    _ready_list = PriorityList

    def _pick(self, ready: Sequence[int]) -> int:
        return min(ready)
