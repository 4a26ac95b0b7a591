"""Waiting for a link: until it is ready, and what becomes of an operation that is not waited for any more."""

from __future__ import annotations

import asyncio
from asyncio import CancelledError
from time import monotonic
from typing import Any, ClassVar

from stbass._channels.cancellation import defer, to_the_end
from stbass._channels.choice import Choice
from stbass._channels.transport import Arm, Link
from stbass._values.waits import Direction
from stbass.observe import spans
from stbass.timer import running

__all__ = ["LONG_WAIT", "abandon", "interrupted", "note_wait", "resolve", "until_ready"]

LONG_WAIT = 0.002
"""Seconds: what waited in a channel for less is not shown on a timeline."""


class _Watch(Choice):
    """Wants to be told, and never takes part."""

    __slots__ = ()

    passive: ClassVar[bool] = True

    def listen(self) -> asyncio.Future[None]:
        self.waiter = asyncio.get_running_loop().create_future()
        return self.waiter

    def wake(self) -> None:
        self.resolve()


async def until_ready(link: Link, *, reader: bool) -> None:
    """Return when an operation of that side would complete at once."""
    watch = _Watch()
    arm = Arm(watch, 0, link, reader)
    link.attach(arm)
    try:
        while True:
            told = watch.listen()
            if await link.probe(arm):
                return
            await told
    finally:
        link.detach(arm)


def note_wait(channel: str, direction: Direction, since: float) -> None:
    """A send, a receive or a choice has waited: whoever traces is told, and the process that it was a part of.

    To be called if anybody traces, or if it was long: whoever waits looks at the clock, and does no more than that.

    Args:
        channel: its name.
        direction: what has waited.
        since: when that began, on :func:`time.monotonic`.
    """
    seconds = monotonic() - since
    process = running.get()
    spans.waited(direction, seconds, None if process is None else process.process_name)
    if seconds >= LONG_WAIT and process is not None:
        process.note_wait(channel, direction, since, seconds)


def resolve(future: asyncio.Future[None]) -> None:
    """Let whoever awaits ``future`` go on, unless it is done already."""
    if not future.done():
        future.set_result(None)


def abandon(waiter: asyncio.Future[Any]) -> None:
    """The coroutine that waits is closed: nobody is going to run it any more, and nothing can be awaited for it."""
    if not waiter.get_loop().is_closed():
        waiter.cancel()


async def interrupted(link: Link, waiter: asyncio.Future[Any], cancel: CancelledError) -> Any:
    """What becomes of an operation whose task was cancelled while it waited: the result if it has happened."""
    if link.local:
        happened = await link.withdraw(waiter)
    else:
        happened, later = await to_the_end(link.withdraw(waiter))
        cancel = later or cancel
    if happened is None:
        raise cancel
    defer(cancel)
    return happened.value
