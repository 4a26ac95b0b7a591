"""Listening to channels of publish/subscribe for as long as a program runs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import redis

from stbass.transports.redis.address import RedisAddress
from stbass.transports.redis.trouble import LONGEST_PAUSE, Trouble, Vigil, is_forbidden, trouble_of

__all__ = ["Subscription"]

_log = logging.getLogger(__name__)


async def _as_it_is(message: Any) -> Any:
    """What is pushed, without redis-py's writing all of it for a log that nobody keeps."""
    return message


class Subscription:
    """Listens to a channel, and to more channels while they are wanted; connects again if the connection is lost.

    Args:
        address: of the server.
        channel: that is always listened to.
        on_message: awaited with the channel and the data of each message, one after the other.
        on_gap: awaited once the subscription stands again, because messages may have been missed; True: for the first
            time.
        beside: channels that are always listened to as well.
        patient: connect again also if the first attempt fails; otherwise :meth:`ready` raises its error.
    """

    def __init__(
        self,
        address: RedisAddress,
        channel: str,
        on_message: Callable[[str, bytes], Awaitable[None]],
        on_gap: Callable[[bool], Awaitable[None]],
        *,
        beside: Iterable[str] = (),
        patient: bool = False,
    ) -> None:
        self._address = address
        self._channel = channel
        self._on_message = on_message
        self._on_gap = on_gap
        self._patient = patient
        self._extra = set(beside)
        self._awaited: dict[str, asyncio.Future[None]] = {}
        """Of channels that the server was asked for, or will be, and of which it has not said that they stand."""
        self._asked: Counter[str] = Counter()
        """How often this connection has asked for each of them, without an answer yet."""
        self._pubsub: Any = None
        self._waits_since: float | None = None
        """When it began to wait for the next message; None while it deals with one."""
        self._stands: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def stands(self) -> bool:
        """Whether :meth:`ready` would return at once."""
        alive = self._task is not None and not self._task.done()
        return alive and self._stands is not None and self._stands.done() and self._stands.exception() is None

    async def ready(self) -> None:
        """Return when the subscription stands; the first call starts it.

        Raises:
            redis.RedisError: the server cannot be reached, or refuses.
            OSError: the server cannot be reached.
        """
        if self._task is None or self._task.done():
            self._stands = asyncio.get_running_loop().create_future()
            self._task = asyncio.create_task(self.run(), name=f"stbass-listen-{self._channel}")
        assert self._stands is not None
        if not self.stands:
            await asyncio.shield(self._stands)

    async def also(self, channels: set[str]) -> None:
        """Listen to these channels too; return when the server says that it sends what is said there.

        Before, who asks on another connection for what was said so far may get less than that, and not hear the rest.
        Not to be awaited in ``on_message`` or ``on_gap``: while these run, nothing is read.
        """
        fresh = channels - self._extra
        self._extra |= fresh
        for channel in fresh:
            self._awaited[channel] = asyncio.get_running_loop().create_future()
        if fresh and self._pubsub is not None:
            self._asked.update(fresh)
            await self._pubsub.subscribe(*fresh)
        if awaited := [self._awaited[channel] for channel in channels if channel in self._awaited]:
            await asyncio.wait(awaited)

    def _stands_too(self, channel: str) -> None:
        """The server has said so of a channel; of one that was given up and asked for again, once for each time."""
        self._asked[channel] -= 1
        if self._asked[channel] <= 0:
            del self._asked[channel]
            if (awaited := self._awaited.pop(channel, None)) is not None:
                awaited.set_result(None)

    async def no_longer(self, channels: set[str]) -> None:
        """Undo :meth:`also`."""
        known = channels & self._extra
        self._extra -= known
        for channel in known & self._awaited.keys():
            self._awaited.pop(channel).set_result(None)
        if known and self._pubsub is not None:
            await self._pubsub.unsubscribe(*known)

    async def close(self) -> None:
        """End the subscription."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for awaited in self._awaited.values():
            awaited.cancel()

    async def _see_that_it_lives(self, pubsub: Any) -> None:
        """A connection that a firewall has forgotten brings nothing, and is never closed: so the server is asked."""
        options = self._address.options
        while options.health_check_interval:
            since = self._waits_since
            await asyncio.sleep(options.health_check_interval - (0.0 if since is None else time.monotonic() - since))
            if since is None or self._waits_since != since:
                continue
            try:
                await pubsub.ping()
            except (redis.RedisError, OSError) as error:
                # Who reads there hears of it.
                _log.debug("cannot ask for a sign of life: %s", error)
                return
            await asyncio.sleep(options.sign_of_life)
            if self._waits_since == since:
                pubsub.connection.give_up(f"no sign of life for {options.sign_of_life:g} s")
                return

    async def run(self) -> None:
        """Listen until cancelled; what :meth:`ready` does beside."""
        stands = self._stands or asyncio.get_running_loop().create_future()
        options = self._address.options
        vigil = Vigil(f"hear what is said on {self._channel}", self._address, _log)
        while True:
            client = self._address.async_client(listens=True)
            watching: asyncio.Task[None] | None = None
            try:
                async with client.pubsub(push_handler_func=_as_it_is) as self._pubsub:
                    self._asked = Counter(self._extra)
                    async with asyncio.timeout(options.socket_connect_timeout + options.socket_timeout):
                        await self._pubsub.subscribe(self._channel, *self._extra)
                    watching = asyncio.create_task(self._see_that_it_lives(self._pubsub))
                    while True:
                        self._waits_since = time.monotonic()
                        message = await self._pubsub.get_message(timeout=None)
                        self._waits_since = None
                        if message is None:
                            continue
                        if message["type"] == "message":
                            await self._hand_over(message)
                        elif message["type"] == "subscribe" and message["channel"].decode() == self._channel:
                            first = not stands.done()
                            if first:
                                stands.set_result(None)
                            await self._on_gap(first)
                            vigil.over()
                        elif message["type"] == "subscribe":
                            self._stands_too(message["channel"].decode())
            except Exception as error:
                passes = trouble_of(error) is Trouble.FOR_NOW and not is_forbidden(error)
                if not stands.done() and not self._patient and not passes:
                    stands.set_exception(error)
                    return
                await asyncio.sleep(self._pause(vigil, error))
            finally:
                self._pubsub = self._waits_since = None
                if watching is not None:
                    watching.cancel()
                await client.aclose()

    @staticmethod
    def _pause(vigil: Vigil, error: Exception) -> float:
        try:
            return vigil.pause(error)
        except Exception:
            # Nothing that waiting is known to help against; but who listens must go on listening.
            _log.exception("an error in listening; connecting anew")
            return LONGEST_PAUSE

    async def _hand_over(self, message: dict[str, Any]) -> None:
        try:
            await self._on_message(message["channel"].decode(), message["data"])
        except Exception as error:
            if trouble_of(error) is not Trouble.NEVER:
                raise
            # One message must not end the hearing of all others.
            _log.exception("a message on %s could not be dealt with", message["channel"])
