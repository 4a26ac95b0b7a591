"""Offers that cannot wait: a choice sends to somebody who can take the value at once, or to nobody."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from asyncio import Future
from typing import TYPE_CHECKING, Any

from stbass.errors import BackendUnavailableError
from stbass.transports.redis import scripts
from stbass.transports.redis.places import LOST

if TYPE_CHECKING:
    from stbass.transports.redis.link import RedisLink

__all__ = ["Urgent"]


class Urgent(ABC):
    """The part of the writer's side that serves choices."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        # Number -> whether it was taken.
        self._urgent: dict[int, Future[bool]] = {}
        self._number = 0
        self._withdrawing = 0
        self.last = 0.0

    @property
    @abstractmethod
    def free(self) -> bool:
        """Whether nothing waits here that would go before a choice's offer."""

    async def offer_now(self, value: Any, rank: str, answer_seconds: float) -> bool:
        """Offer a value to a receive or a choice that waits; whether it was taken. None waits long for the answer."""
        link = self._link
        payload = link.codec.encode(value)
        link.goes_on()
        tried: list[bytes] = []
        while True:
            if link.closed:
                raise link.closed_error()
            if not self.free or not link.places.holds("w"):
                return False
            self._number += 1
            number = self._number
            outcome: Future[bool] = link.here.loop.create_future()
            self._urgent[number] = outcome
            try:
                reply = await link.ask(scripts.NOW, link.codec.entry(number, b"n", payload), rank.encode(), *tried)
                if reply[0] == b"ok":
                    if await self._answer(number, outcome, answer_seconds):
                        self.last = time.time()
                        return True
                    tried.append(reply[1])
                    continue
                if reply[0] == b"closed":
                    link.told_closed()
                elif reply[0] == b"gone":
                    link.vanished()
                elif reply[0] in LOST:
                    link.places.told_lost("w")
                    return False
                else:
                    return False
            finally:
                self._urgent.pop(number, None)

    async def _answer(self, number: int, outcome: Future[bool], seconds: float) -> bool:
        handle = self._link.here.loop.call_later(seconds, _set, outcome, False)
        try:
            if await outcome:
                return True
        finally:
            handle.cancel()
        # Refused, or nobody answers: in either case it must not be taken any more.
        return await self._take_back(number)

    def accepted(self, number: int) -> None:
        """An offer that could not wait was taken."""
        if number in self._urgent:
            _set(self._urgent[number], True)

    def refused(self, number: int) -> None:
        """Nobody took an offer that could not wait."""
        if number in self._urgent:
            _set(self._urgent[number], False)

    def _settle_urgent(self) -> None:
        for outcome in self._urgent.values():
            _set(outcome, False)

    async def _take_back(self, number: int) -> bool:
        """Withdraw an offer; whether it is too late."""
        try:
            reply = await self._link.ask(scripts.WITHDRAW, b"%d" % number)
        except BackendUnavailableError as error:
            raise BackendUnavailableError(
                f"channel {self._link.name!r}: a send was cancelled, and whether its value was received is not known:"
                f" {error}"
            ) from error
        return bool(reply[0] == b"ok" and reply[1] == 0)


def _set(future: Future[bool], value: bool) -> None:
    if not future.done():
        future.set_result(value)
