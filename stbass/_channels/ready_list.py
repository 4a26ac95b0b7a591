"""Which arms of a choice may be ready: kept between one await of it and the next, so that the others cost nothing.

An arm is on the list from the moment its channel says that something changed until it is tried and found not ready.
So a choice over n channels looks only at those where something happened: one step with :class:`FairList`, log n with
:class:`PriorityList`, however large n is.
"""

from __future__ import annotations

import heapq
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from stbass._channels.choice import Choice
from stbass._channels.transport import NOTHING, Arm
from stbass.errors import ChannelClosedError

__all__ = ["FairList", "ListedChoice", "PriorityList", "ReadyList", "attempt", "pick"]

# Our own generator, so that a program that seeds `random` does not change what its choices pick, nor they its numbers.
_random = random.Random()


def pick(ready: Sequence[int]) -> int:
    """One of them, each as likely."""
    return ready[0] if len(ready) == 1 else ready[int(_random.random() * len(ready))]


def attempt(arm: Arm) -> Any:
    """Complete an arm of a local link if it is ready: the value that moved, else ``NOTHING``.

    Raises:
        ChannelClosedError: its channel is closed.
    """
    if arm.reader:
        return arm.link.try_take()
    return arm.value if arm.link.try_offer(arm.value) else NOTHING


class ReadyList(ABC):
    """The list.

    Args:
        arms: by index of the guard; None where a guard is no channel's.
        alone: whether there are no other guards than these.

    ``faced`` are those that were not ready at the last look and have a choice on their other side: that one may begin
    to wait without anything else happening, so they stay on the list.
    """

    __slots__ = ("_alone", "_arms", "_forsaken", "faced", "tried")

    def __init__(self, arms: Sequence[Arm | None], *, alone: bool) -> None:
        self._arms = arms
        self._alone = alone
        self._forsaken: set[int] = set()
        """Those at whose other end nobody was left, and that had no more to give."""
        self.faced: list[Arm] = []
        self.tried = 0
        """The latest that was tried: when trying it raises, the one that is closed."""
        for index, arm in enumerate(arms):
            if arm is not None:
                self.add(index)

    @abstractmethod
    def add(self, index: int) -> None:
        """This one may be ready."""

    @abstractmethod
    def choose(self, due: Sequence[int]) -> tuple[int, Any] | None:
        """Complete one that is ready: its index and the value that moved; or one of ``due`` (expired timers, in order).

        Raises:
            ChannelClosedError: the one that was chosen has a closed channel.
        """

    def _try(self, index: int) -> Any:
        arm = self._arms[index]
        assert arm is not None
        self.tried = index
        try:
            value = attempt(arm)
        except ChannelClosedError:
            self._forsaken.add(index)
            if arm.link.forsaken is None or (self._alone and all(map(self._is_over, range(len(self._arms))))):
                raise
            return NOTHING  # nobody is left at its other end, but perhaps at that of another
        if value is NOTHING and arm.link.faced(arm):
            self.faced.append(arm)
        return value

    def _is_over(self, index: int) -> bool:
        arm = self._arms[index]
        return arm is None or (arm.link.forsaken is not None and index in self._forsaken)

    def _put_back(self) -> None:
        for arm in self.faced:
            self.add(arm.index)


class FairList(ReadyList):
    """Chooses at random, each ready one as likely."""

    __slots__ = ("_place", "_ready")

    def __init__(self, arms: Sequence[Arm | None], *, alone: bool) -> None:
        self._ready: list[int] = []
        self._place = [-1] * len(arms)
        super().__init__(arms, alone=alone)

    def add(self, index: int) -> None:
        if self._place[index] < 0:
            self._place[index] = len(self._ready)
            self._ready.append(index)

    def choose(self, due: Sequence[int]) -> tuple[int, Any] | None:
        ready = self._ready
        self.faced.clear()
        try:
            # Drawing until one is ready, without those drawn in vain, makes each ready one as likely.
            while total := len(ready) + len(due):
                place = int(_random.random() * total) if total > 1 else 0
                if place >= len(ready):
                    return due[place - len(ready)], None
                index = ready[place]
                value = self._try(index)
                if value is not NOTHING:
                    return index, value
                last = ready.pop()
                if last != index:
                    ready[place] = last
                    self._place[last] = place
                self._place[index] = -1
        finally:
            self._put_back()
        return None


class PriorityList(ReadyList):
    """Chooses the first ready one in order."""

    __slots__ = ("_heap", "_listed")

    def __init__(self, arms: Sequence[Arm | None], *, alone: bool) -> None:
        self._heap: list[int] = []
        self._listed = bytearray(len(arms))
        super().__init__(arms, alone=alone)

    def add(self, index: int) -> None:
        if not self._listed[index]:
            self._listed[index] = 1
            heapq.heappush(self._heap, index)

    def choose(self, due: Sequence[int]) -> tuple[int, Any] | None:
        heap = self._heap
        self.faced.clear()
        try:
            while heap and not (due and due[0] < heap[0]):
                index = heap[0]
                value = self._try(index)
                if value is not NOTHING:
                    return index, value
                heapq.heappop(heap)
                self._listed[index] = 0
        finally:
            self._put_back()
        return (due[0], None) if due else None


class ListedChoice(Choice):
    """A choice that keeps a list of arms that may be ready."""

    __slots__ = ("ready",)

    ready: ReadyList

    def mark(self, index: int) -> None:
        self.ready.add(index)
