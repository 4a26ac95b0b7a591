"""Waiting for processes: one subscription per event loop for all that is in flight."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import redis
import redis.asyncio

from stbass.backends.celery.connections import RedisAddress

__all__ = ["Replies", "Reply"]

_log = logging.getLogger(__name__)
_RETRY = 0.2


class Reply(msgspec.Struct):
    """What a worker says on a producer's channel."""

    results: list[msgspec.Raw] = []
    ready: list[str] = []
    started: list[tuple[str, int]] = []
    worker: str | None = None
    checkpoint: str | None = None
    value: msgspec.Raw = msgspec.Raw()
    progress: str | None = None
    done: float = 0.0
    total: float | None = None
    note: str = ""


_decode = msgspec.json.Decoder(Reply).decode


class Replies:
    """A subscription to a producer's channel, and to the result channels of single processes where that is needed.

    Args:
        address: the result backend.
        channel: the producer's channel.
        on_reply: awaited with what comes on the producer's channel.
        on_result: called with a result that came on a process's own channel.
        on_gap: awaited after each (re)connection: what was said while nobody listened must be looked up.
    """

    def __init__(
        self,
        address: RedisAddress,
        channel: str,
        on_reply: Callable[[Reply], Awaitable[None]],
        on_result: Callable[[bytes], None],
        on_gap: Callable[[], Any],
    ) -> None:
        self._address = address
        self._channel = channel
        self._on_reply = on_reply
        self._on_result = on_result
        self._on_gap = on_gap
        self._extra: set[str] = set()
        self._subscription: Any = None
        self._subscribed: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    async def ready(self) -> None:
        """Return when the subscription stands.

        Raises:
            redis.RedisError: the server cannot be reached, or refuses.
        """
        if self._task is None or self._task.done():
            self._subscribed = asyncio.get_running_loop().create_future()
            self._task = asyncio.create_task(self._run(), name="stbass-replies")
        assert self._subscribed is not None
        if not self._subscribed.done() or self._subscribed.exception() is not None:
            await asyncio.shield(self._subscribed)

    async def also(self, channels: set[str]) -> None:
        """Listen to these channels too, for results that somebody else writes."""
        fresh = channels - self._extra
        self._extra |= fresh
        if fresh and self._subscription is not None:
            await self._subscription.subscribe(*fresh)

    async def no_longer(self, channels: set[str]) -> None:
        """Undo :meth:`also`."""
        known = channels & self._extra
        self._extra -= known
        if known and self._subscription is not None:
            await self._subscription.unsubscribe(*known)

    async def close(self) -> None:
        """End the subscription."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        first = True
        while True:
            client = self._address.async_client()
            try:
                async with client.pubsub() as subscription:
                    await subscription.subscribe(self._channel, *self._extra)
                    self._subscription = subscription
                    async for message in subscription.listen():
                        if message["type"] == "message":
                            await self._take(message)
                        elif message["type"] == "subscribe" and message["channel"].decode() == self._channel:
                            self._stands()
                            if not first:
                                await self._on_gap()
                            first = False
            except (redis.RedisError, OSError) as error:
                # Also one that refuses, or is no Redis: whoever waits for the subscription must hear of it.
                if first:
                    assert self._subscribed is not None
                    if not self._subscribed.done():
                        self._subscribed.set_exception(error)
                    return
                _log.warning("lost the connection to Redis at %s: %s; connecting again", self._address, error)
                await asyncio.sleep(_RETRY)
            finally:
                self._subscription = None
                await client.aclose()

    def _stands(self) -> None:
        if self._subscribed is not None and not self._subscribed.done():
            self._subscribed.set_result(None)

    async def _take(self, message: dict[str, Any]) -> None:
        data: bytes = message["data"]
        if message["channel"].decode() != self._channel:
            self._on_result(data)
            return
        try:
            reply = _decode(data)
        except (msgspec.DecodeError, RecursionError) as error:
            _log.warning("refused a message on %s: %s", self._channel, error)
        else:
            await self._on_reply(reply)
