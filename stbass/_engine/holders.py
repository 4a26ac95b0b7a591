"""Who holds the channels of a running composition, so that nobody waits at one for a process that is gone for good.

The processes that run or are still to run are counted for each channel that was given to them with ``with_channels``.
When only one is left that has a channel, and one that ran beside it has ended, it waits there no more: it gets an error
that names who ended and how. That is over when there are two once more, and when the composition has ended.

A false alarm would be worse than a wait, so nothing is told while

* it belongs to a composition that has not started, runs elsewhere or may be tried again, or there is one of which is
  not known yet what it is made of (:attr:`Composable.makes_more`);
* all that had it ran one after the other, or did not use it and may never have been meant to (it was bound to what is
  around them, or given to more than two at once): its other end may be somebody else's, of whom nothing is known;
* somebody outside may have it (:attr:`Chan.known_outside`), or another composition at the same time.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from time import monotonic
from typing import Any

from stbass._channels.transport import Link, Side
from stbass._process.context import Composable, ProcessContext, let_hold, peek_frame
from stbass._values.outcome import ProcessResult
from stbass._values.texts import error_text, shortened
from stbass.channel import Chan
from stbass.errors import ChannelTopologyError

__all__ = ["Holder", "Stages"]

# Who ended at a deadline that the others have, too, is no reason to tell them anything else.
_AT_THE_DEADLINE = 0.1
_NAMED = 3


class _Held:
    """A channel, and who has it."""

    __slots__ = ("channel", "crowded", "forsaken", "gone", "live", "outside")

    def __init__(self, channel: Chan[Any]) -> None:
        self.channel = channel
        self.live: dict[Holder, None] = {}
        self.gone: dict[tuple[Holder, frozenset[Side]], _Gone] = {}
        """By what they ran in and what they used; of several the one that ended last."""
        self.crowded = False
        """Whether it was given to more than two at once, some of whom have no use for it."""
        self.forsaken = False
        """Whether nobody is left, and it was told."""
        self.outside = channel.known_outside


class _Gone:
    """One that has ended."""

    __slots__ = ("failed", "holder", "text", "used")

    def __init__(self, holder: Holder, result: ProcessResult, used: frozenset[Side]) -> None:
        self.holder = holder
        self.used = used
        self.failed = not result.is_ok
        how = f"failed ({error_text(result.failure.error, 300)})" if self.failed else "has ended"
        self.text = f"process {shortened(holder.ctx.process_name, 100)!r} {how}"


class _Tree:
    """All that is held in what a program runs, at any depth."""

    __slots__ = ("held", "loop", "over", "unknown")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.held: dict[int, _Held] = {}
        self.over: list[Link] = []
        """Links of channels at which nobody was left, and that have other ones now."""
        self.unknown: dict[Holder, None] = {}
        """Those in which may be processes with any channel, of which nobody knows yet."""

    def find(self, channel: Chan[Any]) -> _Held | None:
        """Who has a channel; None if another composition that runs was given it first."""
        found = self.held.get(id(channel))
        if found is None:
            if isinstance(channel.counted_by, _Held):
                channel.counted_by.outside = True
                return None
            found = self.held[id(channel)] = channel.counted_by = _Held(channel)
        return found

    def update(self, held: _Held) -> None:
        """Let nobody wait at a channel where nobody comes."""
        if not held.live and not self.unknown:
            self._renew(held)
            held.channel.counted_by = None
            self.held.pop(id(held.channel), None)
            return
        left = self._left_alone(held)
        if left is None or held.outside:
            if held.live:
                self._renew(held)
        elif not (held.forsaken or held.channel.closed or left.is_being_ended):
            gone = [one for one in held.gone.values() if left.could_meet(one, held)]
            if gone:
                held.forsaken = True
                told = "; ".join(one.text for one in gone[-_NAMED:])
                held.channel.forsake(told, failed=any(one.failed for one in gone))

    def _renew(self, held: _Held) -> None:
        if held.forsaken:
            held.forsaken = False
            self.over.append(held.channel.renew())

    def _left_alone(self, held: _Held) -> Holder | None:
        """The only process that has a channel; None if there may be another, now or later."""
        found: Holder | None = None
        others = []
        for one in chain(held.live, self.unknown):
            if one.is_composition:
                others.append(one)
            elif found is None:
                found = one
            else:
                return None
        return None if found is None or not set(others) <= set(found.around()) else found


def _was_refused(held: _Held, result: ProcessResult) -> bool:
    """Whether it failed because another has the end of the channel that it wanted."""
    error = None if result.is_ok else result.failure.error
    return isinstance(error, ChannelTopologyError) and error.channel_name == held.channel.name


class Holder:
    """A process or a composition that has channels, and runs or is still to run.

    Args:
        process: what it is.
        ctx: its context.
        parent: what it runs in; None: it is the outermost.
        again: whether it may be tried again when it fails.
    """

    __slots__ = ("_again", "_in_turn", "_inside", "_own", "_parent", "_tree", "_used", "ctx", "held", "is_composition")

    def __init__(
        self, process: Composable, ctx: ProcessContext, parent: Holder | None = None, *, again: bool = False
    ) -> None:
        self.ctx = ctx
        self.is_composition = process.runs_others
        self._parent = parent
        self._again = again
        self._tree: _Tree = _Tree() if parent is None else parent._tree
        # What a process runs in its own code it may run one after the other.
        self._in_turn = True
        self.held: dict[_Held, None] = {}
        """The channels that it has, and those that what runs in it has."""
        self._inside: dict[Holder, None] = {}
        self._own: set[_Held] = set()
        """Those that were given to itself, or to a process in it, and not only to what is around it."""
        self._used: set[tuple[int, Side]] = set()
        if parent is not None:
            parent._inside[self] = None
        if process.makes_more:
            self._tree.unknown[self] = None

    @property
    def is_here(self) -> bool:
        """Whether it belongs to the event loop that runs in this thread."""
        return self._tree.loop is asyncio.get_running_loop()

    def uses(self, channel: Chan[Any], side: Side) -> None:
        """The process has taken an end of a channel."""
        self._used.add((id(channel), side))

    def start(self, *, in_turn: bool) -> None:
        """The composition starts, perhaps once more."""
        self._in_turn = in_turn
        for one in list(self._inside):
            one._leave()
        for held in self.held:
            self._gone_in(held)

    def _gone_in(self, held: _Held) -> list[tuple[frozenset[Side], _Gone]]:
        """Take out what is kept of those that have ended in it."""
        return [(used, held.gone.pop((of, used))) for of, used in list(held.gone) if of is self]

    def add(self, process: Composable, ctx: ProcessContext, around: Iterable[Chan[Any]], *, again: bool) -> Holder:
        """One that runs in it, with all channels that it has from ``around`` and of its own."""
        made = Holder(process, ctx, self, again=again)
        made._own.update(made.take(process.given_channels()))
        made.take((*around, *process.held_channels()))
        self.held |= made.held
        let_hold(ctx, made)
        return made

    def count_given(self) -> None:
        """All that run in it at once were added."""
        given = Counter(held for one in self._inside for held in one._own)
        for held, count in given.items():
            held.crowded |= count > 2

    def take(self, channels: Iterable[Chan[Any]]) -> list[_Held]:
        """It has these channels now."""
        found = [held for held in map(self._tree.find, channels) if held is not None]
        for held in found:
            held.live[self] = self.held[held] = None
        return found

    def hand_on(self, channels: Iterable[_Held], *, is_known: bool) -> None:
        """From now on only what was added has these.

        Args:
            is_known: whether nothing more is added that nobody knows of yet.
        """
        if not self._again:
            for held in channels:
                held.live.pop(self, None)
            if is_known:
                self._tree.unknown.pop(self, None)
        for held in list(self.held):
            self._tree.update(held)

    def end(self, result: ProcessResult | None = None, *, tell: bool = True) -> None:
        """It has ended for good.

        Args:
            result: how; None: of the outermost, of which nobody needs to know.
            tell: whether those that wait for it are told; not if they are ended too.
        """
        tree = self._tree
        touched = tree.held.values() if self._parent is None or self in tree.unknown else self.held
        self._leave()
        for held in list(touched):
            if result is not None and self._parent is not None and held in self.held:
                self._note_end(held, self._parent, result)
            if tell:
                tree.update(held)

    async def finish(self) -> None:
        """The outermost has ended: return when nothing is left of channels at which nobody was."""
        self.end()
        over, self._tree.over = self._tree.over, []
        for link in over:
            await link.given_up()

    def _note_end(self, held: _Held, parent: Holder, result: ProcessResult) -> None:
        inside = self._gone_in(held)
        used = self.used(held)
        if not inside and (used or held in self._own) and not _was_refused(held, result):
            inside = [(used, _Gone(self, result, used))]
        for used, gone in inside:
            held.gone.pop((parent, used), None)  # the last one last
            held.gone[parent, used] = gone

    def used(self, held: _Held) -> frozenset[Side]:
        """Which ends of a channel it has used, as far as is known here."""
        return frozenset(side for of, side in self._used if of == id(held.channel))

    def _leave(self) -> None:
        for one in list(self._inside):
            one._leave()
        for held in self.held:
            held.live.pop(self, None)
        self._tree.unknown.pop(self, None)
        if self._parent is not None:
            self._parent._inside.pop(self, None)

    def around(self) -> Iterator[Holder]:
        """What it runs in, from the inside out."""
        found = self._parent
        while found is not None:
            yield found
            found = found._parent

    def could_meet(self, gone: _Gone, held: _Held) -> bool:
        """Whether one that has ended ran at the same time, and had the other end of the channel."""
        if not gone.used and held.crowded:
            return False
        around = set(self.around())
        if next(one for one in gone.holder.around() if one in around)._in_turn:
            return False
        used = self.used(held)
        return len(used) != 1 or used != gone.used

    @property
    def is_being_ended(self) -> bool:
        """Whether its deadline is over, or a budget around it is used up."""
        frame = peek_frame(self.ctx)
        if frame.deadline_at is not None and monotonic() >= frame.deadline_at - _AT_THE_DEADLINE:
            return True
        return frame.meter is not None and any(limited.spent is not None for limited in frame.meter.limits)


class Stages:
    """The channels of what runs one after the other in a composition.

    Args:
        node: of the composition.
        stages: what is known of them.
        around: the channels that all of them have.
    """

    def __init__(self, node: Holder, stages: Sequence[Composable], around: Sequence[Chan[Any]]) -> None:
        self._node = node
        self._around = around
        self._last: dict[_Held, int] = {}
        """Which of them is the last to have a channel: until its turn has come, the composition has it."""
        # From the end: of thousands that a factory makes the last tells it.
        self._unknown = next((index for index in reversed(range(len(stages))) if stages[index].makes_more), -1)
        node.start(in_turn=True)
        for index, stage in enumerate(stages):
            self._last |= dict.fromkeys(node.take((*around, *stage.held_channels())), index)

    def begin(self, index: int, process: Composable, ctx: ProcessContext, *, again: bool) -> Holder:
        """The turn of one has come."""
        made = self._node.add(process, ctx, self._around, again=again)
        over = [held for held, last in self._last.items() if last <= index]
        for held in over:
            del self._last[held]
        self._node.hand_on(over, is_known=index >= self._unknown)
        return made
